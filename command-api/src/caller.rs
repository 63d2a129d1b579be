//! Who is asking, and what of.

use std::net::{IpAddr, SocketAddr};

use aggregates::{AccountId, OrderId, ProductId, Role};
use axum::extract::{ConnectInfo, FromRequestParts, Path};
use http::{Extensions, HeaderMap, header::AUTHORIZATION, request::Parts};

use crate::{
    Api, Principal, TokenError, TokenVerifier,
    ops::ParkedId,
    problem::{self, Code, Problem},
    terms::path_id,
};

/// Somebody who is logged in.
#[derive(Clone, Copy)]
pub(crate) struct Caller(pub(crate) Principal);

impl Caller {
    pub(crate) fn account(self) -> AccountId {
        self.0.account
    }

    pub(crate) fn role(self) -> Role {
        self.0.role
    }
}

impl FromRequestParts<Api> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        Self::of(&parts.headers, api.verifier())
    }
}

impl Caller {
    /// Whose access token these headers have.
    pub(crate) fn of(headers: &HeaderMap, verifier: &TokenVerifier) -> Result<Self, Problem> {
        let header = headers.get(AUTHORIZATION).ok_or_else(|| Problem::of(&problem::UNAUTHENTICATED))?;
        let token = header
            .to_str()
            .ok()
            .and_then(bearer)
            .ok_or_else(|| Problem::of(&problem::INVALID_TOKEN))?;
        verifier.verify(token).map(Self).map_err(|error| match error {
            TokenError::Invalid => Problem::of(&problem::INVALID_TOKEN),
            TokenError::Expired => Problem::of(&problem::EXPIRED_TOKEN),
            TokenError::Unknown => Problem::of(&problem::UNAVAILABLE),
        })
    }
}

fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim())
}

macro_rules! role {
    ($(#[$doc:meta])* $name:ident: $($role:ident)|+) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(crate) struct $name(pub(crate) Caller);

        impl FromRequestParts<Api> for $name {
            type Rejection = Problem;

            async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
                let caller = Caller::from_request_parts(parts, api).await?;
                match caller.role() {
                    $(Role::$role)|+ => Ok(Self(caller)),
                    #[allow(unreachable_patterns, reason = "a role may be all of them")]
                    _ => Err(Problem::of(&problem::FORBIDDEN)),
                }
            }
        }
    };
}

role!(/// Somebody who orders.
    Buyer: Buyer);
role!(/// Somebody who offers.
    Seller: Seller);
role!(/// Somebody who runs the shop.
    Admin: Admin);
role!(/// Somebody who keeps stock.
    StockKeeper: Seller | Admin);
role!(/// Somebody who may cancel an order.
    Canceller: Buyer | Admin);

macro_rules! paths {
    ($($name:ident($id:ident) = $code:ident;)+) => { $(
        /// The id of the path: what is no UUID names nothing.
        pub(crate) struct $name(pub(crate) $id);

        impl FromRequestParts<Api> for $name {
            type Rejection = Problem;

            async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
                const UNKNOWN: &Code = &problem::$code;
                let path = Path::<String>::from_request_parts(parts, api).await;
                let id = path.ok().and_then(|Path(text)| path_id(&text));
                id.map(|id| Self($id::new(id))).ok_or_else(|| Problem::of(UNKNOWN))
            }
        }
    )+ };
}

paths! {
    OfOrder(OrderId) = UNKNOWN_ORDER;
    OfProduct(ProductId) = UNKNOWN_PRODUCT;
    OfAccount(AccountId) = UNKNOWN_ACCOUNT;
    OfParked(ParkedId) = UNKNOWN_PARKED;
}

/// Where a request comes from, when the server knows.
pub(crate) struct Client(pub(crate) Option<IpAddr>);

impl FromRequestParts<Api> for Client {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Self::Rejection> {
        Ok(Self(client(&parts.headers, &parts.extensions, api.settings().behind_proxy)))
    }
}

/// Where a request comes from, when the server knows.
pub(crate) fn client(headers: &HeaderMap, extensions: &Extensions, behind_proxy: bool) -> Option<IpAddr> {
    let peer = extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    if !behind_proxy {
        return peer;
    }
    // The last entry is the proxy's own; those before it are whatever the client wrote.
    let forwarded = headers.get_all("x-forwarded-for").iter().next_back();
    let client = forwarded.and_then(|value| value.to_str().ok()?.rsplit(',').next()?.trim().parse().ok());
    client.or(peer)
}
