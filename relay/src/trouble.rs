//! What stands in the way of a thread of the relay, and on which side.

use event_store::StoreError;

use crate::KafkaError;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    #[error("{0}")]
    Log(#[from] StoreError),
    #[error("{0}")]
    Kafka(#[from] KafkaError),
}

impl From<rdkafka::error::KafkaError> for Trouble {
    fn from(cause: rdkafka::error::KafkaError) -> Self {
        Self::Kafka(cause.into())
    }
}
