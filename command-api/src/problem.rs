//! Every way in which the API says no: one registry of codes, with their status and their title in both languages.
//!
//! Only this file knows status codes of refusals. An answer is `application/problem+json` (RFC 9457).

use std::borrow::Cow;

use aggregates::{Class, Refusal};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use engine::EngineError;
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{CONTENT_LANGUAGE, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use key_vault::VaultError;
use projections::ReadError;
use serde::Serialize;
use uuid::Uuid;

use crate::language::Language;

/// A stable code, for programs, and what it means.
#[derive(Debug)]
pub(crate) struct Code {
    pub(crate) name: &'static str,
    pub(crate) status: u16,
    pub(crate) korean: &'static str,
    pub(crate) english: &'static str,
}

macro_rules! registry {
    ($($constant:ident = $status:literal $name:literal, $korean:literal, $english:literal;)+) => {
        $(pub(crate) const $constant: Code = Code { name: $name, status: $status, korean: $korean, english: $english };)+

        /// All codes that an answer may carry.
        pub(crate) static REGISTRY: &[Code] = &[$($constant),+];
    };
}

registry! {
    // Unreadable.
    MALFORMED_JSON = 400 "malformed-json", "JSON 형식이 올바르지 않습니다", "The body is not valid JSON";
    INVALID_BODY = 400 "invalid-body", "요청 본문의 형식이 올바르지 않습니다", "The body is not what this call takes";
    CONTROL_CHARACTER = 400 "control-character", "제어 문자는 사용할 수 없습니다", "Text must not contain control characters";
    INVALID_QUERY = 400 "invalid-query", "쿼리 매개변수가 올바르지 않습니다", "A query parameter is not what this call takes";
    INVALID_HEADER = 400 "invalid-header", "요청 헤더가 올바르지 않습니다", "A header is not what this call takes";
    IDEMPOTENCY_KEY_REQUIRED = 400 "idempotency-key-required", "Idempotency-Key 헤더가 필요합니다", "The header Idempotency-Key is required";
    IDEMPOTENCY_KEY_INVALID = 400 "idempotency-key-invalid", "Idempotency-Key 헤더가 올바르지 않습니다", "The header Idempotency-Key cannot be read";

    // Who are you?
    UNAUTHENTICATED = 401 "unauthenticated", "로그인이 필요합니다", "Log in first";
    INVALID_TOKEN = 401 "invalid-token", "유효하지 않은 토큰입니다", "This access token is not valid";
    EXPIRED_TOKEN = 401 "expired-token", "만료된 토큰입니다", "This access token has expired";
    INVALID_CREDENTIALS = 401 "invalid-credentials", "이메일 또는 비밀번호가 올바르지 않습니다", "The e-mail address or the password is wrong";
    SESSION_OVER = 401 "session-over", "세션이 종료되었습니다. 다시 로그인해 주세요", "This session is over: log in again";
    SESSION_EXISTS = 401 "session-exists", "이미 존재하는 세션입니다", "This session exists already";
    FORBIDDEN = 403 "forbidden", "권한이 없습니다", "You may not do this";
    NOT_YOUR_PRODUCT = 403 "not-your-product", "다른 판매자의 상품입니다", "This product is another seller's";

    // There is no such thing.
    NOT_FOUND = 404 "not-found", "찾을 수 없습니다", "There is nothing here";
    UNKNOWN_ORDER = 404 "unknown-order", "주문을 찾을 수 없습니다", "There is no such order";
    UNKNOWN_ACCOUNT = 404 "unknown-account", "계정을 찾을 수 없습니다", "There is no such account";
    UNKNOWN_PAYMENT = 404 "unknown-payment", "결제를 찾을 수 없습니다", "There is no such payment";
    UNKNOWN_PARKED = 404 "unknown-parked", "보류된 작업을 찾을 수 없습니다", "Nothing of this name is set aside";
    // 404 as a path, 422 as an order's line: the class of the refusal decides.
    UNKNOWN_PRODUCT = 404 "unknown-product", "상품을 찾을 수 없습니다", "There is no such product";
    METHOD_NOT_ALLOWED = 405 "method-not-allowed", "지원하지 않는 메서드입니다", "This method is not allowed here";
    REQUEST_TIMEOUT = 408 "request-timeout", "요청 본문이 제때 도착하지 않았습니다", "The body did not arrive in time";

    // Not in this state.
    REQUEST_IN_FLIGHT = 409 "request-in-flight", "같은 요청이 처리 중입니다", "The same request is being processed";
    EMAIL_TAKEN = 409 "email-taken", "이미 사용 중인 이메일입니다", "An account with this e-mail address exists already";
    ACCOUNT_EXISTS = 409 "account-exists", "이미 존재하는 계정입니다", "This account exists already";
    PRODUCT_EXISTS = 409 "product-exists", "이미 존재하는 상품입니다", "This product exists already";
    PRODUCT_RETIRED = 409 "product-retired", "판매가 종료된 상품입니다", "This product is retired";
    INVENTORY_EXISTS = 409 "inventory-exists", "이미 존재하는 재고입니다", "This product's stock is kept already";
    STOCK_BELOW_RESERVED = 409 "stock-below-reserved", "예약된 재고보다 적게 조정할 수 없습니다", "Reserved goods cannot be written off";
    ORDER_EXISTS = 409 "order-exists", "이미 존재하는 주문입니다", "This order exists already";
    ORDER_STATE = 409 "order-state", "현재 주문 상태에서는 할 수 없습니다", "The order's state does not allow this";
    ORDER_NOT_AWAITING_PAYMENT = 409 "order-not-awaiting-payment", "결제 대기 중인 주문이 아닙니다", "The order does not wait for a payment";
    ORDER_NOT_CANCELLABLE = 409 "order-not-cancellable", "취소할 수 없는 주문입니다", "The order cannot be cancelled any more";
    ORDER_NOT_STUCK = 409 "order-not-stuck", "담당자의 확인이 필요한 주문이 아닙니다", "The order goes on by itself and needs nobody";
    PARKED_REQUEST = 409 "parked-request", "외부 요청은 보낸 쪽에서 다시 보내야 합니다", "A request from outside is for its sender to repeat";
    PARKED_AGAIN = 409 "parked-again", "여전히 처리할 수 없습니다", "It still cannot be processed";
    PARKED_UNREADABLE = 409 "parked-unreadable", "보류된 작업을 읽을 수 없습니다", "What is set aside cannot be read";
    PARKED_JUST_NOW = 409 "parked-just-now", "방금 보류되었습니다. 잠시 후 다시 시도해 주세요", "It was set aside just now: try again in a moment";
    PARKED_ENDED = 409 "parked-ended", "이미 처리되었거나 폐기된 작업입니다", "It has come to its end already";
    PAYMENT_STATE = 409 "payment-state", "현재 결제 상태에서는 할 수 없습니다", "The payment's state does not allow this";
    OTHER_PAYMENT_KEY = 409 "other-payment-key", "다른 결제 키로 진행 중인 결제입니다", "This payment goes by another payment key";

    // Too late, for good.
    PAYMENT_EXPIRED = 410 "payment-expired", "결제 기한이 지났습니다", "The time to pay this order is over";
    ACCOUNT_ERASED = 410 "account-erased", "삭제된 계정입니다", "This account was erased";

    VERSION_MISMATCH = 412 "version-mismatch", "다른 요청이 먼저 변경했습니다", "It has changed since you read it";
    BODY_TOO_LARGE = 413 "body-too-large", "요청 본문이 너무 큽니다", "The body is too large";
    UNSUPPORTED_MEDIA_TYPE = 415 "unsupported-media-type", "application/json만 지원합니다", "The body must be application/json";

    // A rule forbids it.
    INVALID_VALUE = 422 "invalid-value", "값이 올바르지 않습니다", "A value is not allowed";
    AMOUNT_OUT_OF_RANGE = 422 "amount-out-of-range", "금액이 허용 범위를 벗어났습니다", "An amount is outside the range that can be counted";
    AMOUNT_NOT_POSITIVE = 422 "amount-not-positive", "금액은 1 이상이어야 합니다", "An amount is at least 1";
    AMOUNT_MISMATCH = 422 "amount-mismatch", "결제 금액이 주문 금액과 다릅니다", "The amount is not what the order costs";
    BALANCE_TOO_LARGE = 422 "balance-too-large", "잔액 한도를 초과합니다", "The balance would be larger than can be counted";
    CURRENCY_MISMATCH = 422 "currency-mismatch", "상점의 통화와 다릅니다", "This is not the shop's currency";
    PRICE_NOT_POSITIVE = 422 "price-not-positive", "가격은 1 이상이어야 합니다", "A price is at least 1";
    QUANTITY_OUT_OF_RANGE = 422 "quantity-out-of-range", "수량이 허용 범위를 벗어났습니다", "A quantity is outside the range that can be counted";
    QUANTITY_ZERO = 422 "quantity-zero", "수량은 0일 수 없습니다", "The quantity must not be zero";
    LINE_COUNT = 422 "line-count", "주문 항목은 1개 이상 100개 이하여야 합니다", "An order has 1 to 100 lines";
    DUPLICATE_PRODUCT = 422 "duplicate-product", "같은 상품이 두 번 이상 있습니다", "A product is named twice";
    TOTAL_TOO_LARGE = 422 "total-too-large", "주문 금액이 너무 큽니다", "The order's total is larger than can be counted";
    ORDER_WITHOUT_NUMBER = 422 "order-without-number", "주문 번호가 없습니다", "The order has no number";
    PAYMENT_KEY_NOT_ALLOWED = 422 "payment-key-not-allowed", "잔액 결제에는 결제 키를 사용할 수 없습니다", "An order paid from the balance has no payment key";
    STOCK_UNLIMITED = 422 "stock-unlimited", "재고를 세지 않는 상품입니다", "This product's stock is unlimited";
    STOCK_TOO_LARGE = 422 "stock-too-large", "재고가 너무 많습니다", "There would be more in stock than can be counted";
    WRONG_AGGREGATE = 422 "wrong-aggregate", "처리할 수 없는 명령입니다", "This cannot be asked of it";
    IDEMPOTENCY_KEY_REUSED = 422 "idempotency-key-reused", "다른 요청에 사용된 Idempotency-Key입니다", "This idempotency key was used for another request";

    TOO_MANY_REQUESTS = 429 "too-many-requests", "요청이 너무 많습니다. 잠시 후 다시 시도해 주세요", "Too many requests: try again later";
    TOO_MANY_LOGINS = 429 "too-many-failed-logins", "로그인 실패가 너무 많습니다. 잠시 후 다시 시도해 주세요", "Too many failed logins: try again later";

    // Ours.
    INTERNAL = 500 "internal-error", "내부 오류가 발생했습니다", "Something went wrong here";
    SET_ASIDE = 500 "set-aside", "요청을 처리할 수 없어 운영자에게 전달했습니다", "This request could not be processed; an operator will look at it";
    OVERLOADED = 503 "overloaded", "요청이 많아 처리할 수 없습니다. 잠시 후 다시 시도해 주세요", "Too many requests are waiting: try again later";
    UNAVAILABLE = 503 "unavailable", "일시적으로 처리할 수 없습니다. 잠시 후 다시 시도해 주세요", "This cannot be processed just now: try again later";
    STOPPING = 503 "stopping", "서버가 종료 중입니다. 잠시 후 다시 시도해 주세요", "The server is stopping: try again later";
}

/// The entry of a code.
pub(crate) fn registered(name: &str) -> Option<&'static Code> {
    REGISTRY.iter().find(|code| code.name == name)
}

/// One member of the request that is to blame.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Fault {
    /// JSON pointer into the body; empty for the whole of it.
    pub(crate) pointer: String,
    pub(crate) code: Cow<'static, str>,
    pub(crate) detail: Cow<'static, str>,
}

/// A no, on its way out. [`crate::edge`] writes it in the language of the request.
#[derive(Clone, Debug)]
pub(crate) struct Problem(Box<Said>);

#[derive(Clone, Debug)]
struct Said {
    status: StatusCode,
    code: Cow<'static, str>,
    detail: Cow<'static, str>,
    errors: Vec<Fault>,
    headers: HeaderMap,
    trace: Option<Uuid>,
    refusal: bool,
}

impl Problem {
    /// This code, in its own words.
    pub(crate) fn of(code: &Code) -> Self {
        Self::with(code, code.english)
    }

    /// This code, in words of its occasion. They never repeat what the sender wrote: it may be personal.
    pub(crate) fn with(code: &Code, detail: impl Into<Cow<'static, str>>) -> Self {
        let status = StatusCode::from_u16(code.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut said = Said {
            status,
            code: Cow::Borrowed(code.name),
            detail: detail.into(),
            errors: Vec::new(),
            headers: HeaderMap::new(),
            trace: None,
            refusal: false,
        };
        match code.status {
            401 => insert(&mut said.headers, WWW_AUTHENTICATE, "Bearer"),
            409 if code.name == REQUEST_IN_FLIGHT.name => insert(&mut said.headers, RETRY_AFTER, "1"),
            503 => insert(&mut said.headers, RETRY_AFTER, "1"),
            _ => {}
        }
        Self(Box::new(said))
    }

    /// A body that is not what the call takes.
    pub(crate) fn faults(code: &Code, errors: Vec<Fault>) -> Self {
        let mut problem = Self::of(code);
        problem.0.errors = errors;
        problem
    }

    /// A rule of the shop.
    pub(crate) fn refused(refusal: Refusal) -> Self {
        let status = match refusal.class {
            Class::Unknown => StatusCode::NOT_FOUND,
            Class::State => StatusCode::CONFLICT,
            Class::Gone => StatusCode::GONE,
            Class::Version => StatusCode::PRECONDITION_FAILED,
            Class::Rule => StatusCode::UNPROCESSABLE_ENTITY,
            Class::Forbidden => StatusCode::UNAUTHORIZED,
        };
        let mut problem = Self::of(&INVALID_VALUE);
        let said = &mut *problem.0;
        if status == StatusCode::UNAUTHORIZED {
            insert(&mut said.headers, WWW_AUTHENTICATE, "Bearer");
        }
        if let Some(pointer) = refusal.pointer {
            said.errors.push(Fault {
                pointer,
                code: refusal.code.clone(),
                detail: refusal.detail.clone(),
            });
        }
        said.refusal = true;
        said.status = status;
        said.code = refusal.code;
        said.detail = refusal.detail;
        problem
    }

    /// Whether the engine decided it, for a rule of the shop.
    pub(crate) fn is_refusal(&self) -> bool {
        self.0.refusal
    }

    /// Adds a header to the answer.
    #[must_use]
    pub(crate) fn header(mut self, name: impl http::header::IntoHeaderName, value: HeaderValue) -> Self {
        self.0.headers.insert(name, value);
        self
    }

    /// Names the trace that the answer belongs to, where it is not the request's own.
    #[must_use]
    pub(crate) fn trace(mut self, trace: Uuid) -> Self {
        self.0.trace = Some(trace);
        self
    }

    /// The answer in a language.
    pub(crate) fn render(self, language: Language, trace: Uuid) -> Response {
        let said = *self.0;
        let title = registered(&said.code).map_or_else(
            || said.status.canonical_reason().unwrap_or("Error"),
            |code| match language {
                Language::Korean => code.korean,
                Language::English => code.english,
            },
        );
        let mut buffer = Uuid::encode_buffer();
        let trace_id = &*said.trace.unwrap_or(trace).simple().encode_lower(&mut buffer);
        let kind = format!("/problems/{}", said.code);
        let body = Written {
            kind: &kind,
            title,
            status: said.status.as_u16(),
            detail: &said.detail,
            code: &said.code,
            errors: &said.errors,
            trace_id,
        };
        let json = serde_json::to_vec(&body).unwrap_or_default();
        let mut response = Response::new(Bytes::from(json).into());
        *response.status_mut() = said.status;
        *response.headers_mut() = said.headers;
        insert(response.headers_mut(), CONTENT_TYPE, "application/problem+json");
        insert(response.headers_mut(), CONTENT_LANGUAGE, language.tag());
        response
    }
}

fn insert(headers: &mut HeaderMap, name: http::HeaderName, value: &'static str) {
    headers.insert(name, HeaderValue::from_static(value));
}

/// A problem as it is written (RFC 9457).
#[derive(Serialize)]
struct Written<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    #[serde(skip_serializing_if = "<[Fault]>::is_empty")]
    errors: &'a [Fault],
    #[serde(rename = "traceId")]
    trace_id: &'a str,
}

impl IntoResponse for Problem {
    /// Leaves the writing to the edge, which knows the language and the trace.
    fn into_response(self) -> Response {
        let mut response = Response::new(axum::body::Body::empty());
        *response.status_mut() = self.0.status;
        response.extensions_mut().insert(self);
        response
    }
}

impl From<EngineError> for Problem {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::KeyReused => Self::of(&IDEMPOTENCY_KEY_REUSED),
            EngineError::Overloaded => Self::of(&OVERLOADED),
            // What exactly fails is for the operator; the engine has logged it.
            EngineError::Unavailable(_) => Self::of(&UNAVAILABLE),
            EngineError::NoAnswer(_) => Self::with(
                &UNAVAILABLE,
                "whether this was done is not known yet: send it again, with the same Idempotency-Key if it had one",
            ),
            EngineError::Parked(id) => Self::with(&SET_ASIDE, format!("this request could not be processed; it is set aside as {id}")),
            EngineError::Stopping => Self::of(&STOPPING).header(RETRY_AFTER, HeaderValue::from_static("5")),
        }
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Busy => Self::of(&OVERLOADED),
            error => {
                tracing::error!(%error, "the views did not answer");
                Self::of(&UNAVAILABLE)
            }
        }
    }
}

impl From<VaultError> for Problem {
    fn from(error: VaultError) -> Self {
        match error {
            VaultError::NoSubjectKey { .. } => Self::of(&ACCOUNT_ERASED),
            error => {
                tracing::error!(%error, "the key vault failed");
                Self::of(&UNAVAILABLE)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_code_is_registered_once_with_a_title_in_both_languages() {
        let names: HashSet<_> = REGISTRY.iter().map(|code| code.name).collect();
        assert_eq!(names.len(), REGISTRY.len());
        for code in REGISTRY {
            assert!(!code.korean.is_ascii() && code.english.is_ascii(), "{}", code.name);
            assert!(StatusCode::from_u16(code.status).is_ok_and(|status| status.is_client_error() || status.is_server_error()));
        }
    }

    /// The domain's codes are string literals after `=>` in its `fn code`.
    #[test]
    fn every_code_of_the_domain_is_registered() {
        let sources = [
            include_str!("../../aggregates/src/account.rs"),
            include_str!("../../aggregates/src/email.rs"),
            include_str!("../../aggregates/src/inventory.rs"),
            include_str!("../../aggregates/src/order.rs"),
            include_str!("../../aggregates/src/payment.rs"),
            include_str!("../../aggregates/src/product.rs"),
            include_str!("../../aggregates/src/session.rs"),
            include_str!("../../aggregates/src/wallet.rs"),
        ];
        let mut found = 0;
        for source in sources {
            let body = source
                .split("fn code(&self) -> &'static str {")
                .nth(1)
                .expect("each file has its codes");
            let body = body.split("\n    }\n").next().expect("the function ends");
            for code in body.split('"').skip(1).step_by(2) {
                assert!(registered(code).is_some(), "{code} has no title");
                found += 1;
            }
        }
        assert!(found > 30, "{found}");
    }
}
