//! A log with events of several kinds, streams and shards.

use std::{collections::BTreeMap, sync::Arc};

use event_store::{Batch, Event, EventStore, Head, LogWriter, Parked, StreamId, Unparked, Unparking, batch_hash};
use uuid::Uuid;

const KINDS: [&str; 3] = ["order", "inventory", "payment"];

/// How many streams each kind has in each shard.
const STREAMS: u64 = 7;

pub(crate) struct Log {
    pub(crate) store: Arc<dyn EventStore>,
    writer: Box<dyn LogWriter>,
    heads: Vec<Head>,
    sequences: BTreeMap<StreamId, u64>,
}

impl Log {
    pub(crate) fn new(store: impl EventStore + 'static, shards: u16) -> Self {
        let store: Arc<dyn EventStore> = Arc::new(store);
        let mut writer = store.writer().expect("a writer");
        let heads = (0..shards).map(|shard| writer.take(shard, Uuid::nil(), 0).expect("free")).collect();
        Self {
            store,
            writer,
            heads,
            sequences: BTreeMap::new(),
        }
    }

    /// Appends so many events to each shard, in batches.
    pub(crate) fn append(&mut self, events: u64) {
        for shard in 0..self.heads.len() {
            for first in (0..events).step_by(100) {
                let batch = (first..events.min(first + 100))
                    .map(|n| (n, format!(r#"{{"n":{n},"text":"사과 {n}"}}"#)))
                    .collect();
                self.commit(shard, batch, |_| {});
            }
        }
    }

    /// Appends one event with this payload to the first shard: of the first order.
    pub(crate) fn append_one(&mut self, payload: String) {
        self.commit(0, vec![(0, payload)], |_| {});
    }

    /// Appends one event with this correlation to the first shard: of the first order.
    pub(crate) fn append_correlated(&mut self, correlation: &str) {
        self.commit(0, vec![(0, "{}".into())], |batch| {
            for event in &mut batch.events {
                event.metadata = format!(r#"{{"correlationId":"{correlation}"}}"#).into();
            }
            batch.hash = batch_hash(&batch.previous_hash, &batch.events);
        });
    }

    /// The log was changed by others: what it holds now is what is gone on from.
    pub(crate) fn take_again(&mut self) {
        self.writer = self.store.writer().expect("a writer");
        for head in &mut self.heads {
            *head = self.writer.take(head.shard, Uuid::nil(), 0).expect("free");
        }
        self.sequences.clear();
        for event in self.events() {
            self.sequences.insert(event.stream, event.sequence);
        }
    }

    pub(crate) fn park(&mut self, shard: usize, id: Uuid) {
        self.park_with(shard, id, r#"{"command":"sealed"}"#, "it cannot be processed");
    }

    pub(crate) fn park_with(&mut self, shard: usize, id: Uuid, input: &str, reason: &str) {
        let parked = Parked {
            id,
            at: 1_750_000_000_000_000,
            input: input.into(),
            reason: reason.into(),
        };
        self.commit(shard, Vec::new(), |batch| batch.parked = vec![parked]);
    }

    pub(crate) fn unpark(&mut self, shard: usize, id: Uuid) {
        let unparked = Unparked {
            id,
            at: 1_750_000_000_000_001,
            by: "operator".into(),
            how: Unparking::Dropped,
        };
        self.commit(shard, Vec::new(), |batch| batch.unparked = vec![unparked]);
    }

    fn commit(&mut self, shard: usize, events: Vec<(u64, String)>, with: impl FnOnce(&mut Batch)) {
        let head = &mut self.heads[shard];
        let mut position = head.position;
        let events: Vec<_> = events
            .into_iter()
            .map(|(n, payload)| {
                position += 1;
                let kind = KINDS[usize::try_from(n % 3).expect("small")];
                let id = u128::from(head.shard) << 32 | u128::from(n % STREAMS);
                let stream = StreamId::new(kind, Uuid::from_u128(id));
                let sequence = self.sequences.entry(stream.clone()).or_default();
                *sequence += 1;
                Event {
                    shard: head.shard,
                    position,
                    stream,
                    sequence: *sequence,
                    event_id: Uuid::new_v4(),
                    event_type: format!("{kind}.changed").into(),
                    event_version: "1.0.0".into(),
                    recorded_at: 1_750_000_000_000_000 + i64::try_from(position).expect("few"),
                    payload: payload.into(),
                    metadata: r#"{"correlationId":"0197-c","actor":"somebody"}"#.into(),
                }
            })
            .collect();
        let hash = if events.is_empty() {
            head.hash
        } else {
            batch_hash(&head.hash, &events)
        };
        let mut batch = Batch {
            shard: head.shard,
            epoch: head.epoch,
            first_position: head.position + 1,
            previous_hash: head.hash,
            hash,
            events,
            ..Batch::default()
        };
        with(&mut batch);
        self.writer.commit(&[&batch]).expect("written");
        (head.position, head.hash) = (batch.last_position(), batch.hash);
    }

    /// Every event, shard by shard.
    pub(crate) fn events(&self) -> Vec<Event> {
        let reader = self.store.reader().expect("a reader");
        let all = |head: &Head| reader.events(head.shard, 0, usize::MAX).expect("read");
        self.heads.iter().flat_map(all).collect()
    }

    /// Whether the relay of this name has published everything.
    pub(crate) fn is_published(&self, name: &str) -> bool {
        let checkpoints: BTreeMap<_, _> = self
            .store
            .checkpoints()
            .and_then(|mut all| all.read(name))
            .expect("read")
            .into_iter()
            .collect();
        let stands = |head: &Head| checkpoints.get(&head.shard).copied().unwrap_or(0) == head.position;
        self.heads.iter().all(stands)
    }

    /// How many events are published, as far as the checkpoints say.
    pub(crate) fn published(&self, name: &str) -> u64 {
        let checkpoints = self.store.checkpoints().and_then(|mut all| all.read(name)).expect("read");
        checkpoints.iter().map(|(_, position)| position).sum()
    }
}
