//! What a serving machine answers besides the control protocol, on the same listener: relay, STUN, page.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use http::{Request, Response};
use hyper::body::Incoming;
use sha2::{Digest, Sha256};
use sw_control::{Control, JoinFacts, Server};
use sw_net::front::{Body, BoxFuture, Conn, Router, Stream};
use sw_net::tls::{CertHash, CertStore, Identity, self_signed_pem};
use sw_page::{BinaryOffer, OidcConfig, ScriptFacts, Site, SiteConfig};
use sw_relay::{Admission, OWN_REGION, Relay, RelayConfig, RelayPlace, derp_map, derp_region, hash_text};
use sw_store::KeyFile;
use sw_tailcfg::DerpMap;
use sw_types::local::Problem;
use sw_types::{DerpPrivate, JoinAddress, NodeKey, STUN_PORT, Secret, ServerKeyHash};

use crate::first_run::script::{JoinScript, join_script};

/// Where and how the machine serves.
#[derive(Clone, Debug)]
pub struct Place {
    /// The URL for `--login-server`, without slash at the end.
    pub login_server: String,
    /// The URL of the same listener by TLS, for join script and page.
    pub tls_url: String,
    /// Host names under which the page answers.
    pub hosts: Vec<String>,
    /// Hosts and ports for join strings and the relay map, best first.
    pub candidates: Vec<(String, u16)>,
    /// Where the listener is bound; its port is that of DERP and of the second STUN socket.
    pub listen: SocketAddr,
    /// Whether TCP port 80 is ours too.
    pub can_port_80: bool,
    /// True when machines outside the LAN get in.
    pub is_reachable_outside: bool,
    /// Whether a node of the network runs in this process; its data sockets have the number of the listener then.
    pub has_node: bool,
    /// A certificate that others believe, from the operator or an authority; without one, our own is pinned.
    pub given: Option<Identity>,
    /// Company sign-in, if set up.
    pub oidc: Option<OidcConfig>,
}

/// Relay and page of a server, ready to be put behind its listener.
pub struct Serving {
    relay: Option<Relay>,
    site: Arc<Site>,
    /// Shown by the listener; always there, since one port speaks TLS and plain HTTP.
    pub tls: Arc<rustls::ServerConfig>,
    /// The map with our own relay, if one runs.
    pub derp_map: Option<DerpMap>,
    /// The same without the pin of our own certificate.
    certified_map: Option<DerpMap>,
    join: Arc<JoinFacts>,
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serving").field("derp_map", &self.derp_map).finish_non_exhaustive()
    }
}

/// Machines of the network, and nobody else, use its relay.
struct Members(Control);

impl Admission for Members {
    fn admits(&self, key: NodeKey, _source: IpAddr) -> BoxFuture<bool> {
        let control = self.0.clone();
        Box::pin(async move {
            control.read(move |t| t.state().node_by_key(&key).is_some()).await.unwrap_or(false)
        })
    }
}

impl Serving {
    /// Starts relay and STUN (unless `no_relay`) and the page for a running control server. Its certificates go into
    /// `certificates`.
    ///
    /// # Errors
    /// The key file, the certificate or the relay's own start.
    pub fn start(
        server: &Server,
        state: &Path,
        place: &Place,
        no_relay: bool,
        certificates: &Arc<CertStore>,
    ) -> anyhow::Result<Self> {
        let mut keys = KeyFile::open(&state.join("control.keys"))?;
        let (identity, pin) = identity(&mut keys, place)?;
        certificates.set_default(&identity);
        let (mut derp_map, mut certified_map, mut relay) = (None, None, None);
        if !no_relay {
            let started = start_relay(&mut keys, server, place)?;
            certificates.set_meta(&started.meta_cert()?);
            let stun_ports = stun(&started, place);
            derp_map = Some(own_map(place, &stun_ports, pin.is_some().then(|| identity.hash())));
            certified_map = Some(own_map(place, &stun_ports, None));
            relay = Some(started);
        }
        let join = Arc::new(join_facts(server, place, pin));
        server.set_join(Arc::clone(&join));
        let site = Site::new(server.control().clone(), site_config(place, Arc::clone(&join)));
        let tls = sw_net::tls::server_config(Arc::clone(certificates));
        Ok(Self { relay, site, tls, derp_map, certified_map, join })
    }

    /// An authority's certificate is in force: join lines need no pin any more, and neither does the map, which is
    /// what the returned function gives.
    pub fn when_certified(&self) -> impl Fn() -> Option<DerpMap> + Send + Sync + 'static {
        let (join, map) = (Arc::clone(&self.join), self.certified_map.clone());
        move || {
            join.set_pin(None);
            map.clone()
        }
    }

    /// Tells page and API what is wrong with the way in.
    pub fn set_problems(&self, problems: Vec<Problem>) {
        self.join.set_problems(problems);
    }

    /// Shows the relay's key in a certificate for another while (derp.md §3).
    ///
    /// # Errors
    /// When the random generator fails.
    pub fn renew_meta(&self, certificates: &CertStore) -> std::io::Result<()> {
        if let Some(relay) = &self.relay {
            certificates.set_meta(&relay.meta_cert()?);
        }
        Ok(())
    }

    /// Answers STUN requests that come in at sockets of others, within the relay's limits.
    pub fn stun_answer(&self) -> Option<sw_daemon::AnswerStun> {
        let relay = self.relay.clone()?;
        let answerer = relay.stun_answerer().ok()?;
        Some(Arc::new(move |datagram, from| answerer.answer(datagram, from)))
    }

    /// Ends the relay: its clients are told to come again.
    pub async fn drain(&self, limit: std::time::Duration) {
        if let Some(relay) = &self.relay {
            relay.drain(limit).await;
        }
    }

    /// Answers the paths of relay and page.
    pub fn router(&self) -> Arc<dyn Router> {
        let relay = self.relay.as_ref().map(Relay::router);
        Arc::new(Others { relay, site: Arc::clone(&self.site) })
    }
}

struct Others {
    relay: Option<Arc<dyn Router>>,
    site: Arc<Site>,
}

impl Others {
    fn relay_for(&self, path: &str) -> Option<&Arc<dyn Router>> {
        self.relay.as_ref().filter(|_| Relay::owns_path(path))
    }
}

impl Router for Others {
    fn route(&self, request: Request<Incoming>, conn: Arc<Conn>) -> BoxFuture<Response<Body>> {
        if let Some(relay) = self.relay_for(request.uri().path()) {
            return relay.route(request, conn);
        }
        let site = Arc::clone(&self.site);
        Box::pin(async move { site.route(request, &conn).await })
    }

    fn claims(&self, head: &Request<()>, conn: &Conn) -> bool {
        self.relay_for(head.uri().path()).is_some_and(|relay| relay.claims(head, conn))
    }

    fn take(&self, head: Request<()>, stream: Stream, conn: Arc<Conn>) -> BoxFuture<()> {
        match self.relay_for(head.uri().path()) {
            Some(relay) => relay.take(head, stream, conn),
            None => Box::pin(std::future::ready(())),
        }
    }

    fn accepts_absolute_form(&self, path: &str) -> bool {
        self.relay_for(path).is_some_and(|relay| relay.accepts_absolute_form(path))
    }
}

/// The given certificate, or our own: made once, kept beside the other keys, since join lines and maps pin it.
fn identity(keys: &mut KeyFile, place: &Place) -> anyhow::Result<(Identity, Option<String>)> {
    if let Some(given) = &place.given {
        return Ok((given.clone(), None));
    }
    let pair = own_pair(keys, &place.hosts)?;
    let pem = pair.expose().as_bytes();
    let identity = Identity::from_pem(pem, pem)?;
    let pin = public_key_pin(&identity)?;
    Ok((identity, Some(pin)))
}

fn own_pair(keys: &mut KeyFile, hosts: &[String]) -> anyhow::Result<Secret<String>> {
    let names: Vec<String> = hosts.iter().map(|host| host.trim_matches(['[', ']']).to_owned()).collect();
    Ok(keys.get_or_make("tls", || {
        let (chain, key) = self_signed_pem(&names).expect("names of hosts fit a certificate");
        Secret::new(format!("{chain}{key}"))
    })?)
}

/// The key of our own certificate, for an authority to certify: pins of it stay good.
///
/// # Errors
/// The key file.
pub fn own_key_pem(state: &Path, hosts: &[String]) -> anyhow::Result<String> {
    let mut keys = KeyFile::open(&state.join("control.keys"))?;
    let pair = own_pair(&mut keys, hosts)?;
    let key = pair.expose().find("-----BEGIN PRIVATE KEY").and_then(|at| pair.expose().get(at..));
    Ok(key.unwrap_or_default().to_owned())
}

/// `sha256//` and the base64 of the hash of the certificate's public key, as curl's `--pinnedpubkey` takes it.
fn public_key_pin(identity: &Identity) -> anyhow::Result<String> {
    use base64::Engine as _;
    let (_, certificate) = x509_parser::parse_x509_certificate(identity.leaf())?;
    let digest = Sha256::digest(certificate.public_key().raw);
    Ok(format!("sha256//{}", base64::engine::general_purpose::STANDARD.encode(digest)))
}

fn start_relay(keys: &mut KeyFile, server: &Server, place: &Place) -> anyhow::Result<Relay> {
    let key = keys.get_or_make("derp", || DerpPrivate::generate(sw_control::clock::random()).to_text())?;
    let mut config = RelayConfig::new(Arc::new(DerpPrivate::from_text(key.expose())?));
    config.admission = Arc::new(Members(server.control().clone()));
    // Machines whose DNS does not work ask the relay for the server.
    let is_name = |host: &&String| host.parse::<IpAddr>().is_err();
    config.bootstrap_names = place.hosts.iter().filter(is_name).cloned().collect();
    Ok(Relay::new(config)?)
}

/// The map of our own relay: a node of it has one port, so the addresses that share the best one's are named.
fn own_map(place: &Place, stun_ports: &[u16], pinned: Option<CertHash>) -> DerpMap {
    let derp_port = place.candidates.first().map_or(place.listen.port(), |(_, port)| *port);
    let hosts = place.candidates.iter().filter(|(_, port)| *port == derp_port).map(|(host, _)| host.clone());
    let place = RelayPlace {
        hosts: hosts.collect(),
        derp_port,
        stun_ports: stun_ports.to_vec(),
        cert_sha256: pinned.map(hash_text),
        can_port_80: place.can_port_80,
    };
    derp_map(derp_region(OWN_REGION, "home", &hostname(), &place))
}

/// Binds the STUN ports that are free: the usual one, and the number of the listener, unless the node has it.
fn stun(relay: &Relay, place: &Place) -> Vec<u16> {
    let listen = place.listen;
    let mut bound = Vec::new();
    for port in [STUN_PORT, listen.port()] {
        if bound.contains(&port) {
            continue;
        }
        if place.has_node && port == listen.port() {
            bound.push(port);
            continue;
        }
        let served = sw_net::socket::bind_udp(SocketAddr::new(listen.ip(), port))
            .and_then(|socket| relay.serve_stun(socket));
        match served {
            Ok(()) => bound.push(port),
            Err(error) => tracing::warn!(%error, port, "STUN does not answer on this port"),
        }
    }
    bound
}

fn join_facts(server: &Server, place: &Place, pin: Option<String>) -> JoinFacts {
    let addresses = place.candidates.iter().filter_map(|(host, port)| join_address(host, *port)).take(8);
    JoinFacts::new(
        place.login_server.clone(),
        place.tls_url.clone(),
        addresses.collect(),
        ServerKeyHash::of(&server.noise_key()),
        place.is_reachable_outside,
        pin,
    )
}

fn site_config(place: &Place, join: Arc<JoinFacts>) -> SiteConfig {
    SiteConfig {
        base_url: place.login_server.clone(),
        hosts: place.hosts.clone(),
        join,
        script: |facts: &ScriptFacts<'_>| {
            join_script(&JoinScript {
                base_url: facts.base_url,
                token: facts.token,
                join_string: facts.join_string,
                binary_sha256: facts.binary.map(|binary| binary.sha256.as_str()),
                arch: facts.binary.map_or(std::env::consts::ARCH, |binary| &binary.arch),
                pin: facts.pin,
            })
        },
        binary: own_binary(),
        sign_in_by_network: place.has_node,
        oidc: place.oidc.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
    }
}

/// A host of a URL as a candidate of a join string.
pub fn join_address(host: &str, port: u16) -> Option<JoinAddress> {
    match host.trim_matches(['[', ']']).parse() {
        Ok(IpAddr::V4(ip)) => Some(JoinAddress::V4(ip, port)),
        Ok(IpAddr::V6(ip)) => Some(JoinAddress::V6(ip, port)),
        Err(_) if host.is_ascii() && !host.is_empty() => Some(JoinAddress::Name(host.to_owned(), port)),
        Err(_) => None,
    }
}

/// The running executable, when it can run on another machine of the same kind. One that is linked to this
/// system's libraries mostly can too: any glibc at least as new as ours; the loader says so where not.
///
/// The checksum is made beside the start, which it would hold up.
fn own_binary() -> Arc<OnceLock<Option<BinaryOffer>>> {
    let offer = Arc::new(OnceLock::new());
    let filled = Arc::clone(&offer);
    let made = std::thread::Builder::new().name("sw-checksum".into()).spawn(move || {
        filled.get_or_init(|| {
            let path = std::env::current_exe().ok()?;
            // WHY not `sha2`: a build without optimisation would take seconds for it.
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &std::fs::read(&path).ok()?);
            let sha256 = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
            Some(BinaryOffer { path, sha256, arch: std::env::consts::ARCH.into() })
        });
    });
    if let Err(error) = made {
        tracing::warn!(%error, "the own binary is not handed out to joining machines");
        offer.get_or_init(|| None);
    }
    offer
}

fn hostname() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    name.split('.').next().unwrap_or_default().to_owned()
}
