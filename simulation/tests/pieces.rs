//! A long run is cut into pieces whose figures add up, and goes on where it was broken off.

use std::{fs, io::Write as _, process::Command};

use simulation::{
    Figures, Shards,
    pieces::{self, Piece},
    run,
};

fn simulate(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_simulation"))
        .args(arguments)
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn pieces_begin_where_others_would() {
    assert_eq!(pieces::ranges(0, 25, 10), [(0, 10), (10, 10), (20, 5)]);
    assert_eq!(pieces::ranges(7, 8, 10), [(7, 3), (10, 5)]);
    assert_eq!(pieces::ranges(3, 0, 10), []);
}

#[test]
fn a_run_that_is_taken_up_again_adds_up() {
    let scratch = tempfile::tempdir().expect("a directory");
    let path = scratch.path().join("figures.jsonl");
    let out = path.to_str().expect("a path");
    simulate(&["--seeds", "20", "--piece", "10", "--out", out]);
    // Broken off in the middle of a line.
    fs::OpenOptions::new()
        .append(true)
        .open(&path)
        .and_then(|mut file| file.write_all(br#"{"from":20,"see"#))
        .expect("written");
    simulate(&["--seeds", "30", "--piece", "10", "--out", out, "--resume"]);
    simulate(&["--seeds", "30", "--piece", "10", "--out", out, "--resume"]);
    let pieces = pieces::read(&path).expect("pieces");
    let ranges: Vec<_> = pieces.iter().map(|piece: &Piece| (piece.from, piece.seeds)).collect();
    assert_eq!(ranges, [(0, 10), (10, 10), (20, 10)]);
    assert_eq!(fs::read_to_string(&path).expect("text").lines().count(), 3);
    let (mut added, mut one_by_one) = (Figures::default(), Figures::default());
    for piece in &pieces {
        added.add(&piece.figures);
    }
    for seed in 0..30 {
        one_by_one.add(&run(seed, Shards::ONE, false).figures);
    }
    assert_eq!(added, one_by_one);
}

#[test]
fn a_piece_of_other_shards_is_another_piece() {
    let scratch = tempfile::tempdir().expect("a directory");
    let path = scratch.path().join("figures.jsonl");
    let out = path.to_str().expect("a path");
    for shards in ["1", "4", "4"] {
        simulate(&["--seeds", "10", "--piece", "10", "--shards", shards, "--out", out, "--resume"]);
    }
    let pieces = pieces::read(&path).expect("pieces");
    assert_eq!(pieces.iter().map(|piece| piece.shards).collect::<Vec<_>>(), [1, 4]);
    assert!(pieces[0].figures.messages == 0 && pieces[1].figures.messages > 0);
}

#[test]
fn one_seed_tells_its_story() {
    let story = simulate(&["--seed", "3"]);
    assert!(
        story.contains("process 1 takes the shard") && story.contains("is durable"),
        "{story}"
    );
    let story = simulate(&["--seed", "3", "--shards", "4"]);
    assert!(story.contains("process 4 takes shard 3") && story.contains("its answer"), "{story}");
}
