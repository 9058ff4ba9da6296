//! Asks the router for a port: by PCP, NAT-PMP or UPnP IGD (stun-netcheck.md §8), all asked at once and liked in this
//! order.
//!
//! One task holds at most one mapping: it renews it, gives it back when it is no longer wanted, and tells changes.
//! What is wanted (router, own address, port) is the owner's to say; so is when that changes.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use igd_next::aio::Gateway;
use igd_next::aio::tokio::Tokio;
use igd_next::{PortMappingProtocol, SearchOptions};
use sw_proto::portmap::Transport;
use sw_proto::{natpmp, pcp};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// What is asked for, seconds (stun-netcheck.md §8.3).
const LIFETIME_SECS: u32 = 7200;
/// A router that was restarted has forgotten its mappings: they are renewed at least this often.
const RENEW_MAX: Duration = Duration::from_secs(600);
/// A mapping shorter than this is not worth its renewals.
const RENEW_MIN: Duration = Duration::from_secs(30);
/// A router without such a service is asked again after this long.
const RETRY: Duration = Duration::from_secs(300);
/// The same while a mapping that could not be renewed still holds.
const RETRY_RENEWAL: Duration = Duration::from_secs(20);
/// A request is sent again when these are over.
const PATIENCE: [Duration; 3] =
    [Duration::from_millis(250), Duration::from_millis(250), Duration::from_millis(500)];
/// How much longer a better service may take once another has answered: routers answer in milliseconds.
const GRACE: Duration = Duration::from_millis(250);
/// For finding a UPnP router, and for each question to it.
const UPNP_LIMIT: Duration = Duration::from_secs(3);
/// Giving a mapping back must not hold up the end of the program.
const RELEASE_LIMIT: Duration = Duration::from_millis(500);
/// Seen in the router's list of mappings.
const DESCRIPTION: &str = "samewire";
/// Longest answer of PCP (RFC 6887 §7).
const ANSWER_MAX: usize = 1100;

/// Opens a UDP socket on one of our addresses.
pub type OpenUdp = Arc<dyn Fn(Ipv4Addr) -> io::Result<UdpSocket> + Send + Sync>;

/// What is wanted of the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    pub gateway: Ipv4Addr,
    /// Our address on the side of the router.
    pub local: Ipv4Addr,
    /// The port to be reached.
    pub port: u16,
    pub transport: Transport,
}

/// Who made a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    Pcp,
    NatPmp,
    Upnp,
}

/// A port of the router that leads to ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    pub external: SocketAddr,
    pub service: Service,
}

/// How far the first attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing that can map ports has answered yet.
    Asking,
    /// Something has, and is being asked for the port.
    Answered,
    /// The outcome was told; without a mapping it was `None`.
    Settled,
}

/// The handle of the task.
#[derive(Debug)]
pub struct PortMapper {
    want: watch::Sender<Option<Want>>,
    progress: watch::Receiver<Progress>,
    task: JoinHandle<()>,
}

impl PortMapper {
    /// Starts the task in the present tokio runtime; `changes` hears of the mapping when it comes, changes or goes.
    #[must_use]
    pub fn spawn(open: OpenUdp, changes: mpsc::Sender<Option<Mapping>>) -> Self {
        let (want, wants) = watch::channel(None);
        let (told, progress) = watch::channel(Progress::Asking);
        let task = Task { open, changes, progress: told, held: None };
        Self { want, progress, task: tokio::spawn(task.run(wants)) }
    }

    /// Where the first attempt is, and when that changes.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Says what is wanted; `None` gives back what is held.
    pub fn set(&self, want: Option<Want>) {
        self.want.send_if_modified(|now| {
            let is_other = *now != want;
            *now = want;
            is_other
        });
    }

    /// Gives back what is held and ends.
    pub async fn stop(self) {
        drop(self.want);
        let _late_or_done = timeout(RELEASE_LIMIT, self.task).await;
    }
}

/// Why a router gives no port.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("no answer")]
    Silent,
    #[error("refused by the router")]
    Refused,
    #[error("UPnP: {0}")]
    Upnp(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

#[derive(Debug)]
struct Held {
    want: Want,
    mapping: Mapping,
    lease: Lease,
    renew_at: Instant,
    ends_at: Instant,
}

/// What renewing and giving back need.
#[derive(Debug)]
enum Lease {
    /// The nonce proves that a request comes from who made the mapping.
    Pcp(pcp::Nonce),
    NatPmp,
    Upnp(Box<Gateway<Tokio>>),
}

struct Task {
    open: OpenUdp,
    changes: mpsc::Sender<Option<Mapping>>,
    progress: watch::Sender<Progress>,
    held: Option<Held>,
}

impl Task {
    async fn run(mut self, mut wants: watch::Receiver<Option<Want>>) {
        loop {
            let want = *wants.borrow_and_update();
            if self.held.as_ref().is_some_and(|held| Some(held.want) != want) {
                self.give_back().await;
            }
            let pause_end = match (want, &self.held) {
                (None, _) => None,
                (Some(_), Some(held)) if held.renew_at > Instant::now() => Some(held.renew_at),
                (Some(want), _) => {
                    tokio::select! {
                        changed = wants.changed() => if changed.is_ok() { continue } else { break },
                        made = self.make(want) => Some(self.after(made).await),
                    }
                }
            };
            let pause = async {
                match pause_end {
                    Some(end) => tokio::time::sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = wants.changed() => if changed.is_err() { break },
                () = pause => {}
            }
        }
        if self.held.is_some() {
            self.give_back().await;
        }
    }

    /// Takes the outcome of an attempt; returns when to go on.
    async fn after(&mut self, made: Result<Held, Failed>) -> Instant {
        let now = Instant::now();
        match made {
            Ok(held) => {
                let renew_at = held.renew_at;
                let is_news = self.held.as_ref().map(|old| old.mapping) != Some(held.mapping);
                let mapping = held.mapping;
                self.held = Some(held);
                if is_news {
                    tracing::info!(service = ?mapping.service, external = %mapping.external, "port mapping");
                    self.tell(Some(mapping)).await;
                }
                renew_at
            }
            Err(error) => {
                tracing::debug!(%error, "port mapping");
                let is_lost = self.held.as_ref().is_some_and(|held| held.ends_at <= now);
                if is_lost || *self.progress.borrow() != Progress::Settled {
                    self.held = None;
                    self.tell(None).await;
                }
                now + if self.held.is_some() { RETRY_RENEWAL } else { RETRY }
            }
        }
    }

    async fn give_back(&mut self) {
        let Some(held) = self.held.take() else { return };
        let (want, external) = (held.want, held.mapping.external.port());
        let given_back = async {
            match &held.lease {
                Lease::Pcp(nonce) => ask_pcp(&self.open, want, *nonce, external, 0).await.map(drop),
                Lease::NatPmp => {
                    let request = natpmp::map_request(want.transport, want.port, 0, 0);
                    ask(&self.open, want, &request, |bytes| natpmp::Response::parse(bytes).ok())
                        .await
                        .map(drop)
                }
                Lease::Upnp(gateway) => {
                    let removed = gateway.remove_port(upnp_protocol(want.transport), external).await;
                    removed.map_err(|error| Failed::Upnp(error.to_string()))
                }
            }
        };
        // Routers forget by themselves, too.
        let _best_effort = timeout(RELEASE_LIMIT, given_back).await;
        self.tell(None).await;
    }

    async fn tell(&self, mapping: Option<Mapping>) {
        // The owner may have gone.
        let _stopping = self.changes.send(mapping).await;
        self.progress.send_replace(Progress::Settled);
    }

    fn has_answered(&self) {
        self.progress.send_if_modified(|progress| {
            let is_first = *progress == Progress::Asking;
            if is_first {
                *progress = Progress::Answered;
            }
            is_first
        });
    }

    /// Renews the mapping that is held, or finds a service that makes one.
    async fn make(&self, want: Want) -> Result<Held, Failed> {
        let Some(held) = &self.held else { return self.find(want, want.port).await };
        let wished = held.mapping.external.port();
        let renewed = match &held.lease {
            Lease::Pcp(nonce) => map_pcp(&self.open, want, *nonce, wished).await,
            Lease::NatPmp => {
                let ip = ask_external(&self.open, want).await;
                match ip {
                    Ok(ip) => map_nat_pmp(&self.open, want, ip, wished).await,
                    Err(error) => Err(error),
                }
            }
            Lease::Upnp(gateway) => map_upnp(gateway.clone(), want, wished).await,
        };
        // A router that was changed for another.
        if renewed.is_err() { self.find(want, wished).await } else { renewed }
    }

    /// Asks all three services at once: a router that knows none must not be waited for three times.
    async fn find(&self, want: Want, wished: u16) -> Result<Held, Failed> {
        let mut by_port_control = pin!(self.find_port_control(want, wished));
        let gateway = {
            let mut search = pin!(search_upnp(want));
            tokio::select! {
                biased;
                made = &mut by_port_control => match made {
                    Ok(held) => return Ok(held),
                    Err(_) => search.await?,
                },
                found = &mut search => match found {
                    Ok(gateway) => {
                        self.has_answered();
                        if let Ok(Ok(held)) = timeout(GRACE, by_port_control).await {
                            return Ok(held);
                        }
                        gateway
                    }
                    Err(_) => return by_port_control.await,
                },
            }
        };
        self.has_answered();
        map_upnp(Box::new(gateway), want, wished).await
    }

    /// By PCP, else by NAT-PMP.
    async fn find_port_control(&self, want: Want, wished: u16) -> Result<Held, Failed> {
        let mut bytes = [0; 12];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        let mut external = pin!(ask_external(&self.open, want));
        let mut early = None;
        let by_pcp = {
            let mut by_pcp = pin!(map_pcp(&self.open, want, pcp::Nonce(bytes), wished));
            tokio::select! {
                biased;
                made = &mut by_pcp => made,
                ip = &mut external => {
                    early = Some(ip);
                    timeout(GRACE, by_pcp).await.unwrap_or(Err(Failed::Silent))
                }
            }
        };
        if by_pcp.is_ok() {
            return by_pcp;
        }
        let ip = match early {
            Some(ip) => ip?,
            None => external.await?,
        };
        self.has_answered();
        map_nat_pmp(&self.open, want, ip, wished).await
    }
}

impl Held {
    fn new(want: Want, external: SocketAddr, service: Service, lease: Lease, lifetime_secs: u32) -> Self {
        let lifetime = Duration::from_secs(lifetime_secs.into());
        let now = Instant::now();
        let renew_at = now + (lifetime / 2).clamp(RENEW_MIN, RENEW_MAX);
        Self { want, mapping: Mapping { external, service }, lease, renew_at, ends_at: now + lifetime }
    }
}

/// A lifetime of 0 gives the mapping back.
async fn ask_pcp(
    open: &OpenUdp,
    want: Want,
    nonce: pcp::Nonce,
    external_port: u16,
    lifetime_secs: u32,
) -> Result<(SocketAddr, u32), Failed> {
    let request = pcp::MapRequest {
        client: want.local,
        nonce,
        transport: want.transport,
        internal_port: want.port,
        external_port,
        external_ip: Ipv4Addr::UNSPECIFIED,
        lifetime_secs,
    };
    let read = |bytes: &[u8]| match pcp::Response::parse(bytes) {
        Ok(pcp::Response::Mapped { nonce: theirs, external, lifetime_secs, .. }) if theirs == nonce => {
            Some(Ok((external, lifetime_secs)))
        }
        Ok(pcp::Response::Refused { .. }) => Some(Err(Failed::Refused)),
        Ok(pcp::Response::Mapped { .. } | pcp::Response::Announced { .. }) => None,
        // A router that knows only NAT-PMP says so in its own words (RFC 6886 §3.5).
        Err(pcp::NotPcp) => natpmp::Response::parse(bytes).is_ok().then_some(Err(Failed::Refused)),
    };
    let (external, secs) = ask(open, want, &request.encode(), read).await??;
    if external.ip().is_unspecified() || (external.port() == 0 && lifetime_secs > 0) {
        return Err(Failed::Refused);
    }
    Ok((external, secs))
}

async fn map_pcp(open: &OpenUdp, want: Want, nonce: pcp::Nonce, wished: u16) -> Result<Held, Failed> {
    let (external, secs) = ask_pcp(open, want, nonce, wished, LIFETIME_SECS).await?;
    Ok(Held::new(want, external, Service::Pcp, Lease::Pcp(nonce), secs))
}

/// The router's address outside, by NAT-PMP.
async fn ask_external(open: &OpenUdp, want: Want) -> Result<Ipv4Addr, Failed> {
    ask(open, want, &natpmp::EXTERNAL_REQUEST, |bytes| match natpmp::Response::parse(bytes) {
        Ok(natpmp::Response::External { ip, .. }) => Some(ip.ok_or(Failed::Refused)),
        Ok(natpmp::Response::Refused { .. }) => Some(Err(Failed::Refused)),
        Ok(natpmp::Response::Mapped { .. }) | Err(natpmp::NotNatPmp) => None,
    })
    .await?
}

async fn map_nat_pmp(open: &OpenUdp, want: Want, ip: Ipv4Addr, wished: u16) -> Result<Held, Failed> {
    let request = natpmp::map_request(want.transport, want.port, wished, LIFETIME_SECS);
    let (port, secs) = ask(open, want, &request, |bytes| match natpmp::Response::parse(bytes) {
        Ok(natpmp::Response::Mapped { internal_port, external_port, lifetime_secs, .. })
            if internal_port == want.port =>
        {
            Some(Ok((external_port, lifetime_secs)))
        }
        Ok(natpmp::Response::Refused { .. }) => Some(Err(Failed::Refused)),
        Ok(natpmp::Response::Mapped { .. } | natpmp::Response::External { .. }) | Err(natpmp::NotNatPmp) => {
            None
        }
    })
    .await??;
    let external = SocketAddrV4::new(ip, port).into();
    Ok(Held::new(want, external, Service::NatPmp, Lease::NatPmp, secs))
}

/// Sends a request until an answer that `read` takes comes from the router, and nobody else.
async fn ask<T>(
    open: &OpenUdp,
    want: Want,
    request: &[u8],
    read: impl Fn(&[u8]) -> Option<T>,
) -> Result<T, Failed> {
    let socket = open(want.local)?;
    socket.connect((want.gateway, natpmp::PORT)).await?;
    let mut buffer = [0; ANSWER_MAX];
    for patience in PATIENCE {
        socket.send(request).await?;
        let answered = timeout(patience, async {
            loop {
                let len = socket.recv(&mut buffer).await?;
                if let Some(answer) = read(buffer.get(..len).unwrap_or_default()) {
                    return Ok::<T, io::Error>(answer);
                }
            }
        });
        if let Ok(answer) = answered.await {
            return Ok(answer?);
        }
    }
    Err(Failed::Silent)
}

async fn search_upnp(want: Want) -> Result<Gateway<Tokio>, Failed> {
    let mut options = SearchOptions::default();
    options.bind_addr = (want.local, 0).into();
    options.timeout = Some(UPNP_LIMIT);
    options.single_search_timeout = Some(UPNP_LIMIT);
    let found = igd_next::aio::tokio::search_gateway(options).await;
    found.map_err(|error| Failed::Upnp(error.to_string()))
}

async fn map_upnp(gateway: Box<Gateway<Tokio>>, want: Want, wished: u16) -> Result<Held, Failed> {
    let failed = |error: &dyn std::fmt::Display| Failed::Upnp(error.to_string());
    let asked = async {
        let ip = gateway.get_external_ip().await.map_err(|error| failed(&error))?;
        let local = SocketAddr::from((want.local, want.port));
        let protocol = upnp_protocol(want.transport);
        let port = match gateway.add_port(protocol, wished, local, LIFETIME_SECS, DESCRIPTION).await {
            Ok(()) => wished,
            // Taken by another machine, or the router chooses itself.
            Err(_) => {
                let any = gateway.add_any_port(protocol, local, LIFETIME_SECS, DESCRIPTION).await;
                any.map_err(|error| failed(&error))?
            }
        };
        Ok::<_, Failed>(SocketAddr::new(ip, port))
    };
    let external = timeout(UPNP_LIMIT, asked).await.map_err(|_| Failed::Silent)??;
    Ok(Held::new(want, external, Service::Upnp, Lease::Upnp(gateway), LIFETIME_SECS))
}

fn upnp_protocol(transport: Transport) -> PortMappingProtocol {
    match transport {
        Transport::Udp => PortMappingProtocol::UDP,
        Transport::Tcp => PortMappingProtocol::TCP,
    }
}
