//! The page at `/`: what is where, and the first steps.

use std::{fmt::Write as _, net::SocketAddr, sync::Arc};

use aggregates::Stock;
use axum::{
    Router,
    http::{HeaderMap, header},
    response::{Html, IntoResponse},
    routing::get,
};

use crate::{demo, serve};

const PAGE: &str = include_str!("../assets/root.html");
const DEMO: &str = include_str!("../assets/demo.html");

/// The page loads nothing and runs nothing.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const GRAPHIQL: &str = r#"<li><a href="/graphiql">GraphQL explorer</a><p>GraphQL, the questions: orders, products, stock, payments, balances. They are sent to <code>/graphql</code>.</p></li>"#;
const GRAPHQL: &str =
    "<li><strong>GraphQL</strong><p>Questions: orders, products, stock, payments, balances. Send them to <code>/graphql</code>.</p></li>";
const SIMULATOR: &str = r#"<li><a href="/simulator/v1/ledger">Payment simulator</a><p>The simulated provider's own ledger of charges and cancellations.</p></li>"#;

/// The page, with the addresses as its reader reached it.
pub(crate) fn router(with_demo: bool, own: SocketAddr, simulator: bool) -> Router {
    let page: Arc<str> = page(with_demo, simulator).into();
    let own = format!("http://{}", serve::loopback(own));
    let show = async move |headers: HeaderMap| {
        let base = reached(&headers).unwrap_or_else(|| own.clone());
        let headers = [
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
            (header::CACHE_CONTROL, "no-store"),
        ];
        (headers, Html(page.replace("{{BASE}}", &base))).into_response()
    };
    Router::new().route("/", get(show))
}

/// Where the reader believes the shop to be; none when that is no plain host, so that nobody writes into the page.
fn reached(headers: &HeaderMap) -> Option<String> {
    let host = headers.get(header::HOST)?.to_str().ok()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
    let secure = headers.get("x-forwarded-proto").is_some_and(|scheme| scheme == "https");
    let scheme = if secure { "https" } else { "http" };
    (!host.is_empty() && host.len() <= 255 && host.bytes().all(plain)).then(|| format!("{scheme}://{host}"))
}

fn page(with_demo: bool, simulator: bool) -> String {
    PAGE.replace("{{GRAPHQL}}", if with_demo { GRAPHIQL } else { GRAPHQL })
        .replace("{{SIMULATOR}}", if simulator { SIMULATOR } else { "" })
        .replace("{{DEMO}}", &if with_demo { demo_section() } else { String::new() })
        .replace("{{VERSION}}", env!("CARGO_PKG_VERSION"))
}

fn demo_section() -> String {
    let mut accounts = String::new();
    for account in demo::ACCOUNTS {
        // Writing to a string cannot fail.
        let _ = writeln!(
            accounts,
            "<tr><td>{}</td><td><code>{}</code></td><td>{}</td><td>{}</td></tr>",
            account.email,
            demo::PASSWORD,
            account.role.name(),
            account.does
        );
    }
    let mut products = String::new();
    for product in demo::PRODUCTS {
        let stock = match product.stock {
            Stock::OnHand(units) => grouped(units),
            Stock::Unlimited => "unlimited".to_owned(),
        };
        let price = grouped(product.price.unsigned_abs());
        let _ = writeln!(
            products,
            r#"<tr><td>{} <small>{}</small></td><td><code>{}</code></td><td class="n">{price} KRW</td><td class="n">{stock}</td></tr>"#,
            product.name, product.description, product.id
        );
    }
    DEMO.replace("{{ACCOUNTS}}", &accounts)
        .replace("{{PRODUCTS}}", &products)
        .replace("{{PASSWORD}}", demo::PASSWORD)
        .replace("{{COFFEE}}", &demo::PRODUCTS[0].id.to_string())
}

/// 1000000 is 1,000,000.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn only_the_demo_lists_accounts() {
        let (shop, demonstration) = (page(false, true), page(true, true));
        assert!(!shop.contains("@jangbu.dev") && !shop.contains(demo::PASSWORD) && !shop.contains("/graphiql"));
        assert!(
            demonstration.contains("buyer@jangbu.dev") && demonstration.contains(demo::PASSWORD) && demonstration.contains("/graphiql")
        );
        for text in [shop, demonstration] {
            let left = text.replace("{{BASE}}", "");
            assert!(!left.contains("{{"), "a place is left open");
        }
    }

    #[test]
    fn a_host_that_is_none_does_not_get_into_the_page() {
        let headers = |host: &'static str| HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(host))]);
        assert_eq!(reached(&headers("shop.example:8080")).as_deref(), Some("http://shop.example:8080"));
        assert_eq!(reached(&headers("[::1]:8080")).as_deref(), Some("http://[::1]:8080"));
        assert_eq!(reached(&headers("<script>")), None);
        assert_eq!(reached(&HeaderMap::new()), None);
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1_000, 1_000_000].map(grouped), ["0", "999", "1,000", "1,000,000"]);
    }
}
