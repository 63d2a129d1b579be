//! How messages come from one shard's engine to another's.

use std::sync::{Arc, mpsc};

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
        here.deliver(message);
    }
}

/// The inboxes of the engines of this process: one for each shard. Cloning them is cheap.
#[derive(Clone, Debug)]
pub struct Inboxes {
    senders: Arc<[mpsc::Sender<Post>]>,
}

impl Inboxes {
    pub(super) fn new(senders: Vec<mpsc::Sender<Post>>) -> Self {
        Self { senders: senders.into() }
    }

    /// Gives a message to the engine that it is for; one that is not here, or has ended, never gets it.
    pub fn deliver(&self, message: Message) {
        let to = message.to;
        self.put(to, Input::Received(Box::new(message)));
    }

    /// Says whether somebody takes it.
    pub(super) fn put(&self, shard: u16, input: Input<super::Ticket>) -> bool {
        let sender = self.senders.get(usize::from(shard));
        sender.is_some_and(|sender| sender.send(Post::Input(input)).is_ok())
    }

    pub(super) fn of(&self, shard: u16) -> Option<&mpsc::Sender<Post>> {
        self.senders.get(usize::from(shard))
    }

    pub(super) fn shards(&self) -> impl Iterator<Item = u16> {
        (0..).take(self.senders.len())
    }

    pub(super) fn stop(&self) {
        for sender in self.senders.iter() {
            // One that has ended already does not listen.
            let _ = sender.send(Post::Stop);
        }
    }
}
