//! `dial`: a connection into the network for a program on this machine (localapi-cli.md §A3).

use http::{HeaderMap, Response, StatusCode, header};
use hyper_util::rt::TokioIo;

use super::{ResponseBody, text};
use crate::core::{CoreHandle, Stopped};
use crate::dialer::{self, Place};

const UPGRADE: &str = "ts-dial";

/// Opens what the headers ask for and joins the two streams; `upgrade` is the caller's end.
pub(super) async fn dial(
    core: &CoreHandle,
    headers: &HeaderMap,
    upgrade: Option<hyper::upgrade::OnUpgrade>,
) -> Result<Response<ResponseBody>, Stopped> {
    let value = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !value("upgrade").eq_ignore_ascii_case(UPGRADE) {
        return Ok(text(StatusCode::BAD_REQUEST, "bad ts-dial upgrade"));
    }
    let network = value("dial-network");
    if !matches!(network, "" | "tcp" | "tcp4" | "tcp6") {
        return Ok(text(StatusCode::BAD_REQUEST, "only tcp is dialled"));
    }
    let host = value("dial-host").to_owned();
    let (Ok(port), false, Some(upgrade)) = (value("dial-port").parse(), host.is_empty(), upgrade) else {
        return Ok(text(StatusCode::BAD_REQUEST, "missing Dial-Host or Dial-Port header"));
    };
    let to = match dialer::find(core, &host, port).await? {
        Place::Inside(to) => to,
        Place::Outside(to) => return Ok(dial_self(&to.to_string())),
        Place::Unknown => return Ok(text(StatusCode::BAD_GATEWAY, format!("no such name: {host}"))),
    };
    let mut inside = match dialer::dial(core, to).await {
        Ok(stream) => stream,
        Err(error) => return Ok(text(StatusCode::BAD_GATEWAY, error.to_string())),
    };
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let mut caller = TokioIo::new(upgraded);
        if let Err(error) = tokio::io::copy_bidirectional(&mut caller, &mut inside).await {
            tracing::trace!(%error, "a dialled connection ended");
        }
    });
    let mut response = text(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_TYPE);
    headers.insert(header::UPGRADE, http::HeaderValue::from_static(UPGRADE));
    headers.insert(header::CONNECTION, http::HeaderValue::from_static("upgrade"));
    Ok(response)
}

/// The caller reaches it without us.
fn dial_self(address: &str) -> Response<ResponseBody> {
    let mut response = text(StatusCode::OK, "");
    if let Ok(address) = http::HeaderValue::from_str(address) {
        response.headers_mut().insert("dial-self", http::HeaderValue::from_static("true"));
        response.headers_mut().insert("dial-addr", address);
    }
    response
}
