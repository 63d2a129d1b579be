//! What people read, in Korean and in English.

use aggregates::{FailureCode, OrderStatus, PaymentMethod};
use axum::http::{HeaderMap, header};

/// The languages that the shop speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    /// The shop's own, and so the one for whoever names none.
    Korean,
    /// For whoever names others.
    English,
}

impl Language {
    /// The one of ours that an `Accept-Language` likes best (RFC 9110, 12.5.4).
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let Some(wishes) = headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()) else {
            return Self::Korean;
        };
        let mut best = (0.0, Self::English);
        for wish in wishes.split(',').take(32) {
            let mut parts = wish.split(';').map(str::trim);
            let range = parts.next().unwrap_or_default();
            let weight: f32 = parts
                .find_map(|part| part.strip_prefix("q="))
                .map_or(1.0, |weight| weight.parse().unwrap_or(0.0));
            let language = match range.split('-').next().unwrap_or_default().to_ascii_lowercase().as_str() {
                "ko" | "*" => Self::Korean,
                "en" => Self::English,
                _ => continue,
            };
            if weight > best.0 {
                best = (weight, language);
            }
        }
        best.1
    }

    /// As `Content-Language` has it.
    pub(crate) const fn tag(self) -> &'static str {
        match self {
            Self::Korean => "ko",
            Self::English => "en",
        }
    }
}

/// Why an order was cancelled.
pub(crate) const fn failure(code: FailureCode, language: Language) -> &'static str {
    let (korean, english) = match code {
        FailureCode::OutOfStock => (
            "재고 부족으로 주문이 취소되었습니다",
            "The order was cancelled because there is not enough in stock",
        ),
        FailureCode::PriceMismatch => (
            "가격이 변경되어 주문이 취소되었습니다",
            "The order was cancelled because the price or the total is another one",
        ),
        FailureCode::ProductRetired => (
            "판매가 종료된 상품이 있어 주문이 취소되었습니다",
            "The order was cancelled because a product is not sold any more",
        ),
        FailureCode::PaymentDeclined => (
            "결제가 거절되어 주문이 취소되었습니다",
            "The order was cancelled because the payment was declined",
        ),
        FailureCode::InsufficientBalance => ("잔액이 부족합니다", "The balance is too small"),
        FailureCode::PaymentExpired => (
            "결제 기한이 지나 주문이 취소되었습니다",
            "The order was cancelled because it was not paid in time",
        ),
        FailureCode::ReservationExpired => (
            "재고 예약 시간이 지나 주문이 취소되었습니다",
            "The order was cancelled because its reservation ran out",
        ),
        FailureCode::CancelledByBuyer => ("구매자가 주문을 취소했습니다", "The buyer cancelled the order"),
        FailureCode::CancelledByShop => ("판매자가 주문을 취소했습니다", "The shop cancelled the order"),
    };
    match language {
        Language::Korean => korean,
        Language::English => english,
    }
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
    use axum::http::HeaderValue;

    use super::*;

    fn of(value: &str) -> Language {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_LANGUAGE, HeaderValue::from_str(value).expect("a header's value"));
        Language::of(&headers)
    }

    #[test]
    fn the_language_that_is_liked_best_is_spoken() {
        assert_eq!(of("fr"), Language::English);
        assert_eq!(Language::of(&HeaderMap::new()), Language::Korean);
        assert_eq!(of("ko-KR,ko;q=0.9,en-US;q=0.8"), Language::Korean);
        assert_eq!(of("en;q=0.4, ko;q=0.5"), Language::Korean);
        assert_eq!(of("en, ko"), Language::English);
        assert_eq!(of("fr, de;q=0.5, *;q=0.1"), Language::Korean);
        assert_eq!(of("ko;q=0"), Language::English);
        assert_eq!(of(";;;,q=,ko;q=x"), Language::English);
    }

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
