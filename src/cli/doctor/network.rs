//! What the doctor looks at on the network: ports that are free, or answer as the daemon does, and who can reach them.

use super::{BlenderDoors, Check, Daemon};
use crate::cli::http::near;
use crate::config::{Loaded, Network};
use crate::formats::pickle::{Policy, read};
use bytes::Bytes;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// How long a door may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// What the three ports of the Blender door are for.
const BLENDER: [&str; 3] = ["commands", "data", "signs of life"];

/// How a client of the TCP transport begins: the length of its identity, which follows, and the role of the line.
const PREAMBLE: &[u8] = b"\0\0\0\x10hotset-doctor---C";

/// Asks what server this is: three chunks, each with its length.
const PROBE: &[u8] = b"\0\0\0\x03\0\0\0\x05\x80\x04K\x0e.\0\0\0\x06doctor\0\0\0\x0d\x80\x04\x8c\x07RQ_INFO\x94.";

/// Most bytes of a chunk of the answer.
const CHUNK_MAX: usize = 4 << 10;

pub(super) fn check(loaded: &Loaded, daemon: &Daemon, checks: &mut Vec<Check>) {
    match daemon {
        Daemon::Stopped => stopped(&loaded.settings.network, checks),
        Daemon::Running { http, blender } => running(*http, blender, checks),
        Daemon::Unknown => checks.push(reach(loaded.settings.network.bind)),
    }
}

/// Whether a daemon with these settings would find its ports free.
fn stopped(network: &Network, checks: &mut Vec<Check>) {
    checks.push(free("HTTP port", "HTTP_PORT", network.bind, network.http_port));
    checks.push(reach(network.bind));
    let doors = network.blender_doors();
    if doors.is_empty() {
        return checks.push(Check::fine("Blender door", "closed: DOORS does not name blender"));
    }
    for door in doors {
        match door.ports() {
            None => checks.push(Check::fine("Blender port", "0: any three free ones are taken")),
            Some(ports) => checks.extend(ports.map(|port| free("Blender port", door.setting(), network.bind, port))),
        }
    }
}

/// Whether the doors of the daemon answer where it says that they are.
fn running(http: SocketAddr, blender: &Result<BlenderDoors, String>, checks: &mut Vec<Check>) {
    checks.push(reach(http.ip()));
    let doors = match blender {
        Ok(doors) => doors,
        Err(why) => {
            let text = format!("not looked at, because the daemon does not say where it is: {why}");
            return checks.push(Check::warning("Blender door", text));
        }
    };
    if doors.is_empty() {
        return checks.push(Check::fine("Blender door", "closed (DOORS)"));
    }
    for (session, addresses) in doors {
        for (address, what) in addresses.iter().zip(BLENDER) {
            checks.push(answers(near(*address), session, what));
        }
        if let Some(first) = addresses.first() {
            checks.push(door(near(*first), session));
        }
    }
}

/// Whether the daemon could listen there.
fn free(name: &'static str, setting: &str, bind: IpAddr, port: u16) -> Check {
    if port == 0 {
        return Check::fine(name, "0: any free one is taken");
    }
    match TcpListener::bind(SocketAddr::new(bind, port)) {
        Ok(_) => Check::fine(name, format!("{port} is free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let text = format!(
                "{port} is in use (ss -tlnp shows by whom). If that is a Hotset with another data directory, give \
                 --data-dir; otherwise stop it or change {setting}"
            );
            Check::failure(name, text)
        }
        Err(error) => Check::failure(name, format!("cannot listen on {bind}, port {port}: {error}")),
    }
}

fn reach(bind: IpAddr) -> Check {
    if bind.is_loopback() {
        let text = format!("only from this machine (BIND {bind}): for others, set BIND=0.0.0.0 and restart");
        return Check::fine("reachable", text);
    }
    Check::fine("reachable", format!("from other machines, at {bind}, as far as firewalls let them"))
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Whether the port greets as ZMTP does.
fn answers(address: SocketAddr, session: &str, what: &str) -> Check {
    let port = address.port();
    let greeted = || {
        let mut stream = connect(address)?;
        stream.write_all(b"\xff\0\0\0\0\0\0\0\x01\x7f\x03")?;
        let mut signature = [0; 10];
        stream.read_exact(&mut signature)?;
        Ok::<_, io::Error>(signature)
    };
    match greeted() {
        Ok([0xff, .., 0x7f]) => Check::fine("Blender port", format!("{port} (session {session}, {what}) answers")),
        Ok(_) => Check::failure("Blender port", format!("{port} answers, but is not the Blender door")),
        Err(error) => {
            let text =
                format!("{port} (session {session}, {what}) does not answer: {error}. The log says where the door is");
            Check::failure("Blender port", text)
        }
    }
}

/// Whether the door says what it is, to clients of the newer library.
fn door(address: SocketAddr, session: &str) -> Check {
    match probe(address) {
        Ok(version) => {
            Check::fine("Blender door", format!("of session {session} answers a probe as version {version}"))
        }
        Err(error) => Check::failure("Blender door", format!("of session {session} does not answer a probe: {error}")),
    }
}

fn probe(address: SocketAddr) -> io::Result<String> {
    let mut stream = connect(address)?;
    stream.write_all(PREAMBLE)?;
    stream.write_all(PROBE)?;
    let chunks = number(&mut stream)?;
    let mut last = Vec::new();
    for _ in 0..chunks.min(8) {
        let length = number(&mut stream)?;
        if length > CHUNK_MAX {
            return Err(io::Error::other("the answer is too long"));
        }
        last = vec![0; length];
        stream.read_exact(&mut last)?;
    }
    let answer = read(&Bytes::from(last), &Policy::DATA_ONLY).map_err(|error| io::Error::other(error.to_string()))?;
    let version = answer.get("version").and_then(|version| version.as_text());
    version.map(str::to_owned).ok_or_else(|| io::Error::other("the answer names no version"))
}

fn number(stream: &mut TcpStream) -> io::Result<usize> {
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes)?;
    usize::try_from(u32::from_be_bytes(bytes)).map_err(io::Error::other)
}
