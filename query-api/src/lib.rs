//! GraphQL: a question becomes a view.
//!
//! This crate answers the shop's questions over HTTP. It reads views and nothing else: it sends no command, changes nothing, and knows
//! neither the log nor the database. Every question is asked by somebody ([`Principal`], or nobody), and every node and every edge is
//! shown only to those who may see it; what somebody may not see is answered like what is not there.
//!
//! One request goes: `http` reads it, `limits` bounds it before anything expensive happens, `consistency` waits for the views, `schema`
//! answers it through the batching `reader`.

mod consistency;
mod cursor;
mod error;
mod http;
mod language;
mod limits;
mod problem;
mod reader;
mod schema;
mod shape;
mod stock;
mod viewer;

use std::{sync::Arc, time::Duration};

use aggregates::{AccountId, Role};
use projections::{Progress, Views};
use tokio::sync::watch;
use uuid::Uuid;

pub use event_store::{ConsistencyToken, TokenError};
pub use http::{router, router_sharing};
pub use schema::schema_sdl;
pub use stock::{Asked, KeptStock};

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The account.
    pub account: AccountId,
    /// What it may do.
    pub role: Role,
}

/// Why an access token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// It is not one of ours, or was changed.
    #[error("the access token is not valid")]
    Invalid,
    /// It was good once.
    #[error("the access token has expired")]
    Expired,
    /// It may be a good one: the keys cannot be looked at.
    #[error("whether the access token is valid cannot be told now")]
    Unknown,
}

/// Says whose an access token is.
pub type Authenticate = dyn Fn(&str) -> Result<Principal, AuthError> + Send + Sync;

/// What the query API needs to answer.
#[derive(Clone)]
pub struct QueryApi {
    /// The views.
    pub views: Arc<dyn Views>,
    /// How far the views are, as their runner says.
    pub progress: watch::Receiver<Progress>,
    /// The log that the views are made of; consistency tokens of another log are refused.
    pub log_id: Uuid,
    /// Opens what is sealed, for those who may read it.
    pub vault: key_vault::KeyVault,
    /// Whose a token is.
    pub authenticate: Arc<Authenticate>,
    /// Whether `/graphiql` serves a page to try questions in. It needs `introspection` to show the schema.
    pub graphiql: bool,
    /// Whether the schema tells about itself, and errors suggest names.
    pub introspection: bool,
    /// How large a question may be.
    pub limits: Limits,
    /// How long an answer may take.
    pub timeouts: Timeouts,
    /// How long the payment provider may be silent before a person is asked to look.
    pub stuck_after: Duration,
}

/// How large a question may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request's body.
    pub body: usize,
    /// Fields below fields.
    pub depth: usize,
    /// Fields that an answer may have, by estimate: a list counts as often as it may be long.
    pub complexity: usize,
    /// Fields of the document once its fragments are put in place.
    pub fields: usize,
    /// Fields of the query itself.
    pub root_fields: usize,
    /// Aliases in the document once its fragments are put in place.
    pub aliases: usize,
    /// Directives in the document.
    pub directives: usize,
    /// Requests under way; one more is told to come back.
    pub requests: usize,
    /// Questions to the views under way; one more waits its turn.
    pub reads: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 256 * 1024,
            depth: 12,
            complexity: 30_000,
            fields: 1_000,
            root_fields: 20,
            aliases: 50,
            directives: 20,
            requests: 512,
            reads: 16,
        }
    }
}

/// How long an answer may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the first byte of the request to the answer.
    pub request: Duration,
    /// For the views to reach a consistency token; then the answer says that they did not.
    pub consistency: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            request: Duration::from_secs(10),
            consistency: Duration::from_secs(2),
        }
    }
}
