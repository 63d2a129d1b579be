//! A session as the list of its tokens: the last one counts, and nobody may show an earlier one.

use aggregates::{AccountId, Class, Session, SessionCommand as Ask, SessionEvent as Event, Timestamp};
use proptest::prelude::*;

use crate::{Expected, Model, config, id, steps, walk};

#[derive(Default)]
struct Login {
    account: Option<AccountId>,
    tokens: Vec<String>,
    ends: Timestamp,
    over: bool,
}

impl Login {
    fn goes_on(&self) -> bool {
        self.account.is_some() && !self.over
    }

    fn counts(&self, shown: &str) -> bool {
        self.goes_on() && self.tokens.last().is_some_and(|last| last == shown)
    }
}

impl Model for Login {
    type Of = Session;

    fn tell(&mut self, command: &Ask) -> Expected<Event> {
        match command.clone() {
            Ask::Start { .. } if self.account.is_some() => Err((Class::Forbidden, "session-exists")),
            Ask::Start {
                account,
                token,
                expires_at,
            } => {
                self.account = Some(account);
                self.tokens.push(token.clone());
                self.ends = expires_at;
                Ok(vec![Event::Started {
                    account,
                    token,
                    expires_at,
                }])
            }
            Ask::Refresh { at, .. } if !self.goes_on() || at >= self.ends => Err((Class::Forbidden, "session-over")),
            Ask::Refresh { shown, next, .. } if self.counts(&shown) => {
                self.tokens.push(next.clone());
                Ok(vec![Event::Refreshed { token: next }])
            }
            // Whoever shows another one has stolen it, or was robbed of it.
            Ask::Refresh { .. } => {
                self.over = true;
                Ok(vec![Event::Revoked {}])
            }
            Ask::End { shown } if self.counts(&shown) => {
                self.over = true;
                Ok(vec![Event::Ended {}])
            }
            Ask::End { .. } => Ok(vec![]),
        }
    }

    fn check(&self, session: &Session) {
        assert_eq!(session.account(), self.account.filter(|_| self.goes_on()));
        if let Session::Open { token, expires_at, .. } = session {
            assert_eq!((Some(token), *expires_at), (self.tokens.last(), self.ends));
        }
    }

    /// A token that is shown twice ends the session: that is what it is for.
    fn may_repeat(&self, command: &Ask) -> bool {
        !matches!(command, Ask::Refresh { .. })
    }
}

fn command() -> impl Strategy<Value = Ask> {
    let token = || prop::sample::select(&["a", "b", "c"][..]).prop_map(str::to_owned);
    let moment = || (0..30_i64).prop_map(Timestamp::from_micros);
    prop_oneof![
        2 => (1..3_u128, token(), moment()).prop_map(|(account, token, expires_at)| Ask::Start { account: AccountId::new(id(account)), token, expires_at }),
        6 => (token(), token(), moment()).prop_map(|(shown, next, at)| Ask::Refresh { shown, next, at }),
        2 => token().prop_map(|shown| Ask::End { shown }),
    ]
}

/// What an honest client does: it shows the token that it was given last.
fn honest() -> impl Strategy<Value = Vec<Ask>> {
    (1..20_usize).prop_map(|refreshes| {
        let token = |number: usize| format!("token-{number}");
        let start = Ask::Start {
            account: AccountId::new(id(1)),
            token: token(0),
            expires_at: Timestamp::from_micros(1_000),
        };
        let refresh = |number| Ask::Refresh {
            shown: token(number),
            next: token(number + 1),
            at: Timestamp::from_micros(1),
        };
        [start].into_iter().chain((0..refreshes).map(refresh)).collect()
    })
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_session_is_its_last_token(commands in steps(command())) {
        walk::<Login>(commands);
    }

    #[test]
    fn an_honest_client_stays_logged_in_until_a_stranger_shows_an_old_token((steps, thief) in (honest(), 0..30_usize)) {
        let mut model = Login::default();
        for step in &steps {
            assert!(model.tell(step).is_ok() && model.goes_on());
        }
        let stolen = format!("token-{thief}");
        let newest = model.counts(&stolen);
        let steal = Ask::Refresh { shown: stolen, next: "x".to_owned(), at: Timestamp::from_micros(1) };
        let back = Ask::Refresh { shown: format!("token-{}", steps.len() - 1), next: "y".to_owned(), at: Timestamp::from_micros(1) };
        assert!(model.tell(&steal).is_ok());
        assert_eq!(model.goes_on(), newest);
        // The one who was robbed of the newest ends the thief's session with the next request.
        let _ = model.tell(&back);
        assert!(!model.goes_on());
        walk::<Login>(steps.into_iter().chain([steal, back]).collect());
    }
}
