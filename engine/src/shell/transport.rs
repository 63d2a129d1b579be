//! How messages come from one shard's engine to another's.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
};

use event_store::Shards;
use parking_lot::RwLock;
use uuid::Uuid;

use super::Post;
use crate::{Input, Message};

/// Takes messages between the engines of a log's shards.
///
/// It owes nothing: a message that it loses, repeats, delays or overtakes is sent again, or met by the record of its answer. So it never
/// waits for anybody either.
pub trait Transport: Send + Sync {
    /// Takes a message to the engine of its receiver, as well as it can without waiting; `here` are the engines of this process.
    fn send(&self, message: Message, here: &Inboxes);
}

/// Between engines of one process.
#[derive(Clone, Copy, Debug, Default)]
pub struct InProcess;

impl Transport for InProcess {
    fn send(&self, message: Message, here: &Inboxes) {
        // For one that has ended it stays owed.
        drop(here.deliver(message));
    }
}

/// Of one shard.
#[derive(Default)]
struct Place {
    /// Of its engine, while that is in this process.
    sender: RwLock<Option<mpsc::Sender<Post>>>,
    /// The last position that is known to be durable.
    durable: AtomicU64,
}

/// The inboxes of the engines of this process, and how far each shard's log is known to be durable. Cloning them is cheap.
///
/// Whoever is told something by an engine knows of the durable position that it stands on: that is passed on with every message and every
/// answer. So whoever asks for what an answer shows can be told how far a view has to be to show it too, whichever process the engine is in.
#[derive(Clone)]
pub struct Inboxes {
    places: Arc<[Place]>,
    log: Arc<OnceLock<Uuid>>,
}

impl fmt::Debug for Inboxes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inboxes").field("here", &self.here()).finish_non_exhaustive()
    }
}

impl Inboxes {
    pub(super) fn new(shards: Shards) -> Self {
        Self {
            places: shards.all().map(|_| Place::default()).collect(),
            log: Arc::default(),
        }
    }

    /// Which log the shards are of; nil before this process knows. A transport that others use too says it with what it carries.
    pub fn log_id(&self) -> Uuid {
        self.log.get().copied().unwrap_or_default()
    }

    pub(super) fn learn_log_id(&self, log_id: Uuid) {
        self.log.get_or_init(|| log_id);
    }

    /// Gives a message to the engine that it is for.
    ///
    /// # Errors
    /// That one is not in this process: the message comes back.
    pub fn deliver(&self, message: Message) -> Result<(), Message> {
        let Some(sender) = self.of(message.to) else { return Err(message) };
        match sender.send(Post::Input(Input::Received(Box::new(message)))) {
            Err(mpsc::SendError(Post::Input(Input::Received(message)))) => Err(*message),
            // Nothing else comes back.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// The shards whose engines are in this process.
    pub fn here(&self) -> Vec<u16> {
        let open = |(shard, place): (u16, &Place)| place.sender.read().is_some().then_some(shard);
        (0..).zip(self.places.iter()).filter_map(open).collect()
    }

    /// The last position of a shard's log that this process knows to be durable.
    pub fn durable(&self, shard: u16) -> u64 {
        self.place(shard).map_or(0, |place| place.durable.load(Ordering::Acquire))
    }

    /// Of every shard in ascending order, as [`durable`](Self::durable) says.
    pub fn all_durable(&self) -> Vec<u64> {
        self.places.iter().map(|place| place.durable.load(Ordering::Acquire)).collect()
    }

    /// Somebody says that a shard's log is durable as far as this.
    pub fn heard_of(&self, shard: u16, position: u64) {
        if let Some(place) = self.place(shard) {
            place.durable.fetch_max(position, Ordering::AcqRel);
        }
    }

    /// Says whether somebody takes it.
    pub(super) fn put(&self, shard: u16, input: Input<super::Ticket>) -> bool {
        self.of(shard).is_some_and(|sender| sender.send(Post::Input(input)).is_ok())
    }

    pub(super) fn open(&self, shard: u16, sender: mpsc::Sender<Post>) {
        if let Some(place) = self.place(shard) {
            *place.sender.write() = Some(sender);
        }
    }

    /// The engine of this shard takes nothing more: what is put from now on is for another process.
    pub(super) fn close(&self, shard: u16) {
        if let Some(place) = self.place(shard) {
            *place.sender.write() = None;
        }
    }

    pub(super) fn is_here(&self, shard: u16) -> bool {
        self.of(shard).is_some()
    }

    fn of(&self, shard: u16) -> Option<mpsc::Sender<Post>> {
        self.place(shard)?.sender.read().clone()
    }

    fn place(&self, shard: u16) -> Option<&Place> {
        self.places.get(usize::from(shard))
    }
}
