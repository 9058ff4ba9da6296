//! Answers, forms and cookies.

use ::http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body as _, Incoming};
use std::collections::BTreeMap;
use std::io::Write as _;
use sw_net::front::{Body, full};

/// Bytes of a form; a policy text is the longest (threat-model.md §4).
const FORM_MAX: usize = 4 << 20;

/// No script or style but ours, no frames, nothing from elsewhere (threat-model.md §9).
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// A page.
pub(crate) fn html(status: StatusCode, text: String) -> Response<Body> {
    with_type(status, "text/html; charset=utf-8", text)
}

/// Plain text.
pub(crate) fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    with_type(status, "text/plain; charset=utf-8", text)
}

/// JSON.
pub(crate) fn json(value: &impl serde::Serialize) -> Response<Body> {
    let text = serde_json::to_vec(value).expect("our own values serialise");
    with_type(StatusCode::OK, "application/json", text)
}

/// A body of any type.
pub(crate) fn with_type(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Sends the browser on with a GET.
pub(crate) fn see_other(to: &str) -> Response<Body> {
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::SEE_OTHER;
    // A location we built ourselves; a name with odd characters was escaped as a segment.
    let location = HeaderValue::from_str(to).unwrap_or(HeaderValue::from_static("/machines"));
    response.headers_mut().insert(header::LOCATION, location);
    response
}

/// Whether the browser takes gzip, the one coding that all take over plain http too.
pub(crate) fn takes_gzip(headers: &HeaderMap) -> bool {
    let accepted =
        headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accepted.split(',').any(|coding| coding.trim() == "gzip")
}

/// The same answer in fewer bytes, if it is text of a known length.
///
/// A secret beside reflected text could be guessed by the length of many answers (BREACH). Not here: the session's
/// cookie is strict, so another site cannot have such pages made.
pub(crate) async fn gzipped(response: Response<Body>) -> Response<Body> {
    const WORTH_IT: u64 = 1_024;
    let of_text = |kind: &HeaderValue| {
        kind.to_str().is_ok_and(|kind| {
            kind.starts_with("text/html")
                || kind.starts_with("text/css")
                || kind.starts_with("text/javascript")
        })
    };
    let is_text = response.headers().get(header::CONTENT_TYPE).is_some_and(of_text);
    if !is_text || response.body().size_hint().exact().is_none_or(|len| len < WORTH_IT) {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let Ok(body) = body.collect().await else {
        return text(StatusCode::INTERNAL_SERVER_ERROR, "the answer broke off\n");
    };
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(5));
    let packed = encoder.write_all(&body.to_bytes()).and_then(|()| encoder.finish());
    head.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    head.headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    Response::from_parts(head, full(packed.expect("writing into memory does not fail")))
}

/// The headers of every answer of the page.
pub(crate) fn harden(response: &mut Response<Body>, is_https: bool) {
    let headers = response.headers_mut();
    let mut set = |name: HeaderName, value: &'static str| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    set(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY);
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::REFERRER_POLICY, "no-referrer");
    set(header::X_FRAME_OPTIONS, "DENY");
    set(header::CACHE_CONTROL, "no-store");
    set(HeaderName::from_static("cross-origin-opener-policy"), "same-origin");
    if is_https {
        set(header::STRICT_TRANSPORT_SECURITY, "max-age=31536000");
    }
}

/// Fields of a form or a query; of a repeated one the last counts.
#[derive(Debug, Default)]
pub(crate) struct Fields(BTreeMap<String, String>);

impl Fields {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        Self(form_urlencoded::parse(bytes).map(|(k, v)| (k.into_owned(), v.into_owned())).collect())
    }

    /// The value without space around it; empty when the field is missing.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.raw(name).trim()
    }

    /// The value as it came.
    pub(crate) fn raw(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        !self.get(name).is_empty()
    }
}

/// Reads a form's body; `None` when it is too long or breaks off.
pub(crate) async fn read_form(request: Request<Incoming>) -> Option<Fields> {
    let body = Limited::new(request.into_body(), FORM_MAX).collect().await.ok()?;
    Some(Fields::parse(&body.to_bytes()))
}

/// The value of a cookie.
pub(crate) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let all = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|line| line.split(';')).find_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, HeaderValue::from_static("theme=dark; sw=abc; swx=no"));
        assert_eq!(cookie(&headers, "sw"), Some("abc"));
        assert_eq!(cookie(&headers, "none"), None);
    }

    #[test]
    fn fields_are_decoded_and_trimmed() {
        let fields = Fields::parse(b"name=+attic%2Dnas+&empty=");
        assert_eq!(fields.get("name"), "attic-nas");
        assert!(!fields.has("empty") && !fields.has("missing"));
    }
}
