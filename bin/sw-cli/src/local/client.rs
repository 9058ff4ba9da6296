//! A small blocking client of the LocalAPI: HTTP/1.1 over a Unix socket (localapi-cli.md §A1).
//!
//! A command makes a few requests and ends; without a runtime it starts in a millisecond.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sw_types::local::{LOCAL_HOST, OFFICIAL_SOCKET_PATH, Problem, SOCKET_PATH};
use sw_types::problem::Slug;

/// Root's state.
const STATE_DIR: &str = "/var/lib/samewire";
/// Is there when systemd is the service manager.
const SYSTEMD_RUNS: &str = "/run/systemd/system";
/// Longest head of a response.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Longest body that is read whole; a netmap of 10,000 peers has some 20 MiB.
const BODY_BYTES_MAX: u64 = 256 << 20;
/// The feature level this client speaks.
const CAP_VERSION: u16 = 145;

/// Reaches the daemon.
#[derive(Debug, Clone)]
pub struct Client {
    candidates: Vec<PathBuf>,
    /// No socket was named.
    is_default: bool,
}

/// A response whose head has been read.
#[derive(Debug)]
pub struct Response {
    status: u16,
    headers: Vec<(String, String)>,
    body: Body,
}

/// The body's bytes, without the transfer encoding.
#[derive(Debug)]
struct Body {
    reader: BufReader<UnixStream>,
    framing: Framing,
}

#[derive(Debug)]
enum Framing {
    Chunked { left: u64, is_done: bool },
    Length(u64),
    UntilClosed,
}

impl Client {
    /// `socket` alone if given; else `SAMEWIRE_SOCKET`, the system's, the user's; an official command name asks the
    /// official path first (architecture.md §10.1).
    pub fn new(socket: Option<&Path>, is_official_name: bool) -> Self {
        if let Some(socket) = socket {
            return Self { candidates: vec![socket.to_owned()], is_default: false };
        }
        let mut candidates = Vec::new();
        if is_official_name {
            candidates.push(PathBuf::from(OFFICIAL_SOCKET_PATH));
        }
        if let Some(socket) = std::env::var_os("SAMEWIRE_SOCKET") {
            candidates.push(PathBuf::from(socket));
        }
        candidates.push(PathBuf::from(SOCKET_PATH));
        // Where a daemon without root listens.
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let cache = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
        if let Some(directory) = runtime.or_else(cache) {
            candidates.push(directory.join("samewire/samewire.sock"));
        }
        Self { candidates, is_default: true }
    }

    /// The path that is named when nothing answers.
    pub fn socket_name(&self) -> String {
        self.candidates.first().map(|path| path.display().to_string()).unwrap_or_default()
    }

    fn connect(&self) -> Result<UnixStream, Problem> {
        let mut denied = false;
        for path in &self.candidates {
            match UnixStream::connect(path) {
                Ok(stream) => return Ok(stream),
                Err(error) => denied |= error.kind() == io::ErrorKind::PermissionDenied,
            }
        }
        if denied {
            return Err(no_permission());
        }
        Err(self.nobody_there())
    }

    fn nobody_there(&self) -> Problem {
        if self.is_default && is_unknown_here() {
            return Slug::NotSetUp.problem(&[("dir", STATE_DIR)]);
        }
        let problem = Slug::DaemonNotRunning.problem(&[("socket", &self.socket_name())]);
        // A fix must be one that works here.
        if !self.is_default {
            let socket = self.socket_name();
            let fix = format!("start it: samewire daemon --socket={socket}, or check the path");
            return Problem { fix, ..problem };
        }
        if Path::new(SYSTEMD_RUNS).is_dir() {
            problem
        } else {
            Problem { fix: "sudo samewire up".to_owned(), ..problem }
        }
    }

    /// Sends a request and reads the head of the answer. `path` begins with `/localapi/`.
    pub fn send(&self, method: &str, path: &str, body: Option<&[u8]>) -> Result<Response, Problem> {
        self.send_with(method, path, body, &[], None)
    }

    /// As [`Self::send`], with more headers and a limit on each wait for bytes.
    pub fn send_with(
        &self,
        method: &str,
        path: &str,
        body: Option<&[u8]>,
        headers: &[(&str, &str)],
        read_timeout: Option<Duration>,
    ) -> Result<Response, Problem> {
        let mut stream = self.connect()?;
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nHost: {LOCAL_HOST}\r\nTailscale-Cap: {CAP_VERSION}\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("connection")) {
            head.push_str("Connection: close\r\n");
        }
        for (name, value) in headers {
            let _infallible = write!(head, "{name}: {value}\r\n");
        }
        if let Some(body) = body {
            let _infallible = write!(head, "Content-Length: {}\r\n", body.len());
        } else if method != "GET" {
            head.push_str("Content-Length: 0\r\n");
        }
        head.push_str("\r\n");
        let exchange = || -> io::Result<Response> {
            stream.set_read_timeout(read_timeout)?;
            stream.write_all(head.as_bytes())?;
            stream.write_all(body.unwrap_or_default())?;
            Response::read(stream)
        };
        exchange().map_err(|error| broken(&error))
    }

    /// PUTs what a reader gives, `size` bytes of it, or all until its end.
    pub fn upload(&self, path: &str, mut content: impl Read, size: Option<u64>) -> Result<Response, Problem> {
        let mut stream = self.connect()?;
        let framing = size.map_or_else(
            || "Transfer-Encoding: chunked".to_owned(),
            |size| format!("Content-Length: {size}"),
        );
        let head = format!(
            "PUT {path} HTTP/1.1\r\nHost: {LOCAL_HOST}\r\nTailscale-Cap: {CAP_VERSION}\r\nConnection: close\r\n{framing}\r\n\r\n"
        );
        let mut exchange = || -> io::Result<Response> {
            stream.write_all(head.as_bytes())?;
            let mut buffer = vec![0; 64 << 10];
            let mut left = size.unwrap_or(u64::MAX);
            loop {
                let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                let read = content.read(&mut buffer[..wanted])?;
                if read == 0 {
                    break;
                }
                left -= read as u64;
                // Whoever refuses says so before it has read everything.
                let sent = if size.is_some() {
                    stream.write_all(&buffer[..read])
                } else {
                    write!(stream, "{read:x}\r\n")
                        .and_then(|()| stream.write_all(&buffer[..read]))
                        .and_then(|()| stream.write_all(b"\r\n"))
                };
                if sent.is_err() {
                    return Response::read(stream.try_clone()?);
                }
            }
            if size.is_none() {
                stream.write_all(b"0\r\n\r\n")?;
            }
            Response::read(stream.try_clone()?)
        };
        exchange().map_err(|error| broken(&error))
    }

    /// GETs a JSON document.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Problem> {
        self.send("GET", path, None)?.ok()?.json()
    }

    /// Sends a JSON body and reads a JSON answer.
    pub fn exchange<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Problem> {
        let body = serde_json::to_vec(body).map_err(|error| Problem::other(error.to_string(), "", ""))?;
        self.send(method, path, Some(&body))?.ok()?.json()
    }

    /// Sends a request whose answer has no content that matters.
    pub fn command(&self, method: &str, path: &str, body: Option<&[u8]>) -> Result<(), Problem> {
        self.send(method, path, body)?.ok().map(|_| ())
    }
}

impl Response {
    fn read(stream: UnixStream) -> io::Result<Self> {
        let mut reader = BufReader::new(stream);
        let mut lines = VecDeque::new();
        let mut total = 0;
        loop {
            let mut line = String::new();
            let read = (&mut reader).take(HEAD_BYTES_MAX as u64).read_line(&mut line)?;
            total += read;
            if read == 0 || total > HEAD_BYTES_MAX {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            lines.push_back(line.to_owned());
        }
        let status = lines
            .pop_front()
            .and_then(|line| line.split(' ').nth(1)?.parse().ok())
            .ok_or(io::ErrorKind::InvalidData)?;
        let headers: Vec<(String, String)> = lines
            .iter()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let header =
            |name: &str| headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let framing =
            if header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
                Framing::Chunked { left: 0, is_done: false }
            } else if let Some(length) = header("content-length").and_then(|value| value.parse().ok()) {
                Framing::Length(length)
            } else if matches!(status, 204 | 304) {
                Framing::Length(0)
            } else {
                Framing::UntilClosed
            };
        Ok(Self { status, headers, body: Body { reader, framing } })
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// A header's value; `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Turns an error status into the problem that the daemon tells.
    pub fn ok(self) -> Result<Self, Problem> {
        if (200..300).contains(&self.status) {
            return Ok(self);
        }
        let status = self.status;
        let text = String::from_utf8_lossy(&self.bytes()?).trim().to_owned();
        Err(problem_of_error(status, &text))
    }

    /// Reads the whole body.
    pub fn bytes(mut self) -> Result<Vec<u8>, Problem> {
        let mut bytes = Vec::new();
        self.body.by_ref().take(BODY_BYTES_MAX).read_to_end(&mut bytes).map_err(|error| broken(&error))?;
        Ok(bytes)
    }

    /// Hands the body on as it comes, until its end.
    pub fn copy_to(mut self, out: &mut impl Write) -> io::Result<()> {
        let mut buffer = [0; 16 << 10];
        loop {
            let read = self.body.read(&mut buffer)?;
            if read == 0 {
                return Ok(());
            }
            out.write_all(&buffer[..read])?;
            out.flush()?;
        }
    }

    /// Reads the whole body as text.
    pub fn text(self) -> Result<String, Problem> {
        Ok(String::from_utf8_lossy(&self.bytes()?).into_owned())
    }

    /// Reads the whole body as JSON.
    pub fn json<T: DeserializeOwned>(self) -> Result<T, Problem> {
        serde_json::from_slice(&self.bytes()?).map_err(|error| {
            Problem::other(
                "the answer of the daemon was not understood.",
                error.to_string(),
                "restart it, so that command and daemon are of one version: sudo systemctl restart samewire",
            )
        })
    }

    /// Reads a stream of lines; each call waits for the next one. `Ok(None)` at the end.
    pub fn next_line(&mut self) -> io::Result<Option<String>> {
        let mut line = Vec::new();
        let mut byte = [0];
        while self.body.read(&mut byte)? == 1 {
            if byte[0] == b'\n' {
                return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
            }
            line.push(byte[0]);
        }
        Ok((!line.is_empty()).then(|| String::from_utf8_lossy(&line).into_owned()))
    }

    /// Limits how long the next reads wait.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.body.reader.get_ref().set_read_timeout(timeout)
    }

    /// After a 101: what was read too far, and the stream.
    pub fn into_stream(self) -> (Vec<u8>, UnixStream) {
        let rest = self.body.reader.buffer().to_vec();
        (rest, self.body.reader.into_inner())
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.framing {
            Framing::UntilClosed => self.reader.read(buffer),
            Framing::Length(left) => {
                let limit = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                if limit == 0 {
                    return Ok(0);
                }
                let read = self.reader.read(&mut buffer[..limit])?;
                *left -= read as u64;
                Ok(read)
            }
            Framing::Chunked { is_done: true, .. } => Ok(0),
            Framing::Chunked { left, is_done } => {
                if *left == 0 {
                    *left = next_chunk(&mut self.reader)?;
                    if *left == 0 {
                        *is_done = true;
                        return Ok(0);
                    }
                }
                let limit = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                let read = self.reader.read(&mut buffer[..limit])?;
                *left -= read as u64;
                if *left == 0 {
                    self.reader.read_exact(&mut [0; 2])?; // the line end after the chunk
                }
                Ok(read)
            }
        }
    }
}

fn next_chunk(reader: &mut impl BufRead) -> io::Result<u64> {
    let mut line = String::new();
    reader.take(64).read_line(&mut line)?;
    let digits = line.trim().split(';').next().unwrap_or_default();
    u64::from_str_radix(digits, 16).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Reads what the daemon says: our JSON, the official JSON forms, or plain text.
fn problem_of_error(status: u16, text: &str) -> Problem {
    #[derive(serde::Deserialize)]
    struct Ours {
        error: Problem,
    }
    if let Ok(Ours { error }) = serde_json::from_str(text) {
        return error;
    }
    let json: Option<serde_json::Value> = serde_json::from_str(text).ok();
    let told = json
        .as_ref()
        .and_then(|json| json.get("Error").or_else(|| json.get("error"))?.as_str())
        .unwrap_or(text);
    if status == 403 {
        return no_permission();
    }
    let told =
        if told.is_empty() { format!("the daemon answers with status {status}") } else { told.to_owned() };
    let fix = if status == 404 {
        "this daemon does not offer it; samewire version --daemon says which it is"
    } else {
        "see: samewire status"
    };
    Problem::other(if told.ends_with('.') { told } else { format!("{told}.") }, "", fix)
}

/// Whether no daemon of this user or of root ever ran here. What may not be looked at may be there.
fn is_unknown_here() -> bool {
    let is_absent = |path: &Path| matches!(path.try_exists(), Ok(false));
    let own = std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state")));
    is_absent(Path::new(STATE_DIR)) && own.is_none_or(|own| is_absent(&own.join("samewire")))
}

/// The caller may not do this.
pub(super) fn no_permission() -> Problem {
    let user = std::env::var("USER").unwrap_or_else(|_| "not root".to_owned());
    let words: Vec<String> = std::env::args().skip(1).collect();
    Slug::NoPermission.problem(&[("user", &user), ("operator", "not set"), ("words", &words.join(" "))])
}

fn broken(error: &io::Error) -> Problem {
    Problem::other(
        "the connection to the daemon broke.",
        error.to_string(),
        "see what it says: journalctl -u samewire -n 20",
    )
}

/// Escapes a query value.
pub(super) fn escape(value: &str) -> String {
    let mut text = String::new();
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _infallible = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(bytes: &'static [u8]) -> Response {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        theirs.write_all(bytes).expect("it fits the buffer");
        drop(theirs);
        Response::read(ours).expect("a response")
    }

    #[test]
    fn bodies_are_read_in_all_three_framings() {
        let chunked =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n";
        assert_eq!(response(chunked).text().expect("a body"), "abcde");
        assert_eq!(
            response(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabc").text().expect("a body"),
            "ab"
        );
        assert_eq!(response(b"HTTP/1.1 200 OK\r\n\r\nabc").text().expect("a body"), "abc");
        assert_eq!(response(b"HTTP/1.1 204 No Content\r\n\r\n").text().expect("a body"), "");
    }

    #[test]
    fn errors_are_read_in_every_form() {
        assert_eq!(problem_of_error(500, r#"{"error":"no netmap"}"#).what, "no netmap.");
        assert_eq!(problem_of_error(400, r#"{"Error":"bad."}"#).what, "bad.");
        assert_eq!(problem_of_error(403, "denied").slug, "no-permission");
        let ours = r#"{"error":{"slug":"no-tun","what":"w","why":"y","fix":"f"}}"#;
        assert_eq!(problem_of_error(500, ours).fix, "f");
    }

    #[test]
    fn query_values_are_escaped() {
        assert_eq!(escape("100.64.0.1:80/ä"), "100.64.0.1%3A80%2F%C3%A4");
    }
}
