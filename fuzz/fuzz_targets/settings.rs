//! Settings: lines of an environment, then `---`, then a settings file. They are taken or refused; a secret is never shown.
#![no_main]

use std::{fs, path::PathBuf, sync::LazyLock};

use libfuzzer_sys::fuzz_target;

#[allow(dead_code, clippy::pedantic)]
#[path = "../../jangbu/src/settings.rs"]
mod settings;

/// The program's failures know every adapter; of them the settings know this.
mod failure {
    use std::fmt::Display;

    #[derive(Debug)]
    pub(crate) struct Failure(pub(crate) String);

    impl Failure {
        pub(crate) fn wrong(line: impl Display) -> Self {
            Self(line.to_string())
        }
    }
}

use settings::{Flags, Settings};

/// A secret of the environment that no message may repeat.
const SECRET: &str = "correct-horse-battery";

static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    }
    .expect("a scratch directory")
});

fuzz_target!(|text: &str| {
    let (environment, file) = text.split_once("---\n").unwrap_or(("", text));
    let path = FOLDER.path().join("jangbu.toml");
    fs::write(&path, file).expect("a scratch file");
    let variables: Vec<_> = environment.lines().filter_map(variable).take(40).collect();
    for (name, value) in &variables {
        // SAFETY: no other thread of this process reads the environment.
        unsafe { std::env::set_var(name, value) };
    }
    let flags = Flags {
        config: Some(path),
        ..Flags::default()
    };
    match Settings::read(&flags) {
        Ok(settings) => {
            let listing = settings.listing();
            assert!(!listing.contains(SECRET), "{listing}");
            let _ = settings.check_supported();
            let _ = settings.shares_shards();
            let _ = settings.directories("backup");
        }
        Err(failure) => assert!(!failure.0.is_empty()),
    }
    for (name, _) in &variables {
        // SAFETY: as above.
        unsafe { std::env::remove_var(name) };
    }
});

/// A variable that a process can have; the admin's password always is the secret.
fn variable(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once('=')?;
    let fits = !name.is_empty() && name.len() < 64 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let name = format!("JANGBU_{}", name.trim_start_matches("JANGBU_"));
    let value = if name == "JANGBU_ADMIN__PASSWORD" { SECRET } else { value };
    // Where the file is, is this target's to say.
    (fits && name != "JANGBU_CONFIG" && !value.contains('\0')).then(|| (name, value.to_owned()))
}
