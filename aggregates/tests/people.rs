//! Accounts, their addresses and their sessions: given what happened, when asked, then.

use aggregates::{
    Account, AccountCommand, AccountError, AccountEvent, AccountId, EmailClaim, EmailCommand, EmailError, EmailEvent, EmailIndex,
    Registration, Role, Sealed, Session, SessionCommand as Ask, SessionError, SessionEvent as Event, Timestamp,
};
use cqrs_es::test::{AggregateTestExecutor, TestFramework};
use uuid::Uuid;

const LATER: Timestamp = Timestamp::from_micros(1_000_000);

fn registration(account: u128) -> Registration {
    Registration {
        account: AccountId::new(Uuid::from_u128(account)),
        email: Sealed::new("sealed e-mail"),
        name: Sealed::new("sealed name"),
        phone: None,
        password: Sealed::new("sealed hash"),
        role: Role::Buyer,
        at: Timestamp::default(),
    }
}

#[test]
fn an_account_is_opened_once_and_opening_it_again_as_it_is_changes_nothing() {
    let index = EmailIndex::new(Uuid::from_u128(9));
    let open = |account| AccountCommand::Open {
        index,
        registration: registration(account),
    };
    let opened = AccountEvent::Opened {
        index,
        registration: registration(1),
    };
    let given = |events| TestFramework::<Account>::with(()).given(events);
    given(vec![]).when(open(1)).then_expect_events(vec![opened.clone()]);
    given(vec![opened.clone()]).when(open(1)).then_expect_events(vec![]);
    given(vec![opened]).when(open(2)).then_expect_error(AccountError::Exists);
}

#[test]
fn an_address_belongs_to_one_account() {
    let claim = |account| EmailCommand::Claim {
        registration: registration(account),
    };
    let claimed = EmailEvent::Claimed {
        registration: registration(1),
    };
    let given = |events| TestFramework::<EmailClaim>::with(()).given(events);
    given(vec![]).when(claim(1)).then_expect_events(vec![claimed.clone()]);
    given(vec![claimed]).when(claim(2)).then_expect_error(EmailError::Taken);
}

fn started() -> Event {
    Event::Started {
        account: AccountId::default(),
        token: "first".to_owned(),
        expires_at: LATER,
    }
}

fn refresh(shown: &str) -> Ask {
    Ask::Refresh {
        shown: shown.to_owned(),
        next: "next".to_owned(),
        at: Timestamp::default(),
    }
}

fn session(events: impl Into<Vec<Event>>) -> AggregateTestExecutor<Session> {
    TestFramework::<Session>::with(()).given(events.into())
}

#[test]
fn a_session_starts_once() {
    let start = Ask::Start {
        account: AccountId::default(),
        token: "first".to_owned(),
        expires_at: LATER,
    };
    session([]).when(start.clone()).then_expect_events(vec![started()]);
    session([started()]).when(start.clone()).then_expect_error(SessionError::Exists);
    session([started(), Event::Ended {}])
        .when(start)
        .then_expect_error(SessionError::Exists);
}

#[test]
fn a_token_is_replaced_and_one_that_comes_again_revokes_the_session() {
    let refreshed = Event::Refreshed { token: "next".to_owned() };
    session([started()])
        .when(refresh("first"))
        .then_expect_events(vec![refreshed.clone()]);
    session([started(), refreshed.clone()])
        .when(refresh("first"))
        .then_expect_events(vec![Event::Revoked {}]);
    session([started(), refreshed, Event::Revoked {}])
        .when(refresh("next"))
        .then_expect_error(SessionError::Over);
}

#[test]
fn a_session_that_never_was_or_is_over_is_not_refreshed() {
    session([]).when(refresh("first")).then_expect_error(SessionError::Over);
    session([started(), Event::Ended {}])
        .when(refresh("first"))
        .then_expect_error(SessionError::Over);
    let late = Ask::Refresh {
        shown: "first".to_owned(),
        next: "next".to_owned(),
        at: LATER,
    };
    session([started()]).when(late).then_expect_error(SessionError::Over);
}

#[test]
fn whoever_holds_the_token_logs_out_and_logging_out_again_is_no_error() {
    let end = |shown: &str| Ask::End { shown: shown.to_owned() };
    session([started()]).when(end("first")).then_expect_events(vec![Event::Ended {}]);
    session([started()]).when(end("other")).then_expect_events(vec![]);
    session([started(), Event::Ended {}]).when(end("first")).then_expect_events(vec![]);
    session([]).when(end("first")).then_expect_events(vec![]);
}
