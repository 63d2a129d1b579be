//! The server's own figures, read from `/metrics` before and after the load.

use anyhow::ensure;

use crate::client::http::{Address, Call};

/// The samples of one reading: name, labels, value.
pub(super) struct Metrics {
    samples: Vec<Sample>,
}

#[derive(Debug, PartialEq)]
struct Sample {
    name: String,
    labels: String,
    value: f64,
}

impl Sample {
    /// The value of a label. Those asked for here hold numbers, so nothing is escaped in them.
    fn label(&self, name: &str) -> Option<&str> {
        let labels = self.labels.split(',').filter_map(|label| label.split_once('='));
        labels
            .into_iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value.trim_matches('"'))
    }
}

/// Reads them.
pub(super) async fn read(address: &Address) -> anyhow::Result<Metrics> {
    let (status, body) = Call::get("/metrics").send(address).await?;
    ensure!(
        status == 200,
        "GET /metrics was answered {status}: the bench needs the server's metrics on the address it serves"
    );
    Ok(Metrics::parse(&String::from_utf8_lossy(&body)))
}

impl Metrics {
    /// Prometheus' text; lines that are none are passed over.
    fn parse(text: &str) -> Self {
        Self {
            samples: text.lines().filter_map(sample).collect(),
        }
    }

    /// The sum of all samples of this name, none when there is none.
    pub(super) fn value(&self, name: &str) -> Option<f64> {
        let mut values = self
            .samples
            .iter()
            .filter(|sample| sample.name == name)
            .map(|sample| sample.value)
            .peekable();
        values.peek()?;
        Some(values.sum())
    }

    /// Events recorded since the server started.
    pub(super) fn events(&self) -> f64 {
        self.value("jangbu_events_total").unwrap_or(0.0)
    }

    /// Commits since the server started.
    pub(super) fn commits(&self) -> f64 {
        self.value("jangbu_commits_total").unwrap_or(0.0)
    }

    /// How far the views have come, over all shards.
    pub(super) fn shown(&self) -> f64 {
        self.value("jangbu_projection_position").unwrap_or(0.0)
    }

    /// The buckets of a histogram: upper bound and how many are at or below it.
    fn buckets(&self, histogram: &str) -> Vec<Bucket> {
        let name = format!("{histogram}_bucket");
        let mut buckets: Vec<Bucket> = Vec::new();
        for sample in self.samples.iter().filter(|sample| sample.name == name) {
            let Some(bound) = sample.label("le").and_then(number) else {
                continue;
            };
            match buckets.iter_mut().find(|bucket| bucket.bound.total_cmp(&bound).is_eq()) {
                Some(bucket) => bucket.count += sample.value,
                None => buckets.push(Bucket {
                    bound,
                    count: sample.value,
                }),
            }
        }
        buckets.sort_by(|one, other| one.bound.total_cmp(&other.bound));
        buckets
    }
}

/// Whether nothing was recorded or shown between two readings.
pub(super) fn stood_still(one: &Metrics, next: &Metrics) -> bool {
    one.events().total_cmp(&next.events()).is_eq() && one.shown().total_cmp(&next.shown()).is_eq()
}

/// A quantile of what a histogram counted between two readings, as exact as its buckets are.
pub(super) fn quantile(before: &Metrics, after: &Metrics, histogram: &str, quantile: f64) -> Option<f64> {
    let before = before.buckets(histogram);
    let mut buckets = after.buckets(histogram);
    for bucket in &mut buckets {
        let same = before.iter().find(|earlier| earlier.bound.total_cmp(&bucket.bound).is_eq());
        bucket.count -= same.map_or(0.0, |same| same.count);
    }
    within(&buckets, quantile)
}

#[derive(Debug, PartialEq)]
struct Bucket {
    bound: f64,
    count: f64,
}

/// As Prometheus' `histogram_quantile`: evenly spread within a bucket, and the last finite bound for what lies beyond it.
fn within(buckets: &[Bucket], quantile: f64) -> Option<f64> {
    let total = buckets.last()?.count;
    if total <= 0.0 {
        return None;
    }
    let rank = quantile * total;
    let (mut lower, mut below) = (0.0, 0.0);
    for bucket in buckets {
        if bucket.bound.is_infinite() {
            return Some(lower);
        }
        if bucket.count >= rank {
            let share = if bucket.count > below {
                (rank - below) / (bucket.count - below)
            } else {
                1.0
            };
            return Some(lower + (bucket.bound - lower) * share);
        }
        (lower, below) = (bucket.bound, bucket.count);
    }
    Some(lower)
}

fn sample(line: &str) -> Option<Sample> {
    if line.starts_with('#') {
        return None;
    }
    // A label's value may hold spaces, what follows the labels does not.
    let (series, rest) = match line.rsplit_once('}') {
        Some((series, rest)) => (series, rest),
        None => line.split_once(' ')?,
    };
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    let value = number(rest.split_ascii_whitespace().next()?)?;
    Some(Sample {
        name: name.to_owned(),
        labels: labels.to_owned(),
        value,
    })
}

fn number(text: &str) -> Option<f64> {
    // Rust reads "+Inf" as well.
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP jangbu_events_total recorded\n# TYPE jangbu_events_total counter\njangbu_events_total 1300\n\n\
        jangbu_projection_position{shard=\"0\"} 1000\njangbu_projection_position{shard=\"1\"} 300 1700000000\n\
        other{path=\"/a b\"} 1\nbroken\nbroken NaN-ish\n\
        lag_bucket{le=\"0.01\"} 50\nlag_bucket{le=\"0.1\"} 100\nlag_bucket{le=\"+Inf\"} 100\nlag_sum 3\nlag_count 100\n";

    #[test]
    fn samples_of_one_name_add_up() {
        let metrics = Metrics::parse(TEXT);
        assert_eq!(metrics.value("jangbu_events_total"), Some(1300.0));
        assert_eq!(metrics.value("jangbu_projection_position"), Some(1300.0));
        assert_eq!(metrics.value("other"), Some(1.0));
        assert_eq!(metrics.value("jangbu_commits_total"), None);
        assert_eq!(metrics.value("broken"), None);
    }

    fn close(one: Option<f64>, other: f64) -> bool {
        one.is_some_and(|one| (one - other).abs() < 1e-9)
    }

    #[test]
    fn a_quantile_lies_within_its_bucket() {
        let (none, all) = (Metrics::parse(""), Metrics::parse(TEXT));
        assert!(close(quantile(&none, &all, "lag", 0.5), 0.01));
        assert!(close(quantile(&none, &all, "lag", 0.25), 0.005));
        assert!(close(quantile(&none, &all, "lag", 0.75), 0.055));
        assert!(close(quantile(&none, &all, "lag", 1.0), 0.1));
    }

    #[test]
    fn only_what_was_counted_between_the_readings_counts() {
        let before = Metrics::parse("lag_bucket{le=\"0.01\"} 50\nlag_bucket{le=\"0.1\"} 50\nlag_bucket{le=\"+Inf\"} 50\n");
        assert!(close(quantile(&before, &Metrics::parse(TEXT), "lag", 0.5), 0.055));
        assert_eq!(quantile(&before, &before, "lag", 0.5), None);
        assert_eq!(quantile(&before, &before, "nothing", 0.5), None);
    }

    #[test]
    fn beyond_the_last_bound_the_last_bound_is_all_that_is_known() {
        let after = Metrics::parse("lag_bucket{shard=\"0\",le=\"0.1\"} 1\nlag_bucket{shard=\"0\",le=\"+Inf\"} 10\n");
        assert!(close(quantile(&Metrics::parse(""), &after, "lag", 0.99), 0.1));
    }

    #[test]
    fn buckets_of_several_shards_add_up() {
        let text = "lag_bucket{shard=\"0\",le=\"1\"} 10\nlag_bucket{shard=\"0\",le=\"+Inf\"} 10\n\
                    lag_bucket{shard=\"1\",le=\"1\"} 30\nlag_bucket{shard=\"1\",le=\"+Inf\"} 30\n";
        let buckets = Metrics::parse(text).buckets("lag");
        assert_eq!(
            buckets,
            [
                Bucket { bound: 1.0, count: 40.0 },
                Bucket {
                    bound: f64::INFINITY,
                    count: 40.0
                }
            ]
        );
    }
}
