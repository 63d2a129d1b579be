//! What becomes of each order: a deck of plans, dealt again and again.

use super::chance::Dice;

/// What the buyer of an order does, and what the provider makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Paid from the balance, which suffices.
    Balance,
    /// Paid from a balance that is too small.
    Poor,
    /// By card, with the payment key at hand, which has this script.
    Card(&'static str),
    /// By card, paid some minutes later.
    Later,
    /// Paid a wrong amount first.
    WrongAmount,
    /// Never paid.
    Abandoned,
    /// Cancelled by the buyer before it is paid.
    CancelUnpaid,
    /// Cancelled by the shop before it is paid.
    ShopCancels,
    /// Cancelled while the provider is asked, which has charged.
    CancelCharged,
    /// Cancelled while the provider is asked, which has not.
    CancelAsked,
    /// Cancelled when it is too late.
    CancelLate,
    /// Of a page that shows yesterday's price.
    OldPrice,
    /// More than there is.
    TooMuch,
    /// Charged, and the provider is silent for so long that a person has to look.
    Silent,
    /// Still waits to be paid when the shop is looked at.
    LeftUnpaid,
    /// The provider is still being asked then.
    LeftAsked,
    /// It is still being undone then.
    LeftCancelling,
}

/// How often each plan is in the deck.
const DECK: [(Plan, usize); 20] = [
    (Plan::Balance, 81),
    (Plan::Poor, 3),
    (Plan::Card("ok"), 100),
    (Plan::Card("declined"), 7),
    (Plan::Card("insufficient"), 3),
    (Plan::Card("lost_applied"), 3),
    (Plan::Card("lost"), 1),
    (Plan::Card("5xx"), 3),
    (Plan::Card("slow"), 4),
    (Plan::Later, 24),
    (Plan::WrongAmount, 1),
    (Plan::Abandoned, 5),
    (Plan::CancelUnpaid, 4),
    (Plan::ShopCancels, 1),
    (Plan::CancelCharged, 2),
    (Plan::CancelAsked, 1),
    (Plan::CancelLate, 1),
    (Plan::OldPrice, 3),
    (Plan::TooMuch, 2),
    (Plan::Silent, 1),
];

/// With so many orders every plan comes.
#[cfg(test)]
const ALL_PLANS: u64 = 250;

/// The last orders of a shop, in the minute before it is looked at: they are under way then.
pub(super) const LEFT: [Plan; 3] = [Plan::LeftUnpaid, Plan::LeftAsked, Plan::LeftCancelling];

/// The plans that are not dealt yet.
#[derive(Debug, Default)]
pub(super) struct Deck(Vec<Plan>);

impl Deck {
    pub(super) fn deal(&mut self, dice: &mut Dice) -> Plan {
        if self.0.is_empty() {
            self.0
                .extend(DECK.iter().flat_map(|(plan, count)| std::iter::repeat_n(*plan, *count)));
            dice.shuffle(&mut self.0);
        }
        self.0.pop().unwrap_or(Plan::Balance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deck_has_every_plan_in_its_measure() {
        let (mut deck, mut dice) = (Deck::default(), Dice::new(7));
        let dealt: Vec<Plan> = (0..ALL_PLANS).map(|_| deck.deal(&mut dice)).collect();
        assert!(deck.0.is_empty());
        for (plan, count) in DECK {
            assert_eq!(dealt.iter().filter(|dealt| **dealt == plan).count(), count, "{plan:?}");
        }
    }
}
