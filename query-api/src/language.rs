//! What people read, in Korean and in English.

pub(crate) use aggregates::Language;
use aggregates::{OrderStatus, PaymentMethod};
use axum::http::{HeaderMap, header};

/// The language that a request likes best.
pub(crate) fn preferred(headers: &HeaderMap) -> Language {
    Language::preferred(headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()))
}

/// What an order waits for, and what follows; none when nothing more happens by itself.
pub(crate) const fn explanation(status: OrderStatus, method: PaymentMethod, language: Language) -> Option<(&'static str, &'static str)> {
    let text = match (status, method, language) {
        (OrderStatus::Placed, PaymentMethod::Balance, Language::Korean) => {
            ("재고를 예약하고 있습니다", "예약이 끝나면 잔액에서 결제됩니다")
        }
        (OrderStatus::Placed, PaymentMethod::Balance, Language::English) => {
            ("the goods to be reserved", "then it is paid from the balance")
        }
        (OrderStatus::Placed, PaymentMethod::Card, Language::Korean) => ("재고를 예약하고 있습니다", "예약이 끝나면 결제를 진행합니다"),
        (OrderStatus::Placed, PaymentMethod::Card, Language::English) => ("the goods to be reserved", "then the payment begins"),
        (OrderStatus::AwaitingPayment, _, Language::Korean) => (
            "구매자의 결제를 기다리고 있습니다",
            "기한까지 결제되지 않으면 주문이 취소되고 예약된 재고가 풀립니다",
        ),
        (OrderStatus::AwaitingPayment, _, Language::English) => (
            "the buyer to pay",
            "if it is not paid by then, the order is cancelled and its goods are free again",
        ),
        (OrderStatus::PaymentPending, PaymentMethod::Card, Language::Korean) => (
            "결제 대행사의 승인을 기다리고 있습니다",
            "승인되면 주문이 확정되고, 거절되면 취소됩니다",
        ),
        (OrderStatus::PaymentPending, PaymentMethod::Card, Language::English) => (
            "the payment provider's answer",
            "approved, the order is confirmed; declined, it is cancelled and its goods are free again",
        ),
        (OrderStatus::PaymentPending, PaymentMethod::Balance, Language::Korean) => {
            ("잔액에서 결제하고 있습니다", "결제되면 주문이 확정되고, 잔액이 부족하면 취소됩니다")
        }
        (OrderStatus::PaymentPending, PaymentMethod::Balance, Language::English) => (
            "the payment from the balance",
            "paid, the order is confirmed; with too small a balance, it is cancelled",
        ),
        (OrderStatus::Confirmed, _, Language::Korean) => ("판매자의 배송 준비를 기다리고 있습니다", "준비가 끝나면 발송됩니다"),
        (OrderStatus::Confirmed, _, Language::English) => ("the seller to prepare the shipment", "then it is shipped"),
        (OrderStatus::PreparingShipment, _, Language::Korean) => ("상품을 포장하고 있습니다", "포장이 끝나면 발송됩니다"),
        (OrderStatus::PreparingShipment, _, Language::English) => ("the goods to be packed", "then it is shipped"),
        (OrderStatus::Shipped, _, Language::Korean) => ("배송 중입니다", "상품이 전달되면 배송이 완료됩니다"),
        (OrderStatus::Shipped, _, Language::English) => ("the courier to hand over the goods", "then it is delivered"),
        (OrderStatus::Cancelling, _, Language::Korean) => (
            "예약과 결제를 되돌리고 있습니다",
            "재고와 받은 금액을 모두 되돌리면 주문이 취소됩니다",
        ),
        (OrderStatus::Cancelling, _, Language::English) => (
            "what was begun to be undone",
            "when the goods are free and any money is back, the order is cancelled",
        ),
        (OrderStatus::NeedsAttention, _, Language::Korean) => {
            ("담당자의 확인을 기다리고 있습니다", "담당자가 확인한 뒤 계속 진행하거나 되돌립니다")
        }
        (OrderStatus::NeedsAttention, _, Language::English) => {
            ("a person of the shop to look at it", "they let it go on, or have it undone")
        }
        (OrderStatus::Delivered | OrderStatus::Cancelled | OrderStatus::Refunded, _, _) => return None,
    };
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_that_has_not_ended_says_what_it_waits_for_in_both_languages() {
        for status in OrderStatus::ALL {
            let ended = matches!(status, OrderStatus::Delivered | OrderStatus::Cancelled | OrderStatus::Refunded);
            for method in [PaymentMethod::Card, PaymentMethod::Balance] {
                let korean = explanation(status, method, Language::Korean);
                let english = explanation(status, method, Language::English);
                assert_eq!(korean.is_none(), ended, "{status:?}");
                assert_eq!(english.is_none(), ended, "{status:?}");
                assert!(ended || korean != english, "{status:?}");
            }
        }
    }
}
