//! Views folded beside the live ones, and compared with them.

use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use aggregates::{AccountId, Currency, Money, ProductId};
use projections::{Changed, InventoryView, Table as _, ViewsBatch, ViewsLook as _, ViewsWriter as _, WalletView, each_row};
use projections_sqlite::{SqliteViews, ViewsFile};
use tempfile::TempDir;
use uuid::Uuid;

struct Shop {
    scratch: TempDir,
}

impl Shop {
    fn of(shards: u16) -> Self {
        let shop = Self {
            scratch: tempfile::tempdir().expect("a scratch directory"),
        };
        jangbu::generate::shop(&shop.path("data"), 200, 3, shards).expect("a shop");
        shop
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_replay"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("JANGBU_") {
                command.env_remove(name);
            }
        }
        command
            .current_dir(self.scratch.path())
            .args(arguments)
            .output()
            .expect("the binary runs")
    }

    /// The exit code and both outputs.
    fn ends(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = self.run(arguments);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (output.status.code().expect("it ends"), text(output.stdout), text(output.stderr))
    }

    fn rebuild(&self, into: &str, more: &[&str]) -> String {
        let (code, printed, said) = self.ends(&[&["rebuild", "--shadow", "--into", into], more].concat());
        assert_eq!(code, 0, "{said}");
        assert!(said.contains(" events folded into "), "{said}");
        printed
    }
}

fn bytes(path: &Path) -> Vec<u8> {
    fs::read(path).expect("a file")
}

#[test]
fn views_that_are_folded_again_are_equal_to_the_live_ones() {
    for shop in [Shop::of(1), Shop::of(4)] {
        let live = bytes(&shop.path("data/views.db"));
        let first = shop.rebuild("again", &["-o", "csv"]);
        assert_eq!(first, shop.rebuild("sub/once-more.db", &["-o", "csv"]), "the same hashes");
        assert_eq!(first.lines().next(), Some("view,rows,hash"), "{first}");
        assert_eq!(first.lines().count(), 10, "{first}");
        assert_eq!(bytes(&shop.path("data/views.db")), live, "the live ones stay as they are");
        for (one, other) in [
            ("live", "again"),
            ("again", "live"),
            ("data", "sub/once-more.db"),
            ("again/views.db", "again"),
        ] {
            let (code, printed, said) = shop.ends(&["compare", one, other]);
            assert_eq!((code, printed.as_str()), (0, ""), "{said}");
            assert!(said.starts_with("replay: equal: "), "{said}");
        }
        assert!(!shop.path("again/views.db-wal").exists() && !shop.path("again/views.db-shm").exists());
    }
}

#[test]
fn nothing_is_written_over() {
    let shop = Shop::of(1);
    let refused = |into: &str, part: &str| {
        let (code, printed, said) = shop.ends(&["rebuild", "--shadow", "--into", into]);
        assert!(
            code == 1 && printed.is_empty() && said.contains(part) && said.lines().count() == 1,
            "{into}: {code} {said}"
        );
    };
    let live = bytes(&shop.path("data/views.db"));
    refused("data", "is not empty");
    refused("data/views.db", "is there already");
    assert_eq!(bytes(&shop.path("data/views.db")), live);
    fs::write(shop.path("file"), "mine").expect("written");
    refused("file", "cannot be used");
    let (code, _, said) = shop.ends(&["rebuild", "--into", "again"]);
    assert!(code == 1 && said.contains("--shadow"), "{said}");
    let (code, _, said) = shop.ends(&["rebuild", "--shadow", "--into", "again", "--to", "pos:9999999"]);
    assert!(code == 1 && said.contains("behind the end"), "{said}");
    assert!(!shop.path("again").exists());
}

#[test]
fn views_of_two_moments_or_two_logs_are_not_compared() {
    let shop = Shop::of(1);
    shop.rebuild("then", &["--to", "pos:1000"]);
    let (code, printed, said) = shop.ends(&["compare", "live", "then"]);
    assert_eq!((code, printed.as_str()), (3, ""));
    assert!(
        said.contains("not at the same position: ") && said.contains(" and 1000 (") && said.lines().count() == 1,
        "{said}"
    );
    // At the same position they are equal.
    shop.rebuild("then.db", &["--to", "pos:1000"]);
    assert_eq!(shop.ends(&["compare", "then", "then.db"]).0, 0);
    jangbu::generate::shop(&shop.path("other"), 200, 4, 1).expect("a shop");
    let (code, _, said) = shop.ends(&["compare", "live", "other"]);
    assert!(code == 3 && said.contains("two different logs"), "{said}");
}

/// Changes one balance, and adds the stock of a product that there is not. Returns whose balance it is.
fn alter(file: &Path) -> Uuid {
    let views = ViewsFile::open(file).expect("views");
    let wallets = views.tables().iter().find(|table| table.name() == "wallets_v1").expect("balances");
    let mut id = None;
    each_row(&views, wallets, &mut |row| {
        id = row.key().parse().ok();
        ControlFlow::Break(())
    })
    .expect("read");
    let id: Uuid = id.expect("a balance");
    drop(views);
    let (mut writer, _) = SqliteViews::open(file.parent().expect("its directory")).expect("views");
    let mut wallets: Vec<WalletView> = writer.load(&[id]).expect("read");
    wallets[0].balance = Money::new(1, Currency::KRW);
    let stock = InventoryView {
        product: ProductId::new(Uuid::nil()),
        version: 1,
        seller: AccountId::new(Uuid::nil()),
        unlimited: false,
        on_hand: 1,
        reserved: 0,
    };
    let batch = ViewsBatch {
        wallets: vec![Changed {
            view: &wallets[0],
            fresh: false,
        }],
        inventories: vec![Changed { view: &stock, fresh: true }],
        ..ViewsBatch::default()
    };
    writer.save(&batch).expect("saved");
    id
}

#[test]
fn a_row_that_differs_is_named_with_where_it_does() {
    let shop = Shop::of(1);
    fs::create_dir(shop.path("altered")).expect("a directory");
    let altered = shop.path("altered/views.db");
    fs::copy(shop.path("data/views.db"), &altered).expect("copied");
    let id = alter(&altered);

    let (code, printed, said) = shop.ends(&["compare", "live", "altered", "-o", "csv"]);
    assert_eq!(code, 2, "{said}");
    let row = printed.lines().find(|line| line.starts_with("wallets_v1")).expect("the wallet");
    assert!(
        row.starts_with(&format!("wallets_v1,{id},/balance/amount,")) && row.ends_with(",1"),
        "{row}"
    );
    assert!(
        printed
            .lines()
            .any(|line| line.starts_with("inventories_v1,") && line.ends_with(",nothing,a row")),
        "{printed}"
    );
    assert!(said.contains("different: 2 of "), "{said}");
    let (code, printed, said) = shop.ends(&["compare", "altered", "live", "--keep", "1", "-o", "ndjson"]);
    assert_eq!((code, printed.lines().count()), (2, 1), "all are counted: {said}");
    assert!(said.contains("different: 2 of "), "{said}");
}

#[test]
fn what_is_no_file_of_views_is_told_in_a_line() {
    let shop = Shop::of(1);
    fs::write(
        shop.path("notes.db"),
        "these are no views, but they are long enough to be looked at twice",
    )
    .expect("written");
    fs::write(shop.path("empty.db"), "").expect("written");
    let mut torn = bytes(&shop.path("data/views.db"));
    torn.truncate(torn.len() / 2);
    fs::write(shop.path("torn.db"), &torn).expect("written");
    for (file, part) in [
        ("missing", "does not exist"),
        ("notes.db", "is not a file of views"),
        ("empty.db", "holds the views of another version"),
        ("data/log.db", "is not a file of views"),
        ("torn.db", "torn.db"),
    ] {
        let (code, printed, said) = shop.ends(&["compare", "live", file]);
        assert!(
            code == 1 && said.contains(part) && said.lines().count() == 1,
            "{file}: {code} {said}{printed}"
        );
    }
    let made = SqliteViews::create(&shop.path("fresh.db")).expect("views");
    drop(made);
    assert!(ViewsFile::open(&shop.path("fresh.db")).expect("views").log().is_none());
    assert_eq!(shop.ends(&["compare", "live", "fresh.db"]).0, 3);
}
