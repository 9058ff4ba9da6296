//! A network that this machine serves: control server, relay, STUN and page in the process of the node.
//!
//! `samewire up` on a first machine writes [`NetworkPlan`] into `control/`; wherever the daemon finds one there, it
//! serves. What it found out about itself stands in [`Served`], for the screens.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sw_control::{Server, ServerConfig};
use sw_daemon::{DaemonConfig, Port, Problem, StunAnswer};
use sw_net::front::{Front, FrontLimits};
use sw_os::Interfaces;
use sw_types::problem::Slug;
use sw_types::{HTTP_PORT, HTTPS_PORT};

use crate::first_run::reach::{Facts, Reach, Via};
use crate::first_run::screen::Certificate;
use crate::serving::{Place, Serving};

const PLAN_FILE: &str = "network.json";
const SERVED_FILE: &str = "served.json";
/// How long the end of the process waits for answers under way.
const GRACE: Duration = Duration::from_secs(2);
/// How long the start waits for a router to map a port.
const MAPPING_LIMIT: Duration = Duration::from_secs(4);

/// What was decided when the network was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkPlan {
    /// TCP and UDP.
    pub port: u16,
    /// The name by which the server is reached, if it has one.
    pub domain: Option<String>,
}

/// What the serving process found out about itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Served {
    pub reach: Reach,
    pub login_server: String,
    pub certificate: Certificate,
    /// Who holds port 443, when we do not.
    pub port_443_holder: Option<String>,
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
    serving: Serving,
    front: Front,
    mapper: Option<sw_net::portmap::PortMapper>,
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
        let reach = Reach::decide(&facts);
        let place = place(&reach, &facts, main, plain.is_some());
        let engine = Arc::new(sw_tailnet::PolicyEngine::new(&place.login_server));
        let config = ServerConfig { url: place.login_server.clone(), state: control.to_owned(), engine };
        let server = Server::start(config).map_err(|error| stopped(&error))?;
        let serving = Serving::start(&server, control, &place, false)
            .map_err(|error| Problem::other("the server cannot start.", format!("{error:#}"), ""))?;
        if let Some(map) = serving.derp_map.clone() {
            server.control().set_derp_map(map).await.map_err(|error| stopped(&error))?;
        }
        let front = Front::new(server.router(Some(serving.router()), true), FrontLimits::default());
        server.set_front_stats(front.stats());
        front.listen(listener, Some(Arc::clone(&serving.tls)));
        if let Some(plain) = plain {
            front.listen(plain, None);
        }
        server.serve_socket().map_err(|error| stopped(&error))?;
        node.port = Port::Preferred(plan.port);
        node.local_server = Some(format!("http://127.0.0.1:{}", plan.port));
        node.server_key = Some(server.noise_key());
        node.stun = serving.stun_answer().map(StunAnswer);
        let served = Served {
            reach,
            login_server: place.login_server,
            certificate: serving.certificate.clone(),
            port_443_holder: facts.port_443_holder,
        };
        write(&control.join(SERVED_FILE), &served).map_err(|error| stopped(&error))?;
        tracing::info!(url = %served.login_server, port = plan.port, "this machine serves its network");
        Ok(Self { server, serving, front, mapper })
    }

    /// Ends in good order: clients are told to come again.
    pub async fn stop(self) {
        if let Some(mapper) = self.mapper {
            mapper.stop().await;
        }
        self.serving.drain(GRACE).await;
        self.server.stop(GRACE).await;
        self.front.shutdown(Duration::from_millis(500)).await;
    }
}

/// Asks the router for the server's TCP port, where only a router keeps others out; the node maps UDP by itself.
async fn map_port(facts: &mut Facts) -> Option<sw_net::portmap::PortMapper> {
    let is_behind = matches!(Reach::decide(facts), Reach::LanBehindRouter { .. });
    let (Some(IpAddr::V4(gateway)), true) = (facts.router, is_behind) else { return None };
    let local = sw_os::host::source_address_for(SocketAddr::new(gateway.into(), 9));
    let Some(IpAddr::V4(local)) = local else { return None };
    let open: sw_net::portmap::OpenUdp = Arc::new(|local| {
        let socket = std::net::UdpSocket::bind((local, 0))?;
        socket.set_nonblocking(true)?;
        tokio::net::UdpSocket::from_std(socket)
    });
    let (changes, mut heard) = tokio::sync::mpsc::channel(4);
    let mapper = sw_net::portmap::PortMapper::spawn(open, changes);
    let transport = sw_proto::portmap::Transport::Tcp;
    mapper.set(Some(sw_net::portmap::Want { gateway, local, port: facts.port, transport }));
    let mapping = tokio::time::timeout(MAPPING_LIMIT, heard.recv()).await.ok().flatten().flatten();
    facts.mapped = mapping.map(|mapping| {
        let by = match mapping.service {
            sw_net::portmap::Service::Pcp => Via::Pcp,
            sw_net::portmap::Service::NatPmp => Via::NatPmp,
            sw_net::portmap::Service::Upnp => Via::Upnp,
        };
        (mapping.external, by)
    });
    // Renewals go on; what changes later is told by `samewire check`.
    tokio::spawn(async move { while heard.recv().await.is_some() {} });
    Some(mapper)
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
    }
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
