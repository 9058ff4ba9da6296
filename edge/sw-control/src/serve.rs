//! `samewire control serve`: arguments, listeners, signals.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use sw_net::acme::{AcmeWish, Entrance, HttpProofs, Keeper, LETS_ENCRYPT};
use sw_net::front::{Front, FrontLimits, Router};
use sw_tailcfg::DerpMap;
use sw_tailnet::{Command, Engine};
use tokio::signal::unix::{SignalKind, signal};

use crate::server::{Server, ServerConfig, ServerError};

/// Runs the control server of a network
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// The URL by which clients know this server, e.g. http://192.168.1.5:8080
    #[arg(long)]
    pub url: String,
    /// Address and port to listen on [default: every address, the port of the URL]
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// Policy file, read at start, on SIGHUP and when it changes [default: everybody reaches everybody]
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Relay map as JSON, in place of or beside the relay built in
    #[arg(long, value_name = "FILE")]
    pub derp_map: Option<PathBuf>,
    /// Run no relay and no STUN here
    #[arg(long)]
    pub no_relay: bool,
    /// Certificate chain for TLS, PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the certificate, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Get a certificate for the URL's host, a name or an address, and renew it (TCP 443 or 80 must be open)
    #[arg(long, conflicts_with = "tls_cert")]
    pub acme: bool,
    /// The authority for --acme
    #[arg(long, value_name = "URL", default_value = LETS_ENCRYPT)]
    pub acme_directory: String,
    /// Root certificate of that authority, PEM, where the system does not know it
    #[arg(long, value_name = "FILE")]
    pub acme_ca: Option<PathBuf>,
}

/// Gives the relay map without the pin of our own certificate.
pub type Certified = Box<dyn Fn() -> Option<DerpMap> + Send + Sync>;

/// What other roles of the same process bring along.
#[derive(Default)]
pub struct Roles {
    /// Answers what the control role does not (relay, page).
    pub others: Option<Arc<dyn Router>>,
    /// Relays to add to the map from a file.
    pub derp_map: Option<DerpMap>,
    /// What the listener shows to those who speak TLS; one port speaks both.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Answers of HTTP-01 challenges.
    pub proofs: Arc<HttpProofs>,
    /// Keeps an authority's certificate in force.
    pub keeper: Option<Keeper>,
    /// Is asked when the keeper has got one.
    pub certified: Option<Certified>,
}

/// Where the server is, for other roles of the process.
#[derive(Debug, Clone)]
pub struct Bound {
    /// The URL that clients use, without slash at the end.
    pub url: String,
    /// Its host.
    pub host: String,
    /// Where the listener will be.
    pub listen: SocketAddr,
    /// The certificate that the operator gave.
    pub given: Option<sw_net::tls::Identity>,
    /// The certificate that is wanted of an authority.
    pub acme: Option<AcmeWish>,
}

impl std::fmt::Debug for Roles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Roles").field("derp_map", &self.derp_map).finish_non_exhaustive()
    }
}

/// Why serving ended with an error.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The server itself.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// An argument.
    #[error("{what}: {why}")]
    Argument {
        /// Which.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// The port.
    #[error("listening on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another role of the process.
    #[error("{0}")]
    Role(String),
    /// Signals.
    #[error("waiting for signals: {0}")]
    Signals(std::io::Error),
}

impl ServeError {
    /// The one next step, where one helps.
    pub fn fix(&self) -> Option<String> {
        use sw_store::StoreError;
        let Self::Server(ServerError::Start(crate::StartError::Store(error))) = self else {
            return None;
        };
        match error {
            StoreError::Corrupt { .. } => Some("samewire control restore BACKUP".to_owned()),
            StoreError::Busy { .. } => Some("stop the other server of this directory first".to_owned()),
            StoreError::Full { .. } => Some("make space on that disk".to_owned()),
            StoreError::Moved { .. }
            | StoreError::TooNew { .. }
            | StoreError::NoFiles
            | StoreError::Io { .. }
            | StoreError::Sqlite { .. } => None,
        }
    }
}

/// Puts a backup in the place of the network in `state` and says what was done.
///
/// # Errors
/// [`sw_store::RestoreError`]; then nothing changed.
pub fn restore(backup: &Path, state: &Path) -> Result<String, sw_store::RestoreError> {
    let seq = sw_store::restore(backup, &state.join("control.db"), &state.join("control.keys"))?;
    Ok(format!(
        "the network is as it was at change {}; what was there before lies beside it as .before-restore",
        seq.0
    ))
}

/// Serves until SIGINT or SIGTERM; SIGHUP reads policy and relay map again.
///
/// `roles` is asked once the server runs, so that other roles can be given its handle.
///
/// # Errors
/// [`ServeError`].
pub async fn serve(
    args: ServeArgs,
    state: PathBuf,
    engine: Arc<dyn Engine>,
    roles: impl FnOnce(&Server, Bound) -> Result<Roles, String>,
) -> Result<(), ServeError> {
    let url = Url::parse(&args.url)?;
    let listen = args.listen.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 0], url.port)));
    let server = Server::start(ServerConfig { url: url.text.clone(), state, engine })?;
    let given = given_identity(&args)?;
    let is_given = given.is_some();
    let acme = args.acme.then(|| AcmeWish {
        host: url.host.trim_matches(['[', ']']).to_owned(),
        directory: args.acme_directory.clone(),
        authority: args.acme_ca.clone(),
    });
    let bound = Bound { url: url.text.clone(), host: url.host.clone(), listen, given, acme };
    let roles = roles(&server, bound).map_err(ServeError::Role)?;
    let mut files = Files { args: &args, built_in: roles.derp_map, policy: None, derp: None };
    files.reload(&server, true).await?;
    if !is_given {
        url.warn_if_public();
    }
    let entrance = Entrance::new(roles.proofs);
    entrance.open(server.router(roles.others, true));
    let front = Front::new(entrance, FrontLimits::default());
    server.set_front_stats(front.stats());
    let bound = sw_net::socket::listen_tcp(listen)
        .map_err(|source| ServeError::Listen { address: listen, source })?;
    front.listen(bound, roles.tls);
    server.serve_socket()?;
    server.keep_up();
    tracing::info!(url = %url.text, %listen, "the control server runs");
    let mut hangup = signal(SignalKind::hangup()).map_err(ServeError::Signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signals)?;
    let mut changed = tokio::time::interval(Duration::from_secs(2));
    let (news, mut certified) = tokio::sync::mpsc::channel(1);
    let renewing = roles.keeper.map(|keeper| tokio::spawn(keeper.run(false, news)));
    loop {
        tokio::select! {
            _ = hangup.recv() => {
                if let Err(error) = files.reload(&server, false).await {
                    tracing::error!(%error, "nothing was reloaded");
                }
            }
            Some(()) = certified.recv() => {
                files.built_in = roles.certified.as_ref().and_then(|certified| certified());
                if let Err(error) = files.reload_derp(&server, true).await {
                    tracing::error!(%error, "the relay map was not changed");
                }
            }
            _ = changed.tick() => {
                if let Err(error) = files.reload(&server, false).await {
                    tracing::error!(%error, "a changed file was not taken over");
                }
            }
            _ = terminate.recv() => break,
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    tracing::info!("stopping");
    if let Some(renewing) = renewing {
        renewing.abort();
    }
    server.stop(Duration::from_secs(3)).await;
    front.shutdown(Duration::from_secs(3)).await;
    Ok(())
}

/// The parts of a server URL that matter here.
struct Url {
    text: String,
    host: String,
    port: u16,
    is_https: bool,
}

impl Url {
    fn parse(text: &str) -> Result<Self, ServeError> {
        let bad = |why: &str| ServeError::Argument { what: format!("--url {text}"), why: why.to_owned() };
        let text = text.trim_end_matches('/');
        let uri: http::Uri = text.parse().map_err(|_| bad("is not a URL"))?;
        let is_https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            Some(_) | None => return Err(bad("must begin with http:// or https://")),
        };
        if uri.path() != "/" || uri.query().is_some() {
            return Err(bad("must have no path"));
        }
        let host = uri.host().ok_or_else(|| bad("has no host"))?.to_owned();
        let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        Ok(Self { text: text.to_owned(), host, port, is_https })
    }

    /// Official clients leave such a URL after the first break (control.md §1.3).
    fn warn_if_public(&self) {
        if self.is_public_http() {
            tracing::warn!(
                url = %self.text,
                "official clients come back only by port 443 after a break: use https, or a private address"
            );
        }
    }

    fn is_public_http(&self) -> bool {
        let address = self.host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        let private = match address {
            Ok(std::net::IpAddr::V4(ip)) => ip.is_private() || ip.is_loopback(),
            Ok(std::net::IpAddr::V6(ip)) => ip.is_unique_local() || ip.is_loopback(),
            Err(_) => self.host == "localhost",
        };
        !self.is_https && !private
    }
}

fn given_identity(args: &ServeArgs) -> Result<Option<sw_net::tls::Identity>, ServeError> {
    let (Some(cert), Some(key)) = (&args.tls_cert, &args.tls_key) else {
        return Ok(None);
    };
    let bad = |file: &Path, why: String| ServeError::Argument { what: file.display().to_string(), why };
    let chain = std::fs::read(cert).map_err(|e| bad(cert, e.to_string()))?;
    let private = std::fs::read(key).map_err(|e| bad(key, e.to_string()))?;
    sw_net::tls::Identity::from_pem(&chain, &private).map(Some).map_err(|e| bad(cert, e.to_string()))
}

/// Files that are read again while the server runs.
struct Files<'a> {
    args: &'a ServeArgs,
    built_in: Option<DerpMap>,
    /// As read last, so that only changes act.
    policy: Option<String>,
    derp: Option<String>,
}

impl Files<'_> {
    async fn reload(&mut self, server: &Server, first: bool) -> Result<(), ServeError> {
        self.reload_derp(server, first).await?;
        self.reload_policy(server, first).await
    }

    async fn reload_derp(&mut self, server: &Server, first: bool) -> Result<(), ServeError> {
        let mut map = self.built_in.clone().unwrap_or_default();
        if let Some(file) = &self.args.derp_map {
            let text = read(file)?;
            if !first && self.derp.as_deref() == Some(&*text) {
                return Ok(());
            }
            let bad = |why: String| ServeError::Argument { what: file.display().to_string(), why };
            let given: DerpMap =
                sw_tailcfg::decode_request(text.as_bytes()).map_err(|e| bad(e.to_string()))?;
            let (_, problems) = given.check();
            if let Some(problem) = problems.first() {
                return Err(bad(problem.to_string()));
            }
            map.regions.get_or_insert_default().extend(given.regions.unwrap_or_default());
            map.home_params = given.home_params.or(map.home_params);
            self.derp = Some(text);
        } else if !first {
            return Ok(());
        }
        map.regions.get_or_insert_default();
        let stopping = |failure: crate::Failure| ServeError::Argument {
            what: "relay map".to_owned(),
            why: failure.to_string(),
        };
        server.control().set_derp_map(map).await.map_err(stopping)
    }

    async fn reload_policy(&mut self, server: &Server, first: bool) -> Result<(), ServeError> {
        let Some(file) = &self.args.policy else {
            return Ok(());
        };
        let text = read(file)?;
        if self.policy.as_deref() == Some(&*text) {
            return Ok(());
        }
        self.policy = Some(text.clone());
        let wanted = text.clone();
        let same = server
            .control()
            .read(move |t| t.state().policy().map(|p| (p.text == wanted, p.author.clone())))
            .await;
        let bad = |why: String| ServeError::Argument { what: file.display().to_string(), why };
        match same.map_err(|e| bad(e.to_string()))? {
            Some((true, _)) => return Ok(()),
            Some((false, author)) if first => {
                tracing::warn!(%author, "the policy file differs from the version in force and takes its place");
            }
            Some((false, _)) | None => {}
        }
        let command = Command::SetPolicy { text: Some(text), expect: None };
        match server.control().execute("file", command).await {
            Ok(_) => Ok(()),
            Err(failure) if first => {
                // A bad file never replaces a stored version; with none stored the server does not start.
                let stored = server.control().read(|tailnet| tailnet.state().policy().is_some()).await;
                if stored.unwrap_or(false) {
                    tracing::error!(error = %failure, "the policy file was not taken over; the stored version stays");
                    return Ok(());
                }
                Err(bad(failure.to_string()))
            }
            Err(failure) => Err(bad(failure.to_string())),
        }
    }
}

fn read(file: &Path) -> Result<String, ServeError> {
    std::fs::read_to_string(file)
        .map_err(|e| ServeError::Argument { what: file.display().to_string(), why: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_warned_of_where_official_clients_would_stay_away() {
        for (url, warned) in [
            ("http://vpn.example.org", true),
            ("http://203.0.113.7:8080", true),
            ("http://[2001:db8::1]", true),
            ("http://192.168.1.2", false),
            ("http://127.0.0.1:8080", false),
            ("http://[fd00::1]", false),
            ("http://localhost:8080", false),
            ("https://vpn.example.org", false),
        ] {
            assert_eq!(Url::parse(url).unwrap().is_public_http(), warned, "{url}");
        }
    }
}
