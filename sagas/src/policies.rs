//! What follows from a single event, whatever happened before.

use aggregates::{
    AccountCommand, Command, CommerceEvent, EmailEvent, InventoryCommand, InventoryEvent, Obstacle, OrderCommand, OrderId, ProductEvent,
    ProductId, WalletCommand,
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

/// What its order is told when a step of a process cannot be done and is set aside as `input`.
pub fn set_aside(order: OrderId, input: Uuid, reason: &str) -> Command {
    let cause = Obstacle::SetAside(input);
    let reason = format!("a step was set aside, because it cannot be done: {reason}");
    Command::Order(order, OrderCommand::NeedAttention { cause, reason })
}

/// What its order is told when its purchase cannot be shown what happened with `event` in another shard.
pub fn not_learnt(order: OrderId, event: Uuid, reason: &str) -> Command {
    let cause = Obstacle::SetAside(event);
    let reason = format!("what happened to its goods or its money cannot be recorded; this is tried again every minute: {reason}");
    Command::Order(order, OrderCommand::NeedAttention { cause, reason })
}

/// Whether this is what an order is told when a step is set aside as `input`.
pub fn is_attention(command: &Command, order: OrderId, input: Uuid) -> bool {
    matches!(
        command,
        Command::Order(to, OrderCommand::NeedAttention { cause: Obstacle::SetAside(set_aside), .. }) if (*to, *set_aside) == (order, input)
    )
}

/// What its order is told when a step that was set aside as `input` is done after all.
pub fn taken_up(order: OrderId, input: Uuid) -> Command {
    let cause = Obstacle::SetAside(input);
    Command::Order(order, OrderCommand::EndAttention { cause })
}

/// The order whose purchase waits for what this command does.
pub fn order_of(command: &Command) -> Option<OrderId> {
    match command {
        Command::Order(order, _) => Some(*order),
        Command::Payment(payment, _) => Some(payment.order()),
        Command::Inventory(
            _,
            InventoryCommand::Reserve { order, .. }
            | InventoryCommand::Hold { order }
            | InventoryCommand::Commit { order }
            | InventoryCommand::Release { order }
            | InventoryCommand::Expire { order, .. },
        )
        | Command::Wallet(_, WalletCommand::Debit { order, .. } | WalletCommand::Credit { order, .. }) => Some(*order),
        Command::Inventory(..)
        | Command::Wallet(..)
        | Command::Product(..)
        | Command::Account(..)
        | Command::Email(..)
        | Command::Session(..) => None,
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
        | InventoryEvent::NotCommitted { .. }
        | InventoryEvent::ReleaseNoted { .. }
        | InventoryEvent::ReservationRefused { .. } => vec![],
    }
}

fn timer(product: ProductId, order: OrderId) -> Uuid {
    Uuid::new_v5(&order.uuid(), product.uuid().as_bytes())
}
