//! Keys and nonces that follow from a seed.

use std::sync::atomic::{AtomicU64, Ordering};

use zeroize::Zeroizing;

use crate::cipher::NONCE;
use crate::place::Secret;

/// Where the keys and nonces of a sown vault come from.
pub(crate) struct Seed {
    root: Secret,
    /// How many nonces were taken: none comes twice.
    nonces: AtomicU64,
}

impl Seed {
    pub(crate) fn new(seed: &[u8; 32]) -> Self {
        Self {
            root: Zeroizing::new(*blake3::keyed_hash(seed, b"jangbu key vault").as_bytes()).into(),
            nonces: AtomicU64::new(0),
        }
    }

    /// The key for what has this name.
    pub(crate) fn key(&self, name: &[u8]) -> Secret {
        let mut hasher = blake3::Hasher::new_keyed(&self.root);
        hasher.update(b"key").update(name);
        Zeroizing::new(*hasher.finalize().as_bytes()).into()
    }

    /// The next nonce.
    pub(crate) fn nonce(&self) -> [u8; NONCE] {
        let count = self.nonces.fetch_add(1, Ordering::Relaxed);
        let mut hasher = blake3::Hasher::new_keyed(&self.root);
        hasher.update(b"nonce").update(&count.to_le_bytes());
        let mut nonce = [0; NONCE];
        nonce.copy_from_slice(&hasher.finalize().as_bytes()[..NONCE]);
        nonce
    }
}
