//! The least of HTTP/1.1 that is needed: a load generator shares the machine with the server that it measures, so it does no more.

use std::{io, str::FromStr, time::Duration};

use anyhow::Context as _;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Longer than any request asks the server to wait.
const ANSWERS_WITHIN: Duration = Duration::from_mins(1);
/// The longest head and the longest body of an answer.
const LONGEST_HEAD: usize = 16 * 1024;
const LONGEST_BODY: usize = 8 * 1024 * 1024;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    authority: String,
}

impl Address {
    /// Host and port.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }
}

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "write the address as http://HOST:PORT, without a path";
        let text = text.trim();
        if text.starts_with("https://") {
            return Err("only plain HTTP is spoken here: write http://HOST:PORT");
        }
        let authority = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
        if authority.is_empty() || !authority.bytes().all(allowed) {
            return Err(FORM);
        }
        let with_port = authority
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        Ok(Self {
            authority: if with_port {
                authority.to_owned()
            } else {
                format!("{authority}:80")
            },
        })
    }
}

/// A connection that is kept, with one request on it at a time.
pub(crate) struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

/// An answer, as it lies in the connection's buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
    /// The server ends the connection after it.
    pub(crate) last: bool,
}

impl Connection {
    pub(crate) async fn open(address: &Address) -> io::Result<Self> {
        let stream = TcpStream::connect(address.authority()).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            received: Vec::with_capacity(4096),
        })
    }

    /// Sends a request, whole as it is, and waits for its answer.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> io::Result<Answer<'_>> {
        self.send(request).await?;
        self.receive().await
    }

    /// Sends a request or a part of it.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.received.clear();
        tokio::time::timeout(ANSWERS_WITHIN, self.stream.write_all(bytes))
            .await
            .map_err(|_| io::ErrorKind::TimedOut)?
    }

    /// Waits for the answer to the request that was sent.
    pub(crate) async fn receive(&mut self) -> io::Result<Answer<'_>> {
        tokio::time::timeout(ANSWERS_WITHIN, self.receive_however_long())
            .await
            .map_err(|_| io::ErrorKind::TimedOut)?
    }

    async fn receive_however_long(&mut self) -> io::Result<Answer<'_>> {
        loop {
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(head) = Head::parse(&self.received)?
                && self.received.len() >= head.length + head.body
            {
                let body = &self.received[head.length..head.length + head.body];
                return Ok(Answer {
                    status: head.status,
                    body,
                    last: head.last,
                });
            }
        }
    }
}

/// What the head of an answer says, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    length: usize,
    body: usize,
    last: bool,
}

impl Head {
    /// None as long as the head is not there in full.
    fn parse(received: &[u8]) -> io::Result<Option<Self>> {
        let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") else {
            return if received.len() > LONGEST_HEAD {
                Err(unreadable("the head of the answer does not end"))
            } else {
                Ok(None)
            };
        };
        let mut lines = received[..end].split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
        let status = lines
            .next()
            .and_then(status)
            .ok_or_else(|| unreadable("the answer is not HTTP/1.1"))?;
        let (mut body, mut last) = (None, false);
        for (name, value) in lines.filter_map(header) {
            if name.eq_ignore_ascii_case(b"content-length") {
                body = std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok());
            } else if name.eq_ignore_ascii_case(b"connection") {
                last = value.eq_ignore_ascii_case(b"close");
            }
        }
        if status == 204 || status == 304 {
            body = Some(0);
        }
        match body {
            Some(body) if body <= LONGEST_BODY => Ok(Some(Self {
                status,
                length: end + 4,
                body,
                last,
            })),
            Some(_) => Err(unreadable("the body of the answer is too long")),
            None => Err(unreadable("the answer does not say how long it is")),
        }
    }
}

fn status(line: &[u8]) -> Option<u16> {
    let digits = line.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn header(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    Some((&line[..colon], line[colon + 1..].trim_ascii()))
}

fn unreadable(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// The text of the first member of this name that holds a text without escapes.
pub(crate) fn first_text<'a>(body: &'a [u8], member: &str) -> Option<&'a str> {
    let member = member.as_bytes();
    // `"member":"`, without writing it down first.
    let at = body
        .windows(member.len() + 4)
        .position(|window| window[0] == b'"' && &window[1..=member.len()] == member && &window[member.len() + 1..] == b"\":\"")?;
    let text = &body[at + member.len() + 4..];
    let end = text.iter().position(|byte| *byte == b'"')?;
    std::str::from_utf8(&text[..end]).ok()
}

/// A request that is written anew each time.
pub(crate) struct Call<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) token: Option<&'a str>,
    pub(crate) key: Option<&'a str>,
    pub(crate) body: Option<&'a Value>,
}

impl<'a> Call<'a> {
    /// A question anybody may ask.
    pub(crate) const fn get(path: &'a str) -> Self {
        Self {
            method: "GET",
            path,
            token: None,
            key: None,
            body: None,
        }
    }

    /// A request with a body.
    pub(crate) const fn post(path: &'a str, body: &'a Value) -> Self {
        Self {
            method: "POST",
            body: Some(body),
            ..Self::get(path)
        }
    }

    /// The answer's status and body, on a connection of its own.
    pub(crate) async fn send(&self, address: &Address) -> anyhow::Result<(u16, Vec<u8>)> {
        let what = || format!("{} {} at {}", self.method, self.path, address.authority());
        let mut connection = Connection::open(address).await.with_context(what)?;
        let answer = connection.exchange(&self.write(address, true)).await.with_context(what)?;
        Ok((answer.status, answer.body.to_owned()))
    }

    /// The answer's JSON, when it has this status.
    pub(crate) async fn expect(&self, status: u16, address: &Address) -> anyhow::Result<Value> {
        let (answered, body) = self.send(address).await?;
        if answered != status {
            let body = String::from_utf8_lossy(&body).chars().take(500).collect::<String>();
            anyhow::bail!("{} {} was answered {answered}: {body}", self.method, self.path);
        }
        serde_json::from_slice(&body).with_context(|| format!("the answer to {} {}", self.method, self.path))
    }

    /// The whole request; the last one on its connection, or one of many.
    pub(crate) fn write(&self, address: &Address, last: bool) -> Vec<u8> {
        let body = self.body.map(Value::to_string).unwrap_or_default();
        let mut head = format!(
            "{} {} HTTP/1.1\r\nHost: {}\r\nAccept: */*\r\n",
            self.method,
            self.path,
            address.authority()
        );
        let mut add = |name: &str, value: &str| {
            head.push_str(name);
            head.push_str(": ");
            head.push_str(value);
            head.push_str("\r\n");
        };
        if let Some(token) = self.token {
            add("Authorization", &format!("Bearer {token}"));
        }
        if let Some(key) = self.key {
            add("Idempotency-Key", key);
        }
        if self.body.is_some() {
            add("Content-Type", "application/json");
        }
        add("Content-Length", &body.len().to_string());
        if last {
            add("Connection", "close");
        }
        (head + "\r\n" + &body).into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn an_answer_is_read_by_its_declared_length() {
        let head = Head::parse(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\ncontent-length:  11 \r\n\r\n{\"a\":\"b\"}\r\n");
        assert_eq!(
            head.expect("readable"),
            Some(Head {
                status: 200,
                length: 73,
                body: 11,
                last: false
            })
        );
    }

    #[test]
    fn half_a_head_is_waited_for() {
        let whole = b"HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\nConnection: Close\r\n\r\n{}";
        for cut in 0..whole.len() - 2 {
            assert_eq!(Head::parse(&whole[..cut]).expect("no error yet"), None, "after {cut} bytes");
        }
        let head = Head::parse(whole).expect("readable").expect("whole");
        assert_eq!((head.status, head.body, head.last), (202, 2, true));
    }

    #[test]
    fn no_content_needs_no_length() {
        let head = Head::parse(b"HTTP/1.1 204 No Content\r\n\r\n").expect("readable").expect("whole");
        assert_eq!((head.status, head.body), (204, 0));
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for bad in [
            &b"SSH-2.0-OpenSSH\r\n\r\n"[..],
            b"HTTP/1.1 2x0 OK\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            b"HTTP/1.1",
        ] {
            let padded = [bad, &[b'x'; LONGEST_HEAD]].concat();
            assert!(Head::parse(&padded).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn the_status_of_an_order_is_the_first_of_its_body() {
        let body = br#"{"orderId":"7","status":"CONFIRMED","payment":{"status":"CAPTURED"}}"#;
        assert_eq!(first_text(body, "status"), Some("CONFIRMED"));
        let problem = br#"{"type":"about:blank","status":503,"code":"overloaded"}"#;
        assert_eq!(first_text(problem, "status"), None);
        assert_eq!(first_text(problem, "code"), Some("overloaded"));
        assert_eq!(first_text(br#"{"status":"CON"#, "status"), None);
        assert_eq!(first_text(b"", "status"), None);
    }

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for (text, authority) in [
            ("http://127.0.0.1:8080/", "127.0.0.1:8080"),
            ("127.0.0.1:8080\n", "127.0.0.1:8080"),
            ("http://shop.example", "shop.example:80"),
            ("http://[::1]:8080", "[::1]:8080"),
        ] {
            assert_eq!(text.parse::<Address>().expect("an address").authority(), authority);
        }
        for bad in ["", "https://127.0.0.1", "http://a/b", "http://user@host", "http://a b"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn answers_in_pieces_on_one_connection_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address: Address = listener.local_addr().expect("bound").to_string().parse().expect("an address");
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut request = [0; 4];
            for answer in [
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfirst",
                "HTTP/1.1 503 Busy\r\ncontent-length: 6\r\n\r\nsecond",
            ] {
                stream.read_exact(&mut request).await.expect("a request");
                for piece in answer.as_bytes().chunks(7) {
                    stream.write_all(piece).await.expect("written");
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        });
        let mut connection = Connection::open(&address).await.expect("connected");
        assert_eq!(
            connection.exchange(b"ping").await.expect("answered"),
            Answer {
                status: 200,
                body: b"first",
                last: false
            }
        );
        assert_eq!(
            connection.exchange(b"ping").await.expect("answered"),
            Answer {
                status: 503,
                body: b"second",
                last: false
            }
        );
        server.await.expect("the server ends");
        assert!(connection.exchange(b"ping").await.is_err(), "the other side has gone");
    }
}
