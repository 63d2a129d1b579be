//! The keys of several nodes, in a real PostgreSQL.

use std::thread;
use std::time::{Duration, Instant};

use key_vault::conformance::Place;
use key_vault::{KeyPlace as _, KeyVault, LOOK_EVERY, Opening, Seen, VaultError};
use key_vault_postgres::{PostgresKeys, UNCHECKED};
use postgres_session::Address;
use test_servers::{Database, Postgres, Proxy};
use uuid::Uuid;

const ADDRESS: &str = "서울특별시 종로구 세종대로 175";

struct Shared(Database);

impl Place for Shared {
    fn open(&self, how: Opening) -> Result<KeyVault, VaultError> {
        PostgresKeys::open(&address(self.0.url()), how)
    }

    fn is_shared(&self) -> bool {
        true
    }
}

key_vault::conformance_suite!(Shared(Postgres::shared().database()));

fn address(url: &str) -> Address {
    url.parse().expect("an address")
}

fn made(database: &Database) -> KeyVault {
    PostgresKeys::open(&address(database.url()), Opening::Make).expect("a vault")
}

/// What the database says, on one line.
fn answer(database: &Database, question: &str) -> String {
    database.sql(question).trim_end().to_owned()
}

fn new_subject(vault: &KeyVault) -> Uuid {
    let subject = Uuid::now_v7();
    vault.create_subject(subject).expect("created");
    subject
}

fn opened(vault: &KeyVault, subject: Uuid, sealed: &str) -> Option<String> {
    vault
        .open_sealed(subject, sealed)
        .expect("it opens")
        .map(|plain| plain.as_str().to_owned())
}

/// Waits for what must come to be.
fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(15);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}, soon");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_erased_subject_never_has_a_key_again() {
    let database = Postgres::shared().database();
    let (one, other) = (made(&database), made(&database));
    let (erased, expected) = (new_subject(&one), Uuid::now_v7());
    one.erase_subject(erased).expect("erased");
    // One that was about to be made when it was erased.
    one.erase_subject(expected).expect("erased");
    // The key is still in the memory of neither, and nobody makes it a new one.
    for vault in [&one, &other, &made(&database)] {
        for subject in [erased, expected] {
            let error = vault.create_subject(subject).expect_err("it is erased");
            assert!(matches!(error, VaultError::NoSubjectKey { .. }), "{error}");
        }
    }
    one.discard_subject(erased).expect("this removes no mark");
    assert!(one.create_subject(erased).is_err());
    assert_eq!(
        answer(&database, "SELECT count(*), count(key), max(erasure) FROM subject_keys"),
        "2|0|2"
    );
}

#[test]
fn more_erasures_than_are_named_are_heard_of_too() {
    let database = Postgres::shared().database();
    let (one, other) = (made(&database), made(&database));
    let (erased, kept) = (new_subject(&one), new_subject(&one));
    let sealed = other.seal(erased, ADDRESS).expect("sealed");
    let stays = other.seal(kept, ADDRESS).expect("sealed");
    // Others were erased at the same moment, in one transaction.
    database.sql(&format!(
        "BEGIN; UPDATE vault SET erasures = 3000;
         INSERT INTO subject_keys (subject, erasure, erased_at) SELECT gen_random_uuid(), n, now() FROM generate_series(1, 2999) n;
         UPDATE subject_keys SET key = NULL, mark = NULL, erasure = 3000, erased_at = now() WHERE subject = '{erased}'; COMMIT"
    ));
    soon("it is forgotten", || opened(&other, erased, &sealed).is_none());
    assert_eq!(opened(&other, kept, &stays), Some(ADDRESS.to_owned()));
}

#[test]
fn nodes_that_rotate_at_once_rotate_once() {
    let database = Postgres::shared().database();
    let nodes: Vec<_> = (0..4).map(|_| made(&database)).collect();
    let before = nodes[0].token_keys().current().kid().to_owned();
    // Both counted from the same rotation, as two do that ask at the same moment.
    let holder = postgres_session::Session::open(&address(database.url()), "BEGIN", Duration::from_secs(5)).expect("a session");
    holder.execute("UPDATE vault SET rotations = rotations", &[]).expect("held");
    thread::scope(|scope| {
        for vault in &nodes {
            scope.spawn(move || vault.rotate_token_keys().expect("rotated"));
        }
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        soon("all wait for their turn", || answer(&database, waiting) == "4");
        holder.script("COMMIT").expect("let go");
    });
    assert_eq!(answer(&database, "SELECT rotations FROM vault"), "1");
    for vault in &nodes {
        assert_eq!(vault.token_keys().jwks(), nodes[0].token_keys().jwks());
        assert!(vault.token_keys().find(&before).is_some(), "nobody is logged out");
    }
}

#[test]
fn removed_token_keys_are_made_anew_and_all_tokens_are_void() {
    let database = Postgres::shared().database();
    let running = made(&database);
    let before = running.token_keys().current().kid().to_owned();
    database.sql("DELETE FROM shop_keys WHERE name LIKE 'token-%'");
    let started = made(&database);
    assert!(started.token_keys().find(&before).is_none());
    soon("the node that was running hears of it", || {
        running.token_keys().find(&before).is_none()
    });
    assert_eq!(running.token_keys().jwks(), started.token_keys().jwks());
}

#[test]
fn a_token_key_that_is_removed_while_nodes_run_is_believed_no_more() {
    let database = Postgres::shared().database();
    let (one, other) = (made(&database), made(&database));
    let first = one.token_keys().current().kid().to_owned();
    let second = one.rotate_token_keys().expect("rotated").current().kid().to_owned();
    soon("the other node follows", || other.knows_token_key(&second));
    // The earlier one leaked, and nobody starts anew.
    database.sql("DELETE FROM shop_keys WHERE name = 'token-previous'");
    let began = Instant::now();
    for vault in [&one, &other] {
        soon("it is believed no more", || !vault.knows_token_key(&first));
        assert!(vault.token_key(&first).expect("it can tell").is_none());
        assert!(vault.token_key(&second).expect("it can tell").is_some());
    }
    println!("a removed key was believed for {:?}", began.elapsed());
    assert!(began.elapsed() < LOOK_EVERY * 3, "{:?}", began.elapsed());
    // Without any they go on with a new one, the same on both.
    database.sql("DELETE FROM shop_keys WHERE name LIKE 'token-%'");
    for vault in [&one, &other] {
        soon("it is believed no more", || !vault.knows_token_key(&second));
    }
    soon("they agree", || one.token_keys().jwks() == other.token_keys().jwks());
    assert_ne!(one.token_keys().current().kid(), second);
    assert_eq!(answer(&database, "SELECT count(*) FROM shop_keys WHERE name LIKE 'token-%'"), "1");
}

#[test]
fn one_who_only_reads_believes_no_key_that_is_removed_and_makes_none() {
    let database = Postgres::shared().database();
    let kid = made(&database).token_keys().current().kid().to_owned();
    let reader = PostgresKeys::open(&address(database.url()), Opening::Read).expect("one who reads");
    assert!(reader.knows_token_key(&kid));
    database.sql("DELETE FROM shop_keys WHERE name LIKE 'token-%'");
    soon("it is believed no more", || !reader.knows_token_key(&kid));
    assert!(matches!(reader.token_key(&kid), Err(VaultError::Unavailable { .. })));
    assert_eq!(answer(&database, "SELECT count(*) FROM shop_keys WHERE name LIKE 'token-%'"), "0");
    let next = made(&database).token_keys().current().kid().to_owned();
    assert!(reader.token_key(&next).expect("it looked").is_some());
}

#[test]
fn a_discarded_key_is_in_no_memory_soon_also_when_there_is_another_one() {
    let database = Postgres::shared().database();
    let (one, other) = (made(&database), made(&database));
    let (gone, anew, stays) = (new_subject(&one), new_subject(&one), new_subject(&one));
    let sealed = [gone, anew, stays].map(|subject| other.seal(subject, ADDRESS).expect("sealed"));
    one.discard_subject(gone).expect("discarded");
    soon("the other node has forgotten it", || opened(&other, gone, &sealed[0]).is_none());
    // A moment later it has another key: the other node must not go on with the one before.
    one.discard_subject(anew).expect("discarded");
    one.create_subject(anew).expect("made anew");
    soon("the other node has the new one", || other.open_sealed(anew, &sealed[1]).is_err());
    let text = other.seal(anew, ADDRESS).expect("sealed");
    assert_eq!(opened(&one, anew, &text), Some(ADDRESS.to_owned()));
    assert_eq!(opened(&other, stays, &sealed[2]), Some(ADDRESS.to_owned()));
    // Erased after that it is erased for good.
    one.discard_subject(gone).expect("discarding again changes nothing");
    one.erase_subject(gone).expect("erased");
    assert!(matches!(other.create_subject(gone), Err(VaultError::NoSubjectKey { .. })));
}

#[test]
fn what_was_discarded_is_remembered_for_no_longer_than_it_is_asked_for() {
    let database = Postgres::shared().database();
    let vault = made(&database);
    let (discarded, erased) = (new_subject(&vault), new_subject(&vault));
    vault.discard_subject(discarded).expect("discarded");
    vault.erase_subject(erased).expect("erased");
    database.sql("UPDATE vault SET erasures = erasures + 5000");
    vault.discard_subject(new_subject(&vault)).expect("discarded");
    let left = answer(&database, "SELECT count(*), count(*) FILTER (WHERE discarded) FROM subject_keys");
    assert_eq!(left, "2|1", "the erased one, and the one of just now");
    assert!(vault.create_subject(discarded).expect("made"), "it may have another key");
}

#[test]
fn a_node_that_is_cut_off_opens_nothing_for_long() {
    let server = Postgres::start();
    let database = server.database();
    let proxy = Proxy::to(server.address());
    let one = made(&database);
    let cut_off = PostgresKeys::open(&address(&database.url_at(proxy.address())), Opening::Make).expect("the vault");
    let subject = new_subject(&one);
    let sealed = cut_off.seal(subject, ADDRESS).expect("sealed");
    let kid = one.token_keys().current().kid().to_owned();
    proxy.cut();
    let began = Instant::now();
    one.erase_subject(subject).expect("erased");
    while cut_off.open_sealed(subject, &sealed).is_ok() {
        assert!(began.elapsed() < UNCHECKED.subjects + Duration::from_secs(2), "it opens for ever");
        thread::sleep(Duration::from_millis(10));
    }
    println!("opened for {:?} after the erasure", began.elapsed());
    let error = cut_off.open_sealed(subject, &sealed).expect_err("it cannot tell");
    assert!(matches!(error, VaultError::Unavailable { .. }), "{error}");
    assert!(cut_off.token_key(&kid).expect("for a minute").is_some(), "the shop goes on");
    proxy.mend();
    soon("it hears of it", || {
        cut_off.open_sealed(subject, &sealed).is_ok_and(|plain| plain.is_none())
    });
}

#[test]
fn a_look_costs_next_to_nothing() {
    const LOOKS: u32 = 200;
    let database = Postgres::shared().database();
    let vault = made(&database);
    for _ in 0..20 {
        vault.erase_subject(new_subject(&vault)).expect("erased");
    }
    let place = PostgresKeys::at(&address(database.url())).expect("threads");
    let mut seen = Seen::default();
    place.changes(&mut seen).expect("looked");
    let began = Instant::now();
    for _ in 0..LOOKS {
        place.changes(&mut seen).expect("looked");
    }
    let each = began.elapsed() / LOOKS;
    println!("a look took {each:?}");
    assert!(each < LOOK_EVERY / 20, "{each:?}");
}

#[test]
fn a_missing_or_damaged_key_is_refused_by_name() {
    let damages = [
        ("the index key", "DELETE FROM shop_keys WHERE name = 'index'"),
        (
            "the fingerprint key",
            "UPDATE shop_keys SET key = set_byte(key, 3, 255 - get_byte(key, 3)) WHERE name = 'fingerprint'",
        ),
        (
            "the token-current key",
            "UPDATE shop_keys AS t SET key = o.key, mark = o.mark FROM shop_keys AS o WHERE t.name = 'token-current' AND o.name = 'index'",
        ),
    ];
    for (name, damage) in damages {
        let database = Postgres::shared().database();
        drop(made(&database));
        database.sql(damage);
        for how in [Opening::Make, Opening::Existing, Opening::Read] {
            let error = PostgresKeys::open(&address(database.url()), how).expect_err("it is refused");
            assert!(
                matches!(error, VaultError::Damaged { .. } | VaultError::Missing { .. }),
                "{error:?}"
            );
            let line = error.to_string();
            assert!(
                line.contains(name) && line.contains(database.name()) && line.contains("backup"),
                "{line}"
            );
        }
    }
}

#[test]
fn a_damaged_subject_key_is_an_error_and_no_erasure() {
    let database = Postgres::shared().database();
    let vault = made(&database);
    let (one, other) = (new_subject(&vault), new_subject(&vault));
    let sealed = vault.seal(one, ADDRESS).expect("sealed");
    database.sql(&format!(
        "UPDATE subject_keys AS t SET key = o.key, mark = o.mark FROM subject_keys AS o WHERE t.subject = '{one}' AND o.subject = '{other}'"
    ));
    let vault = made(&database);
    for error in [vault.open_sealed(one, &sealed).err(), vault.create_subject(one).err()] {
        assert!(
            matches!(&error, Some(VaultError::Damaged { key, .. }) if key.contains(&one.to_string())),
            "{error:?}"
        );
    }
    let folder = tempfile::tempdir().expect("a scratch directory");
    assert!(matches!(
        vault.copy_to(&folder.path().join("keys")),
        Err(VaultError::Damaged { .. })
    ));
}

#[test]
fn a_server_that_is_gone_is_said_to_be_and_is_used_again_when_it_is_back() {
    let mut server = Postgres::start();
    let database = server.database();
    let vault = made(&database);
    let subject = new_subject(&vault);
    let sealed = vault.seal(subject, ADDRESS).expect("sealed");
    let before = vault.token_keys().current().kid().to_owned();

    server.kill();
    // What is in memory goes on for a while: the last look is young.
    assert_eq!(opened(&vault, subject, &sealed), Some(ADDRESS.to_owned()));
    let errors = [
        vault.create_subject(Uuid::now_v7()).err(),
        vault.seal(Uuid::now_v7(), ADDRESS).err(),
        vault.erase_subject(subject).err(),
        vault.rotate_token_keys().err(),
        PostgresKeys::open(&address(database.url()), Opening::Make).err(),
    ];
    for error in errors {
        assert!(matches!(error, Some(VaultError::Unavailable { .. })), "{error:?}");
        let line = error.expect("an error").to_string();
        assert!(line.contains("postgres://jangbu@127.0.0.1") && line.lines().count() == 1, "{line}");
    }
    assert_eq!(vault.token_keys().current().kid(), before);

    server.restart();
    let later = Uuid::now_v7();
    soon("keys are made again", || vault.create_subject(later).is_ok());
    assert_eq!(opened(&made(&database), subject, &sealed), Some(ADDRESS.to_owned()));
    vault.rotate_token_keys().expect("rotated");
}

#[test]
fn sessions_that_the_server_ended_are_replaced_unnoticed() {
    let database = Postgres::shared().database();
    let vault = made(&database);
    for _ in 0..5 {
        new_subject(&vault);
        database.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'jangbu keys'");
    }
    assert_eq!(answer(&database, "SELECT count(*) FROM subject_keys"), "5");
}

#[test]
fn whoever_waits_for_a_silent_server_holds_up_nobody_else() {
    let server = Postgres::start();
    let database = server.database();
    let subject = new_subject(&made(&database));
    let proxy = Proxy::to(server.address());
    let vault = PostgresKeys::open(&address(&database.url_at(proxy.address())), Opening::Existing).expect("the vault");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    proxy.hold();
    let (slowest_tick, refused) = runtime.block_on(async {
        let sealing: Vec<_> = (0..16)
            .map(|_| {
                let vault = vault.clone();
                // As a handler does: in its task, without a thread of its own.
                tokio::spawn(async move { vault.seal(subject, ADDRESS).err() })
            })
            .collect();
        let ticking = tokio::spawn(async {
            let mut slowest = Duration::ZERO;
            for _ in 0..100 {
                let began = Instant::now();
                tokio::time::sleep(Duration::from_millis(10)).await;
                slowest = slowest.max(began.elapsed());
            }
            slowest
        });
        let mut refused = Vec::new();
        for task in sealing {
            refused.push(task.await.expect("no panic"));
        }
        (ticking.await.expect("no panic"), refused)
    });
    assert!(slowest_tick < Duration::from_secs(1), "{slowest_tick:?}");
    for error in refused {
        assert!(matches!(error, Some(VaultError::Unavailable { .. })), "{error:?}");
    }
    // Soon after that nobody waits at all, but for the few that find out.
    let began = Instant::now();
    assert!(vault.seal(Uuid::now_v7(), ADDRESS).is_err());
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    proxy.mend();
    soon("it seals again", || vault.seal(subject, ADDRESS).is_ok());
}

#[test]
fn a_task_on_a_single_thread_may_ask_too() {
    let database = Postgres::shared().database();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let vault = made(&database);
        let subject = new_subject(&vault);
        let sealed = vault.seal(subject, ADDRESS).expect("sealed");
        assert_eq!(opened(&made(&database), subject, &sealed), Some(ADDRESS.to_owned()));
        assert!(vault.token_key("invented").expect("it can tell").is_none());
    });
}

#[test]
fn a_shop_moves_from_a_directory_into_a_database() {
    let folder = tempfile::tempdir().expect("a scratch directory");
    let dir = folder.path().join("keys");
    let before = KeyVault::open(&dir).expect("a vault");
    let people: Vec<(Uuid, String)> = (0..1100)
        .map(|_| {
            let subject = new_subject(&before);
            (subject, before.seal(subject, ADDRESS).expect("sealed"))
        })
        .collect();
    before.rotate_token_keys().expect("rotated");
    let database = Postgres::shared().database();
    let place = || PostgresKeys::at(&address(database.url())).expect("threads");
    // Done twice, as after an interruption.
    for _ in 0..2 {
        let after = KeyVault::restore_in(&dir, place()).expect("restored");
        assert_eq!(after.blind_index("a@b.c"), before.blind_index("a@b.c"));
        assert_eq!(after.fingerprint(&[b"a"]), before.fingerprint(&[b"a"]));
        assert_eq!(after.token_keys().jwks(), before.token_keys().jwks());
        for (subject, sealed) in &people {
            assert_eq!(opened(&after, *subject, sealed), Some(ADDRESS.to_owned()));
        }
    }
    // Whoever is erased since then does not come back with a backup.
    made(&database).erase_subject(people[0].0).expect("erased");
    assert!(matches!(KeyVault::restore_in(&dir, place()), Err(VaultError::Taken { .. })));
    let other = KeyVault::open(&folder.path().join("other")).expect("another shop");
    new_subject(&other);
    assert!(matches!(
        KeyVault::restore_in(&folder.path().join("other"), place()),
        Err(VaultError::Taken { .. })
    ));
}

#[test]
fn keys_go_from_place_to_place_without_a_copy_in_between_and_what_was_interrupted_is_finished() {
    let folder = tempfile::tempdir().expect("a scratch directory");
    let before = KeyVault::open(&folder.path().join("keys")).expect("a vault");
    let mut people = Vec::new();
    let mut register = |many: usize| {
        for _ in 0..many {
            let subject = new_subject(&before);
            people.push((subject, before.seal(subject, ADDRESS).expect("sealed")));
        }
        people.clone()
    };
    let same = |after: &KeyVault, people: &[(Uuid, String)]| {
        assert_eq!(after.blind_index("a@b.c"), before.blind_index("a@b.c"));
        assert_eq!(after.token_keys().jwks(), before.token_keys().jwks());
        for (subject, sealed) in people {
            assert_eq!(opened(after, *subject, sealed), Some(ADDRESS.to_owned()));
        }
    };
    before.rotate_token_keys().expect("rotated");
    let (first, second) = (Postgres::shared().database(), Postgres::shared().database());
    let place = |database: &Database| PostgresKeys::at(&address(database.url())).expect("threads");
    let directory = folder.path().join("back/keys");
    // What an earlier one left, who was interrupted.
    std::fs::create_dir_all(folder.path().join("back/keys.part/subjects/00")).expect("made");
    for many in [1100, 3] {
        let people = register(many);
        let in_first = before.copy_in(place(&first)).expect("from a directory into a database");
        let in_second = in_first.copy_in(place(&second)).expect("from one database into another");
        let in_directory = in_second.copy_in_directory(&directory).expect("back into a directory");
        for vault in [&in_first, &in_second, &in_directory] {
            same(vault, &people);
            assert!(vault.has_all_of(&before).expect("read") && before.has_all_of(vault).expect("read"));
        }
        assert!(!folder.path().join("back/keys.part").exists());
    }
    // Who was erased meanwhile would have a key again, and keys of others are nobody's to add to.
    let gone = register(0)[0].0;
    before.erase_subject(gone).expect("erased");
    assert!(matches!(before.copy_in(place(&first)), Err(VaultError::Taken { .. })));
    assert!(matches!(before.copy_in_directory(&directory), Err(VaultError::Taken { .. })));
    let other = folder.path().join("other");
    std::fs::create_dir_all(&other).expect("made");
    std::fs::write(other.join("notes"), "mine").expect("written");
    assert!(matches!(before.copy_in_directory(&other), Err(VaultError::NotEmpty { .. })));
    std::fs::create_dir_all(folder.path().join("new.part")).expect("made");
    std::fs::write(folder.path().join("new.part/notes"), "mine").expect("written");
    assert!(matches!(
        before.copy_in_directory(&folder.path().join("new")),
        Err(VaultError::Foreign { .. })
    ));
    assert!(other.join("notes").exists() && folder.path().join("new.part/notes").exists());
}

#[test]
fn a_role_that_only_reads_opens_and_makes_nothing() {
    let database = Postgres::shared().database();
    let vault = made(&database);
    let subject = new_subject(&vault);
    let sealed = vault.seal(subject, ADDRESS).expect("sealed");
    let role = format!("{}_reader", database.name());
    database.sql(&format!(
        "CREATE ROLE {role} LOGIN PASSWORD 'hunter2'; GRANT SELECT ON jangbu_schemas, vault, shop_keys, subject_keys TO {role}"
    ));
    let url = database.url().replace("postgres://jangbu@", &format!("postgres://{role}:hunter2@"));
    let place = PostgresKeys::at(&address(&url)).expect("threads");
    assert!(!format!("{place} {place:?}").contains("hunter2"));
    let reader = KeyVault::open_in(place, Opening::Read).expect("one who reads");
    assert_eq!(opened(&reader, subject, &sealed), Some(ADDRESS.to_owned()));
    for error in [
        reader.create_subject(Uuid::now_v7()).err(),
        reader.erase_subject(subject).err(),
        reader.rotate_token_keys().err(),
    ] {
        assert!(matches!(&error, Some(VaultError::Refused { .. })), "{error:?}");
        assert!(!error.expect("an error").to_string().contains("hunter2"));
    }
    drop(reader);
    database.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[test]
fn a_newer_schema_is_refused_with_a_line_that_says_so() {
    let database = Postgres::shared().database();
    drop(made(&database));
    database.sql("UPDATE jangbu_schemas SET version = 99 WHERE name = 'keys'");
    let error = PostgresKeys::open(&address(database.url()), Opening::Existing).expect_err("it is newer");
    assert!(
        matches!(&error, VaultError::Refused { reason, .. } if reason.contains("99")),
        "{error}"
    );
}

#[test]
fn keys_are_durable_whatever_the_server_defaults_to() {
    let mut server = Postgres::start_with(&[("synchronous_commit", "off"), ("wal_writer_delay", "10s")]);
    let database = server.database();
    let vault = made(&database);
    let subjects: Vec<Uuid> = (0..10).map(|_| new_subject(&vault)).collect();
    vault.erase_subject(subjects[0]).expect("erased");
    server.kill();
    server.restart();
    assert_eq!(answer(&database, "SELECT count(*), count(key) FROM subject_keys"), "10|9");
}
