//! Reads views in batches: what a question asks for at one level becomes one question to the port, whatever the number of rows.
//!
//! A reader lives as long as its request, and so does what it remembers. It knows nothing of who may see what.

use std::{
    collections::HashMap,
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use aggregates::{AccountId, OrderId, PaymentId, ProductId, Sealed};
use async_graphql::dataloader::{DataLoader, HashMapCache, Loader};
use key_vault::KeyVault;
use projections::{AccountView, InventoryView, OrderView, Page, PaymentView, ProductView, ReadError, Views, WalletEntry, WalletView};
use tokio::sync::Semaphore;

use crate::{
    consistency::Wanted,
    error::Failed,
    stock::{SharedStock, StockSource},
};

/// Ids in one question to the port; more become another one.
const BATCH: usize = 500;
const _: () = assert!(BATCH <= projections::MOST_IDS, "the port refuses larger batches");

/// A reader for one request.
pub(crate) type Reader = DataLoader<Source, HashMapCache>;

/// Where views and keys come from. Clones share the bound on questions under way.
#[derive(Clone)]
pub(crate) struct Source {
    views: Arc<dyn Views>,
    vault: KeyVault,
    reads: Arc<Semaphore>,
    shared_stock: Option<SharedStock>,
    /// Of the request that this source is for.
    stock: Option<StockSource>,
}

impl Source {
    pub(crate) fn new(views: Arc<dyn Views>, vault: KeyVault, reads: usize, shared_stock: Option<SharedStock>) -> Self {
        Self {
            views,
            vault,
            reads: Arc::new(Semaphore::new(reads.max(1))),
            shared_stock,
            stock: None,
        }
    }

    /// A reader for a question that wants to see this, and what runs its batches.
    pub(crate) fn reader(&self, wanted: &Wanted) -> (Reader, Batches) {
        let batches = Batches::default();
        let due = batches.clone();
        let source = Self {
            stock: self.shared_stock.as_ref().map(|shared| shared.for_request(wanted)),
            ..self.clone()
        };
        let reader = DataLoader::with_cache(source, move |batch| due.add(batch), HashMapCache::default());
        (reader.max_batch_size(BATCH).delay(Duration::ZERO), batches)
    }

    /// What nodes share of stock, for this request.
    pub(crate) fn stock(&self) -> Option<&StockSource> {
        self.stock.as_ref()
    }

    /// Stock from the views, and for others too.
    async fn read_stock(&self, products: Vec<ProductId>) -> Result<HashMap<ProductId, InventoryView>, Failed> {
        let before = self.stock.as_ref().map(StockSource::before);
        let rows = self.ask(move |views| views.inventories(&products)).await?;
        if let (Some(stock), Some(before)) = (&self.stock, before) {
            stock.keep(&rows, &before);
        }
        Ok(rows)
    }

    /// Asks the views one thing, on a thread that may wait.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&dyn Views) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, Failed> {
        let views = Arc::clone(&self.views);
        self.blocking(move || question(&*views).map_err(Failed::from)).await
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T, Failed> + Send + 'static) -> Result<T, Failed> {
        let permit = Arc::clone(&self.reads).acquire_owned().await.map_err(|_| Failed::Unavailable)?;
        let work = move || {
            // Kept until the work is done, also when nobody waits for it any more.
            let _permit = permit;
            work()
        };
        tokio::task::spawn_blocking(work).await.map_err(|error| {
            tracing::error!(%error, "a question to the views panicked");
            Failed::Internal
        })?
    }
}

type Batch = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The batches of one request that wait to be asked.
///
/// They are asked when everything else of the request waits too, and so has named what it wants. Left to a timer, as is customary, a busy
/// machine would tear them apart, just when it should not.
#[derive(Clone, Default)]
pub(crate) struct Batches(Arc<Mutex<Vec<Batch>>>);

impl Batches {
    fn add(&self, batch: Batch) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(batch);
    }

    fn take(&self) -> Vec<Batch> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Runs what asks for batches, and the batches whenever it waits for them.
    pub(crate) async fn run<T>(self, asking: impl Future<Output = T>) -> T {
        let mut asking = pin!(asking);
        let mut asked: Vec<Batch> = Vec::new();
        poll_fn(|cx| {
            loop {
                let woken = Arc::new(Woken {
                    task: cx.waker().clone(),
                    flag: AtomicBool::new(false),
                });
                if let Poll::Ready(answer) = asking.as_mut().poll(&mut Context::from_waker(&Waker::from(Arc::clone(&woken)))) {
                    return Poll::Ready(answer);
                }
                // What wakes itself while it runs only pauses, as long lists do: it has more to name.
                if !woken.flag.load(Ordering::Acquire) {
                    asked.append(&mut self.take());
                }
                let before = asked.len();
                asked.retain_mut(|batch| batch.as_mut().poll(cx).is_pending());
                if asked.len() == before {
                    return Poll::Pending;
                }
            }
        })
        .await
    }
}

/// Wakes a task, and remembers it.
struct Woken {
    task: Waker,
    flag: AtomicBool,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.flag.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

/// The stock of a product.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct StockOf(pub(crate) ProductId);

/// The balance of an account.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct BalanceOf(pub(crate) AccountId);

/// A page of the changes of a balance.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct EntriesOf {
    pub(crate) account: AccountId,
    pub(crate) first: usize,
    pub(crate) after: Option<u64>,
}

/// A sealed text, and the subject whose key opens it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct SealedText {
    pub(crate) subject: AccountId,
    pub(crate) sealed: Sealed,
}

macro_rules! batched {
    ($($key:ty => $view:ty, |$views:ident, $ids:ident| $ask:expr;)+) => {$(
        impl Loader<$key> for Source {
            type Value = Arc<$view>;
            type Error = Failed;

            async fn load(&self, keys: &[$key]) -> Result<HashMap<$key, Self::Value>, Failed> {
                let $ids = keys.to_vec();
                let rows = self.ask(move |$views| $ask).await?;
                Ok(rows.into_iter().map(|(key, row)| (key, Arc::new(row))).collect())
            }
        }
    )+};
}

batched! {
    OrderId => OrderView, |views, ids| views.orders(&ids);
    ProductId => ProductView, |views, ids| views.products(&ids);
    PaymentId => PaymentView, |views, ids| views.payments(&ids);
    AccountId => AccountView, |views, ids| views.accounts(&ids);
    BalanceOf => WalletView, |views, ids| {
        let accounts: Vec<_> = ids.iter().map(|BalanceOf(account)| *account).collect();
        let rows = views.wallets(&accounts)?;
        Ok(rows.into_iter().map(|(account, row)| (BalanceOf(account), row)).collect::<HashMap<_, _>>())
    };
    // The port pages one balance at a time. What a question asks is bounded by what such a page costs in its complexity.
    EntriesOf => Page<WalletEntry>, |views, ids| {
        ids.into_iter().map(|key| Ok((key, views.wallet_entries(key.account, key.first, key.after)?))).collect::<Result<HashMap<_, _>, ReadError>>()
    };
}

impl Loader<StockOf> for Source {
    type Value = Arc<InventoryView>;
    type Error = Failed;

    async fn load(&self, keys: &[StockOf]) -> Result<HashMap<StockOf, Self::Value>, Failed> {
        let mut products: Vec<_> = keys.iter().map(|StockOf(product)| *product).collect();
        let mut rows = HashMap::new();
        if let Some(stock) = &self.stock {
            rows = stock.find(&products).await;
            products.retain(|product| !rows.contains_key(product));
        }
        if !products.is_empty() {
            rows.extend(self.read_stock(products).await?);
        }
        Ok(rows.into_iter().map(|(product, row)| (StockOf(product), Arc::new(row))).collect())
    }
}

impl Loader<SealedText> for Source {
    type Value = String;
    type Error = Failed;

    /// The texts; one whose subject was erased is missing.
    async fn load(&self, keys: &[SealedText]) -> Result<HashMap<SealedText, String>, Failed> {
        let (vault, keys) = (self.vault.clone(), keys.to_vec());
        let open = move || {
            let mut texts = HashMap::with_capacity(keys.len());
            for key in keys {
                if let Some(text) = vault.open_sealed(key.subject.uuid(), key.sealed.ciphertext())? {
                    texts.insert(key, text.to_string());
                }
            }
            Ok(texts)
        };
        self.blocking(open).await
    }
}
