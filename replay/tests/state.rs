//! The commands about one thing, on generated shops with one shard and with four: what they show is what the log says, however it is asked for.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::{Command, Output},
};

use aggregates::{CommerceEvent, Kind, OrderId, PaymentId};
use event_store::{Event, EventStore as _, LogPosition, Shards};
use event_store_sqlite::SqliteStore;
use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

struct Shop {
    scratch: TempDir,
    shards: Shards,
    /// All events, in the order in which they were recorded.
    events: Vec<Event>,
}

impl Shop {
    fn of(shards: u16) -> Self {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let data = scratch.path().join("data");
        jangbu::generate::shop(&data, 300, 11, shards).expect("a shop");
        let store = SqliteStore::open_read_only(&data).expect("a log");
        let reader = store.reader().expect("a reader");
        let mut events = Vec::new();
        for shard in reader.shards().expect("shards") {
            events.extend(reader.events(shard, 0, usize::MAX).expect("events"));
        }
        events.sort_by_key(|event| (event.recorded_at, event.shard, event.position));
        Self {
            scratch,
            shards: reader.shard_count().expect("known").expect("founded"),
            events,
        }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        replay(&self.scratch.path().join("data"), arguments)
    }

    /// What it prints when all is well.
    fn prints(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).expect("text")
    }

    fn objects(&self, arguments: &[&str]) -> Vec<Value> {
        let text = self.prints(arguments);
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// Why it prints nothing: one line, and the exit code.
    fn refuses(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments);
        let said = String::from_utf8(output.stderr).expect("text");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        assert_eq!(said.lines().count(), 1, "{arguments:?}: {said}");
        (output.status.code().expect("it ends"), said)
    }

    fn position(&self, event: &Event) -> String {
        LogPosition {
            shard: event.shard,
            position: event.position,
        }
        .text(self.shards)
    }

    fn first(&self, event_type: &str) -> &Event {
        let found = self.events.iter().find(|event| event.event_type == event_type);
        found.unwrap_or_else(|| panic!("no {event_type} in this shop"))
    }

    fn orders(&self) -> Vec<Uuid> {
        let placed = self.events.iter().filter(|event| event.event_type == "order.placed");
        placed.map(|event| event.stream.id).collect()
    }
}

fn replay(data: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_replay"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("JANGBU_") {
            command.env_remove(name);
        }
    }
    command.arg("--data").arg(data).args(arguments).output().expect("the binary runs")
}

fn payload(event: &Event) -> Value {
    serde_json::from_str(&event.payload).expect("JSON")
}

#[test]
fn a_state_is_the_fold_of_its_stream_up_to_then_wherever_that_is_named() {
    for shop in [Shop::of(1), Shop::of(4)] {
        let product = shop.first("inventory.received").stream.id;
        let stream: Vec<_> = shop
            .events
            .iter()
            .filter(|event| event.stream.kind == "inventory" && event.stream.id == product)
            .collect();
        let mut state = Kind::Inventory.initial();
        for (index, event) in stream.iter().enumerate() {
            state.evolve(
                &CommerceEvent::decode("inventory", product, &event.payload)
                    .expect("readable")
                    .expect("an event"),
            );
            if index % 17 != 3 {
                continue;
            }
            let expected: Value = serde_json::from_slice(&state.to_json().expect("JSON")).expect("JSON");
            let (id, version) = (product.to_string(), format!("v:{}", event.sequence));
            let place = format!("pos:{}", shop.position(event));
            let mut moments = vec![version, place];
            // Of several events of one time the last counts.
            if stream.get(index + 1).is_none_or(|next| next.recorded_at > event.recorded_at) {
                let time = jiff::Timestamp::from_microsecond(event.recorded_at).expect("a time");
                moments.push(time.to_string());
            }
            for moment in moments {
                let [shown] = &shop.objects(&["state", "inventory", &id, "--at", &moment])[..] else {
                    panic!("one line");
                };
                assert_eq!(shown["state"], expected, "{moment}");
                assert_eq!(
                    (&shown["version"], &shown["position"]),
                    (&json!(event.sequence), &json!(shop.position(event)))
                );
            }
        }
    }
}

#[test]
fn an_order_is_found_by_everything_that_people_know_of_it() {
    for shop in [Shop::of(1), Shop::of(4)] {
        let submitted = shop.first("order.payment_submitted");
        let order = submitted.stream.id;
        let placed = shop
            .events
            .iter()
            .find(|event| event.stream.id == order)
            .map(payload)
            .expect("it was placed");
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let key = text(&payload(submitted)["payment_key"]);
        let names = [
            order.to_string(),
            format!("order-{order}"),
            PaymentId::for_order(OrderId::new(order)).to_string(),
            text(&placed["number"]),
            text(&placed["tracking"]),
            key.clone(),
        ];
        let views = shop.scratch.path().join("data/views.db");
        for without_views in [false, true] {
            if without_views {
                std::fs::remove_file(&views).expect("removed");
            }
            for name in &names {
                for (kind, id) in [
                    ("order", order),
                    ("purchase", order),
                    ("payment", PaymentId::for_order(OrderId::new(order)).uuid()),
                ] {
                    let found = shop.objects(&["state", kind, name]);
                    assert_eq!(found[0]["id"], json!(id), "{kind} {name}, without views: {without_views}");
                }
            }
        }
        let (code, said) = shop.refuses(&["state", "order", "2026010599999999"]);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("no order of this log has the number"), "{said}");
        let (code, said) = shop.refuses(&["timeline", &format!("{}…", &key[..8])]);
        assert!(code == 1 && said.contains("--reveal"), "{said}");
    }
}

#[test]
fn what_is_not_there_is_told_with_what_is() {
    let shop = Shop::of(1);
    let confirmed = shop.first("order.confirmed");
    let id = confirmed.stream.id.to_string();
    let refuses = |arguments: &[&str], part: &str| {
        let (code, said) = shop.refuses(arguments);
        assert!(code == 1 && said.contains(part), "{arguments:?}: {code} {said}");
    };
    let first = shop
        .events
        .iter()
        .find(|event| event.stream.id == confirmed.stream.id)
        .expect("placed");
    refuses(
        &["state", "order", &id, "--at", "2026-01-01"],
        &format!("position {}", first.position),
    );
    refuses(&["state", "order", &id, "--at", "start"], "nothing had happened");
    refuses(&["state", "order", &id, "--at", "v:99"], "versions");
    refuses(
        &["state", "orders", &id],
        "there is no \"orders\"; there are product, inventory, order",
    );
    refuses(&["state", "wallet", &Uuid::nil().to_string()], "there is no wallet");
    refuses(&["state", "wallet", "x"], "is no id of a wallet");
    refuses(
        &["state", "order", &Uuid::nil().to_string()],
        "no order, payment or tracking id of this log",
    );
    refuses(&["inventory", &Uuid::nil().to_string()], "there is no product");
    refuses(&["inventory", "--at", "v:1"], "versions are counted by stream");
}

#[test]
fn a_difference_is_what_has_to_be_done_to_the_one_state() {
    let shop = Shop::of(1);
    let cancelled = shop.first("order.cancelled");
    let id = cancelled.stream.id.to_string();
    let version = format!("v:{}", cancelled.sequence);
    let patch: Value = serde_json::from_str(&shop.prints(&["diff", "order", &id, "v:1", &version, "-o", "json"])).expect("JSON");
    let status = json!({"op": "replace", "path": "/status", "value": "CANCELLED"});
    assert!(patch.as_array().expect("a list").contains(&status), "{patch}");
    let table = shop.prints(&["diff", "order", &id, "v:1", &version, "-o", "table"]);
    let line = table.lines().find(|line| line.starts_with("/status")).expect("the status");
    assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["/status", "PLACED", "CANCELLED"]);
    assert_eq!(shop.prints(&["diff", "order", &id, &version, "end", "-o", "json"]), "[]\n");
    assert_eq!(
        shop.prints(&["diff", "order", &id, &version, "v:1", "-o", "ndjson"])
            .lines()
            .count(),
        patch.as_array().map_or(0, Vec::len)
    );
}

/// An event of stock or balance that says whose it is.
fn is_about(event: &Event, order: &str) -> bool {
    let purchase_sees_it = event.event_type != "inventory.release_noted";
    matches!(&*event.stream.kind, "inventory" | "wallet") && purchase_sees_it && payload(event)["order"] == json!(order)
}

#[test]
fn a_timeline_has_every_event_of_its_order_and_reads_no_other() {
    for shop in [Shop::of(1), Shop::of(4)] {
        for order in shop.orders().into_iter().step_by(7) {
            let (id, payment) = (order.to_string(), PaymentId::for_order(OrderId::new(order)).uuid());
            let expected: Vec<_> = shop
                .events
                .iter()
                .filter(|event| event.stream.id == order || event.stream.id == payment || is_about(event, &id))
                .map(|event| shop.position(event))
                .collect();
            let output = shop.run(&["--explain", "timeline", &id, "-o", "ndjson"]);
            let lines = String::from_utf8(output.stdout).expect("text");
            let rows: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
            let shown: Vec<_> = rows.iter().map(|row| row["position"].as_str().expect("text").to_owned()).collect();
            let sorted = |positions: &[String]| positions.iter().cloned().collect::<BTreeSet<_>>();
            assert_eq!(sorted(&shown), sorted(&expected), "{id}");
            assert_eq!(shown.len(), expected.len());
            let said = String::from_utf8(output.stderr).expect("text");
            let looked_at = said.lines().rfind(|line| line.contains("it looked at")).expect("explained");
            let rows_read: usize = looked_at.split(' ').find_map(|word| word.parse().ok()).expect("a number");
            assert_eq!(rows_read, expected.len(), "{said}");
            assert!(rows.iter().all(|row| !row["summary"].as_str().expect("text").is_empty()));
            // The first is asked for by somebody, and what follows in the story names its cause.
            assert!(rows[0]["actor"].as_str().is_some_and(|actor| actor.starts_with("account:")));
            assert!(rows[0]["caused_by"].is_null() && rows[1]["caused_by"].is_string());
            for (index, row) in rows.iter().enumerate() {
                if let Some(cause) = row["caused_by"].as_str() {
                    let before = shown[..index].iter().any(|position| position == cause);
                    assert!(before || !shown.iter().any(|position| position == cause), "{id}: {row}");
                }
            }
        }
    }
}

#[test]
fn a_timeline_says_what_an_order_waits_for() {
    let shop = Shop::of(1);
    let ends: BTreeMap<Uuid, String> = shop
        .events
        .iter()
        .filter(|event| event.stream.kind == "order")
        .map(|event| (event.stream.id, event.event_type.to_string()))
        .collect();
    let says = |end: &str, part: &str| {
        let (order, _) = ends
            .iter()
            .find(|(_, last)| *last == end)
            .unwrap_or_else(|| panic!("no order ends with {end}"));
        let table = shop.prints(&["timeline", &order.to_string(), "-o", "table"]);
        let last = table.lines().last().expect("a line");
        assert!(last.contains(part), "{last}");
    };
    says("order.cancelled", "CANCELLED: it has ended");
    says(
        "order.awaiting_payment",
        "AWAITING_PAYMENT: it waits for the buyer to pay until 2026-02-0",
    );
    says("order.cancellation_requested", "CANCELLING: it waits for the payment provider");
    says("order.attention_needed", "NEEDS_ATTENTION: it waits for a person of the shop");
    says("order.confirmed", "CONFIRMED: the purchase has ended");
}

#[test]
fn the_stock_adds_up_at_every_moment_and_is_that_of_the_states() {
    for shop in [Shop::of(1), Shop::of(4)] {
        let number = |row: &Value, name: &str| row[name].as_u64().unwrap_or_default();
        for day in ["2026-01-05", "2026-01-09T12:00+09:00", "2026-01-20", "end"] {
            let rows = shop.objects(&["inventory", "--at", day, "-o", "ndjson"]);
            for row in &rows {
                if row["unlimited"] == json!(true) {
                    assert!(row["on_hand"].is_null());
                    continue;
                }
                let sum = number(row, "sold") + number(row, "written_off") + number(row, "on_hand");
                assert_eq!(number(row, "received"), sum, "{day}: {row}");
                assert_eq!(
                    number(row, "on_hand"),
                    number(row, "reserved") + number(row, "available"),
                    "{day}: {row}"
                );
            }
            if day != "end" {
                continue;
            }
            assert_eq!(rows.len(), 20);
            for row in &rows {
                let id = row["product"].as_str().expect("an id");
                let state = &shop.objects(&["state", "inventory", id])[0];
                assert_eq!(state["version"], row["version"]);
                assert_eq!(number(&state["state"], "on_hand"), number(row, "on_hand"));
                assert_eq!(number(&state["state"], "reserved"), number(row, "reserved"));
                assert_eq!(&shop.objects(&["inventory", id])[0], row, "one is as it is among all");
            }
        }
        assert_eq!(shop.prints(&["inventory", "--at", "2026-01-04"]), "", "before the shop began");
    }
}

#[test]
fn nothing_personal_and_no_whole_payment_key_is_shown_unless_it_is_asked_for() {
    let shop = Shop::of(1);
    let submitted = shop.first("order.payment_submitted");
    let key = payload(submitted)["payment_key"].as_str().expect("a key").to_owned();
    let id = submitted.stream.id.to_string();
    let commands: [&[&str]; 4] = [
        &["state", "order", &id],
        &["state", "purchase", &id],
        &["diff", "payment", &id, "v:1", "end"],
        &["timeline", &id],
    ];
    for command in commands {
        let plain = shop.prints(command);
        assert!(!plain.contains(&key) && !plain.contains("\"v1."), "{command:?}: {plain}");
        let revealed = shop.prints(&[&["--reveal"], command].concat());
        assert!(
            !revealed.contains("\"v1.") && !revealed.contains("⟨sealed⟩"),
            "{command:?}: {revealed}"
        );
    }
    assert!(shop.prints(&["state", "order", &id]).contains("⟨sealed⟩"));
    assert!(shop.prints(&["--reveal", "state", "order", &id]).contains("postalCode"));
    assert!(shop.prints(&["--reveal", "timeline", &id]).contains(&key));
}

#[test]
fn nothing_is_made_beside_what_is_read() {
    let shop = Shop::of(1);
    let names = || -> BTreeSet<_> {
        let entries = std::fs::read_dir(shop.scratch.path().join("data")).expect("a directory");
        entries.map(|entry| entry.expect("an entry").file_name()).collect()
    };
    let before = names();
    let id = shop.orders()[0].to_string();
    let number = payload(
        &shop
            .events
            .iter()
            .find(|event| event.event_type == "order.placed")
            .expect("an order")
            .clone(),
    )["number"]
        .clone();
    let number = number.as_str().expect("a number");
    for command in [
        &["state", "order", number][..],
        &["timeline", &id],
        &["inventory"],
        &["diff", "order", &id, "v:1", "end"],
        &["compare", "live", "live"],
    ] {
        shop.prints(command);
    }
    assert_eq!(names(), before);
}
