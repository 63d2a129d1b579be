//! Authorisation: every node and every edge, for everyone.

mod support;

use aggregates::{FailureCode, OrderStatus, PaymentId, TrackingId};
use serde_json::{Value, json};
use support::{STUCK_AFTER, Shop, Who, order_id, product_id};

const ORDER: &str = "id orderNumber status version shippingAddress { recipient street city postalCode phone } total { amount currency }
    buyer { id name email phone role balance { amount } balanceEntries { edges { node { amount { amount } } } } }
    lines { product { id inventory { onHand reserved available unlimited } seller { id name email phone balance { amount } } } seller { name email }
            productName quantity unitPrice { amount } lineTotal { amount } }
    payment { id status method amount { amount } refunded { amount } attempts { kind attempt result } order { id } }";

/// Who sees the first order, which the buyer placed at the seller's.
const SEE_THE_ORDER: [Who; 3] = [Who::Buyer, Who::Seller, Who::Admin];

#[tokio::test]
async fn an_order_is_there_for_its_buyer_its_seller_and_admins_however_it_is_asked_for() {
    let shop = Shop::new().serve();
    let (order, payment, tracking) = (order_id(1), PaymentId::for_order(order_id(1)), TrackingId::for_order(order_id(1)));
    for who in Who::ALL {
        let asked = [
            (format!("order(id: \"{order}\")"), ORDER.to_owned()),
            (format!("orderByTrackingId(trackingId: \"{tracking}\")"), ORDER.to_owned()),
            ("orderByNumber(orderNumber: \"2026112100000001\")".to_owned(), ORDER.to_owned()),
            (format!("node(id: \"{order}\")"), format!("id ... on Order {{ {ORDER} }}")),
            (format!("payment(id: \"{payment}\")"), "id order { id }".to_owned()),
            (format!("node(id: \"{payment}\")"), "id ... on Payment { order { id } }".to_owned()),
        ];
        for (field, selection) in asked {
            let answer = shop.ask(who, &format!("{{ it: {field} {{ {selection} }} }}"), json!({})).await;
            assert_eq!(!answer.data()["it"].is_null(), SEE_THE_ORDER.contains(&who), "{who:?} {field}");
        }
        // What one may not see looks like what is not there.
        let unknown = shop
            .ask(who, &format!("{{ order(id: \"{}\") {{ id }} }}", order_id(404)), json!({}))
            .await;
        assert_eq!(unknown.data(), &json!({"order": null}));
    }
}

#[tokio::test]
async fn the_edges_of_an_order_show_each_viewer_what_is_theirs_to_see() {
    let shop = Shop::new().serve();
    for who in SEE_THE_ORDER {
        let answer = shop
            .ask(who, &format!("{{ order(id: \"{}\") {{ {ORDER} }} }}", order_id(1)), json!({}))
            .await;
        let order = &answer.data()["order"];
        assert_eq!(order["shippingAddress"]["postalCode"], "04524", "{who:?}");
        assert_eq!(order["payment"]["attempts"][0]["result"], "CAPTURED", "{who:?}");
        assert_eq!(order["lines"][0]["lineTotal"]["amount"], 15_000, "{who:?}");
        assert_eq!(
            order["lines"][0]["product"]["inventory"],
            json!({"onHand": 1_000, "reserved": 30, "available": 970, "unlimited": false})
        );

        let buyer = &order["buyer"];
        assert_eq!(
            (buyer["name"].as_str(), buyer["email"].as_str()),
            (Some("Buyer"), Some("Buyer@jangbu.dev")),
            "{who:?}"
        );
        let whole = who != Who::Seller;
        for private in ["phone", "balance", "balanceEntries"] {
            assert_eq!(!buyer[private].is_null(), whole, "{who:?} {private}");
        }

        let seller = &order["lines"][0]["product"]["seller"];
        assert_eq!(seller["name"], "Seller", "{who:?}");
        let whole = who != Who::Buyer;
        for private in ["email", "phone", "balance"] {
            assert_eq!(!seller[private].is_null(), whole, "{who:?} {private}");
        }
        assert_eq!(!order["lines"][0]["seller"]["email"].is_null(), whole, "{who:?}");
    }
}

#[tokio::test]
async fn everyone_sees_products_their_stock_and_who_sells_them_and_no_more_of_the_seller() {
    let shop = Shop::new().serve();
    let id = product_id(1);
    let query = format!(
        "{{ product(id: \"{id}\") {{ ...P }} node(id: \"{id}\") {{ ...P }} inventory(productId: \"{id}\") {{ version available product {{ id }} }}
            products(sellerId: \"{}\") {{ nodes {{ ...P }} }} }}
         fragment P on Product {{ id sku name description price {{ amount }} version seller {{ id name email balance {{ amount }} }} inventory {{ onHand }} }}",
        Who::Seller.account()
    );
    for who in Who::ALL {
        let answer = shop.ask(who, &query, json!({})).await;
        let data = answer.data();
        assert_eq!(data["inventory"]["available"], 970);
        for product in [&data["product"], &data["node"], &data["products"]["nodes"][0]] {
            assert_eq!(product["seller"]["name"], "Seller", "{who:?}");
            let owner = matches!(who, Who::Seller | Who::Admin);
            assert_eq!(!product["seller"]["email"].is_null(), owner, "{who:?}");
            assert_eq!(!product["seller"]["balance"].is_null(), owner, "{who:?}");
        }
    }
}

#[tokio::test]
async fn an_account_is_there_for_itself_for_admins_and_in_part_for_a_seller_who_sold_to_it() {
    let shop = Shop::new().serve();
    let query = format!(
        "{{ node(id: \"{}\") {{ id ... on Account {{ name email phone balance {{ amount }} }} }} }}",
        Who::Buyer.account()
    );
    for who in Who::ALL {
        let answer = shop.ask(who, &query, json!({})).await;
        let account = &answer.data()["node"];
        match who {
            Who::Buyer | Who::Admin => assert_eq!(account["balance"]["amount"], 1_000_000, "{who:?}"),
            Who::Seller => {
                assert_eq!(
                    (account["email"].as_str(), &account["phone"], &account["balance"]),
                    (Some("Buyer@jangbu.dev"), &Value::Null, &Value::Null)
                );
            }
            Who::Nobody | Who::OtherBuyer | Who::OtherSeller => assert!(account.is_null(), "{who:?}"),
        }
    }
}

#[tokio::test]
async fn everyone_lists_the_orders_that_are_theirs_to_see() {
    let shop = Shop::new().serve();
    for (who, expected) in [
        (Who::Buyer, vec![1]),
        (Who::OtherBuyer, vec![2]),
        (Who::Seller, vec![1]),
        (Who::OtherSeller, vec![2]),
        (Who::Admin, vec![2, 1]),
    ] {
        let answer = shop
            .ask(
                who,
                "{ orders { edges { cursor node { id } } pageInfo { hasNextPage hasPreviousPage endCursor } } }",
                json!({}),
            )
            .await;
        let edges = answer.data()["orders"]["edges"].as_array().expect("a list").clone();
        let ids: Vec<_> = edges
            .iter()
            .map(|edge| edge["node"]["id"].as_str().expect("an id").to_owned())
            .collect();
        assert_eq!(
            ids,
            expected.into_iter().map(|n| order_id(n).to_string()).collect::<Vec<_>>(),
            "{who:?}"
        );
    }
    let answer = shop.ask(Who::Nobody, "{ orders { nodes { id } } }", json!({})).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (200, "UNAUTHENTICATED"));
}

#[tokio::test]
async fn me_is_the_asker() {
    let shop = Shop::new().serve();
    let query = "{ me { id email role balance { amount currency } balanceEntries(first: 1) { edges { node { kind amount { amount } at order { id } } } } } }";
    assert_eq!(shop.ask(Who::Nobody, query, json!({})).await.data(), &json!({"me": null}));
    let answer = shop.ask(Who::Seller, query, json!({})).await;
    assert_eq!(answer.data()["me"]["role"], "SELLER");
    assert_eq!(answer.data()["me"]["balanceEntries"]["edges"][0]["node"]["kind"], "DEPOSIT");
}

#[tokio::test]
async fn a_wrong_or_expired_token_is_refused_and_not_taken_for_nobody() {
    let shop = Shop::new().serve();
    for (authorization, code) in [
        ("Bearer forged", "invalid-token"),
        ("Bearer expired", "expired-token"),
        ("Basic YTpi", "invalid-token"),
        ("token", "invalid-token"),
    ] {
        let answer = shop
            .ask_with(
                Who::Nobody,
                "{ products { nodes { id } } }",
                json!({}),
                &[("authorization", authorization), ("accept-language", "ko")],
            )
            .await;
        assert_eq!(
            (answer.status.as_u16(), answer.json["code"].as_str()),
            (401, Some(code)),
            "{authorization}"
        );
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        assert!(answer.headers.contains_key("www-authenticate"));
        assert!(answer.json["title"].as_str().expect("a title").contains("토큰"));
    }
}

#[tokio::test]
async fn personal_data_of_an_erased_person_is_null_and_the_rest_stays() {
    let shop = Shop::new();
    shop.vault.erase_subject(Who::Buyer.account().uuid()).expect("erased");
    let shop = shop.serve();
    let query = format!(
        "{{ order(id: \"{}\") {{ total {{ amount }} shippingAddress {{ city }} buyer {{ id name email }} }} }}",
        order_id(1)
    );
    let answer = shop.ask(Who::Admin, &query, json!({})).await;
    let id = Who::Buyer.account().to_string();
    let expected =
        json!({"order": {"total": {"amount": 15_000}, "shippingAddress": null, "buyer": {"id": id, "name": null, "email": null}}});
    assert_eq!(answer.data(), &expected);
}

#[tokio::test]
async fn a_failure_is_told_in_the_language_of_the_asker() {
    let mut shop = Shop::new();
    shop.cancel(1, FailureCode::OutOfStock);
    shop.cancel(2, FailureCode::InsufficientBalance);
    let shop = shop.serve();
    let query = "{ orders(status: CANCELLED) { nodes { failure { code message } explain { status waitingFor until next } } } }";
    let korean = shop
        .ask_with(Who::Admin, query, json!({}), &[("accept-language", "ko-KR,ko;q=0.9,en;q=0.8")])
        .await;
    let expected = json!([{"code": "INSUFFICIENT_BALANCE", "message": "잔액이 부족합니다"}, {"code": "OUT_OF_STOCK", "message": "재고 부족으로 주문이 취소되었습니다"}]);
    let nodes = korean.data()["orders"]["nodes"].as_array().expect("a list").clone();
    assert_eq!(Value::Array(nodes.iter().map(|node| node["failure"].clone()).collect()), expected);
    assert_eq!(
        nodes[0]["explain"],
        json!({"status": "CANCELLED", "waitingFor": null, "until": null, "next": null})
    );
    let english = shop.ask_with(Who::Admin, query, json!({}), &[("accept-language", "en")]).await;
    assert_eq!(
        english.data()["orders"]["nodes"][0]["failure"]["message"],
        "The balance is too small"
    );
}

const EXPLAIN: &str = "query ($id: ID!) { order(id: $id) { explain { status waitingFor until next } } }";

#[tokio::test]
async fn an_order_whose_provider_is_silent_says_until_when_and_what_follows() {
    let mut shop = Shop::new();
    shop.silence(1);
    let bound = shop.order_and_payment(1).0.placed_at.after(STUCK_AFTER).to_string();
    let shop = shop.serve();
    let told = shop
        .ask_with(Who::Buyer, EXPLAIN, json!({"id": order_id(1)}), &[("accept-language", "en")])
        .await;
    let told = &told.data()["order"]["explain"];
    assert_eq!((&told["status"], &told["until"]), (&json!("PAYMENT_PENDING"), &json!(bound)));
    let next = told["next"].as_str().expect("what follows");
    assert!(
        next.contains("a person of the shop looks at it") && next.ends_with("you can cancel it"),
        "{next}"
    );
    assert_eq!(shop.memory.counted(), [("orders", 1), ("payments", 1)].into());
}

#[tokio::test]
async fn only_an_admin_is_told_why_an_order_needs_a_person_and_what_can_be_done() {
    let mut shop = Shop::new();
    shop.stick(1, "the provider is silent");
    let shop = shop.serve();
    for (who, told) in [(Who::Buyer, false), (Who::Seller, false), (Who::Admin, true)] {
        for language in ["ko", "en"] {
            let answer = shop
                .ask_with(who, EXPLAIN, json!({"id": order_id(1)}), &[("accept-language", language)])
                .await;
            let explained = answer.data()["order"]["explain"].clone();
            assert_eq!(
                (&explained["status"], &explained["until"]),
                (&json!("NEEDS_ATTENTION"), &Value::Null)
            );
            let says = |member: &str, text: &str| explained[member].as_str().expect("a text").contains(text);
            assert_eq!(says("waitingFor", "the provider is silent"), told, "{who:?}");
            assert_eq!(says("next", "resolve"), told, "{who:?}");
        }
    }
}

#[tokio::test]
async fn every_order_that_has_not_ended_is_explained() {
    for status in OrderStatus::ALL {
        let mut shop = Shop::new();
        shop.order_and_payment(1).0.status = status;
        let shop = shop.serve();
        let ended = matches!(status, OrderStatus::Delivered | OrderStatus::Cancelled | OrderStatus::Refunded);
        for who in [Who::Buyer, Who::Seller, Who::Admin] {
            let answer = shop.ask(who, EXPLAIN, json!({"id": order_id(1)})).await;
            let explained = &answer.data()["order"]["explain"];
            assert_eq!(
                (explained["waitingFor"].is_null(), explained["next"].is_null()),
                (ended, ended),
                "{status:?}"
            );
        }
    }
}
