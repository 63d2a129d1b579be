//! What is kept in Redis: sealed under its name, and dated. Whoever can write there can lose it, and nothing else.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chacha20poly1305::{
    KeyInit as _, XChaCha20Poly1305, XNonce,
    aead::{Aead as _, Payload},
};
use key_vault::KeyVault;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{Redis, meters::CacheMeters};

const VERSION: u8 = 1;
const NONCE: usize = 24;
const DATE: usize = 8;
/// Nothing longer is kept.
const LONGEST: usize = 64 * 1024;
/// So far may the clocks of nodes differ: what comes from a later time is not believed.
const CLOCKS_DIFFER: Duration = Duration::from_millis(250);

/// Values of one purpose, of one log.
pub(crate) struct Sealed {
    redis: Redis,
    vault: KeyVault,
    cipher: XChaCha20Poly1305,
    purpose: &'static str,
    log: Uuid,
    keep: Duration,
    meters: CacheMeters,
}

impl Sealed {
    /// Values that are good for so long.
    pub(crate) fn new(redis: Redis, vault: KeyVault, log: Uuid, purpose: &'static str, keep: Duration) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        // The vault's hash has 16 bytes, and the key has twice as many.
        for (half, bytes) in key.chunks_exact_mut(16).enumerate() {
            let half = if half == 0 { b"first" as &[u8] } else { b"second" };
            bytes.copy_from_slice(&vault.fingerprint(&[b"redis-cache seals with", purpose.as_bytes(), half]));
        }
        Self {
            redis,
            cipher: XChaCha20Poly1305::new((&*key).into()),
            vault,
            purpose,
            log,
            keep,
            meters: CacheMeters::of(purpose),
        }
    }

    /// The values that were kept under these names and are still good.
    pub(crate) async fn find(&self, names: &[Vec<u8>]) -> Vec<Option<Vec<u8>>> {
        let mut found: Option<Vec<Option<Vec<u8>>>> = match names {
            [] => return Vec::new(),
            [name] => self.redis.ask(redis::cmd("GET").arg(self.key(name))).await.map(|one| vec![one]),
            names => {
                let mut question = redis::cmd("MGET");
                for name in names {
                    question.arg(self.key(name));
                }
                self.redis.ask(&question).await
            }
        };
        let now = SystemTime::now();
        let answer = |(at, name): (usize, &Vec<u8>)| {
            let value = found.as_mut().and_then(|found| found.get_mut(at)?.take());
            let Some(value) = value else {
                self.meters.misses.increment(1);
                return None;
            };
            let opened = self.open(name, &value, now);
            let meter = if opened.is_some() {
                &self.meters.hits
            } else {
                &self.meters.disbelieved
            };
            meter.increment(1);
            opened
        };
        names.iter().enumerate().map(answer).collect()
    }

    /// Keeps a value that was true at this time.
    pub(crate) fn keep(&self, name: &[u8], value: &[u8], at: SystemTime) {
        if value.len() > LONGEST {
            return;
        }
        if let Some(sealed) = self.seal(name, value, at) {
            self.redis.put(self.key(name), sealed, self.keep);
        }
    }

    /// A name that says nothing to those who read it.
    fn key(&self, name: &[u8]) -> String {
        let hash = self
            .vault
            .fingerprint(&[b"redis-cache names", self.purpose.as_bytes(), self.log.as_bytes(), name]);
        format!("jangbu:{}:{}", self.purpose, URL_SAFE_NO_PAD.encode(hash))
    }

    /// What the value is bound to.
    fn bound_to(&self, name: &[u8]) -> Vec<u8> {
        [self.log.as_bytes() as &[u8], &[VERSION], self.purpose.as_bytes(), &[0], name].concat()
    }

    fn seal(&self, name: &[u8], value: &[u8], at: SystemTime) -> Option<Vec<u8>> {
        let at = micros(at.duration_since(UNIX_EPOCH).ok()?);
        let plain = [&at.to_be_bytes() as &[u8], value].concat();
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce).ok()?;
        let payload = Payload {
            msg: &plain,
            aad: &self.bound_to(name),
        };
        let text = self.cipher.encrypt(&XNonce::from(nonce), payload).ok()?;
        Some([&[VERSION] as &[u8], &nonce, &text].concat())
    }

    fn open(&self, name: &[u8], sealed: &[u8], now: SystemTime) -> Option<Vec<u8>> {
        let sealed = sealed.strip_prefix(&[VERSION])?;
        let (nonce, text) = sealed.split_first_chunk::<NONCE>()?;
        let payload = Payload {
            msg: text,
            aad: &self.bound_to(name),
        };
        let plain = self.cipher.decrypt(&XNonce::from(*nonce), payload).ok()?;
        let (at, value) = plain.split_first_chunk::<DATE>()?;
        let at = Duration::from_micros(u64::from_be_bytes(*at));
        let now = now.duration_since(UNIX_EPOCH).ok()?;
        let good = at <= now + CLOCKS_DIFFER && now.saturating_sub(at) <= self.keep;
        good.then(|| value.to_vec())
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Settings;

    const DAY: Duration = Duration::from_hours(24);

    fn sealed(vault: &KeyVault, log: u128, purpose: &'static str) -> Sealed {
        let settings = Settings::new("redis://127.0.0.1:1".parse().expect("an address"));
        Sealed::new(Redis::start(settings), vault.clone(), Uuid::from_u128(log), purpose, DAY)
    }

    #[tokio::test]
    async fn a_value_opens_under_its_own_name_and_nowhere_else() {
        let keys = tempfile::tempdir().expect("a directory");
        let vault = KeyVault::open(keys.path()).expect("a vault");
        let (answers, now) = (sealed(&vault, 1, "answers"), SystemTime::now());
        let text = answers.seal(b"name", b"value", now).expect("it is sealed");
        assert_eq!(answers.open(b"name", &text, now).as_deref(), Some(b"value" as &[u8]));
        assert_eq!(answers.open(b"names", &text, now), None);
        assert_eq!(sealed(&vault, 2, "answers").open(b"name", &text, now), None);
        assert_eq!(sealed(&vault, 1, "stock").open(b"name", &text, now), None);
        let other = tempfile::tempdir().expect("a directory");
        let other = KeyVault::open(other.path()).expect("a vault");
        assert_eq!(sealed(&other, 1, "answers").open(b"name", &text, now), None);
        assert!(!String::from_utf8_lossy(&text).contains("value"));
        assert_ne!(answers.seal(b"name", b"value", now), Some(text));
    }

    #[tokio::test]
    async fn a_value_that_is_changed_cut_or_too_old_is_none() {
        let keys = tempfile::tempdir().expect("a directory");
        let answers = sealed(&KeyVault::open(keys.path()).expect("a vault"), 1, "answers");
        let now = SystemTime::now();
        let text = answers.seal(b"name", b"value", now).expect("it is sealed");
        for at in 0..text.len() {
            let mut changed = text.clone();
            changed[at] ^= 1;
            assert_eq!(answers.open(b"name", &changed, now), None, "byte {at}");
            assert_eq!(answers.open(b"name", &text[..at], now), None, "cut at {at}");
        }
        let milli = Duration::from_millis(1);
        assert!(answers.open(b"name", &text, now + DAY - milli).is_some());
        assert_eq!(answers.open(b"name", &text, now + DAY + milli), None);
        assert_eq!(answers.open(b"name", &text, now - Duration::from_secs(1)), None);
    }
}
