//! From an open connection to requests and answers.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tracing::debug;

use super::head::{self, HEAD_MAX, HEADERS_MAX, HeadError};
use super::{Body, Conn, FrontStats, Inner, Io, Stream, full};

/// Serves a connection to its end.
pub(super) async fn serve(inner: &Arc<Inner>, mut io: Io, h2: bool, conn: Arc<Conn>) {
    if h2 {
        return Box::pin(serve_h2(inner, io, conn)).await;
    }
    let reading = tokio::time::timeout(inner.limits.header, head::read(&mut io));
    let (bytes, end) = match conn.shutdown.run_until_cancelled(reading).await {
        Some(Ok(Ok(head))) => head,
        Some(Ok(Err(HeadError::Refused(status)))) => return refuse(inner, &mut io, status).await,
        Some(Ok(Err(HeadError::Gone)) | Err(_)) | None => {
            return FrontStats::count(&inner.stats.failed_handshakes);
        }
    };
    let head = match head::parse(bytes.get(..end).unwrap_or_default()) {
        Ok(head) => head,
        Err(status) => return refuse(inner, &mut io, status).await,
    };
    if let Err(status) = check_form(inner, &head) {
        return refuse(inner, &mut io, status).await;
    }
    if inner.router.claims(&head, &conn) {
        let rest = bytes.slice(end..);
        return inner.router.take(head, Stream::new(rest, io), conn).await;
    }
    conn.admission.handshake_done();
    Box::pin(serve_h1(inner, Stream::new(bytes, io), conn)).await;
}

async fn serve_h1(inner: &Arc<Inner>, stream: Stream, conn: Arc<Conn>) {
    let shutdown = conn.shutdown.clone();
    let service = service_fn(move |request| answer(Arc::clone(inner), request, Arc::clone(&conn)));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        // The first head had its own, shorter limit; from here on waiting for a head is being idle.
        .header_read_timeout(inner.limits.idle)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    let result = tokio::select! {
        result = &mut connection => result,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        debug!(%error, "HTTP/1.1 connection ended");
    }
}

async fn serve_h2(inner: &Arc<Inner>, io: Io, conn: Arc<Conn>) {
    conn.admission.handshake_done();
    let shutdown = conn.shutdown.clone();
    let owned = Arc::clone(inner);
    let service = service_fn(move |request| answer(Arc::clone(&owned), request, Arc::clone(&conn)));
    // threat-model.md §4, "HTTP/2"; the library bounds CONTINUATION frames by the header list itself.
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(100)
        .max_header_list_size(HEAD_MAX as u32)
        .max_pending_accept_reset_streams(50)
        .max_local_error_reset_streams(50)
        .keep_alive_interval(Duration::from_secs(60))
        .keep_alive_timeout(Duration::from_secs(20))
        .serve_connection(TokioIo::new(io), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = &mut connection => result,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        debug!(%error, "h2 connection ended");
    }
}

async fn answer(
    inner: Arc<Inner>,
    request: Request<Incoming>,
    conn: Arc<Conn>,
) -> Result<Response<Body>, std::convert::Infallible> {
    let form = if request.version() == http::Version::HTTP_2 {
        // h2 always carries scheme and authority; only the method is to be looked at.
        if request.method() == Method::CONNECT { Err(StatusCode::BAD_REQUEST) } else { Ok(()) }
    } else {
        check_form(&inner, &Request::from_parts(parts_of(&request), ()))
    };
    if let Err(status) = form {
        FrontStats::count(&inner.stats.bad_requests);
        let mut response = Response::new(full(format!("{status}\n")));
        *response.status_mut() = status;
        return Ok(response);
    }
    Ok(inner.router.route(request, conn).await)
}

/// The request target must be a path, or a whole URL where the router takes one (threat-model.md §9).
fn check_form<B>(inner: &Inner, request: &Request<B>) -> Result<(), StatusCode> {
    let uri = request.uri();
    let is_path = uri.path().starts_with('/');
    let absolute_is_good = || inner.router.accepts_absolute_form(uri.path());
    if request.method() == Method::CONNECT || !is_path || uri.scheme().is_some() && !absolute_is_good() {
        return Err(StatusCode::BAD_REQUEST);
    }
    Ok(())
}

fn parts_of(request: &Request<Incoming>) -> http::request::Parts {
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = request.method().clone();
    parts.uri = request.uri().clone();
    parts
}

/// Says why in a few bytes and closes.
async fn refuse(inner: &Inner, io: &mut Io, status: StatusCode) {
    FrontStats::count(&inner.stats.bad_requests);
    let text = format!(
        "HTTP/1.1 {} {}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        status.as_u16(),
        status.canonical_reason().unwrap_or_default()
    );
    let closing = async {
        io.write_all(text.as_bytes()).await?;
        io.shutdown().await
    };
    if let Ok(Err(error)) = tokio::time::timeout(Duration::from_secs(1), closing).await {
        debug!(%error, "refusal not delivered");
    }
}
