//! What a vault does with a place that others change and that can be out of reach.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use key_vault::{Changes, Gone, KeyPlace, KeyVault, Opening, Removal, Secret, Seen, ShopKeys, TokenSecrets, Unchecked, VaultError};
use parking_lot::Mutex;
use uuid::Uuid;

/// Keys in memory. Clones are one place.
#[derive(Clone)]
struct Memory {
    kept: Arc<Kept>,
    unchecked: Unchecked,
}

#[derive(Default)]
struct Kept {
    shop: Mutex<Option<ShopKeys>>,
    subjects: Mutex<HashMap<Uuid, Secret>>,
    gone: Mutex<Vec<Uuid>>,
    looks: AtomicUsize,
    reads: AtomicUsize,
    cut_off: AtomicBool,
}

impl Memory {
    fn new(unchecked: Duration) -> Self {
        Self {
            kept: Arc::default(),
            unchecked: Unchecked {
                subjects: unchecked,
                tokens: unchecked,
            },
        }
    }

    fn within_reach(&self) -> Result<&Kept, VaultError> {
        if self.kept.cut_off.load(Ordering::SeqCst) {
            return Err(VaultError::Unavailable {
                place: self.to_string(),
                reason: "it is cut off".to_owned(),
            });
        }
        Ok(&self.kept)
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory")
    }
}

impl KeyPlace for Memory {
    fn open(&self, _: Opening, proposed: &ShopKeys) -> Result<ShopKeys, VaultError> {
        Ok(self.within_reach()?.shop.lock().get_or_insert_with(|| proposed.clone()).clone())
    }

    fn tokens(&self) -> Result<TokenSecrets, VaultError> {
        let shop = self.within_reach()?.shop.lock();
        Ok(shop.as_ref().expect("it was opened").tokens.clone())
    }

    fn rotate_tokens(&self, next: &Secret) -> Result<TokenSecrets, VaultError> {
        let mut shop = self.within_reach()?.shop.lock();
        let tokens = &mut shop.as_mut().expect("it was opened").tokens;
        tokens.previous = Some(std::mem::replace(&mut tokens.current, next.clone()));
        Ok(tokens.clone())
    }

    fn add_token(&self, _: &Secret) -> Result<(), VaultError> {
        self.within_reach().map(drop)
    }

    fn subject(&self, subject: Uuid) -> Result<Option<Secret>, VaultError> {
        let kept = self.within_reach()?;
        kept.reads.fetch_add(1, Ordering::SeqCst);
        Ok(kept.subjects.lock().get(&subject).cloned())
    }

    fn create_subject(&self, subject: Uuid, proposed: &Secret) -> Result<Secret, VaultError> {
        let mut subjects = self.within_reach()?.subjects.lock();
        Ok(subjects.entry(subject).or_insert_with(|| proposed.clone()).clone())
    }

    fn remove_subject(&self, subject: Uuid, _: Removal) -> Result<(), VaultError> {
        let kept = self.within_reach()?;
        kept.subjects.lock().remove(&subject);
        kept.gone.lock().push(subject);
        Ok(())
    }

    fn subjects(&self, _: Option<Uuid>, _: usize) -> Result<Vec<(Uuid, Secret)>, VaultError> {
        Ok(Vec::new())
    }

    fn changes(&self, seen: &mut Seen) -> Result<Changes, VaultError> {
        let kept = self.within_reach()?;
        kept.looks.fetch_add(1, Ordering::SeqCst);
        let gone = kept.gone.lock().clone();
        seen.removal = i64::try_from(gone.len()).ok();
        Ok(Changes {
            tokens: self.tokens()?,
            gone: Gone::These(gone),
        })
    }

    fn unchecked(&self) -> Option<Unchecked> {
        Some(self.unchecked)
    }
}

fn node(place: &Memory) -> KeyVault {
    KeyVault::open_in(place.clone(), Opening::Make).expect("a vault")
}

fn new_subject(vault: &KeyVault) -> Uuid {
    let subject = Uuid::now_v7();
    vault.create_subject(subject).expect("created");
    subject
}

#[test]
fn a_key_in_memory_outlives_a_cut_for_as_long_as_the_place_says() {
    let place = Memory::new(Duration::from_hours(1));
    let vault = node(&place);
    let subject = new_subject(&vault);
    place.kept.cut_off.store(true, Ordering::SeqCst);
    vault.seal(subject, "김민지").expect("from memory");
    assert_eq!(place.kept.reads.load(Ordering::SeqCst), 0);
    let error = vault
        .seal(Uuid::now_v7(), "김민지")
        .expect_err("what is not in memory is out of reach");
    assert!(matches!(error, VaultError::Unavailable { .. }), "{error}");
}

#[test]
fn a_key_that_may_be_erased_by_now_is_not_used_from_memory() {
    let place = Memory::new(Duration::ZERO);
    let vault = node(&place);
    let subject = new_subject(&vault);
    vault.seal(subject, "김민지").expect("the place was asked");
    assert_eq!(place.kept.reads.load(Ordering::SeqCst), 1);
    place.kept.cut_off.store(true, Ordering::SeqCst);
    let error = vault.seal(subject, "김민지").expect_err("nobody can tell whether it is erased");
    assert!(matches!(error, VaultError::Unavailable { .. }), "{error}");
    place.kept.cut_off.store(false, Ordering::SeqCst);
    node(&place).erase_subject(subject).expect("erased elsewhere");
    assert!(matches!(vault.seal(subject, "김민지"), Err(VaultError::NoSubjectKey { .. })));
}

#[test]
fn invented_names_make_a_node_look_a_few_times_a_second() {
    let place = Memory::new(Duration::from_hours(1));
    let vault = node(&place);
    let (looks, began) = (place.kept.looks.load(Ordering::SeqCst), Instant::now());
    let asked = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| {
                while began.elapsed() < Duration::from_secs(1) {
                    assert!(vault.token_key("invented").expect("it can tell").is_none());
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let looks = u64::try_from(place.kept.looks.load(Ordering::SeqCst) - looks).expect("a few");
    // Four a second for strangers, one in two seconds as usual, and what the end of the second cuts.
    let most = 4 * (began.elapsed().as_secs() + 1) + 2;
    assert!(looks <= most, "{looks} looks for {asked:?} names");
    assert!(asked.into_inner() > 1000, "the others did not wait");
}

#[test]
fn a_rotation_a_moment_after_a_stranger_refuses_no_token() {
    let place = Memory::new(Duration::from_hours(1));
    let (one, other) = (node(&place), node(&place));
    assert!(other.token_key("invented").expect("it can tell").is_none());
    let kid = one.rotate_token_keys().expect("rotated").current().kid().to_owned();
    assert!(other.token_key(&kid).expect("it can tell").is_some());
}

#[test]
fn tokens_are_believed_from_memory_for_as_long_as_the_place_says() {
    let place = Memory::new(Duration::from_hours(1));
    let vault = node(&place);
    let kid = vault.token_keys().current().kid().to_owned();
    place.kept.cut_off.store(true, Ordering::SeqCst);
    assert!(vault.knows_token_key(&kid));
    assert!(vault.token_key(&kid).expect("it can tell").is_some());
}

#[test]
fn of_tokens_that_may_be_void_by_now_nobody_says_whether_they_are() {
    let place = Memory::new(Duration::from_millis(200));
    let vault = node(&place);
    let kid = vault.token_keys().current().kid().to_owned();
    place.kept.cut_off.store(true, Ordering::SeqCst);
    let began = Instant::now();
    while vault.knows_token_key(&kid) {
        assert!(began.elapsed() < Duration::from_secs(10), "it is believed for ever");
        thread::yield_now();
    }
    for kid in [&kid, "invented"] {
        let error = vault.token_key(kid).expect_err("nobody can tell");
        assert!(matches!(error, VaultError::Unavailable { .. }), "{error}");
    }
    place.kept.cut_off.store(false, Ordering::SeqCst);
    assert!(vault.token_key(&kid).expect("it looked").is_some(), "nobody is logged out");
}
