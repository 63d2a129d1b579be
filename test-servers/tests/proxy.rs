//! The proxy, in front of a server that says everything twice.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use test_servers::Proxy;

const A_WHILE: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(20);

/// Sends back what it is sent; it lives as long as the test process.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut reading = client.try_clone().expect("a second handle");
                std::io::copy(&mut reading, &mut client).and_then(|_| client.shutdown(Shutdown::Write))
            });
        }
    });
    address
}

fn connect(proxy: &Proxy) -> TcpStream {
    let client = TcpStream::connect(proxy.address()).expect("the proxy accepts");
    client.set_read_timeout(Some(PATIENCE)).expect("not zero");
    client
}

fn hear(client: &mut TcpStream, patience: Duration) -> Result<u8, ErrorKind> {
    client.set_read_timeout(Some(patience)).expect("not zero");
    let mut byte = [0];
    client.read_exact(&mut byte).map_err(|error| error.kind())?;
    Ok(byte[0])
}

#[test]
fn it_passes_on_everything_in_order_and_the_end() {
    let proxy = Proxy::to(echo());
    let mut client = connect(&proxy);
    let mut writing = client.try_clone().expect("a second handle");
    let sent = (0..1_000_000_u32).flat_map(u32::to_be_bytes).collect::<Vec<_>>();
    let mut heard = vec![];
    thread::scope(|scope| {
        scope.spawn(|| writing.write_all(&sent).and_then(|()| writing.shutdown(Shutdown::Write)));
        client.read_to_end(&mut heard).expect("an end");
    });
    assert!(heard == sent);
}

#[test]
fn cut_off_all_connections_end_and_new_ones_are_refused_until_it_is_mended() {
    let proxy = Proxy::to(echo());
    let mut clients = [connect(&proxy), connect(&proxy)];
    for client in &mut clients {
        client.write_all(b"a").expect("sent");
        assert_eq!(hear(client, PATIENCE), Ok(b'a'));
    }
    assert_eq!(proxy.connections(), 2);
    for _ in 0..20 {
        proxy.cut();
        TcpStream::connect(proxy.address()).expect_err("refused");
        proxy.mend();
        let mut client = connect(&proxy);
        client.write_all(b"b").expect("sent");
        assert_eq!(hear(&mut client, PATIENCE), Ok(b'b'));
    }
    for client in &mut clients {
        hear(client, PATIENCE).expect_err("the end");
    }
}

#[test]
fn held_it_accepts_and_passes_on_nothing_until_it_is_mended() {
    let proxy = Proxy::to(echo());
    let mut before = connect(&proxy);
    before.write_all(b"a").expect("sent");
    assert_eq!(hear(&mut before, PATIENCE), Ok(b'a'));
    proxy.hold();
    let mut during = connect(&proxy);
    for client in [&mut before, &mut during] {
        client.write_all(b"b").expect("sent");
        assert_eq!(hear(client, A_WHILE), Err(ErrorKind::WouldBlock));
    }
    proxy.mend();
    for client in [&mut before, &mut during] {
        assert_eq!(hear(client, PATIENCE), Ok(b'b'));
    }
}

#[test]
fn what_was_held_when_it_was_cut_never_arrives() {
    let proxy = Proxy::to(echo());
    proxy.hold();
    let mut client = connect(&proxy);
    client.write_all(b"a").expect("sent");
    proxy.cut();
    hear(&mut client, PATIENCE).expect_err("the end");
    proxy.mend();
    assert_eq!(proxy.connections(), 0);
}

#[test]
fn each_direction_is_delayed() {
    let proxy = Proxy::to(echo());
    let mut client = connect(&proxy);
    proxy.delay(A_WHILE);
    let start = Instant::now();
    client.write_all(b"a").expect("sent");
    assert_eq!(hear(&mut client, PATIENCE), Ok(b'a'));
    assert!(start.elapsed() >= 2 * A_WHILE);
    proxy.delay(Duration::from_hours(1));
    client.write_all(b"b").expect("sent");
    proxy.mend();
    assert_eq!(hear(&mut client, PATIENCE), Ok(b'b'));
}

#[test]
fn a_server_that_does_not_answer_is_one_that_hangs_up() {
    let nobody = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port");
    let proxy = Proxy::to(nobody);
    let mut client = connect(&proxy);
    hear(&mut client, PATIENCE).expect_err("the end");
}

#[test]
fn dropped_it_ends_everything_and_leaves_its_port() {
    let proxy = Proxy::to(echo());
    let address = proxy.address();
    let mut client = connect(&proxy);
    drop(proxy);
    hear(&mut client, PATIENCE).expect_err("the end");
    TcpListener::bind(address).expect("free again");
}
