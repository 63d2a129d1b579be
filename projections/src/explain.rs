//! What an order waits for, until when, and what follows: for people, in Korean and in English.

use std::time::Duration;

use aggregates::{Language, OrderStatus, PaymentMethod, PaymentStatus, Timestamp};

use crate::{OrderView, PaymentView};

/// Who reads it: what somebody can do about an order depends on who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Who ordered.
    Buyer,
    /// Whose goods they are.
    Seller,
    /// Who runs the shop.
    Operator,
}

impl Audience {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Buyer, Self::Seller, Self::Operator];
}

/// What an order waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Who or what has to act.
    pub waiting_for: String,
    /// Until when, where there is a bound.
    pub until: Option<Timestamp>,
    /// What follows by itself, and what the reader can do.
    pub next: String,
}

/// Explains an order that has not come to its end; none for one to which nothing more happens.
///
/// `stuck_after` is how long the provider may be silent before a person is asked to look.
pub fn explain(
    order: &OrderView,
    payment: Option<&PaymentView>,
    stuck_after: Duration,
    audience: Audience,
    language: Language,
) -> Option<Explanation> {
    let waiting = waiting(order, payment)?;
    let (waiting_for, next) = words(waiting, language);
    let mut waiting_for = waiting_for.to_owned();
    // What exactly happened is for those who can do something about it.
    if let (Audience::Operator, Some(reason)) = (audience, order.attention.reason()) {
        waiting_for = format!("{waiting_for}: {reason}");
    }
    let next = match able(waiting, audience, language) {
        Some(able) => match language {
            Language::Korean => format!("{next}. {able}"),
            Language::English => format!("{next}; {able}"),
        },
        None => next.to_owned(),
    };
    let until = match waiting {
        Waiting::Buyer | Waiting::Charge => order.pay_until,
        Waiting::SilentCharge(since) | Waiting::SilentUndoing(since) | Waiting::SilentReturn(since) => Some(since.after(stuck_after)),
        _ => None,
    };
    Some(Explanation { waiting_for, until, next })
}

/// Whom or what an order waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    Reservation(PaymentMethod),
    Buyer,
    Balance,
    /// The provider's word about a payment.
    Charge,
    /// ... which has not come since then.
    SilentCharge(Timestamp),
    Preparation,
    Packing,
    Courier,
    /// The provider's word, without which nobody knows what there is to undo.
    Undoing,
    SilentUndoing(Timestamp),
    /// The money to be back.
    Return,
    SilentReturn(Timestamp),
    /// The goods to be free.
    Release,
    /// A person, and the provider, who is asked on.
    PersonOrProvider,
    /// A person.
    Person,
}

fn waiting(order: &OrderView, payment: Option<&PaymentView>) -> Option<Waiting> {
    let silent = payment.and_then(|payment| payment.silent_since(order.taken_up_at));
    let by_card = order.method == PaymentMethod::Card;
    let status = payment.map(|payment| payment.status).filter(|_| by_card);
    let asked = matches!(status, Some(PaymentStatus::Pending | PaymentStatus::Unknown));
    let reversing = status == Some(PaymentStatus::Reversing);
    Some(match order.status {
        OrderStatus::Placed => Waiting::Reservation(order.method),
        OrderStatus::AwaitingPayment => Waiting::Buyer,
        OrderStatus::PaymentPending if !by_card => Waiting::Balance,
        OrderStatus::PaymentPending => silent.filter(|_| asked).map_or(Waiting::Charge, Waiting::SilentCharge),
        OrderStatus::Confirmed => Waiting::Preparation,
        OrderStatus::PreparingShipment => Waiting::Packing,
        OrderStatus::Shipped => Waiting::Courier,
        OrderStatus::Cancelling if reversing => silent.map_or(Waiting::Return, Waiting::SilentReturn),
        OrderStatus::Cancelling if asked => silent.map_or(Waiting::Undoing, Waiting::SilentUndoing),
        OrderStatus::Cancelling => Waiting::Release,
        OrderStatus::NeedsAttention if asked || reversing => Waiting::PersonOrProvider,
        OrderStatus::NeedsAttention => Waiting::Person,
        OrderStatus::Delivered | OrderStatus::Cancelled | OrderStatus::Refunded => return None,
    })
}

/// What it waits for, and what follows by itself.
const fn words(waiting: Waiting, language: Language) -> (&'static str, &'static str) {
    match language {
        Language::Korean => korean(waiting),
        Language::English => english(waiting),
    }
}

const fn korean(waiting: Waiting) -> (&'static str, &'static str) {
    match waiting {
        Waiting::Reservation(PaymentMethod::Balance) => ("재고를 예약하고 있습니다", "예약이 끝나면 잔액에서 결제됩니다"),
        Waiting::Reservation(PaymentMethod::Card) => ("재고를 예약하고 있습니다", "예약이 끝나면 결제를 진행합니다"),
        Waiting::Buyer => (
            "구매자의 결제를 기다리고 있습니다",
            "기한까지 결제되지 않으면 주문이 취소되고 예약된 재고가 풀립니다",
        ),
        Waiting::Balance => ("잔액에서 결제하고 있습니다", "결제되면 주문이 확정되고, 잔액이 부족하면 취소됩니다"),
        Waiting::Charge => (
            "결제 대행사의 승인을 기다리고 있습니다",
            "승인되면 주문이 확정되고, 거절되거나 기한까지 승인되지 않으면 취소됩니다",
        ),
        Waiting::SilentCharge(_) => (
            "결제 대행사의 응답이 없어 결제 여부를 알 수 없습니다",
            "결제 대행사에 계속 확인하며, 기한까지 응답이 없으면 담당자가 확인합니다",
        ),
        Waiting::Preparation => ("판매자의 배송 준비를 기다리고 있습니다", "준비가 끝나면 발송됩니다"),
        Waiting::Packing => ("상품을 포장하고 있습니다", "포장이 끝나면 발송됩니다"),
        Waiting::Courier => ("배송 중입니다", "상품이 전달되면 배송이 완료됩니다"),
        Waiting::Undoing => (
            "취소하기 전에 결제 여부를 결제 대행사에 확인하고 있습니다",
            "결제되었다면 환불하고, 예약된 재고를 푼 뒤 주문이 취소됩니다",
        ),
        Waiting::SilentUndoing(_) => (
            "취소하기 전에 결제 여부를 확인해야 하지만 결제 대행사의 응답이 없습니다",
            "결제 대행사에 계속 확인하며, 기한까지 응답이 없으면 담당자가 확인합니다",
        ),
        Waiting::Return => ("결제 금액을 환불하고 있습니다", "환불되고 예약된 재고가 풀리면 주문이 취소됩니다"),
        Waiting::SilentReturn(_) => (
            "환불을 요청했지만 결제 대행사의 응답이 없습니다",
            "환불을 계속 요청하며, 기한까지 응답이 없으면 담당자가 확인합니다",
        ),
        Waiting::Release => ("예약된 재고를 풀고 있습니다", "모두 되돌리면 주문이 취소됩니다"),
        Waiting::PersonOrProvider => (
            "담당자의 확인이나 결제 대행사의 응답을 기다리고 있습니다",
            "결제 대행사에 매일 한 번 확인하며, 응답이 오면 저절로 계속됩니다",
        ),
        Waiting::Person => ("담당자의 확인을 기다리고 있습니다", "담당자가 확인한 뒤 계속 진행하거나 되돌립니다"),
    }
}

const fn english(waiting: Waiting) -> (&'static str, &'static str) {
    match waiting {
        Waiting::Reservation(PaymentMethod::Balance) => ("the goods to be reserved", "then it is paid from the balance"),
        Waiting::Reservation(PaymentMethod::Card) => ("the goods to be reserved", "then the payment begins"),
        Waiting::Buyer => (
            "the buyer to pay",
            "if it is not paid by then, the order is cancelled and its goods are free again",
        ),
        Waiting::Balance => (
            "the payment from the balance",
            "paid, the order is confirmed; with too small a balance, it is cancelled",
        ),
        Waiting::Charge => (
            "the payment provider's answer",
            "approved, the order is confirmed; declined, or not approved by then, it is cancelled and its goods are free again",
        ),
        Waiting::SilentCharge(_) => (
            "the payment provider, which gives no answer: nobody knows whether it took the money",
            "it is asked again and again; if it is silent until then, a person of the shop looks at it",
        ),
        Waiting::Preparation => ("the seller to prepare the shipment", "then it is shipped"),
        Waiting::Packing => ("the goods to be packed", "then it is shipped"),
        Waiting::Courier => ("the courier to hand over the goods", "then it is delivered"),
        Waiting::Undoing => (
            "the payment provider to say whether it took the money, before the order is undone",
            "what was taken goes back, the goods are free again, and the order is cancelled",
        ),
        Waiting::SilentUndoing(_) => (
            "the payment provider to say whether it took the money, before the order is undone; it gives no answer",
            "it is asked again and again; if it is silent until then, a person of the shop looks at it",
        ),
        Waiting::Return => (
            "the payment provider to give the money back",
            "when it is back and the goods are free again, the order is cancelled",
        ),
        Waiting::SilentReturn(_) => (
            "the payment provider to give the money back; it gives no answer",
            "it is asked again and again; if it is silent until then, a person of the shop looks at it",
        ),
        Waiting::Release => ("the goods to be free again", "then the order is cancelled"),
        Waiting::PersonOrProvider => (
            "a person of the shop to look at it, or the payment provider to answer",
            "the provider is asked once a day, and the order goes on by itself when it answers",
        ),
        Waiting::Person => ("a person of the shop to look at it", "they let it go on, or have it undone"),
    }
}

/// What the reader can do about it.
const fn able(waiting: Waiting, audience: Audience, language: Language) -> Option<&'static str> {
    let text = match (waiting, audience) {
        (Waiting::Buyer, Audience::Buyer) => ("결제하거나 주문을 취소할 수 있습니다", "you can pay it or cancel it"),
        (Waiting::Reservation(_) | Waiting::Balance | Waiting::Charge | Waiting::SilentCharge(_), Audience::Buyer | Audience::Operator)
        | (Waiting::Buyer, Audience::Operator) => ("주문을 취소할 수 있습니다", "you can cancel it"),
        (Waiting::PersonOrProvider | Waiting::Person, Audience::Operator) => (
            "다시 시도(resume)하거나, 되돌리거나(compensate), 결제 대행사에서 확인한 결과를 입력(resolve)할 수 있습니다",
            "you can let it try again (resume), have it undone (compensate), or say what you found at the provider (resolve)",
        ),
        _ => return None,
    };
    Some(match language {
        Language::Korean => text.0,
        Language::English => text.1,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use aggregates::{AccountId, Attention, Currency, Money, Obstacle, OrderEvent, OrderId, PaymentId, Sealed, TrackingId};
    use uuid::Uuid;

    use super::*;
    use crate::{Attempt, AttemptKind, AttemptOutcome, AttemptResult};

    const DAY: Duration = Duration::from_hours(24);

    const METHODS: [PaymentMethod; 2] = [PaymentMethod::Card, PaymentMethod::Balance];

    const PAYMENTS: [PaymentStatus; 11] = [
        PaymentStatus::Prepared,
        PaymentStatus::Pending,
        PaymentStatus::Unknown,
        PaymentStatus::NotCharged,
        PaymentStatus::Captured,
        PaymentStatus::Declined,
        PaymentStatus::Expired,
        PaymentStatus::Cancelled,
        PaymentStatus::Reversing,
        PaymentStatus::Reversed,
        PaymentStatus::NeedsAttention,
    ];

    fn second(n: i64) -> Timestamp {
        Timestamp::from_micros(n * 1_000_000)
    }

    fn order(status: OrderStatus, method: PaymentMethod) -> OrderView {
        let id = OrderId::new(Uuid::from_u128(6));
        let stuck = status == OrderStatus::NeedsAttention;
        let mut attention = Attention::default();
        if stuck {
            attention.evolve(&OrderEvent::AttentionNeeded {
                cause: Obstacle::Provider,
                reason: "the provider is silent".to_owned(),
            });
        }
        OrderView {
            id,
            number: "2026112100000001".parse().expect("a number"),
            tracking: TrackingId::for_order(id),
            status,
            below: stuck.then_some(OrderStatus::PaymentPending),
            since: second(1),
            version: 1,
            buyer: AccountId::default(),
            address: Sealed::new("sealed"),
            method,
            lines: [].into(),
            total: Money::new(1, Currency::KRW),
            failure: None,
            placed_at: second(1),
            updated_at: second(1),
            pay_until: Some(second(600)),
            payment: Some(PaymentId::for_order(id)),
            attention,
            taken_up_at: None,
        }
    }

    /// The provider was asked, and did not answer in the second and the third second.
    fn payment(status: PaymentStatus, method: PaymentMethod) -> PaymentView {
        let kind = if status == PaymentStatus::Reversing {
            AttemptKind::Reversal
        } else {
            AttemptKind::Charge
        };
        let silence = |n| Attempt {
            attempt: 1,
            kind,
            at: second(1),
            outcome: Some(AttemptOutcome {
                at: second(n),
                result: AttemptResult::Unknown,
                code: None,
                message: None,
            }),
        };
        PaymentView {
            id: PaymentId::for_order(OrderId::new(Uuid::from_u128(6))),
            order: OrderId::new(Uuid::from_u128(6)),
            buyer: AccountId::default(),
            status,
            method,
            amount: Money::new(1, Currency::KRW),
            refunded: Money::new(0, Currency::KRW),
            attempts: vec![silence(2), silence(3)],
            version: 1,
            updated_at: second(3),
        }
    }

    fn english(order: &OrderView, payment: Option<&PaymentView>, audience: Audience) -> Explanation {
        explain(order, payment, DAY, audience, Language::English).expect("it has not ended")
    }

    #[test]
    fn every_order_that_has_not_ended_is_explained_to_everybody_in_both_languages() {
        let mut explained = HashSet::new();
        for status in OrderStatus::ALL {
            let ended = matches!(status, OrderStatus::Delivered | OrderStatus::Cancelled | OrderStatus::Refunded);
            for method in METHODS {
                let order = order(status, method);
                let payments = PAYMENTS.map(|status| Some(payment(status, method)));
                for payment in payments.iter().chain([&None]) {
                    for audience in Audience::ALL {
                        let told = |language| explain(&order, payment.as_ref(), DAY, audience, language);
                        let (korean, english) = (told(Language::Korean), told(Language::English));
                        assert_eq!((korean.is_none(), english.is_none()), (ended, ended), "{status:?}");
                        let (Some(korean), Some(english)) = (korean, english) else {
                            continue;
                        };
                        assert!(!korean.waiting_for.is_ascii() && !korean.next.is_ascii(), "{korean:?}");
                        assert!(english.waiting_for.is_ascii() && english.next.is_ascii() && !english.next.is_empty());
                        assert_eq!(korean.until, english.until);
                        explained.insert((english.waiting_for, english.next));
                    }
                }
            }
        }
        assert!(explained.len() > 20, "{}", explained.len());
    }

    #[test]
    fn an_order_waits_for_its_buyer_and_the_provider_until_the_deadline() {
        let waits = order(OrderStatus::AwaitingPayment, PaymentMethod::Card);
        let told = english(&waits, None, Audience::Buyer);
        assert_eq!((told.waiting_for.as_str(), told.until), ("the buyer to pay", Some(second(600))));
        assert!(told.next.ends_with("you can pay it or cancel it"), "{told:?}");
        assert!(!english(&waits, None, Audience::Seller).next.contains("you can"));
        let asked = PaymentView {
            attempts: vec![],
            ..payment(PaymentStatus::Pending, PaymentMethod::Card)
        };
        let pending = order(OrderStatus::PaymentPending, PaymentMethod::Card);
        assert_eq!(english(&pending, Some(&asked), Audience::Buyer).until, Some(second(600)));
    }

    #[test]
    fn a_silent_provider_is_waited_for_until_a_person_is_asked_to_look() {
        let bound = second(2).after(DAY);
        let unknown = payment(PaymentStatus::Unknown, PaymentMethod::Card);
        let pending = order(OrderStatus::PaymentPending, PaymentMethod::Card);
        let told = english(&pending, Some(&unknown), Audience::Buyer);
        assert_eq!(told.until, Some(bound));
        assert!(told.waiting_for.contains("nobody knows whether it took the money"));
        let cancelling = order(OrderStatus::Cancelling, PaymentMethod::Card);
        for status in [PaymentStatus::Unknown, PaymentStatus::Reversing] {
            let payment = payment(status, PaymentMethod::Card);
            assert_eq!(
                english(&cancelling, Some(&payment), Audience::Buyer).until,
                Some(bound),
                "{status:?}"
            );
        }
        let taken_up = OrderView {
            taken_up_at: Some(second(3)),
            ..pending
        };
        assert_eq!(
            english(&taken_up, Some(&unknown), Audience::Buyer).until,
            Some(second(3).after(DAY)),
            "counted anew since an operator had it go on"
        );
    }

    #[test]
    fn what_needs_a_person_tells_an_operator_why_and_what_to_do_and_nobody_else() {
        let stuck = order(OrderStatus::NeedsAttention, PaymentMethod::Card);
        let unknown = payment(PaymentStatus::Unknown, PaymentMethod::Card);
        let told = english(&stuck, Some(&unknown), Audience::Operator);
        assert!(told.waiting_for.ends_with(": the provider is silent"), "{told:?}");
        assert!(
            told.next.contains("goes on by itself") && told.next.contains("(resolve)"),
            "{told:?}"
        );
        let contradicted = payment(PaymentStatus::NeedsAttention, PaymentMethod::Card);
        let told = english(&stuck, Some(&contradicted), Audience::Operator);
        assert!(!told.next.contains("by itself") && told.next.contains("(resume)"), "{told:?}");
        for audience in [Audience::Buyer, Audience::Seller] {
            let told = english(&stuck, Some(&unknown), audience);
            assert!(!told.waiting_for.contains("silent") && !told.next.contains("resume"), "{told:?}");
        }
    }
}
