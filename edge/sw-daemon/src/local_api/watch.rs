//! `watch-ipn-bus`: a stream of JSON lines (localapi-cli.md §A3).

use std::convert::Infallible;

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use sw_types::local::{Notify, watch_mask as mask};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use super::{ResponseBody, text};
use crate::bus::BusMessage;
use crate::core::{Core, CoreHandle, Stopped};

/// Lines that wait for a slow reader; then the bus' own backlog counts.
const LINES_MAX: usize = 16;

pub(super) async fn watch(core: &CoreHandle, bits: u64) -> Result<Response<ResponseBody>, Stopped> {
    if bits & mask::IN_PROCESS != 0 {
        return Ok(text(StatusCode::BAD_REQUEST, "this mask is for use inside the daemon"));
    }
    // Subscribed on the node's task, so that nothing falls between the first message and the rest.
    let (first, mut messages) =
        core.call(move |core| (first_message(core, bits), core.bus.subscribe())).await?;
    let (lines, queue) = mpsc::channel::<Bytes>(LINES_MAX);
    let core = core.clone();
    let session = first.as_ref().map(|first| first.session_id.clone()).unwrap_or_default();
    tokio::spawn(async move {
        tell_all(&core, bits, first, &mut messages, &lines).await;
        if !session.is_empty() {
            // What it served in the foreground ends with it; a daemon that ends has ended that, too.
            let _stopped = core.call(move |core| core.end_foreground(&session)).await;
        }
    });
    let stream = ReceiverStream::new(queue).map(|line| Ok::<_, Infallible>(Frame::data(line)));
    let mut response = Response::new(StreamBody::new(stream).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    Ok(response)
}

/// Writes lines until the watcher goes or is too slow.
async fn tell_all(
    core: &CoreHandle,
    bits: u64,
    first: Option<Notify>,
    messages: &mut Receiver<BusMessage>,
    lines: &mpsc::Sender<Bytes>,
) {
    if let Some(first) = first
        && lines.send(line(&first)).await.is_err()
    {
        return;
    }
    loop {
        let message = tokio::select! {
            () = lines.closed() => return,
            message = messages.recv() => message,
        };
        let notify = match message {
            Ok(BusMessage::Notify(notify)) => (*notify).clone(),
            Ok(BusMessage::Netmap { peers, removed, is_whole }) => {
                let build = move |core: &mut Core| netmap_message(core, bits, &peers, &removed, is_whole);
                match core.call(build).await {
                    Ok(Some(notify)) => notify,
                    Ok(None) => continue,
                    Err(Stopped) => return,
                }
            }
            // Too slow, or the end: the watcher is disconnected.
            Err(RecvError::Lagged(_) | RecvError::Closed) => return,
        };
        if lines.send(line(&notify)).await.is_err() {
            return;
        }
    }
}

fn line(notify: &Notify) -> Bytes {
    let mut text = serde_json::to_vec(notify).unwrap_or_default();
    text.push(b'\n');
    Bytes::from(text)
}

fn first_message(core: &Core, bits: u64) -> Option<Notify> {
    let asked = mask::INITIAL_STATE
        | mask::INITIAL_PREFS
        | mask::INITIAL_NET_MAP
        | mask::INITIAL_HEALTH
        | mask::INITIAL_STATUS;
    if bits & asked == 0 {
        return None;
    }
    let mut notify = Notify { version: crate::VERSION_LONG.to_owned(), ..Notify::default() };
    if bits & mask::INITIAL_STATE != 0 {
        notify.session_id = crate::random()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        notify.state = Some(core.node.state());
        let url = core.node.auth_url();
        notify.browse_to_url = (!url.is_empty()).then(|| url.to_owned());
    }
    if bits & mask::INITIAL_PREFS != 0 {
        notify.prefs = Some(core.prefs_shown());
    }
    if let Some(netmap) = core.node.netmap().filter(|_| bits & mask::INITIAL_NET_MAP != 0) {
        notify.net_map = Some(netmap.to_json());
        notify.self_change = serde_json::to_value(&*netmap.self_node).ok();
    }
    if bits & mask::INITIAL_HEALTH != 0 {
        notify.health = Some(serde_json::json!({ "Warnings": {} }));
    }
    if bits & mask::INITIAL_STATUS != 0 {
        notify.initial_status = Some(Box::new(core.status(true)));
    }
    Some(notify)
}

fn netmap_message(
    core: &Core,
    bits: u64,
    peers: &std::collections::BTreeSet<sw_types::NodeId>,
    removed: &[sw_types::NodeId],
    is_whole: bool,
) -> Option<Notify> {
    let netmap = core.node.netmap()?;
    let mut notify = Notify { version: crate::VERSION_LONG.to_owned(), ..Notify::default() };
    let wants_map = bits & mask::INITIAL_NET_MAP != 0 && bits & mask::NO_NET_MAP == 0;
    let wants_peers = bits & (mask::PEER_CHANGES | mask::PEER_PATCHES) != 0;
    if wants_map {
        notify.net_map = Some(netmap.to_json());
    }
    if wants_peers {
        let changed: Vec<_> = peers.iter().filter_map(|id| netmap.peer(*id)).collect();
        notify.peers_changed = (!changed.is_empty()).then(|| serde_json::json!(changed));
        notify.peers_removed = (!removed.is_empty()).then(|| serde_json::json!(removed));
    }
    if is_whole {
        notify.self_change = serde_json::to_value(&*netmap.self_node).ok();
    }
    (wants_map || notify.peers_changed.is_some() || notify.peers_removed.is_some() || is_whole)
        .then_some(notify)
}
