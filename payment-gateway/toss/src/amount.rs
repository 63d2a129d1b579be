//! Amounts as the wire writes them: a JSON number in the currency's main unit, `15000` won or `12.30` dollars.
//!
//! Only currencies whose wire form is known are written: a wrong number of decimals charges a hundredfold.

/// How many decimals the wire writes for this currency; none when its form is not known.
pub fn decimals(currency: &str) -> Option<u32> {
    match currency {
        "KRW" | "JPY" => Some(0),
        "USD" => Some(2),
        _ => None,
    }
}

/// The JSON number for an amount of minor units; none for an unknown currency or an amount below zero.
pub fn to_wire(minor: i64, currency: &str) -> Option<String> {
    let decimals = decimals(currency)?;
    if minor < 0 {
        return None;
    }
    if decimals == 0 {
        return Some(minor.to_string());
    }
    let unit = 10_i64.checked_pow(decimals)?;
    Some(format!("{}.{:0width$}", minor / unit, minor % unit, width = decimals as usize))
}

/// The minor units of a JSON number. None for an unknown currency and for a number that is negative, too large, written
/// with an exponent or finer than the currency.
pub fn from_wire(number: &str, currency: &str) -> Option<i64> {
    let decimals = decimals(currency)? as usize;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let (fraction, finer) = fraction.split_at_checked(decimals).unwrap_or((fraction, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || finer.bytes().any(|byte| byte != b'0') {
        return None;
    }
    let unit = 10_i64.checked_pow(u32::try_from(decimals).ok()?)?;
    let fraction = if fraction.is_empty() {
        0
    } else {
        format!("{fraction:0<decimals$}").parse().ok()?
    };
    whole.parse::<i64>().ok()?.checked_mul(unit)?.checked_add(fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_written_with_its_currencys_decimals() {
        assert_eq!(to_wire(15_000, "KRW").as_deref(), Some("15000"));
        assert_eq!(to_wire(1_205, "USD").as_deref(), Some("12.05"));
        assert_eq!(to_wire(5, "USD").as_deref(), Some("0.05"));
        assert_eq!(to_wire(i64::MAX, "USD").as_deref(), Some("92233720368547758.07"));
        assert_eq!(to_wire(-1, "KRW"), None);
        assert_eq!(to_wire(1, "BHD"), None);
    }

    #[test]
    fn a_number_is_read_exactly_or_not_at_all() {
        assert_eq!(from_wire("15000", "KRW"), Some(15_000));
        assert_eq!(from_wire("15000.0", "KRW"), Some(15_000));
        assert_eq!(from_wire("15000.5", "KRW"), None);
        assert_eq!(from_wire("12.3", "USD"), Some(1_230));
        assert_eq!(from_wire("12", "USD"), Some(1_200));
        assert_eq!(from_wire("12.345", "USD"), None);
        assert_eq!(from_wire("12.300", "USD"), Some(1_230));
        for number in ["", "-1", "+1", "1e3", ".5", "1.+5", "99999999999999999999", "\"1\"", "null", "1.é"] {
            assert_eq!(from_wire(number, "USD"), None, "{number}");
        }
    }

    #[test]
    fn what_is_written_reads_back_as_the_same_amount() {
        for currency in ["KRW", "USD", "JPY"] {
            for minor in [0, 1, 9, 10, 99, 100, 101, 1_000_000, i64::MAX] {
                let number = to_wire(minor, currency).expect("the currency is known");
                assert_eq!(from_wire(&number, currency), Some(minor));
            }
        }
    }
}
