//! The vault as its users see it: what it seals, what it refuses, and what is left on the disk.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use key_vault::{KeyVault, VaultError};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use uuid::Uuid;

const ADDRESS: &str = "서울특별시 종로구 세종대로 175";

#[test]
fn what_is_sealed_opens_again() {
    let (_dir, vault) = new_vault();
    let subject = new_subject(&vault);
    let sealed = vault.seal(subject, ADDRESS).expect("a key to seal with");
    assert!(sealed.starts_with("v1.") && sealed.is_ascii());
    assert_eq!(opened(&vault, subject, &sealed), Some(ADDRESS.to_owned()));
    assert_ne!(vault.seal(subject, ADDRESS).expect("a key to seal with"), sealed);
    let empty = vault.seal(subject, "").expect("a key to seal with");
    assert_eq!(opened(&vault, subject, &empty), Some(String::new()));
}

#[test]
fn whether_all_keys_of_a_vault_are_in_another_one_is_known() {
    let (_dir, vault) = new_vault();
    let (folder, (_other_dir, other)) = (TempDir::new().expect("a directory"), new_vault());
    new_subject(&vault);
    let copy = vault.copy_in_directory(&folder.path().join("copy")).expect("copied");
    copy.rotate_token_keys().expect("rotated");
    assert!(copy.has_all_of(&vault).expect("read") && vault.has_all_of(&copy).expect("read"));
    let new = new_subject(&copy);
    assert!(copy.has_all_of(&vault).expect("read") && !vault.has_all_of(&copy).expect("read"));
    copy.erase_subject(new).expect("erased");
    assert!(vault.has_all_of(&copy).expect("read"));
    assert!(!other.has_all_of(&vault).expect("read") && !vault.has_all_of(&other).expect("read"));
}

#[test]
fn only_a_subject_with_a_key_is_sealed_for() {
    let (_dir, vault) = new_vault();
    let stranger = Uuid::now_v7();
    assert!(matches!(vault.seal(stranger, ADDRESS), Err(VaultError::NoSubjectKey { subject }) if subject == stranger));
    let subject = new_subject(&vault);
    let sealed = vault.seal(subject, ADDRESS).expect("a key to seal with");
    assert_eq!(opened(&vault, stranger, &sealed), None);
}

#[test]
fn another_subjects_key_does_not_open_it() {
    let (_dir, vault) = new_vault();
    let (one, other) = (new_subject(&vault), new_subject(&vault));
    let sealed = vault.seal(one, ADDRESS).expect("a key to seal with");
    assert!(matches!(vault.open_sealed(other, &sealed), Err(VaultError::NotAuthentic)));
}

#[test]
fn an_altered_text_does_not_open() {
    let (_dir, vault) = new_vault();
    let subject = new_subject(&vault);
    let sealed = vault.seal(subject, "010-1234-5678").expect("a key to seal with");
    for place in 0..sealed.len() {
        let mut altered = sealed.clone().into_bytes();
        altered[place] = if altered[place] == b'A' { b'B' } else { b'A' };
        let altered = String::from_utf8(altered).expect("still ASCII");
        assert!(vault.open_sealed(subject, &altered).is_err(), "altered at {place}");
    }
    for end in 0..sealed.len() {
        assert!(vault.open_sealed(subject, &sealed[..end]).is_err(), "cut at {end}");
    }
    for other in ["", "v1.", "v2.AAAA", "plain text", "v1.한글"] {
        assert!(matches!(vault.open_sealed(subject, other), Err(VaultError::NotSealed)), "{other:?}");
    }
}

#[test]
fn everything_survives_reopening() {
    let (dir, vault) = new_vault();
    let subject = new_subject(&vault);
    let sealed = vault.seal(subject, ADDRESS).expect("a key to seal with");
    let again = KeyVault::open(dir.path()).expect("the same vault");
    assert_eq!(opened(&again, subject, &sealed), Some(ADDRESS.to_owned()));
    assert_same(&vault, &again);
}

#[test]
fn an_erased_subject_is_gone_for_good() {
    let (dir, vault) = new_vault();
    let (erased, kept) = (new_subject(&vault), new_subject(&vault));
    let sealed = vault.seal(erased, ADDRESS).expect("a key to seal with");
    let other = vault.seal(kept, ADDRESS).expect("a key to seal with");
    vault.erase_subject(erased).expect("erased");
    vault.erase_subject(erased).expect("erasing again changes nothing");
    assert!(!subject_file(dir.path(), erased).exists());
    for vault in [&vault, &KeyVault::open(dir.path()).expect("the same vault")] {
        assert_eq!(opened(vault, erased, &sealed), None);
        assert!(vault.seal(erased, ADDRESS).is_err());
        assert_eq!(opened(vault, kept, &other), Some(ADDRESS.to_owned()));
    }
}

#[test]
fn all_spellings_of_an_address_have_one_index() {
    let (_dir, vault) = new_vault();
    let index = vault.blind_index("josé@example.com");
    assert_eq!(vault.blind_index("JOSÉ@Example.COM"), index);
    assert_eq!(vault.blind_index("jose\u{301}@example.com"), index);
    assert_eq!(vault.blind_index("JOSE\u{301}@example.com"), index);
    assert_ne!(vault.blind_index("jose@example.com"), index);
    assert_eq!(index.get_version_num(), 8);
    let (_other_dir, other) = new_vault();
    assert_ne!(other.blind_index("josé@example.com"), index);
}

#[test]
fn a_fingerprint_tells_where_its_parts_end() {
    let (_dir, vault) = new_vault();
    let print = vault.fingerprint(&[b"POST", b"/orders"]);
    assert_eq!(vault.fingerprint(&[b"POST", b"/orders"]), print);
    for other in [
        &[b"POST/".as_slice(), b"orders"][..],
        &[b"POST/orders"],
        &[b"POST", b"/orders", b""],
        &[b"/orders", b"POST"],
        &[],
    ] {
        assert_ne!(vault.fingerprint(other), print);
    }
    let (_other_dir, other) = new_vault();
    assert_ne!(other.fingerprint(&[b"POST", b"/orders"]), print);
}

#[test]
fn only_the_owner_can_read_the_keys() {
    let parent = TempDir::new().expect("a directory");
    let dir = parent.path().join("data/keys");
    let vault = KeyVault::open(&dir).expect("a new vault");
    new_subject(&vault);
    vault.rotate_token_keys().expect("rotated");
    let copied = parent.path().join("copy");
    vault.copy_to(&copied).expect("copied");
    for path in all_paths(&dir).into_iter().chain(all_paths(&copied)) {
        let mode = fs::metadata(&path).expect("its mode").permissions().mode() & 0o777;
        assert_eq!(mode, if path.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
    }
}

#[test]
fn a_subject_created_by_many_at_once_has_one_key() {
    let (dir, vault) = new_vault();
    // Another vault on the same directory stands for another process.
    let other = KeyVault::open(dir.path()).expect("the same vault");
    for _ in 0..10 {
        let subject = Uuid::now_v7();
        let sealed: Vec<String> = thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|n| {
                    let vault = if n % 2 == 0 { vault.clone() } else { other.clone() };
                    scope.spawn(move || {
                        vault.create_subject(subject).expect("created");
                        vault.seal(subject, ADDRESS).expect("a key to seal with")
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        let reader = KeyVault::open(dir.path()).expect("the same vault");
        for sealed in sealed {
            assert_eq!(opened(&reader, subject, &sealed), Some(ADDRESS.to_owned()));
        }
    }
    assert_eq!(fs::read_dir(dir.path().join("tmp")).expect("the folder").count(), 0);
}

#[test]
fn a_vault_opened_by_many_at_once_has_one_set_of_keys() {
    let dir = TempDir::new().expect("a directory");
    let vaults: Vec<KeyVault> = thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| KeyVault::open(dir.path()).expect("a vault")))
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    for vault in &vaults {
        assert_same(&vaults[0], vault);
    }
}

#[test]
fn a_damaged_key_is_refused_by_name() {
    for name in ["index", "fingerprint", "token-current", "format"] {
        let (dir, _vault) = new_vault();
        let path = dir.path().join(name);
        let whole = fs::read(&path).expect("a key file");
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        let longer = [&whole[..], b"x"].concat();
        for content in [
            &flipped[..],
            &whole[..whole.len() - 1],
            &whole[..5],
            b"",
            b"another program's file\n",
            &[0xff; 32],
            &longer,
        ] {
            fs::write(&path, content).expect("written");
            let message = KeyVault::open(dir.path()).expect_err("a damaged file").to_string();
            assert!(
                message.contains(&path.display().to_string()) && message.contains("damaged"),
                "{message}"
            );
            assert_eq!(message.lines().count(), 1, "{message}");
        }
    }
}

#[test]
fn a_damaged_subject_key_is_an_error_and_no_erasure() {
    let (dir, vault) = new_vault();
    let (one, other) = (new_subject(&vault), new_subject(&vault));
    let sealed = vault.seal(one, ADDRESS).expect("a key to seal with");
    // Another subject's key in its place, then half of its own.
    let own = fs::read(subject_file(dir.path(), one)).expect("a key file");
    let foreign = fs::read(subject_file(dir.path(), other)).expect("a key file");
    for content in [&foreign[..], &own[..own.len() / 2]] {
        fs::write(subject_file(dir.path(), one), content).expect("written");
        let vault = KeyVault::open(dir.path()).expect("the same vault");
        for error in [vault.open_sealed(one, &sealed).err(), vault.create_subject(one).err()] {
            assert!(matches!(error, Some(VaultError::Damaged { .. })), "{error:?}");
        }
        let message = vault.seal(one, ADDRESS).expect_err("a damaged key").to_string();
        assert!(message.contains(&one.to_string()), "{message}");
    }
}

#[test]
fn a_missing_master_key_is_not_made_anew() {
    for name in ["index", "fingerprint"] {
        let (dir, _vault) = new_vault();
        fs::remove_file(dir.path().join(name)).expect("removed");
        let message = KeyVault::open(dir.path()).expect_err("a key is missing").to_string();
        assert!(message.contains(name) && message.contains("missing"), "{message}");
        assert!(!dir.path().join(name).exists());
    }
}

#[test]
fn an_interrupted_creation_is_finished() {
    let (dir, vault) = new_vault();
    let index = vault.blind_index("buyer@jangbu.dev");
    fs::remove_file(dir.path().join("format")).expect("removed");
    fs::remove_file(dir.path().join("fingerprint")).expect("removed");
    assert_eq!(KeyVault::open(dir.path()).expect("finished").blind_index("buyer@jangbu.dev"), index);
}

#[test]
fn a_directory_of_something_else_is_refused() {
    let dir = TempDir::new().expect("a directory");
    fs::write(dir.path().join("notes.txt"), "mine").expect("written");
    let message = KeyVault::open(dir.path()).expect_err("another's directory").to_string();
    assert!(message.contains("notes.txt"), "{message}");
    assert_eq!(all_paths(dir.path()).len(), 2, "nothing was added");

    let (dir, vault) = new_vault();
    new_subject(&vault);
    fs::remove_file(dir.path().join("format")).expect("removed");
    assert!(matches!(KeyVault::open(dir.path()), Err(VaultError::Incomplete { .. })));

    let file = dir.path().join("format");
    fs::write(&file, "").expect("written");
    assert!(matches!(KeyVault::open(&file), Err(VaultError::Io { .. })));
    assert!(matches!(
        KeyVault::open_existing(&dir.path().join("nowhere")),
        Err(VaultError::Missing { .. })
    ));
    assert!(!dir.path().join("nowhere").exists());
}

#[test]
fn a_copy_has_every_key() {
    let (_dir, vault) = new_vault();
    let people: Vec<(Uuid, String)> = (0..300)
        .map(|_| {
            let subject = new_subject(&vault);
            (subject, vault.seal(subject, ADDRESS).expect("a key to seal with"))
        })
        .collect();
    vault.erase_subject(people[0].0).expect("erased");
    vault.rotate_token_keys().expect("rotated");
    let parent = TempDir::new().expect("a directory");
    vault.copy_to(&parent.path().join("backup/keys")).expect("copied");
    let restored = KeyVault::restore(&parent.path().join("backup/keys"), &parent.path().join("data/keys")).expect("restored");
    assert_same(&vault, &restored);
    assert_eq!(opened(&restored, people[0].0, &people[0].1), None);
    for (subject, sealed) in &people[1..] {
        assert_eq!(opened(&restored, *subject, sealed), Some(ADDRESS.to_owned()));
    }
    assert!(matches!(
        vault.copy_to(&parent.path().join("backup/keys")),
        Err(VaultError::NotEmpty { .. })
    ));
    assert!(matches!(
        KeyVault::restore(parent.path(), &parent.path().join("other")),
        Err(VaultError::Missing { .. })
    ));
}

#[test]
fn a_damaged_key_is_not_copied() {
    let (dir, vault) = new_vault();
    let subject = new_subject(&vault);
    fs::write(subject_file(dir.path(), subject), "damaged").expect("written");
    let parent = TempDir::new().expect("a directory");
    let copy = parent.path().join("copy");
    assert!(matches!(vault.copy_to(&copy), Err(VaultError::Damaged { .. })));
    assert!(KeyVault::open_existing(&copy).is_err(), "an unfinished copy is no vault");
}

#[derive(Serialize, Deserialize)]
struct Claims {
    sub: Uuid,
    exp: u64,
}

#[test]
fn tokens_verify_with_the_key_that_signed_them() {
    let (_dir, vault) = new_vault();
    let keys = vault.token_keys();
    let key = keys.current();
    let token = sign(&vault);
    let validation = Validation::new(Algorithm::EdDSA);
    let public_keys = [
        DecodingKey::from_ed_der(key.public_bytes()),
        DecodingKey::from_ed_components(key.x()).expect("an x"),
        DecodingKey::from_ed_pem(key.public_pem().as_bytes()).expect("a PEM"),
    ];
    for public in public_keys {
        jsonwebtoken::decode::<Claims>(&token, &public, &validation).expect("a good signature");
    }
    EncodingKey::from_ed_pem(key.private_pem().as_bytes()).expect("a PEM");
    assert_eq!(keys.jwks()["keys"][0]["kid"], key.kid());

    let (_other_dir, other) = new_vault();
    let stranger = DecodingKey::from_ed_der(other.token_keys().current().public_bytes());
    assert!(jsonwebtoken::decode::<Claims>(&token, &stranger, &validation).is_err());
}

#[test]
fn the_key_before_a_rotation_still_verifies_and_older_ones_do_not() {
    let (dir, vault) = new_vault();
    let first = vault.token_keys().current().kid().to_owned();
    assert!(vault.token_keys().previous().is_none());
    let second = vault.rotate_token_keys().expect("rotated").current().kid().to_owned();
    assert_ne!(first, second);
    assert!(vault.token_keys().find(&first).is_some());
    let reopened = KeyVault::open(dir.path()).expect("the same vault").token_keys();
    assert_eq!(
        reopened.verifying().map(|key| key.kid().to_owned()).collect::<Vec<_>>(),
        [second.clone(), first.clone()]
    );
    vault.rotate_token_keys().expect("rotated");
    assert!(vault.token_keys().find(&first).is_none() && vault.token_keys().find(&second).is_some());
}

#[test]
fn nothing_secret_is_printed() {
    let (dir, vault) = new_vault();
    let keys = vault.token_keys();
    let pem = keys.current().private_pem();
    let printed = format!("{vault:?} {keys:?}");
    assert!(!printed.contains(pem.lines().nth(1).expect("the key itself")));
    let file = fs::read_to_string(dir.path().join("token-current")).expect("a key file");
    let secret = file.split(' ').nth(4).expect("the key itself");
    assert_eq!(secret.len(), 43);
    assert!(!printed.contains(secret));
}

fn new_vault() -> (TempDir, KeyVault) {
    let dir = TempDir::new().expect("a directory");
    let vault = KeyVault::open(dir.path()).expect("a new vault");
    (dir, vault)
}

fn new_subject(vault: &KeyVault) -> Uuid {
    let subject = Uuid::now_v7();
    vault.create_subject(subject).expect("created");
    subject
}

fn opened(vault: &KeyVault, subject: Uuid, sealed: &str) -> Option<String> {
    vault
        .open_sealed(subject, sealed)
        .expect("it opens")
        .map(|plain| plain.as_str().to_owned())
}

fn sign(vault: &KeyVault) -> String {
    let keys = vault.token_keys();
    let header = Header {
        kid: Some(keys.current().kid().to_owned()),
        ..Header::new(Algorithm::EdDSA)
    };
    let claims = Claims {
        sub: Uuid::now_v7(),
        exp: 4_000_000_000,
    };
    jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ed_der(&keys.current().private_der())).expect("signed")
}

fn subject_file(dir: &Path, subject: Uuid) -> PathBuf {
    let name = subject.to_string();
    dir.join("subjects").join(&name[34..]).join(&name)
}

fn assert_same(one: &KeyVault, other: &KeyVault) {
    assert_eq!(one.blind_index("buyer@jangbu.dev"), other.blind_index("buyer@jangbu.dev"));
    assert_eq!(one.fingerprint(&[b"a"]), other.fingerprint(&[b"a"]));
    assert_eq!(one.token_keys().jwks(), other.token_keys().jwks());
}

fn all_paths(dir: &Path) -> Vec<PathBuf> {
    let mut paths = vec![dir.to_owned()];
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            paths.extend(all_paths(&path));
        } else {
            paths.push(path);
        }
    }
    paths
}

#[test]
fn the_same_seed_and_the_same_calls_give_the_same_bytes() {
    let subject = Uuid::from_u128(7);
    let sown = |seed: u8| {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("keys");
        let vault = KeyVault::sow(&dir, &[seed; 32]).expect("a vault");
        vault.create_subject(subject).expect("a key");
        let sealed = [
            vault.seal(subject, "김민지").expect("sealed"),
            vault.seal(subject, "김민지").expect("sealed"),
        ];
        assert!(KeyVault::open_existing(&dir).is_err(), "it is no vault yet");
        vault.finish_sown().expect("durable");
        let opened = KeyVault::open_existing(&dir).expect("a vault like any other");
        let plain = opened.open_sealed(subject, &sealed[1]).expect("readable").expect("a key");
        assert_eq!(plain.as_str(), "김민지");
        assert_ne!(sealed[0], sealed[1], "no nonce comes twice");
        (sealed, opened.blind_index("minji@example.com"))
    };
    assert_eq!(sown(1), sown(1));
    assert_ne!(sown(1).0, sown(2).0);
}

/// A vault of made-up people as it was written when the format was new, and what it sealed and indexed then.
#[test]
fn the_files_of_the_first_version_are_read_and_written_as_they_were() {
    const SUBJECT: Uuid = Uuid::from_u128(0x972c_9d9f_8253_54ac_8556_84d3_762a_7356);
    const FILES: [(&str, &str); 5] = [
        ("format", "jangbu-keys 1\n"),
        (
            "index",
            "jangbu-key 1 index - SukEwTQcTXdAY_PjTxhAV3sQ_NeVW_YhpRqFuSZugZI 7YMEm4e4cTdZ\n",
        ),
        (
            "fingerprint",
            "jangbu-key 1 fingerprint - EMyRUDjKNF0GKWhYl5qZAOLHeGhFZudC4UBisa5Mkwg gSK38juv2j5C\n",
        ),
        (
            "token-current",
            "jangbu-key 1 token - rNpFc208nBP2v5WJ7rKrmiqjFoNhTsuBHvKURQPHLYg wxYEM7NTWXs3\n",
        ),
        (
            "subjects/56/972c9d9f-8253-54ac-8556-84d3762a7356",
            "jangbu-key 1 subject 972c9d9f-8253-54ac-8556-84d3762a7356 8Kh-08jlwmd0s3TkJNFIcUP9ktA_R8LUH8xq29GCaQc YRgr7zvizZl0\n",
        ),
    ];
    let dir = TempDir::new().expect("a directory");
    fs::create_dir_all(dir.path().join("subjects/56")).expect("a folder");
    for (name, content) in FILES {
        fs::write(dir.path().join(name), content).expect("written");
    }
    let vault = KeyVault::open_existing(dir.path()).expect("the vault");
    let sealed = "v1.Tx06vy1EuG-TWUoLztIUPVOJN_dOYh9N6Y7rrTkSAhKhYOIHgVQ1K7R8LzTgNRErGcexBZShyQny";
    let email = opened(&vault, SUBJECT, sealed).expect("it has a key");
    assert_eq!(vault.blind_index(&email).to_string(), "83223b82-9981-8539-b1c3-166c85ab0eeb");

    let copy = dir.path().join("copy");
    vault.copy_to(&copy).expect("copied");
    for (name, content) in FILES {
        assert_eq!(fs::read_to_string(copy.join(name)).expect("a file"), content, "{name}");
    }
    assert!(!copy.join("token-previous").exists());
}
