//! The simulated payment provider: its own ledger, its own idempotency keys, and every way to answer, or not to.

use std::collections::BTreeMap;

use aggregates::Resolution;
use engine::Outcome;
use payment_gateway::{CancellationOutcome, ChargeOutcome, StatusOutcome};
use sagas::ProviderCall;
use uuid::Uuid;
use verify::{Ledger, Provided};

use crate::{
    figures::{Fault, Injected},
    script::{Cancelling, Charging, Payment},
};

/// What the provider says, and when.
pub(crate) struct Word {
    pub(crate) outcome: Outcome,
    /// How long it takes to say so.
    pub(crate) after: i64,
    /// Nobody hears it.
    pub(crate) lost: bool,
    /// The money is taken only then.
    pub(crate) charged_at: Option<i64>,
}

/// The provider.
#[derive(Debug, Default)]
pub(crate) struct Provider {
    accounts: BTreeMap<Uuid, Account>,
    payments: Vec<Payment>,
    down: Vec<(i64, i64)>,
    key_alone: bool,
    /// Whether its clock can be compared with the shop's.
    honest_clock: bool,
}

/// What it knows of one order.
#[derive(Debug, Default)]
struct Account {
    /// The keys under which it was charged.
    charged_under: Vec<String>,
    amount: i64,
    /// What was taken is what was asked for.
    as_asked: bool,
    charged: i64,
    charged_at: i64,
    /// Nobody finds the charge before.
    hidden_until: i64,
    declined: bool,
    failures: u32,
    given_back_under: Option<String>,
    given_back: i64,
    cancel_failures: u32,
    /// Charges under way by themselves.
    pending: u32,
    /// The attempt of the first of them.
    pending_attempt: u32,
}

impl Provider {
    pub(crate) fn new(payments: Vec<Payment>, down: Vec<(i64, i64)>, key_alone: bool, honest_clock: bool) -> Self {
        Self {
            accounts: BTreeMap::new(),
            payments,
            down,
            key_alone,
            honest_clock,
        }
    }

    /// It is away so much later: what comes before took so long.
    pub(crate) fn away_later(&mut self, by: i64) {
        for (from, to) in &mut self.down {
            (*from, *to) = (*from + by, *to + by);
        }
    }

    /// From now on it is there and says what is so.
    pub(crate) fn calm(&mut self) {
        self.down.clear();
        for payment in &mut self.payments {
            if !matches!(payment.charge, Charging::Declined | Charging::Insufficient | Charging::WrongAmount) {
                payment.charge = Charging::Approved;
            }
            payment.cancel = Cancelling::Done;
        }
        for account in self.accounts.values_mut() {
            account.hidden_until = 0;
        }
    }

    /// Where the money of an order is, as somebody finds it who looks into the books; none when that is not as it should be.
    pub(crate) fn truth(&self, order: Uuid) -> Option<Resolution> {
        let Some(account) = self.accounts.get(&order) else {
            return Some(Resolution::NotCharged);
        };
        match (account.charged, account.given_back) {
            (0, _) if account.pending == 0 => Some(Resolution::NotCharged),
            (0, _) => None,
            (charged, back) if charged == back => Some(Resolution::Refunded),
            (_, 0) if account.as_asked => Some(Resolution::Charged),
            _ => None,
        }
    }

    /// Its ledger, by order.
    pub(crate) fn ledger(&self) -> Ledger {
        let touched = self.accounts.iter().filter(|(_, account)| !account.charged_under.is_empty());
        touched
            .map(|(order, account)| {
                let provided = Provided {
                    charges: account.charged_under.len() as u64,
                    charged: account.charged,
                    cancelled: account.given_back,
                    charged_at: self.honest_clock.then_some(account.charged_at),
                };
                (*order, provided)
            })
            .collect()
    }

    /// Answers a call that arrives.
    pub(crate) fn hear(&mut self, now: i64, call: &ProviderCall, order: usize, faults: &mut Injected) -> Word {
        if self.down.iter().any(|(from, to)| (*from..*to).contains(&now)) {
            faults.count(Fault::ProviderDown, 1);
            return said(unknown(call, "the provider is away"));
        }
        match call {
            ProviderCall::Charge { amount, .. } => self.charge(now, call, amount.minor(), order, faults),
            ProviderCall::Status { .. } => self.status(now, call, faults),
            ProviderCall::Cancel { amount, .. } => self.cancel(call, amount.minor(), order, faults),
        }
    }

    fn payment(&self, order: usize) -> Payment {
        self.payments.get(order).copied().unwrap_or_default()
    }

    fn account(&mut self, call: &ProviderCall) -> &mut Account {
        let (ProviderCall::Charge { order, .. } | ProviderCall::Status { order, .. } | ProviderCall::Cancel { order, .. }) = call;
        self.accounts.entry(order.uuid()).or_default()
    }

    fn charge(&mut self, now: i64, call: &ProviderCall, amount: i64, order: usize, faults: &mut Injected) -> Word {
        let behaviour = self.payment(order).charge;
        let key_alone = self.key_alone;
        let account = self.account(call);
        let key = call.idempotency_key();
        if account.declined {
            return declined(behaviour);
        }
        if account.charged_under.contains(&key) {
            return said(if account.amount == amount {
                Outcome::Charge(ChargeOutcome::Charged { amount })
            } else {
                unknown(call, "the provider answered with another amount")
            });
        }
        if !account.charged_under.is_empty() && !key_alone {
            return said(unknown(call, "the provider answered 400 ALREADY_PROCESSED_PAYMENT"));
        }
        let ProviderCall::Charge { attempt, .. } = call else {
            return said(unknown(call, "no charge"));
        };
        // A copy that the network made is the same request, and known by its key.
        if account.pending > 0
            && *attempt > account.pending_attempt
            && let Charging::Late { turns_away: true, .. } = behaviour
        {
            faults.count(Fault::TurnedAway, 1);
            return said(Outcome::Charge(ChargeOutcome::Declined {
                code: "NOT_FOUND_PAYMENT_SESSION".to_owned(),
                message: "there is no such session".to_owned(),
            }));
        }
        if account.pending > 0 {
            return said(unknown(call, "the provider answered 409 IDEMPOTENT_REQUEST_PROCESSING"));
        }
        let charged = said(Outcome::Charge(ChargeOutcome::Charged { amount }));
        match behaviour {
            Charging::Declined | Charging::Insufficient => {
                account.declined = true;
                let fault = if behaviour == Charging::Declined {
                    Fault::Declined
                } else {
                    Fault::Insufficient
                };
                faults.count(fault, 1);
                declined(behaviour)
            }
            Charging::Fails { times, after_effect } | Charging::Lost { times, after_effect } if account.failures < times => {
                account.failures += 1;
                if after_effect {
                    account.take(now, key, amount);
                }
                let lost = matches!(behaviour, Charging::Lost { .. });
                faults.count(
                    match (lost, after_effect) {
                        (true, true) => Fault::OutcomeLost,
                        (true, false) => Fault::CallLost,
                        (false, true) => Fault::ErrorAfterEffect,
                        (false, false) => Fault::ErrorBeforeEffect,
                    },
                    1,
                );
                Word {
                    lost,
                    ..said(unknown(call, "the provider answered 500"))
                }
            }
            Charging::Late { after, .. } => {
                account.pending += 1;
                account.pending_attempt = *attempt;
                faults.count(Fault::LateCharge, 1);
                Word {
                    lost: true,
                    charged_at: Some(now + after),
                    ..charged
                }
            }
            Charging::Hidden { until } => {
                account.take(now, key, amount);
                account.hidden_until = now + until;
                Word { lost: true, ..charged }
            }
            Charging::Slow { takes } => {
                account.take(now, key, amount);
                faults.count(Fault::ProviderSlow, 1);
                Word { after: takes, ..charged }
            }
            Charging::WrongAmount => {
                account.take(now, key, amount + 1);
                account.as_asked = false;
                faults.count(Fault::WrongAmount, 1);
                said(unknown(call, "the provider answered with another amount"))
            }
            Charging::Approved | Charging::Fails { .. } | Charging::Lost { .. } => {
                account.take(now, key, amount);
                charged
            }
        }
    }

    /// A charge that was under way by itself comes to its end.
    pub(crate) fn land(&mut self, now: i64, call: &ProviderCall) {
        let ProviderCall::Charge { amount, .. } = call else { return };
        let account = self.account(call);
        account.pending -= 1;
        let key = call.idempotency_key();
        if !account.charged_under.contains(&key) {
            account.take(now, key, amount.minor());
        }
    }

    fn status(&mut self, now: i64, call: &ProviderCall, faults: &mut Injected) -> Word {
        let ProviderCall::Status { order, .. } = call else {
            return said(unknown(call, "no question"));
        };
        let order_reference = order.to_string();
        let account = self.account(call);
        let status = if account.charged_under.is_empty() {
            if account.declined {
                StatusOutcome::NotCharged {
                    status: "ABORTED".to_owned(),
                }
            } else if account.pending > 0 && now % 2 == 0 {
                StatusOutcome::NotCharged {
                    status: "IN_PROGRESS".to_owned(),
                }
            } else {
                StatusOutcome::NotFound
            }
        } else if now < account.hidden_until {
            faults.count(Fault::NotFoundThenFound, 1);
            StatusOutcome::NotFound
        } else if account.given_back == account.charged {
            StatusOutcome::Cancelled
        } else {
            StatusOutcome::Charged {
                amount: account.amount,
                order_reference,
            }
        };
        said(Outcome::Status(status))
    }

    fn cancel(&mut self, call: &ProviderCall, amount: i64, order: usize, faults: &mut Injected) -> Word {
        let behaviour = self.payment(order).cancel;
        let account = self.account(call);
        let key = call.idempotency_key();
        if account.given_back_under.as_ref() == Some(&key) {
            return said(Outcome::Cancel(CancellationOutcome::Cancelled));
        }
        let refused = |code: &str| {
            said(Outcome::Cancel(CancellationOutcome::Refused {
                code: code.to_owned(),
                message: "no".to_owned(),
            }))
        };
        if account.charged_under.is_empty() {
            return refused("NOT_CANCELABLE_PAYMENT");
        }
        if account.given_back + amount > account.charged {
            return refused("NOT_CANCELABLE_AMOUNT");
        }
        match behaviour {
            Cancelling::Unclear { times, after_effect } if account.cancel_failures < times => {
                account.cancel_failures += 1;
                faults.count(Fault::CancellationUnknown, 1);
                if after_effect {
                    account.give_back(key, amount);
                }
                said(unknown(call, "the provider answered 500"))
            }
            Cancelling::Refused { times } if account.cancel_failures < times => {
                account.cancel_failures += 1;
                faults.count(Fault::CancellationRefused, 1);
                refused("NOT_CANCELABLE_PAYMENT")
            }
            Cancelling::Done | Cancelling::Unclear { .. } | Cancelling::Refused { .. } => {
                account.give_back(key, amount);
                said(Outcome::Cancel(CancellationOutcome::Cancelled))
            }
        }
    }
}

impl Account {
    fn take(&mut self, now: i64, key: String, amount: i64) {
        if self.charged_under.is_empty() {
            self.charged_at = now;
        }
        self.charged_under.push(key);
        self.as_asked = true;
        self.amount = amount;
        self.charged += amount;
    }

    fn give_back(&mut self, key: String, amount: i64) {
        self.given_back_under = Some(key);
        self.given_back += amount;
    }
}

fn said(outcome: Outcome) -> Word {
    Word {
        outcome,
        after: 0,
        lost: false,
        charged_at: None,
    }
}

fn declined(behaviour: Charging) -> Word {
    let code = if behaviour == Charging::Insufficient {
        "REJECT_CARD_PAYMENT"
    } else {
        "REJECT_CARD_COMPANY"
    };
    said(Outcome::Charge(ChargeOutcome::Declined {
        code: code.to_owned(),
        message: "no".to_owned(),
    }))
}

/// A call that nobody knows the end of.
pub(crate) fn unknown(call: &ProviderCall, reason: &str) -> Outcome {
    let reason = reason.to_owned();
    match call {
        ProviderCall::Charge { .. } => Outcome::Charge(ChargeOutcome::Unknown { reason }),
        ProviderCall::Status { .. } => Outcome::Status(StatusOutcome::Unknown { reason }),
        ProviderCall::Cancel { .. } => Outcome::Cancel(CancellationOutcome::Unknown { reason }),
    }
}
