//! Money, counted.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A currency by its ISO 4217 code.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Currency([u8; 3]);

impl Currency {
    /// The South Korean won.
    pub const KRW: Self = Self(*b"KRW");

    /// The three letters.
    pub fn code(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("???")
    }

    /// How many decimal places its smallest unit has (ISO 4217: KRW 0, USD 2, KWD 3).
    pub fn exponent(self) -> u16 {
        iso_currency::Currency::from_code(self.code())
            .and_then(iso_currency::Currency::exponent)
            .unwrap_or(0)
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl FromStr for Currency {
    type Err = MoneyError;

    fn from_str(text: &str) -> Result<Self, MoneyError> {
        let known = iso_currency::Currency::from_code(text).filter(|currency| currency.exponent().is_some());
        let bytes = <[u8; 3]>::try_from(text.as_bytes()).ok().filter(|_| known.is_some());
        bytes.map(Self).ok_or(MoneyError::UnknownCurrency)
    }
}

impl Serialize for Currency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

// What is recorded is read without asking today's list of currencies.
impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Code;
        impl de::Visitor<'_> for Code {
            type Value = Currency;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("three capital letters")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Currency, E> {
                match <[u8; 3]>::try_from(text.as_bytes()) {
                    Ok(code) if code.iter().all(u8::is_ascii_uppercase) => Ok(Currency(code)),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_str(Code)
    }
}

/// An amount of money, counted in its currency's smallest unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Money {
    #[serde(rename = "amount")]
    minor: i64,
    currency: Currency,
}

/// Why there is no such amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// Not a currency of ISO 4217 that counts in units.
    #[error("this is not an ISO 4217 currency code")]
    UnknownCurrency,
    /// Two currencies do not add up.
    #[error("the currencies differ")]
    CurrencyMismatch,
    /// More than can be counted.
    #[error("the amount is too large")]
    Overflow,
    /// An amount in a request is between 0 and 2^53-1.
    #[error("an amount is a whole number of minor units from 0 to 9007199254740991")]
    OutOfRange,
}

impl Money {
    /// The largest amount that a request may name: 2^53-1, the largest integer that every JSON reader keeps exactly.
    pub const MAX_MINOR: i64 = (1 << 53) - 1;

    /// This many of the smallest units.
    pub const fn new(minor: i64, currency: Currency) -> Self {
        Self { minor, currency }
    }

    /// An amount from a request.
    pub fn parse(minor: i64, currency: &str) -> Result<Self, MoneyError> {
        let currency = currency.parse()?;
        if (0..=Self::MAX_MINOR).contains(&minor) {
            Ok(Self { minor, currency })
        } else {
            Err(MoneyError::OutOfRange)
        }
    }

    /// Nothing.
    pub const fn zero(currency: Currency) -> Self {
        Self { minor: 0, currency }
    }

    /// The smallest units.
    pub const fn minor(self) -> i64 {
        self.minor
    }

    /// The currency.
    pub const fn currency(self) -> Currency {
        self.currency
    }

    /// The sum.
    pub fn checked_add(self, other: Self) -> Result<Self, MoneyError> {
        self.same_currency(other)?;
        let minor = self.minor.checked_add(other.minor).ok_or(MoneyError::Overflow)?;
        Ok(Self { minor, ..self })
    }

    /// The difference.
    pub fn checked_sub(self, other: Self) -> Result<Self, MoneyError> {
        self.same_currency(other)?;
        let minor = self.minor.checked_sub(other.minor).ok_or(MoneyError::Overflow)?;
        Ok(Self { minor, ..self })
    }

    /// This amount so many times, up to what a request may name.
    pub fn checked_mul(self, times: u32) -> Result<Self, MoneyError> {
        let minor = self
            .minor
            .checked_mul(i64::from(times))
            .filter(|minor| minor.abs() <= Self::MAX_MINOR);
        Ok(Self {
            minor: minor.ok_or(MoneyError::Overflow)?,
            ..self
        })
    }

    fn same_currency(self, other: Self) -> Result<(), MoneyError> {
        if self.currency == other.currency {
            Ok(())
        } else {
            Err(MoneyError::CurrencyMismatch)
        }
    }
}

impl fmt::Display for Money {
    /// In whole units with the currency's decimals: `15000 KRW`, `12.34 USD`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exponent = usize::from(self.currency.exponent());
        let digits = format!("{:0width$}", self.minor.unsigned_abs(), width = exponent + 1);
        let (whole, fraction) = digits.split_at(digits.len() - exponent);
        let sign = if self.minor < 0 { "-" } else { "" };
        let point = if fraction.is_empty() { "" } else { "." };
        write!(f, "{sign}{whole}{point}{fraction} {}", self.currency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usd(minor: i64) -> Money {
        Money::new(minor, "USD".parse().expect("USD is a currency"))
    }

    #[test]
    fn amounts_are_written_with_the_decimals_of_their_currency() {
        assert_eq!(Money::new(15_000, Currency::KRW).to_string(), "15000 KRW");
        assert_eq!(usd(1_234).to_string(), "12.34 USD");
        assert_eq!(usd(-5).to_string(), "-0.05 USD");
        assert_eq!(Money::parse(1, "KWD").expect("KWD is a currency").to_string(), "0.001 KWD");
    }

    #[test]
    fn money_never_wraps_and_never_mixes_currencies() {
        assert_eq!(usd(i64::MAX).checked_add(usd(1)), Err(MoneyError::Overflow));
        assert_eq!(usd(Money::MAX_MINOR).checked_mul(2), Err(MoneyError::Overflow));
        assert_eq!(usd(1).checked_sub(Money::new(1, Currency::KRW)), Err(MoneyError::CurrencyMismatch));
    }

    #[test]
    fn a_request_names_amounts_that_every_json_reader_keeps() {
        assert_eq!(Money::parse(-1, "KRW"), Err(MoneyError::OutOfRange));
        assert_eq!(Money::parse(Money::MAX_MINOR + 1, "KRW"), Err(MoneyError::OutOfRange));
        assert_eq!(Money::parse(1, "krw"), Err(MoneyError::UnknownCurrency));
        assert_eq!(Money::parse(1, "XXX"), Err(MoneyError::UnknownCurrency));
    }

    #[test]
    fn what_was_recorded_in_a_currency_of_another_day_still_loads() {
        let money: Money = serde_json::from_str(r#"{"amount":7,"currency":"ZZZ"}"#).expect("three letters are enough");
        assert_eq!(money.minor(), 7);
    }
}
