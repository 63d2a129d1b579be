//! Values: raw text and numbers become one that is right, or an error that says why not.
#![no_main]

use std::{fmt::Debug, str::FromStr};

use aggregates::{
    AccountId, Currency, Description, Email, Language, Money, Name, Note, OrderNumber, PaymentKey, PersonName, Phone, Quantity, Sku,
    TextError,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (i64, i64, u32, &str)| {
    let (a, b, times, text) = input;
    amounts(a, b, times, text);
    quantities(a);
    texts(text);
    let _ = Language::preferred(Some(text));
});

fn amounts(a: i64, b: i64, times: u32, currency: &str) {
    if let Ok(money) = Money::parse(a, currency) {
        assert!((0..=Money::MAX_MINOR).contains(&money.minor()));
        let json = serde_json::to_string(&money).expect("money is JSON");
        assert_eq!(serde_json::from_str::<Money>(&json).expect("our own text"), money);
    }
    if let Ok(money) = serde_json::from_str::<Money>(currency) {
        let json = serde_json::to_string(&money).expect("money is JSON");
        assert_eq!(serde_json::from_str::<Money>(&json).expect("our own text"), money);
    }
    if let Ok(currency) = currency.parse::<Currency>() {
        assert_eq!(currency.to_string().parse(), Ok(currency));
        assert!(currency.exponent() <= 4);
    }
    let (one, other) = (Money::new(a, Currency::KRW), Money::new(b, Currency::KRW));
    assert_eq!(one.checked_add(other).ok().map(Money::minor), a.checked_add(b));
    assert_eq!(one.checked_sub(other).ok().map(Money::minor), a.checked_sub(b));
    let product = i128::from(a) * i128::from(times);
    let exact = (product.abs() <= i128::from(Money::MAX_MINOR)).then_some(product);
    assert_eq!(one.checked_mul(times).ok().map(|money| i128::from(money.minor())), exact);
}

fn quantities(count: i64) {
    match Quantity::parse(count) {
        Ok(quantity) => {
            assert_eq!(i64::from(quantity.get()), count);
            let json = serde_json::to_string(&quantity).expect("a quantity is JSON");
            assert_eq!(serde_json::from_str::<Quantity>(&json).expect("our own text"), quantity);
        }
        Err(_) => assert!(!(1..=i64::from(Quantity::MAX)).contains(&count)),
    }
}

fn texts(text: &str) {
    settled(text, 200, Name::as_str);
    settled(text, 4_000, Description::as_str);
    settled(text, 500, Note::as_str);
    settled(text, 64, Sku::as_str);
    settled(text, 32, OrderNumber::as_str);
    settled(text, 200, PaymentKey::as_str);
    settled(text, 254, Email::expose);
    settled(text, 100, PersonName::expose);
    settled(text, 32, Phone::expose);
    if let Ok(id) = text.parse::<AccountId>() {
        assert_eq!(id.to_string().parse(), Ok(id));
    }
}

/// A text that was taken is within its bound, free of control characters, and taken again as it is.
fn settled<T>(text: &str, most: usize, show: fn(&T) -> &str)
where
    T: FromStr<Err = TextError> + PartialEq + Debug,
{
    let Ok(value) = text.parse::<T>() else { return };
    let shown = show(&value);
    assert!(
        !shown.is_empty() && shown.chars().count() <= most && !shown.chars().any(char::is_control),
        "{shown:?}"
    );
    assert_eq!(shown.parse(), Ok(value));
}
