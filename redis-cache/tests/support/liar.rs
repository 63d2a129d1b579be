//! A server that speaks Redis's protocol, after a fashion: what it answers is the test's to say.

#![allow(dead_code, reason = "each test uses its part of it")]

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf},
    sync::Mutex,
    task::JoinHandle,
};

/// What it answers to a command: bytes as they are sent, or nothing and the connection ends.
pub(crate) type Lie = dyn Fn(&[Vec<u8>], &mut Memory) -> Option<Vec<u8>> + Send + Sync;

/// What it was told to keep.
pub(crate) type Memory = HashMap<Vec<u8>, Vec<u8>>;

/// It ends with the test.
pub(crate) struct Liar {
    address: SocketAddr,
    asked: Arc<AtomicU64>,
    serving: JoinHandle<()>,
}

impl Liar {
    /// It lies about everything but who it is: a client that says hello and asks whether it is there gets the right answer.
    pub(crate) async fn who(lie: impl Fn(&[Vec<u8>], &mut Memory) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self::start(move |command, memory| greeting(command).map_or_else(|| lie(command, memory), |answer| Some(answer.to_vec()))).await
    }

    /// It lies from the first word on.
    pub(crate) async fn start(lie: impl Fn(&[Vec<u8>], &mut Memory) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let asked = Arc::new(AtomicU64::new(0));
        let (lie, memory): (Arc<Lie>, _) = (Arc::new(lie), Arc::new(Mutex::new(Memory::new())));
        let counted = Arc::clone(&asked);
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&lie), Arc::clone(&memory), Arc::clone(&counted)));
            }
        });
        Self { address, asked, serving }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// How many commands it was sent beyond greetings.
    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn greeting(command: &[Vec<u8>]) -> Option<&'static [u8]> {
    match command.first().map(Vec::as_slice) {
        Some(b"HELLO") => Some(b"%1\r\n$5\r\nproto\r\n:3\r\n"),
        Some(b"PING") => Some(b"+PONG\r\n"),
        _ => None,
    }
}

async fn serve(stream: TcpStream, lie: Arc<Lie>, memory: Arc<Mutex<Memory>>, asked: Arc<AtomicU64>) {
    let (reading, mut writing) = stream.into_split();
    let mut reading = BufReader::new(reading);
    while let Some(command) = read(&mut reading).await {
        if greeting(&command).is_none() {
            asked.fetch_add(1, Ordering::Relaxed);
        }
        let answer = lie(&command, &mut *memory.lock().await);
        let Some(answer) = answer else { return };
        if writing.write_all(&answer).await.is_err() {
            return;
        }
    }
}

/// A command as clients send it: an array of texts.
async fn read(from: &mut BufReader<OwnedReadHalf>) -> Option<Vec<Vec<u8>>> {
    let words = number(from).await?;
    let mut command = Vec::with_capacity(words);
    for _ in 0..words {
        let mut word = vec![0; number(from).await? + 2];
        from.read_exact(&mut word).await.ok()?;
        word.truncate(word.len() - 2);
        command.push(word);
    }
    Some(command)
}

async fn number(from: &mut BufReader<OwnedReadHalf>) -> Option<usize> {
    let mut line = String::new();
    from.read_line(&mut line).await.ok()?;
    line.get(1..)?.trim().parse().ok()
}

/// A text as Redis sends it.
pub(crate) fn text(bytes: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// Lies about everything that is asked, by name.
pub(crate) fn lies() -> Vec<(&'static str, Arc<Lie>)> {
    fn always(answer: &'static [u8]) -> Arc<Lie> {
        Arc::new(move |_, _| Some(answer.to_vec()))
    }
    /// It keeps what it is given, and gives back what this makes of it.
    fn kept(changed: fn(&[u8], &Memory) -> Option<Vec<u8>>) -> Arc<Lie> {
        Arc::new(move |command, memory| {
            let find = |key: &Vec<u8>, memory: &Memory| changed(key, memory).map_or_else(|| b"_\r\n".to_vec(), |value| text(&value));
            match command {
                [set, key, value, ..] if set == b"SET" => {
                    memory.insert(key.clone(), value.clone());
                    Some(b"+OK\r\n".to_vec())
                }
                [get, key] if get == b"GET" => Some(find(key, memory)),
                [get, keys @ ..] if get == b"MGET" => {
                    let all = keys.iter().flat_map(|key| find(key, memory));
                    Some([format!("*{}\r\n", keys.len()).into_bytes(), all.collect()].concat())
                }
                _ => Some(b"-ERR unknown command\r\n".to_vec()),
            }
        })
    }
    vec![
        ("another protocol", always(b"HTTP/1.1 400 Bad Request\r\n\r\n")),
        ("garbage", always(&[0xff, 0, 13, 10, 0xc3, 0x28, 13, 10])),
        ("a number", always(b":42\r\n")),
        ("a negative number", always(b":-9223372036854775808\r\n")),
        ("ok", always(b"+OK\r\n")),
        ("an empty array", always(b"*0\r\n")),
        ("a map", always(b"%1\r\n+a\r\n+b\r\n")),
        ("a double", always(b",nan\r\n")),
        ("an error", always(b"-OOM command not allowed when used memory > 'maxmemory'.\r\n")),
        ("no script", always(b"-NOSCRIPT No matching script. Please use EVAL.\r\n")),
        ("a text that is none of ours", always(b"$5\r\nhello\r\n")),
        ("a text that never ends", always(b"$2147483647\r\nhello")),
        ("a text of negative length", always(b"$-7\r\n")),
        ("an array that never ends", always(b"*2147483647\r\n:1\r\n")),
        ("arrays in arrays", always(b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*4096\r\n")),
        ("two answers", always(b"$1\r\na\r\n$1\r\nb\r\n")),
        ("half an answer", always(b"$100\r\nhello")),
        (
            "a message that nobody waits for",
            always(b">3\r\n$7\r\nmessage\r\n$1\r\nx\r\n$1\r\ny\r\n"),
        ),
        ("yes to everything", always(b"*2\r\n:1\r\n:1000\r\n")),
        ("a wait of centuries", always(b"*2\r\n:0\r\n:9223372036854775807\r\n")),
        ("silence", Arc::new(|_, _| Some(Vec::new()))),
        ("the end of the connection", Arc::new(|_, _| None)),
        (
            "what another key has",
            kept(|key, memory| memory.iter().find(|(other, _)| *other != key).map(|(_, value)| value.clone())),
        ),
        (
            "half of it",
            kept(|key, memory| memory.get(key).map(|value| value[..value.len() / 2].to_vec())),
        ),
        (
            "one bit of it changed",
            kept(|key, memory| {
                let mut value = memory.get(key)?.clone();
                *value.last_mut()? ^= 1;
                Some(value)
            }),
        ),
        ("nothing of it", kept(|_, _| Some(Vec::new()))),
        (
            "more than it",
            kept(|key, memory| memory.get(key).map(|value| [value.as_slice(), b"more"].concat())),
        ),
    ]
}
