//! Small edits that break the engine, each of which the simulation must notice.
//!
//! A mutant is a file: why it is wrong, an empty line, the path of the file that it changes, and between `--- find`, `--- replace` and
//! `--- end` the text to find there, exactly once, and what stands there instead.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// An edit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutant {
    /// What is wrong with it.
    pub reason: String,
    /// The file that it changes, from the root of the tree.
    pub path: PathBuf,
    /// What is found there.
    pub find: String,
    /// What stands there instead.
    pub replace: String,
}

impl Mutant {
    /// Reads a mutant's text.
    ///
    /// # Errors
    /// What is missing.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (reason, rest) = text.split_once("\n\n").ok_or("no empty line after the reason")?;
        let (path, rest) = rest.split_once("\n--- find\n").ok_or("no --- find")?;
        let (find, rest) = rest.split_once("\n--- replace\n").ok_or("no --- replace")?;
        let replace = rest
            .strip_suffix("--- end\n")
            .ok_or("no --- end")
            .map(|replace| replace.strip_suffix('\n').unwrap_or(replace))?;
        Ok(Self {
            reason: reason.to_owned(),
            path: path.into(),
            find: find.to_owned(),
            replace: replace.to_owned(),
        })
    }

    /// The file as the mutant would have it.
    ///
    /// # Errors
    /// It cannot be read, or the text does not stand there exactly once.
    pub fn mutated(&self, root: &Path) -> io::Result<String> {
        let source = fs::read_to_string(root.join(&self.path))?;
        let count = source.matches(&self.find).count();
        if count != 1 {
            let text = format!("the text stands {count} times in {}", self.path.display());
            return Err(io::Error::other(text));
        }
        Ok(source.replacen(&self.find, &self.replace, 1))
    }
}
