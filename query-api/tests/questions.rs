//! Pages, ids, limits, forms, consistency and the number of questions to the views.

mod support;

use std::{collections::BTreeSet, time::Duration};

use aggregates::{AccountId, Role, Timestamp};
use axum::{body::Body, http::Request};
use projections::{EntryKind, RunnerState, WalletEntry};
use serde_json::{Value, json};
use support::{Answer, Served, Shop, Who, at_position, at_positions, order_id, product_id, token, token_of, won};
use uuid::Uuid;

async fn walk(shop: &Served, list: &str, first: usize) -> Vec<String> {
    let query = format!(
        "query Walk($after: String) {{ page: {list}(first: {first}, after: $after) {{ edges {{ cursor node {{ id }} }} pageInfo {{ hasNextPage hasPreviousPage endCursor }} }} }}"
    );
    let (mut ids, mut after) = (vec![], Value::Null);
    loop {
        let answer = shop.ask(Who::Admin, &query, json!({"after": after})).await;
        let page = answer.data()["page"].clone();
        assert_eq!(page["pageInfo"]["hasPreviousPage"].as_bool(), Some(!ids.is_empty()));
        let edges = page["edges"].as_array().expect("a list");
        assert!(edges.len() <= first);
        ids.extend(edges.iter().map(|edge| edge["node"]["id"].as_str().expect("an id").to_owned()));
        assert_eq!(
            edges.last().map(|edge| edge["cursor"].clone()).unwrap_or_default(),
            page["pageInfo"]["endCursor"]
        );
        if page["pageInfo"]["hasNextPage"] == json!(false) {
            return ids;
        }
        after = page["pageInfo"]["endCursor"].clone();
    }
}

fn large_shop() -> Shop {
    let mut shop = Shop::new();
    for n in 10..57 {
        shop.add_order(n, Who::Buyer.account(), Who::Seller, &[1]);
        shop.add_product(n, Who::Seller);
    }
    shop
}

#[tokio::test]
async fn a_walk_through_all_pages_meets_every_row_once_in_order() {
    let shop = large_shop().serve();
    for list in ["orders", "products"] {
        let all = walk(&shop, list, 100).await;
        assert_eq!(all.len(), 49);
        for first in [1, 7, 48, 49] {
            assert_eq!(walk(&shop, list, first).await, all, "{list} by {first}");
        }
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    }
}

#[tokio::test]
async fn the_entries_of_a_balance_are_paged_too() {
    let mut shop = Shop::new();
    for sequence in 3..13 {
        let (account, at) = (Who::Buyer.account(), Timestamp::from_micros(9));
        shop.memory.entries.push(WalletEntry {
            account,
            sequence,
            at,
            kind: EntryKind::Debit,
            amount: won(sequence.cast_signed()),
            order: Some(order_id(1)),
        });
    }
    let shop = shop.serve();
    let query = "query Entries($after: String) { me { balanceEntries(first: 4, after: $after) { nodes { amount { amount } order { id } } pageInfo { hasNextPage endCursor } } } }";
    let (mut amounts, mut after) = (vec![], Value::Null);
    loop {
        let answer = shop.ask(Who::Buyer, query, json!({"after": after})).await;
        let page = answer.data()["me"]["balanceEntries"].clone();
        amounts.extend(
            page["nodes"]
                .as_array()
                .expect("a list")
                .iter()
                .map(|node| node["amount"]["amount"].as_i64().expect("an amount")),
        );
        if page["pageInfo"]["hasNextPage"] == json!(false) {
            break;
        }
        after = page["pageInfo"]["endCursor"].clone();
    }
    assert_eq!(amounts, [12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 1_000_000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_fifty_orders_with_all_edges_asks_the_views_a_few_times() {
    let mut shop = Shop::new();
    for n in 100..150 {
        let buyer = AccountId::new(Uuid::from_u128(n));
        shop.add_account(buyer, Role::Buyer, &format!("buyer {n}"));
        shop.add_product(n, Who::Seller);
        shop.add_product(n + 1_000, Who::Seller);
        shop.add_order(n, buyer, Who::Seller, &[n, n + 1_000]);
    }
    let shop = shop.serve();
    let query = "{ orders(first: 50) { edges { cursor node { id orderNumber status shippingAddress { city }
        buyer { id name email balance { amount } }
        lines { productName product { id name seller { id name } inventory { available } } seller { name } }
        payment { status attempts { result } order { id buyer { name } } } } } } }";
    let answer = shop.ask(Who::Admin, query, json!({})).await;
    let nodes = answer.data()["orders"]["edges"].as_array().expect("a list").clone();
    assert_eq!(nodes.len(), 50);
    assert_eq!(nodes[0]["node"]["lines"][1]["product"]["inventory"]["available"], 970);
    assert_eq!(
        nodes[49]["node"]["payment"]["order"]["buyer"]["name"],
        nodes[49]["node"]["buyer"]["name"]
    );
    let calls = shop.memory.counted();
    // One for each kind of edge, or two where such edges stand at different depths.
    assert!(calls.values().sum::<usize>() <= 12, "{calls:?}");
    assert!(calls.values().all(|calls| *calls <= 2), "{calls:?}");
}

#[tokio::test]
async fn wrong_ids_cursors_and_numbers_are_the_askers_mistake() {
    let shop = Shop::new().serve();
    let long = "9".repeat(100_000);
    for query in [
        "{ order(id: \"7\") { id } }".to_owned(),
        "{ product(id: \"\") { id } }".to_owned(),
        "{ node(id: 12) { id } }".to_owned(),
        format!("{{ payment(id: \"{long}\") {{ id }} }}"),
        "{ inventory(productId: \"한글\") { onHand } }".to_owned(),
        "{ products(sellerId: \"x\") { nodes { id } } }".to_owned(),
        "{ orderByTrackingId(trackingId: \"x\") { id } }".to_owned(),
        "{ orderByNumber(orderNumber: \"x\") { id } }".to_owned(),
        "{ orders(after: \"x\") { nodes { id } } }".to_owned(),
        "{ products(after: \"bzE6MTow\") { nodes { id } } }".to_owned(),
        "{ orders(first: 0) { nodes { id } } }".to_owned(),
        "{ orders(first: -1) { nodes { id } } }".to_owned(),
        "{ orders(first: 101) { nodes { id } } }".to_owned(),
        "{ products(first: 2147483647) { nodes { id } } }".to_owned(),
        "{ me { balanceEntries(after: \"!\") { nodes { at } } } }".to_owned(),
        format!("{{ orders(search: \"{long}\") {{ nodes {{ id }} }} }}"),
    ] {
        let answer = shop.ask(Who::Admin, &query, json!({})).await;
        assert_eq!(answer.code(), "BAD_USER_INPUT", "{query:.80} {}", answer.json);
        assert!(answer.json.to_string().len() < 2_000, "{query:.80}");
        assert_eq!(answer.json["extensions"]["consistency"]["outcome"], "REACHED");
    }
    let answer = shop
        .ask(
            Who::Admin,
            "query O($status: OrderStatus) { orders(status: $status) { nodes { id } } }",
            json!({"status": "LOST"}),
        )
        .await;
    assert!(answer.json["errors"][0]["extensions"]["code"].is_string(), "{}", answer.json);
}

fn repeated(times: usize, part: impl Fn(usize) -> String) -> String {
    (0..times).map(part).collect()
}

#[tokio::test]
async fn a_question_that_is_too_large_is_refused_before_it_is_answered() {
    let shop = large_shop().serve();
    let deep = format!(
        "{{ order(id: \"{}\") {}id{} }}",
        order_id(1),
        "{ payment { order ".repeat(8) + "{ ",
        " }".repeat(17)
    );
    let aliases = repeated(60, |n| format!("a{n}: id "));
    let roots = repeated(25, |n| format!("a{n}: me {{ id }} "));
    let directives = "@include(if: true) ".repeat(30);
    let wide = "{ orders(first: 100) { nodes { lines { product { seller { balanceEntries(first: 100) { nodes { at } } } } } } } }";
    let doubling = repeated(25, |n| format!("fragment F{n} on Query {{ ...F{m} ...F{m} }} ", m = n + 1));
    let bomb = format!("{{ ...F0 }} {doubling} fragment F25 on Query {{ me {{ id }} }}");
    for (name, query) in [
        ("deep", deep),
        ("aliases", format!("{{ me {{ {aliases} }} }}")),
        ("roots", format!("{{ {roots} }}")),
        ("directives", format!("{{ me {{ id {directives} }} }}")),
        ("wide", wide.to_owned()),
        ("bomb", bomb),
        (
            "cycle",
            "{ me { ...A } } fragment A on Account { ...B } fragment B on Account { ...A }".to_owned(),
        ),
        ("fields", format!("{{ me {{ {} }} }}", "id ".repeat(2_000))),
        ("brackets", "{a".repeat(80_000)),
        (
            "introspection",
            format!("{{ {} }}", repeated(5, |n| format!("a{n}: __schema {{ types {{ name }} }} "))),
        ),
    ] {
        let began = std::time::Instant::now();
        let answer = shop.ask(Who::Admin, &query, json!({})).await;
        assert_eq!(answer.status.as_u16(), 400, "{name} {}", answer.json);
        assert!(answer.json.get("data").is_none(), "{name}");
        assert!(answer.json["errors"][0]["extensions"]["code"].is_string(), "{name}");
        assert!(began.elapsed() < Duration::from_secs(5), "{name} took {:?}", began.elapsed());
    }
    assert!(shop.memory.counted().is_empty(), "{:?}", shop.memory.counted());
}

#[tokio::test]
async fn a_request_that_is_none_is_told_why() {
    let shop = Shop::new().serve();
    let huge = json!({"query": "{ me { id } }", "extensions": "x".repeat(300 * 1024)}).to_string();
    let cases: [(&str, String, u16, &str); 8] = [
        ("huge", huge, 413, "body-too-large"),
        (
            "batch",
            json!([{"query": "{ me { id } }"}, {"query": "{ me { id } }"}]).to_string(),
            400,
            "unreadable-question",
        ),
        ("broken", "{\"query\": ".to_owned(), 400, "unreadable-question"),
        ("empty", String::new(), 400, "unreadable-question"),
        ("no query", "{}".to_owned(), 400, "unreadable-question"),
        ("query no text", "{\"query\": 7}".to_owned(), 400, "unreadable-question"),
        (
            "variables no object",
            "{\"query\": \"{ me { id } }\", \"variables\": [1]}".to_owned(),
            400,
            "unreadable-question",
        ),
        (
            "nested",
            "{\"query\": \"{ me { id } }\", \"variables\": ".to_owned() + &"[".repeat(100_000),
            400,
            "unreadable-question",
        ),
    ];
    for (name, body, status, code) in cases {
        let answer = shop.post(body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.json["code"].as_str()),
            (status, Some(code)),
            "{name}"
        );
        assert_eq!(answer.headers["content-type"], "application/problem+json", "{name}");
        assert!(answer.json["traceId"].as_str().is_some_and(|id| id.len() == 32), "{name}");
    }
    let answer = shop
        .send(
            Request::post("/graphql")
                .header("content-type", "text/plain")
                .body(Body::from("{}"))
                .expect("a request"),
        )
        .await;
    assert_eq!(answer.status.as_u16(), 415);
    let answer = shop
        .ask_with(Who::Nobody, "{ me { id } }", json!({}), &[("accept", "text/html")])
        .await;
    assert_eq!(answer.status.as_u16(), 406);

    let id = "4bf92f3577b34da6a3ce929d0e0e4736";
    for (parent, goes_on) in [
        (format!("00-{id}-00f067aa0ba902b7-01"), true),
        (format!("00-{}-00f067aa0ba902b7-01", id.to_uppercase()), false),
        (format!("00-{id}"), false),
        (format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)), false),
        ("00-é".to_owned(), false),
    ] {
        let headers = [("accept", "text/html"), ("traceparent", parent.as_str())];
        let answer = shop.ask_with(Who::Nobody, "{ me { id } }", json!({}), &headers).await;
        assert_eq!(answer.json["traceId"] == id, goes_on, "{parent}");
    }
}

#[tokio::test]
async fn any_other_method_is_told_which_ones_there_are() {
    let shop = Shop::new().serve();
    for (path, allowed) in [("/graphql", "GET,HEAD,POST"), ("/graphiql", "GET,HEAD")] {
        for method in ["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "NONSENSE"] {
            let request = Request::builder().method(method).uri(path).header("accept-language", "en");
            let answer = shop.send(request.body(Body::from("{}")).expect("a request")).await;
            assert_eq!(answer.status.as_u16(), 405, "{method} {path}");
            assert_eq!(answer.headers["allow"], allowed, "{method} {path}");
            assert_eq!(answer.headers["content-type"], "application/problem+json", "{method} {path}");
            assert_eq!(answer.json["code"], "method-not-allowed", "{method} {path}");
            assert_eq!(answer.json["title"], "This method is not allowed here");
        }
    }
    let posted = shop.send(Request::post("/graphiql").body(Body::empty()).expect("a request")).await;
    assert_eq!(
        (posted.status.as_u16(), posted.json["code"].as_str()),
        (405, Some("method-not-allowed"))
    );
}

#[tokio::test]
async fn a_field_that_failed_is_null_and_the_others_are_answered() {
    let shop = Shop::new().serve();
    let query = "{ orders(first: 1) { nodes { id } } products(first: 1) { nodes { name } } }";
    let answer = shop.ask(Who::Nobody, query, json!({})).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (200, "UNAUTHENTICATED"));
    assert_eq!(answer.json["data"].get("orders"), Some(&Value::Null));
    assert!(answer.json["data"]["products"]["nodes"][0]["name"].is_string());
    let alone = shop.ask(Who::Nobody, "{ mine: orders { nodes { id } } }", json!({})).await;
    assert_eq!(alone.json["data"], json!({"mine": null}));
    let below = shop
        .ask(Who::Buyer, "{ me { balanceEntries(first: 0) { nodes { at } } } }", json!({}))
        .await;
    assert_eq!(
        (&below.json["data"], below.code()),
        (&json!({"me": {"balanceEntries": null}}), "BAD_USER_INPUT")
    );
}

#[tokio::test]
async fn a_question_may_come_by_get_and_in_two_forms() {
    let shop = Shop::new().serve();
    let get = |query: &'static str, accept: &'static str| {
        Request::get(format!("/graphql?{query}"))
            .header("accept", accept)
            .body(Body::empty())
            .expect("a request")
    };
    let answer = shop
        .send(get(
            "query=query%20P(%24n%3AInt)%7Bproducts(first%3A%24n)%7Bnodes%7Bid%7D%7D%7D&variables=%7B%22n%22%3A1%7D&operationName=P",
            "*/*",
        ))
        .await;
    assert_eq!(answer.data()["products"]["nodes"][0]["id"], product_id(2).to_string());
    assert!(
        answer.headers["content-type"]
            .to_str()
            .expect("text")
            .starts_with("application/graphql-response+json")
    );
    assert_eq!(answer.headers["cache-control"], "no-store");

    let (newer, older) = ("application/graphql-response+json, application/json;q=0.9", "application/json");
    let wrong = "query=%7Bnothing%7D";
    assert_eq!(shop.send(get(wrong, newer)).await.status.as_u16(), 400);
    let answer = shop.send(get(wrong, older)).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (200, "GRAPHQL_VALIDATION_FAILED"));
    assert!(
        answer.headers["content-type"]
            .to_str()
            .expect("text")
            .starts_with("application/json")
    );
    for wrong in [
        "",
        "variables=%7B%7D",
        "query=%7Bme%7Bid%7D%7D&variables=x",
        "query=%7Bme%7Bid%7D%7D&variables=7",
    ] {
        assert_eq!(shop.send(get(wrong, newer)).await.status.as_u16(), 400, "{wrong}");
    }
    let mutation = shop.ask(Who::Admin, "mutation { buy }", json!({})).await;
    assert_eq!((mutation.status.as_u16(), mutation.json.get("data")), (400, None));
}

fn consistency(answer: &Answer) -> &Value {
    &answer.json["extensions"]["consistency"]
}

const ASK: &str = "{ me { id } }";

#[tokio::test]
async fn a_question_with_a_token_waits_until_the_views_are_there() {
    let shop = Shop::new().serve();
    let report = shop.report.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(150)).await;
        report.send_replace(at_position(12));
    });
    let answer = shop
        .ask_with(Who::Buyer, ASK, json!({}), &[("consistency-token", &token(12))])
        .await;
    assert_eq!(consistency(&answer), &json!({"outcome": "REACHED", "position": "12", "lagMs": 0}));
}

#[tokio::test]
async fn a_token_in_a_cookie_counts_and_one_left_over_there_does_not_hurt() {
    let mut shop = Shop::new();
    shop.timeouts.consistency = Duration::from_millis(50);
    let shop = shop.serve();
    for (cookie, outcome) in [
        (format!("a=b; Consistency-Token={}", token(99)), "TIMED_OUT"),
        (format!("consistency-token={}", token(10)), "REACHED"),
        ("consistency-token=rubbish; c=d".to_owned(), "REACHED"),
        (format!("consistency-token={}.0.99", Uuid::from_u128(5).simple()), "REACHED"),
    ] {
        let answer = shop.ask_with(Who::Buyer, ASK, json!({}), &[("cookie", &cookie)]).await;
        assert_eq!(consistency(&answer)["outcome"], outcome, "{cookie}");
    }
}

#[tokio::test]
async fn an_answer_says_honestly_when_the_views_did_not_get_there() {
    let mut shop = Shop::new();
    shop.timeouts.consistency = Duration::from_millis(50);
    let shop = shop.serve();
    let answer = shop.ask(Who::Buyer, ASK, json!({})).await;
    assert_eq!(consistency(&answer), &json!({"outcome": "REACHED", "position": "10", "lagMs": 0}));

    let late = token(12);
    let late = [("consistency-token", late.as_str())];
    let ask = || shop.ask_with(Who::Buyer, ASK, json!({}), &late);
    let answer = ask().await;
    assert_eq!(consistency(&answer)["outcome"], "TIMED_OUT");
    assert_eq!(answer.data()["me"]["id"], Who::Buyer.account().to_string());

    let mut progress = at_position(10);
    progress.shards[0].head = 12;
    progress.state = RunnerState::Stalled {
        shard: 0,
        position: 11,
        reason: "of this test".to_owned(),
    };
    progress.stalled = vec![0];
    shop.report.send_replace(progress.clone());
    let answer = ask().await;
    assert_eq!(consistency(&answer)["outcome"], "STALLED");
    assert!(consistency(&answer)["lagMs"].as_u64().expect("a lag") > 1_000);

    progress.state = RunnerState::Stopped;
    shop.report.send_replace(progress);
    assert_eq!(consistency(&ask().await)["outcome"], "SUSPENDED");
}

#[tokio::test]
async fn a_token_that_is_none_or_of_another_log_is_refused() {
    let shop = Shop::new().serve();
    for wrong in ["", "12", "rubbish", "0/12", &format!("{}.0.1", Uuid::from_u128(5).simple())] {
        let answer = shop.ask_with(Who::Buyer, ASK, json!({}), &[("consistency-token", wrong)]).await;
        assert_eq!(
            (answer.status.as_u16(), answer.json["code"].as_str()),
            (400, Some("invalid-consistency-token")),
            "{wrong}"
        );
    }
}

/// A shop over four shards.
fn over_shards(positions: &[u64]) -> Served {
    let mut shop = Shop::new();
    shop.progress = at_positions(positions);
    shop.timeouts.consistency = Duration::from_millis(50);
    shop.serve()
}

#[tokio::test]
async fn with_several_shards_every_position_names_its_own() {
    let shop = over_shards(&[10, 20, 30, 40]);
    let answer = shop.ask(Who::Buyer, ASK, json!({})).await;
    let positions = ["0/10", "1/20", "2/30", "3/40"];
    assert_eq!(
        consistency(&answer),
        &json!({"outcome": "REACHED", "position": "0/10", "positions": positions, "lagMs": 0})
    );
    let answer = shop
        .ask_with(Who::Buyer, ASK, json!({}), &[("consistency-token", &token_of(2, 30))])
        .await;
    assert_eq!(
        consistency(&answer),
        &json!({"outcome": "REACHED", "position": "2/30", "positions": ["2/30"], "lagMs": 0})
    );
}

#[tokio::test]
async fn tokens_of_several_shards_come_in_one_header_in_several_or_in_cookies() {
    let shop = over_shards(&[10, 20, 30, 40]);
    let (there, ahead, far) = (token_of(1, 20), token_of(3, 41), token_of(0, u64::MAX));
    let header = "consistency-token";
    for (headers, outcome) in [
        (vec![(header, there.clone())], "REACHED"),
        (vec![(header, format!("{there}, {}", token_of(0, 10)))], "REACHED"),
        (vec![(header, format!("{there},{ahead}"))], "TIMED_OUT"),
        (vec![(header, format!("{ahead},{there}"))], "TIMED_OUT"),
        (vec![(header, ahead.clone()), (header, there.clone())], "TIMED_OUT"),
        (vec![(header, there.clone()), (header, far)], "TIMED_OUT"),
        // The newest of each shard counts, in whatever order they come.
        (vec![(header, format!("{ahead},{}", token_of(3, 1)))], "TIMED_OUT"),
        (vec![("cookie", format!("{header}-1={there}; {header}-3={ahead}"))], "TIMED_OUT"),
        (vec![("cookie", format!("{header}-3={ahead}; {header}-1={there}"))], "TIMED_OUT"),
        (vec![("cookie", format!("{header}={there},{ahead}"))], "TIMED_OUT"),
        (vec![("cookie", format!("{header}={there}; {header}={ahead}"))], "TIMED_OUT"),
        (vec![("cookie", format!("{header}-1={there}; {header}-0=rubbish"))], "REACHED"),
        (
            vec![("cookie", format!("{header}-x={ahead}; {header}s={ahead}; x{header}={ahead}"))],
            "REACHED",
        ),
    ] {
        let named: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = shop.ask_with(Who::Buyer, ASK, json!({}), &named).await;
        assert_eq!(consistency(&answer)["outcome"], outcome, "{headers:?}");
    }
}

#[tokio::test]
async fn a_token_of_a_shard_that_there_is_not_is_refused_and_left_over_in_a_cookie_passed_over() {
    let shop = over_shards(&[10, 20, 30, 40]);
    let nowhere = token_of(4, 1);
    for wrong in [nowhere.clone(), format!("{},{nowhere}", token(10)), format!("{},", token(10))] {
        let answer = shop.ask_with(Who::Buyer, ASK, json!({}), &[("consistency-token", &wrong)]).await;
        assert_eq!(
            (answer.status.as_u16(), answer.json["code"].as_str()),
            (400, Some("invalid-consistency-token")),
            "{wrong}"
        );
    }
    let answer = shop.ask_with(Who::Buyer, ASK, json!({}), &[("consistency-token", &nowhere)]).await;
    let detail = answer.json["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("of shard 4, which this shop's log does not have"), "{detail}");
    let cookie = format!("consistency-token-4={nowhere}");
    let answer = shop.ask_with(Who::Buyer, ASK, json!({}), &[("cookie", &cookie)]).await;
    assert_eq!(consistency(&answer)["outcome"], "REACHED");

    let many = vec![token(1); 1_025].join(",");
    let answer = shop.ask_with(Who::Buyer, ASK, json!({}), &[("consistency-token", &many)]).await;
    assert_eq!(answer.status.as_u16(), 400);
}

#[tokio::test]
async fn one_stalled_shard_is_no_other_shards_trouble() {
    let shop = over_shards(&[10, 20, 30, 40]);
    let mut progress = at_positions(&[10, 20, 30, 40]);
    progress.state = RunnerState::Stalled {
        shard: 1,
        position: 21,
        reason: "of this test".to_owned(),
    };
    progress.stalled = vec![1];
    progress.shards[1].head = 21;
    shop.report.send_replace(progress);
    for (token, outcome) in [
        (token_of(0, 10), "REACHED"),
        (token_of(0, 11), "TIMED_OUT"),
        (token_of(1, 21), "STALLED"),
        (token_of(1, 20), "REACHED"),
    ] {
        let answer = shop.ask_with(Who::Buyer, ASK, json!({}), &[("consistency-token", &token)]).await;
        assert_eq!(consistency(&answer)["outcome"], outcome, "{token}");
    }
    let answer = shop.ask(Who::Buyer, ASK, json!({})).await;
    assert_eq!(consistency(&answer)["position"], "1/20", "the one that is furthest behind");
    assert!(consistency(&answer)["lagMs"].as_u64().is_some_and(|lag| lag > 1_000));
}

#[tokio::test]
async fn views_that_cannot_be_read_are_said_so_without_their_insides() {
    let mut shop = Shop::new();
    shop.memory.broken = true;
    let shop = shop.serve();
    let answer = shop.ask(Who::Buyer, "{ me { id } products { nodes { id } } }", json!({})).await;
    assert_eq!(answer.code(), "UNAVAILABLE");
    assert!(!answer.json.to_string().contains("disk"), "{}", answer.json);
}

#[tokio::test]
async fn an_answer_that_takes_too_long_is_given_up() {
    let mut shop = Shop::new();
    shop.memory.slow = Duration::from_millis(500);
    shop.timeouts.request = Duration::from_millis(50);
    shop.limits.requests = 1;
    let shop = shop.serve();
    let (first, second) = tokio::join!(shop.ask(Who::Buyer, ASK, json!({})), shop.ask(Who::Buyer, ASK, json!({})));
    let mut codes = [
        first.json["code"].as_str().expect("a code"),
        second.json["code"].as_str().expect("a code"),
    ];
    codes.sort_unstable();
    assert_eq!(codes, ["overloaded", "too-slow"]);
    assert_eq!(
        (first.status.as_u16(), &first.headers["retry-after"]),
        (503, &"1".parse().expect("a value"))
    );
}

#[tokio::test]
async fn the_schema_tells_about_itself_only_where_the_settings_say_so() {
    let query = "{ __schema { types { name fields { name type { name ofType { name ofType { name ofType { name } } } } } } } }";
    let shop = Shop::new().serve();
    let answer = shop.ask(Who::Nobody, query, json!({})).await;
    assert!(
        answer.data()["__schema"]["types"]
            .as_array()
            .expect("a list")
            .iter()
            .any(|kind| kind["name"] == "Order")
    );
    let explorer = shop.send(Request::get("/graphiql").body(Body::empty()).expect("a request")).await;
    assert_eq!(explorer.status.as_u16(), 200);
    let page = explorer.json.as_str().expect("a page");
    assert!(
        !page.contains("http://") && !page.contains("https://"),
        "the page must not need anything from elsewhere"
    );

    let mut shop = Shop::new();
    shop.introspection = false;
    shop.graphiql = false;
    let shop = shop.serve();
    let answer = shop.ask(Who::Nobody, query, json!({})).await;
    assert_eq!(answer.status.as_u16(), 400);
    let answer = shop.ask(Who::Nobody, "{ __type(name: \"Order\") { name } }", json!({})).await;
    assert_eq!(answer.status.as_u16(), 400);
    let answer = shop.ask(Who::Nobody, "{ product { nam } prodct { id } }", json!({})).await;
    assert!(!answer.json.to_string().contains("Did you mean"), "{}", answer.json);
    assert_eq!(
        shop.send(Request::get("/graphiql").body(Body::empty()).expect("a request"))
            .await
            .status
            .as_u16(),
        404
    );
}

/// After a change that is meant: `UPDATE_SCHEMA=1 cargo test -p query-api the_schema_is_the_one_that_is_checked_in`.
#[test]
fn the_schema_is_the_one_that_is_checked_in() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/schema.graphql");
    let schema = query_api::schema_sdl();
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::write(path, &schema).expect("the file can be written");
    }
    let known = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        known == schema,
        "schema.graphql is another one; if the change is meant, run this test with UPDATE_SCHEMA=1"
    );
}
