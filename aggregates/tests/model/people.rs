//! Accounts and the addresses that they were opened under: each goes to whoever came first.

use aggregates::{
    Account, AccountCommand, AccountEvent, AccountId, Class, EmailClaim, EmailCommand, EmailEvent, EmailIndex, Registration, Role, Sealed,
    Timestamp,
};
use proptest::prelude::*;

use crate::{Expected, Model, config, id, steps, walk};

/// Who has the account.
#[derive(Default)]
struct Holder(Option<Registration>);

impl Model for Holder {
    type Of = Account;

    fn tell(&mut self, command: &AccountCommand) -> Expected<AccountEvent> {
        let AccountCommand::Open { index, registration } = command.clone();
        match &self.0 {
            Some(holder) if *holder == registration => Ok(vec![]),
            Some(_) => Err((Class::State, "account-exists")),
            None => {
                self.0 = Some(registration.clone());
                Ok(vec![AccountEvent::Opened { index, registration }])
            }
        }
    }

    fn check(&self, account: &Account) {
        assert_eq!(account.registration(), self.0.as_ref());
    }

    fn may_repeat(&self, _: &AccountCommand) -> bool {
        true
    }
}

/// Whose the address is.
#[derive(Default)]
struct Owner(Option<AccountId>);

impl Model for Owner {
    type Of = EmailClaim;

    fn tell(&mut self, command: &EmailCommand) -> Expected<EmailEvent> {
        let EmailCommand::Claim { registration } = command.clone();
        if self.0.is_some() {
            return Err((Class::State, "email-taken"));
        }
        self.0 = Some(registration.account);
        Ok(vec![EmailEvent::Claimed { registration }])
    }

    fn check(&self, claim: &EmailClaim) {
        assert_eq!(claim.account(), self.0);
    }

    fn may_repeat(&self, _: &EmailCommand) -> bool {
        true
    }
}

fn registration() -> impl Strategy<Value = Registration> {
    let text = || prop::sample::select(&["sealed", "also sealed"][..]).prop_map(Sealed::new);
    let role = prop::sample::select(&[Role::Buyer, Role::Seller, Role::Admin][..]);
    (1..3_u128, text(), prop::option::of(text()), role, 0..2_i64).prop_map(|(account, name, phone, role, at)| Registration {
        account: AccountId::new(id(account)),
        email: Sealed::new("sealed address"),
        name,
        phone,
        password: Sealed::new("sealed hash"),
        role,
        at: Timestamp::from_micros(at),
    })
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn an_account_is_the_first_one_s_who_opened_it(registrations in steps(registration())) {
        let open = |registration| AccountCommand::Open { index: EmailIndex::new(id(9)), registration };
        walk::<Holder>(registrations.into_iter().map(open).collect());
    }

    #[test]
    fn an_address_is_the_first_one_s_who_claimed_it(registrations in steps(registration())) {
        walk::<Owner>(registrations.into_iter().map(|registration| EmailCommand::Claim { registration }).collect());
    }
}
