//! `/events`: fragments of the page somebody looks at, sent when they changed.

use crate::guard::Visitor;
use crate::site::{Ask, Site};
use crate::views;
use ::http::{HeaderValue, Response, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use sw_net::front::{Body, BoxError};
use tokio::sync::mpsc;

/// How often a viewer's page is compared; five events a second at most (ux.md §3.2).
const EVERY: Duration = Duration::from_secs(1);
/// A comment keeps proxies from closing an idle stream.
const KEEPALIVE_EVERY: u32 = 20;

/// A body fed by a task; the task ends when the browser goes away.
struct Fed(mpsc::Receiver<Bytes>);

impl futures_core::Stream for Fed {
    type Item = Result<Frame<Bytes>, BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// Opens a stream of fragments for the page named in `?page=`.
pub(crate) fn stream(site: &Arc<Site>, ask: &Ask, visitor: &Visitor) -> Response<Body> {
    let (sender, receiver) = mpsc::channel(16);
    let page = ask.query.get("page").to_owned();
    tokio::spawn(feed(Arc::clone(site), visitor.clone(), page, sender));
    let mut response = Response::new(StreamBody::new(Fed(receiver)).boxed_unsync());
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

async fn feed(site: Arc<Site>, visitor: Visitor, page: String, sender: mpsc::Sender<Bytes>) {
    if sender.send(Bytes::from_static(b"retry: 2000\n\n")).await.is_err() {
        return;
    }
    let mut sent: BTreeMap<String, String> = BTreeMap::new();
    let mut is_first = true;
    let mut quiet = 0;
    loop {
        let Some(fragments) = views::fragments(&site, &visitor, &page).await else { return };
        let mut text = String::new();
        for (id, html) in fragments {
            if sent.get(&id) != Some(&html) {
                // What the page was rendered with is known; only later changes are news.
                if !is_first {
                    let data = serde_json::json!({ "id": id, "html": html });
                    text.push_str(&format!("event: patch\ndata: {data}\n\n"));
                }
                sent.insert(id, html);
            }
        }
        is_first = false;
        quiet += 1;
        if text.is_empty() && quiet >= KEEPALIVE_EVERY {
            text.push_str(": here\n\n");
        }
        if !text.is_empty() {
            quiet = 0;
            if sender.send(Bytes::from(text)).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = sender.closed() => return,
        }
    }
}
