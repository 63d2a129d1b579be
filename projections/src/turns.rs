//! A fixed number of connections that many threads use, one at a time each.

use std::{
    sync::{Condvar, Mutex, PoisonError},
    time::Duration,
};

use crate::ReadError;

/// So long a question waits for its turn.
const PATIENCE: Duration = Duration::from_secs(2);

/// Connections that are lent to one thread at a time.
#[derive(Debug)]
pub struct Turns<C> {
    /// Those that are not in use. None is one that is yet to be opened.
    idle: Mutex<Vec<Option<C>>>,
    returned: Condvar,
}

/// A connection that is lent. It goes back when this is dropped, also when its question panics.
#[derive(Debug)]
pub struct Lent<'a, C> {
    turns: &'a Turns<C>,
    /// None when it is to be opened; left so, somebody else opens it later.
    pub connection: Option<C>,
}

impl<C> Turns<C> {
    /// Lends these, and as many more as it takes to be `most`, which whoever is lent one opens.
    pub fn of(open: Vec<C>, most: usize) -> Self {
        let mut idle: Vec<Option<C>> = (open.len()..most).map(|_| None).collect();
        // The last is lent first: those that are open are used before others are opened.
        idle.extend(open.into_iter().map(Some));
        Self {
            idle: Mutex::new(idle),
            returned: Condvar::new(),
        }
    }

    /// The next that is free.
    ///
    /// # Errors
    /// [`ReadError::Busy`] when all were in use for too long.
    pub fn next(&self) -> Result<Lent<'_, C>, ReadError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut idle, _) = self
            .returned
            .wait_timeout_while(idle, PATIENCE, |idle| idle.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        let connection = idle.pop().ok_or(ReadError::Busy)?;
        Ok(Lent { turns: self, connection })
    }
}

impl<C> Drop for Lent<'_, C> {
    fn drop(&mut self) {
        let connection = self.connection.take();
        let mut idle = self.turns.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let place = if connection.is_some() { idle.len() } else { 0 };
        idle.insert(place, connection);
        self.turns.returned.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_is_lent_before_what_is_not_and_comes_back_from_whoever_panics() {
        let turns = Turns::of(vec!['a'], 2);
        let first = turns.next().expect("one");
        assert_eq!((first.connection, turns.next().expect("another").connection), (Some('a'), None));
        drop(first);
        let panics = std::thread::scope(|scope| {
            let lent = turns.next().expect("one");
            scope
                .spawn(move || {
                    assert_ne!(lent.connection, Some('a'), "of a test");
                })
                .join()
        });
        assert!(panics.is_err());
        assert_eq!(turns.next().expect("one").connection, Some('a'));
    }

    #[test]
    fn nobody_waits_without_a_bound() {
        let turns: Turns<()> = Turns::of(Vec::new(), 1);
        let _lent = turns.next().expect("one");
        assert!(matches!(turns.next(), Err(ReadError::Busy)));
    }
}
