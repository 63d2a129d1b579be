use event_store::{GENESIS, batch_hash};

use super::*;

const GOLDEN: &str = include_str!("recorded/batch.txt");

/// One of everything.
fn full() -> Batch {
    let event = |position, sequence, payload: &str| Event {
        shard: 3,
        position,
        stream: StreamId::new("order", Uuid::from_u128(7)),
        sequence,
        event_id: Uuid::from_u128(u128::from(position)),
        event_type: "order.placed".into(),
        event_version: "1.0.0".into(),
        recorded_at: 1_750_000_000_000_000,
        payload: payload.into(),
        metadata: r#"{"correlationId":"c","causationId":"d","actor":"구매자"}"#.into(),
    };
    let events = vec![
        event(5, 1, r#"{"total": {"minor":1,"currency":"KRW"}}"#),
        event(6, 2, "not quite JSON"),
    ];
    Batch {
        shard: 3,
        epoch: 2,
        first_position: 5,
        previous_hash: GENESIS,
        hash: [7; 32],
        events,
        records: vec![IdempotencyRecord {
            key: RecordKey([1; 16]),
            fingerprint: [2; 16],
            position: 6,
            recorded_at: 9,
            answer: [0, 255].into(),
        }],
        owed: vec![OwedEffect {
            id: Uuid::from_u128(1),
            effect: r#"{"ask": 1}"#.into(),
        }],
        settled: vec![Uuid::from_u128(2)],
        timers: vec![Timer {
            id: Uuid::from_u128(3),
            due: -1,
            command: "{}".into(),
        }],
        timers_done: vec![Uuid::from_u128(4)],
        parked: vec![Parked {
            id: Uuid::from_u128(5),
            at: 1,
            input: "{}".into(),
            reason: "이유".into(),
        }],
        unparked: vec![Unparked {
            id: Uuid::from_u128(6),
            at: 2,
            by: "account:1".into(),
            how: Unparking::Dropped,
        }],
        snapshots: vec![Snapshot {
            stream: StreamId::new("order", Uuid::from_u128(7)),
            sequence: 2,
            shape: [3; 32],
            state: b"{}".as_slice().into(),
        }],
        orders_numbered: 11,
    }
}

/// As they would stand in a stream.
fn recorded(appends: Vec<Vec<Entry>>) -> Vec<Recorded> {
    (0..)
        .zip(appends.into_iter().flatten())
        .map(|(revision, entry)| Recorded { revision, entry })
        .collect()
}

fn found(assembly: &mut Assembly, entries: &[Recorded]) -> Vec<Found> {
    entries
        .iter()
        .filter_map(|entry| assembly.add(entry).expect("it can be read"))
        .collect()
}

#[test]
fn a_batch_is_recorded_as_it_always_was() {
    let appends = appends_as(Uuid::from_u128(0xba), &full(), LARGEST_APPEND).expect("it can be written");
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).expect("text");
    let lines: Vec<_> = appends
        .iter()
        .flatten()
        .flat_map(|entry| [entry.name.clone(), text(&entry.metadata), text(&entry.data)])
        .collect();
    assert_eq!(lines, GOLDEN.lines().collect::<Vec<_>>());
    assert_eq!(
        (appends.len(), appends[0].len()),
        (1, 3),
        "one append: the events, and what closes them"
    );
    assert!(appends[0][0].json && !appends[0][1].json && appends[0][2].json);
    assert_eq!(appends[0][1].id, Uuid::from_u128(6), "an event has its own id on the server too");
}

#[test]
fn what_was_recorded_is_read_for_ever() {
    let lines: Vec<_> = GOLDEN.lines().collect();
    let entries: Vec<_> = lines
        .chunks(3)
        .zip(0..)
        .map(|(lines, revision)| Recorded {
            revision,
            entry: Entry {
                id: Uuid::from_u128(u128::from(revision) + 5),
                name: lines[0].to_owned(),
                json: true,
                data: lines[2].to_owned().into(),
                metadata: lines[1].to_owned().into(),
            },
        })
        .collect();
    assert_eq!(found(&mut Assembly::new(3), &entries), [Found::Batch(Box::new(full()))]);
}

#[test]
fn a_batch_of_any_size_is_split_and_comes_back_as_it_was() {
    let mut large = full();
    large.events[0].payload = format!(r#""{}""#, "가".repeat(5_000)).into();
    large.records[0].answer = (0..=255).cycle().take(20_000).collect();
    large.hash = batch_hash(&GENESIS, &large.events);
    for limit in [1_500, 2_000, 5_000, 30_000, LARGEST_APPEND] {
        let appends = appends(&large, limit).expect("it can be written");
        for append in &appends {
            let size: usize = append
                .iter()
                .map(|entry| entry.data.len() + entry.metadata.len() + 2 * entry.name.len())
                .sum();
            assert!(size <= limit, "{size} bytes in an append of {limit}");
        }
        let closing = |append: &Vec<Entry>| append.last().is_some_and(|entry| entry.name == BATCH);
        assert_eq!(
            appends.iter().position(closing),
            Some(appends.len() - 1),
            "only the last one closes it"
        );
        assert_eq!(appends.len() > 1, limit < LARGEST_APPEND);
        let entries = recorded(appends);
        assert_eq!(found(&mut Assembly::new(3), &entries), [Found::Batch(Box::new(large.clone()))]);
    }
}

#[test]
fn every_append_has_an_id_that_no_other_has() {
    // The server takes an append of ids that it has seen for done, whatever else it holds.
    let ids = || -> Vec<Vec<Uuid>> {
        let appends = appends(&full(), 1_500).expect("it can be written");
        appends.iter().map(|append| append.iter().map(|entry| entry.id).collect()).collect()
    };
    let (first, second) = (ids(), ids());
    assert!(first.len() > 1);
    assert!(
        first.iter().flatten().zip(second.iter().flatten()).any(|(a, b)| a == b),
        "events keep theirs"
    );
    assert!(first.iter().zip(&second).all(|(first, second)| first != second));
}

#[test]
fn what_is_not_closed_was_not_written() {
    let whole = appends(&full(), 1_500).expect("it can be written");
    assert!(whole.len() > 2);
    for cut in 1..whole.len() {
        let entries = recorded(
            whole[..cut]
                .iter()
                .cloned()
                .chain(appends(&full(), 1_500).expect("again"))
                .collect(),
        );
        assert_eq!(
            found(&mut Assembly::new(3), &entries),
            [Found::Batch(Box::new(full()))],
            "cut after {cut}"
        );
    }
    let taken = Taken {
        epoch: 3,
        instance: Uuid::from_u128(1),
        at: 5,
    };
    let take = vec![Entry::own(TAKEN, &taken)];
    let mut assembly = Assembly::new(3);
    let entries = recorded(vec![whole[0].clone(), take]);
    assert_eq!(found(&mut assembly, &entries), [Found::Taken(taken)]);
    // What the new holder does not close either is still not there.
    let closing = whole.last().expect("the last").last().expect("what closes it").clone();
    assert!(
        assembly
            .add(&Recorded {
                revision: 9,
                entry: closing
            })
            .is_err(),
        "it closes more than is there"
    );
}

#[test]
fn what_cannot_be_read_is_said_and_what_is_not_ours_is_left_alone() {
    let mut assembly = Assembly::new(3);
    let strange = |name: &str, metadata: &str| Recorded {
        revision: 4,
        entry: Entry {
            id: Uuid::nil(),
            name: name.into(),
            json: true,
            data: Bytes::from_static(b"\xff"),
            metadata: metadata.to_owned().into(),
        },
    };
    assert_eq!(assembly.add(&strange("somebody", "")), Ok(None));
    assert_eq!(assembly.add(&strange("somebody", r#"{"batch":7}"#)), Ok(None));
    for name in [BATCH, TAKEN, PIECE] {
        assert!(assembly.add(&strange(name, "{")).is_err(), "{name}");
    }
    assert!(
        assembly
            .add(&strange(BATCH, r#"{"batch":"00000000-0000-0000-0000-0000000000ba"}"#))
            .is_err()
    );
}

#[test]
fn a_batch_that_could_not_be_read_back_is_refused() {
    let refused = |break_it: &dyn Fn(&mut Batch)| {
        let mut batch = full();
        break_it(&mut batch);
        appends(&batch, 3_000).expect_err("it is refused")
    };
    for name in ["", "$user", "jangbu-batch"] {
        assert!(refused(&|batch| batch.events[0].event_type = name.to_owned().into()).contains("3/5"));
    }
    assert!(refused(&|batch| batch.events[1].metadata = " {}".into()).contains("3/6"));
    assert!(refused(&|batch| batch.events[1].metadata = "{".into()).contains("no JSON"));
    assert!(refused(&|batch| batch.events[1].metadata = format!(r#"{{"a":"{}"}}"#, "x".repeat(2_000)).into()).contains("larger"));
    for break_it in [
        (|batch| batch.orders_numbered = u64::MAX) as fn(&mut Batch),
        |batch| batch.epoch = u64::MAX,
        |batch| batch.first_position = u64::MAX,
        |batch| batch.events[0].sequence = u64::MAX,
        |batch| batch.records[0].position = u64::MAX,
        |batch| batch.snapshots[0].sequence = u64::MAX,
    ] {
        assert!(refused(&break_it).contains("larger than a store counts"));
    }
}
