//! Who may see what. Every rule is here, and every node and edge asks.
//!
//! A buyer sees their own; a seller sees the orders of their products, and a buyer only through those; an admin sees all. Nobody else
//! sees anything but products.

use aggregates::{AccountId, Role};
use projections::{Audience, OrderView, Scope};

use crate::Principal;

/// Who asks; none is somebody who has not logged in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Viewer(pub(crate) Option<Principal>);

/// How much of an account is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    /// All of it: its owner and admins.
    Whole,
    /// Whom to send the goods to: name and e-mail address, by the seller of an order.
    Customer,
    /// Whose product it is: the name, by anyone.
    Shop,
}

impl Viewer {
    /// Whose orders are seen; none without a login.
    pub(crate) fn scope(self) -> Option<Scope> {
        self.0.map(|Principal { account, role }| match role {
            Role::Buyer => Scope::Buyer(account),
            Role::Seller => Scope::Seller(account),
            Role::Admin => Scope::All,
        })
    }

    pub(crate) fn sees_order(self, order: &OrderView) -> bool {
        self.scope().is_some_and(|scope| scope.sees(order))
    }

    /// Whether all of an account is seen.
    pub(crate) fn owns(self, account: AccountId) -> bool {
        self.is_admin() || self.0.is_some_and(|asker| asker.account == account)
    }

    /// How much is seen of an account that an edge leads to, which shows `otherwise` to those who do not own it.
    pub(crate) fn sight(self, account: AccountId, otherwise: Sight) -> Sight {
        if self.owns(account) { Sight::Whole } else { otherwise }
    }

    /// The asker, when it is a seller.
    pub(crate) fn seller(self) -> Option<AccountId> {
        self.0.filter(|asker| asker.role == Role::Seller).map(|asker| asker.account)
    }

    /// As whom an order is explained to the asker, who sees it.
    pub(crate) fn audience(self, order: &OrderView) -> Audience {
        match self.0 {
            Some(Principal { role: Role::Admin, .. }) => Audience::Operator,
            Some(Principal { account, .. }) if account == order.buyer => Audience::Buyer,
            _ => Audience::Seller,
        }
    }

    pub(crate) fn is_admin(self) -> bool {
        self.0.is_some_and(|asker| asker.role == Role::Admin)
    }
}
