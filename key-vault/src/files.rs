//! The files of the vault: one key each, on one line that says what it is for and shows damage.
//!
//! `jangbu-key 1 KIND ID KEY CHECK`: ID is the subject's, or `-`; KEY and CHECK are base64url; CHECK is the beginning of the BLAKE3 hash
//! of all before it. So a file that was cut, altered or moved to another name is refused instead of read as a wrong key.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::error::VaultError;
use crate::place::{KeyKind, Secret, check};

/// A line longer than this is no key.
const LONGEST_LINE: u64 = 256;

/// A file in `tmp` that is older than this belongs to a process that has ended.
const LEFT_OVER: Duration = Duration::from_mins(1);

/// The key in this file, which is the proposed one when there was none. Durable when this returns, also when another process made it a
/// moment ago.
pub(crate) fn create(tmp: &Path, path: &Path, kind: KeyKind, proposed: &Secret) -> Result<Secret, VaultError> {
    if let Some(key) = read(path, kind)? {
        sync_dir(folder(path))?;
        return Ok(key);
    }
    if publish(tmp, path, line(kind, proposed).as_bytes())? {
        return Ok(proposed.clone());
    }
    read_existing(path, kind)
}

/// Puts a key in the place of the one in this file, durably.
pub(crate) fn replace(tmp: &Path, path: &Path, kind: KeyKind, key: &Secret) -> Result<(), VaultError> {
    let draft = write_draft(tmp, line(kind, key).as_bytes())?;
    fs::rename(&draft, path).map_err(io_error("write", path))?;
    sync_dir(folder(path))
}

/// Gives a file its content at once and durably, unless it exists: says whether it did.
pub(crate) fn publish(tmp: &Path, path: &Path, content: &[u8]) -> Result<bool, VaultError> {
    let draft = write_draft(tmp, content)?;
    // A link, because unlike a rename it never replaces what another process has just put there.
    let linked = fs::hard_link(&draft, path);
    fs::remove_file(&draft).map_err(io_error("remove", &draft))?;
    sync_dir(folder(path))?;
    match linked {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(source) => Err(VaultError::Io {
            action: "write",
            path: path.to_owned(),
            source,
        }),
    }
}

/// Writes a key into a file that does not exist, not yet durably.
pub(crate) fn write_new(path: &Path, kind: KeyKind, key: &Secret) -> Result<(), VaultError> {
    open_new(path)
        .and_then(|mut file| file.write_all(line(kind, key).as_bytes()))
        .map_err(io_error("write", path))
}

/// The key in this file, or `None` when there is no file.
pub(crate) fn read(path: &Path, kind: KeyKind) -> Result<Option<Secret>, VaultError> {
    match read_line(path) {
        Ok(text) => parse(&text, kind)
            .map(Some)
            .map_err(|reason| VaultError::Damaged { key: shown(path), reason }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(VaultError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        }),
    }
}

/// The key in this file, which must be there.
pub(crate) fn read_existing(path: &Path, kind: KeyKind) -> Result<Secret, VaultError> {
    read(path, kind)?.ok_or_else(|| VaultError::Missing { key: shown(path) })
}

/// How a file is named to an operator.
pub(crate) fn shown(path: &Path) -> String {
    format!("the key file {}", path.display())
}

/// The subject that a file is named after.
pub(crate) fn subject_of(path: &Path) -> Result<Uuid, VaultError> {
    let name = path.file_name().and_then(|name| name.to_str());
    name.and_then(|name| Uuid::try_parse(name).ok())
        .ok_or_else(|| VaultError::Foreign { path: path.to_owned() })
}

/// Deletes a file durably. It is no error that there is none.
pub(crate) fn remove(path: &Path) -> Result<(), VaultError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(VaultError::Io {
            action: "remove",
            path: path.to_owned(),
            source,
        }),
        // Also when it is gone already: an earlier attempt may have ended before its sync.
        _ => sync_dir(folder(path)),
    }
}

/// Makes a directory that only its owner enters, and those above it, durably, unless it is there.
pub(crate) fn create_dir(path: &Path) -> Result<(), VaultError> {
    if path.is_dir() {
        return Ok(());
    }
    let above = folder(path);
    create_dir(above)?;
    make_dir(path)?;
    sync_dir(above)
}

/// Makes a directory, unless it is there; the caller syncs the one above.
pub(crate) fn make_dir(path: &Path) -> Result<(), VaultError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(_) if path.is_dir() => Ok(()),
        made => made.map_err(io_error("create the directory", path)),
    }
}

/// Removes a directory with all that is in it.
pub(crate) fn remove_dir(path: &Path) -> Result<(), VaultError> {
    fs::remove_dir_all(path).map_err(io_error("remove", path))
}

/// Gives a directory another name, durably. One of that name has to be empty.
pub(crate) fn rename_dir(from: &Path, to: &Path) -> Result<(), VaultError> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Err(VaultError::NotEmpty { path: to.to_owned() }),
        renamed => renamed.map_err(io_error("write", to)),
    }?;
    sync_dir(folder(to))
}

pub(crate) fn sync_dir(path: &Path) -> Result<(), VaultError> {
    sync(path, "sync the directory")
}

pub(crate) fn sync_file(path: &Path) -> Result<(), VaultError> {
    sync(path, "sync")
}

fn sync(path: &Path, action: &'static str) -> Result<(), VaultError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(io_error(action, path))
}

/// The names in a directory, in order.
pub(crate) fn names(dir: &Path) -> Result<Vec<String>, VaultError> {
    let entries = fs::read_dir(dir).map_err(io_error("list", dir))?;
    let mut names = entries
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(io_error("list", dir))?;
    names.sort_unstable();
    Ok(names)
}

/// Removes what a crash left half written.
pub(crate) fn remove_leftovers(tmp: &Path) -> Result<(), VaultError> {
    for name in names(tmp)? {
        let path = tmp.join(name);
        let age = fs::metadata(&path)
            .and_then(|data| data.modified())
            .ok()
            .and_then(|time| time.elapsed().ok());
        if age.is_some_and(|age| age > LEFT_OVER) {
            remove(&path)?;
        }
    }
    Ok(())
}

fn write_draft(tmp: &Path, content: &[u8]) -> Result<PathBuf, VaultError> {
    let mut name = [0; 16];
    getrandom::fill(&mut name).map_err(VaultError::NoRandomness)?;
    let path = tmp.join(Uuid::new_v8(name).simple().to_string());
    let written = open_new(&path).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    match written {
        Ok(()) => Ok(path),
        Err(source) => {
            // What could not be written is of no use; that it could not be removed either adds nothing to the message.
            let _ = fs::remove_file(&path);
            Err(VaultError::Io {
                action: "write",
                path,
                source,
            })
        }
    }
}

fn open_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

fn read_line(path: &Path) -> io::Result<Zeroizing<String>> {
    use io::Read as _;
    let mut bytes = Zeroizing::new(Vec::with_capacity(256));
    File::open(path)?.take(LONGEST_LINE).read_to_end(&mut bytes)?;
    // Bytes that are no text fail the comparison of the check anyway.
    Ok(Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned()))
}

fn line(kind: KeyKind, key: &Secret) -> Zeroizing<String> {
    let mut line = kind.start(key);
    let check = check(&line);
    writeln!(line, " {check}").expect("writing to a string does not fail");
    line
}

fn parse(text: &str, kind: KeyKind) -> Result<Secret, &'static str> {
    let body = text.strip_suffix('\n').ok_or("it does not end where a key ends")?;
    let (start, found) = body.rsplit_once(' ').ok_or("it is not a key")?;
    if !start.starts_with("jangbu-key ") {
        return Err("it is not a key");
    }
    if check(start) != found {
        return Err("its check does not match");
    }
    let printed = start.strip_prefix(&kind.head()).ok_or("it is a key for something else")?;
    let mut key = Zeroizing::new([0; 32]);
    match URL_SAFE_NO_PAD.decode_slice(printed, &mut key[..]) {
        Ok(32) => Ok(Secret::from(key)),
        _ => Err("it has no key of 32 bytes"),
    }
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VaultError {
    move |source| VaultError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}
