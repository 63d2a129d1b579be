//! What the core keeps in memory: states by name, which of them are not durable yet, and what they were before the cascade under way.

use std::hash::Hash;

use rustc_hash::FxHashMap;

/// A bounded cache that can take back one cascade, or everything that is not durable.
pub(crate) struct Cache<K, V> {
    entries: FxHashMap<K, Entry<V>>,
    capacity: usize,
    cascade: u64,
    journal: Vec<(K, V, u64)>,
    open: Vec<K>,
    committing: Vec<K>,
}

struct Entry<V> {
    value: V,
    version: u64,
    /// The turn that loaded or changed it last.
    touched: u64,
    /// The cascade that changed it last.
    cascade: u64,
    /// Which batches changed it: the open one, the committing one.
    undurable: u8,
}

const OPEN: u8 = 1;
const COMMITTING: u8 = 2;

impl<K: Hash + Eq + Clone, V: Clone> Cache<K, V> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            entries: FxHashMap::default(),
            capacity: capacity.max(1),
            cascade: 0,
            journal: Vec::new(),
            open: Vec::new(),
            committing: Vec::new(),
        }
    }

    pub(crate) fn get(&self, key: &K) -> Option<(&V, u64)> {
        self.entries.get(key).map(|entry| (&entry.value, entry.version))
    }

    pub(crate) fn contains(&self, key: &K) -> bool {
        self.entries.contains_key(key)
    }

    /// Puts in what was read from the log, or a state that nothing has happened to.
    pub(crate) fn loaded(&mut self, key: K, value: V, version: u64, turn: u64) {
        self.entries.insert(
            key,
            Entry {
                value,
                version,
                touched: turn,
                cascade: 0,
                undurable: 0,
            },
        );
    }

    /// Forgets what is read anew when it is needed; what is not durable stays.
    pub(crate) fn forget(&mut self, key: &K) {
        if self.entries.get(key).is_some_and(|entry| entry.undurable == 0) {
            self.entries.remove(key);
        }
    }

    /// Changes a value by some events, and remembers what it was. The value must be here.
    pub(crate) fn change(&mut self, key: &K, turn: u64, events: u64, change: impl FnOnce(&mut V)) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if entry.cascade != self.cascade {
            self.journal.push((key.clone(), entry.value.clone(), entry.version));
            entry.cascade = self.cascade;
        }
        entry.touched = turn;
        entry.version += events;
        change(&mut entry.value);
    }

    pub(crate) fn begin_cascade(&mut self) {
        self.cascade += 1;
        self.journal.clear();
    }

    /// Keeps what the cascade changed; it belongs to the open batch now. Tells each changed key with the version before.
    pub(crate) fn keep_cascade(&mut self, mut changed: impl FnMut(&K, u64, &V, u64)) {
        for (key, _, before) in std::mem::take(&mut self.journal) {
            if let Some(entry) = self.entries.get_mut(&key) {
                changed(&key, before, &entry.value, entry.version);
                if entry.undurable & OPEN == 0 {
                    entry.undurable |= OPEN;
                    self.open.push(key);
                }
            }
        }
    }

    /// Takes back what the cascade changed.
    pub(crate) fn undo_cascade(&mut self) {
        for (key, value, version) in std::mem::take(&mut self.journal) {
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.value = value;
                entry.version = version;
                entry.cascade = 0;
            }
        }
    }

    /// The open batch is being committed.
    pub(crate) fn seal(&mut self) {
        self.committing = std::mem::take(&mut self.open);
        for key in &self.committing {
            if let Some(entry) = self.entries.get_mut(key) {
                entry.undurable = COMMITTING;
            }
        }
    }

    /// What was being committed is durable.
    pub(crate) fn durable(&mut self) {
        for key in std::mem::take(&mut self.committing) {
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.undurable &= OPEN;
            }
        }
    }

    /// Forgets everything that is not durable: it is read anew.
    pub(crate) fn forget_undurable(&mut self) {
        let keys: Vec<K> = self.open.drain(..).chain(self.committing.drain(..)).collect();
        for key in keys {
            self.entries.remove(&key);
        }
        self.journal.clear();
    }

    /// Keeps the cache within its capacity: what was loaded or changed least recently goes, unless it is not durable yet.
    pub(crate) fn sweep(&mut self) {
        if self.entries.len() <= self.capacity + self.capacity / 4 {
            return;
        }
        let mut touched: Vec<u64> = self.entries.values().map(|entry| entry.touched).collect();
        let excess = touched.len() - self.capacity;
        let (_, limit, _) = touched.select_nth_unstable(excess);
        let limit = *limit;
        self.entries.retain(|_, entry| entry.touched > limit || entry.undurable > 0);
    }
}
