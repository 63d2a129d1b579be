//! Payments, with the calls that were made to the provider.

use aggregates::{CommerceEvent, Money, PaymentEvent, PaymentStatus, Recorded, Resolution, Timestamp};
use uuid::Uuid;

use crate::{Attempt, AttemptKind, AttemptOutcome, AttemptResult, PaymentView, Projection};

/// The code of an outcome that a person found at the provider, whose own answer never came.
pub const FOUND_BY_AN_OPERATOR: &str = "FOUND_BY_AN_OPERATOR";

/// The most calls that a row keeps; of more, the oldest are left off.
pub const MOST_ATTEMPTS: usize = 200;

/// One row per payment. A payment from the balance has no calls.
#[derive(Debug)]
pub struct Payments;

impl Projection for Payments {
    const NAME: &'static str = "payments_v1";
    type View = PaymentView;

    fn key(event: &CommerceEvent) -> Option<Uuid> {
        if let CommerceEvent::Payment(id, _) = event {
            Some(id.uuid())
        } else {
            None
        }
    }

    fn id(view: &PaymentView) -> Uuid {
        view.id.uuid()
    }

    fn version(view: &PaymentView) -> u64 {
        view.version
    }

    fn apply(view: Option<PaymentView>, recorded: &Recorded) -> Option<PaymentView> {
        use AttemptKind::{Charge, Reversal, Status};
        use AttemptResult as Ended;
        use PaymentEvent as Event;
        let Some(CommerceEvent::Payment(id, event)) = &recorded.event else {
            return view;
        };
        if let Event::Prepared {
            order,
            buyer,
            amount,
            method,
        } = event
        {
            return Some(PaymentView {
                id: *id,
                order: *order,
                buyer: *buyer,
                status: PaymentStatus::Prepared,
                method: *method,
                amount: *amount,
                refunded: Money::zero(amount.currency()),
                attempts: Vec::new(),
                version: recorded.sequence,
                updated_at: recorded.at,
            });
        }
        let mut view = view?;
        let at = recorded.at;
        view.version = recorded.sequence;
        view.updated_at = at;
        match event {
            Event::Prepared { .. } => {}
            Event::Requested { attempt, .. } => {
                view.call(Charge, *attempt, at);
                view.status = PaymentStatus::Pending;
            }
            Event::StatusAsked { question, .. } => {
                view.call(Status, *question, at);
                // Asked once more after it contradicted itself, or said that nothing was taken: it counts as silent until it answers.
                if matches!(view.status, PaymentStatus::NeedsAttention | PaymentStatus::NotCharged) {
                    view.status = PaymentStatus::Unknown;
                }
            }
            Event::OutcomeUnknown { reason, .. } => {
                view.answer(&[Charge, Status], outcome(at, Ended::Unknown, Some(reason), None));
                view.unless_ended(PaymentStatus::Unknown);
            }
            Event::NotCharged { status, .. } => {
                view.answer(&[Charge, Status], outcome(at, Ended::NotCharged, Some(status), None));
                view.unless_ended(PaymentStatus::NotCharged);
            }
            Event::Captured { .. } => {
                view.answer(&[Charge, Status], outcome(at, Ended::Captured, None, None));
                view.status = PaymentStatus::Captured;
            }
            Event::Declined { code, message, .. } => {
                view.answer(&[Charge, Status], outcome(at, Ended::Declined, Some(code), Some(message.clone())));
                view.status = PaymentStatus::Declined;
            }
            Event::Contradicted { expected, found, .. } => {
                let message = format!("{found} instead of {expected}");
                view.answer(&[Charge, Status], outcome(at, Ended::Contradicted, None, Some(message)));
                view.status = PaymentStatus::NeedsAttention;
            }
            Event::Expired { .. } => view.status = PaymentStatus::Expired,
            Event::Cancelled { .. } => view.status = PaymentStatus::Cancelled,
            Event::ReversalRequested { payment_key, attempt, .. } => {
                // What came from the balance goes back there: the provider is not called.
                if payment_key.is_some() {
                    view.call(Reversal, *attempt, at);
                }
                view.status = PaymentStatus::Reversing;
            }
            Event::ReversalUnknown { reason, .. } => {
                view.answer(&[Reversal], outcome(at, Ended::Unknown, Some(reason), None));
                view.status = PaymentStatus::Reversing;
            }
            Event::Reversed { amount, .. } => {
                view.answer(&[Reversal], outcome(at, Ended::Reversed, None, None));
                view.refunded = view.refunded.checked_add(*amount).ok()?;
                view.status = PaymentStatus::Reversed;
            }
            Event::ReversalRefused { code, message, .. } => {
                view.answer(&[Reversal], outcome(at, Ended::Refused, Some(code), Some(message.clone())));
                view.status = PaymentStatus::NeedsAttention;
            }
            Event::Resolved { outcome, amount, .. } => {
                view.resolve(*outcome, at);
                if *outcome == Resolution::Refunded {
                    view.refunded = view.refunded.checked_add(*amount).ok()?;
                }
            }
        }
        Some(view)
    }
}

fn outcome(at: Timestamp, result: AttemptResult, code: Option<&String>, message: Option<String>) -> AttemptOutcome {
    AttemptOutcome {
        at,
        result,
        code: code.cloned(),
        message,
    }
}

fn outcome_found(at: Timestamp, result: AttemptResult) -> AttemptOutcome {
    AttemptOutcome {
        at,
        result,
        code: Some(FOUND_BY_AN_OPERATOR.to_owned()),
        message: None,
    }
}

impl PaymentView {
    fn call(&mut self, kind: AttemptKind, attempt: u32, at: Timestamp) {
        if self.attempts.len() >= MOST_ATTEMPTS {
            self.attempts.remove(0);
        }
        self.attempts.push(Attempt {
            attempt,
            kind,
            at,
            outcome: None,
        });
    }

    /// The newest call of these kinds that is under way has ended. News without a call (a webhook) ends none.
    fn answer(&mut self, kinds: &[AttemptKind], outcome: AttemptOutcome) {
        let open = |attempt: &&mut Attempt| attempt.outcome.is_none() && kinds.contains(&attempt.kind);
        if let Some(attempt) = self.attempts.iter_mut().rev().find(open) {
            attempt.outcome = Some(outcome);
        }
    }

    /// A person's word ends every call that the provider has not answered.
    fn resolve(&mut self, outcome: Resolution, at: Timestamp) {
        let (status, of_charge, of_reversal) = match outcome {
            Resolution::Charged => (PaymentStatus::Captured, AttemptResult::Captured, AttemptResult::Refused),
            Resolution::NotCharged => (PaymentStatus::Declined, AttemptResult::NotCharged, AttemptResult::Refused),
            Resolution::Refunded => (PaymentStatus::Reversed, AttemptResult::Captured, AttemptResult::Reversed),
        };
        self.status = status;
        for attempt in self.attempts.iter_mut().filter(|attempt| attempt.outcome.is_none()) {
            let result = match attempt.kind {
                AttemptKind::Charge | AttemptKind::Status => of_charge,
                AttemptKind::Reversal => of_reversal,
            };
            attempt.outcome = Some(outcome_found(at, result));
        }
    }

    /// Since when the provider has given no clear answer to what it was asked last; calls before `from` do not count.
    pub fn silent_since(&self, from: Option<Timestamp>) -> Option<Timestamp> {
        let reversing = match self.status {
            PaymentStatus::Pending | PaymentStatus::Unknown => false,
            PaymentStatus::Reversing => true,
            _ => return None,
        };
        let about = |attempt: &&Attempt| (attempt.kind == AttemptKind::Reversal) == reversing;
        let ended = self
            .attempts
            .iter()
            .rev()
            .filter(about)
            .filter_map(|attempt| attempt.outcome.as_ref());
        ended
            .take_while(|outcome| outcome.result == AttemptResult::Unknown && from.is_none_or(|from| outcome.at >= from))
            .last()
            .map(|outcome| outcome.at)
    }

    /// What the last look at a payment brings that has ended already does not bring it back.
    fn unless_ended(&mut self, status: PaymentStatus) {
        let ended = matches!(
            self.status,
            PaymentStatus::Declined | PaymentStatus::Expired | PaymentStatus::Cancelled
        );
        if !ended {
            self.status = status;
        }
    }
}

#[cfg(test)]
mod tests {
    use aggregates::{AccountId, Currency, Decide as _, OrderId, Payment, PaymentId, PaymentKey, PaymentMethod};

    use super::*;
    use crate::projection::given::{at, fold};

    fn order() -> OrderId {
        OrderId::new(Uuid::from_u128(7))
    }

    fn amount() -> Money {
        Money::new(15_000, Currency::KRW)
    }

    fn key() -> PaymentKey {
        "sim_lost_1".parse().expect("a key")
    }

    fn is(event: PaymentEvent) -> CommerceEvent {
        CommerceEvent::Payment(PaymentId::for_order(order()), event)
    }

    fn prepared() -> CommerceEvent {
        let buyer = AccountId::new(Uuid::from_u128(3));
        is(PaymentEvent::Prepared {
            order: order(),
            buyer,
            amount: amount(),
            method: PaymentMethod::Card,
        })
    }

    fn requested(attempt: u32) -> CommerceEvent {
        is(PaymentEvent::Requested {
            order: order(),
            payment_key: key(),
            amount: amount(),
            attempt,
        })
    }

    fn asked(question: u32) -> CommerceEvent {
        is(PaymentEvent::StatusAsked {
            order: order(),
            payment_key: key(),
            question,
        })
    }

    fn no_answer(questions: u32) -> CommerceEvent {
        is(PaymentEvent::OutcomeUnknown {
            order: order(),
            reason: "timeout".into(),
            questions,
        })
    }

    fn captured() -> CommerceEvent {
        is(PaymentEvent::Captured {
            order: order(),
            amount: amount(),
        })
    }

    #[test]
    fn a_payment_from_the_balance_has_no_attempts() {
        let view = fold::<Payments>([prepared(), captured()]).expect("a payment");
        assert_eq!((view.status, view.version), (PaymentStatus::Captured, 2));
        assert_eq!(view.attempts, []);
    }

    #[test]
    fn a_question_brings_the_answer_that_the_charge_did_not() {
        let view = fold::<Payments>([prepared(), requested(1), no_answer(0), asked(1), captured()]).expect("a payment");
        assert_eq!(view.status, PaymentStatus::Captured);
        let seen: Vec<_> = view
            .attempts
            .iter()
            .map(|a| (a.kind, a.attempt, a.at, a.outcome.as_ref().map(|o| (o.result, o.at))))
            .collect();
        assert_eq!(
            seen,
            [
                (AttemptKind::Charge, 1, at(2), Some((AttemptResult::Unknown, at(3)))),
                (AttemptKind::Status, 1, at(4), Some((AttemptResult::Captured, at(5)))),
            ]
        );
    }

    #[test]
    fn a_decline_keeps_the_words_of_who_declined() {
        let declined = is(PaymentEvent::Declined {
            order: order(),
            code: "REJECT_CARD".into(),
            message: "한도 초과".into(),
        });
        let view = fold::<Payments>([prepared(), requested(1), declined]).expect("a payment");
        let outcome = view.attempts[0].outcome.as_ref().expect("an outcome");
        assert_eq!(
            (outcome.code.as_deref(), outcome.message.as_deref()),
            (Some("REJECT_CARD"), Some("한도 초과"))
        );
    }

    #[test]
    fn a_last_look_at_an_expired_payment_leaves_it_expired() {
        let expired = is(PaymentEvent::Expired { order: order() });
        let view = fold::<Payments>([prepared(), requested(1), no_answer(0), expired, asked(1), no_answer(1)]).expect("a payment");
        assert_eq!((view.status, view.attempts.len()), (PaymentStatus::Expired, 2));
    }

    #[test]
    fn what_is_given_back_adds_up() {
        let reversal = is(PaymentEvent::ReversalRequested {
            order: order(),
            buyer: AccountId::new(Uuid::from_u128(3)),
            payment_key: Some(key()),
            amount: amount(),
            attempt: 1,
        });
        let reversed = is(PaymentEvent::Reversed {
            order: order(),
            amount: amount(),
        });
        let view = fold::<Payments>([prepared(), requested(1), captured(), reversal, reversed]).expect("a payment");
        assert_eq!((view.status, view.refunded), (PaymentStatus::Reversed, amount()));
        assert_eq!(view.attempts.last().map(|attempt| attempt.kind), Some(AttemptKind::Reversal));
    }

    #[test]
    fn a_row_does_not_grow_without_end() {
        let questions = (1..=1_000).flat_map(|n| [asked(n), no_answer(n)]);
        let view = fold::<Payments>([prepared(), requested(1)].into_iter().chain(questions)).expect("a payment");
        assert_eq!(view.attempts.len(), MOST_ATTEMPTS);
        assert_eq!(view.attempts.last().map(|attempt| attempt.attempt), Some(1_000));
    }

    fn resolved(outcome: Resolution) -> CommerceEvent {
        is(PaymentEvent::Resolved {
            order: order(),
            outcome,
            amount: amount(),
        })
    }

    #[test]
    fn a_person_s_word_ends_the_calls_that_the_provider_did_not_answer() {
        for (outcome, status, result, refunded) in [
            (Resolution::Charged, PaymentStatus::Captured, AttemptResult::Captured, 0),
            (Resolution::NotCharged, PaymentStatus::Declined, AttemptResult::NotCharged, 0),
            (Resolution::Refunded, PaymentStatus::Reversed, AttemptResult::Captured, 15_000),
        ] {
            let view = fold::<Payments>([prepared(), requested(1), no_answer(0), asked(1), resolved(outcome)]).expect("a payment");
            assert_eq!((view.status, view.refunded.minor()), (status, refunded), "{outcome:?}");
            let found = view.attempts[1].outcome.as_ref().expect("an outcome");
            assert_eq!(
                (found.result, found.at, found.code.as_deref()),
                (result, at(5), Some(FOUND_BY_AN_OPERATOR))
            );
            let silent = view.attempts[0].outcome.as_ref().expect("an outcome");
            assert_eq!(silent.result, AttemptResult::Unknown, "what was told once stays");
            assert_eq!(view.silent_since(None), None);
        }
    }

    #[test]
    fn a_refund_that_a_person_found_answers_the_reversal_and_nothing_else() {
        let reversal = is(PaymentEvent::ReversalRequested {
            order: order(),
            buyer: AccountId::new(Uuid::from_u128(3)),
            payment_key: Some(key()),
            amount: amount(),
            attempt: 1,
        });
        let view = fold::<Payments>([prepared(), requested(1), captured(), reversal, resolved(Resolution::Refunded)]).expect("a payment");
        let results: Vec<_> = view
            .attempts
            .iter()
            .map(|attempt| attempt.outcome.as_ref().map(|found| found.result))
            .collect();
        assert_eq!(results, [Some(AttemptResult::Captured), Some(AttemptResult::Reversed)]);
        assert_eq!((view.status, view.refunded), (PaymentStatus::Reversed, amount()));
    }

    #[test]
    fn the_provider_is_silent_since_the_first_answer_that_did_not_come() {
        let not_charged = is(PaymentEvent::NotCharged {
            order: order(),
            status: "NOT_FOUND".into(),
            questions: 1,
        });
        let silent = [prepared(), requested(1), no_answer(0), asked(1), no_answer(1), asked(2)];
        let view = fold::<Payments>(silent.clone()).expect("a payment");
        assert_eq!(view.silent_since(None), Some(at(3)));
        assert_eq!(
            view.silent_since(Some(at(4))),
            Some(at(5)),
            "an operator began anew after the first"
        );
        assert_eq!(view.silent_since(Some(at(6))), None);
        let spoke = [
            prepared(),
            requested(1),
            no_answer(0),
            asked(1),
            not_charged,
            requested(1),
            no_answer(1),
        ];
        assert_eq!(fold::<Payments>(spoke).expect("a payment").silent_since(None), Some(at(7)));
    }

    #[test]
    fn a_row_stands_where_the_payment_itself_does_whatever_comes_after_what() {
        let order = order();
        let text = || "words".to_owned();
        let events = [
            requested(1),
            asked(1),
            no_answer(1),
            is(PaymentEvent::NotCharged {
                order,
                status: text(),
                questions: 1,
            }),
            captured(),
            is(PaymentEvent::Contradicted {
                order,
                expected: amount(),
                found: Money::new(1, Currency::KRW),
            }),
            is(PaymentEvent::Expired { order }),
            is(PaymentEvent::ReversalRequested {
                order,
                buyer: AccountId::new(Uuid::from_u128(3)),
                payment_key: Some(key()),
                amount: amount(),
                attempt: 1,
            }),
            is(PaymentEvent::ReversalRefused {
                order,
                code: text(),
                message: text(),
            }),
            resolved(Resolution::NotCharged),
        ];
        for walk in 0..10_000_usize {
            let picked: Vec<_> = [1, 10, 100, 1_000].map(|n| events[walk / n % 10].clone()).into();
            let mut payment = Payment::default();
            for event in std::iter::once(&prepared()).chain(&picked) {
                let CommerceEvent::Payment(_, event) = event else { continue };
                payment.evolve(event);
            }
            let view = fold::<Payments>(std::iter::once(prepared()).chain(picked)).expect("a payment");
            assert_eq!(view.status, payment.status(), "{walk}");
        }
    }
}
