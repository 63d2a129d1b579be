//! What is wrong with a request as such, as `application/problem+json` (RFC 9457). What is wrong with a question is GraphQL's to say.

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use uuid::Uuid;

use crate::{AuthError, language::Language};

/// Why a request is refused before its question is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The access token is no good.
    Unauthenticated(AuthError),
    /// The body, a parameter or a header cannot be read.
    Unreadable(String),
    /// The consistency token is none, or of another log.
    ConsistencyToken(String),
    /// More bytes than allowed.
    TooLarge(usize),
    /// Neither a question nor a page is asked for like this.
    Method,
    /// Something else than JSON.
    MediaType,
    /// None of the forms that the caller takes is ours.
    NotAcceptable,
    /// Too many requests at once.
    Busy,
    /// No answer in time.
    TooSlow,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Problem<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: String,
    code: &'a str,
    trace_id: &'a str,
}

/// The trace that a request belongs to: that of a valid `traceparent` (`00-<trace id>-<parent id>-<flags>`), else a new one.
pub(crate) fn trace_id(headers: &HeaderMap) -> String {
    let parent = headers.get("traceparent").and_then(|value| value.to_str().ok());
    let given = parent.and_then(|parent| parent.strip_prefix("00-")?.get(..33)?.strip_suffix('-'));
    let hexadecimal = |id: &&str| id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) && id.bytes().any(|byte| byte != b'0');
    given
        .filter(hexadecimal)
        .map_or_else(|| Uuid::now_v7().simple().to_string(), str::to_owned)
}

impl Refused {
    const fn status(&self) -> StatusCode {
        match self {
            Self::Unauthenticated(AuthError::Invalid | AuthError::Expired) => StatusCode::UNAUTHORIZED,
            Self::Unreadable(_) | Self::ConsistencyToken(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
            Self::Busy | Self::TooSlow | Self::Unauthenticated(AuthError::Unknown) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::Unauthenticated(AuthError::Invalid) => "invalid-token",
            Self::Unauthenticated(AuthError::Expired) => "expired-token",
            Self::Unauthenticated(AuthError::Unknown) => "unavailable",
            Self::Unreadable(_) => "unreadable-question",
            Self::ConsistencyToken(_) => "invalid-consistency-token",
            Self::TooLarge(_) => "body-too-large",
            Self::Method => "method-not-allowed",
            Self::MediaType => "unsupported-media-type",
            Self::NotAcceptable => "not-acceptable",
            Self::Busy => "overloaded",
            Self::TooSlow => "too-slow",
        }
    }

    const fn title(&self, language: Language) -> &'static str {
        match (self, language) {
            (Self::Unauthenticated(AuthError::Invalid), Language::English) => "This access token is not valid",
            (Self::Unauthenticated(AuthError::Invalid), Language::Korean) => "유효하지 않은 토큰입니다",
            (Self::Unauthenticated(AuthError::Expired), Language::English) => "This access token has expired",
            (Self::Unauthenticated(AuthError::Expired), Language::Korean) => "만료된 토큰입니다",
            (Self::Unauthenticated(AuthError::Unknown), Language::English) => "This cannot be processed just now: try again later",
            (Self::Unauthenticated(AuthError::Unknown), Language::Korean) => "일시적으로 처리할 수 없습니다. 잠시 후 다시 시도해 주세요",
            (Self::Unreadable(_), Language::English) => "The request cannot be read",
            (Self::Unreadable(_), Language::Korean) => "요청을 읽을 수 없습니다",
            (Self::ConsistencyToken(_), Language::English) => "The consistency token is not valid",
            (Self::ConsistencyToken(_), Language::Korean) => "일관성 토큰이 올바르지 않습니다",
            (Self::TooLarge(_), Language::English) => "The request is too large",
            (Self::TooLarge(_), Language::Korean) => "요청이 너무 큽니다",
            (Self::Method, Language::English) => "This method is not allowed here",
            (Self::Method, Language::Korean) => "지원하지 않는 메서드입니다",
            (Self::MediaType, Language::English) => "The body must be JSON",
            (Self::MediaType, Language::Korean) => "본문은 JSON이어야 합니다",
            (Self::NotAcceptable, Language::English) => "The answer is JSON",
            (Self::NotAcceptable, Language::Korean) => "응답은 JSON으로만 제공됩니다",
            (Self::Busy, Language::English) => "Too many requests at once",
            (Self::Busy, Language::Korean) => "동시에 처리 중인 요청이 너무 많습니다",
            (Self::TooSlow, Language::English) => "The answer took too long",
            (Self::TooSlow, Language::Korean) => "응답 시간이 초과되었습니다",
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::Unauthenticated(AuthError::Unknown) => "whether the access token is valid cannot be told now".to_owned(),
            Self::Unauthenticated(_) => "log in again, or ask without an access token".to_owned(),
            Self::Unreadable(detail) | Self::ConsistencyToken(detail) => detail.clone(),
            Self::TooLarge(most) => format!("a request has at most {most} bytes"),
            Self::Method => "the header `Allow` names the methods that are".to_owned(),
            Self::MediaType => "send the question with `Content-Type: application/json`".to_owned(),
            Self::NotAcceptable => "answers are application/graphql-response+json or application/json".to_owned(),
            Self::Busy => "try again in a moment".to_owned(),
            Self::TooSlow => "ask for less, or try again in a moment".to_owned(),
        }
    }

    fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        match self {
            Self::Unauthenticated(AuthError::Invalid | AuthError::Expired) => {
                Some((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer error=\"invalid_token\"")))
            }
            Self::Busy | Self::TooSlow | Self::Unauthenticated(AuthError::Unknown) => {
                Some((header::RETRY_AFTER, HeaderValue::from_static("1")))
            }
            _ => None,
        }
    }

    pub(crate) fn into_response(self, language: Language, trace_id: &str) -> Response {
        let status = self.status();
        let problem = Problem {
            r#type: format!("/problems/{}", self.code()),
            title: self.title(language),
            status: status.as_u16(),
            detail: self.detail(),
            code: self.code(),
            trace_id,
        };
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = (
            status,
            [
                (header::CONTENT_TYPE, "application/problem+json"),
                (header::CACHE_CONTROL, "no-store"),
            ],
            body,
        )
            .into_response();
        response
            .headers_mut()
            .insert(header::CONTENT_LANGUAGE, HeaderValue::from_static(language.tag()));
        if let Some((name, value)) = self.header() {
            response.headers_mut().insert(name, value);
        }
        response
    }
}
