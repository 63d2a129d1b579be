//! A wallet as the sum of what came and went.

use aggregates::{Class, Currency, Money, PaymentId, Wallet, WalletCommand as Ask, WalletEvent as Event};
use proptest::prelude::*;

use crate::{Expected, Model, config, id, money, order, steps, walk};

/// What moved, payment by payment.
#[derive(Default)]
struct Purse {
    currency: Option<Currency>,
    deposits: Vec<i64>,
    taken: Vec<(PaymentId, i64)>,
    given_back: Vec<(PaymentId, i64)>,
}

impl Purse {
    fn balance(&self) -> i128 {
        let sum = |moved: &[(PaymentId, i64)]| moved.iter().map(|(_, amount)| i128::from(*amount)).sum::<i128>();
        let deposits: i128 = self.deposits.iter().copied().map(i128::from).sum();
        deposits - sum(&self.taken) + sum(&self.given_back)
    }

    fn deposit(&mut self, amount: Money) -> Expected<Event> {
        self.ours(amount)?;
        if amount.minor() < 1 {
            return Err((Class::Rule, "amount-not-positive"));
        }
        if self.balance() + i128::from(amount.minor()) > i128::from(Money::MAX_MINOR) {
            return Err((Class::Rule, "balance-too-large"));
        }
        self.deposits.push(amount.minor());
        Ok(vec![Event::Deposited { amount }])
    }

    fn ours(&self, amount: Money) -> Result<(), (Class, &'static str)> {
        match self.currency {
            None => Err((Class::Unknown, "unknown-account")),
            Some(ours) if ours != amount.currency() => Err((Class::Rule, "currency-mismatch")),
            Some(_) => Ok(()),
        }
    }
}

impl Model for Purse {
    type Of = Wallet;

    fn tell(&mut self, command: &Ask) -> Expected<Event> {
        match command.clone() {
            Ask::Open { .. } if self.currency.is_some() => Ok(vec![]),
            Ask::Open { currency } => {
                self.currency = Some(currency);
                Ok(vec![Event::Opened { currency }])
            }
            Ask::Deposit { amount } => self.deposit(amount),
            // A process that asks is answered by an event, whatever it asks for.
            Ask::Debit { payment, order, amount } => {
                let there = self.ours(amount).is_ok() && amount.minor() >= 0 && i128::from(amount.minor()) <= self.balance();
                if !there {
                    return Ok(vec![Event::DebitRefused { payment, order, amount }]);
                }
                self.taken.push((payment, amount.minor()));
                Ok(vec![Event::Debited { payment, order, amount }])
            }
            // What was taken goes back into a purse however full it is, as long as it can be counted.
            Ask::Credit { payment, order, amount } => {
                self.ours(amount)?;
                if amount.minor() < 0 {
                    return Err((Class::Rule, "amount-not-positive"));
                }
                if self.balance() + i128::from(amount.minor()) > i128::from(i64::MAX) {
                    return Err((Class::Rule, "balance-too-large"));
                }
                self.given_back.push((payment, amount.minor()));
                Ok(vec![Event::Credited { payment, order, amount }])
            }
        }
    }

    fn check(&self, wallet: &Wallet) {
        let balance = self.currency.map(|currency| (self.balance(), currency));
        assert_eq!(wallet.balance().map(|money| (i128::from(money.minor()), money.currency())), balance);
        assert!(self.balance() >= 0);
    }

    /// Every other command moves money each time it is given: that a payment gives it once is the payment's promise.
    fn may_repeat(&self, command: &Ask) -> bool {
        matches!(command, Ask::Open { .. })
    }
}

fn command() -> impl Strategy<Value = Ask> {
    let payment = || order().prop_map(|order| (PaymentId::for_order(order), order));
    let currency = prop_oneof![Just(Currency::KRW), Just("USD".parse().expect("a currency"))];
    prop_oneof![
        1 => currency.prop_map(|currency| Ask::Open { currency }),
        4 => money().prop_map(|amount| Ask::Deposit { amount }),
        5 => (payment(), money()).prop_map(|((payment, order), amount)| Ask::Debit { payment, order, amount }),
        3 => (payment(), money()).prop_map(|((payment, order), amount)| Ask::Credit { payment, order, amount }),
    ]
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_balance_is_what_came_less_what_went(commands in steps(command())) {
        let open = Ask::Open { currency: Currency::KRW };
        walk::<Purse>([open].into_iter().chain(commands).collect());
    }

    #[test]
    fn a_wallet_that_nobody_opened_holds_nothing(commands in prop::collection::vec(command(), 0..6)) {
        walk::<Purse>(commands);
    }
}

#[test]
fn a_payment_and_its_order_are_neighbours_and_never_the_same() {
    for number in 0..4 {
        let order = aggregates::OrderId::new(id(number));
        assert_ne!(PaymentId::for_order(order).uuid(), order.uuid());
    }
}
