//! What the real binary tells about itself: traces to a collector, figures to the real Prometheus, and log lines that programs can read.

mod shop;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use axum::{extract::Request, middleware::Next};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value},
    trace::v1::{Span, span::SpanKind},
};
use payment_gateway_simulator::Simulator;
use reqwest::Method;
use rusqlite::Connection;
use serde_json::{Value, json};
use shop::{
    BUYER, COFFEE, Client, Pay, Shop, Token,
    client::{fresh_key, payment_key},
    eventually, invariants, order,
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpListener,
    process::Child,
};
use tokio_stream::wrappers::TcpListenerStream;

/// A collector of traces in this process.
#[derive(Clone, Default)]
struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let spans = request.into_inner().resource_spans.into_iter().flat_map(|resource| {
            let resource = resource.scope_spans.into_iter();
            resource.flat_map(|scope| scope.spans)
        });
        self.spans.lock().expect("nobody panics with it").extend(spans);
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start() -> (Self, String) {
        let collector = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        let service = TraceServiceServer::new(collector.clone());
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        (collector, url)
    }

    fn of(&self, trace: &str) -> Vec<Span> {
        let spans = self.spans.lock().expect("nobody panics with it");
        spans.iter().filter(|span| hex(&span.trace_id) == trace).cloned().collect()
    }

    /// The spans of a trace, once these are among them.
    async fn trace(&self, trace: &str, names: &[&str]) -> Vec<Span> {
        eventually(&format!("{names:?} are collected"), async || {
            let spans = self.of(trace);
            let all = names.iter().all(|name| spans.iter().any(|span| span.name == *name));
            all.then_some(spans)
        })
        .await
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let mut named = spans.iter().filter(|span| span.name == name);
    let found = named.next().unwrap_or_else(|| panic!("no span {name} in {:?}", names(spans)));
    assert!(named.next().is_none(), "{name} is there once: {:?}", names(spans));
    found
}

fn names(spans: &[Span]) -> Vec<&str> {
    spans.iter().map(|span| span.name.as_str()).collect()
}

/// What a span says, as text.
fn says(span: &Span, name: &str) -> String {
    let value = |attribute: &KeyValue| match attribute.value.as_ref()?.value.as_ref()? {
        any_value::Value::StringValue(text) => Some(text.clone()),
        any_value::Value::IntValue(number) => Some(number.to_string()),
        any_value::Value::BoolValue(yes) => Some(yes.to_string()),
        _ => None,
    };
    let found = span.attributes.iter().find(|attribute| attribute.key == name);
    found
        .and_then(value)
        .unwrap_or_else(|| panic!("{} says no {name}: {:?}", span.name, span.attributes))
}

/// Demands that one span lies below another, in the tree and in time.
#[track_caller]
fn below(child: &Span, parent: &Span) {
    assert_eq!(
        hex(&child.parent_span_id),
        hex(&parent.span_id),
        "{} is below {}",
        child.name,
        parent.name
    );
    assert!(child.start_time_unix_nano >= parent.start_time_unix_nano, "{}", child.name);
    assert!(child.end_time_unix_nano >= child.start_time_unix_nano, "{}", child.name);
}

/// A trace that its sender has begun: its id, and the header.
fn begun(collected: bool) -> (String, String) {
    let trace = uuid::Uuid::new_v4().simple().to_string();
    let header = format!("00-{trace}-00f067aa0ba902b7-0{}", u8::from(collected));
    (trace, header)
}

async fn place(client: &Client, token: &Token, body: &Value, traceparent: &str) -> String {
    let request = client.command(token, "/api/v1/orders", &fresh_key(), body);
    let answer = Client::send(request.header("traceparent", traceparent)).await;
    answer.expect("the shop answers").expect(202).order_id()
}

/// The simulated provider in this process, and the traces that it was told.
async fn provider(data: &Path) -> (String, Arc<Mutex<Vec<String>>>) {
    std::fs::create_dir_all(data).expect("a directory");
    let simulator = Simulator::open(&data.join("simulator.db")).expect("a ledger");
    let told = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&told);
    let listen = move |request: Request, next: Next| {
        let traceparent = request.headers().get("traceparent").and_then(|value| value.to_str().ok());
        kept.lock().expect("nobody panics with it").extend(traceparent.map(str::to_owned));
        next.run(request)
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    let router = simulator.router().layer(axum::middleware::from_fn(listen));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, told)
}

#[tokio::test]
async fn the_trace_of_a_purchase_leads_from_its_request_to_the_disk_and_to_the_provider() {
    let (collector, endpoint) = Collector::start().await;
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let data = scratch.path().join("data");
    let (provider, told) = provider(&data).await;
    let settings = [
        ("JANGBU_OTLP", endpoint.as_str()),
        ("JANGBU_OTLP_SAMPLING", "0"),
        ("JANGBU_TOSS__URL", provider.as_str()),
        ("JANGBU_LOG", "info,command_api=debug"),
        ("JANGBU_LOG_FORMAT", "json"),
    ];
    let mut shop = Shop::open_in(scratch, data, &settings).await;
    let client = shop.client().clone();
    let buyer = client.log_in(BUYER).await;
    let key = payment_key("ok");
    let (trace, header) = begun(true);
    let bought = place(&client, &buyer, &order(&[(COFFEE, 2)], Pay::Card(&key)), &header).await;
    assert_eq!(client.settled(&buyer, &bought).await.outcome(), "CONFIRMED");

    let wanted = [
        "POST /api/v1/orders",
        "execute order",
        "queue",
        "decide",
        "commit",
        "provider charge",
        "POST",
    ];
    let spans = collector.trace(&trace, &wanted).await;
    let request = named(&spans, "POST /api/v1/orders");
    assert_eq!(
        (request.kind, hex(&request.parent_span_id).as_str()),
        (SpanKind::Server as i32, "00f067aa0ba902b7")
    );
    assert_eq!(says(request, "http.route"), "/api/v1/orders");
    assert_eq!(says(request, "http.response.status_code"), "202");
    let execute = named(&spans, "execute order");
    below(execute, request);
    assert_eq!((says(execute, "outcome").as_str(), says(execute, "id")), ("done", bought.clone()));
    for part in ["queue", "decide", "commit"] {
        below(named(&spans, part), execute);
    }
    let commit = named(&spans, "commit");
    assert!(
        says(commit, "batch.events").parse::<u64>().expect("a number") >= 3,
        "placed, reserved, requested"
    );
    assert!(commit.start_time_unix_nano >= named(&spans, "decide").end_time_unix_nano);
    // Nothing is asked of the provider before it is on the disk.
    let asked = named(&spans, "provider charge");
    below(asked, execute);
    assert!(asked.start_time_unix_nano >= commit.end_time_unix_nano);
    assert_eq!(
        (says(asked, "outcome"), says(asked, "order")),
        ("charged".to_owned(), bought.clone())
    );
    let call = named(&spans, "POST");
    below(call, asked);
    assert_eq!(
        (call.kind, says(call, "http.response.status_code").as_str()),
        (SpanKind::Client as i32, "200")
    );
    let sent_on = format!("00-{trace}-{}-01", hex(&call.span_id));
    assert_eq!(*told.lock().expect("nobody panics with it"), [sent_on]);

    // A question, shown the order's token or not, is a trace of its own sender's.
    let (trace, header) = begun(true);
    let question = json!({ "query": "query ($id: ID!) { order(id: $id) { status } }", "variables": { "id": bought } });
    let request = client.request(Method::POST, "/graphql").bearer_auth(&buyer.0).json(&question);
    Client::send(request.header("traceparent", header))
        .await
        .expect("the shop answers")
        .expect(200);
    let spans = collector.trace(&trace, &["POST /graphql", "reach", "resolve"]).await;
    let asked = named(&spans, "POST /graphql");
    assert_eq!(
        (says(asked, "outcome"), says(asked, "consistency")),
        ("answered".to_owned(), "REACHED".to_owned())
    );
    below(named(&spans, "reach"), asked);
    below(named(&spans, "resolve"), asked);

    // Whoever says that a trace is not collected is heard; nothing else was sampled. The last spans leave with the process.
    let (silent, header) = begun(false);
    place(&client, &buyer, &order(&[(COFFEE, 1)], Pay::Balance), &header).await;
    let (last, header) = begun(true);
    place(&client, &buyer, &order(&[(COFFEE, 1)], Pay::Balance), &header).await;
    shop.stop().await;
    named(&collector.of(&last), "commit");
    assert_eq!(collector.of(&silent).len(), 0);
    let everything = format!("{:?}", collector.spans.lock().expect("nobody panics with it"));
    for secret in invariants::PERSONAL.into_iter().chain([shop::PASSWORD, &key, &buyer.0]) {
        assert!(!everything.contains(secret), "a span tells {secret}");
    }

    // Every line is an object, and those of a request name its trace.
    let output = shop.output();
    let lines: Vec<Value> = output
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    assert!(
        lines
            .iter()
            .all(|line| line["timestamp"].is_string() && line["level"].is_string() && line["target"].is_string())
    );
    let of_it = lines
        .iter()
        .find(|line| line["trace_id"] == last.as_str() && line["message"] == "answered");
    let of_it = of_it.expect("the request's line");
    assert_eq!(of_it["spans"][0]["fields"]["http.route"], "/api/v1/orders");
    assert!(of_it["span_id"].as_str().is_some_and(|id| id.len() == 16));
    assert!(lines.iter().any(|line| line["trace_id"].is_null()));
}

#[tokio::test]
async fn a_collector_that_is_away_costs_one_warning() {
    let nobody = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port")
        .local_addr()
        .expect("its address");
    let endpoint = format!("http://{nobody}");
    let settings = [("JANGBU_OTLP", endpoint.as_str()), ("JANGBU_OTLP_SAMPLING", "1")];
    let mut shop = Shop::open(&settings).await;
    let client = shop.client().clone();
    let buyer = client.log_in(BUYER).await;
    eventually("two batches of spans are lost", async || {
        let bought = client.buy(&buyer, &order(&[(COFFEE, 1)], Pay::Balance)).await;
        assert_eq!(bought.outcome(), "CONFIRMED");
        let lost = value(&figures(&client).await, "jangbu_trace_spans_total{outcome=\"failed\"}");
        (lost >= 30.0).then_some(())
    })
    .await;
    shop.stop().await;
    assert_eq!(
        shop.output().matches("the collector of traces takes none").count(),
        1,
        "{}",
        shop.output()
    );
}

/// What `/metrics` says.
async fn figures(client: &Client) -> String {
    let answer = client.request(Method::GET, "/metrics").send().await.expect("the shop answers");
    answer.text().await.expect("it is text")
}

/// A sample by its name and labels.
fn value(figures: &str, sample: &str) -> f64 {
    let found = figures.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    let found = found.unwrap_or_else(|| panic!("no {sample} in:\n{figures}"));
    found.parse().expect("a number")
}

/// Where the repository is.
fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate is in the repository")
        .to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All that stands in the files of a directory.
fn read_all(path: &str) -> String {
    let files = std::fs::read_dir(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let files = files.map(|file| file.expect("a file").path()).filter(|file| file.is_file());
    files.map(|file| std::fs::read_to_string(&file).expect("text")).collect()
}

/// The figures that a text names.
fn mentioned(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words
        .filter(|word| ["jangbu_", "process_"].iter().any(|ours| word.starts_with(ours)))
        .map(str::to_owned)
        .collect()
}

/// The expressions of a dashboard, wherever they are in it.
fn expressions(dashboard: &Value, into: &mut String) {
    match dashboard {
        Value::Object(members) => {
            for (name, member) in members {
                match member {
                    Value::String(text) if matches!(name.as_str(), "expr" | "query" | "definition") => into.extend([text, "\n"]),
                    member => expressions(member, into),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| expressions(item, into)),
        _ => {}
    }
}

/// The figures that the page documents: name to type.
fn documented() -> BTreeMap<String, String> {
    let page = read("docs/metrics.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let rows = rows.filter_map(|(name, rest)| Some((name, rest.split(" |").next()?)));
    rows.filter(|(name, kind)| !mentioned(name).is_empty() && matches!(*kind, "counter" | "gauge" | "histogram"))
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect()
}

#[tokio::test]
async fn every_figure_that_is_named_somewhere_is_documented_and_there_in_a_shop_that_has_sold() {
    let documented = documented();
    let mut used = read("deploy/prometheus/alerts.yml");
    let dashboards = repository().join("deploy/grafana/dashboards");
    let mut uids = BTreeSet::new();
    for entry in std::fs::read_dir(dashboards).expect("the dashboards") {
        let path = entry.expect("a file").path();
        let dashboard: Value = serde_json::from_slice(&std::fs::read(&path).expect("it can be read")).expect("it is JSON");
        uids.insert(dashboard["uid"].as_str().expect("a uid").to_owned());
        let panels = dashboard["panels"].as_array().expect("panels");
        assert!(
            panels
                .iter()
                .all(|panel| panel["targets"].as_array().is_some_and(|targets| !targets.is_empty()))
        );
        expressions(&dashboard, &mut used);
    }
    assert_eq!(uids.len(), 3, "{uids:?}");
    let kinds = |name: &str| {
        let whole = documented.get(name).map(String::as_str);
        let part = ["_bucket", "_sum", "_count"].into_iter().find_map(|end| name.strip_suffix(end));
        whole.or_else(|| {
            part.and_then(|name| documented.get(name))
                .map(String::as_str)
                .filter(|kind| *kind == "histogram")
        })
    };
    for name in mentioned(&used) {
        assert!(
            kinds(&name).is_some(),
            "{name} is used in a rule or on a dashboard, but docs/metrics.md does not list it"
        );
    }

    let shop = Shop::open(&[]).await;
    let client = shop.client().clone();
    let buyer = client.log_in(BUYER).await;
    for pay in [Pay::Balance, Pay::Card(&payment_key("ok"))] {
        let bought = client.buy(&buyer, &order(&[(COFFEE, 1)], pay)).await;
        client.shown(&buyer, &bought.order_id(), "CONFIRMED").await;
    }
    let scraped = eventually("the first look at the views is there", async || {
        let scraped = figures(&client).await;
        scraped.contains("jangbu_orders_under_way").then_some(scraped)
    })
    .await;
    // Those of other processes: their names stand where they are counted.
    let elsewhere = ["relay/src", "relay/commands/src", "redis-cache/src", "event-store/postgres/src"]
        .map(read_all)
        .concat();
    for (name, kind) in &documented {
        if mentioned(&elsewhere).contains(name) {
            continue;
        }
        let of_this_type = format!("# TYPE {name} {kind}\n");
        assert!(scraped.contains(&of_this_type), "{name} is not in a scrape as a {kind}:\n{scraped}");
    }
    // And nothing is there that the page does not tell of.
    let types = scraped.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    for (name, kind) in types {
        assert_eq!(
            documented.get(name).map(String::as_str),
            Some(kind),
            "{name} is not in docs/metrics.md as a {kind}"
        );
    }
    assert!(value(&scraped, "jangbu_provider_calls_total{call=\"charge\",outcome=\"charged\"}") >= 1.0);
    assert!(value(&scraped, "jangbu_events_total") > 10.0);
    shop.close().await;
}

/// What a program says when it does what it should.
fn says_yes(program: &str, directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program).current_dir(directory).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program} runs (Debian's package prometheus): {error}"));
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}:\n{said}");
    said
}

#[test]
fn prometheus_takes_the_configuration_and_the_rules_do_what_their_tests_say() {
    let directory = repository().join("deploy/prometheus");
    says_yes("promtool", &directory, &["check", "config", "prometheus.yml"]);
    let tested = says_yes("promtool", &directory, &["test", "rules", "alerts.test.yml"]);
    assert!(tested.contains("SUCCESS"), "{tested}");
}

/// The real Prometheus, on this shop and our rules.
struct Prometheus {
    /// Ends with it.
    _child: Child,
    _scratch: tempfile::TempDir,
    address: String,
    http: reqwest::Client,
}

impl Prometheus {
    async fn start(shop: &str) -> Self {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let rules = repository().join("deploy/prometheus/alerts.yml");
        let settings = json!({
            "global": { "scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s" },
            "rule_files": [rules],
            // JSON is YAML.
            "scrape_configs": [{ "job_name": "jangbu", "static_configs": [{ "targets": [shop] }] }],
        });
        let file = scratch.path().join("prometheus.yml");
        std::fs::write(&file, settings.to_string()).expect("it is written");
        let mut child = tokio::process::Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", scratch.path().join("data").display()))
            .arg("--web.listen-address=127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("prometheus runs (Debian's package prometheus)");
        let mut lines = BufReader::new(child.stderr.take().expect("its lines")).lines();
        let address = async {
            while let Some(line) = lines.next_line().await.expect("it is text") {
                if line.contains("Listening on")
                    && let Some((_, address)) = line.rsplit_once("address=")
                {
                    return address.trim().to_owned();
                }
            }
            panic!("it ended by itself")
        };
        let address = tokio::time::timeout(shop::PATIENCE, address)
            .await
            .expect("it says where it listens");
        // What it says later is not read, but must not fill the pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self {
            _child: child,
            _scratch: scratch,
            address,
            http: reqwest::Client::builder().no_proxy().build().expect("a client"),
        }
    }

    async fn ask(&self, path: &str) -> Option<Value> {
        let request = self.http.get(format!("http://{}/api/v1/{path}", self.address));
        let answer: Value = request.send().await.ok()?.json().await.ok()?;
        (answer["status"] == "success").then(|| answer["data"].clone())
    }

    /// The alerts that ring.
    async fn ringing(&self) -> Option<BTreeSet<String>> {
        let alerts = self.ask("alerts").await?;
        let firing = alerts["alerts"].as_array()?.iter().filter(|alert| alert["state"] == "firing");
        Some(
            firing
                .filter_map(|alert| Some(alert["labels"]["alertname"].as_str()?.to_owned()))
                .collect(),
        )
    }
}

/// The first event of the coffee's stock becomes what nobody can read. The shop is down meanwhile.
fn spoil_the_stock(data: &Path) {
    let connection = Connection::open(data.join("log.db")).expect("the log");
    connection
        .execute_batch("DROP TRIGGER events_are_not_updated")
        .expect("it is dropped");
    let spoil = "UPDATE events SET payload = '[]' WHERE aggregate_type = 'inventory' AND aggregate_id = ?1 AND sequence = 1";
    assert_eq!(connection.execute(spoil, [COFFEE]).expect("it is changed"), 1);
    connection.close().expect("it is closed");
}

#[tokio::test]
async fn prometheus_rings_when_an_input_is_set_aside() {
    // In files, where a stock can be spoilt, and in one shard, so that the request itself meets it.
    let settings = [("JANGBU_STORE", "sqlite"), ("JANGBU_VIEWS", "sqlite"), ("JANGBU_SHARDS", "1")];
    let mut shop = Shop::open(&settings).await;
    let client = shop.client().clone();
    let buyer = client.log_in(BUYER).await;
    let bought = client.buy(&buyer, &order(&[(COFFEE, 1)], Pay::Balance)).await;
    assert_eq!(bought.outcome(), "CONFIRMED");
    shop.stop().await;
    spoil_the_stock(shop.data());
    shop.start_again().await;

    let prometheus = Prometheus::start(&client.address()).await;
    eventually("the shop is scraped, and quiet", async || {
        let up = prometheus
            .ask("query?query=jangbu_parked_inputs%20==%200%20and%20on(instance)%20up%20==%201")
            .await?;
        (up["result"].as_array()?.len() == 1).then_some(())
    })
    .await;
    let rules = prometheus.ask("rules").await.expect("its rules");
    let groups = rules["groups"].as_array().expect("groups").iter();
    let rules: Vec<_> = groups.flat_map(|group| group["rules"].as_array().expect("rules").clone()).collect();
    assert!(rules.len() >= 20, "{}", rules.len());
    assert_eq!(prometheus.ringing().await, Some(BTreeSet::new()));

    let request = client.command(&buyer, "/api/v1/orders", &fresh_key(), &order(&[(COFFEE, 1)], Pay::Balance));
    let refused = Client::send(request).await.expect("the shop answers");
    refused.expect_problem(500, "set-aside");
    eventually("it rings", async || {
        prometheus.ringing().await?.contains("JangbuInputParked").then_some(())
    })
    .await;
    let rules = prometheus.ask("rules").await.expect("its rules");
    assert!(
        !rules.to_string().contains("\"health\":\"err\""),
        "every rule can be evaluated: {rules}"
    );
    shop.stop().await;
}
