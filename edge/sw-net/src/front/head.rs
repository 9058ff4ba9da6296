//! The head of a connection's first request: read, checked, parsed, before anything is done with it.
//!
//! Stricter than the HTTP library behind it: what two programs could read differently is refused (threat-model.md §9).

use std::io;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version};
use tokio::io::AsyncReadExt;

use super::Io;

/// Longest head (threat-model.md §4).
pub(super) const HEAD_MAX: usize = 64 << 10;

/// Most header fields (threat-model.md §4).
pub(super) const HEADERS_MAX: usize = 100;

/// Longest request line (threat-model.md §4).
const REQUEST_LINE_MAX: usize = 8 << 10;

/// Why there is no head.
#[derive(Debug)]
pub(super) enum HeadError {
    /// The connection ended or failed; nothing to say.
    Gone,
    /// To be answered with this status, then closed.
    Refused(StatusCode),
}

impl From<io::Error> for HeadError {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// Reads up to the end of the head. The bytes begin with it and may go beyond it.
pub(super) async fn read(io: &mut Io) -> Result<(Bytes, usize), HeadError> {
    let mut bytes = BytesMut::with_capacity(2048);
    loop {
        if io.read_buf(&mut bytes).await? == 0 {
            return Err(HeadError::Gone);
        }
        if let Some(end) = find_end(&bytes) {
            return Ok((bytes.freeze(), end));
        }
        if bytes.len() > REQUEST_LINE_MAX && !bytes.iter().take(REQUEST_LINE_MAX).any(|byte| *byte == b'\n') {
            return Err(HeadError::Refused(StatusCode::URI_TOO_LONG));
        }
        if bytes.len() >= HEAD_MAX {
            return Err(HeadError::Refused(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
        }
        bytes.reserve(2048);
    }
}

fn find_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

/// Parses a head as [`read`] found it.
pub(super) fn parse(head: &[u8]) -> Result<Request<()>, StatusCode> {
    if head.iter().zip(head.iter().skip(1)).any(|(before, byte)| *byte == b'\n' && *before != b'\r') {
        return Err(StatusCode::BAD_REQUEST);
    }
    let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut fields);
    match parsed.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        Ok(httparse::Status::Partial) | Err(_) => return Err(StatusCode::BAD_REQUEST),
    }
    let bad = StatusCode::BAD_REQUEST;
    let method = Method::from_bytes(parsed.method.ok_or(bad)?.as_bytes()).map_err(|_| bad)?;
    let target = parsed.path.ok_or(bad)?;
    if target.len() > REQUEST_LINE_MAX {
        return Err(StatusCode::URI_TOO_LONG);
    }
    let uri: Uri = target.parse().map_err(|_| bad)?;
    let mut headers = HeaderMap::with_capacity(parsed.headers.len());
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| bad)?;
        headers.append(name, HeaderValue::from_bytes(field.value).map_err(|_| bad)?);
    }
    let lengths = headers.get_all(http::header::CONTENT_LENGTH).iter().count();
    let chunked = headers.contains_key(http::header::TRANSFER_ENCODING);
    if lengths > 1 || lengths == 1 && chunked {
        return Err(bad);
    }
    let mut request = Request::new(());
    *request.version_mut() = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_head_is_parsed() {
        let head = parse(b"GET /derp?x=1 HTTP/1.1\r\nHost: a\r\nUpgrade: DERP\r\n\r\n").unwrap();
        assert_eq!(head.uri().path(), "/derp");
        assert_eq!(head.headers()["upgrade"], "DERP");
    }

    #[test]
    fn what_two_programs_could_read_differently_is_refused() {
        let refused = [
            &b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n"[..],
            b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"GET / HTTP/1.1\nHost: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n",
            b"GET / HTTP/1.1\r\nA : b\r\n\r\n",
            b"GET /\0 HTTP/1.1\r\n\r\n",
        ];
        for head in refused {
            assert_eq!(parse(head).unwrap_err(), StatusCode::BAD_REQUEST, "{}", head.escape_ascii());
        }
    }

    #[test]
    fn the_number_of_headers_has_a_limit() {
        let with = |count: usize| {
            let mut head = b"GET / HTTP/1.1\r\n".to_vec();
            (0..count).for_each(|_| head.extend_from_slice(b"a: b\r\n"));
            head.extend_from_slice(b"\r\n");
            parse(&head).map(|_| ())
        };
        assert_eq!(with(HEADERS_MAX), Ok(()));
        assert_eq!(with(HEADERS_MAX + 1), Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
    }

    #[test]
    fn arbitrary_heads_never_panic() {
        arbtest::arbtest(|u| {
            let bytes: Vec<u8> = u.arbitrary()?;
            let _ = parse(&bytes).is_ok();
            let _ = parse(&[b"GET / HTTP/1.1\r\n", &bytes[..], b"\r\n\r\n"].concat()).is_ok();
            Ok(())
        });
    }
}
