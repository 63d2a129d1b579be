//! The stock of one product: what is on hand, and which orders it is promised to.
//!
//! A reservation ends exactly once: committed (the goods are sold), released, or expired. A held one has no expiry: only its order's
//! process ends it. Always: reserved <= on hand, and received = on hand + sold + written off.

use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};

use crate::{AccountId, Class, Decide, Money, Note, OrderId, Quantity, Reason, Timestamp, Units, aggregate, stored_names};

/// How a product's stock is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stock {
    /// Counted: this much is there at first.
    OnHand(Units),
    /// Not counted: there is always enough (a download, a service).
    Unlimited,
}

/// What an inventory can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InventoryCommand {
    /// Begins to keep stock.
    Open {
        /// Whose it is.
        seller: AccountId,
        /// What there is at first.
        stock: Stock,
    },
    /// Goods came in.
    Receive {
        /// How many.
        quantity: Units,
        /// The delivery note.
        reference: Option<Note>,
    },
    /// The shelf was counted, or goods were lost or found.
    Adjust {
        /// By how many: negative writes off.
        delta: i64,
        /// Why.
        reason: Note,
    },
    /// Promises goods to an order.
    Reserve {
        /// The order.
        order: OrderId,
        /// How many.
        quantity: Quantity,
        /// The price that the order was placed at, if its buyer named one.
        expected: Option<Money>,
        /// The product's price now, filled in by the engine; none when it is not offered any more.
        price: Option<Money>,
        /// When the promise ends by itself; none holds it from the start.
        expires_at: Option<Timestamp>,
    },
    /// Takes the expiry off a reservation: its order is being paid.
    Hold {
        /// The order.
        order: OrderId,
    },
    /// The goods are sold.
    Commit {
        /// The order.
        order: OrderId,
    },
    /// The goods are free again.
    Release {
        /// The order.
        order: OrderId,
    },
    /// The reservation's time may be over: judged here.
    Expire {
        /// The order.
        order: OrderId,
        /// Now.
        at: Timestamp,
    },
}

/// What has happened to an inventory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum InventoryEvent {
    /// Stock is kept from now on.
    #[serde(rename = "inventory.opened")]
    Opened {
        /// Whose it is.
        seller: AccountId,
        /// What there is at first.
        stock: Stock,
    },
    /// Goods came in.
    #[serde(rename = "inventory.received")]
    Received {
        /// How many.
        quantity: Units,
        /// The delivery note.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reference: Option<Note>,
    },
    /// Goods were written off (negative) or found.
    #[serde(rename = "inventory.adjusted")]
    Adjusted {
        /// By how many.
        delta: i64,
        /// Why.
        reason: Note,
    },
    /// Goods are promised to an order, at a locked price.
    #[serde(rename = "inventory.reserved")]
    Reserved {
        /// The order.
        order: OrderId,
        /// How many.
        quantity: Quantity,
        /// For one, whatever the product costs later.
        price: Money,
        /// When the promise ends by itself; none when it is held.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_at: Option<Timestamp>,
    },
    /// Not enough is free: nothing was promised.
    #[serde(rename = "inventory.out_of_stock")]
    OutOfStock {
        /// The order.
        order: OrderId,
        /// How many it wanted.
        quantity: Quantity,
        /// How many were free.
        available: Units,
    },
    /// The product costs something else than the order says: nothing was promised.
    #[serde(rename = "inventory.price_changed")]
    PriceChanged {
        /// The order.
        order: OrderId,
        /// What the order says.
        expected: Money,
        /// What it costs.
        price: Money,
    },
    /// The product is not offered any more: nothing was promised.
    #[serde(rename = "inventory.not_offered")]
    NotOffered {
        /// The order.
        order: OrderId,
    },
    /// The reservation has no expiry any more.
    #[serde(rename = "inventory.held")]
    Held {
        /// The order.
        order: OrderId,
    },
    /// There is no reservation that could be held.
    #[serde(rename = "inventory.not_held")]
    NotHeld {
        /// The order.
        order: OrderId,
    },
    /// There is no reservation that could be sold: it was sold already, or is gone.
    #[serde(rename = "inventory.not_committed")]
    NotCommitted {
        /// The order.
        order: OrderId,
    },
    /// Sold: on hand falls.
    #[serde(rename = "inventory.committed")]
    Committed {
        /// The order.
        order: OrderId,
        /// How many.
        quantity: Quantity,
    },
    /// Free again.
    #[serde(rename = "inventory.released")]
    Released {
        /// The order.
        order: OrderId,
        /// How many.
        quantity: Quantity,
    },
    /// The reservation's time was over: free again.
    #[serde(rename = "inventory.expired")]
    Expired {
        /// The order.
        order: OrderId,
        /// How many.
        quantity: Quantity,
    },
    /// Asked to release what is not reserved (yet): a reservation of this order that comes later is refused.
    #[serde(rename = "inventory.release_noted")]
    ReleaseNoted {
        /// The order.
        order: OrderId,
    },
    /// The release came before the reservation: nothing was promised.
    #[serde(rename = "inventory.reservation_refused")]
    ReservationRefused {
        /// The order.
        order: OrderId,
    },
}

stored_names!(InventoryEvent {
    Opened => "inventory.opened",
    Received => "inventory.received",
    Adjusted => "inventory.adjusted",
    Reserved => "inventory.reserved",
    OutOfStock => "inventory.out_of_stock",
    PriceChanged => "inventory.price_changed",
    NotOffered => "inventory.not_offered",
    Held => "inventory.held",
    NotHeld => "inventory.not_held",
    NotCommitted => "inventory.not_committed",
    Committed => "inventory.committed",
    Released => "inventory.released",
    Expired => "inventory.expired",
    ReleaseNoted => "inventory.release_noted",
    ReservationRefused => "inventory.reservation_refused",
});

/// Why an inventory refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InventoryError {
    /// There is no such product.
    #[error("there is no such product")]
    Unknown,
    /// It is kept already.
    #[error("this product's stock is kept already")]
    Exists,
    /// It is not counted, so it cannot be counted up or down.
    #[error("this product's stock is unlimited")]
    Unlimited,
    /// Nothing would change.
    #[error("the quantity must not be zero")]
    Zero,
    /// Reserved goods cannot be written off.
    #[error("only {available} are free: {on_hand} on hand, {reserved} reserved")]
    BelowReserved {
        /// Free.
        available: Units,
        /// On the shelf.
        on_hand: Units,
        /// Promised.
        reserved: Units,
    },
    /// More than can be counted.
    #[error("there would be more than 9007199254740991 on hand")]
    TooMany,
}

impl Reason for InventoryError {
    fn class(&self) -> Class {
        match self {
            Self::Unknown => Class::Unknown,
            Self::Exists | Self::BelowReserved { .. } => Class::State,
            Self::Unlimited | Self::Zero | Self::TooMany => Class::Rule,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown-product",
            Self::Exists => "inventory-exists",
            Self::Unlimited => "stock-unlimited",
            Self::Zero => "quantity-zero",
            Self::BelowReserved { .. } => "stock-below-reserved",
            Self::TooMany => "stock-too-large",
        }
    }
}

/// What is promised to one order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// How many.
    pub quantity: Quantity,
    /// When it ends by itself; none when it is held.
    pub expires_at: Option<Timestamp>,
}

/// A stock's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    seller: Option<AccountId>,
    unlimited: bool,
    on_hand: Units,
    reserved: Units,
    reservations: OrdMap<OrderId, Reservation>,
    /// Orders whose release came before their reservation.
    released_early: OrdSet<OrderId>,
}

impl Inventory {
    /// Whose stock it is; none before it is opened.
    pub fn seller(&self) -> Option<AccountId> {
        self.seller
    }

    /// Whether it is not counted.
    pub fn unlimited(&self) -> bool {
        self.unlimited
    }

    /// On the shelf.
    pub fn on_hand(&self) -> Units {
        self.on_hand
    }

    /// Of these, promised.
    pub fn reserved(&self) -> Units {
        self.reserved
    }

    /// Free to be promised.
    pub fn available(&self) -> Units {
        self.on_hand.saturating_sub(self.reserved)
    }

    /// What is promised to this order.
    pub fn reservation(&self, order: OrderId) -> Option<&Reservation> {
        self.reservations.get(&order)
    }

    fn reserve(
        &self,
        order: OrderId,
        quantity: Quantity,
        expected: Option<Money>,
        price: Option<Money>,
        expires_at: Option<Timestamp>,
    ) -> Vec<InventoryEvent> {
        if self.reservations.contains_key(&order) {
            return vec![];
        }
        if self.released_early.contains(&order) {
            return vec![InventoryEvent::ReservationRefused { order }];
        }
        let Some(price) = price else {
            return vec![InventoryEvent::NotOffered { order }];
        };
        if let Some(expected) = expected.filter(|expected| *expected != price) {
            return vec![InventoryEvent::PriceChanged { order, expected, price }];
        }
        if !self.unlimited && quantity.units() > self.available() {
            return vec![InventoryEvent::OutOfStock {
                order,
                quantity,
                available: self.available(),
            }];
        }
        vec![InventoryEvent::Reserved {
            order,
            quantity,
            price,
            expires_at,
        }]
    }

    fn adjust(&self, delta: i64, reason: Note) -> Result<Vec<InventoryEvent>, InventoryError> {
        if delta == 0 {
            return Err(InventoryError::Zero);
        }
        let on_hand = self.on_hand.checked_add_signed(delta).filter(|on_hand| *on_hand >= self.reserved);
        match on_hand {
            Some(on_hand) if on_hand <= MOST => Ok(vec![InventoryEvent::Adjusted { delta, reason }]),
            Some(_) => Err(InventoryError::TooMany),
            None if delta > 0 => Err(InventoryError::TooMany),
            None => Err(InventoryError::BelowReserved {
                available: self.available(),
                on_hand: self.on_hand,
                reserved: self.reserved,
            }),
        }
    }

    fn end(&mut self, order: OrderId) -> Units {
        let ended = self
            .reservations
            .remove(&order)
            .map_or(0, |reservation| reservation.quantity.units());
        if !self.unlimited {
            self.reserved = self.reserved.saturating_sub(ended);
        }
        ended
    }
}

/// 2^53-1, what every JSON reader keeps exactly.
const MOST: Units = (1 << 53) - 1;

impl Decide for Inventory {
    fn decide(&self, command: InventoryCommand) -> Result<Vec<InventoryEvent>, InventoryError> {
        use InventoryCommand as Command;
        if let Command::Open { seller, stock } = command {
            return match (self.seller, stock) {
                (Some(_), _) => Err(InventoryError::Exists),
                (None, Stock::OnHand(units)) if units > MOST => Err(InventoryError::TooMany),
                (None, stock) => Ok(vec![InventoryEvent::Opened { seller, stock }]),
            };
        }
        if self.seller.is_none() {
            return match command {
                // A process that asks is always answered by an event.
                Command::Reserve { order, .. } => Ok(vec![InventoryEvent::NotOffered { order }]),
                _ => Err(InventoryError::Unknown),
            };
        }
        match command {
            Command::Open { .. } => Err(InventoryError::Exists),
            Command::Receive { .. } | Command::Adjust { .. } if self.unlimited => Err(InventoryError::Unlimited),
            Command::Receive { quantity: 0, .. } => Err(InventoryError::Zero),
            Command::Receive { quantity, reference } => match self.on_hand.checked_add(quantity) {
                Some(on_hand) if on_hand <= MOST => Ok(vec![InventoryEvent::Received { quantity, reference }]),
                _ => Err(InventoryError::TooMany),
            },
            Command::Adjust { delta, reason } => self.adjust(delta, reason),
            Command::Reserve {
                order,
                quantity,
                expected,
                price,
                expires_at,
            } => Ok(self.reserve(order, quantity, expected, price, expires_at)),
            Command::Hold { order } => Ok(match self.reservations.get(&order) {
                Some(Reservation { expires_at: None, .. }) => vec![],
                Some(_) => vec![InventoryEvent::Held { order }],
                None => vec![InventoryEvent::NotHeld { order }],
            }),
            Command::Commit { order } => Ok(match self.reservations.get(&order) {
                Some(reservation) => vec![InventoryEvent::Committed {
                    order,
                    quantity: reservation.quantity,
                }],
                None => vec![InventoryEvent::NotCommitted { order }],
            }),
            Command::Release { order } => Ok(match self.reservations.get(&order) {
                Some(reservation) => vec![InventoryEvent::Released {
                    order,
                    quantity: reservation.quantity,
                }],
                None if self.released_early.contains(&order) => vec![],
                None => vec![InventoryEvent::ReleaseNoted { order }],
            }),
            Command::Expire { order, at } => Ok(match self.reservations.get(&order) {
                Some(Reservation {
                    quantity,
                    expires_at: Some(due),
                }) if *due <= at => vec![InventoryEvent::Expired {
                    order,
                    quantity: *quantity,
                }],
                _ => vec![],
            }),
        }
    }

    fn evolve(&mut self, event: &InventoryEvent) {
        use InventoryEvent as Event;
        match event {
            Event::Opened { seller, stock } => {
                self.seller = Some(*seller);
                match stock {
                    Stock::OnHand(units) => self.on_hand = *units,
                    Stock::Unlimited => self.unlimited = true,
                }
            }
            Event::Received { quantity, .. } => self.on_hand = self.on_hand.saturating_add(*quantity),
            Event::Adjusted { delta, .. } => self.on_hand = self.on_hand.saturating_add_signed(*delta),
            Event::Reserved {
                order,
                quantity,
                expires_at,
                ..
            } => {
                self.reservations.insert(
                    *order,
                    Reservation {
                        quantity: *quantity,
                        expires_at: *expires_at,
                    },
                );
                if !self.unlimited {
                    self.reserved = self.reserved.saturating_add(quantity.units());
                }
            }
            Event::Held { order } => {
                if let Some(reservation) = self.reservations.get_mut(order) {
                    reservation.expires_at = None;
                }
            }
            Event::Committed { order, .. } => {
                let sold = self.end(*order);
                if !self.unlimited {
                    self.on_hand = self.on_hand.saturating_sub(sold);
                }
            }
            Event::Released { order, .. } | Event::Expired { order, .. } => {
                self.end(*order);
            }
            Event::ReleaseNoted { order } => {
                self.released_early.insert(*order);
            }
            Event::ReservationRefused { order } => {
                self.released_early.remove(order);
            }
            Event::OutOfStock { .. }
            | Event::PriceChanged { .. }
            | Event::NotOffered { .. }
            | Event::NotHeld { .. }
            | Event::NotCommitted { .. } => {}
        }
    }
}

aggregate!(Inventory, "inventory", InventoryCommand, InventoryEvent, InventoryError);
