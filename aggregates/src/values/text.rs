//! Text that has passed its rule. Rules are the parsers' alone: what is recorded loads whatever they say today.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;

/// Why this text is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Nothing but white space.
    #[error("must not be empty")]
    Empty,
    /// Longer than allowed.
    #[error("must have at most {0} characters")]
    TooLong(usize),
    /// A control character.
    #[error("must not contain control characters")]
    Control,
    /// Not of the form that this kind of text has.
    #[error("{0}")]
    Form(&'static str),
}

fn plain(text: &str, most: usize) -> Result<String, TextError> {
    let text: String = text.trim().nfc().collect();
    if text.chars().any(char::is_control) {
        return Err(TextError::Control);
    }
    if text.is_empty() {
        return Err(TextError::Empty);
    }
    if text.chars().count() > most {
        return Err(TextError::TooLong(most));
    }
    Ok(text)
}

macro_rules! text {
    ($(#[$doc:meta])* $name:ident, $parse:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = TextError;

            fn from_str(text: &str) -> Result<Self, TextError> {
                let parse: fn(&str) -> Result<String, TextError> = $parse;
                parse(text).map(|text| Self(text.into()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text!(/// What a product is called: 1 to 200 characters.
    Name, |text| plain(text, 200));
text!(/// What a product is: 1 to 4,000 characters.
    Description, |text| plain(text, 4_000));
text!(/// A reference or a reason that a person typed: 1 to 500 characters.
    Note, |text| plain(text, 500));
text!(/// A seller's own number for a product: letters, digits, `.`, `_`, `-`, up to 64.
Sku, |text| {
    let text = plain(text, 64)?;
    let fits = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
    if fits { Ok(text) } else { Err(TextError::Form("must consist of letters, digits, '.', '_' and '-'")) }
});
text!(/// An order's number for people: the day it was placed, `yyyyMMdd`, and at least eight digits.
OrderNumber, |text| {
    let fits = text.len() >= 16 && text.len() <= 32 && text.bytes().all(|byte| byte.is_ascii_digit());
    if fits { Ok(text.to_owned()) } else { Err(TextError::Form("an order number has at least 16 digits")) }
});
text!(/// What the payment provider calls a buyer's authorisation: up to 200 printable ASCII characters (Toss Payments, `paymentKey`).
PaymentKey, |text| {
    let text = plain(text, 200)?;
    if text.bytes().all(|byte| byte.is_ascii_graphic()) { Ok(text) } else { Err(TextError::Form("must be printable ASCII without spaces")) }
});

macro_rules! personal {
    ($(#[$doc:meta])* $name:ident, $parse:expr) => {
        $(#[$doc])*
        ///
        /// Personal: it is neither shown in debug output nor serialised; seal it before it goes into a command.
        #[derive(Clone, PartialEq, Eq)]
        pub struct $name(String);

        impl $name {
            /// The text in the clear.
            pub fn expose(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = TextError;

            fn from_str(text: &str) -> Result<Self, TextError> {
                let parse: fn(&str) -> Result<String, TextError> = $parse;
                parse(text).map(Self)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(…)"))
            }
        }
    };
}

personal!(/// An e-mail address: one `@`, a domain with a dot (or `localhost`), up to 254 characters (RFC 5321, 4.5.3.1).
Email, |text| {
    let text = plain(text, 254)?;
    let (local, domain) = text.split_once('@').ok_or(TextError::Form("must be an e-mail address"))?;
    let label = |label: &str| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.chars().all(|c| c.is_alphanumeric() || c == '-');
    let fits = !local.is_empty()
        && local.len() <= 64
        && !text.contains(char::is_whitespace)
        && !domain.contains('@')
        && domain.contains('.')
        && domain.split('.').all(label);
    if fits { Ok(text) } else { Err(TextError::Form("must be an e-mail address")) }
});
personal!(/// A person's name: 1 to 100 characters.
    PersonName, |text| plain(text, 100));
personal!(/// A telephone number: 3 to 32 of digits, spaces and `+ - ( ) .`
Phone, |text| {
    let text = plain(text, 32)?;
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    let fits = digits >= 3 && text.bytes().all(|byte| byte.is_ascii_digit() || b"+-(). ".contains(&byte));
    if fits { Ok(text) } else { Err(TextError::Form("must be a telephone number")) }
});

/// Personal data as it is recorded: sealed with its subject's key. Without that key it says nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sealed(Arc<str>);

impl Sealed {
    /// What the key vault returned.
    pub fn new(ciphertext: impl Into<Arc<str>>) -> Self {
        Self(ciphertext.into())
    }

    /// The ciphertext.
    pub fn ciphertext(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_without_a_domain_or_with_spaces_are_no_e_mail() {
        for good in ["a@b.kr", "kim.minji+shop@mail.example.com", "한글@예시.kr"] {
            assert!(good.parse::<Email>().is_ok(), "{good}");
        }
        for bad in ["", "a", "a@", "@b.kr", "a@b", "a b@c.kr", "a@b@c.kr", "a@.kr", "a@b..kr", "a@-b.kr"] {
            assert!(bad.parse::<Email>().is_err(), "{bad}");
        }
    }

    #[test]
    fn personal_data_does_not_show_in_debug_output() {
        let email: Email = "minji@example.com".parse().expect("an address");
        assert_eq!(format!("{email:?}"), "Email(…)");
    }

    #[test]
    fn text_is_trimmed_normalised_and_free_of_control_characters() {
        assert_eq!("  cafe\u{301} ".parse::<Name>().expect("a name").as_str(), "café");
        assert_eq!("a\u{0}b".parse::<Name>(), Err(TextError::Control));
        assert_eq!("   ".parse::<Name>(), Err(TextError::Empty));
        assert_eq!("x".repeat(201).parse::<Name>(), Err(TextError::TooLong(200)));
    }
}
