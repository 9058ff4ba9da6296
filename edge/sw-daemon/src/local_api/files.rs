//! Files to peers and from them, for programs on this machine (localapi-cli.md §A3).

use std::convert::Infallible;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio_stream::StreamExt as _;
use tokio_util::io::ReaderStream;

use super::handlers::{parse_query, unescape};
use super::{ResponseBody, json as json_response, text};
use crate::core::{CoreHandle, Stopped};
use crate::dialer;
use crate::inbox::{Inbox, Refused};

/// Longest wait for the first file.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// Answers `file-put/…` and `files/…`, whose bodies are as long as files are.
pub(super) async fn answer(
    core: &CoreHandle,
    endpoint: &str,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Stopped> {
    if let Some(rest) = endpoint.strip_prefix("file-put/") {
        return put(core, rest, request).await;
    }
    let name = unescape(endpoint.strip_prefix("files/").unwrap_or_default());
    let inbox = core.call(|core| core.inbox.clone()).await?;
    Ok(match (request.method(), name.as_str()) {
        (&Method::GET, "") => {
            let query = parse_query(request.uri().query().unwrap_or_default());
            let wait = query.get("waitsec").and_then(|text| text.parse().ok()).map(Duration::from_secs);
            list(&inbox, wait.unwrap_or_default().min(WAIT_MAX)).await
        }
        (&Method::GET, name) => match inbox.open(name) {
            Ok((file, size)) => content(file, size),
            Err(refused) => refuse(&refused),
        },
        (&Method::DELETE, name) => match inbox.remove(name) {
            Ok(()) => text(StatusCode::NO_CONTENT, ""),
            Err(refused) => refuse(&refused),
        },
        _ => text(StatusCode::METHOD_NOT_ALLOWED, "want GET or DELETE"),
    })
}

fn refuse(refused: &Refused) -> Response<ResponseBody> {
    let status = match refused {
        Refused::Io(error) if error.kind() == std::io::ErrorKind::NotFound => StatusCode::NOT_FOUND,
        Refused::Name => StatusCode::BAD_REQUEST,
        Refused::Io(_) | Refused::NoPlace | Refused::Range | Refused::Busy => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    };
    text(status, refused.to_string())
}

async fn list(inbox: &Inbox, wait: Duration) -> Response<ResponseBody> {
    let mut arrivals = inbox.arrivals();
    let mut waiting = inbox.waiting();
    if waiting.is_empty() && !wait.is_zero() {
        // Whatever ends the wait, what is there now is told.
        let _limit_or_news = tokio::time::timeout(wait, arrivals.changed()).await;
        waiting = inbox.waiting();
    }
    json_response(&waiting)
}

fn content(file: std::fs::File, size: u64) -> Response<ResponseBody> {
    let stream = ReaderStream::new(tokio::fs::File::from_std(file));
    // A file that cannot be read on ends early, and the length says so.
    let stream = stream.map_while(Result::ok).map(|bytes| Ok::<_, Infallible>(Frame::data(bytes)));
    let mut response = Response::new(StreamBody::new(stream).boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, http::HeaderValue::from(size));
    headers.insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/octet-stream"));
    response
}

/// Sends a file on to the peer; what the peer answers is the answer.
async fn put(
    core: &CoreHandle,
    rest: &str,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Stopped> {
    let Some((id, name)) = rest.split_once('/').filter(|(_, name)| !name.is_empty()) else {
        return Ok(text(StatusCode::BAD_REQUEST, "use file-put/ID/NAME"));
    };
    if request.method() != Method::PUT {
        return Ok(text(StatusCode::METHOD_NOT_ALLOWED, "want PUT to put file"));
    }
    let id = unescape(id);
    let target =
        core.call(move |core| core.file_targets().into_iter().find(|(node, _)| node.stable_id.0 == id));
    let Some((_, url)) = target.await? else {
        return Ok(text(StatusCode::NOT_FOUND, "node not found"));
    };
    let authority = url.trim_start_matches("http://").to_owned();
    let failed = |error: &dyn std::fmt::Display| text(StatusCode::BAD_GATEWAY, error.to_string());
    let Ok(to) = authority.parse() else { return Ok(failed(&"the peer tells of no PeerAPI")) };
    let stream = match dialer::dial(core, to).await {
        Ok(stream) => stream,
        Err(error) => return Ok(failed(&error)),
    };
    let connected = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = match connected {
        Ok(connected) => connected,
        Err(error) => return Ok(failed(&error)),
    };
    let driver = tokio::spawn(connection);
    let outgoing = Request::put(format!("/v0/put/{name}")).header(header::HOST, authority);
    let answer = match outgoing.body(request.into_body()) {
        Ok(outgoing) => sender.send_request(outgoing).await,
        Err(error) => return Ok(failed(&error)),
    };
    let response = match answer {
        Ok(answer) => {
            let status = answer.status();
            let said = answer.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            text(status, String::from_utf8_lossy(&said).into_owned())
        }
        Err(error) => failed(&error),
    };
    driver.abort();
    Ok(response)
}

/// Whom files can be sent to.
pub(super) async fn targets(core: &CoreHandle) -> Result<Response<ResponseBody>, Stopped> {
    let targets = core.call(|core| {
        let suffix =
            core.node.netmap().map(|netmap| netmap.magic_dns_suffix().to_owned()).unwrap_or_default();
        let all = core.file_targets().into_iter();
        all.map(|(node, url)| json!({ "Node": core.node_shown(&suffix, &node), "PeerAPIURL": url }))
            .collect::<Vec<_>>()
    });
    Ok(json_response(&targets.await?))
}
