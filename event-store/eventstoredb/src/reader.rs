//! The reading side: the index, once it stands where the server's streams stand.

use std::{ops::ControlFlow, sync::Arc};

use event_store::{
    Event, EventRef, Hash, Head, IdempotencyRecord, LogReader, Parked, RecordKey, Selection, SetAside, Shards, Snapshot, StoreError, Stray,
    StreamId, StreamRead, StreamSlice, Unfinished, Unparked,
};
use uuid::Uuid;

use crate::log::{INDEX_KIND, Log};

/// Reads one log.
pub(crate) struct EsdbReader {
    log: Arc<Log>,
    index: Box<dyn LogReader>,
}

impl EsdbReader {
    pub(crate) fn open(log: Arc<Log>) -> Result<Self, StoreError> {
        let index = log.index_reader()?;
        Ok(Self { log, index })
    }

    /// The index as far as this shard is durable now.
    fn of(&self, shard: u16) -> Result<&dyn LogReader, StoreError> {
        drop(self.log.caught_up([shard])?);
        Ok(&*self.index)
    }

    /// The index as far as all shards are.
    fn of_all(&self) -> Result<&dyn LogReader, StoreError> {
        drop(self.log.all_caught_up()?);
        Ok(&*self.index)
    }
}

impl LogReader for EsdbReader {
    fn head(&self, shard: u16) -> Result<Option<Head>, StoreError> {
        self.of(shard)?.head(shard)
    }

    fn read(
        &self,
        records: &[RecordKey],
        streams: &[StreamRead],
    ) -> Result<(Vec<Option<IdempotencyRecord>>, Vec<StreamSlice>), StoreError> {
        self.of_all()?.read(records, streams)
    }

    fn events(&self, shard: u16, after: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        self.of(shard)?.events(shard, after, limit)
    }

    fn stream(&self, stream: &StreamId, after: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        self.of_all()?.stream(stream, after, limit)
    }

    fn select_each(&self, selection: &Selection, visit: &mut dyn FnMut(EventRef<'_>) -> ControlFlow<()>) -> Result<(), StoreError> {
        self.of(selection.shard)?.select_each(selection, visit)
    }

    fn batches(&self, shard: u16, after: u64, limit: usize) -> Result<Vec<(u64, Hash, Hash, u64)>, StoreError> {
        self.of(shard)?.batches(shard, after, limit)
    }

    fn unfinished(&self, shard: u16) -> Result<Unfinished, StoreError> {
        self.of(shard)?.unfinished(shard)
    }

    fn parked(&self, shard: u16, limit: usize) -> Result<Vec<Parked>, StoreError> {
        self.of(shard)?.parked(shard, limit)
    }

    fn parked_input(&self, shard: u16, id: Uuid) -> Result<Option<Parked>, StoreError> {
        self.of(shard)?.parked_input(shard, id)
    }

    fn unparked(&self, shard: u16, id: Uuid) -> Result<Option<Unparked>, StoreError> {
        self.of(shard)?.unparked(shard, id)
    }

    fn set_aside(&self, shard: u16, after: Option<Uuid>, limit: usize) -> Result<Option<Vec<SetAside>>, StoreError> {
        self.of(shard)?.set_aside(shard, after, limit)
    }

    fn shard_count(&self) -> Result<Option<Shards>, StoreError> {
        Ok(self.log.all_caught_up()?.founded())
    }

    fn shards(&self) -> Result<Vec<u16>, StoreError> {
        self.of_all()?.shards()
    }

    fn heads(&self) -> Result<Vec<Head>, StoreError> {
        self.of_all()?.heads()
    }

    fn records(&self, after: Option<RecordKey>, limit: usize) -> Result<Option<Vec<IdempotencyRecord>>, StoreError> {
        self.of_all()?.records(after, limit)
    }

    fn snapshots(&self, after: Option<&Snapshot>, limit: usize) -> Result<Option<Vec<Snapshot>>, StoreError> {
        let index = self.of_all()?;
        let mut after = after.cloned();
        loop {
            let Some(mut page) = index.snapshots(after.as_ref(), limit)? else {
                return Ok(None);
            };
            let last = page.last().cloned();
            // How far the index is, is nobody else's business.
            page.retain(|snapshot| snapshot.stream.kind != INDEX_KIND);
            if !page.is_empty() || last.is_none() {
                return Ok(Some(page));
            }
            after = last;
        }
    }

    fn strays(&self, limit: usize) -> Result<Vec<Stray>, StoreError> {
        self.of_all()?.strays(limit)
    }
}
