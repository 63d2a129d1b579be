//! A wallet: an account's balance. It is never negative.

use serde::{Deserialize, Serialize};

use crate::{Class, Currency, Decide, Money, OrderId, PaymentId, Reason, aggregate, stored_names};

/// What a wallet can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WalletCommand {
    /// Begins, empty.
    Open {
        /// The shop's currency.
        currency: Currency,
    },
    /// Money comes in.
    Deposit {
        /// How much.
        amount: Money,
    },
    /// Pays an order.
    Debit {
        /// The payment that asks.
        payment: PaymentId,
        /// The order that is paid.
        order: OrderId,
        /// How much.
        amount: Money,
    },
    /// Gives back what an order took.
    Credit {
        /// The payment that is undone.
        payment: PaymentId,
        /// Its order.
        order: OrderId,
        /// How much.
        amount: Money,
    },
}

/// What has happened to a wallet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum WalletEvent {
    /// It is there, empty.
    #[serde(rename = "wallet.opened")]
    Opened {
        /// What it counts.
        currency: Currency,
    },
    /// Money came in.
    #[serde(rename = "wallet.deposited")]
    Deposited {
        /// How much.
        amount: Money,
    },
    /// An order was paid.
    #[serde(rename = "wallet.debited")]
    Debited {
        /// The payment that asked.
        payment: PaymentId,
        /// The order.
        order: OrderId,
        /// How much.
        amount: Money,
    },
    /// There was not enough: nothing was taken.
    #[serde(rename = "wallet.debit_refused")]
    DebitRefused {
        /// The payment that asked.
        payment: PaymentId,
        /// The order.
        order: OrderId,
        /// How much was wanted.
        amount: Money,
    },
    /// Money came back.
    #[serde(rename = "wallet.credited")]
    Credited {
        /// The payment that was undone.
        payment: PaymentId,
        /// Its order.
        order: OrderId,
        /// How much.
        amount: Money,
    },
}

stored_names!(WalletEvent {
    Opened => "wallet.opened",
    Deposited => "wallet.deposited",
    Debited => "wallet.debited",
    DebitRefused => "wallet.debit_refused",
    Credited => "wallet.credited",
});

/// Why a wallet refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalletError {
    /// There is no such account.
    #[error("there is no such account")]
    Unknown,
    /// A wallet counts one currency.
    #[error("this balance is kept in {0}")]
    CurrencyMismatch(Currency),
    /// Nothing, or less.
    #[error("an amount is at least 1")]
    NotPositive,
    /// More than can be counted.
    #[error("the balance would be larger than 9007199254740991")]
    TooMuch,
}

impl Reason for WalletError {
    fn class(&self) -> Class {
        match self {
            Self::Unknown => Class::Unknown,
            Self::CurrencyMismatch(_) | Self::NotPositive | Self::TooMuch => Class::Rule,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown-account",
            Self::CurrencyMismatch(_) => "currency-mismatch",
            Self::NotPositive => "amount-not-positive",
            Self::TooMuch => "balance-too-large",
        }
    }
}

/// A wallet's state: its balance, once it is open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wallet {
    balance: Option<Money>,
}

impl Wallet {
    /// What is in it; none before it is opened.
    pub fn balance(&self) -> Option<Money> {
        self.balance
    }

    fn deposit(balance: Money, amount: Money) -> Result<Vec<WalletEvent>, WalletError> {
        if amount.minor() <= 0 {
            return Err(WalletError::NotPositive);
        }
        match balance.checked_add(amount) {
            Ok(sum) if sum.minor() <= Money::MAX_MINOR => Ok(vec![WalletEvent::Deposited { amount }]),
            _ => Err(WalletError::TooMuch),
        }
    }

    /// What was taken always goes back: a full wallet is no reason to keep it, and an order may have cost nothing.
    fn credit(balance: Money, payment: PaymentId, order: OrderId, amount: Money) -> Result<Vec<WalletEvent>, WalletError> {
        if amount.minor() < 0 {
            return Err(WalletError::NotPositive);
        }
        balance.checked_add(amount).map_err(|_| WalletError::TooMuch)?;
        Ok(vec![WalletEvent::Credited { payment, order, amount }])
    }
}

impl Decide for Wallet {
    fn decide(&self, command: WalletCommand) -> Result<Vec<WalletEvent>, WalletError> {
        use WalletCommand as Command;
        let Some(balance) = self.balance else {
            return match command {
                Command::Open { currency } => Ok(vec![WalletEvent::Opened { currency }]),
                // A process that asks is always answered by an event.
                Command::Debit { payment, order, amount } => Ok(vec![WalletEvent::DebitRefused { payment, order, amount }]),
                Command::Deposit { .. } | Command::Credit { .. } => Err(WalletError::Unknown),
            };
        };
        match command {
            Command::Open { .. } => Ok(vec![]),
            Command::Deposit { amount } | Command::Credit { amount, .. } if amount.currency() != balance.currency() => {
                Err(WalletError::CurrencyMismatch(balance.currency()))
            }
            Command::Deposit { amount } => Self::deposit(balance, amount),
            Command::Credit { payment, order, amount } => Self::credit(balance, payment, order, amount),
            Command::Debit { payment, order, amount } => {
                let left = balance
                    .checked_sub(amount)
                    .ok()
                    .filter(|left| left.minor() >= 0 && amount.minor() >= 0);
                Ok(vec![match left {
                    Some(_) => WalletEvent::Debited { payment, order, amount },
                    None => WalletEvent::DebitRefused { payment, order, amount },
                }])
            }
        }
    }

    fn evolve(&mut self, event: &WalletEvent) {
        match event {
            WalletEvent::Opened { currency } => self.balance = Some(Money::zero(*currency)),
            WalletEvent::Deposited { amount } | WalletEvent::Credited { amount, .. } => {
                self.balance = self.balance.and_then(|balance| balance.checked_add(*amount).ok());
            }
            WalletEvent::Debited { amount, .. } => self.balance = self.balance.and_then(|balance| balance.checked_sub(*amount).ok()),
            WalletEvent::DebitRefused { .. } => {}
        }
    }
}

aggregate!(Wallet, "wallet", WalletCommand, WalletEvent, WalletError);
