//! What follows from a single event, whatever happened before.

use aggregates::{
    AccountCommand, Command, CommerceEvent, EmailEvent, InventoryCommand, InventoryEvent, OrderId, ProductEvent, ProductId, WalletCommand,
};
use uuid::Uuid;

use crate::{Ask, Settings};

/// What follows from `event` alone.
pub fn policies(event: &CommerceEvent, settings: &Settings) -> Vec<Ask> {
    match event {
        // A claimed address opens its account, and the account's wallet.
        CommerceEvent::Email(index, EmailEvent::Claimed { registration }) => vec![
            Ask::Tell(Command::Account(
                registration.account,
                AccountCommand::Open {
                    index: *index,
                    registration: registration.clone(),
                },
            )),
            Ask::Tell(Command::Wallet(
                registration.account,
                WalletCommand::Open {
                    currency: settings.currency,
                },
            )),
        ],
        // A product's stock is kept from its first day.
        CommerceEvent::Product(id, ProductEvent::Created { seller, stock, .. }) => {
            vec![Ask::Tell(Command::Inventory(
                *id,
                InventoryCommand::Open {
                    seller: *seller,
                    stock: *stock,
                },
            ))]
        }
        CommerceEvent::Inventory(id, event) => reservation_expiry(*id, event),
        _ => vec![],
    }
}

/// A reservation with an expiry has a timer of its own, from its first moment to its last.
fn reservation_expiry(product: ProductId, event: &InventoryEvent) -> Vec<Ask> {
    match event {
        InventoryEvent::Reserved {
            order,
            expires_at: Some(due),
            ..
        } => {
            let command = Command::Inventory(product, InventoryCommand::Expire { order: *order, at: *due });
            vec![Ask::SetTimer {
                id: timer(product, *order),
                due: *due,
                command,
            }]
        }
        InventoryEvent::Held { order }
        | InventoryEvent::Committed { order, .. }
        | InventoryEvent::Released { order, .. }
        | InventoryEvent::Expired { order, .. } => vec![Ask::CancelTimer {
            id: timer(product, *order),
        }],
        InventoryEvent::Reserved { expires_at: None, .. }
        | InventoryEvent::Opened { .. }
        | InventoryEvent::Received { .. }
        | InventoryEvent::Adjusted { .. }
        | InventoryEvent::OutOfStock { .. }
        | InventoryEvent::PriceChanged { .. }
        | InventoryEvent::NotOffered { .. }
        | InventoryEvent::NotHeld { .. }
        | InventoryEvent::ReleaseNoted { .. }
        | InventoryEvent::ReservationRefused { .. } => vec![],
    }
}

fn timer(product: ProductId, order: OrderId) -> Uuid {
    Uuid::new_v5(&order.uuid(), product.uuid().as_bytes())
}
