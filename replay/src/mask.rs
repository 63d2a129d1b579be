//! What is not for everybody's eyes: sealed personal data, payment keys and idempotency keys.
//!
//! Payloads and metadata are shown as they are recorded, but for these: a sealed text is shown as `⟨sealed⟩`, a key by its beginning. Whoever
//! has the shop's keys and asks for it sees them; what was sealed for a person whose key is erased is `⟨shredded⟩` for ever.

use std::collections::HashMap;

use event_store::StreamId;
use key_vault::{KeyVault, VaultError};
use memchr::memmem::Finder;
use serde::Deserialize;
use uuid::Uuid;

use crate::{arguments::Source, failure::Failure, place::Place, source::Log};

const SEALED: &str = "⟨sealed⟩";
const SHREDDED: &str = "⟨shredded⟩";

/// How much of a payment key or an idempotency key is shown.
const SHOWN_OF_A_KEY: usize = 8;

/// Members that hold such a key.
const KEYS: [&str; 4] = ["payment_key", "paymentKey", "idempotencyKey", "idempotency_key"];

/// So many orders' buyers are remembered, to open the next event of the same order.
const BUYERS: usize = 4_096;

/// Shows JSON without what is not for everybody, or with it for those who may.
pub(crate) struct Mask {
    /// A string that begins as sealed texts do.
    sealed: Finder<'static>,
    /// The end of a member's name that holds a key, and the beginning of its text.
    key: Finder<'static>,
    reveal: Option<Reveal>,
}

struct Reveal {
    vault: KeyVault,
    place: Place,
    buyers: HashMap<Uuid, Option<Uuid>>,
    opened: u64,
    shredded: u64,
}

impl Mask {
    /// As the command line says.
    ///
    /// # Errors
    /// It asks to reveal, and there are no keys.
    pub(crate) fn new(source: &Source) -> Result<Self, Failure> {
        Ok(Self {
            sealed: Finder::new("\"v1."),
            key: Finder::new("ey\":\""),
            reveal: if source.reveal { Some(Reveal::open(source)?) } else { None },
        })
    }

    /// The JSON that an event of this stream holds (or that is made of them), as it may be shown. What needs no change is not copied.
    ///
    /// # Errors
    /// The keys are not those that it was sealed with.
    pub(crate) fn json<'a>(&mut self, log: &Log, kind: &str, id: &str, json: &'a str, buffer: &'a mut String) -> Result<&'a str, Failure> {
        let mut next_sealed = self.sealed.find(json.as_bytes());
        let mut next_key = if self.reveal.is_some() {
            None
        } else {
            self.key.find(json.as_bytes())
        };
        if next_sealed.is_none() && next_key.is_none() {
            return Ok(json);
        }
        buffer.clear();
        let mut copied = 0;
        loop {
            // Whichever comes first.
            let sealed = next_sealed.filter(|sealed| next_key.is_none_or(|key| *sealed < key));
            let (from, is_key) = match (sealed, next_key) {
                (Some(sealed), _) => (sealed + 1, false),
                (None, Some(key)) => (key + "ey\":\"".len(), true),
                (None, None) => break,
            };
            let to = from + text_length(&json[from..]);
            if from >= copied {
                let text = &json[from..to];
                let shown = if is_key {
                    names_a_key(&json[..from - 3]).then(|| beginning(text))
                } else if begins_a_text(&json[..from - 1]) && is_sealed(text) {
                    Some(self.open(log, kind, id, json, text)?)
                } else {
                    None
                };
                if let Some(shown) = shown {
                    buffer.push_str(&json[copied..from]);
                    buffer.push_str(&shown);
                    copied = to;
                }
            }
            let after = |finder: &Finder<'_>| finder.find(&json.as_bytes()[from..]).map(|at| at + from);
            if is_key {
                next_key = after(&self.key);
            } else {
                next_sealed = after(&self.sealed);
            }
        }
        if copied == 0 {
            return Ok(json);
        }
        buffer.push_str(&json[copied..]);
        Ok(buffer)
    }

    /// A payment key, where it stands by itself.
    pub(crate) fn key(&self, key: &str) -> String {
        if self.reveal.is_some() { key.to_owned() } else { beginning(key) }
    }

    /// What is said at the end: keys that open nothing may be those of another shop.
    pub(crate) fn remark(&self) -> Option<String> {
        let reveal = self.reveal.as_ref().filter(|reveal| reveal.shredded > 0 && reveal.opened == 0)?;
        Some(format!(
            "{} has no key for any of the people in what was shown: they are erased, or these are the keys of another shop",
            reveal.place
        ))
    }

    /// What stands for a sealed text, as JSON without its quotes.
    fn open(&mut self, log: &Log, kind: &str, id: &str, json: &str, sealed: &str) -> Result<String, Failure> {
        let Some(reveal) = &mut self.reveal else {
            return Ok(SEALED.to_owned());
        };
        let Some(subject) = reveal.subject(log, kind, id, json)? else {
            return Ok(SEALED.to_owned());
        };
        match reveal.vault.open_sealed(subject, sealed) {
            Ok(Some(text)) => {
                reveal.opened += 1;
                let text = serde_json::to_string(text.as_str()).map_err(Failure::input)?;
                Ok(text[1..text.len() - 1].to_owned())
            }
            Ok(None) => {
                reveal.shredded += 1;
                Ok(SHREDDED.to_owned())
            }
            Err(VaultError::NotAuthentic | VaultError::NotSealed) => Err(Failure::input(format_args!(
                "the key of {subject} in {} does not open what is sealed in {kind}-{id}: these are not the keys of this shop, or the text was \
                 altered; name the right ones with --keys",
                reveal.place
            ))),
            Err(error) => Err(Failure::input(error)),
        }
    }
}

impl Reveal {
    fn open(source: &Source) -> Result<Self, Failure> {
        let (vault, place) = source.open_keys()?;
        Ok(Self {
            vault,
            place,
            buyers: HashMap::new(),
            opened: 0,
            shredded: 0,
        })
    }

    /// Whose key it is sealed with: what an order says is its buyer's, what an account says its own.
    fn subject(&mut self, log: &Log, kind: &str, id: &str, json: &str) -> Result<Option<Uuid>, Failure> {
        match kind {
            "order" => match Uuid::try_parse(id) {
                Ok(order) => self.buyer(log, order),
                Err(_) => Ok(None),
            },
            "account" => Ok(Uuid::try_parse(id).ok()),
            _ => Ok(serde_json::from_str::<Registered>(json)
                .ok()
                .map(|registered| registered.registration.account)),
        }
    }

    fn buyer(&mut self, log: &Log, order: Uuid) -> Result<Option<Uuid>, Failure> {
        if let Some(buyer) = self.buyers.get(&order) {
            return Ok(*buyer);
        }
        let events = log.reader().stream(&StreamId::new("order", order), 0, 1);
        let events = events.map_err(|error| log.explained(error))?;
        let buyer = events.first().and_then(|event| serde_json::from_str::<Placed>(&event.payload).ok());
        let buyer = buyer.map(|placed| placed.buyer);
        if self.buyers.len() >= BUYERS {
            self.buyers.clear();
        }
        self.buyers.insert(order, buyer);
        Ok(buyer)
    }
}

#[derive(Deserialize)]
struct Placed {
    buyer: Uuid,
}

#[derive(Deserialize)]
struct Registered {
    registration: Registration,
}

#[derive(Deserialize)]
struct Registration {
    account: Uuid,
}

/// Where a JSON text ends that has begun.
fn text_length(rest: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in rest.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at,
            _ => {}
        }
    }
    rest.len()
}

/// Whether a quote that follows is where a text begins: not one within a text, which has a backslash before it.
fn begins_a_text(before: &str) -> bool {
    !before.ends_with('\\')
}

/// Whether the member's name is that of a key, and not a text that ends alike.
fn names_a_key(before: &str) -> bool {
    KEYS.iter().any(|name| {
        let rest = before.strip_suffix(name).and_then(|rest| rest.strip_suffix('"'));
        rest.is_some_and(begins_a_text)
    })
}

/// A nonce of 24 bytes and a tag of 16, as base64: nothing that is sealed is shorter.
const SHORTEST_SEAL: usize = 54;

/// The version of the seal, and so many letters that a person's words do not consist of.
fn is_sealed(text: &str) -> bool {
    let sealed = text.strip_prefix("v1.").unwrap_or_default();
    sealed.len() >= SHORTEST_SEAL
        && sealed
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// The beginning of a key, as it stands in JSON: an escape is not cut through.
fn beginning(text: &str) -> String {
    let plain = text.find('\\').unwrap_or(text.len());
    // Of a short one half: the whole is nobody's business.
    let length = text.chars().count();
    let shown = if length > SHOWN_OF_A_KEY { SHOWN_OF_A_KEY } else { length / 2 };
    match text.char_indices().nth(shown) {
        Some((end, _)) => format!("{}…", &text[..end.min(plain)]),
        None => text.to_owned(),
    }
}

/// A text that was a member's value, as it may be shown without any key.
pub(crate) fn shown(name: &str, text: &str) -> String {
    if KEYS.contains(&name) {
        beginning(text)
    } else if is_sealed(text) {
        SEALED.to_owned()
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is shown without keys; nothing is looked up for that.
    fn masked(json: &str) -> String {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        drop(event_store_sqlite::SqliteStore::open(scratch.path()).expect("a log"));
        let data = scratch.path().to_str().expect("text");
        let arguments =
            <crate::arguments::Arguments as clap::Parser>::try_parse_from(["replay", "--data", data, "types"]).expect("arguments");
        let log = arguments.source.open().expect("a log");
        let mut mask = Mask::new(&arguments.source).expect("no keys are needed");
        let mut buffer = String::new();
        mask.json(&log, "order", "", json, &mut buffer).expect("masked").to_owned()
    }

    #[test]
    fn sealed_texts_and_keys_are_not_shown() {
        for (json, shown) in [
            (r#"{"a":1}"#, r#"{"a":1}"#),
            (
                r#"{"address":"v1.abc-_fghijabc-_fghijabc-_fghijabc-_fghijabc-_fghijabc-_fghij","n":1}"#,
                r#"{"address":"⟨sealed⟩","n":1}"#,
            ),
            (
                r#"{"a":["v1.abcdefghijabcdefghijabcdefghijabcdefghijabcdefghijabcdefghij","v1.klmnopqrstklmnopqrstklmnopqrstklmnopqrstklmnopqrstklmnopqrst"],"b":"v1.xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}"#,
                r#"{"a":["⟨sealed⟩","⟨sealed⟩"],"b":"⟨sealed⟩"}"#,
            ),
            (
                r#"{"payment_key":"sim_ok_123456","address":"v1.abcdefghijabcdefghijabcdefghijabcdefghijabcdefghijabcdefghij"}"#,
                r#"{"payment_key":"sim_ok_1…","address":"⟨sealed⟩"}"#,
            ),
            (r#"{"idempotencyKey":"0193e6a0-11aa"}"#, r#"{"idempotencyKey":"0193e6a0…"}"#),
            (r#"{"payment_key":"v1.abcdefghij"}"#, r#"{"payment_key":"v1.abcde…"}"#),
            (r#"{"payment_key":"short"}"#, r#"{"payment_key":"sh…"}"#),
            (r#"{"payment_key":"a\"b\"cdefghij"}"#, r#"{"payment_key":"a…"}"#),
            // Words of people that look alike.
            (r#"{"name":"v1.0","sku":"v1.abc-_"}"#, r#"{"name":"v1.0","sku":"v1.abc-_"}"#),
            (r#"{"reason":"v1.2 is out, boxes too"}"#, r#"{"reason":"v1.2 is out, boxes too"}"#),
            (
                r#"{"reason":"he said \"v1.abcdefghijabcdefghijabcdefghijabcdefghijabcdefghijabcdefghij\""}"#,
                r#"{"reason":"he said \"v1.abcdefghijabcdefghijabcdefghijabcdefghijabcdefghijabcdefghij\""}"#,
            ),
            (r#"{"key":"value-that-is-long"}"#, r#"{"key":"value-that-is-long"}"#),
            (
                r#"{"reason":"\"payment_key\":\"sim_ok_123\""}"#,
                r#"{"reason":"\"payment_key\":\"sim_ok_123\""}"#,
            ),
            (
                r#"{"reason":"payment_key","x":"sim_ok_123456"}"#,
                r#"{"reason":"payment_key","x":"sim_ok_123456"}"#,
            ),
        ] {
            assert_eq!(masked(json), shown, "{json}");
        }
    }
}
