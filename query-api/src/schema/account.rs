//! Accounts: people and shops, each shown as far as the viewer may see them.

use std::sync::Arc;

use aggregates::{AccountId, Sealed};
use async_graphql::{
    Context, ID, Object, Result,
    connection::{Connection, Edge},
};
use projections::{AccountView, WalletEntry};

use super::{
    Order, reader,
    values::{DateTime, EntryKind, Money, Role},
};
use crate::{
    cursor::{self, List, page_cost, page_size},
    reader::{BalanceOf, EntriesOf, SealedText},
    viewer::Sight,
};

/// An account, and how much of it is seen.
pub(crate) struct Account {
    view: Arc<AccountView>,
    sight: Sight,
}

impl Account {
    /// The account, as far as it is seen.
    pub(crate) async fn load(ctx: &Context<'_>, id: AccountId, sight: Sight) -> Result<Option<Self>> {
        Ok(reader(ctx)?.load_one(id).await?.map(|view| Self { view, sight }))
    }

    async fn open(&self, ctx: &Context<'_>, sealed: Option<&Sealed>, seen_by: &[Sight]) -> Result<Option<String>> {
        match sealed.filter(|_| seen_by.contains(&self.sight)) {
            Some(sealed) => Ok(reader(ctx)?
                .load_one(SealedText {
                    subject: self.view.id,
                    sealed: sealed.clone(),
                })
                .await?),
            None => Ok(None),
        }
    }
}

/// A person or a shop. What the viewer may not see, and what was erased, is null.
#[Object]
impl Account {
    /// Names it.
    pub(crate) async fn id(&self) -> ID {
        self.view.id.into()
    }

    /// How many events it counts.
    async fn version(&self) -> u64 {
        self.view.version
    }

    /// The e-mail address: for its owner, admins, and the sellers of its orders.
    async fn email(&self, ctx: &Context<'_>) -> Result<Option<String>> {
        self.open(ctx, Some(&self.view.email), &[Sight::Whole, Sight::Customer]).await
    }

    /// The name.
    async fn name(&self, ctx: &Context<'_>) -> Result<Option<String>> {
        self.open(ctx, Some(&self.view.name), &[Sight::Whole, Sight::Customer, Sight::Shop])
            .await
    }

    /// The telephone number: for its owner and admins.
    async fn phone(&self, ctx: &Context<'_>) -> Result<Option<String>> {
        self.open(ctx, self.view.phone.as_ref(), &[Sight::Whole]).await
    }

    /// What it may do.
    async fn role(&self) -> Role {
        self.view.role.into()
    }

    /// The balance: for its owner and admins.
    async fn balance(&self, ctx: &Context<'_>) -> Result<Option<Money>> {
        if self.sight != Sight::Whole {
            return Ok(None);
        }
        let wallet = reader(ctx)?.load_one(BalanceOf(self.view.id)).await?;
        Ok(wallet.map(|wallet| wallet.balance.into()))
    }

    /// How the balance came about, newest first: for its owner and admins.
    #[graphql(complexity = "50 + page_cost(first, child_complexity)")]
    async fn balance_entries(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "How many, 1 to 100; 20 unless said.")] first: Option<i32>,
        #[graphql(desc = "Behind this cursor.")] after: Option<String>,
    ) -> Result<Option<Connection<String, BalanceEntry>>> {
        let first = page_size(first)?;
        let after = cursor::parse_by_sequence(List::Entries, after.as_deref())?;
        if self.sight != Sight::Whole {
            return Ok(None);
        }
        let page = reader(ctx)?
            .load_one(EntriesOf {
                account: self.view.id,
                first,
                after,
            })
            .await?;
        let mut connection = Connection::new(after.is_some(), page.as_ref().is_some_and(|page| page.more));
        let rows = page.iter().flat_map(|page| &page.rows);
        connection
            .edges
            .extend(rows.map(|entry| Edge::new(cursor::by_sequence(List::Entries, entry.sequence), BalanceEntry(entry.clone()))));
        Ok(Some(connection))
    }
}

/// One change of a balance.
pub(crate) struct BalanceEntry(WalletEntry);

/// One change of a balance.
#[Object]
impl BalanceEntry {
    /// When.
    async fn at(&self) -> DateTime {
        DateTime(self.0.at)
    }

    /// Why.
    async fn kind(&self) -> EntryKind {
        self.0.kind.into()
    }

    /// How much, always positive: `kind` says in which direction.
    async fn amount(&self) -> Money {
        self.0.amount.into()
    }

    /// The order that took it or gave it back.
    async fn order(&self, ctx: &Context<'_>) -> Result<Option<Order>> {
        let Some(order) = self.0.order else { return Ok(None) };
        Order::shown(ctx, reader(ctx)?.load_one(order).await?)
    }
}
