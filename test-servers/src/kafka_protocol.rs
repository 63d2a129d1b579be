//! The three requests to Kafka that a test server needs, by hand: a client library would be the largest thing in this crate.
//! The versions spoken are the oldest that Kafka 4 still answers.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

const METADATA: i16 = 3;
const CREATE_TOPICS: i16 = 19;
const TOPIC_ALREADY_EXISTS: i16 = 36;
/// The controller answers when the topic is there, or after this.
const CREATE_WITHIN_MS: i32 = 30_000;
const PATIENCE: Duration = Duration::from_secs(40);
const PATIENCE_WITH_CONNECTING: Duration = Duration::from_secs(2);
/// No answer to these requests is longer.
const LONGEST_ANSWER: usize = 16 << 20;

/// What a broker knows of the cluster.
pub(crate) struct Metadata {
    pub(crate) brokers: usize,
    pub(crate) topics: Vec<Topic>,
}

/// A topic, as a broker knows it.
pub(crate) struct Topic {
    pub(crate) name: String,
    pub(crate) partitions: usize,
    /// Whether each partition has a leader.
    pub(crate) led: bool,
}

/// What the broker knows of the cluster and of all topics.
pub(crate) fn metadata(broker: SocketAddr, patience: Duration) -> io::Result<Metadata> {
    // No list means all topics, an empty one means none.
    let request = Request::new(METADATA, 1).int32(-1);
    let mut answer = request.ask(broker, patience)?;
    let brokers = answer.many(|broker| {
        broker.int32()?;
        broker.string()?;
        broker.int32()?;
        broker.string()
    })?;
    answer.int32()?;
    let topics = answer.many(|topic| {
        let error = topic.int16()?;
        let name = topic.string()?;
        topic.bytes::<1>()?;
        let leaders = topic.many(|partition| {
            let error = partition.int16()?;
            partition.int32()?;
            let leader = partition.int32()?;
            partition.many(Answer::int32)?;
            partition.many(Answer::int32)?;
            Ok(error == 0 && leader >= 0)
        })?;
        Ok(Topic {
            name,
            partitions: leaders.len(),
            led: error == 0 && leaders.iter().all(|led| *led),
        })
    })?;
    Ok(Metadata {
        brokers: brokers.len(),
        topics,
    })
}

/// Creates a topic. One that is there already is no error.
pub(crate) fn create_topic(broker: SocketAddr, name: &str, partitions: i32, settings: &[(&str, &str)]) -> io::Result<()> {
    let mut request = Request::new(CREATE_TOPICS, 2)
        .int32(1)
        .string(name)
        .int32(partitions)
        .int16(1)
        .int32(0);
    request = request.int32(i32::try_from(settings.len()).map_err(io::Error::other)?);
    for (name, value) in settings {
        request = request.string(name).string(value);
    }
    let mut answer = request.int32(CREATE_WITHIN_MS).byte(0).ask(broker, PATIENCE)?;
    answer.int32()?;
    let errors = answer.many(|topic| {
        topic.string()?;
        let error = topic.int16()?;
        Ok((error, topic.string()?))
    })?;
    match errors.into_iter().find(|(error, _)| ![0, TOPIC_ALREADY_EXISTS].contains(error)) {
        None => Ok(()),
        Some((error, text)) => Err(io::Error::other(format!("Kafka's error {error}: {text}"))),
    }
}

/// A request, without its length, which comes first on the wire.
struct Request(Vec<u8>);

impl Request {
    /// Of this kind and version; number 1, from a client that gives no name.
    fn new(kind: i16, version: i16) -> Self {
        Self(vec![]).int16(kind).int16(version).int32(1).int16(-1)
    }

    fn byte(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    fn int16(mut self, value: i16) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn int32(mut self, value: i32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn string(self, value: &str) -> Self {
        let mut request = self.int16(i16::try_from(value.len()).expect("a short name"));
        request.0.extend(value.as_bytes());
        request
    }

    fn ask(self, broker: SocketAddr, patience: Duration) -> io::Result<Answer> {
        let mut connection = TcpStream::connect_timeout(&broker, PATIENCE_WITH_CONNECTING)?;
        connection.set_read_timeout(Some(patience))?;
        let length = u32::try_from(self.0.len()).map_err(io::Error::other)?;
        connection.write_all(&length.to_be_bytes())?;
        connection.write_all(&self.0)?;
        let mut length = [0; 4];
        connection.read_exact(&mut length)?;
        let length = usize::try_from(u32::from_be_bytes(length)).map_err(io::Error::other)?;
        if length > LONGEST_ANSWER {
            return Err(io::Error::other("this is not Kafka"));
        }
        let mut answer = Answer {
            bytes: vec![0; length],
            read: 0,
        };
        connection.read_exact(&mut answer.bytes)?;
        // The number of the request: there is only one.
        answer.int32()?;
        Ok(answer)
    }
}

/// An answer, read from its beginning.
struct Answer {
    bytes: Vec<u8>,
    read: usize,
}

impl Answer {
    fn take(&mut self, length: usize) -> io::Result<&[u8]> {
        let bytes = self
            .bytes
            .get(self.read..)
            .and_then(|rest| rest.get(..length))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        self.read += length;
        Ok(bytes)
    }

    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        self.take(N)?.try_into().map_err(io::Error::other)
    }

    fn int16(&mut self) -> io::Result<i16> {
        self.bytes().map(i16::from_be_bytes)
    }

    fn int32(&mut self) -> io::Result<i32> {
        self.bytes().map(i32::from_be_bytes)
    }

    /// None and the empty string are the same here.
    fn string(&mut self) -> io::Result<String> {
        let length = usize::try_from(self.int16()?).unwrap_or(0);
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }

    fn many<T>(&mut self, one: impl Fn(&mut Self) -> io::Result<T>) -> io::Result<Vec<T>> {
        (0..self.int32()?).map(|_| one(self)).collect()
    }
}
