//! Looking at a log without leaving a trace, and what that says in the words of a log.

use std::{io::ErrorKind, path::Path};

use event_store::StoreError;
use rusqlite::Connection;
use sqlite_file::Standing;

use crate::{connection, errors};

pub(crate) fn standing(path: &Path) -> Result<Standing, StoreError> {
    Standing::of(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => StoreError::Foreign(format!("{} is not there any more", path.display())),
        _ => StoreError::Unavailable(format!("{}: {error}", path.display()).into()),
    })
}

/// A connection that reads what there is as it is.
pub(crate) fn connect(path: &Path) -> Result<Connection, StoreError> {
    standing(path)?;
    sqlite_file::open_to_look(path)
        .and_then(connection::for_reader)
        .map_err(|error| errors::reading(path, error))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use event_store::{Batch, Event, EventStore as _, GENESIS, LogWriter, StreamId, batch_hash};
    use uuid::Uuid;

    use super::*;
    use crate::SqliteStore;

    fn append(writer: &mut dyn LogWriter, position: u64, epoch: u64, previous_hash: event_store::Hash) -> event_store::Hash {
        let events = vec![Event {
            shard: 0,
            position,
            stream: StreamId::new("order", Uuid::from_u128(1)),
            sequence: position,
            event_id: Uuid::from_u128(u128::from(position)),
            event_type: "order.placed".into(),
            event_version: "1.0.0".into(),
            recorded_at: 1,
            payload: "{}".into(),
            metadata: "{}".into(),
        }];
        let hash = batch_hash(&previous_hash, &events);
        let batch = Batch {
            epoch,
            first_position: position,
            events,
            previous_hash,
            hash,
            ..Batch::default()
        };
        writer.commit(&[&batch]).expect("written");
        hash
    }

    fn names(directory: &Path) -> Vec<PathBuf> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .expect("a directory")
            .map(|entry| entry.expect("an entry").path())
            .collect();
        names.sort();
        names
    }

    fn head(store: &SqliteStore) -> u64 {
        let reader = store.reader().expect("a reader");
        reader.head(0).expect("read").map_or(0, |head| head.position)
    }

    #[test]
    fn who_looks_leaves_no_trace_and_notices_what_changes() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        // A name that a URI would understand otherwise.
        let data = scratch.path().join("a %41?b#c");
        let store = SqliteStore::open(&data).expect("a log");
        let mut writer = store.writer().expect("a writer");
        let taken = writer.take(0, Uuid::nil(), 1).expect("the shard");
        let hash = append(writer.as_mut(), 1, taken.epoch, GENESIS);

        // A copy that was made while the shop served has a write-ahead log, and needs it.
        let copy = scratch.path().join("copy");
        fs::create_dir(&copy).expect("made");
        for name in ["log.db", "log.db-wal"] {
            fs::copy(data.join(name), copy.join(name)).expect("copied");
        }
        let before = names(&copy);
        let copied = SqliteStore::open_to_look(&copy).expect("a log");
        assert_eq!(head(&copied), 1);
        assert_eq!(names(&copy), before);

        // The shop's own directory, while it serves.
        let looking = SqliteStore::open_to_look(&data).expect("a log");
        let live = looking.standing().expect("it is there");
        assert_eq!(head(&looking), 1);
        let hash = append(writer.as_mut(), 2, taken.epoch, hash);
        assert_eq!(head(&looking), 2);
        assert!(!looking.standing().expect("it is there").is_stale(&live));
        drop(writer);
        drop(store);

        // After it has stopped there is one file.
        let still = looking.standing().expect("it is there");
        assert!(
            still.is_stale(&live) && !still.is_another(&live) && !still.is_shorter(&live),
            "{live:?} {still:?}"
        );
        let before = names(&data);
        assert!(!before.contains(&data.join("log.db-wal")));
        let reader = looking.reader().expect("a reader");
        assert_eq!(reader.head(0).expect("read").map(|head| head.position), Some(2));
        assert_eq!(names(&data), before);

        // It serves again.
        let store = SqliteStore::open(&data).expect("the log");
        let mut writer = store.writer().expect("a writer");
        let taken = writer.take(0, Uuid::nil(), 1).expect("the shard");
        append(writer.as_mut(), 3, taken.epoch, hash);
        assert!(looking.standing().expect("it is there").is_stale(&still));
        assert_eq!(head(&looking), 3);

        fs::rename(copy.join("log.db"), data.join("log.db")).expect("renamed");
        assert!(looking.standing().expect("it is there").is_another(&still));
        fs::remove_file(data.join("log.db")).expect("removed");
        assert!(looking.standing().is_err());
    }
}
