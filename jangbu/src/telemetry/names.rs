//! Every figure by name, with what it means: `/metrics` says so too, and `docs/metrics.md` lists the same.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

enum Kind {
    Counter,
    Gauge,
    Histogram,
}

use Kind::{Counter, Gauge, Histogram};

const NAMES: [(&str, Kind, &str); 51] = [
    ("jangbu_http_requests_total", Counter, "Requests that were answered."),
    (
        "jangbu_http_request_duration_seconds",
        Histogram,
        "From the first line of a request to its answer.",
    ),
    ("jangbu_http_requests_in_flight", Gauge, "Requests without an answer."),
    ("jangbu_http_connections", Gauge, "Open connections."),
    ("jangbu_graphql_requests_total", Counter, "Questions in GraphQL."),
    ("jangbu_graphql_request_seconds", Histogram, "How long a question took."),
    (
        "jangbu_graphql_consistency_total",
        Counter,
        "Questions by whether the views showed what their token asked for.",
    ),
    (
        "jangbu_graphql_consistency_wait_seconds",
        Histogram,
        "How long a question waited for the views to reach its token.",
    ),
    (
        "jangbu_rate_limited_total",
        Counter,
        "Requests, commands and questions, that were turned away because their sender had sent too many.",
    ),
    (
        "jangbu_redis_connected",
        Gauge,
        "1 while Redis is asked, 0 while it is gone, failing or too slow.",
    ),
    (
        "jangbu_redis_calls_total",
        Counter,
        "Questions to Redis by how they ended: skipped was not asked, because it is not connected or too many wait.",
    ),
    (
        "jangbu_redis_writes_dropped_total",
        Counter,
        "Values that were not kept in Redis because too many waited for it.",
    ),
    (
        "jangbu_cache_requests_total",
        Counter,
        "Values that were looked for in Redis: disbelieved was changed, misplaced or too old.",
    ),
    (
        "jangbu_engine_queue_depth",
        Gauge,
        "Requests that have a place in the engine and no answer.",
    ),
    ("jangbu_engine_watchers", Gauge, "Requests that wait for an aggregate to change."),
    (
        "jangbu_engine_unanswered",
        Gauge,
        "Calls of the provider and messages to other shards that have no answer.",
    ),
    (
        "jangbu_engine_rejected_total",
        Counter,
        "Requests that were turned away because too much waits.",
    ),
    (
        "jangbu_engine_turn_seconds",
        Histogram,
        "How long the core of a shard decided in one turn.",
    ),
    ("jangbu_engine_turn_inputs", Histogram, "Inputs that came to one turn."),
    (
        "jangbu_engine_batch_seconds",
        Histogram,
        "From giving a shard's batch out to knowing it durable.",
    ),
    ("jangbu_commits_total", Counter, "Transactions of the log that were written."),
    ("jangbu_commit_seconds", Histogram, "How long the store took for a transaction."),
    (
        "jangbu_commit_events",
        Histogram,
        "Events of a transaction: the size of a batch, over the shards that wrote together.",
    ),
    ("jangbu_events_total", Counter, "Events that were recorded."),
    ("jangbu_commit_failures_total", Counter, "Batches that were not written, by why."),
    (
        "jangbu_postgres_reconnects_total",
        Counter,
        "Times the writer of a log on PostgreSQL had to connect again.",
    ),
    ("jangbu_orders_under_way", Gauge, "Orders whose purchase has not come to its end."),
    (
        "jangbu_orders_under_way_oldest_seconds",
        Gauge,
        "How long the one stands there that stands there longest; 0 without any.",
    ),
    (
        "jangbu_payments_unknown",
        Gauge,
        "Payments of which nobody knows whether the provider took the money.",
    ),
    (
        "jangbu_payments_unknown_oldest_seconds",
        Gauge,
        "How long ago the provider was first asked for the oldest of these; 0 without any.",
    ),
    (
        "jangbu_parked_inputs",
        Gauge,
        "Inputs that are set aside because they could not be processed.",
    ),
    (
        "jangbu_parked_oldest_seconds",
        Gauge,
        "How long ago the oldest of these was set aside; 0 without any.",
    ),
    ("jangbu_provider_calls_total", Counter, "Calls that came to an end."),
    (
        "jangbu_provider_call_seconds",
        Histogram,
        "How long a call took, or until it was given up.",
    ),
    ("jangbu_provider_calls_under_way", Gauge, "Calls without an answer."),
    ("jangbu_projection_position", Gauge, "The last event that counts."),
    (
        "jangbu_projection_behind_events",
        Gauge,
        "Events of the log that the views have heard of and do not count yet.",
    ),
    (
        "jangbu_projection_lag_seconds",
        Histogram,
        "From recording an event to its counting in the views.",
    ),
    (
        "jangbu_projection_batch_events",
        Histogram,
        "Events that were counted in one transaction.",
    ),
    ("jangbu_projection_events_total", Counter, "Events that were counted."),
    (
        "jangbu_projection_stalled",
        Gauge,
        "1 while an event cannot be counted and its shard's views stand still.",
    ),
    (
        "jangbu_projection_stalls_total",
        Counter,
        "Times that an event could not be counted.",
    ),
    (
        "jangbu_projection_tail_dropped_total",
        Counter,
        "Events that found no room on the short way to the views, which read them from the log.",
    ),
    ("jangbu_build_info", Gauge, "1, with the version in its label."),
    ("jangbu_ready", Gauge, "1 while `/readyz` says ready."),
    ("jangbu_data_free_bytes", Gauge, "Room on the disk of the data directory."),
    (
        "jangbu_transport_sent_total",
        Counter,
        "Questions, answers and messages that this process has given to Kafka.",
    ),
    (
        "jangbu_transport_expired_total",
        Counter,
        "Questions that came when nobody waited for their answer any more: clocks that differ show here.",
    ),
    (
        "jangbu_transport_skipped_total",
        Counter,
        "Records that could not be read, or are of another log.",
    ),
    (
        "jangbu_transport_lost_total",
        Counter,
        "Those that Kafka did not take in time: they are sent again by whoever owes them or waits for them.",
    ),
    (
        "jangbu_trace_spans_total",
        Counter,
        "Spans for the collector of traces: dropped found the queue full, failed found nobody there.",
    ),
];

/// Says what they mean to whoever reads `/metrics`.
pub(super) fn describe() {
    for (name, kind, meaning) in NAMES {
        let unit = if name.ends_with("_seconds") { Unit::Seconds } else { Unit::Count };
        match kind {
            Counter => describe_counter!(name, unit, meaning),
            Gauge => describe_gauge!(name, unit, meaning),
            Histogram => describe_histogram!(name, unit, meaning),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows of the tables in the document: name, type and meaning.
    fn documented() -> Vec<(String, String, String)> {
        let document = include_str!("../../../docs/metrics.md");
        let rows = document.lines().filter(|line| line.starts_with("| `jangbu_"));
        let rows = rows.map(|line| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>());
        rows.map(|cells| match cells[..] {
            [name, kind, _, meaning] => (name.trim_matches('`').to_owned(), kind.to_owned(), meaning.to_owned()),
            _ => panic!("not a row of four: {cells:?}"),
        })
        .collect()
    }

    #[test]
    fn the_document_lists_every_figure_as_it_is() {
        let mut documented = documented();
        // Kafka's are described by the relay.
        documented.retain(|(name, ..)| !name.starts_with("jangbu_relay_"));
        let mut described: Vec<_> = NAMES
            .iter()
            .map(|(name, kind, meaning)| {
                let kind = match kind {
                    Counter => "counter",
                    Gauge => "gauge",
                    Histogram => "histogram",
                };
                ((*name).to_owned(), kind.to_owned(), (*meaning).to_owned())
            })
            .collect();
        documented.sort();
        described.sort();
        assert_eq!(documented, described);
    }
}
