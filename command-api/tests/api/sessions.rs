use std::time::Duration;

use command_api::Settings;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::shop::{Deadlines, PASSWORD, Reply, Shop};

async fn log_in(shop: &Shop, email: &str, password: &str) -> Reply {
    shop.post("/api/v1/auth/login")
        .json(json!({"email": email, "password": password}))
        .send()
        .await
}

async fn refresh(shop: &Shop, token: &str) -> Reply {
    shop.post("/api/v1/auth/refresh").json(json!({"refreshToken": token})).send().await
}

#[tokio::test]
async fn a_login_answers_tokens_that_count_and_the_keys_that_verify_them_are_public() {
    let shop = Shop::open().await;
    let tokens = log_in(&shop, " Buyer@Jangbu.dev ", PASSWORD).await;
    assert_eq!(tokens.status, 200);
    assert_eq!(
        (tokens.body["tokenType"].as_str(), tokens.body["expiresIn"].as_u64()),
        (Some("Bearer"), Some(600))
    );
    assert_eq!(tokens.header("cache-control"), Some("no-store"));
    let principal = shop.api.verifier().verify(&tokens.text("accessToken")).expect("valid");
    assert_eq!(principal.account.uuid(), shop.buyer_id);
    for path in ["/.well-known/jwks.json", "/api/v1/.well-known/jwks.json"] {
        let keys = shop.get(path).send().await;
        assert_eq!((keys.status.as_u16(), keys.body["keys"][0]["alg"].as_str()), (200, Some("EdDSA")));
        assert!(keys.body["keys"][0].get("d").is_none());
    }
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_address_look_the_same() {
    let shop = Shop::open().await;
    let strip = |reply: Reply| {
        let mut body = reply.refused(401, "invalid-credentials").body.clone();
        body["traceId"] = Value::Null;
        body
    };
    let wrong = strip(log_in(&shop, "buyer@jangbu.dev", "not the password").await);
    let unknown = strip(log_in(&shop, "nobody@jangbu.dev", PASSWORD).await);
    let garbage = strip(log_in(&shop, "no address", PASSWORD).await);
    assert_eq!(wrong, unknown);
    assert_eq!(wrong, garbage);
}

#[tokio::test]
async fn repeated_failures_are_slowed_whether_the_account_exists_or_not() {
    let shop = Shop::open().await;
    for email in ["buyer@jangbu.dev", "nobody@jangbu.dev"] {
        for _ in 0..5 {
            log_in(&shop, email, "wrong password").await.refused(401, "invalid-credentials");
        }
        let slowed = log_in(&shop, email, PASSWORD).await;
        slowed.refused(429, "too-many-failed-logins");
        assert!(slowed.header("retry-after").is_some_and(|seconds| seconds == "1"));
        assert!(slowed.headers.contains_key("ratelimit") && slowed.headers.contains_key("ratelimit-policy"));
    }
    log_in(&shop, "seller@jangbu.dev", PASSWORD).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    shop.log_in("buyer@jangbu.dev").await;
    log_in(&shop, "buyer@jangbu.dev", "wrong password")
        .await
        .refused(401, "invalid-credentials");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_logins_is_turned_away_not_queued() {
    let settings = Settings {
        passwords_waiting: 1,
        ..Settings::default()
    };
    let shop = Shop::with(
        settings,
        Deadlines {
            payment: Duration::from_mins(1),
        },
    )
    .await;
    let logins = (0..12).map(|_| log_in(&shop, "buyer@jangbu.dev", PASSWORD));
    let answers = all(logins).await;
    let busy: Vec<_> = answers.iter().filter(|answer| answer.status == 503).collect();
    assert!(
        !busy.is_empty() && busy.len() < answers.len(),
        "{} of {}",
        busy.len(),
        answers.len()
    );
    for answer in busy {
        answer.refused(503, "overloaded");
    }
}

/// Polls all of them at once.
pub(crate) async fn all<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut futures: Vec<_> = futures.map(Box::pin).collect();
    let mut done: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, done) in futures.iter_mut().zip(&mut done) {
            if done.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *done = Some(value);
            }
        }
        if done.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[tokio::test]
async fn a_refresh_token_counts_once_and_its_reuse_ends_the_session() {
    let shop = Shop::open().await;
    let first = log_in(&shop, "buyer@jangbu.dev", PASSWORD).await.text("refreshToken");
    let second = refresh(&shop, &first).await;
    assert_eq!(second.status, 200);
    assert!(shop.api.verifier().verify(&second.text("accessToken")).is_ok());
    let second = second.text("refreshToken");
    assert_ne!(first, second);

    refresh(&shop, &first).await.refused(401, "session-over");
    refresh(&shop, &second).await.refused(401, "session-over");
}

#[tokio::test]
async fn what_is_no_token_of_a_session_refreshes_nothing() {
    let shop = Shop::open().await;
    for token in ["", "nonsense", &format!("{}.{}", Uuid::max(), "A".repeat(43))] {
        refresh(&shop, token).await.refused(401, "session-over");
    }
    shop.post("/api/v1/auth/refresh")
        .json(json!({}))
        .send()
        .await
        .refused(400, "invalid-body")
        .at("/refreshToken");
}

#[tokio::test]
async fn after_a_logout_the_session_does_not_go_on() {
    let shop = Shop::open().await;
    let token = log_in(&shop, "buyer@jangbu.dev", PASSWORD).await.text("refreshToken");
    for token in [token.as_str(), &token, "nonsense"] {
        let gone = shop.post("/api/v1/auth/logout").json(json!({"refreshToken": token})).send().await;
        assert_eq!(gone.status, 204);
    }
    refresh(&shop, &token).await.refused(401, "session-over");
}

#[tokio::test]
async fn a_session_ends_by_itself() {
    let mut settings = Settings::default();
    settings.tokens.refresh_ttl = Duration::from_millis(200);
    settings.tokens.access_ttl = Duration::from_secs(1);
    let shop = Shop::with(
        settings,
        Deadlines {
            payment: Duration::from_mins(1),
        },
    )
    .await;
    let tokens = log_in(&shop, "buyer@jangbu.dev", PASSWORD).await;
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    refresh(&shop, &tokens.text("refreshToken")).await.refused(401, "session-over");
    let look = shop
        .get(&format!("/api/v1/orders/{}", Uuid::max()))
        .token(&tokens.text("accessToken"))
        .send()
        .await;
    look.refused(401, "expired-token");
}

#[tokio::test]
async fn only_a_bearer_token_of_ours_lets_in() {
    let shop = Shop::open().await;
    let path = format!("/api/v1/orders/{}", Uuid::max());
    shop.get(&path).send().await.refused(401, "unauthenticated");
    for header in [
        "Bearer",
        "Bearer ",
        "Bearer nonsense",
        "Basic YTpi",
        &format!("Bearer {}x", shop.buyer),
    ] {
        shop.get(&path)
            .header("authorization", header)
            .send()
            .await
            .refused(401, "invalid-token");
    }
    shop.get(&path)
        .header("authorization", &format!("bearer {}", shop.buyer))
        .send()
        .await
        .refused(404, "unknown-order");
}
