//! Accounts: who they are, sealed.

use aggregates::{AccountEvent, CommerceEvent, Recorded};
use uuid::Uuid;

use crate::{AccountView, Projection};

/// One row per account.
#[derive(Debug)]
pub struct Accounts;

impl Projection for Accounts {
    const NAME: &'static str = "accounts_v1";
    type View = AccountView;

    fn key(event: &CommerceEvent) -> Option<Uuid> {
        if let CommerceEvent::Account(id, _) = event {
            Some(id.uuid())
        } else {
            None
        }
    }

    fn id(view: &AccountView) -> Uuid {
        view.id.uuid()
    }

    fn version(view: &AccountView) -> u64 {
        view.version
    }

    fn apply(view: Option<AccountView>, recorded: &Recorded) -> Option<AccountView> {
        let Some(CommerceEvent::Account(id, event)) = &recorded.event else {
            return view;
        };
        match event {
            AccountEvent::Opened { registration, .. } => Some(AccountView {
                id: *id,
                version: recorded.sequence,
                email: registration.email.clone(),
                name: registration.name.clone(),
                phone: registration.phone.clone(),
                role: registration.role,
                opened_at: registration.at,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use aggregates::{AccountId, EmailIndex, Registration, Role, Sealed, Timestamp};

    use super::*;
    use crate::projection::given::fold;

    #[test]
    fn an_account_shows_sealed_values_and_never_its_password() {
        let account = AccountId::new(Uuid::from_u128(3));
        let registration = Registration {
            account,
            email: Sealed::new("sealed-email"),
            name: Sealed::new("sealed-name"),
            phone: None,
            password: Sealed::new("sealed-password"),
            role: Role::Buyer,
            at: Timestamp::from_micros(5),
        };
        let opened = AccountEvent::Opened {
            index: EmailIndex::default(),
            registration,
        };
        let view = fold::<Accounts>([CommerceEvent::Account(account, opened)]).expect("an account");
        assert_eq!(
            (view.version, view.role, view.opened_at),
            (1, Role::Buyer, Timestamp::from_micros(5))
        );
        let row = serde_json::to_string(&view).expect("a row");
        assert!(row.contains("sealed-email") && !row.contains("password"), "{row}");
    }
}
