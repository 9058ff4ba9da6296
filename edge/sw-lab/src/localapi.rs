//! Asks a machine's daemon, ours or the official one, over its local socket (`localapi-cli.md` part A).

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

/// Longest answer that is read, bytes.
const ANSWER_LEN_MAX: u64 = 16 << 20;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A daemon's local socket.
#[derive(Clone, Debug)]
pub struct LocalApi {
    socket: PathBuf,
}

impl LocalApi {
    /// Returns the client of the daemon behind `socket`; nothing is opened yet.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Returns the daemon's status, or nothing when it does not answer (yet).
    pub fn status(&self) -> Option<Value> {
        self.get("/localapi/v0/status")
    }

    /// Returns the JSON answer to `GET path`.
    pub fn get(&self, path: &str) -> Option<Value> {
        let mut stream = UnixStream::connect(&self.socket).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.set_write_timeout(Some(PATIENCE)).ok()?;
        // HTTP/1.0: the answer is not chunked and ends with the connection.
        let request = format!("GET {path} HTTP/1.0\r\nHost: local-tailscaled.sock\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = Vec::new();
        stream.take(ANSWER_LEN_MAX).read_to_end(&mut answer).ok()?;
        parse_answer(&answer)
    }

    /// Tells whether the daemon is connected: it has a network map and a home relay.
    pub fn is_running(&self) -> bool {
        self.status().is_some_and(|s| {
            s["BackendState"] == "Running" && s["Self"]["Relay"].as_str().is_some_and(|r| !r.is_empty())
        })
    }

    /// Returns what the daemon knows of the machine with that host name.
    pub fn peer(&self, name: &str) -> Option<Value> {
        let status = self.status()?;
        let peers = status["Peer"].as_object()?;
        peers.values().find(|p| is_called(p, name)).cloned()
    }

    /// Returns the machine's own first address.
    pub fn own_address(&self) -> Option<String> {
        let status = self.status()?;
        if status["BackendState"] != "Running" {
            return None;
        }
        Some(status["TailscaleIPs"].as_array()?.first()?.as_str()?.to_owned())
    }

    /// Returns the address and port by which packets to that machine go directly, if they do.
    pub fn direct_address(&self, name: &str) -> Option<String> {
        let peer = self.peer(name)?;
        peer["CurAddr"].as_str().filter(|a| !a.is_empty()).map(str::to_owned)
    }
}

fn is_called(peer: &Value, name: &str) -> bool {
    let host = peer["HostName"].as_str().is_some_and(|h| h.eq_ignore_ascii_case(name));
    host || peer["DNSName"].as_str().is_some_and(|d| d.split('.').next() == Some(name))
}

/// Takes the body out of an answer with status 200.
fn parse_answer(answer: &[u8]) -> Option<Value> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
    let (head, body) = answer.split_at_checked(end + 4)?;
    let status_line = head.split(|b| *b == b'\r').next()?;
    if status_line.split(|b| *b == b' ').nth(1)? != b"200" {
        return None;
    }
    serde_json::from_slice(body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_good_answer_has_a_body() {
        let good = parse_answer(b"HTTP/1.0 200 OK\r\nA: b\r\n\r\n{\"BackendState\":\"Running\"}");
        assert_eq!(good, Some(serde_json::json!({"BackendState": "Running"})));
        assert_eq!(parse_answer(b"HTTP/1.0 403 Forbidden\r\n\r\n{}"), None);
        assert_eq!(parse_answer(b"HTTP/1.0 200 OK\r\n"), None);
    }
}
