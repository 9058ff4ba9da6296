//! Admission by asking a control server over HTTP (derp.md §9).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use sw_net::dial::{self, DialOptions};
use sw_net::front::{BoxError, BoxFuture};
use sw_net::tls::{Trust, client_config, server_name};
use sw_tailcfg::{DerpAdmitRequest, DerpAdmitResponse};
use sw_types::NodeKey;
use tokio_rustls::TlsConnector;
use tracing::warn;

use crate::config::Admission;

/// Longest answer that is read (derp.md §9).
const ANSWER_MAX: usize = 4 << 10;

/// For the whole question (derp.md §9).
const LIMIT: Duration = Duration::from_secs(5);

/// The URL is none that can be asked.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no http or https URL")]
pub struct BadUrl(String);

/// Asks `POST URL` for each client.
#[derive(Debug)]
pub struct VerifyUrl {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    url: Uri,
    host: String,
    port: u16,
    is_tls: bool,
    fails_open: bool,
}

impl VerifyUrl {
    /// Checks the URL. With `fails_open` everybody comes in while the server does not answer.
    ///
    /// # Errors
    /// [`BadUrl`].
    pub fn new(url: &str, fails_open: bool) -> Result<Self, BadUrl> {
        let bad = || BadUrl(url.to_owned());
        let parsed: Uri = url.parse().map_err(|_| bad())?;
        let is_tls = match parsed.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some(_) | None => return Err(bad()),
        };
        let host = parsed.host().ok_or_else(bad)?.to_owned();
        let port = parsed.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        Ok(Self { inner: Arc::new(Inner { url: parsed, host, port, is_tls, fails_open }) })
    }
}

impl Admission for VerifyUrl {
    fn admits(&self, key: NodeKey, source: IpAddr) -> BoxFuture<bool> {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            match tokio::time::timeout(LIMIT, inner.ask(key, source)).await {
                Ok(Ok(is_allowed)) => is_allowed,
                Ok(Err(error)) => {
                    warn!(%error, fails_open = inner.fails_open, "the admission server does not answer");
                    inner.fails_open
                }
                Err(_) => {
                    warn!(fails_open = inner.fails_open, "the admission server takes too long");
                    inner.fails_open
                }
            }
        })
    }
}

impl Inner {
    async fn ask(&self, key: NodeKey, source: IpAddr) -> Result<bool, BoxError> {
        let question = DerpAdmitRequest { node_public: key, source: Some(source) };
        let body = serde_json::to_vec(&question)?;
        let path = self.url.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::post(path)
            .header("Host", dial::join_host_port(&self.host, self.port))
            .header("Content-Type", "application/json")
            .body(Full::new(Bytes::from(body)))?;
        let tcp = dial::connect(&DialOptions::default(), &self.host, self.port).await?;
        if self.is_tls {
            let config = client_config(&Trust::Roots, &[b"http/1.1"])?;
            let tls = TlsConnector::from(config).connect(server_name(&self.host)?, tcp).await?;
            exchange(TokioIo::new(tls), request).await
        } else {
            exchange(TokioIo::new(tcp), request).await
        }
    }
}

/// One request on a connection of its own.
async fn exchange<S>(io: S, request: Request<Full<Bytes>>) -> Result<bool, BoxError>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    let asking = async {
        let answer = sender.send_request(request).await?;
        if answer.status() != StatusCode::OK {
            return Ok(false);
        }
        let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await?.to_bytes();
        Ok(serde_json::from_slice::<DerpAdmitResponse>(&body)?.allow)
    };
    tokio::pin!(connection, asking);
    tokio::select! {
        answer = &mut asking => answer,
        ended = &mut connection => {
            ended?;
            asking.await
        }
    }
}
