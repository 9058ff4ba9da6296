//! A network that this machine serves: control server, relay, STUN and page in the process of the node.
//!
//! `samewire up` on a first machine writes [`NetworkPlan`] into `control/`; wherever the daemon finds one there, it
//! serves. What it found out about itself stands in [`Served`], for the screens.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sw_control::{Server, ServerConfig, ServerError, StartError};
use sw_daemon::{DaemonConfig, Port, Problem, StunAnswer};
use sw_net::acme::{AcmeError, AcmeWish, Entrance, HttpProofs, Keeper, LETS_ENCRYPT};
use sw_net::front::{Front, FrontLimits, Router};
use sw_net::portmap::{Mapping, OpenUdp, PortMapper, Progress, Service, Want};
use sw_net::tls::{CertStore, Identity};
use sw_os::Interfaces;
use sw_store::StoreError;
use sw_types::problem::{Slug, span};
use sw_types::{HTTP_PORT, HTTPS_PORT};
use tokio::sync::mpsc;

use crate::first_run::reach::{Facts, Reach, Via};
use crate::first_run::screen::Certificate;
use crate::machine::STEP_NOTICE;
use crate::serving::{Place, Serving};

const DATABASE: &str = "control.db";
const PLAN_FILE: &str = "network.json";
const SERVED_FILE: &str = "served.json";
/// How long the end of the process waits for answers under way.
const GRACE: Duration = Duration::from_secs(2);
/// How long the start waits for a certificate.
const CERTIFICATE_LIMIT: Duration = Duration::from_secs(15);
/// The certificate that tells the relay's key is good for 30 days (derp.md §3).
const META_RENEWAL: Duration = Duration::from_secs(20 * 24 * 3600);
/// How long the start waits for a sign that the router maps ports. Routers that do answer in milliseconds, and lost
/// questions are sent again in this time.
const ROUTER_LIMIT: Duration = Duration::from_millis(1200);
/// How long a router that gave the sign may take to map the port.
const MAPPING_LIMIT: Duration = Duration::from_secs(4);

/// What was decided when the network was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkPlan {
    /// TCP and UDP.
    pub port: u16,
    /// The name by which the server is reached, if it has one.
    pub domain: Option<String>,
    /// The authority to ask for a certificate, when it is not the usual one.
    pub acme_directory: Option<String>,
    /// Root certificate of that authority, PEM.
    pub acme_ca: Option<PathBuf>,
}

/// What the serving process found out about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Served {
    pub reach: Reach,
    pub login_server: String,
    pub certificate: Certificate,
    /// Who holds port 443, when we do not.
    pub port_443_holder: Option<String>,
    /// What the router said after the start, if that changes how machines get in; in force from the next start.
    #[serde(default)]
    pub now: Option<Reach>,
}

impl NetworkPlan {
    /// Reads the plan in `control`; `None` where no network was made.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn read(control: &Path) -> Result<Option<Self>, Problem> {
        read(&control.join(PLAN_FILE))
    }

    /// Writes it.
    ///
    /// # Errors
    /// The directory cannot be made or written.
    pub fn write(&self, control: &Path) -> Result<(), Problem> {
        let told = |error: sw_os::files::FileError| {
            Problem::other(
                "the state could not be written.",
                error.to_string(),
                "run it as root: sudo samewire up",
            )
        };
        sw_os::files::create_private_directory(control).map_err(told)?;
        write(&control.join(PLAN_FILE), self).map_err(told)
    }

    /// Takes it away again, when nothing came of it.
    pub fn remove(control: &Path) {
        let _maybe_absent = std::fs::remove_file(control.join(PLAN_FILE));
    }
}

impl Served {
    /// What the running process wrote.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn read(control: &Path) -> Result<Option<Self>, Problem> {
        read(&control.join(SERVED_FILE))
    }

    /// What keeps machines from getting in, or phones from trusting the server.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if let Reach::LanBehindRouter { address, port, router } = self.now.as_ref().unwrap_or(&self.reach) {
            let (address, port, router) = (address.to_string(), port.to_string(), router.to_string());
            let values = [("router", &*router), ("port", &port), ("ip", &address)];
            problems.push(Slug::NotReachableOutside.problem(&values));
        }
        if let Certificate::Failed { why, .. } = &self.certificate {
            let again = span(Keeper::FIRST_RETRY);
            problems.push(Slug::CertFailed.problem(&[("reason", why), ("time", &again)]));
        }
        problems
    }
}

fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Option<T>, Problem> {
    let damaged = |reason: String| {
        Slug::StateDamaged.problem(&[("file", &path.display().to_string()), ("reason", &reason)])
    };
    let text = sw_os::files::read_private(path).map_err(|error| damaged(error.to_string()))?;
    text.map(|text| serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))).transpose()
}

fn write(path: &Path, value: &impl Serialize) -> Result<(), sw_os::files::FileError> {
    let text = serde_json::to_vec_pretty(value).unwrap_or_default();
    sw_os::files::write_private(path, &text)
}

/// The directory of the server beside that of the node.
pub fn control_dir(node: &Path) -> PathBuf {
    node.parent().unwrap_or(Path::new("/")).join("control")
}

/// Looks at this machine's addresses and its router.
pub fn facts(plan: &NetworkPlan) -> Facts {
    let interfaces = Interfaces::read().unwrap_or_default();
    let holder = (plan.port != HTTPS_PORT).then(|| sw_os::host::holder_of_port(HTTPS_PORT)).flatten();
    let gateway = |route: &Option<sw_os::link::DefaultRoute>| route.as_ref().and_then(|route| route.gateway);
    Facts {
        local: interfaces.local_addresses(""),
        router: gateway(&interfaces.default_v4).or_else(|| gateway(&interfaces.default_v6)),
        mapped: None,
        domain: plan.domain.clone(),
        port: plan.port,
        port_443_holder: holder.map(|holder| holder.program),
    }
}

/// A network that is being served.
pub struct Network {
    server: Server,
    serving: Arc<Serving>,
    front: Front,
    mapper: Option<PortMapper>,
    upkeep: tokio::task::JoinHandle<()>,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network").field("serving", &self.serving).finish_non_exhaustive()
    }
}

impl Network {
    /// Starts everything and tells the node of this process where its server is. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// What a user can act on.
    pub async fn start(plan: &NetworkPlan, control: &Path, node: &mut DaemonConfig) -> Result<Self, Problem> {
        let main = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), plan.port);
        let listener = sw_net::socket::listen_tcp(main)
            .or_else(|_| sw_net::socket::listen_tcp(SocketAddr::new([0, 0, 0, 0].into(), plan.port)))
            .map_err(|error| listen_problem(plan.port, &error))?;
        let plain = (plan.port == HTTPS_PORT)
            .then(|| sw_net::socket::listen_tcp(SocketAddr::new(main.ip(), HTTP_PORT)).ok())
            .flatten();
        let mut facts = facts(plan);
        let mapper = map_port(&mut facts).await;
        let (mapper, mappings) = mapper.unzip();
        let reach = Reach::decide(&facts);
        let (certificates, proofs) = (CertStore::new(), Arc::<HttpProofs>::default());
        let entrance = Entrance::new(Arc::clone(&proofs));
        let front = Front::new(Arc::clone(&entrance) as Arc<dyn Router>, FrontLimits::default());
        let has_port_80 = plain.is_some();
        front.listen(listener, Some(sw_net::tls::server_config(Arc::clone(&certificates))));
        if let Some(plain) = plain {
            front.listen(plain, None);
        }
        let mut place = place(&reach, &facts, main, has_port_80);
        let keeper = keeper(plan, &reach, control, &place, &certificates, &proofs)?;
        let (given, certificate) = first_certificate(keeper.as_ref(), &reach).await;
        if given.is_some() {
            place.login_server.clone_from(&place.tls_url);
        }
        let has_failed = given.is_none();
        place.given = given;
        let engine = Arc::new(sw_tailnet::PolicyEngine::new(&place.login_server));
        let config = ServerConfig { url: place.login_server.clone(), state: control.to_owned(), engine };
        let server = Server::start(config).map_err(|error| not_started(control, &error))?;
        let serving = Serving::start(&server, control, &place, false, &certificates)
            .map_err(|error| Problem::other("the server cannot start.", format!("{error:#}"), ""))?;
        if let Some(map) = serving.derp_map.clone() {
            server.control().set_derp_map(map).await.map_err(|error| stopped(&error))?;
        }
        entrance.open(server.router(Some(serving.router()), true));
        server.set_front_stats(front.stats());
        server.serve_socket().map_err(|error| stopped(&error))?;
        node.port = Port::Preferred(plan.port);
        node.local_server = Some(format!("http://127.0.0.1:{}", plan.port));
        node.server_key = Some(server.noise_key());
        node.stun = serving.stun_answer().map(StunAnswer);
        let served = Served {
            reach,
            login_server: place.login_server,
            certificate,
            port_443_holder: facts.port_443_holder.clone(),
            now: None,
        };
        write(&control.join(SERVED_FILE), &served).map_err(|error| stopped(&error))?;
        tracing::info!(url = %served.login_server, port = plan.port, "this machine serves its network");
        let serving = Arc::new(serving);
        let told = Told::new(served, control.join(SERVED_FILE), Arc::clone(&serving));
        if let Some(mappings) = mappings {
            tokio::spawn(follow_router(mappings, facts, Arc::clone(&told)));
        }
        let control = server.control().clone();
        let upkeep = tokio::spawn(upkeep(keeper, has_failed, control, told, certificates));
        Ok(Self { server, serving, front, mapper, upkeep })
    }

    /// Ends in good order: clients are told to come again.
    pub async fn stop(self) {
        self.upkeep.abort();
        if let Some(mapper) = self.mapper {
            mapper.stop().await;
        }
        self.serving.drain(GRACE).await;
        self.server.stop(GRACE).await;
        self.front.shutdown(Duration::from_millis(500)).await;
    }
}

/// What [`Served`] says at present: in its file, and its problems on page and API.
struct Told {
    served: Mutex<Served>,
    file: PathBuf,
    serving: Arc<Serving>,
}

impl Told {
    fn new(served: Served, file: PathBuf, serving: Arc<Serving>) -> Arc<Self> {
        serving.set_problems(served.problems());
        Arc::new(Self { served: Mutex::new(served), file, serving })
    }

    fn change(&self, how: impl FnOnce(&mut Served)) {
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        let before = served.clone();
        how(&mut served);
        if *served == before {
            return;
        }
        self.serving.set_problems(served.problems());
        if let Err(error) = write(&self.file, &*served) {
            tracing::warn!(%error, "how this machine is reached cannot be kept");
        }
    }
}

/// Who keeps the certificate of this server, where an authority can reach it.
fn keeper(
    plan: &NetworkPlan,
    reach: &Reach,
    control: &Path,
    place: &Place,
    certificates: &Arc<CertStore>,
    proofs: &Arc<HttpProofs>,
) -> Result<Option<Keeper>, Problem> {
    if !reach.is_from_outside() {
        return Ok(None);
    }
    let host = reach.host_port().0.trim_matches(['[', ']']).to_owned();
    let directory = plan.acme_directory.clone().unwrap_or_else(|| LETS_ENCRYPT.to_owned());
    let wish = AcmeWish { host, directory, authority: plan.acme_ca.clone() };
    let key = crate::serving::own_key_pem(control, &place.hosts)
        .map_err(|error| Problem::other("the server cannot start.", format!("{error:#}"), ""))?;
    Ok(Some(Keeper::new(wish, control, Some(key), Arc::clone(certificates), Arc::clone(proofs))))
}

/// The kept certificate, or a new one if the authority gives it soon; and what the screen says of it.
async fn first_certificate(keeper: Option<&Keeper>, reach: &Reach) -> (Option<Identity>, Certificate) {
    let Some(keeper) = keeper else { return (None, Certificate::Pinned) };
    let host = reach.host_port().0;
    let kept = keeper.kept().unwrap_or_else(|error| {
        tracing::warn!(%error, "the kept certificate is not used");
        None
    });
    if let Some(kept) = kept {
        return (Some(kept), Certificate::Public(host));
    }
    tell_step("asking the certificate authority");
    match tokio::time::timeout(CERTIFICATE_LIMIT, keeper.renew()).await {
        Ok(Ok(new)) => (Some(new), Certificate::Public(host)),
        // No Internet is no fault: machines pin the key, and there is nobody else to convince.
        Ok(Err(AcmeError::Away(_))) if !reach.is_by_name() => (None, Certificate::Pinned),
        Ok(Err(error)) => {
            let fix = format!("TCP 443 or 80 of {host} must be open from outside");
            (None, Certificate::Failed { why: format!("none yet: {error}"), fix })
        }
        Err(_) => {
            let why = "none yet: the certificate authority takes its time".to_owned();
            (None, Certificate::Failed { why, fix: "wait".to_owned() })
        }
    }
}

/// Certificates grow old: the authority's, and the one that tells the relay's key.
async fn upkeep(
    keeper: Option<Keeper>,
    has_failed: bool,
    control: sw_control::Control,
    told: Arc<Told>,
    certificates: Arc<CertStore>,
) {
    let (news, mut certified) = mpsc::channel(1);
    let renewing = async {
        match keeper {
            Some(keeper) => keeper.run(has_failed, news).await,
            None => std::future::pending().await,
        }
    };
    let serving = &told.serving;
    let when_certified = serving.when_certified();
    let following = async {
        let mut meta = tokio::time::interval(META_RENEWAL);
        loop {
            tokio::select! {
                Some(()) = certified.recv() => {
                    told.change(|served| served.certificate = Certificate::Public(served.reach.host_port().0));
                    if let Some(map) = when_certified() {
                        let _stopping = control.set_derp_map(map).await;
                    }
                }
                _ = meta.tick() => {
                    if let Err(error) = serving.renew_meta(&certificates) {
                        tracing::warn!(%error, "the relay's key is not shown in TLS any more");
                    }
                }
            }
        }
    };
    tokio::join!(renewing, following);
}

/// Asks the router for the server's TCP port, where only a router keeps others out; the node maps UDP by itself.
async fn map_port(facts: &mut Facts) -> Option<(PortMapper, mpsc::Receiver<Option<Mapping>>)> {
    let is_behind = matches!(Reach::decide(facts), Reach::LanBehindRouter { .. });
    let (Some(IpAddr::V4(gateway)), true) = (facts.router, is_behind) else { return None };
    let local = sw_os::host::source_address_for(SocketAddr::new(gateway.into(), 9));
    let Some(IpAddr::V4(local)) = local else { return None };
    let open: OpenUdp = Arc::new(|local| {
        let socket = std::net::UdpSocket::bind((local, 0))?;
        socket.set_nonblocking(true)?;
        tokio::net::UdpSocket::from_std(socket)
    });
    let (changes, mut heard) = mpsc::channel(4);
    let mapper = PortMapper::spawn(open, changes);
    let transport = sw_proto::portmap::Transport::Tcp;
    mapper.set(Some(Want { gateway, local, port: facts.port, transport }));
    tell_step("asking the router for a port");
    let mut progress = mapper.progress();
    let _sign = tokio::time::timeout(ROUTER_LIMIT, progress.wait_for(|now| *now != Progress::Asking)).await;
    let can_map = *mapper.progress().borrow() != Progress::Asking;
    let limit = if can_map { MAPPING_LIMIT } else { Duration::ZERO };
    let mapping = tokio::time::timeout(limit, heard.recv()).await.ok().flatten().flatten();
    facts.mapped = mapping.map(mapped);
    Some((mapper, heard))
}

fn mapped(mapping: Mapping) -> (SocketAddr, Via) {
    let by = match mapping.service {
        Service::Pcp => Via::Pcp,
        Service::NatPmp => Via::NatPmp,
        Service::Upnp => Via::Upnp,
    };
    (mapping.external, by)
}

/// Keeps what the router says while we serve, for `samewire check` and the next `samewire up`: one that answered late,
/// or changed its mind.
async fn follow_router(mut mappings: mpsc::Receiver<Option<Mapping>>, mut facts: Facts, told: Arc<Told>) {
    while let Some(mapping) = mappings.recv().await {
        facts.mapped = mapping.map(mapped);
        let now = Reach::decide(&facts);
        told.change(|served| served.now = Some(now).filter(|now| *now != served.reach));
    }
}

/// What the start is waiting for, to whoever started the daemon.
fn tell_step(what: &str) {
    let _no_service_manager = sw_os::service::notify(&format!("{STEP_NOTICE}{what}\n"));
}

fn place(reach: &Reach, facts: &Facts, listen: SocketAddr, has_port_80: bool) -> Place {
    let (host, port) = reach.host_port();
    let tls_url =
        if port == HTTPS_PORT { format!("https://{host}") } else { format!("https://{host}:{port}") };
    // Plain HTTP at a private address, or where our port 443 speaks TLS too (control.md §1.3).
    let is_mapped = matches!(reach, Reach::Mapped { .. });
    let plain_url =
        if has_port_80 && !is_mapped { format!("http://{host}") } else { format!("http://{host}:{port}") };
    let candidates = reach.candidates(facts);
    Place {
        login_server: plain_url,
        tls_url,
        hosts: candidates.iter().map(|(host, _)| host.clone()).collect(),
        candidates,
        listen,
        can_port_80: has_port_80,
        is_reachable_outside: reach.is_from_outside(),
        has_node: true,
        given: None,
        oidc: None,
    }
}

/// A damaged database has its own message, since there is a way back.
fn not_started(control: &Path, error: &ServerError) -> Problem {
    let ServerError::Start(StartError::Store(StoreError::Corrupt { what, .. })) = error else {
        return stopped(error);
    };
    let file = control.join(DATABASE).display().to_string();
    Slug::StateDamaged.problem(&[("file", &file), ("reason", what)])
}

fn stopped(error: &dyn std::error::Error) -> Problem {
    let mut why = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        why.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    Problem::other("the server cannot start.", why, "")
}

fn listen_problem(port: u16, error: &std::io::Error) -> Problem {
    let holder = sw_os::host::holder_of_port(port);
    match (error.kind(), holder) {
        (std::io::ErrorKind::AddrInUse, Some(holder)) => {
            let holder = format!("{} (pid {})", holder.program, holder.pid);
            Problem {
                why: format!("{holder} listens on it, and the join lines of this network say {port}"),
                fix: "stop that program, then start samewire again".to_owned(),
                ..Slug::PortTakenFixed.problem(&[("port", &port.to_string()), ("holder", &holder)])
            }
        }
        _ => Problem::other(format!("port {port} cannot be used."), error.to_string(), ""),
    }
}

/// A port that is free for TCP and UDP: 443, else 8443, else any.
pub fn free_port() -> u16 {
    let is_free = |port: u16| {
        let tcp = std::net::TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
            .or_else(|_| std::net::TcpListener::bind(("0.0.0.0", port)));
        let udp = std::net::UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))
            .or_else(|_| std::net::UdpSocket::bind(("0.0.0.0", port)));
        tcp.is_ok() && udp.is_ok()
    };
    let any = || {
        let listener = std::net::TcpListener::bind("0.0.0.0:0").ok()?;
        Some(listener.local_addr().ok()?.port())
    };
    [HTTPS_PORT, 8443].into_iter().find(|port| is_free(*port)).or_else(any).unwrap_or(8443)
}
