//! A small HTTP/1.1 client for talking to the daemon on this machine: one request per connection.

use crate::ops::secret::Secret;
use std::io::{self, BufRead, BufReader, Read, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// How long reaching the daemon may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Most bytes of the answer's head.
const HEAD_BYTES_MAX: u64 = 32 << 10;

/// The daemon's address and what opens it.
#[derive(Debug)]
pub(super) struct Daemon {
    address: SocketAddr,
    token: Option<Secret>,
    patience: Duration,
}

/// An answer whose body has yet to be read.
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) body: Box<dyn Read>,
}

/// Where a program on this machine reaches what listens at an address.
pub(super) fn near(bound: SocketAddr) -> SocketAddr {
    let host = match bound.ip() {
        IpAddr::V4(address) if address.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(address) if address.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        address @ (IpAddr::V4(_) | IpAddr::V6(_)) => address,
    };
    SocketAddr::new(host, bound.port())
}

impl Daemon {
    /// The daemon that listens at this address of this machine; `patience` is how long it may be silent.
    pub(super) fn new(address: SocketAddr, token: Option<Secret>, patience: Duration) -> Self {
        Self { address: near(address), token, patience }
    }

    /// Where it should be.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Asks, and reads the head of the answer.
    pub(super) fn request(&self, method: &str, path: &str, body: &str) -> io::Result<Response> {
        let mut stream = TcpStream::connect_timeout(&self.address, CONNECT_TIMEOUT.min(self.patience))?;
        stream.set_read_timeout(Some(self.patience))?;
        stream.set_write_timeout(Some(self.patience))?;
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n", self.address);
        if let Some(token) = &self.token {
            head = format!("{head}authorization: Bearer {}\r\n", token.reveal());
        }
        if method == "POST" {
            head = format!("{head}content-type: application/json\r\ncontent-length: {}\r\n", body.len());
        }
        stream.write_all(format!("{head}\r\n{body}").as_bytes())?;
        read_response(BufReader::new(stream))
    }
}

fn read_response(stream: impl BufRead + 'static) -> io::Result<Response> {
    let mut head = stream.take(HEAD_BYTES_MAX);
    let status_line = line(&mut head)?;
    let status = status_line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
    let status = status.ok_or_else(|| malformed("it does not speak HTTP"))?;
    let mut length = None;
    let mut chunked = false;
    loop {
        let header = line(&mut head)?;
        if header.is_empty() {
            break;
        }
        let (name, value) = header.split_once(':').ok_or_else(|| malformed("a broken header"))?;
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = Some(value.trim().parse().map_err(|_| malformed("a broken length"))?),
            "transfer-encoding" => chunked = value.trim().eq_ignore_ascii_case("chunked"),
            _ => {}
        }
    }
    let stream = head.into_inner();
    let body: Box<dyn Read> = match length {
        _ if chunked => Box::new(Chunks { stream, left: 0, state: Chunk::First }),
        Some(left) => Box::new(Exactly { stream, left }),
        None => Box::new(stream),
    };
    Ok(Response { status, body })
}

fn line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let text = line.strip_suffix('\n').ok_or_else(|| malformed("the answer ends early"))?;
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// A body of known length; one that ends early is an error, not a short body.
struct Exactly<S> {
    stream: S,
    left: u64,
}

impl<S: Read> Read for Exactly<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = (&mut self.stream).take(self.left).read(buffer)?;
        if got == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(malformed("the answer ends early"));
        }
        self.left -= got as u64;
        Ok(got)
    }
}

/// A body in chunks.
struct Chunks<S> {
    stream: S,
    left: u64,
    state: Chunk,
}

#[derive(Clone, Copy, PartialEq)]
enum Chunk {
    First,
    Within,
    Over,
}

impl<S: BufRead> Chunks<S> {
    fn next_chunk(&mut self) -> io::Result<()> {
        let mut head = (&mut self.stream).take(HEAD_BYTES_MAX);
        if self.state == Chunk::Within && !line(&mut head)?.is_empty() {
            return Err(malformed("a broken chunk"));
        }
        let size = line(&mut head)?;
        let size = size.split(';').next().unwrap_or_default().trim();
        self.left = u64::from_str_radix(size, 16).map_err(|_| malformed("a broken chunk"))?;
        self.state = if self.left == 0 { Chunk::Over } else { Chunk::Within };
        Ok(())
    }
}

impl<S: BufRead> Read for Chunks<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.state != Chunk::Over && self.left == 0 {
            self.next_chunk()?;
        }
        if self.state == Chunk::Over || buffer.is_empty() {
            return Ok(0);
        }
        let got = (&mut self.stream).take(self.left).read(buffer)?;
        if got == 0 {
            return Err(malformed("the answer ends early"));
        }
        self.left -= got as u64;
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body_of(answer: &'static str) -> io::Result<(u16, String)> {
        let mut response = read_response(answer.as_bytes())?;
        let mut text = String::new();
        response.body.read_to_string(&mut text)?;
        Ok((response.status, text))
    }

    #[test]
    fn bodies_with_a_length_in_chunks_and_to_the_end_are_read() {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n",
            "HTTP/1.0 200 OK\r\n\r\nhello",
        ] {
            assert_eq!(body_of(answer).unwrap(), (200, "hello".into()), "{answer}");
        }
    }

    #[test]
    fn answers_that_end_early_or_are_no_http_are_errors() {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nhello",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n",
            "HTTP/1.1 200 OK\r\nContent-Le",
            "SSH-2.0-OpenSSH\r\n\r\n",
            "",
        ] {
            assert!(body_of(answer).is_err(), "{answer}");
        }
    }
}
