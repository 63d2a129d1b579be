//! A bound on what Redis may send, checked before it is parsed.
//!
//! The client's parser believes lengths: it gathers what they announce, however much that is. Here a reply that is longer than any that
//! we ask for ends the connection at the first byte that says so.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// No reply is longer, with everything in it.
pub(crate) const LONGEST_REPLY: usize = 512 * 1024;
/// No reply has more parts.
const MOST_PARTS: usize = 4_096;
/// A length has fewer digits.
const LONGEST_NUMBER: usize = 20;

/// A connection to Redis whose replies are bounded.
pub(crate) struct Guarded<S> {
    stream: S,
    replies: Replies,
}

impl<S> Guarded<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            replies: Replies::default(),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        let read = &buffer.filled()[before..];
        Poll::Ready(
            this.replies
                .see(read)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
        )
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Why a reply is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Refused {
    #[error("a reply is longer than any that was asked for")]
    Long,
    #[error("a reply is not in Redis's protocol")]
    Unreadable,
}

/// Where in the stream of replies (RESP 2 and 3) we are.
#[derive(Default)]
struct Replies {
    /// Of this reply so far.
    bytes: usize,
    parts: usize,
    /// Parts that are still to come.
    open: usize,
    /// Of a text of known length: what is still to come, with its line end.
    text: usize,
    /// The line that is being read: its first byte, and the number behind it as far as it may be one.
    kind: Option<u8>,
    number: String,
    /// The last byte was a carriage return.
    ending: bool,
}

impl Replies {
    fn see(&mut self, mut read: &[u8]) -> Result<(), Refused> {
        while let Some((byte, rest)) = read.split_first() {
            if self.text > 0 {
                let passed = self.text.min(read.len());
                self.text -= passed;
                self.count(passed)?;
                read = &read[passed..];
                self.end_if_whole();
                continue;
            }
            self.count(1)?;
            self.line(*byte)?;
            read = rest;
        }
        Ok(())
    }

    fn count(&mut self, bytes: usize) -> Result<(), Refused> {
        self.bytes += bytes;
        if self.bytes > LONGEST_REPLY { Err(Refused::Long) } else { Ok(()) }
    }

    fn line(&mut self, byte: u8) -> Result<(), Refused> {
        let Some(kind) = self.kind else {
            self.kind = Some(byte);
            self.parts += 1;
            self.open = self.open.max(1);
            return if self.parts > MOST_PARTS { Err(Refused::Long) } else { Ok(()) };
        };
        if byte == b'\n' && self.ending {
            let number = std::mem::take(&mut self.number);
            self.kind = None;
            self.ending = false;
            return self.part(kind, &number);
        }
        self.ending = byte == b'\r';
        if !self.ending && self.number.len() <= LONGEST_NUMBER {
            self.number.push(char::from(byte));
        }
        Ok(())
    }

    /// A part begins: its line has been read.
    fn part(&mut self, kind: u8, number: &str) -> Result<(), Refused> {
        self.open = self.open.saturating_sub(1);
        match kind {
            b'$' | b'=' | b'!' => match length(number)? {
                Some(bytes) if bytes > LONGEST_REPLY => return Err(Refused::Long),
                Some(bytes) => self.text = bytes + 2,
                None => {}
            },
            b'*' | b'~' | b'>' => self.expect(length(number)?.unwrap_or(0))?,
            b'%' => self.expect(length(number)?.unwrap_or(0).saturating_mul(2))?,
            // What it is an attribute of comes behind it.
            b'|' => self.expect(length(number)?.unwrap_or(0).saturating_mul(2).saturating_add(1))?,
            b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => {}
            _ => return Err(Refused::Unreadable),
        }
        self.end_if_whole();
        Ok(())
    }

    fn expect(&mut self, parts: usize) -> Result<(), Refused> {
        self.open = self.open.saturating_add(parts);
        if self.parts.saturating_add(self.open) > MOST_PARTS {
            Err(Refused::Long)
        } else {
            Ok(())
        }
    }

    fn end_if_whole(&mut self) {
        if self.open == 0 && self.text == 0 && self.kind.is_none() {
            self.bytes = 0;
            self.parts = 0;
        }
    }
}

/// None for what is null.
fn length(number: &str) -> Result<Option<usize>, Refused> {
    match number {
        "-1" => Ok(None),
        _ if number.len() > LONGEST_NUMBER => Err(Refused::Unreadable),
        _ => number.parse().map(Some).map_err(|_| Refused::Unreadable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(bytes: &[u8], at_a_time: usize) -> Result<Replies, Refused> {
        let mut replies = Replies::default();
        for chunk in bytes.chunks(at_a_time) {
            replies.see(chunk)?;
        }
        Ok(replies)
    }

    #[test]
    fn replies_pass_however_they_are_cut_and_each_is_counted_anew() {
        let one = b"+OK\r\n:42\r\n$-1\r\n$5\r\na\r\nbc\r\n*2\r\n$1\r\nx\r\n*1\r\n:1\r\n%1\r\n+k\r\n_\r\n>2\r\n$7\r\nmessage\r\n#t\r\n|1\r\n+a\r\n,1.5\r\n*0\r\n*-1\r\n-ERR no\r\n";
        for at_a_time in 1..40 {
            let replies = seen(&one.repeat(50), at_a_time).expect("nothing is too long");
            assert_eq!((replies.bytes, replies.parts, replies.open, replies.text), (0, 0, 0, 0));
        }
        let text = format!("${}\r\n{}\r\n", LONGEST_REPLY / 2, "x".repeat(LONGEST_REPLY / 2));
        seen(text.repeat(5).as_bytes(), 4_000).expect("each by itself is not too long");
    }

    #[test]
    fn what_announces_too_much_is_refused_before_it_comes() {
        for announced in [
            "$99999999999\r\n",
            "*2147483647\r\n",
            "*9223372036854775807\r\n",
            "%9223372036854775807\r\n",
            "|18446744073709551615\r\n",
            ">4097\r\n",
            "=600000\r\n",
        ] {
            assert_eq!(seen(announced.as_bytes(), 3).err(), Some(Refused::Long), "{announced}");
        }
        // Each part is small, all together are not.
        let nested = "*4000\r\n".repeat(2);
        assert_eq!(seen(nested.as_bytes(), 64).err(), Some(Refused::Long));
        let endless = format!("+{}", "x".repeat(LONGEST_REPLY));
        assert_eq!(seen(endless.as_bytes(), 64).err(), Some(Refused::Long));
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        for garbage in [
            "HTTP/1.1 400 Bad Request\r\n",
            "$x\r\n",
            "$-2\r\n",
            "*1.5\r\n",
            "$000000000000000000000000001\r\n",
            "\r\n\r\n",
        ] {
            assert_eq!(seen(garbage.as_bytes(), 5).err(), Some(Refused::Unreadable), "{garbage}");
        }
    }
}
