//! What every place for keys must do: one suite, run by the tests of each.
//!
//! A test says where a vault lives ([`Place`]) and names the suite ([`conformance_suite!`](crate::conformance_suite)); each check becomes a
//! test of its own, on a place of its own. Vaults that are opened beside each other stand for nodes.

use std::{
    thread,
    time::{Duration, Instant},
};

use uuid::Uuid;

use crate::{KeyVault, LOOK_EVERY, Opening, VaultError};

const ADDRESS: &str = "서울특별시 종로구 세종대로 175";

/// Where a vault under test lives. Dropped, it is cleaned up.
pub trait Place {
    /// Opens it once more, as another node would.
    fn open(&self, how: Opening) -> Result<KeyVault, VaultError>;

    /// Whether a node hears that another one removed a key.
    fn is_shared(&self) -> bool {
        false
    }
}

/// Makes a test of each check of the suite. Takes an expression that makes a new, empty [`Place`](crate::conformance::Place).
#[macro_export]
macro_rules! conformance_suite {
    ($place:expr) => {
        $crate::conformance_suite! { $place;
            what_one_node_seals_another_opens,
            a_vault_opened_again_is_as_it_was_left,
            nodes_that_start_at_once_agree,
            a_subject_made_by_many_at_once_has_one_key,
            an_erased_subject_is_gone,
            what_was_discarded_can_be_made_anew,
            a_rotation_on_one_node_is_known_to_the_others,
            only_one_earlier_key_verifies,
            where_there_is_no_vault_none_is_opened,
            a_copy_has_every_key,
            a_copy_of_a_copy_is_the_same_vault,
            nothing_secret_is_shown,
        }
    };
    ($place:expr; $($check:ident,)+) => {
        $(
            #[test]
            fn $check() {
                $crate::conformance::$check(&$place);
            }
        )+
    };
}

fn made(place: &impl Place) -> KeyVault {
    place.open(Opening::Make).expect("a vault")
}

fn new_subject(vault: &KeyVault) -> Uuid {
    let subject = Uuid::now_v7();
    assert!(vault.create_subject(subject).expect("created"), "it is new");
    subject
}

fn sealed(vault: &KeyVault, subject: Uuid) -> String {
    vault.seal(subject, ADDRESS).expect("a key to seal with")
}

fn opened(vault: &KeyVault, subject: Uuid, sealed: &str) -> Option<String> {
    vault
        .open_sealed(subject, sealed)
        .expect("it opens")
        .map(|plain| plain.as_str().to_owned())
}

fn agree(one: &KeyVault, other: &KeyVault) {
    assert_eq!(one.blind_index("buyer@jangbu.dev"), other.blind_index("buyer@jangbu.dev"));
    assert_eq!(one.fingerprint(&[b"a"]), other.fingerprint(&[b"a"]));
    assert_eq!(one.token_keys().jwks(), other.token_keys().jwks());
}

fn kid(vault: &KeyVault) -> String {
    vault.token_keys().current().kid().to_owned()
}

/// Waits for what the next looks must bring about.
fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LOOK_EVERY * 5;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}, soon");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Keys made on one node seal and open on all.
pub fn what_one_node_seals_another_opens(place: &impl Place) {
    let (one, other) = (made(place), made(place));
    agree(&one, &other);
    let subject = new_subject(&one);
    let text = sealed(&one, subject);
    assert_eq!(opened(&other, subject, &text), Some(ADDRESS.to_owned()));
    assert!(!other.create_subject(subject).expect("there is one"), "it was made");
    let answer = sealed(&other, subject);
    assert_eq!(opened(&one, subject, &answer), Some(ADDRESS.to_owned()));
    let reader = place.open(Opening::Read).expect("one who reads");
    agree(&one, &reader);
    assert_eq!(opened(&reader, subject, &answer), Some(ADDRESS.to_owned()));

    let stranger = Uuid::now_v7();
    assert_eq!(opened(&one, stranger, &text), None);
    assert!(matches!(one.seal(stranger, ADDRESS), Err(VaultError::NoSubjectKey { subject }) if subject == stranger));
}

/// Nothing depends on a process that goes on.
pub fn a_vault_opened_again_is_as_it_was_left(place: &impl Place) {
    let vault = made(place);
    let subject = new_subject(&vault);
    let text = sealed(&vault, subject);
    vault.rotate_token_keys().expect("rotated");
    let (index, print, keys) = (vault.blind_index("a@b.c"), vault.fingerprint(&[b"a"]), vault.token_keys().jwks());
    drop(vault);
    let again = place.open(Opening::Existing).expect("the same vault");
    assert_eq!(opened(&again, subject, &text), Some(ADDRESS.to_owned()));
    assert_eq!(
        (again.blind_index("a@b.c"), again.fingerprint(&[b"a"]), again.token_keys().jwks()),
        (index, print, keys)
    );
}

/// Whoever comes first makes the keys of the shop.
pub fn nodes_that_start_at_once_agree(place: &(impl Place + Sync)) {
    let vaults: Vec<KeyVault> = thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| made(place))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    for vault in &vaults {
        agree(&vaults[0], vault);
    }
}

/// Eight threads on four nodes make one key, and one of them made it.
pub fn a_subject_made_by_many_at_once_has_one_key(place: &impl Place) {
    let nodes: Vec<KeyVault> = (0..4).map(|_| made(place)).collect();
    for _ in 0..5 {
        let subject = Uuid::now_v7();
        let results: Vec<(bool, String)> = thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|n| {
                    let vault = &nodes[n % nodes.len()];
                    scope.spawn(move || (vault.create_subject(subject).expect("created"), sealed(vault, subject)))
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        assert_eq!(results.iter().filter(|(made, _)| *made).count(), 1, "one of them made it");
        let reader = made(place);
        for (_, text) in results {
            assert_eq!(opened(&reader, subject, &text), Some(ADDRESS.to_owned()));
        }
    }
}

/// Here at once, on other nodes when they have looked.
pub fn an_erased_subject_is_gone(place: &impl Place) {
    let (one, other) = (made(place), made(place));
    let (erased, kept) = (new_subject(&one), new_subject(&one));
    let (gone, stays) = (sealed(&one, erased), sealed(&one, kept));
    // It is in the other node's memory too.
    assert_eq!(opened(&other, erased, &gone), Some(ADDRESS.to_owned()));
    one.erase_subject(erased).expect("erased");
    one.erase_subject(erased).expect("erasing again changes nothing");
    one.erase_subject(Uuid::now_v7()).expect("nor does erasing nobody");
    assert_eq!(opened(&one, erased, &gone), None);
    assert!(matches!(one.seal(erased, ADDRESS), Err(VaultError::NoSubjectKey { .. })));
    if place.is_shared() {
        soon("the other node has forgotten it", || opened(&other, erased, &gone).is_none());
        assert!(matches!(other.seal(erased, ADDRESS), Err(VaultError::NoSubjectKey { .. })));
    }
    let later = made(place);
    assert_eq!(opened(&later, erased, &gone), None);
    for vault in [&one, &other, &later] {
        assert_eq!(opened(vault, kept, &stays), Some(ADDRESS.to_owned()));
    }
}

/// A key that sealed nothing that counts leaves no trace.
pub fn what_was_discarded_can_be_made_anew(place: &impl Place) {
    let (one, other) = (made(place), made(place));
    let subject = new_subject(&one);
    let unused = sealed(&one, subject);
    one.discard_subject(subject).expect("discarded");
    one.discard_subject(subject).expect("discarding again changes nothing");
    assert_eq!(opened(&one, subject, &unused), None);
    assert!(other.create_subject(subject).expect("made anew"), "it is new");
    let text = sealed(&other, subject);
    assert_eq!(opened(&one, subject, &text), Some(ADDRESS.to_owned()));
    assert!(matches!(one.open_sealed(subject, &unused), Err(VaultError::NotAuthentic)));
}

/// Tokens from before and after verify everywhere, at once when one is met, soon in any case.
pub fn a_rotation_on_one_node_is_known_to_the_others(place: &impl Place) {
    let (one, other, third) = (made(place), made(place), made(place));
    let before = kid(&one);
    let rotated = one.rotate_token_keys().expect("rotated");
    let after = rotated.current().kid().to_owned();
    assert_ne!(before, after);
    assert_eq!(kid(&one), after);
    // A look that the new name caused, although nobody waited.
    for kid in [&after, &before] {
        assert!(other.token_key(kid).expect("it can tell").is_some_and(|key| key.kid() == kid));
    }
    assert!(other.token_key("invented").expect("it can tell").is_none());
    soon("a node that meets no token signs with the new key", || kid(&third) == after);
    for vault in [&one, &other, &third] {
        let kids: Vec<_> = vault.token_keys().verifying().map(|key| key.kid().to_owned()).collect();
        assert_eq!(kids, [after.clone(), before.clone()]);
        assert_eq!(vault.token_keys().jwks()["keys"].as_array().map(Vec::len), Some(2));
    }
}

/// The key before the last rotation verifies, those before it do not.
pub fn only_one_earlier_key_verifies(place: &impl Place) {
    let (one, other) = (made(place), made(place));
    let first = kid(&one);
    let second = one.rotate_token_keys().expect("rotated").current().kid().to_owned();
    soon("the other node follows", || kid(&other) == second);
    let third = other.rotate_token_keys().expect("rotated").current().kid().to_owned();
    soon("and the first follows it", || kid(&one) == third);
    for vault in [&one, &other, &made(place)] {
        let keys = vault.token_keys();
        assert!(keys.find(&first).is_none() && keys.find(&second).is_some() && keys.find(&third).is_some());
    }
}

/// New keys for an old log would make everything in it unreadable.
pub fn where_there_is_no_vault_none_is_opened(place: &impl Place) {
    for how in [Opening::Existing, Opening::Read] {
        let error = place.open(how).expect_err("there is none");
        assert!(matches!(error, VaultError::Missing { .. }), "{error:?}");
    }
    made(place);
    for how in [Opening::Existing, Opening::Read] {
        place.open(how).expect("now there is");
    }
}

/// In a directory, that of every place.
pub fn a_copy_has_every_key(place: &impl Place) {
    let vault = made(place);
    // More than one page of them, each made and sealed for.
    let people: Vec<(Uuid, String)> = (0..1100)
        .map(|_| {
            let subject = new_subject(&vault);
            (subject, sealed(&vault, subject))
        })
        .collect();
    vault.erase_subject(people[0].0).expect("erased");
    vault.rotate_token_keys().expect("rotated");
    let folder = tempfile::tempdir().expect("a scratch directory");
    let dir = folder.path().join("backup/keys");
    vault.copy_to(&dir).expect("copied");
    let copy = KeyVault::open_existing(&dir).expect("a vault");
    agree(&vault, &copy);
    assert_eq!(opened(&copy, people[0].0, &people[0].1), None);
    for (subject, text) in &people[1..] {
        assert_eq!(opened(&copy, *subject, text), Some(ADDRESS.to_owned()));
    }
    assert!(matches!(vault.copy_to(&dir), Err(VaultError::NotEmpty { .. })));
}

/// A backup that was restored can be backed up.
pub fn a_copy_of_a_copy_is_the_same_vault(place: &impl Place) {
    let vault = made(place);
    let subject = new_subject(&vault);
    let text = sealed(&vault, subject);
    let folder = tempfile::tempdir().expect("a scratch directory");
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    vault.copy_to(&first).expect("copied");
    let restored = KeyVault::restore(&first, &second).expect("restored");
    agree(&vault, &restored);
    assert_eq!(opened(&restored, subject, &text), Some(ADDRESS.to_owned()));
}

/// Neither in `Debug` nor in errors.
pub fn nothing_secret_is_shown(place: &impl Place) {
    let vault = made(place);
    let subject = new_subject(&vault);
    let text = sealed(&vault, subject);
    let pem = vault.token_keys().current().private_pem();
    let secret = pem.lines().nth(1).expect("the key itself");
    let mut altered = text.clone().into_bytes();
    altered[30] ^= 1;
    let altered = String::from_utf8(altered).expect("still ASCII");
    let error = vault.open_sealed(subject, &altered).expect_err("it was altered");
    let shown = format!("{vault:?} {:?} {error} {error:?}", vault.token_keys());
    assert!(
        !shown.contains(secret) && !shown.contains(&altered) && !shown.contains(ADDRESS),
        "{shown}"
    );
}
