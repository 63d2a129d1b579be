//! Which calls compete.

use clap::ValueEnum;

/// Two calls that compete, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Pair {
    /// Orders of several buyers for the last units.
    #[value(name = "order/order-last-unit")]
    LastUnit,
    /// Orders of one buyer whose balance pays only some of them.
    #[value(name = "order/order-last-credit")]
    LastCredit,
    /// The same order again and again under one Idempotency-Key.
    #[value(name = "order/order-same-key")]
    SameKey,
    /// Different orders under one Idempotency-Key.
    #[value(name = "order/order-other-body")]
    OtherBody,
    /// An order for units that a cancellation sets free.
    #[value(name = "order/cancel")]
    OrderCancel,
    /// Payments of one order with the same payment key.
    #[value(name = "pay/pay")]
    PayPay,
    /// Payments of one order with different payment keys.
    #[value(name = "pay/pay-other-key")]
    PayOtherKey,
    /// The same payment again and again under one Idempotency-Key.
    #[value(name = "pay/pay-repeat")]
    PayRepeat,
    /// Payment and cancellation of one order.
    #[value(name = "pay/cancel")]
    PayCancel,
    /// Cancellations by buyer and administrator, of one order or of several of the same product.
    #[value(name = "cancel/cancel")]
    CancelCancel,
    /// A deposit, and an order that needs it or takes from the same balance.
    #[value(name = "deposit/order")]
    DepositOrder,
    /// The same deposit again and again under one Idempotency-Key.
    #[value(name = "deposit/deposit")]
    DepositDeposit,
    /// A new price, and an order at the old one.
    #[value(name = "price/order")]
    PriceOrder,
    /// A write-off, and an order for the same units.
    #[value(name = "adjustment/order")]
    AdjustmentOrder,
    /// A product leaves the shelf while it is ordered.
    #[value(name = "retire/order")]
    RetireOrder,
    /// Goods come in while they are ordered.
    #[value(name = "receipt/order")]
    ReceiptOrder,
}

impl Pair {
    /// As it is written on the command line.
    pub(super) fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Which of the two must have come first, by whether an order was confirmed; none where both may.
    pub(super) fn first(self, confirmed: bool) -> Option<Side> {
        let confirms = match self {
            Self::PayCancel | Self::DepositOrder | Self::ReceiptOrder => Side::One,
            Self::OrderCancel | Self::PriceOrder | Self::AdjustmentOrder | Self::RetireOrder => Side::Other,
            _ => return None,
        };
        Some(if confirmed { confirms } else { confirms.opposite() })
    }
}

/// One of the two calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    One,
    Other,
}

impl Side {
    /// The sides take turns.
    pub(super) fn of(number: usize) -> Self {
        if number.is_multiple_of(2) { Self::One } else { Self::Other }
    }

    fn opposite(self) -> Self {
        match self {
            Self::One => Self::Other,
            Self::Other => Self::One,
        }
    }
}
