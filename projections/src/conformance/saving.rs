//! Saving rows and checkpoints: all of a batch, or nothing.

use std::sync::Barrier;

use aggregates::{Recorded, Timestamp};
use uuid::Uuid;

use super::{
    Place,
    shop::{Log, account, line, offered, order, placed, product, quick, start, wait_until_counted, won},
};
use crate::{
    Changed, Checkpoint, Fold, Move, OrderView, OrdersQuestion, ProductsQuestion, Scope, Stored, Table, ViewsBatch, ViewsError,
    ViewsWriter, WalletView,
};

const LOG: Uuid = Uuid::from_u128(1);

fn step(shard: u16, from: u64, to: u64) -> Move {
    Move {
        shard,
        from,
        to,
        recorded_at: Timestamp::from_micros(7),
    }
}

fn wallet(n: u64, amount: i64) -> WalletView {
    WalletView {
        account: account(n),
        version: 1,
        balance: won(amount),
    }
}

fn save(writer: &mut dyn ViewsWriter, wallets: &[(&WalletView, bool)], moves: &[Move]) -> Result<(), ViewsError> {
    writer.save(&ViewsBatch {
        wallets: wallets
            .iter()
            .map(|(view, fresh)| Changed {
                view: *view,
                fresh: *fresh,
            })
            .collect(),
        moves,
        ..ViewsBatch::default()
    })
}

fn stored(writer: &mut dyn ViewsWriter) -> Vec<(u16, u64)> {
    let Stored { log, checkpoints } = writer.stored().expect("what is stored");
    assert_eq!(log, Some(LOG));
    checkpoints
        .iter()
        .map(|Checkpoint { shard, position, .. }| (*shard, *position))
        .collect()
}

fn wallets(writer: &mut dyn ViewsWriter, ids: &[u64]) -> Vec<WalletView> {
    let ids: Vec<Uuid> = ids.iter().map(|n| account(*n).uuid()).collect();
    let mut found = Table::<WalletView>::load(writer, &ids).expect("rows");
    found.sort_by_key(|wallet| wallet.account.uuid());
    found
}

/// Rows of yesterday's shapes are nobody's, and whoever only reads does not touch them.
pub fn views_of_other_shapes_are_filled_anew(place: &impl Place) {
    let mut log = Log::new(1);
    log.record(0, &[Some(placed(1, 1, [line(1, "coffee", 9)]))]);
    let (handle, _) = start(&log, place, quick());
    wait_until_counted(&handle, &log);
    handle.stop();
    place.make_of_other_shapes();
    assert!(place.open_read_only().is_err());
    let (handle, views) = start(&log, place, quick());
    wait_until_counted(&handle, &log);
    assert_eq!(views.orders(&[order(1)]).expect("an answer").len(), 1);
    assert!(place.open_read_only().is_ok());
}

/// Whoever comes second has counted what counts already, and must begin again with what is stored.
pub fn of_two_writers_that_save_the_same_one_is_told_that_it_counts_already(place: &impl Place) {
    place.take().0.reset(LOG).expect("new views");
    // Of a shard that nobody has counted, and of one that stands somewhere.
    for from in [0, 10] {
        let together = Barrier::new(2);
        let outcomes: Vec<Result<(), ViewsError>> = std::thread::scope(|scope| {
            let race = || {
                let (mut writer, _) = place.open();
                writer.stored().expect("what is stored");
                let moved = [step(3, from, from + 10)];
                together.wait();
                // Where several processes may write, one of them alone gets as far as saving.
                writer.take()?;
                let saved = save(&mut *writer, &[(&wallet(from, 5), true)], &moved);
                writer.give_up();
                saved
            };
            let threads = [scope.spawn(race), scope.spawn(race)];
            threads.map(|thread| thread.join().expect("an outcome")).into()
        });
        let moved = outcomes
            .iter()
            .filter(|outcome| matches!(outcome, Err(ViewsError::Moved(3) | ViewsError::Held(_))))
            .count();
        let saved = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        assert_eq!((saved, moved), (1, 1), "{outcomes:?}");
        let (mut writer, _) = place.open();
        assert_eq!(stored(&mut *writer), [(3, from + 10)]);
        assert_eq!(wallets(&mut *writer, &[from]), [wallet(from, 5)]);
    }
}

/// One shard's checkpoint that stands elsewhere keeps back the whole batch, also the other shards' part.
pub fn a_checkpoint_elsewhere_saves_nothing_of_the_batch(place: &impl Place) {
    let (mut writer, _) = place.take();
    writer.reset(LOG).expect("new views");
    save(&mut *writer, &[(&wallet(1, 5), true)], &[step(0, 0, 4), step(40_000, 0, 9)]).expect("saved");
    assert_eq!(stored(&mut *writer), [(0, 4), (40_000, 9)]);
    for wrong in [step(40_000, 8, 12), step(40_000, 0, 12), step(7, 1, 2)] {
        let refused = save(
            &mut *writer,
            &[(&wallet(1, 6), false), (&wallet(2, 1), true)],
            &[step(0, 4, 6), wrong],
        );
        assert!(
            matches!(refused, Err(ViewsError::Moved(shard)) if shard == wrong.shard),
            "{refused:?}"
        );
        assert_eq!(stored(&mut *writer), [(0, 4), (40_000, 9)]);
        assert_eq!(wallets(&mut *writer, &[1, 2]), [wallet(1, 5)]);
    }
    save(&mut *writer, &[(&wallet(1, 6), false)], &[step(0, 4, 6)]).expect("saved");
    assert_eq!(wallets(&mut *writer, &[1, 2]), [wallet(1, 6)]);
}

/// Rows that were lost are not passed over.
pub fn a_row_that_should_be_there_and_is_not_saves_nothing_of_the_batch(place: &impl Place) {
    let (mut writer, _) = place.take();
    writer.reset(LOG).expect("new views");
    save(&mut *writer, &[(&wallet(1, 5), true)], &[step(0, 0, 1)]).expect("saved");
    let refused = save(&mut *writer, &[(&wallet(1, 6), false), (&wallet(2, 6), false)], &[step(0, 1, 2)]);
    assert!(
        matches!(&refused, Err(ViewsError::Unavailable(error)) if error.to_string().contains("damaged")),
        "{refused:?}"
    );
    assert_eq!(
        (stored(&mut *writer), wallets(&mut *writer, &[1, 2])),
        (vec![(0, 1)], vec![wallet(1, 5)])
    );
}

/// Nor are rows that somebody else put there.
pub fn a_row_that_is_there_already_saves_nothing_of_the_batch(place: &impl Place) {
    let (mut writer, _) = place.take();
    writer.reset(LOG).expect("new views");
    save(&mut *writer, &[(&wallet(1, 5), true)], &[step(0, 0, 1)]).expect("saved");
    let refused = save(&mut *writer, &[(&wallet(2, 6), true), (&wallet(1, 6), true)], &[step(0, 1, 2)]);
    assert!(
        matches!(&refused, Err(ViewsError::Unavailable(error)) if error.to_string().contains("damaged")),
        "{refused:?}"
    );
    assert_eq!(
        (stored(&mut *writer), wallets(&mut *writer, &[1, 2])),
        (vec![(0, 1)], vec![wallet(1, 5)])
    );
}

/// Decoding enforces no rule on text, so a row may hold what today's parsers refuse.
pub fn any_text_comes_back_as_it_was_and_is_found(place: &impl Place) {
    let recorded = |position, event| Recorded {
        shard: 0,
        position,
        sequence: 1,
        at: Timestamp::from_micros(3),
        event: Some(event),
    };
    let text = "a\0b \u{1f600} \\u0000 'quoted\" 각 \u{fffd}";
    let decoded = |n: u64| -> aggregates::Name { serde_text(&format!("{text} {n}")) };
    let mut line = line(1, "coffee", 9);
    line.name = decoded(1);
    let aggregates::CommerceEvent::Product(
        id,
        aggregates::ProductEvent::Created {
            seller,
            sku,
            description,
            price,
            stock,
            at,
            ..
        },
    ) = offered(1, "coffee", 9)
    else {
        panic!("a product is offered")
    };
    let product_event = aggregates::CommerceEvent::Product(
        id,
        aggregates::ProductEvent::Created {
            seller,
            sku,
            name: decoded(1),
            description,
            price,
            stock,
            at,
        },
    );
    let events = [
        recorded(1, placed(1, 1, [line])),
        recorded(2, product_event),
        recorded(3, offered(2, "tea", 9)),
    ];
    let (mut writer, views) = place.take();
    writer.reset(LOG).expect("new views");
    let mut fold = Fold::new(const { std::num::NonZeroUsize::new(10).expect("it is 10") });
    assert!(fold.apply(&events.iter().collect::<Vec<_>>(), &mut *writer).is_ok());
    writer.save(&fold.changed(&[step(0, 0, 3)])).expect("saved");
    let shown: OrderView = views.orders(&[order(1)]).expect("an answer").remove(&order(1)).expect("the order");
    assert_eq!(shown.lines[0].name, decoded(1));
    assert_eq!(views.products(&[product(1)]).expect("an answer")[&product(1)].name, decoded(1));
    for (search, found) in [
        ("a\0b", 1),
        ("A\0B \u{1f600}", 1),
        ("a\0c", 0),
        ("ab", 0),
        ("\u{1100}\u{1161}\u{11a8}", 1),
        ("\0", 1),
    ] {
        let question = ProductsQuestion {
            search: Some(search.to_owned()),
            first: 10,
            ..ProductsQuestion::default()
        };
        assert_eq!(views.products_page(&question).expect("a page").rows.len(), found, "{search:?}");
        let question = OrdersQuestion {
            scope: Scope::Buyer(account(1)),
            status: None,
            search: Some(search.to_owned()),
            first: 10,
            after: None,
        };
        assert_eq!(views.orders_page(&question).expect("a page").rows.len(), found, "{search:?}");
    }
}

/// As what is recorded is decoded.
fn serde_text<T: serde::de::DeserializeOwned>(text: &str) -> T {
    use serde::de::{IntoDeserializer, value::Error};
    let decoded: Result<T, Error> = T::deserialize(text.into_deserializer());
    decoded.expect("a text")
}

/// No row and no checkpoint is left.
pub fn views_filled_anew_hold_nothing_of_before(place: &impl Place) {
    let mut log = Log::new(1);
    log.record(0, &[Some(placed(1, 1, [line(1, "coffee", 9)])), Some(offered(1, "coffee", 9))]);
    let (handle, views) = start(&log, place, quick());
    wait_until_counted(&handle, &log);
    handle.stop();
    let (mut writer, _) = place.take();
    save(&mut *writer, &[(&wallet(1, 5), true)], &[step(9, 0, 1)]).expect("saved");
    writer.reset(Uuid::from_u128(2)).expect("new views");
    assert_eq!(
        writer.stored().expect("what is stored"),
        Stored {
            log: Some(Uuid::from_u128(2)),
            checkpoints: Vec::new()
        }
    );
    assert!(views.positions().expect("positions").is_empty());
    assert!(views.orders(&[order(1)]).expect("an answer").is_empty());
    assert!(
        views
            .products_page(&ProductsQuestion {
                first: 5,
                ..ProductsQuestion::default()
            })
            .expect("a page")
            .rows
            .is_empty()
    );
    assert!(views.wallets(&[account(1)]).expect("an answer").is_empty());
    assert!(!views.seller_sees(account(9), account(1)).expect("an answer"));
    // Under the same positions as before.
    save(&mut *writer, &[(&wallet(1, 6), true)], &[step(9, 0, 1)]).expect("saved");
    assert_eq!(wallets(&mut *writer, &[1]), [wallet(1, 6)]);
}
