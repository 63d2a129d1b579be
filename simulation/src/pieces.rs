//! Many seeds in pieces: each that is finished adds a line to a file, so that a long run can be broken off and taken up again.

use std::{
    collections::BTreeSet,
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::Figures;

/// A range of seeds that was run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Piece {
    /// The first seed.
    pub from: u64,
    /// How many.
    pub seeds: u64,
    /// With how many shards.
    #[serde(default = "one")]
    pub shards: u16,
    /// How many of them failed.
    pub failures: u64,
    /// How long it took, in milliseconds.
    pub milliseconds: u64,
    /// What was done.
    pub figures: Figures,
}

fn one() -> u16 {
    1
}

/// The ranges that these seeds are cut into. They begin at multiples of `size`, whatever the first seed is, so that a run that begins
/// elsewhere finds the pieces of another.
pub fn ranges(from: u64, seeds: u64, size: u64) -> Vec<(u64, u64)> {
    let (end, size) = (from.saturating_add(seeds), size.max(1));
    let mut ranges = Vec::new();
    let mut first = from;
    while first < end {
        let next = (first / size + 1).saturating_mul(size).min(end);
        ranges.push((first, next - first));
        first = next;
    }
    ranges
}

/// The pieces that a file has, each range once. A last line that was cut off does not count.
///
/// # Errors
/// The file cannot be read, or holds something else.
pub fn read(path: &Path) -> io::Result<Vec<Piece>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut known = BTreeSet::new();
    let mut pieces = Vec::new();
    let mut reader = BufReader::new(file);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 {
        if !line.ends_with('\n') {
            break;
        }
        let piece: Piece = serde_json::from_str(&line)?;
        if known.insert((piece.shards, piece.from, piece.seeds)) {
            pieces.push(piece);
        }
        line.clear();
    }
    Ok(pieces)
}

/// Adds a piece, as one line, in one write. What a run that was broken off left of a line is taken away first.
///
/// # Errors
/// The file cannot be written.
pub fn append(path: &Path, piece: &Piece) -> io::Result<()> {
    let mut line = serde_json::to_vec(piece)?;
    line.push(b'\n');
    let mut file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
    let length = whole_lines(&mut file)?;
    file.set_len(length)?;
    file.write_all(&line)?;
    file.sync_data()
}

/// How long the file is up to the end of its last whole line.
fn whole_lines(file: &mut File) -> io::Result<u64> {
    let mut length = file.seek(SeekFrom::End(0))?;
    let mut byte = [0];
    while length > 0 {
        file.seek(SeekFrom::Start(length - 1))?;
        file.read_exact(&mut byte)?;
        if byte[0] == b'\n' {
            break;
        }
        length -= 1;
    }
    Ok(length)
}
