//! One process per data directory.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, SeekFrom, Write},
    path::Path,
};

use crate::StoreError;

/// Holds a data directory for writing. The kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Takes the directory, which is made when there is none.
    ///
    /// # Errors
    /// [`StoreError::Held`] when another process holds it; or it cannot be used.
    pub fn take(directory: &Path) -> Result<Self, StoreError> {
        let unusable = |error: std::io::Error| {
            StoreError::Foreign(format!(
                "{}: the data directory cannot be used: {error}; give this user the right to read and write it, or name another",
                directory.display()
            ))
        };
        std::fs::create_dir_all(directory).map_err(unusable)?;
        let path = directory.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Held {
                    shard: 0,
                    holder: holder(&mut file),
                });
            }
            Err(TryLockError::Error(error)) => return Err(unusable(error)),
        }
        // Only for people: the lock itself is the kernel's. On a disk that is full the log is still to be opened.
        if let Err(error) = note(&mut file) {
            tracing::warn!(%error, "the lock file does not name its holder");
        }
        Ok(Self { _file: file })
    }
}

fn note(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    writeln!(file, "{}", std::process::id())
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    // A file of ours holds a few digits; another one may hold anything.
    match file.take(16).read_to_string(&mut text) {
        Ok(_) if text.trim().parse::<u32>().is_ok() => format!("process {}", text.trim()),
        _ => "its process id is unknown".into(),
    }
}
