//! The entry of the shop, as `deploy/haproxy` has it: the real one before processes that a test makes ready, unready and dead.

mod names;
mod process;

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

use names::Names;
use process::{HELD, Process};
use test_servers::Haproxy;

const PATIENCE: Duration = Duration::from_secs(30);
const SHOP: &str = "https://shop.example";
const KEYED: &str = "Idempotency-Key: 7f6c\r\n";

/// The entry and two processes of each role.
struct Shop {
    commands: [Process; 2],
    questions: [Process; 2],
    entry: Haproxy,
}

impl Shop {
    fn open() -> Self {
        let commands = ["command1", "command2"].map(Process::start);
        let questions = ["question1", "question2"].map(Process::start);
        let addresses = |processes: &[Process; 2]| processes.each_ref().map(Process::address);
        let entry = Haproxy::start_for(&addresses(&commands), &addresses(&questions), &[SHOP, "https://admin.example"]);
        Self {
            commands,
            questions,
            entry,
        }
    }

    fn ask(&self, method: &str, path: &str) -> Answer {
        self.ask_with(method, path, "", b"")
    }

    fn ask_with(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        ask(self.entry.address(), method, path, headers, body).expect("an answer")
    }
}

/// What came back.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    /// The process that answered, in the first word.
    fn by(&self) -> &str {
        self.body.split(' ').next().unwrap_or_default()
    }
}

/// A request on a connection of its own; none when the connection broke.
fn ask(address: SocketAddr, method: &str, path: &str, headers: &str, body: &[u8]) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.set_nodelay(true).ok()?;
    let length = if body.is_empty() {
        String::new()
    } else {
        format!("Content-Length: {}\r\n", body.len())
    };
    let head = format!("{method} {path} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n{headers}{length}\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    // Whoever refuses a body may do so before all of it was sent.
    let _ = stream.write_all(body);
    let mut answer = vec![];
    let mut bytes = [0; 4096];
    while let Ok(length) = stream.read(&mut bytes)
        && length > 0
    {
        answer.extend_from_slice(&bytes[..length]);
    }
    let text = String::from_utf8(answer).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some(Answer {
        status: head.split(' ').nth(1)?.parse().ok()?,
        head: head.to_owned(),
        body: body.to_owned(),
    })
}

/// Whether it comes to be so while one may wait.
fn eventually(so: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    while !so() {
        if start.elapsed() > PATIENCE {
            return false;
        }
        thread::yield_now();
    }
    true
}

/// The process that holds a request, and the other one.
fn holding(processes: &[Process; 2]) -> [&Process; 2] {
    assert!(
        eventually(|| processes.iter().any(|process| process.held() > 0)),
        "nobody holds the request"
    );
    let [first, second] = processes;
    if first.held() > 0 { [first, second] } else { [second, first] }
}

#[test]
fn a_path_leads_to_its_role_and_what_is_not_named_stays_inside() {
    let shop = Shop::open();
    let of_commands = [
        "/",
        "/api/v1/orders",
        "/.well-known/jwks.json",
        "/docs",
        "/docs/swagger-ui.css",
        "/openapi.json",
        "/problems/not-found",
        "/webhooks/toss",
    ];
    for path in of_commands {
        let answer = shop.ask("GET", path);
        assert!(answer.status == 200 && answer.by().starts_with("command"), "{path}: {answer:?}");
        assert_eq!(answer.header("X-Content-Type-Options"), Some("nosniff"), "{path}");
        assert_eq!(answer.header("Server"), None, "{path}");
    }
    for path in ["/graphql", "/graphql?query=%7Bme%7Bid%7D%7D", "/graphql/stream", "/graphiql"] {
        let answer = shop.ask("GET", path);
        assert!(answer.status == 200 && answer.by().starts_with("question"), "{path}: {answer:?}");
    }
    for path in ["/metrics", "/simulator/v1/ledger", "/graphqlx", "/api/v2/orders", "/stats"] {
        let answer = shop.ask("GET", path);
        assert_eq!(answer.status, 404, "{path}: {answer:?}");
        assert_eq!(answer.header("Content-Type"), Some("application/problem+json"), "{path}");
        assert!(answer.body.contains(r#""code":"not-found""#), "{path}: {answer:?}");
    }
    let served = |processes: &[Process; 2]| processes.iter().map(Process::answered).sum::<usize>();
    assert_eq!((served(&shop.commands), served(&shop.questions)), (of_commands.len(), 4));
}

#[test]
fn both_processes_of_a_role_get_their_share() {
    let shop = Shop::open();
    for _ in 0..40 {
        assert_eq!(shop.ask("GET", "/api/v1/orders").status, 200);
        assert_eq!(shop.ask("POST", "/graphql").status, 200);
    }
    for process in shop.commands.iter().chain(&shop.questions) {
        assert!(process.answered() >= 10, "{}", process.answered());
    }
}

#[test]
fn a_process_that_is_not_ready_finishes_what_it_has_and_gets_nothing_new() {
    let shop = Shop::open();
    shop.entry.wait_until_up("command-api", 2);
    let entry = shop.entry.address();
    let waiting = thread::spawn(move || ask(entry, "POST", HELD, "", b"{}"));
    let [leaving, staying] = holding(&shop.commands);
    leaving.set_ready(false);
    shop.entry.wait_until_up("command-api", 1);
    let before = leaving.answered();
    for _ in 0..50 {
        assert_eq!(shop.ask("POST", "/api/v1/orders").status, 200);
    }
    assert_eq!((leaving.answered(), staying.answered()), (before, 50));
    leaving.release();
    let answer = waiting.join().expect("it ends").expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    // And it comes back as soon as it says so.
    leaving.set_ready(true);
    shop.entry.wait_until_up("command-api", 2);
}

/// Whether those who ask without end are to stop.
#[derive(Default)]
struct Over(AtomicBool);

/// Says so, also when the test fails.
struct End<'a>(&'a Over);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.0.store(true, SeqCst);
    }
}

#[test]
fn no_request_fails_while_one_process_of_each_role_is_killed_and_started_again() {
    let mut shop = Shop::open();
    shop.entry.wait_until_up("command-api", 2);
    let entry = shop.entry.address();
    let over = Over::default();
    let failed = thread::scope(|scope| {
        let asking = [
            ("POST", "/api/v1/orders", KEYED),
            ("GET", "/api/v1/orders/1", ""),
            ("POST", "/graphql", ""),
        ]
        .map(|(method, path, headers)| {
            let over = &over;
            scope.spawn(move || {
                let mut failed = vec![];
                while !over.0.load(SeqCst) {
                    let answer = ask(entry, method, path, headers, b"{}");
                    if answer.as_ref().is_none_or(|answer| answer.status != 200) {
                        failed.push(format!("{method} {path}: {answer:?}"));
                    }
                }
                failed
            })
        });
        let end = End(&over);
        for _ in 0..3 {
            for (processes, backend) in [(&mut shop.commands, "command-api"), (&mut shop.questions, "query-api")] {
                let address = processes[0].address();
                processes[0].kill();
                shop.entry.wait_until_up(backend, 1);
                let before = processes[1].answered();
                assert!(eventually(|| processes[1].answered() >= before + 20), "the other one goes on");
                processes[0] = Process::start_on("again", address);
                shop.entry.wait_until_up(backend, 2);
            }
        }
        drop(end);
        asking.map(|asking| asking.join().expect("it ends")).concat()
    });
    assert!(failed.is_empty(), "{failed:?}\n{}", shop.entry.log());
    for _ in 0..10 {
        assert_eq!(shop.ask("GET", "/api/v1/orders").status, 200);
        assert_eq!(shop.ask("GET", "/graphql").status, 200);
    }
    assert!(shop.commands[0].answered() > 0 && shop.questions[0].answered() > 0);
}

/// Kills the process that holds a request; tells what the client got, and whether the other process saw the request too.
fn killed_while_it_works(headers: &'static str) -> (Answer, bool) {
    let shop = Shop::open();
    shop.entry.wait_until_up("command-api", 2);
    let entry = shop.entry.address();
    let waiting = thread::spawn(move || ask(entry, "POST", HELD, headers, b"{}"));
    let [killed, other] = holding(&shop.commands);
    other.release();
    killed.kill();
    let answer = waiting.join().expect("it ends").expect("an answer");
    (answer, other.held() > 0)
}

#[test]
fn a_command_with_a_key_is_sent_again_when_its_process_is_killed() {
    let (answer, seen_twice) = killed_while_it_works(KEYED);
    assert!(answer.status == 200 && seen_twice, "{answer:?}");
}

#[test]
fn a_command_without_a_key_is_never_sent_twice() {
    let (answer, seen_twice) = killed_while_it_works("");
    assert!(answer.status == 502 && !seen_twice, "{answer:?}");
    assert!(answer.body.contains(r#""code":"unavailable""#), "{answer:?}");
}

#[test]
fn without_a_process_the_shop_says_when_to_come_back() {
    let shop = Shop::open();
    assert_eq!(shop.ask("GET", "/readyz").status, 200);
    for process in &shop.questions {
        process.set_ready(false);
    }
    shop.entry.wait_until_up("query-api", 0);
    let answer = shop.ask("POST", "/graphql");
    assert_eq!((answer.status, answer.header("Retry-After")), (503, Some("1")), "{answer:?}");
    assert_eq!(answer.header("Content-Type"), Some("application/problem+json"));
    assert_eq!(shop.ask("GET", "/api/v1/orders").status, 200);
    assert_eq!((shop.ask("GET", "/livez").status, shop.ask("GET", "/readyz").status), (200, 503));
}

#[test]
fn pages_of_the_listed_sites_may_call_and_no_others() {
    let shop = Shop::open();
    let preflight = |origin: &str| {
        let headers =
            format!("Origin: {origin}\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization\r\n");
        shop.ask_with("OPTIONS", "/api/v1/orders", &headers, b"")
    };
    let allowed = preflight(SHOP);
    assert_eq!((allowed.status, allowed.header("Access-Control-Allow-Origin")), (204, Some(SHOP)));
    let methods = allowed.header("Access-Control-Allow-Methods").expect("methods");
    assert!(methods.contains("POST") && methods.contains("PATCH"), "{methods}");
    let headers = allowed.header("Access-Control-Allow-Headers").expect("headers");
    assert!(
        headers.contains("Authorization") && headers.contains("Idempotency-Key"),
        "{headers}"
    );
    assert_eq!(
        preflight("https://admin.example").header("Access-Control-Allow-Origin"),
        Some("https://admin.example")
    );
    for origin in [
        "https://evil.example",
        "https://shop.example.evil.example",
        "http://shop.example",
        "null",
    ] {
        let refused = preflight(origin);
        assert_eq!(
            (refused.status, refused.header("Access-Control-Allow-Origin")),
            (204, None),
            "{origin}"
        );
        let read = shop.ask_with("GET", "/api/v1/orders", &format!("Origin: {origin}\r\n"), b"");
        assert_eq!((read.status, read.header("Access-Control-Allow-Origin")), (200, None), "{origin}");
    }
    for path in ["/api/v1/orders", "/graphql", "/nowhere"] {
        let read = shop.ask_with("GET", path, &format!("Origin: {SHOP}\r\n"), b"");
        assert_eq!(read.header("Access-Control-Allow-Origin"), Some(SHOP), "{path}");
        assert_eq!(read.header("Vary"), Some("Origin"), "{path}");
        assert!(
            read.header("Access-Control-Expose-Headers")
                .is_some_and(|names| names.contains("Consistency-Token")),
            "{path}"
        );
    }
    // The entry answers the browser's question alone.
    assert_eq!(shop.commands.iter().map(Process::answered).sum::<usize>(), 5);
    assert_eq!(shop.ask("OPTIONS", "/api/v1/orders").by().get(..7), Some("command"));
}

#[test]
fn what_a_client_says_of_itself_is_replaced() {
    let shop = Shop::open();
    let lies = "X-Forwarded-For: 10.1.2.3\r\nx-forwarded-for: 10.4.5.6, 10.7.8.9\r\nForwarded: for=10.1.2.3\r\nX-Real-IP: 10.1.2.3\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\n";
    let answer = shop.ask_with("GET", "/api/v1/orders", lies, b"");
    let seen = answer.body.to_ascii_lowercase();
    assert!(
        seen.contains("x-forwarded-for: 127.0.0.1\r\n") && seen.contains("x-forwarded-proto: http\r\n"),
        "{seen}"
    );
    assert_eq!(seen.matches("x-forwarded-for").count(), 1, "{seen}");
    assert!(!seen.contains("10.") && !seen.contains("evil"), "{seen}");
}

#[test]
fn a_body_that_no_call_takes_goes_no_further() {
    let shop = Shop::open();
    let largest = vec![b' '; 256 * 1024];
    let answer = shop.ask_with("POST", "/api/v1/orders", "", &largest);
    assert!(answer.status == 200 && answer.body.contains(" 262144\n"), "{answer:?}");
    for path in ["/api/v1/orders", "/graphql"] {
        let answer = shop.ask_with("POST", path, "", &[&largest[..], b" "].concat());
        assert!(
            answer.status == 413 && answer.body.contains(r#""code":"body-too-large""#),
            "{answer:?}"
        );
    }
    assert_eq!(shop.commands.iter().chain(&shop.questions).map(Process::answered).sum::<usize>(), 1);
}

#[test]
fn a_subscription_goes_through_in_both_directions() {
    let shop = Shop::open();
    let mut stream = TcpStream::connect(shop.entry.address()).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time");
    write!(
        stream,
        "GET /graphql/ws HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    .expect("sent");
    let mut head = vec![];
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer");
        head.extend(byte);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    for word in [b"ping", b"pong"] {
        stream.write_all(word).expect("sent");
        let mut back = [0; 4];
        stream.read_exact(&mut back).expect("it comes back");
        assert_eq!(&back, word);
    }
}

#[test]
fn operators_see_what_is_up_on_a_port_of_its_own() {
    let shop = Shop::open();
    shop.entry.wait_until_up("command-api", 2);
    let page = ask(shop.entry.figures(), "GET", "/stats", "", b"").expect("the page");
    assert_eq!(page.status, 200);
    for name in ["command-api1", "command-api2", "query-api1", "query-api2"] {
        assert!(page.body.contains(name), "{name}");
    }
    let figures = ask(shop.entry.figures(), "GET", "/metrics", "", b"").expect("figures");
    assert!(
        figures
            .body
            .contains("haproxy_server_status{proxy=\"command-api\",server=\"command-api2\""),
        "{}",
        figures.body
    );
}

#[test]
fn nothing_of_a_client_is_logged() {
    let mut shop = Shop::open();
    for process in &shop.questions {
        process.set_ready(false);
    }
    shop.entry.wait_until_up("query-api", 0);
    shop.ask("GET", "/graphql?query=secret-word");
    shop.ask("GET", "/api/v1/orders");
    shop.entry.stop();
    let log = shop.entry.log();
    let failed = log.lines().filter(|line| line.contains("\"status\":503")).collect::<Vec<_>>();
    assert!(
        failed.len() == 1 && failed[0].starts_with('{') && failed[0].contains(r#""path":"\/graphql""#),
        "{log}"
    );
    assert!(
        !log.contains("secret-word") && !failed[0].contains("127.0.0.1") && !log.contains("/api/v1/orders"),
        "{log}"
    );
}

#[test]
fn processes_are_found_by_name_as_they_come_and_go() {
    let first = Process::start_on("first", (Ipv4Addr::new(127, 0, 0, 2), 0).into());
    let port = first.address().port();
    let other = |name, last| Process::start_on(name, (Ipv4Addr::new(127, 0, 0, last), port).into());
    let (second, third) = (other("second", 3), other("third", 4));
    let names = Names::serve(&[&first, &second]);
    let entry = Haproxy::start_discovering(names.address(), &format!("command-api:{port}"), &format!("query-api:{port}"));
    entry.wait_until_up("command-api", 2);
    let answered_by = |wanted: &str| {
        let answers = (0..10).filter_map(|_| ask(entry.address(), "GET", "/api/v1/orders", "", b""));
        answers.filter(|answer| answer.by() == wanted).count()
    };
    assert_eq!((answered_by("first"), answered_by("second"), answered_by("third")), (5, 5, 0));
    // One goes that would still answer, as one that is told to end; another comes.
    names.are(&[&second]);
    assert!(eventually(|| answered_by("second") == 10), "the first one is still asked");
    names.are(&[&second, &third]);
    assert!(eventually(|| answered_by("third") == 5), "the third one is not asked");
}
