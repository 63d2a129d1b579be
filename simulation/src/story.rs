//! What happened, in order: hashed always, told only when somebody wants to read it.

/// One run's story.
#[derive(Debug)]
pub(crate) struct Story {
    hash: u64,
    told: Option<Vec<String>>,
}

impl Story {
    pub(crate) fn new(told: bool) -> Self {
        Self {
            hash: 0xcbf2_9ce4_8422_2325,
            told: told.then(Vec::new),
        }
    }

    /// Remembers that this happened at this time.
    pub(crate) fn note(&mut self, at: i64, kind: u64, what: u64, line: impl FnOnce() -> String) {
        self.mix(at.cast_unsigned());
        self.mix(kind);
        self.mix(what);
        if let Some(told) = &mut self.told {
            let (seconds, micros) = (at.div_euclid(1_000_000), at.rem_euclid(1_000_000));
            told.push(format!("{seconds:>9}.{micros:06}  {}", line()));
        }
    }

    fn mix(&mut self, value: u64) {
        self.hash = (self.hash.rotate_left(5) ^ value).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    /// Whether somebody reads it.
    pub(crate) fn is_told(&self) -> bool {
        self.told.is_some()
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn into_lines(self) -> Vec<String> {
        self.told.unwrap_or_default()
    }
}
