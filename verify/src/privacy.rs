//! Nothing personal in the clear.

use event_store::Event;

use crate::{Invariant, Place, Report, shapes::Personal, shapes::Text};

/// Looks at one event.
pub(crate) fn event(event: &Event, report: &mut Report) {
    if matches!(
        &*event.event_type,
        "order.placed" | "order.cancellation_requested" | "email.claimed" | "account.opened"
    ) {
        sealed(event, report);
    }
    // What a seller writes about a product is for everybody.
    if event.stream.kind != "product" && looks_like_an_address(&event.payload) {
        report.add(
            Invariant::Privacy,
            Place::event(event),
            "the payload holds what looks like an e-mail address",
        );
    }
}

fn sealed(event: &Event, report: &mut Report) {
    // What is not of this shape is a finding of those who count it.
    let Ok(personal) = serde_json::from_str::<Personal<'_>>(&event.payload) else {
        return;
    };
    let mut look = |member: &str, wanted: bool, text: Option<&Text<'_>>| match text {
        Some(Text(text)) if !is_sealed(text) => report.add(Invariant::Privacy, Place::event(event), format!("{member} is not sealed")),
        None if wanted => report.add(Invariant::Privacy, Place::event(event), format!("{member} is missing")),
        _ => {}
    };
    match &*event.event_type {
        "order.placed" => look("address", true, personal.address.as_ref()),
        "order.cancellation_requested" => look("reason", true, personal.reason.as_ref()),
        _ => {
            let registration = personal.registration.as_ref();
            look("email", true, registration.and_then(|known| known.email.as_ref()));
            look("name", true, registration.and_then(|known| known.name.as_ref()));
            look("phone", false, registration.and_then(|known| known.phone.as_ref()));
            look("password", true, registration.and_then(|known| known.password.as_ref()));
        }
    }
}

/// The version of the seal, and letters that a person's words do not consist of.
fn is_sealed(text: &str) -> bool {
    let sealed = text.strip_prefix("v1.").unwrap_or_default();
    let printable = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !sealed.is_empty() && sealed.bytes().all(printable)
}

/// Something, an `@`, and a domain with a dot.
fn looks_like_an_address(text: &str) -> bool {
    let of_a_name = |c: &char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '+' | '%');
    let of_a_domain = |c: &char| c.is_alphanumeric() || matches!(c, '.' | '-');
    text.match_indices('@').any(|(at, _)| {
        let local = text[..at].chars().next_back().is_some_and(|c| of_a_name(&c));
        let mut domain = text[at + 1..].chars().take(254).take_while(of_a_domain).skip_while(|c| *c == '.');
        let dot = domain.any(|c| c == '.');
        local && dot && domain.next().is_some_and(char::is_alphanumeric)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_other_text() {
        for address in ["minji@example.com", "write to 민지@예시.kr.", r#"{"a":"x.y+z@mail.example.co"}"#] {
            assert!(looks_like_an_address(address), "{address}");
        }
        for text in ["3 @ 5,000", "@example.com", "a@b", "a @ b.kr", "v1.abc", "a@.", "a@b."] {
            assert!(!looks_like_an_address(text), "{text}");
        }
    }

    #[test]
    fn a_sealed_text_shows_no_words() {
        assert!(is_sealed("v1.4uCq1Zb08o9y3sYwq2n1Xk5v-_"));
        for clear in ["", "v1.", "Seoul", "v1.Hidden Street 1", "v1.홍길동"] {
            assert!(!is_sealed(clear), "{clear}");
        }
    }
}
