//! Values: what exists is right. Raw text and numbers become one of these at the edge, or an error that says why not.

mod ids;
mod money;
mod quantity;
mod text;
mod time;

pub use ids::{AccountId, EmailIndex, OrderId, PaymentId, ProductId, SessionId, TrackingId};
pub use money::{Currency, Money, MoneyError};
pub use quantity::{Quantity, QuantityError, Units};
pub use text::{Description, Email, Name, Note, OrderNumber, PaymentKey, PersonName, Phone, Sealed, Sku, TextError};
pub use time::Timestamp;
