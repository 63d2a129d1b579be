//! The two languages that the shop speaks to people.

use crate::FailureCode;

/// A language for what people read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Language {
    /// The shop's own, and so the one for whoever names none.
    #[default]
    Korean,
    /// For whoever names others.
    English,
}

impl Language {
    /// The one of ours that an `Accept-Language` likes best (RFC 9110, 12.5.4).
    pub fn preferred(accept_language: Option<&str>) -> Self {
        let Some(wishes) = accept_language else { return Self::default() };
        let mut best = (0, Self::English);
        for wish in wishes.split(',').take(32) {
            let (range, weight) = weighed(wish);
            let language = match range.split('-').next() {
                Some("*") => Self::Korean,
                Some(primary) if primary.eq_ignore_ascii_case("ko") => Self::Korean,
                Some(primary) if primary.eq_ignore_ascii_case("en") => Self::English,
                _ => continue,
            };
            if weight > best.0 {
                best = (weight, language);
            }
        }
        best.1
    }

    /// As `Content-Language` has it.
    pub const fn tag(self) -> &'static str {
        match self {
            Self::Korean => "ko",
            Self::English => "en",
        }
    }
}

/// A language range and its weight in thousandths.
fn weighed(wish: &str) -> (&str, u32) {
    let mut parts = wish.split(';').map(str::trim);
    let range = parts.next().unwrap_or_default();
    let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
    (range, weight.map_or(1000, thousandths))
}

/// A q-value (`1`, `0.7`, `0.125`), or 0 for what is none.
fn thousandths(text: &str) -> u32 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !matches!(whole, "0" | "1") || fraction.len() > 3 || !digits(fraction) {
        return 0;
    }
    let fraction = format!("{fraction:0<3}").parse().unwrap_or(0);
    (if whole == "1" { 1000 } else { fraction }).min(1000)
}

impl FailureCode {
    /// Why an order was cancelled, in words for people.
    pub const fn message(self, language: Language) -> &'static str {
        let (korean, english) = match self {
            Self::OutOfStock => (
                "재고 부족으로 주문이 취소되었습니다",
                "The order was cancelled because there is not enough in stock",
            ),
            Self::PriceMismatch => (
                "가격이 변경되어 주문이 취소되었습니다",
                "The order was cancelled because the price or the total is another one",
            ),
            Self::ProductRetired => (
                "판매가 종료된 상품이 있어 주문이 취소되었습니다",
                "The order was cancelled because a product is not sold any more",
            ),
            Self::PaymentDeclined => (
                "결제가 거절되어 주문이 취소되었습니다",
                "The order was cancelled because the payment was declined",
            ),
            Self::InsufficientBalance => ("잔액이 부족합니다", "The balance is too small"),
            Self::PaymentExpired => (
                "결제 기한이 지나 주문이 취소되었습니다",
                "The order was cancelled because it was not paid in time",
            ),
            Self::ReservationExpired => (
                "재고 예약 시간이 지나 주문이 취소되었습니다",
                "The order was cancelled because its reservation ran out",
            ),
            Self::CancelledByBuyer => ("구매자가 주문을 취소했습니다", "The buyer cancelled the order"),
            Self::CancelledByShop => ("판매자가 주문을 취소했습니다", "The shop cancelled the order"),
        };
        match language {
            Language::Korean => korean,
            Language::English => english,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(wishes: &str) -> Language {
        Language::preferred(Some(wishes))
    }

    #[test]
    fn the_language_with_the_greatest_weight_is_spoken() {
        assert_eq!(Language::preferred(None), Language::Korean);
        assert_eq!(chosen("en"), Language::English);
        assert_eq!(chosen("ko-KR,ko;q=0.9,en;q=0.8"), Language::Korean);
        assert_eq!(chosen("ko;q=0.3, en-GB;q=0.75"), Language::English);
        assert_eq!(chosen("en;q=0.4, ko;q=0.5"), Language::Korean);
        assert_eq!(chosen("en, ko"), Language::English);
        assert_eq!(chosen("fr, en;q=0.1, ko;q=0.2"), Language::Korean);
        assert_eq!(chosen("fr, de;q=0.5, *;q=0.1"), Language::Korean);
        assert_eq!(chosen("fr"), Language::English);
        assert_eq!(chosen("*"), Language::Korean);
        assert_eq!(chosen("ko;q=0, en;q=0.001"), Language::English);
        assert_eq!(chosen("ko;q=banana"), Language::English);
        assert_eq!(chosen(";;;,q=,ko;q=x"), Language::English);
    }
}
