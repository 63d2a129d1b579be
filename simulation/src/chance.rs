//! Chance that comes from a seed and from nothing else: xoshiro256**, filled by splitmix64.

/// A source of numbers that is the same for the same seed.
#[derive(Clone, Debug)]
pub(crate) struct Chance {
    state: [u64; 4],
}

impl Chance {
    /// The source that belongs to this seed.
    pub(crate) fn new(seed: u64) -> Self {
        let mut filling = seed;
        let mut next = || {
            filling = filling.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (filling ^ (filling >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        };
        Self {
            state: [next(), next(), next(), next()],
        }
    }

    /// The next 64 bits.
    pub(crate) fn bits(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let bits = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        bits
    }

    /// A number from 0 to `limit - 1`; 0 when there is no room.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        u64::try_from((u128::from(self.bits()) * u128::from(limit)) >> 64).unwrap_or_default()
    }

    /// An index of something that has so many parts.
    pub(crate) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or_default()
    }

    /// A number from `least` to `most`, both included.
    pub(crate) fn between(&mut self, least: i64, most: i64) -> i64 {
        let room = u64::try_from(most.saturating_sub(least)).unwrap_or_default().saturating_add(1);
        least.saturating_add(i64::try_from(self.below(room)).unwrap_or_default())
    }

    /// A span of time from `least` to `most` in which each order of magnitude is as likely as the next.
    pub(crate) fn span(&mut self, least: i64, most: i64) -> i64 {
        let (mut low, most) = (least.max(1), most.max(1));
        let doublings = (most / low).max(1).ilog2();
        for _ in 0..self.below(u64::from(doublings) + 1) {
            low = low.saturating_mul(2);
        }
        self.between(low.min(most), low.saturating_mul(2).min(most))
    }

    /// True in so many of a thousand cases.
    pub(crate) fn per_mille(&mut self, rate: u32) -> bool {
        rate > 0 && self.below(1_000) < u64::from(rate)
    }

    /// One of these.
    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.index(choices.len())]
    }
}
