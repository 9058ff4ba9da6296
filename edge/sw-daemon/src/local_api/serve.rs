//! `serve-config`: what this node serves (localapi-cli.md §A3).

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use sw_types::local::ServeConfig;

use super::{Caller, ResponseBody, json, text};
use crate::core::{CoreHandle, Stopped};

pub(super) async fn answer(
    core: &CoreHandle,
    caller: Caller,
    request: &Request<Bytes>,
) -> Result<Response<ResponseBody>, Stopped> {
    let present = core.call(|core| core.serving.config().clone()).await?;
    let tag = tag_of(&present);
    if *request.method() != Method::POST {
        let mut response = json(&present);
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            response.headers_mut().insert(header::ETAG, tag);
        }
        return Ok(response);
    }
    let wanted = match serde_json::from_slice::<Option<ServeConfig>>(request.body()) {
        Ok(wanted) => wanted.unwrap_or_default(),
        Err(error) => return Ok(text(StatusCode::BAD_REQUEST, format!("the configuration: {error}"))),
    };
    let expected = request.headers().get(header::IF_MATCH).and_then(|tag| tag.to_str().ok());
    if expected.is_some_and(|expected| !expected.is_empty() && expected != tag) {
        return Ok(text(StatusCode::PRECONDITION_FAILED, "somebody else changed what is served; look again"));
    }
    // Files and sockets are opened with the daemon's rights.
    if wanted.needs_root() && wanted != present && !caller.is_daemons_own() {
        return Ok(text(StatusCode::UNAUTHORIZED, "only root may serve files and Unix sockets"));
    }
    Ok(super::handlers::told(core.call(move |core| core.set_serve_config(wanted)).await?))
}

/// Names a configuration by its content; official clients send it back.
fn tag_of(config: &ServeConfig) -> String {
    let text =
        if config.is_empty() { b"null".to_vec() } else { serde_json::to_vec(config).unwrap_or_default() };
    digest(&SHA256, &text).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
