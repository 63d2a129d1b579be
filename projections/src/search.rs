//! Text as it is searched for, and what is found by it.

use aggregates::OrderStatus;
use unicode_normalization::UnicodeNormalization;

use crate::{OrderView, ProductView};

/// Composed, in lower case. Not every store's text has a NUL: a character that is none stands for it, here and in what is searched for.
pub fn searchable(text: &str) -> String {
    let text = text.nfc().collect::<String>().to_lowercase();
    if text.contains('\0') {
        text.replace('\0', "\u{ffff}")
    } else {
        text
    }
}

/// What an order is found by besides its number.
pub fn names_of_order(order: &OrderView) -> String {
    let mut names = String::new();
    for line in order.lines.iter() {
        names.push_str(&searchable(line.name.as_str()));
        names.push('\n');
    }
    names
}

/// What a product is found by.
pub fn names_of_product(product: &ProductView) -> String {
    let description = product.description.as_ref().map_or("", |text| text.as_str());
    searchable(&format!("{}\n{}\n{description}", product.name, product.sku))
}

/// Whether an order is one of the few that an index by status holds.
pub fn under_way(status: OrderStatus) -> bool {
    match status {
        OrderStatus::Placed
        | OrderStatus::AwaitingPayment
        | OrderStatus::PaymentPending
        | OrderStatus::PreparingShipment
        | OrderStatus::Shipped
        | OrderStatus::Cancelling
        | OrderStatus::NeedsAttention => true,
        OrderStatus::Confirmed | OrderStatus::Delivered | OrderStatus::Cancelled | OrderStatus::Refunded => false,
    }
}
