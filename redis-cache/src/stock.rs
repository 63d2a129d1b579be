//! The stock of products as it was read a moment ago.

use std::time::{Duration, SystemTime};

use key_vault::KeyVault;
use query_api::{Asked, KeptStock};
use uuid::Uuid;

use crate::{Redis, sealed::Sealed};

/// So old may it be.
const KEPT: Duration = Duration::from_secs(1);
/// So many are asked for at once.
const AT_ONCE: usize = 500;

/// Rows of the stock view, for a second.
pub struct Stock(Sealed);

impl Stock {
    /// Those of the views of this log, sealed with a key that follows from the vault's.
    pub fn new(redis: Redis, vault: KeyVault, log: Uuid) -> Self {
        Self(Sealed::new(redis, vault, log, "stock", KEPT))
    }
}

impl KeptStock for Stock {
    fn find<'a>(&'a self, products: &'a [Uuid]) -> Asked<'a, Vec<Option<Vec<u8>>>> {
        Box::pin(async move {
            let names: Vec<_> = products.iter().take(AT_ONCE).map(|product| product.as_bytes().to_vec()).collect();
            self.0.find(&names).await
        })
    }

    fn keep(&self, product: Uuid, row: &[u8], read_at: SystemTime) {
        self.0.keep(product.as_bytes(), row, read_at);
    }
}
