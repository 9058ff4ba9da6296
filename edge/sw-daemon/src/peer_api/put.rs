//! `/v0/put/`: a peer sends a file (node-services.md §4).

use std::convert::Infallible;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use super::requests::Peer;
use crate::inbox::{Inbox, Refused};
use crate::local_api::{ResponseBody, json, text};

/// Lines of block hashes that wait for a slow reader.
const LINES_MAX: usize = 16;

/// Answers a request; `name` is percent-decoded.
pub(super) async fn answer(
    inbox: Inbox,
    peer: &Peer,
    name: &str,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    if !peer.may_send_files {
        return text(StatusCode::FORBIDDEN, "not permitted to send files here");
    }
    let sender = peer.id.clone();
    if request.method() == Method::GET {
        return if name.is_empty() { json(&inbox.partials(&sender)) } else { blocks(inbox, name, sender) };
    }
    if request.method() != Method::PUT {
        return text(StatusCode::METHOD_NOT_ALLOWED, "expected method GET or PUT");
    }
    match receive(&inbox, &sender, name, request).await {
        Ok(name) => {
            tracing::info!(name, peer = peer.name, "a file arrived");
            let mut response = text(StatusCode::OK, "{}\n");
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
            response
        }
        Err(refused) => text(status_of(&refused), refused.to_string()),
    }
}

fn status_of(refused: &Refused) -> StatusCode {
    match refused {
        Refused::Name | Refused::Range => StatusCode::BAD_REQUEST,
        Refused::NoPlace => StatusCode::FORBIDDEN,
        Refused::Busy => StatusCode::CONFLICT,
        Refused::Io(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

async fn receive(
    inbox: &Inbox,
    sender: &str,
    name: &str,
    request: Request<Incoming>,
) -> Result<String, Refused> {
    let range = request.headers().get(header::RANGE).map(|range| {
        let text = range.to_str().ok()?.strip_prefix("bytes=")?.strip_suffix('-')?;
        text.parse::<u64>().ok()
    });
    let offset = match range {
        None => 0,
        Some(offset) => offset.ok_or(Refused::Range)?,
    };
    let mut receiving = inbox.receive(name, sender, offset)?;
    let Some(file) = receiving.take_file() else { return Err(Refused::Busy) };
    let mut file = tokio::fs::File::from_std(file);
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        // A sender that goes away leaves what came so far, to go on there.
        let frame = frame.map_err(std::io::Error::other)?;
        if let Ok(data) = frame.into_data() {
            file.write_all(&data).await?;
        }
    }
    file.flush().await?;
    drop(file);
    let finished = tokio::task::spawn_blocking(move || receiving.finish()).await;
    Ok(finished.map_err(std::io::Error::other)??)
}

/// What is there of a file, block by block.
fn blocks(inbox: Inbox, name: &str, sender: String) -> Response<ResponseBody> {
    let (lines, queue) = mpsc::channel::<Bytes>(LINES_MAX);
    let name = name.to_owned();
    tokio::task::spawn_blocking(move || {
        let each = |block| {
            let mut line = serde_json::to_vec(&block).unwrap_or_default();
            line.push(b'\n');
            lines.blocking_send(Bytes::from(line)).is_ok()
        };
        if let Err(error) = inbox.blocks(&name, &sender, each) {
            tracing::debug!(%error, "the blocks of a half-received file");
        }
    });
    let stream = ReceiverStream::new(queue).map(|line| Ok::<_, Infallible>(Frame::data(line)));
    Response::new(StreamBody::new(stream).boxed_unsync())
}
