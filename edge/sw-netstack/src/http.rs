//! HTTP proxy: CONNECT, and plain requests with an absolute URL.

use crate::proxy::{Dial, DialError, Target};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;

/// Bytes of a request's head (threat-model.md §4).
const HEAD_MAX: usize = 64 * 1_024;
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves one client.
pub(crate) async fn serve(mut client: TcpStream, dial: &dyn Dial) -> io::Result<()> {
    let (head, rest) = tokio::time::timeout(HEAD_TIMEOUT, read_head(&mut client)).await??;
    let Some(request) = Request::parse(&head) else {
        return answer(&mut client, "400 Bad Request", "this is a proxy: use CONNECT or an absolute URL")
            .await;
    };
    let mut stream = match dial.dial(request.target.clone()).await {
        Ok(stream) => stream,
        Err(error) => {
            let status = if error == DialError::NotAllowed { "403 Forbidden" } else { "502 Bad Gateway" };
            return answer(&mut client, status, &format!("{}: {error}", request.target)).await;
        }
    };
    match &request.forwarded_head {
        None => client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?,
        Some(head) => stream.write_all(head.as_bytes()).await?,
    }
    stream.write_all(&rest).await?;
    copy_bidirectional(&mut client, &mut stream).await?;
    Ok(())
}

/// Bytes up to the empty line, and what came behind it.
async fn read_head(client: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let rest = bytes.split_off(at + 4);
            let head = String::from_utf8(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
            return Ok((head, rest));
        }
        if bytes.len() >= HEAD_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the request's head is too long"));
        }
        if client.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

struct Request {
    target: Target,
    /// The head to send on, in origin form and for this one request; `None` for CONNECT.
    forwarded_head: Option<String>,
}

impl Request {
    fn parse(head: &str) -> Option<Self> {
        let (line, headers) = head.split_once("\r\n")?;
        let mut words = line.split(' ');
        let (method, url, version) = (words.next()?, words.next()?, words.next()?);
        if method == "CONNECT" {
            return Some(Self { target: Target::parse(url, 443)?, forwarded_head: None });
        }
        let after_scheme = url.strip_prefix("http://")?;
        let (authority, path) = match after_scheme.find(['/', '?']) {
            Some(at) => after_scheme.split_at(at),
            None => (after_scheme, "/"),
        };
        let slash = if path.starts_with('?') { "/" } else { "" };
        // One request per connection: a second one could be for another host.
        let kept: String = headers.split_inclusive("\r\n").filter(|line| !is_hop_by_hop(line)).collect();
        let kept = kept.strip_suffix("\r\n").unwrap_or(&kept);
        let forwarded = format!("{method} {slash}{path} {version}\r\n{kept}Connection: close\r\n\r\n");
        Some(Self { target: Target::parse(authority, 80)?, forwarded_head: Some(forwarded) })
    }
}

fn is_hop_by_hop(line: &str) -> bool {
    let name = line.split(':').next().unwrap_or_default().trim().to_ascii_lowercase();
    ["connection", "proxy-connection", "proxy-authorization", "keep-alive"].contains(&name.as_str())
}

async fn answer(client: &mut TcpStream, status: &str, text: &str) -> io::Result<()> {
    let body = format!("{text}\n");
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    client.write_all(format!("{head}{body}").as_bytes()).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socks::tests::Birch;
    use std::sync::Arc;
    use tokio::net::TcpListener;

    #[test]
    fn an_absolute_url_is_sent_on_in_origin_form() {
        let request =
            Request::parse("GET http://birch/a?b=1 HTTP/1.1\r\nHost: birch\r\nProxy-Connection: x\r\n\r\n")
                .expect("valid");
        assert_eq!(request.target, Target::Name("birch".into(), 80));
        assert_eq!(
            request.forwarded_head.expect("not CONNECT"),
            "GET /a?b=1 HTTP/1.1\r\nHost: birch\r\nConnection: close\r\n\r\n"
        );
        assert!(Request::parse("GET / HTTP/1.1\r\n\r\n").is_none(), "we are no origin server");
    }

    async fn ask(request: &[u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let to = listener.local_addr().expect("bound");
        let server = tokio::spawn(crate::serve_proxy(listener, Arc::new(Birch)));
        let mut client = TcpStream::connect(to).await.expect("connects");
        client.write_all(request).await.expect("writes");
        client.shutdown().await.expect("closes");
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("reads");
        server.abort();
        answer
    }

    #[tokio::test]
    async fn connect_and_plain_requests_arrive() {
        assert!(
            ask(b"CONNECT birch:80 HTTP/1.1\r\n\r\n")
                .await
                .starts_with("HTTP/1.1 200 Connection established")
        );
        assert!(ask(b"GET http://birch/ HTTP/1.1\r\n\r\n").await.ends_with("birch"));
        assert!(ask(b"GET http://oak/ HTTP/1.1\r\n\r\n").await.contains("502 Bad Gateway"));
        assert!(ask(b"GET / HTTP/1.1\r\n\r\n").await.contains("400 Bad Request"));
    }
}
