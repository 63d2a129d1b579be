//! Passwords: argon2id, a few at a time, so that a flood of logins cannot take the machine from the orders.

use std::sync::{Arc, OnceLock};

use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version, password_hash::phc::PasswordHash};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use zeroize::Zeroizing;

/// Of nobody's password: verified where there is no account, so that the answer takes as long.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Why a password was neither hashed nor verified.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PasswordError {
    /// Too many wait already.
    #[error("too many passwords wait to be checked")]
    Busy,
    /// The library failed, or the stored hash is none.
    #[error("the password cannot be hashed: {0}")]
    Failed(String),
}

/// The pool.
pub(crate) struct Passwords {
    queue: Arc<Semaphore>,
    turns: Arc<Semaphore>,
}

/// A place at the pool: the caller's turn to hash or verify.
pub(crate) struct Turn {
    _turn: OwnedSemaphorePermit,
    _place: OwnedSemaphorePermit,
}

impl Passwords {
    /// So many at a time, and so many that may wait.
    pub(crate) fn new(at_once: usize, waiting: usize) -> Self {
        Self {
            queue: Arc::new(Semaphore::new(at_once + waiting)),
            turns: Arc::new(Semaphore::new(at_once)),
        }
    }

    /// Waits for a turn.
    pub(crate) async fn turn(&self) -> Result<Turn, PasswordError> {
        let place = Arc::clone(&self.queue).try_acquire_owned().map_err(|_| PasswordError::Busy)?;
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|_| PasswordError::Busy)?;
        Ok(Turn {
            _turn: turn,
            _place: place,
        })
    }
}

impl Turn {
    /// The password's hash as a PHC string.
    pub(crate) async fn hash(self, password: Zeroizing<String>) -> Result<Zeroizing<String>, PasswordError> {
        self.run(move || {
            let hash: PasswordHash = argon2id().hash_password(password.as_bytes()).map_err(failed)?;
            Ok(Zeroizing::new(hash.to_string()))
        })
        .await
    }

    /// Whether the password has this hash; never for nobody's, and that takes as long.
    pub(crate) async fn verify(self, password: Zeroizing<String>, hash: Option<Zeroizing<String>>) -> Result<bool, PasswordError> {
        self.run(move || {
            let known = PasswordHash::new(hash.as_ref().map_or(NOBODY, |hash| hash.as_str())).map_err(failed)?;
            let right = argon2id().verify_password(password.as_bytes(), &known).is_ok();
            Ok(right && hash.is_some())
        })
        .await
    }

    /// Off the threads that serve requests. The turn ends with the work, also when nobody waits for it any more.
    async fn run<T: Send + 'static>(self, work: impl FnOnce() -> Result<T, PasswordError> + Send + 'static) -> Result<T, PasswordError> {
        let done = tokio::task::spawn_blocking(move || {
            let _turn = self;
            work()
        });
        done.await
            .map_err(|_| PasswordError::Failed("the work was interrupted".to_owned()))?
    }
}

/// OWASP's first choice for a server: 19 MiB, two passes, one lane.
fn argon2id() -> &'static Argon2<'static> {
    static ARGON2: OnceLock<Argon2<'static>> = OnceLock::new();
    ARGON2.get_or_init(|| {
        Argon2::new(
            Algorithm::Argon2id,
            Version::V0x13,
            Params::new(19_456, 2, 1, None).expect("the parameters are allowed"),
        )
    })
}

fn failed(error: impl std::fmt::Display) -> PasswordError {
    PasswordError::Failed(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Zeroizing<String> {
        Zeroizing::new(text.to_owned())
    }

    #[tokio::test]
    async fn only_the_password_itself_matches_its_hash() {
        let pool = Passwords::new(1, 1);
        let hash = pool
            .turn()
            .await
            .expect("a turn")
            .hash(secret("jangbu-demo"))
            .await
            .expect("a hash");
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", *hash);
        assert!(
            pool.turn()
                .await
                .expect("a turn")
                .verify(secret("jangbu-demo"), Some(hash.clone()))
                .await
                .expect("verified")
        );
        assert!(
            !pool
                .turn()
                .await
                .expect("a turn")
                .verify(secret("jangbu-dem0"), Some(hash))
                .await
                .expect("verified")
        );
        assert!(
            !pool
                .turn()
                .await
                .expect("a turn")
                .verify(secret("jangbu-demo"), None)
                .await
                .expect("verified")
        );
    }

    #[tokio::test]
    async fn whoever_finds_the_queue_full_is_turned_away() {
        let pool = Passwords::new(1, 0);
        let held = pool.turn().await.expect("a turn");
        assert!(matches!(pool.turn().await, Err(PasswordError::Busy)));
        drop(held);
        assert!(pool.turn().await.is_ok());
    }
}
