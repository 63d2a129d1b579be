//! Every way back of a purchase, over HTTP: afterwards stock and balance are as they were before, and the provider kept no money.

mod shop;

use serde_json::{Value, json};
use shop::{
    ADMIN, BUYER, COFFEE, Client, Pay, SELLER, Shop, Token,
    client::{Figures, payment_key, won},
    invariants::Log,
    order,
};

/// Two coffees.
const TOTAL: i64 = 10_000;

/// A shop, its buyer, and how things stood at first.
struct Scene {
    shop: Shop,
    buyer: Token,
    before: Figures,
}

impl Scene {
    async fn open(settings: &[(&str, &str)]) -> Self {
        let shop = Shop::open(settings).await;
        let buyer = shop.client().log_in(BUYER).await;
        let before = shop.client().figures(&buyer, &[COFFEE]).await;
        assert_eq!((before.balance, before.stock[COFFEE]), (1_000_000, (1_000, 0)));
        Self { shop, buyer, before }
    }

    fn client(&self) -> &Client {
        self.shop.client()
    }

    /// Places an order of two coffees.
    async fn order(&self, pay: Pay<'_>) -> String {
        self.client().place(&self.buyer, &order(&[(COFFEE, 2)], pay)).await.order_id()
    }

    /// Places an order of two coffees by card under a key that plays this part, and says which order and which key.
    async fn card(&self, part: &str) -> String {
        self.order(Pay::Card(&payment_key(part))).await
    }

    async fn cancel(&self, order: &str) {
        let path = format!("/api/v1/orders/{order}/cancellation");
        self.client()
            .post(&self.buyer, &path, &json!({ "reason": "changed my mind" }))
            .await
            .expect(202);
    }

    async fn pay(&self, order: &str, part: &str, amount: i64) -> shop::Answer {
        let body = json!({ "paymentKey": payment_key(part), "amount": won(amount) });
        self.client()
            .post(&self.buyer, &format!("/api/v1/orders/{order}/payment"), &body)
            .await
    }

    async fn stands(&self, order: &str, outcome: &str) {
        self.client().stands(&self.buyer, order, outcome).await;
    }

    /// The order comes to nothing for this reason, and leaves nothing behind but these movements at the provider.
    async fn comes_to_nothing(self, order: &str, failure: &str, ledger: &[(&str, i64)]) -> Log {
        let outcome = format!("CANCELLED {failure}");
        let answer = self.client().ended(&self.buyer, order).await;
        assert_eq!(answer.outcome(), outcome);
        assert!(
            answer.body["failure"]["message"]
                .as_str()
                .is_some_and(|message| !message.is_empty()),
            "{}",
            answer.body
        );
        self.client().ledger_is(order, ledger).await;
        self.client().shown(&self.buyer, order, &outcome).await;
        assert_eq!(self.client().figures_at_rest(&self.buyer, &[COFFEE]).await, self.before);
        self.shop.agrees_with_the_provider().await;
        let log = self.shop.close().await;
        let coffee = &log.stocks[COFFEE];
        assert_eq!((coffee.on_hand, coffee.reserved), (1_000, 0));
        log
    }

    /// The order is confirmed, and the provider took its money once.
    async fn ends_confirmed(self, order: &str) -> Log {
        assert_eq!(self.client().ended(&self.buyer, order).await.outcome(), "CONFIRMED");
        self.client().ledger_is(order, &[("CHARGE", TOTAL)]).await;
        self.client().shown(&self.buyer, order, "CONFIRMED").await;
        let after = self.client().figures_at_rest(&self.buyer, &[COFFEE]).await;
        assert_eq!((after.balance, after.stock[COFFEE]), (self.before.balance, (998, 0)));
        self.shop.agrees_with_the_provider().await;
        self.shop.close().await
    }
}

/// An order of two coffees by card whose price or total is said to be this.
fn stated(member: &str, value: Value) -> Value {
    let mut body = order(&[(COFFEE, 2)], Pay::Card(&payment_key("ok")));
    match member {
        "unitPrice" => body["lines"][0]["unitPrice"] = value,
        member => body[member] = value,
    }
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn out_of_stock_on_line_2_of_3_releases_line_1_and_never_asks_for_line_3() {
    let scene = Scene::open(&[]).await;
    let client = scene.client().clone();
    let seller = client.log_in(SELLER).await;
    let mut products = Vec::new();
    for _ in 0..3 {
        products.push(client.new_product(&seller, 1_000, 5).await);
    }
    // Lines are reserved in the order of their products' ids.
    products.sort();
    let write_off = json!({ "delta": -4, "reason": "broken" });
    client
        .post(&seller, &format!("/api/v1/products/{}/stock/adjustments", products[1]), &write_off)
        .await
        .expect(201);

    let lines: Vec<_> = products.iter().rev().map(|product| (product.as_str(), 2)).collect();
    let order = client.place(&scene.buyer, &order(&lines, Pay::Balance)).await.order_id();
    let failed = client.ended(&scene.buyer, &order).await;
    assert_eq!(failed.body["failure"]["productId"], products[1]);
    assert_eq!(failed.body["failure"]["message"], "재고 부족으로 주문이 취소되었습니다");
    let log = scene.comes_to_nothing(&order, "OUT_OF_STOCK", &[]).await;
    assert_eq!(log.stock_story(&products[0], &order), ["inventory.reserved", "inventory.released"]);
    assert_eq!(log.stock_story(&products[1], &order), ["inventory.out_of_stock"]);
    assert!(log.stock_story(&products[2], &order).is_empty());
    assert_eq!(
        products.iter().map(|product| log.stocks[product].on_hand).collect::<Vec<_>>(),
        [5, 1, 5]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_price_that_is_not_the_product_s_cancels_the_order() {
    let scene = Scene::open(&[]).await;
    let order = scene
        .client()
        .place(&scene.buyer, &stated("unitPrice", won(4_999)))
        .await
        .order_id();
    scene.comes_to_nothing(&order, "PRICE_MISMATCH", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_total_that_is_not_the_sum_cancels_the_order() {
    let scene = Scene::open(&[]).await;
    let order = scene
        .client()
        .place(&scene.buyer, &stated("total", won(TOTAL - 1)))
        .await
        .order_id();
    scene.comes_to_nothing(&order, "PRICE_MISMATCH", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_price_that_rose_since_the_buyer_saw_it_cancels_the_order() {
    let scene = Scene::open(&[]).await;
    let client = scene.client().clone();
    let seller = client.log_in(SELLER).await;
    let product = client.new_product(&seller, 1_000, 5).await;
    let request = client
        .request(reqwest::Method::PATCH, &format!("/api/v1/products/{product}"))
        .bearer_auth(&seller.0);
    Client::send(request.json(&json!({ "price": won(1_100) })))
        .await
        .expect("the shop answers")
        .expect(200);
    let mut body = order(&[(&product, 1)], Pay::Balance);
    body["lines"][0]["unitPrice"] = won(1_000);
    let order = client.place(&scene.buyer, &body).await.order_id();
    scene.comes_to_nothing(&order, "PRICE_MISMATCH", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balance_that_is_too_small_cancels_the_order() {
    let scene = Scene::open(&[]).await;
    let order = scene
        .client()
        .place(&scene.buyer, &order(&[(COFFEE, 201)], Pay::Balance))
        .await
        .order_id();
    let answer = scene.client().ended(&scene.buyer, &order).await;
    assert_eq!(answer.body["failure"]["message"], "잔액이 부족합니다");
    scene.comes_to_nothing(&order, "INSUFFICIENT_BALANCE", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declined_card_cancels_the_order() {
    let scene = Scene::open(&[]).await;
    let order = scene.card("declined").await;
    scene.comes_to_nothing(&order, "PAYMENT_DECLINED", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_without_enough_money_cancels_the_order() {
    let scene = Scene::open(&[]).await;
    let order = scene.card("insufficient").await;
    scene.comes_to_nothing(&order, "PAYMENT_DECLINED", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_that_is_declined_when_the_buyer_pays_later_cancels_the_order() {
    let scene = Scene::open(&[]).await;
    let order = scene.order(Pay::CardLater).await;
    scene.stands(&order, "AWAITING_PAYMENT").await;
    scene.pay(&order, "declined", TOTAL).await.expect(202);
    scene.comes_to_nothing(&order, "PAYMENT_DECLINED", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_amount_is_refused_and_the_order_goes_on_waiting_for_its_payment() {
    let scene = Scene::open(&[]).await;
    let order = scene.order(Pay::CardLater).await;
    for wrong in [TOTAL - 1, TOTAL + 1, 0] {
        scene.pay(&order, "ok", wrong).await.expect_problem(422, "amount-mismatch");
        scene.stands(&order, "AWAITING_PAYMENT").await;
    }
    assert!(scene.client().ledger(&order).await.is_empty());
    scene.pay(&order, "ok", TOTAL).await.expect(202);
    scene.ends_confirmed(&order).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_nobody_pays_in_time_expires() {
    let scene = Scene::open(&[("JANGBU_PAYMENT__DEADLINE", "2s")]).await;
    let order = scene.order(Pay::CardLater).await;
    scene.stands(&order, "AWAITING_PAYMENT").await;
    assert_eq!(
        scene.client().ended(&scene.buyer, &order).await.outcome(),
        "CANCELLED PAYMENT_EXPIRED"
    );
    scene.pay(&order, "ok", TOTAL).await.expect_problem(410, "payment-expired");
    scene.comes_to_nothing(&order, "PAYMENT_EXPIRED", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_passes_while_the_shop_is_down_counts_when_it_is_up_again() {
    let mut scene = Scene::open(&[("JANGBU_PAYMENT__DEADLINE", "2s")]).await;
    let order = scene.order(Pay::CardLater).await;
    scene.shop.kill_and_start_again().await;
    scene.comes_to_nothing(&order, "PAYMENT_EXPIRED", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn goods_are_kept_for_an_order_only_for_a_while() {
    let scene = Scene::open(&[("JANGBU_RESERVATION__TTL", "2s")]).await;
    let order = scene.order(Pay::CardLater).await;
    scene.stands(&order, "AWAITING_PAYMENT").await;
    let log = scene.comes_to_nothing(&order, "RESERVATION_EXPIRED", &[]).await;
    assert_eq!(log.stock_story(COFFEE, &order), ["inventory.reserved", "inventory.expired"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn goods_do_not_expire_while_the_provider_is_asked() {
    let scene = Scene::open(&[("JANGBU_RESERVATION__TTL", "1s")]).await;
    let order = scene.card("slow").await;
    scene.stands(&order, "PAYMENT_PENDING").await;
    let log = scene.ends_confirmed(&order).await;
    assert_eq!(log.stock_story(COFFEE, &order), ["inventory.reserved", "inventory.committed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_waits_for_its_payment_can_be_cancelled() {
    let scene = Scene::open(&[]).await;
    let order = scene.order(Pay::CardLater).await;
    scene.cancel(&order).await;
    // Once more changes nothing.
    scene.cancel(&order).await;
    scene
        .pay(&order, "ok", TOTAL)
        .await
        .expect_problem(409, "order-not-awaiting-payment");
    let log = scene.comes_to_nothing(&order, "CANCELLED_BY_BUYER", &[]).await;
    assert_eq!(log.times("order.cancellation_requested"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_can_cancel_an_order_that_waits_for_its_payment() {
    let scene = Scene::open(&[]).await;
    let order = scene.order(Pay::CardLater).await;
    let admin = scene.client().log_in(ADMIN).await;
    let body = json!({ "reason": "the buyer called" });
    scene
        .client()
        .post(&admin, &format!("/api/v1/orders/{order}/cancellation"), &body)
        .await
        .expect(202);
    scene.comes_to_nothing(&order, "CANCELLED_BY_SHOP", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_while_the_provider_is_slow_waits_and_gives_the_money_back() {
    let scene = Scene::open(&[]).await;
    let order = scene.card("slow").await;
    scene.stands(&order, "PAYMENT_PENDING").await;
    scene.cancel(&order).await;
    scene.stands(&order, "CANCELLING").await;
    scene
        .comes_to_nothing(&order, "CANCELLED_BY_BUYER", &[("CHARGE", TOTAL), ("CANCEL", TOTAL)])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_while_the_answer_is_lost_and_nothing_charged_takes_no_money() {
    let scene = Scene::open(&[("JANGBU_PAYMENT__TIMEOUT", "500ms")]).await;
    let order = scene.card("lost").await;
    scene.stands(&order, "PAYMENT_PENDING").await;
    scene.cancel(&order).await;
    scene.comes_to_nothing(&order, "CANCELLED_BY_BUYER", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_while_the_answer_about_a_charge_is_lost_gives_the_money_back() {
    let scene = Scene::open(&[("JANGBU_PAYMENT__TIMEOUT", "2s")]).await;
    let order = scene.card("lost_applied").await;
    scene.stands(&order, "PAYMENT_PENDING").await;
    scene.cancel(&order).await;
    scene
        .comes_to_nothing(&order, "CANCELLED_BY_BUYER", &[("CHARGE", TOTAL), ("CANCEL", TOTAL)])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_while_the_provider_fails_takes_no_money() {
    let scene = Scene::open(&[]).await;
    let order = scene.card("5xx").await;
    scene.stands(&order, "PAYMENT_PENDING").await;
    scene.cancel(&order).await;
    scene.comes_to_nothing(&order, "CANCELLED_BY_BUYER", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn money_that_turns_up_after_the_end_is_given_back() {
    // The provider charges after 3 s; we ask after half a second, hear that nothing was charged, and end the order.
    let scene = Scene::open(&[("JANGBU_PAYMENT__TIMEOUT", "500ms")]).await;
    let order = scene.card("slow").await;
    scene.stands(&order, "PAYMENT_PENDING").await;
    scene.cancel(&order).await;
    assert_eq!(
        scene.client().ended(&scene.buyer, &order).await.outcome(),
        "CANCELLED CANCELLED_BY_BUYER"
    );
    assert!(
        scene.client().ledger(&order).await.is_empty(),
        "the order ends before the money comes"
    );
    scene
        .comes_to_nothing(&order, "CANCELLED_BY_BUYER", &[("CHARGE", TOTAL), ("CANCEL", TOTAL)])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_lost_before_the_charge_is_asked_for_again_until_the_deadline() {
    let scene = Scene::open(&[("JANGBU_PAYMENT__TIMEOUT", "300ms"), ("JANGBU_PAYMENT__DEADLINE", "2s")]).await;
    let order = scene.card("lost").await;
    let log = scene.comes_to_nothing(&order, "PAYMENT_EXPIRED", &[]).await;
    assert!(log.times("payment.requested") >= 2, "the same attempt was repeated");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_lost_after_the_charge_confirms_the_order_and_charges_once() {
    let scene = Scene::open(&[("JANGBU_PAYMENT__TIMEOUT", "500ms")]).await;
    let order = scene.card("lost_applied").await;
    scene.stands(&order, "PAYMENT_PENDING").await;
    let log = scene.ends_confirmed(&order).await;
    assert_eq!((log.times("payment.outcome_unknown"), log.times("payment.requested")), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_fails_twice_is_asked_again_and_charges_once() {
    let scene = Scene::open(&[]).await;
    let order = scene.card("5xx").await;
    let log = scene.ends_confirmed(&order).await;
    assert_eq!(log.times("payment.requested"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_provider_is_waited_for() {
    let scene = Scene::open(&[]).await;
    let order = scene.card("slow").await;
    let log = scene.ends_confirmed(&order).await;
    assert_eq!(log.times("payment.requested"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shop_that_dies_between_the_charge_and_its_answer_confirms_the_order_and_charges_once() {
    let mut scene = Scene::open(&[]).await;
    let order = scene.card("lost_applied").await;
    scene.client().ledger_is(&order, &[("CHARGE", TOTAL)]).await;
    scene.shop.kill_and_start_again().await;
    scene.ends_confirmed(&order).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmed_order_cannot_be_cancelled_and_keeps_what_it_is() {
    let scene = Scene::open(&[]).await;
    let order = scene.card("ok").await;
    assert_eq!(scene.client().ended(&scene.buyer, &order).await.outcome(), "CONFIRMED");
    let body = json!({ "reason": "too late" });
    let path = format!("/api/v1/orders/{order}/cancellation");
    scene
        .client()
        .post(&scene.buyer, &path, &body)
        .await
        .expect_problem(409, "order-not-cancellable");
    scene
        .pay(&order, "ok", TOTAL)
        .await
        .expect_problem(409, "order-not-awaiting-payment");
    scene.ends_confirmed(&order).await;
}
