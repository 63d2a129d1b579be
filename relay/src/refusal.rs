//! What a refusal of Kafka's is about: a record, a topic, or everything.

use rdkafka::error::RDKafkaErrorCode as Code;

/// Whose fault it is that a record was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    /// The size of a record, or of those that are sent together.
    Size,
    /// The record itself, or one of those that were sent together with it.
    Record,
    /// The topic takes nothing from us.
    Topic,
    /// The brokers, the connection, the producer: what other records meet, too.
    Everything,
    /// Another record of the same producer: this one was only given back.
    Another,
}

impl Blame {
    pub(crate) const fn of(code: Option<Code>) -> Self {
        match code {
            Some(Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize) => Self::Size,
            // A broker that says no more than that it cannot.
            Some(Code::InvalidRecord | Code::Unknown) => Self::Record,
            Some(
                Code::TopicAuthorizationFailed
                | Code::InvalidTopic
                | Code::InvalidTimestamp
                | Code::PolicyViolation
                | Code::UnsupportedForMessageFormat,
            ) => Self::Topic,
            Some(Code::InvalidDifferentRecord | Code::PurgeQueue | Code::PurgeInflight | Code::Fatal | Code::GaplessGuarantee) => {
                Self::Another
            }
            _ => Self::Everything,
        }
    }
}
