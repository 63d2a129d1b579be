//! Balances, and how they came to be what they are.

use aggregates::{AccountId, CommerceEvent, Money, OrderId, Recorded, WalletEvent};
use uuid::Uuid;

use crate::{EntryKind, Projection, WalletEntry, WalletView};

/// One row per wallet: its balance.
#[derive(Debug)]
pub struct Wallets;

impl Projection for Wallets {
    const NAME: &'static str = "wallets_v1";
    type View = WalletView;

    fn key(event: &CommerceEvent) -> Option<Uuid> {
        if let CommerceEvent::Wallet(id, _) = event {
            Some(id.uuid())
        } else {
            None
        }
    }

    fn id(view: &WalletView) -> Uuid {
        view.account.uuid()
    }

    fn version(view: &WalletView) -> u64 {
        view.version
    }

    fn apply(view: Option<WalletView>, recorded: &Recorded) -> Option<WalletView> {
        let Some(CommerceEvent::Wallet(account, event)) = &recorded.event else {
            return view;
        };
        let balance = match event {
            WalletEvent::Opened { currency } => Some(Money::zero(*currency)),
            WalletEvent::Deposited { amount } | WalletEvent::Credited { amount, .. } => view?.balance.checked_add(*amount).ok(),
            WalletEvent::Debited { amount, .. } => view?.balance.checked_sub(*amount).ok(),
            // A process that asked an account without a wallet was answered: a stream, but nothing to show.
            WalletEvent::DebitRefused { amount, .. } => Some(view.map_or(Money::zero(amount.currency()), |view| view.balance)),
        };
        Some(WalletView {
            account: *account,
            version: recorded.sequence,
            balance: balance?,
        })
    }
}

/// One row per change of a balance; an event makes one row or none.
#[derive(Debug)]
pub struct WalletEntries;

impl WalletEntries {
    /// Names the view and its shape.
    pub const NAME: &'static str = "wallet_entries_v1";

    /// The row that this event adds.
    pub fn entry(recorded: &Recorded) -> Option<WalletEntry> {
        let Some(CommerceEvent::Wallet(account, event)) = &recorded.event else {
            return None;
        };
        match event {
            WalletEvent::Deposited { amount } => Some(entry(*account, recorded, EntryKind::Deposit, *amount, None)),
            WalletEvent::Debited { amount, order, .. } => Some(entry(*account, recorded, EntryKind::Debit, *amount, Some(*order))),
            WalletEvent::Credited { amount, order, .. } => Some(entry(*account, recorded, EntryKind::Credit, *amount, Some(*order))),
            WalletEvent::Opened { .. } | WalletEvent::DebitRefused { .. } => None,
        }
    }
}

fn entry(account: AccountId, recorded: &Recorded, kind: EntryKind, amount: Money, order: Option<OrderId>) -> WalletEntry {
    WalletEntry {
        account,
        sequence: recorded.sequence,
        at: recorded.at,
        kind,
        amount,
        order,
    }
}

#[cfg(test)]
mod tests {
    use aggregates::{Currency, PaymentId};

    use super::*;
    use crate::projection::given::{fold, recorded};

    fn won(amount: i64) -> Money {
        Money::new(amount, Currency::KRW)
    }

    fn order() -> OrderId {
        OrderId::new(Uuid::from_u128(7))
    }

    fn story() -> Vec<CommerceEvent> {
        let payment = PaymentId::for_order(order());
        let order = order();
        [
            WalletEvent::Opened { currency: Currency::KRW },
            WalletEvent::Deposited { amount: won(20_000) },
            WalletEvent::Debited {
                payment,
                order,
                amount: won(15_000),
            },
            WalletEvent::DebitRefused {
                payment,
                order,
                amount: won(15_000),
            },
            WalletEvent::Credited {
                payment,
                order,
                amount: won(15_000),
            },
        ]
        .map(|event| CommerceEvent::Wallet(AccountId::new(Uuid::from_u128(3)), event))
        .into()
    }

    #[test]
    fn a_balance_is_what_came_in_less_what_went_out() {
        let balances: Vec<_> = (1..=5)
            .map(|n| fold::<Wallets>(story().into_iter().take(n)).map(|view| view.balance.minor()))
            .collect();
        assert_eq!(balances, [Some(0), Some(20_000), Some(5_000), Some(5_000), Some(20_000)]);
    }

    #[test]
    fn a_refused_debit_makes_no_entry() {
        let entries: Vec<_> = recorded(story())
            .iter()
            .filter_map(WalletEntries::entry)
            .map(|e| (e.sequence, e.kind, e.amount.minor(), e.order))
            .collect();
        assert_eq!(
            entries,
            [
                (2, EntryKind::Deposit, 20_000, None),
                (3, EntryKind::Debit, 15_000, Some(order())),
                (5, EntryKind::Credit, 15_000, Some(order())),
            ]
        );
    }

    #[test]
    fn more_than_can_be_counted_does_not_fit() {
        let deposit = |amount| CommerceEvent::Wallet(AccountId::default(), WalletEvent::Deposited { amount: won(amount) });
        let opened = CommerceEvent::Wallet(AccountId::default(), WalletEvent::Opened { currency: Currency::KRW });
        assert_eq!(fold::<Wallets>([opened, deposit(i64::MAX), deposit(1)]), None);
    }
}
