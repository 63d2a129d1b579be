//! The people of the shop, and time: who does what next, until the last day is over.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use aggregates::{
    AccountId, Command, CommerceEvent, EmailCommand, EmailIndex, InventoryCommand, InventoryEvent, Money, OrderCommand, OrderEvent,
    OrderId, PaymentMethod, PlaceOrder, ProductCommand, ProductEvent, ProductId, Quantity, Recorded, Registration, RequestedLine,
    Resolution, Role, Sealed, Stock, Timestamp, TrackingId, WalletCommand, WalletEvent,
};
use engine::{Actor, Cause, Core, CoreSettings, EngineError, Idempotency, Input, Message, Outcome, Output, Request, Response};
use event_store::{EffectId, Head, LogReader, RecordKey, Shards};
use key_vault::KeyVault;
use payment_gateway_simulator::Books;
use rustc_hash::FxHashMap;
use uuid::{Uuid, uuid};

use super::{
    Progress,
    calendar::{Calendar, MINUTE, SECOND},
    cast::{CHANGED_THEIR_MIND, GOODS, Person, SEASONAL, SELLERS, UNCOUNTED},
    chance::Dice,
    out::{Log, Reader, Views},
    plan::{Deck, LEFT, Plan},
    provider::Provider,
    tally::Tally,
};
use crate::{failure::Failure, settings::Settings};

/// What every account's password hashes to: the demo's password, salted with a constant, because hashing each anew would take longer than
/// all the rest.
const PASSWORD_HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$amFuZ2J1LWdlbmVyYXRlZA$Md4qbuKl005F5Px9eHenfpX/aK+qXFjai0mH5DKMdb4";

/// The ids of the town derive from this one.
const NAMESPACE: Uuid = uuid!("6a616e67-6275-5000-8000-67656e657261");

/// There are so many buyers at most, however many orders.
const MOST_BUYERS: u64 = 5_000;

/// A shop with fewer orders than this has no order left over at its end.
const LEAST_FOR_LEFT: u64 = 20;

/// Before the first visit the shop opens.
const OPENING: i64 = 30 * MINUTE;

/// After its last visitor has come, an order still has so long to be placed.
const CLOSING: i64 = 20 * MINUTE;

/// Something that is going to happen.
struct Due {
    at: i64,
    /// What is due at one time happens in the order in which it was put down.
    number: u64,
    act: Act,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

enum Act {
    /// The visit with this number.
    Visit(u64),
    Place(Box<Wish>),
    Pay {
        order: OrderId,
        buyer: usize,
        script: &'static str,
        amount: Money,
    },
    Cancel {
        order: OrderId,
        buyer: usize,
        by_shop: bool,
    },
    /// The provider's answer.
    Answer {
        shard: u16,
        effect: EffectId,
        outcome: Outcome,
    },
    /// One shard's engine hears from another's.
    Hear(Box<Message>),
    /// The sellers look at their shelves.
    Morning(usize),
    Receive {
        good: usize,
        quantity: u64,
    },
    /// The price lists of a week.
    Prices,
    /// One product is counted.
    Count,
    /// The season is over.
    Retire,
    /// An operator looks at an order.
    Look {
        order: OrderId,
        buyer: usize,
        how: Handling,
    },
}

/// What an operator does about an order that cannot go on by itself.
#[derive(Clone, Copy)]
enum Handling {
    Resume,
    Resolve,
    Compensate,
}

/// An order that somebody is about to place.
struct Wish {
    buyer: usize,
    plan: Plan,
    /// Product and quantity.
    lines: Vec<(usize, i64)>,
}

/// A buyer, as far as the town has to know them.
#[derive(Clone)]
struct Buyer {
    id: AccountId,
    /// Where they live, in the clear; none before they are registered.
    address: Option<Box<str>>,
    balance: i64,
}

/// What is on the shelf.
#[derive(Clone, Copy)]
struct Shelf {
    price: i64,
    /// What it cost before.
    before: i64,
    /// Not promised to anybody.
    free: i64,
    ordered: bool,
    offered: bool,
}

/// The shop and everybody in it.
pub(super) struct Town {
    settings: Settings,
    shards: Shards,
    calendar: Calendar,
    dice: Dice,
    orders: u64,
    vault: KeyVault,
    provider: Provider,
    deck: Deck,
    agenda: BinaryHeap<Reverse<Due>>,
    noted: u64,
    inboxes: Vec<Vec<Input<()>>>,
    now: i64,
    admin: AccountId,
    sellers: Vec<AccountId>,
    buyers: Vec<Buyer>,
    accounts: FxHashMap<AccountId, usize>,
    shelves: Vec<Shelf>,
    /// Orders whose provider is silent, and who placed them.
    silent: FxHashMap<OrderId, usize>,
    looked_at: u64,
    tally: Tally,
}

impl Town {
    pub(super) fn new(
        settings: &Settings,
        shards: Shards,
        calendar: Calendar,
        dice: Dice,
        orders: u64,
        vault: KeyVault,
        books: Books,
    ) -> Self {
        let account = |name: String| AccountId::new(Uuid::new_v5(&NAMESPACE, name.as_bytes()));
        let buyers = usize::try_from((orders / 10).clamp(20, MOST_BUYERS)).unwrap_or_default();
        let buyer = |number| Buyer {
            id: account(format!("buyer {number}")),
            address: None,
            balance: 0,
        };
        let buyers: Vec<Buyer> = (0..buyers).map(buyer).collect();
        let shelf = |good: &super::cast::Good| Shelf {
            price: good.price,
            before: good.price,
            free: 0,
            ordered: false,
            offered: true,
        };
        Self {
            provider: Provider::new(books, settings.payment_timeout),
            settings: settings.clone(),
            shards,
            now: calendar.begin(),
            calendar,
            dice,
            orders,
            vault,
            deck: Deck::default(),
            agenda: BinaryHeap::new(),
            noted: 0,
            inboxes: shards.all().map(|_| Vec::new()).collect(),
            admin: account("admin".to_owned()),
            sellers: (0..SELLERS.len()).map(|number| account(format!("seller {number}"))).collect(),
            accounts: buyers.iter().enumerate().map(|(number, buyer)| (buyer.id, number)).collect(),
            buyers,
            shelves: GOODS.iter().map(shelf).collect(),
            silent: FxHashMap::default(),
            looked_at: 0,
            tally: Tally::default(),
        }
    }

    /// From the first day to the end of the last.
    pub(super) fn live(
        mut self,
        heads: Vec<Head>,
        readers: Vec<Reader>,
        log: &Arc<Log>,
        mut views: Views,
        progress: &mut Progress,
        stop: &AtomicBool,
    ) -> Result<(Tally, Books), Failure> {
        let processes = sagas::Settings {
            currency: self.settings.currency,
            reservation_ttl: self.settings.reservation_ttl,
            payment_deadline: self.settings.payment_deadline,
            stuck_after: self.settings.payment_stuck_after,
        };
        let mut cores = Vec::new();
        for (head, reader) in heads.into_iter().zip(readers) {
            let settings = CoreSettings {
                shards: self.shards,
                ..CoreSettings::new(processes, self.settings.time_zone.clone(), command_api::represent)
            };
            let reader: Box<dyn LogReader> = Box::new(reader);
            cores.push(Core::new(head, reader, settings)?);
        }
        let end = self.calendar.end();
        self.open()?;
        self.carry_out(&mut cores, log, &mut views)?;
        while let Some(at) = self.next(&cores)
            && at < end
            && !stop.load(Ordering::Relaxed)
        {
            self.now = self.now.max(at);
            while self.agenda.peek().is_some_and(|Reverse(due)| due.at <= self.now) {
                if let Some(Reverse(due)) = self.agenda.pop() {
                    self.act(due.act)?;
                }
            }
            self.carry_out(&mut cores, log, &mut views)?;
            progress.at(self.tally.placed);
        }
        drop(cores);
        views.finish()?;
        if self.tally.placed != self.orders && !stop.load(Ordering::Relaxed) {
            return Err(Failure::failed(format_args!(
                "{} orders were placed, not {}",
                self.tally.placed, self.orders
            )));
        }
        Ok((self.tally, self.provider.books()))
    }

    /// When something happens next.
    fn next(&self, cores: &[Core<()>]) -> Option<i64> {
        let person = self.agenda.peek().map(|Reverse(due)| due.at);
        let timers = cores.iter().filter_map(Core::wake_at).map(Timestamp::micros);
        timers.chain(person).min()
    }

    fn note(&mut self, at: i64, act: Act) {
        self.noted += 1;
        let number = self.noted;
        self.agenda.push(Reverse(Due { at, number, act }));
    }

    /// In `least` to `most` seconds.
    fn in_seconds(&mut self, least: i64, most: i64) -> i64 {
        self.now + self.dice.between(least * SECOND, most * SECOND)
    }

    // What people do.

    /// The shop opens: who runs it, who sells, and what.
    fn open(&mut self) -> Result<(), Failure> {
        let admin = self.admin;
        self.register(admin, "admin@jangbu.dev", "관리자", None, Role::Admin)?;
        for (number, role) in SELLERS.iter().enumerate() {
            self.register(self.sellers[number], role.email, role.name, None, Role::Seller)?;
        }
        for (number, good) in GOODS.iter().enumerate() {
            let stock = if good.counted {
                Stock::OnHand(units(self.daily(number) * 3)?)
            } else {
                Stock::Unlimited
            };
            let seller = self.sellers[good.seller];
            let create = ProductCommand::Create {
                seller,
                sku: good.sku.parse().map_err(Failure::failed)?,
                name: good.name.parse().map_err(Failure::failed)?,
                description: Some(good.description.parse().map_err(Failure::failed)?),
                price: self.money(good.price),
                stock,
                at: Timestamp::from_micros(self.now),
            };
            self.say(
                Command::Product(product(number), create),
                Actor::Account(seller),
                "POST",
                "/api/v1/products",
            );
        }
        for day in 0..self.calendar.days() {
            self.note(self.calendar.at(day, 8, 0), Act::Morning(day));
            self.note(self.calendar.at(day, 23, 10), Act::Count);
            if day % 7 == 0 && day > 0 {
                self.note(self.calendar.at(day, 7, 0), Act::Prices);
            }
        }
        // So that a price has changed also in a shop of one week.
        self.note(self.calendar.at(0, 6, 30), Act::Prices);
        self.note(self.calendar.at(self.calendar.days() / 2, 22, 0), Act::Retire);
        self.note_visit(0);
        Ok(())
    }

    /// How many of it are wanted on a day, about.
    fn daily(&self, good: usize) -> i64 {
        let weights: u64 = GOODS.iter().map(|good| good.weight).sum();
        // A line and a half, and a piece and a half, to an order.
        let wanted = u128::from(self.orders) * u128::from(GOODS[good].weight) * 9 / (4 * u128::from(weights));
        i64::try_from(wanted / self.calendar.days().max(1) as u128)
            .unwrap_or(i64::MAX / 100)
            .max(4)
    }

    fn note_visit(&mut self, number: u64) {
        if number >= self.orders {
            return;
        }
        let (from, to) = (self.calendar.begin() + OPENING, self.calendar.end() - CLOSING);
        let at = if let Some(place) = self.left(number) {
            self.calendar.end() - [100, 70, 40][place] * SECOND
        } else {
            let chance = self.dice.below(1_000_000);
            self.calendar.visit(number, self.orders, chance).clamp(from, to)
        };
        self.note(at, Act::Visit(number));
    }

    /// Whether it is one of the orders that are under way at the end: which of them.
    fn left(&self, number: u64) -> Option<usize> {
        let left = LEFT.len() as u64;
        let place = (number + left).checked_sub(self.orders)?;
        (self.orders >= LEAST_FOR_LEFT).then(|| usize::try_from(place).unwrap_or_default())
    }

    fn act(&mut self, act: Act) -> Result<(), Failure> {
        match act {
            Act::Visit(number) => self.visit(number),
            Act::Place(wish) => self.place(*wish),
            Act::Pay {
                order,
                buyer,
                script,
                amount,
            } => self.pay(order, buyer, script, amount),
            Act::Cancel { order, buyer, by_shop } => self.cancel(order, buyer, by_shop),
            Act::Answer { shard, effect, outcome } => {
                self.inboxes[usize::from(shard)].push(Input::Outcome(effect, outcome));
                Ok(())
            }
            Act::Hear(message) => {
                self.inboxes[usize::from(message.to)].push(Input::Received(message));
                Ok(())
            }
            Act::Morning(day) => {
                self.look_at_shelves(day);
                Ok(())
            }
            Act::Receive { good, quantity } => self.receive(good, quantity),
            Act::Prices => {
                self.change_prices();
                Ok(())
            }
            Act::Count => self.count_a_shelf(),
            Act::Retire => {
                self.shelves[SEASONAL].offered = false;
                let path = format!("/api/v1/products/{}", product(SEASONAL));
                let seller = Actor::Account(self.sellers[GOODS[SEASONAL].seller]);
                self.say(Command::Product(product(SEASONAL), ProductCommand::Retire), seller, "DELETE", &path);
                Ok(())
            }
            Act::Look { order, buyer, how } => self.look(order, buyer, how),
        }
    }

    /// Somebody comes, registers when they have not yet, and is going to order something.
    fn visit(&mut self, number: u64) -> Result<(), Failure> {
        self.note_visit(number + 1);
        let plan = self
            .left(number)
            .map_or_else(|| self.deck.deal(&mut self.dice), |place| LEFT[place]);
        // The smaller of two: some come often. The last ones have no time to register.
        let known = |town: &Self, buyer: &usize| town.buyers[*buyer].address.is_some();
        let mut buyer = self.dice.index(self.buyers.len()).min(self.dice.index(self.buyers.len()));
        let mut at = self.now + self.dice.between(2 * SECOND, 20 * SECOND);
        if self.left(number).is_some() {
            buyer = (0..self.buyers.len()).find(|buyer| known(self, buyer)).unwrap_or_default();
            at = self.now + SECOND;
        }
        if !known(self, &buyer) {
            let person = Person::buyer(buyer, &mut self.dice);
            self.register(self.buyers[buyer].id, &person.email, &person.name, Some(&person.phone), Role::Buyer)?;
            self.buyers[buyer].address = Some(person.address.into());
            at = self.in_seconds(60, 300);
        }
        let lines = self.basket(plan, buyer);
        if plan == Plan::Balance {
            at = self.fill_wallet(buyer, &lines, at)?;
        }
        self.note(at, Act::Place(Box::new(Wish { buyer, plan, lines })));
        Ok(())
    }

    /// What somebody wants.
    fn basket(&mut self, plan: Plan, buyer: usize) -> Vec<(usize, i64)> {
        match plan {
            Plan::TooMuch => {
                let good = self.dice.index(SEASONAL);
                let wanted = self.shelves[good].free.max(10).saturating_mul(3).min(900_000);
                vec![(good, wanted)]
            }
            Plan::Poor => {
                let price = self.shelves[UNCOUNTED].price;
                vec![(
                    UNCOUNTED,
                    (self.buyers[buyer].balance / price + 1 + self.dice.between(0, 4)).clamp(1, 1_000_000),
                )]
            }
            // Nothing of it is under way for long, or goes wrong for want of goods.
            Plan::Silent | Plan::LeftUnpaid | Plan::LeftAsked | Plan::LeftCancelling => vec![(UNCOUNTED, self.dice.between(1, 5))],
            _ => {
                let offered: Vec<u64> = (GOODS.iter().zip(&self.shelves))
                    .map(|(good, shelf)| if shelf.offered { good.weight } else { 0 })
                    .collect();
                let count = [1, 1, 1, 1, 1, 1, 2, 2, 2, 3];
                let count = *self.dice.pick(&count);
                let mut lines: Vec<(usize, i64)> = Vec::new();
                for _ in 0..count {
                    let good = self.dice.weighted(&offered);
                    if lines.iter().all(|(known, _)| *known != good) {
                        lines.push((good, *self.dice.pick(&[1, 1, 1, 2, 2, 3])));
                    }
                }
                lines
            }
        }
    }

    fn total(&self, lines: &[(usize, i64)]) -> i64 {
        let price = |(good, quantity): &(usize, i64)| self.shelves[*good].price.saturating_mul(*quantity);
        lines.iter().map(price).fold(0, i64::saturating_add)
    }

    /// Has the shop put money into a balance that is too small; returns when the order is placed.
    fn fill_wallet(&mut self, buyer: usize, lines: &[(usize, i64)], at: i64) -> Result<i64, Failure> {
        let lacks = self.total(lines) - self.buyers[buyer].balance;
        if lacks <= 0 {
            return Ok(at);
        }
        let amount = (lacks / 50_000 + self.dice.between(1, 4)) * 50_000;
        let account = self.buyers[buyer].id;
        let path = format!("/api/v1/accounts/{account}/deposits");
        let deposit = WalletCommand::Deposit {
            amount: self.money(amount),
        };
        // A wallet is opened with its account, in the same turn.
        let by = Actor::Account(self.admin);
        let opened = self.buyers[buyer].address.is_some();
        if !opened {
            return Err(Failure::failed("a balance is filled before its account is opened"));
        }
        self.say(Command::Wallet(account, deposit), by, "POST", &path);
        Ok(at.max(self.in_seconds(30, 120)))
    }

    fn place(&mut self, wish: Wish) -> Result<(), Failure> {
        let Wish { buyer, plan, mut lines } = wish;
        // It went off the shelf while they were looking at it.
        if lines.iter().any(|(good, _)| !self.shelves[*good].offered) {
            lines = vec![(UNCOUNTED, 1)];
        }
        let account = self.buyers[buyer].id;
        let (key, path) = (self.dice.id().to_string(), "/api/v1/orders");
        let order = OrderId::new(Uuid::new_v5(&NAMESPACE, format!("{account} {key}").as_bytes()));
        let stated = plan == Plan::OldPrice || self.dice.percent(40);
        let mut requested = Vec::with_capacity(lines.len());
        for (good, quantity) in &lines {
            let Shelf { price, before, .. } = self.shelves[*good];
            let seen = match plan {
                Plan::OldPrice if before == price => price + 500,
                Plan::OldPrice => before,
                _ => price,
            };
            requested.push(RequestedLine {
                product: product(*good),
                quantity: Quantity::parse(*quantity).map_err(Failure::failed)?,
                stated_price: stated.then(|| self.money(seen)),
                offer: None,
            });
        }
        let total = self.money(self.total(&lines));
        let method = match plan {
            Plan::Balance | Plan::Poor => PaymentMethod::Balance,
            _ => PaymentMethod::Card,
        };
        let script = match plan {
            Plan::Card(script) => Some(script),
            Plan::CancelCharged | Plan::Silent | Plan::LeftCancelling => Some("lost_applied"),
            Plan::CancelAsked | Plan::LeftAsked => Some("lost"),
            Plan::CancelLate | Plan::OldPrice | Plan::TooMuch => Some("ok"),
            _ => None,
        };
        let payment_key = script.map(|script| self.payment_key(script)).transpose()?;
        let address = self.buyers[buyer].address.clone().unwrap_or_default();
        let place = PlaceOrder {
            buyer: account,
            lines: requested,
            stated_total: (stated && plan != Plan::OldPrice && self.dice.percent(50)).then_some(total),
            address: self.seal(account, &address)?,
            method,
            payment_key,
            number: None,
            tracking: TrackingId::for_order(order),
            at: Timestamp::from_micros(self.now),
        };
        self.follow_up(plan, order, buyer, total);
        let command = Command::Order(order, OrderCommand::Place(Box::new(place)));
        self.say_keyed(command, Actor::Account(account), "POST", path, key);
        Ok(())
    }

    /// What its buyer, and the shop, do about an order later.
    fn follow_up(&mut self, plan: Plan, order: OrderId, buyer: usize, amount: Money) {
        let pay = |script, amount| Act::Pay {
            order,
            buyer,
            script,
            amount,
        };
        let cancel = |by_shop| Act::Cancel { order, buyer, by_shop };
        match plan {
            Plan::Later => {
                let at = self.in_seconds(15, 480);
                self.note(at, pay("ok", amount));
            }
            Plan::WrongAmount => {
                let at = self.in_seconds(15, 60);
                self.note(at, pay("ok", self.money(amount.minor() + 1_000)));
                self.note(at + 40 * SECOND, pay("ok", amount));
            }
            Plan::CancelUnpaid => {
                let at = self.in_seconds(20, 500);
                self.note(at, cancel(false));
            }
            Plan::ShopCancels => {
                let at = self.in_seconds(120, 500);
                self.note(at, cancel(true));
            }
            Plan::CancelCharged | Plan::CancelAsked => {
                let at = self.in_seconds(2, 4);
                self.note(at, cancel(false));
            }
            Plan::LeftCancelling => {
                self.provider.be_silent(order, i64::MAX);
                self.note(self.now + 3 * SECOND, cancel(false));
            }
            Plan::CancelLate => {
                let at = self.in_seconds(30, 600);
                self.note(at, cancel(false));
            }
            Plan::Silent => {
                self.provider.be_silent(order, i64::MAX);
                self.silent.insert(order, buyer);
            }
            Plan::LeftAsked => self.provider.be_silent(order, i64::MAX),
            Plan::Balance | Plan::Poor | Plan::Card(_) | Plan::Abandoned | Plan::OldPrice | Plan::TooMuch | Plan::LeftUnpaid => {}
        }
    }

    fn payment_key(&mut self, script: &str) -> Result<aggregates::PaymentKey, Failure> {
        let id = self.dice.id().simple().to_string();
        format!("sim_{script}_{}", &id[..16]).parse().map_err(Failure::failed)
    }

    fn pay(&mut self, order: OrderId, buyer: usize, script: &str, amount: Money) -> Result<(), Failure> {
        let submit = OrderCommand::SubmitPayment {
            payment_key: self.payment_key(script)?,
            amount,
            at: Timestamp::from_micros(self.now),
        };
        let path = format!("/api/v1/orders/{order}/payment");
        self.say(Command::Order(order, submit), Actor::Account(self.buyers[buyer].id), "POST", &path);
        Ok(())
    }

    fn cancel(&mut self, order: OrderId, buyer: usize, by_shop: bool) -> Result<(), Failure> {
        let account = self.buyers[buyer].id;
        let by = if by_shop { self.admin } else { account };
        let reason = if by_shop {
            "the buyer asked for it by phone"
        } else {
            *self.dice.pick(&CHANGED_THEIR_MIND)
        };
        let cancel = OrderCommand::RequestCancellation {
            by,
            reason: self.seal(account, reason)?,
            selling: false,
        };
        let path = format!("/api/v1/orders/{order}/cancellation");
        self.say(Command::Order(order, cancel), Actor::Account(by), "POST", &path);
        Ok(())
    }

    /// Orders what is running out: it comes the next morning.
    fn look_at_shelves(&mut self, day: usize) {
        for (good, kept) in GOODS.iter().enumerate() {
            let daily = self.daily(good);
            let Shelf {
                free, ordered, offered, ..
            } = self.shelves[good];
            if !kept.counted || !offered || ordered || free > daily * 3 / 2 {
                continue;
            }
            self.shelves[good].ordered = true;
            let at = self.calendar.at(day + 1, 9, self.dice.between(0, 119));
            let quantity = (daily * 5 / 2).saturating_add(self.dice.between(0, daily)).unsigned_abs();
            self.note(at, Act::Receive { good, quantity });
        }
    }

    fn receive(&mut self, good: usize, quantity: u64) -> Result<(), Failure> {
        self.shelves[good].ordered = false;
        if !self.shelves[good].offered {
            return Ok(());
        }
        let reference = format!("delivery {:06}", self.dice.below(1_000_000));
        let receive = InventoryCommand::Receive {
            quantity: units(i64::try_from(quantity).unwrap_or(i64::MAX))?,
            reference: Some(reference.parse().map_err(Failure::failed)?),
        };
        let path = format!("/api/v1/products/{}/stock/receipts", product(good));
        let seller = Actor::Account(self.sellers[GOODS[good].seller]);
        self.say(Command::Inventory(product(good), receive), seller, "POST", &path);
        Ok(())
    }

    fn change_prices(&mut self) {
        for (number, good) in GOODS.iter().enumerate() {
            if !self.shelves[number].offered || number == UNCOUNTED || !self.dice.percent(30) {
                continue;
            }
            let percent = *self.dice.pick(&[90, 95, 105, 110]);
            let price = (good.price * percent / 100 / 100 * 100).max(1);
            let change = ProductCommand::Change {
                name: None,
                description: None,
                price: Some(self.money(price)),
            };
            let path = format!("/api/v1/products/{}", product(number));
            let seller = Actor::Account(self.sellers[good.seller]);
            self.say(Command::Product(product(number), change), seller, "PATCH", &path);
        }
    }

    fn count_a_shelf(&mut self) -> Result<(), Failure> {
        let good = self.dice.index(SEASONAL);
        if self.shelves[good].free < 5 || !self.dice.percent(40) {
            return Ok(());
        }
        let adjust = InventoryCommand::Adjust {
            delta: *self.dice.pick(&[-2, -1, -1, 1]),
            reason: "the shelf was counted".parse().map_err(Failure::failed)?,
        };
        let path = format!("/api/v1/products/{}/stock/adjustments", product(good));
        let seller = Actor::Account(self.sellers[GOODS[good].seller]);
        self.say(Command::Inventory(product(good), adjust), seller, "POST", &path);
        Ok(())
    }

    /// An operator does something about an order that cannot go on by itself; the provider answers again by then.
    fn look(&mut self, order: OrderId, buyer: usize, how: Handling) -> Result<(), Failure> {
        self.provider.be_silent(order, self.now);
        let (by, account) = (self.admin, self.buyers[buyer].id);
        let (command, verb) = match how {
            Handling::Resume => (OrderCommand::Resume { by }, "resume"),
            Handling::Resolve => {
                let reason = self.seal(account, "it is in the provider's settlement of that day")?;
                let outcome = Resolution::Charged;
                (OrderCommand::Resolve { by, outcome, reason }, "resolve")
            }
            Handling::Compensate => {
                let reason = self.seal(account, "the buyer does not want to wait any more")?;
                (OrderCommand::Compensate { by, reason }, "compensate")
            }
        };
        let path = format!("/api/v1/ops/processes/{order}/{verb}");
        self.say(Command::Order(order, command), Actor::Account(by), "POST", &path);
        Ok(())
    }

    fn register(&mut self, account: AccountId, email: &str, name: &str, phone: Option<&str>, role: Role) -> Result<(), Failure> {
        self.vault.create_subject(account.uuid())?;
        let registration = Registration {
            account,
            email: self.seal(account, email)?,
            name: self.seal(account, name)?,
            phone: phone.map(|phone| self.seal(account, phone)).transpose()?,
            password: self.seal(account, PASSWORD_HASH)?,
            role,
            at: Timestamp::from_micros(self.now),
        };
        let index = EmailIndex::new(self.vault.blind_index(email));
        let actor = if role == Role::Admin { Actor::System } else { Actor::Anonymous };
        self.say(
            Command::Email(index, EmailCommand::Claim { registration }),
            actor,
            "POST",
            "/api/v1/accounts",
        );
        Ok(())
    }

    fn seal(&self, account: AccountId, text: &str) -> Result<Sealed, Failure> {
        Ok(Sealed::new(self.vault.seal(account.uuid(), text)?))
    }

    fn money(&self, minor: i64) -> Money {
        Money::new(minor, self.settings.currency)
    }

    fn say(&mut self, command: Command, actor: Actor, method: &str, path: &str) {
        let key = self.dice.id().to_string();
        self.say_keyed(command, actor, method, path, key);
    }

    /// Sends a request as the API would have sent it.
    fn say_keyed(&mut self, command: Command, actor: Actor, method: &str, path: &str, key: String) {
        let (kind, id) = command.target();
        let scope = actor.to_string();
        let record = self
            .vault
            .fingerprint(&[scope.as_bytes(), method.as_bytes(), path.as_bytes(), key.as_bytes()]);
        let cause = Cause {
            actor,
            correlation: Uuid::new_v8(record),
            traceparent: None,
        };
        let request = Request {
            idempotency: Some(Idempotency {
                fingerprint: self.vault.fingerprint(&[key.as_bytes()]),
                key,
                record: RecordKey(record),
            }),
            ..Request::new(command, cause)
        };
        let shard = self.shards.of(kind.key(id));
        self.inboxes[usize::from(shard)].push(Input::Command((), Box::new(request)));
    }

    // What the engine makes of it.

    /// Steps every core until nothing is to be done now.
    fn carry_out(&mut self, cores: &mut [Core<()>], log: &Log, views: &mut Views) -> Result<(), Failure> {
        loop {
            let mut quiet = true;
            for (shard, core) in (0..).zip(cores.iter_mut()) {
                let inputs = std::mem::take(&mut self.inboxes[usize::from(shard)]);
                let due = core.wake_at().is_some_and(|due| due.micros() <= self.now);
                if inputs.is_empty() && !due {
                    continue;
                }
                quiet = false;
                for output in core.step(Timestamp::from_micros(self.now), inputs) {
                    self.carry_out_one(shard, output, log, views)?;
                }
            }
            if quiet {
                return Ok(());
            }
        }
    }

    fn carry_out_one(&mut self, shard: u16, output: Output<()>, log: &Log, views: &mut Views) -> Result<(), Failure> {
        match output {
            Output::Commit(batch) => {
                log.push(batch)?;
                self.inboxes[usize::from(shard)].push(Input::Committed(Ok(())));
            }
            Output::Call(effect, call) => {
                let (at, outcome) = self.provider.answer(&call, self.now, &mut self.dice)?;
                self.note(at, Act::Answer { shard, effect, outcome });
            }
            Output::Send(message) => {
                let at = self.now + self.dice.between(80, 400);
                self.note(at, Act::Hear(message));
            }
            Output::Publish(events) => {
                for recorded in events.iter() {
                    self.learn(shard, recorded);
                }
                views.push(events);
            }
            Output::Answer((), answer) => check(answer)?,
            Output::Stop { reason } => return Err(Failure::failed(format_args!("the engine has ended: {reason}"))),
        }
        Ok(())
    }

    /// What people see of it.
    fn learn(&mut self, shard: u16, recorded: &Recorded) {
        self.tally.count(recorded);
        match &recorded.event {
            Some(CommerceEvent::Inventory(product, event)) => self.learn_stock(*product, event),
            Some(CommerceEvent::Product(product, event)) => {
                if let (ProductEvent::Changed { price: Some(price), .. }, Some(good)) = (event, good(*product)) {
                    let shelf = &mut self.shelves[good];
                    (shelf.before, shelf.price) = (shelf.price, price.minor());
                }
                for other in self.shards.all().filter(|other| *other != shard) {
                    self.inboxes[usize::from(other)].push(Input::Changed(aggregates::Kind::Product, product.uuid()));
                }
            }
            Some(CommerceEvent::Wallet(account, event)) => {
                let Some(buyer) = self.accounts.get(account) else { return };
                let balance = &mut self.buyers[*buyer].balance;
                match event {
                    WalletEvent::Deposited { amount } | WalletEvent::Credited { amount, .. } => *balance += amount.minor(),
                    WalletEvent::Debited { amount, .. } => *balance -= amount.minor(),
                    WalletEvent::Opened { .. } | WalletEvent::DebitRefused { .. } => {}
                }
            }
            Some(CommerceEvent::Order(order, OrderEvent::AttentionNeeded { .. })) => self.somebody_has_to_look(*order),
            _ => {}
        }
    }

    fn learn_stock(&mut self, product: ProductId, event: &InventoryEvent) {
        let Some(good) = good(product) else { return };
        let change = match event {
            InventoryEvent::Opened {
                stock: Stock::OnHand(units),
                ..
            } => i64::try_from(*units).unwrap_or(i64::MAX),
            InventoryEvent::Received { quantity, .. } => i64::try_from(*quantity).unwrap_or(i64::MAX),
            InventoryEvent::Adjusted { delta, .. } => *delta,
            InventoryEvent::Reserved { quantity, .. } => -i64::from(quantity.get()),
            InventoryEvent::Released { quantity, .. } | InventoryEvent::Expired { quantity, .. } => i64::from(quantity.get()),
            _ => 0,
        };
        self.shelves[good].free = self.shelves[good].free.saturating_add(change);
    }

    /// One of four is left alone: the shop has something to do when it is looked at.
    fn somebody_has_to_look(&mut self, order: OrderId) {
        let Some(buyer) = self.silent.remove(&order) else { return };
        self.looked_at += 1;
        let how = match self.looked_at % 4 {
            1 => return,
            2 => Handling::Resume,
            3 => Handling::Resolve,
            _ => Handling::Compensate,
        };
        let at = self.in_seconds(3_600, 30 * 3_600);
        self.note(at, Act::Look { order, buyer, how });
    }
}

/// A refusal is an answer like any other; no answer at all is not.
fn check(answer: Result<Response, EngineError>) -> Result<(), Failure> {
    answer
        .map(drop)
        .map_err(|error| Failure::failed(format_args!("the engine gives no answer: {error}")))
}

fn product(good: usize) -> ProductId {
    ProductId::new(Uuid::from_u128(NAMESPACE.as_u128() ^ good as u128))
}

fn good(product: ProductId) -> Option<usize> {
    usize::try_from(product.uuid().as_u128() ^ NAMESPACE.as_u128())
        .ok()
        .filter(|good| *good < GOODS.len())
}

fn units(count: i64) -> Result<aggregates::Units, Failure> {
    aggregates::Units::try_from(count).map_err(|_| Failure::failed("a quantity is negative"))
}
