//! Which copy of a log it is: that is in the name of who keeps the copy, and later of who keeps the log that was given up for it.

use uuid::Uuid;

/// Has a log that is not all there yet, whatever process it is: the next one goes on with what the one before left.
const MOVER: u128 = 0x307e_0000_0000_5000_8000_0000_0000_0000;

/// Has a log that has moved.
const MOVED: u128 = 0x307e_0001_0000_5000_8000_0000_0000_0000;

/// The last twelve digits of either name say which copy.
const NUMBER: u128 = 0xffff_ffff_ffff;

/// A copy, from its first event until it is given away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CopyId(u128);

impl CopyId {
    /// That of a new copy.
    pub(super) fn new() -> Self {
        Self(Uuid::new_v4().as_u128() & NUMBER)
    }

    /// Who keeps the copy until it is complete.
    pub(super) const fn mover(self) -> Uuid {
        Uuid::from_u128(MOVER | self.0)
    }

    /// Who keeps the log that was given up for it.
    pub(super) const fn moved(self) -> Uuid {
        Uuid::from_u128(MOVED | self.0)
    }

    /// The copy that this holder keeps.
    pub(crate) fn of_mover(holder: &str) -> Option<Self> {
        Self::named(holder, MOVER)
    }

    /// The copy for which the log of this holder was given up.
    pub(crate) fn of_moved(holder: &str) -> Option<Self> {
        Self::named(holder, MOVED)
    }

    /// A store says of a holder what it knows, its instance last.
    fn named(holder: &str, who: u128) -> Option<Self> {
        let instance: Uuid = holder.rsplit(' ').next()?.parse().ok()?;
        (instance.as_u128() & !NUMBER == who).then_some(Self(instance.as_u128() & NUMBER))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_known_by_who_keeps_it_and_by_who_keeps_what_was_given_up_for_it() {
        let copy = CopyId::new();
        let (mover, moved) = (format!("instance {}", copy.mover()), format!("instance {}", copy.moved()));
        assert_eq!((CopyId::of_mover(&mover), CopyId::of_moved(&mover)), (Some(copy), None));
        assert_eq!((CopyId::of_mover(&moved), CopyId::of_moved(&moved)), (None, Some(copy)));
        for holder in ["", "process 7", "instance 307e0000", &format!("instance {}", Uuid::new_v4())] {
            assert_eq!((CopyId::of_mover(holder), CopyId::of_moved(holder)), (None, None), "{holder}");
        }
    }
}
