//! What the views answer.

use std::sync::Arc;

use super::{
    Place,
    shop::{Log, account, is, line, offered, order, placed, quick, start, wait_until_counted, won},
};
use crate::{EntryKind, MOST_IDS, MOST_ROWS, OrdersQuestion, ProcessesQuestion, ProductsQuestion, ReadError, Scope, Views};
use aggregates::{CommerceEvent, Currency, Obstacle, OrderEvent, OrderStatus, PaymentId, TrackingId, WalletEvent};

/// 150 orders of two buyers at two sellers, every third waits for a payment; and a wallet that was used 150 times.
fn shop(place: &impl Place) -> Arc<dyn Views> {
    let mut log = Log::new(1);
    let mut events = vec![Some(CommerceEvent::Wallet(
        account(1),
        WalletEvent::Opened { currency: Currency::KRW },
    ))];
    for n in 0..150 {
        let payment = PaymentId::for_order(order(n));
        let name = if n % 2 == 0 { "Ice 100%_Coffee" } else { "김밥" };
        let lines = [line(n % 2, name, 50 + n % 2), line(7, "plain", 50 + n % 2)];
        events.push(Some(placed(n, 1 + n % 2, lines)));
        events.push(Some(is(
            n,
            if n % 3 == 0 {
                OrderEvent::AwaitingPayment {
                    payment,
                    until: aggregates::Timestamp::from_micros(5),
                }
            } else {
                OrderEvent::Confirmed { payment }
            },
        )));
        events.push(Some(CommerceEvent::Wallet(account(1), WalletEvent::Deposited { amount: won(10) })));
        events.push(Some(offered(n, &format!("Café {n}"), 50 + n % 2)));
    }
    log.record(0, &events);
    let (handle, views) = start(&log, place, quick());
    wait_until_counted(&handle, &log);
    handle.stop();
    views
}

fn all() -> OrdersQuestion {
    OrdersQuestion {
        scope: Scope::All,
        status: None,
        search: None,
        first: 20,
        after: None,
    }
}

/// All pages of a question, as the orders' numbers in the tests.
fn walk(views: &dyn Views, question: &OrdersQuestion) -> Vec<u64> {
    let mut question = question.clone();
    let mut seen = Vec::new();
    loop {
        let page = views.orders_page(&question).expect("a page");
        seen.extend(page.rows.iter().map(|row| row.id.uuid().as_u64_pair().1));
        question.after = page.rows.last().map(crate::OrderView::cursor).or(question.after);
        if !page.more {
            return seen;
        }
    }
}

/// Page by page, all orders are shown.
pub fn pages_show_each_order_once_newest_first(place: &impl Place) {
    let views = shop(place);
    let newest_first: Vec<u64> = (0..150).rev().collect();
    assert_eq!(walk(&*views, &all()), newest_first);
}

/// What has not come to its end is listed.
pub fn purchases_that_have_not_ended_are_listed_oldest_first_and_those_that_need_a_person_apart(place: &impl Place) {
    let mut log = Log::new(1);
    let payment = |n| PaymentId::for_order(order(n));
    let needed = || OrderEvent::AttentionNeeded {
        cause: Obstacle::Provider,
        reason: "silent".into(),
    };
    for n in 0..60 {
        let then = match n % 4 {
            0 => vec![],
            1 => vec![OrderEvent::Confirmed { payment: payment(n) }],
            2 => vec![needed()],
            _ => vec![needed(), OrderEvent::Resumed { by: account(9) }],
        };
        let begun = [placed(n, 1, [line(1, "coffee", 9)])].into_iter();
        let all: Vec<_> = begun.chain(then.into_iter().map(|event| is(n, event))).map(Some).collect();
        log.record(0, &all);
    }
    let (handle, views) = start(&log, place, quick());
    wait_until_counted(&handle, &log);
    handle.stop();
    let listed = |stuck| {
        let mut question = ProcessesQuestion {
            stuck,
            first: 7,
            after: None,
        };
        let mut seen = Vec::new();
        loop {
            let page = views.processes_page(&question).expect("a page");
            seen.extend(page.rows.iter().map(|row| row.id.uuid().as_u64_pair().1));
            question.after = page.rows.last().map(crate::OrderView::cursor);
            if !page.more {
                return seen;
            }
        }
    };
    let only = |wanted: &[u64]| -> Vec<u64> { (0..60).filter(|n| wanted.contains(&(n % 4))).collect() };
    assert_eq!(listed(None), only(&[0, 2, 3]));
    assert_eq!(listed(Some(true)), only(&[2]));
    assert_eq!(listed(Some(false)), only(&[0, 3]));
}

/// Buyers see their orders, sellers those with a line of theirs.
pub fn a_scope_shows_its_own_orders_only(place: &impl Place) {
    let views = shop(place);
    let odd: Vec<u64> = (0..150).rev().filter(|n| n % 2 == 1).collect();
    assert_eq!(
        walk(
            &*views,
            &OrdersQuestion {
                scope: Scope::Buyer(account(2)),
                ..all()
            }
        ),
        odd
    );
    assert_eq!(
        walk(
            &*views,
            &OrdersQuestion {
                scope: Scope::Seller(account(51)),
                ..all()
            }
        ),
        odd
    );
    assert!(
        walk(
            &*views,
            &OrdersQuestion {
                scope: Scope::Seller(account(1)),
                ..all()
            }
        )
        .is_empty()
    );
}

/// Also where no index holds the status.
pub fn a_status_narrows_every_scope(place: &impl Place) {
    let views = shop(place);
    for (status, third) in [(OrderStatus::AwaitingPayment, true), (OrderStatus::Confirmed, false)] {
        let wanted: Vec<u64> = (0..150).rev().filter(|n| (n % 3 == 0) == third).collect();
        assert_eq!(
            walk(
                &*views,
                &OrdersQuestion {
                    status: Some(status),
                    ..all()
                }
            ),
            wanted
        );
        let odd: Vec<u64> = wanted.into_iter().filter(|n| n % 2 == 1).collect();
        for scope in [Scope::Buyer(account(2)), Scope::Seller(account(51))] {
            assert_eq!(
                walk(
                    &*views,
                    &OrdersQuestion {
                        scope,
                        status: Some(status),
                        ..all()
                    }
                ),
                odd
            );
        }
    }
    assert!(
        walk(
            &*views,
            &OrdersQuestion {
                status: Some(OrderStatus::Shipped),
                ..all()
            }
        )
        .is_empty()
    );
}

/// No character of a search is a pattern, and none ends it.
pub fn a_search_takes_every_character_as_it_is(place: &impl Place) {
    let views = shop(place);
    let found = |text: &str| {
        walk(
            &*views,
            &OrdersQuestion {
                search: Some(text.into()),
                ..all()
            },
        )
        .len()
    };
    assert_eq!(found("ice 100%_coffee"), 75);
    assert_eq!(found("100%_"), 75);
    assert_eq!(found("1%0"), 0);
    assert_eq!(found("김밥"), 75);
    assert_eq!(found("' OR 1=1 --"), 0);
    assert_eq!(found("  "), 150);
    assert_eq!(found("2026112100000042"), 1);
    assert_eq!(found("00000042"), 1);
    let foreign = OrdersQuestion {
        scope: Scope::Buyer(account(2)),
        search: Some("2026112100000042".into()),
        ..all()
    };
    assert!(walk(&*views, &foreign).is_empty());
}

/// One order, three ways.
pub fn an_order_is_found_by_id_number_and_tracking_id(place: &impl Place) {
    let views = shop(place);
    let by_id = views.orders(&[order(42), order(4_711)]).expect("an answer");
    assert_eq!(by_id.len(), 1);
    let found = Some(by_id[&order(42)].clone());
    assert_eq!(
        views
            .order_by_number(&"2026112100000042".parse().expect("a number"))
            .expect("an answer"),
        found
    );
    assert_eq!(views.order_by_tracking(TrackingId::for_order(order(42))).expect("an answer"), found);
    assert_eq!(
        views.order_by_tracking(TrackingId::for_order(order(4_711))).expect("an answer"),
        None
    );
}

/// Names are found however they are composed, in whatever case.
pub fn products_are_searched_and_paged(place: &impl Place) {
    let views = shop(place);
    let count = |question: ProductsQuestion| views.products_page(&ProductsQuestion { first: 100, ..question }).expect("a page");
    assert_eq!(count(ProductsQuestion::default()).rows.len(), 100);
    assert!(count(ProductsQuestion::default()).more);
    assert_eq!(
        count(ProductsQuestion {
            search: Some("CAFE\u{301} 14".into()),
            ..ProductsQuestion::default()
        })
        .rows
        .len(),
        11
    );
    assert_eq!(
        count(ProductsQuestion {
            search: Some("sku-149".into()),
            ..ProductsQuestion::default()
        })
        .rows
        .len(),
        1
    );
    let own = count(ProductsQuestion {
        seller: Some(account(51)),
        ..ProductsQuestion::default()
    });
    assert_eq!((own.rows.len(), own.more), (75, false));
}

/// A balance is the sum of its entries.
pub fn a_balance_shows_how_it_came_about_page_by_page(place: &impl Place) {
    let views = shop(place);
    assert_eq!(views.wallets(&[account(1)]).expect("an answer")[&account(1)].balance, won(1_500));
    let newest = views.wallet_entries(account(1), 100, None).expect("a page");
    assert_eq!(
        (newest.rows.len(), newest.more, newest.rows[0].sequence, newest.rows[0].kind),
        (100, true, 151, EntryKind::Deposit)
    );
    let rest = views
        .wallet_entries(account(1), 100, newest.rows.last().map(|entry| entry.sequence))
        .expect("a page");
    assert_eq!((rest.rows.len(), rest.more), (50, false));
}

/// Nobody else.
pub fn a_seller_sees_only_those_who_ordered_of_them(place: &impl Place) {
    let views = shop(place);
    let sees = |seller, buyer| views.seller_sees(account(seller), account(buyer)).expect("an answer");
    assert!(sees(50, 1) && sees(51, 2));
    assert!(!sees(50, 2) && !sees(51, 1));
}

/// Neither pages nor lists of ids.
pub fn no_question_is_answered_without_a_bound(place: &impl Place) {
    let views = shop(place);
    assert_eq!(
        views
            .orders_page(&OrdersQuestion {
                first: usize::MAX,
                ..all()
            })
            .expect("a page")
            .rows
            .len(),
        MOST_ROWS
    );
    let ids = vec![order(1); MOST_IDS + 1];
    assert!(matches!(views.orders(&ids), Err(ReadError::TooManyIds)));
}

/// More threads than connections.
pub fn many_threads_ask_at_once(place: &impl Place) {
    let views = shop(place);
    std::thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| {
                for n in 0..50 {
                    assert_eq!(views.orders(&[order(n)]).expect("an answer").len(), 1);
                    assert_eq!(views.positions().expect("positions")[0].position, 601);
                }
            });
        }
    });
}
