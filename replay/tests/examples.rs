//! The examples of every command's help, run as a reader would run them: in a shell, where the shop is in ./data.

#[path = "../../verify/tests/world/mod.rs"]
mod world;

use std::{
    path::Path,
    process::{Command, Output},
    sync::Arc,
    time::{Duration, Instant},
};

use event_store_sqlite::SqliteStore;
use projections::{Runner, RunnerSettings};
use projections_sqlite::SqliteViews;
use tempfile::TempDir;
use world::World;

fn shop() -> TempDir {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let data = scratch.path().join("data");
    let store = SqliteStore::open(&data).expect("a log");
    let (writer, _) = SqliteViews::open(&data).expect("views");
    let views = Runner::start(Arc::new(store.clone()), Box::new(writer), RunnerSettings::default()).expect("a runner");
    let mut world = World::open(&store);
    world.live();
    // Nothing is under way any more.
    world.wait(Duration::from_hours(24));
    world.settle();
    let begun = Instant::now();
    while views.progress().borrow().position(0) < world.head() {
        assert!(begun.elapsed() < Duration::from_mins(1), "{:?}", views.progress().borrow());
        std::thread::sleep(Duration::from_millis(5));
    }
    views.stop();
    scratch
}

fn shell(directory: &Path, line: &str) -> Output {
    let binary = Path::new(env!("CARGO_BIN_EXE_replay"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut first = binary.parent().expect("a directory").as_os_str().to_owned();
    first.push(":");
    first.push(path);
    Command::new("sh")
        .args(["-c", line])
        .current_dir(directory)
        .env("PATH", first)
        .env_remove("JANGBU_TIME_ZONE")
        .env_remove("JANGBU_STORE")
        .output()
        .expect("a shell")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

/// The lines between `Examples:` and the next empty one.
fn examples(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Examples:").skip(1);
    lines
        .take_while(|line| !line.trim().is_empty())
        .map(|line| line.trim().to_owned())
        .collect()
}

#[test]
fn every_example_of_the_help_runs() {
    let shop = shop();
    let help = text(&shell(shop.path(), "replay --help").stdout);
    let commands = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty());
    let mut commands: Vec<_> = commands
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert!(commands.len() >= 14, "{help}");
    commands.push("");
    let mut run = 0;
    for command in commands {
        let help = text(&shell(shop.path(), &format!("replay {command} --help")).stdout);
        let examples = examples(&help);
        assert!(!examples.is_empty(), "{command}: {help}");
        for line in examples {
            let output = shell(shop.path(), &line);
            assert!(output.status.success(), "{line}: {} {}", text(&output.stdout), text(&output.stderr));
            assert!(
                !output.stdout.is_empty() || line.contains('>') || line.contains("--dir"),
                "{line} printed nothing"
            );
            // What is good to know is said, and nothing that went wrong.
            let said = text(&output.stderr);
            assert!(
                said.lines().all(|line| line.starts_with("replay: ")) && !said.contains("error"),
                "{line}: {said}"
            );
            run += 1;
        }
    }
    assert!(run >= 25, "{run}");
    // A reader changes nothing.
    let kept = ["log.db", "views.db"].map(|name| shop.path().join("data").join(name).exists());
    assert_eq!(kept, [true, true]);
}

#[test]
fn completions_and_manual_pages_name_every_command() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    for name in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let output = shell(scratch.path(), &format!("replay completions {name}"));
        let script = text(&output.stdout);
        assert!(
            output.status.success() && script.contains("timeline") && script.contains("correlation"),
            "{name}"
        );
    }
    assert!(shell(scratch.path(), "replay completions bash > r && bash -n r").status.success());
    assert_eq!(shell(scratch.path(), "replay completions csh").status.code(), Some(1));
    let page = text(&shell(scratch.path(), "replay man").stdout);
    assert!(
        page.contains(".TH replay 1") && page.contains("JANGBU_TIME_ZONE") && !page.contains("help(1)"),
        "{page}"
    );
    assert!(shell(scratch.path(), "replay man --dir pages/of/replay").status.success());
    for command in [
        "replay",
        "replay-cat",
        "replay-tail",
        "replay-types",
        "replay-schema",
        "replay-timeline",
    ] {
        let page = std::fs::read_to_string(scratch.path().join(format!("pages/of/replay/{command}.1"))).expect("a page");
        assert!(page.contains(".TH replay") && page.contains(".SH OPTIONS"), "{page}");
    }
    let unwritable = shell(scratch.path(), "echo x > file && replay man --dir file/pages");
    assert_eq!(unwritable.status.code(), Some(1));
    assert_eq!(text(&unwritable.stderr).lines().count(), 1);
}
