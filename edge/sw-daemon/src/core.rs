//! The node's task: the only owner of node core and path engine.
//!
//! Everything reaches it as a message; after each one the cores' outputs are carried out and one timer is armed.

mod control_tasks;
mod device;
mod explain;
pub(crate) mod joining;
mod notices;
mod outputs;
mod path_reports;
mod peer_messages;
mod peer_relay;
mod port_mapping;
mod profiles;
mod queries;
mod quiet;
mod remember;
mod start;
pub(crate) mod updating;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use sw_dataplane::{Device, Event as DeviceEvent};
use sw_net::derp_client::DerpEvent;
use sw_net::portmap::{Mapping, PortMapper};
use sw_node::control::RequestFailure;
use sw_node::resolve::Resolver;
use sw_node::{Node, RequestId};
use sw_os::{Interfaces, Reconciler, monitor::LinkEvent};
use sw_path::{LinkChange, LocalAddress, PathEngine, PingId, PingOutcome};
use sw_tailcfg::{MapResponse, RegisterResponse, ServerIs};
use sw_types::local::Problem;
use sw_types::{ControlKey, Instant, Now, RegionId, RelayMap};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use self::control_tasks::ControlTasks;
use self::peer_messages::PeerPings;
use self::remember::Remember;
use crate::bus::Bus;
use crate::config::DaemonConfig;
use crate::dns_service::DnsService;
use crate::inbox::Inbox;
use crate::peer_api::PeerApi;
use crate::recall::Ways;
use crate::relays::Relays;
use crate::serve::Serving;
use crate::sockets::SocketFactory;
use crate::store::Store;
use crate::userspace::Network;

pub(crate) use self::queries::{CAP_FILES, PingTarget};
pub(crate) use self::start::start;

/// Messages handled before the outputs are looked at again.
const BATCH_MAX: usize = 64;
/// A jump of the sleep clock by more than this was a suspend.
const SUSPEND_MIN: Duration = Duration::from_secs(2);

/// What tasks report back.
#[derive(Debug)]
pub(crate) enum Report {
    Registered { id: RequestId, answer: Result<Box<RegisterResponse>, RequestFailure> },
    MapOpened { takes_paths: bool, server: Option<ServerIs> },
    MapMessage { id: RequestId, message: Box<MapResponse> },
    MapEnded { id: RequestId },
    Updated { id: RequestId, answer: Result<(), RequestFailure> },
    ServerKey(ControlKey),
    ControlProblem(Problem),
    Resolved { name: String, addresses: Vec<IpAddr> },
    RelayHttp { region: RegionId, rtt: Option<Duration> },
}

/// Something to be done on the node's task.
type Call = Box<dyn FnOnce(&mut Core) + Send>;

/// How others reach the node's task.
#[derive(Clone)]
pub(crate) struct CoreHandle {
    calls: mpsc::Sender<Call>,
}

impl std::fmt::Debug for CoreHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CoreHandle")
    }
}

/// The node's task has ended.
#[derive(Debug, thiserror::Error)]
#[error("the node is stopping")]
pub(crate) struct Stopped;

impl CoreHandle {
    /// Runs `f` on the node's task and returns its result. The queue is bounded: callers wait.
    pub(crate) async fn call<R: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Core) -> R + Send + 'static,
    ) -> Result<R, Stopped> {
        let (reply, answer) = oneshot::channel();
        let call: Call = Box::new(move |core| {
            // The asker may be gone.
            let _unread = reply.send(f(core));
        });
        self.calls.send(call).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }
}

/// What the node's task hears.
pub(crate) struct Inputs {
    calls: mpsc::Receiver<Call>,
    reports: mpsc::Receiver<Report>,
    device: mpsc::Receiver<DeviceEvent>,
    relays: mpsc::Receiver<(RegionId, DerpEvent)>,
    links: mpsc::Receiver<LinkEvent>,
    applied: Option<watch::Receiver<sw_os::Applied>>,
    mappings: mpsc::Receiver<Option<Mapping>>,
}

/// The owner of all state.
pub(crate) struct Core {
    pub(crate) config: DaemonConfig,
    pub(crate) store: Store,
    pub(crate) node: Node,
    pub(crate) paths: PathEngine,
    pub(crate) device: Arc<Device>,
    /// The packet filter in force; its flows outlive a change of rules.
    gate: Option<Arc<sw_filter::Gate>>,
    pub(crate) relays: Relays,
    pub(crate) bus: Bus,
    network: Option<Network>,
    control: ControlTasks,
    reconciler: Option<Reconciler>,
    resolver: Arc<ArcSwap<Resolver>>,
    pub(crate) dns: Arc<DnsService>,
    sockets: SocketFactory,
    port_mapper: PortMapper,
    /// The port that should be reachable from outside, as the path engine wishes.
    mapped_port: Option<u16>,
    /// What the router gives at present.
    pub(crate) mapping: Option<Mapping>,
    /// The disco key's bytes: a new path engine is made when the node key changes.
    disco: zeroize::Zeroizing<[u8; 32]>,
    pings: BTreeMap<PingId, oneshot::Sender<PingOutcome>>,
    pub(crate) peer_pings: PeerPings,
    pub(crate) peer_api: PeerApi,
    pub(crate) serving: Serving,
    pub(crate) inbox: Inbox,
    reports: mpsc::Sender<Report>,
    relay_map: RelayMap,
    interfaces: Interfaces,
    /// Another program that holds such a network on this machine.
    other_client: Option<Problem>,
    /// What the server of the present map stream is, where it is one of ours.
    server_is: Option<ServerIs>,
    pub(crate) applied: sw_os::Applied,
    pub(crate) activity: BTreeMap<sw_types::NodeKey, Instant>,
    remember: Remember,
    ways: Ways,
    quiet: quiet::Quiet,
    path_reports: path_reports::PathReports,
    slept_nanos: i64,
    /// It cannot go on.
    is_over: bool,
}

impl Core {
    /// Runs until `stop`.
    async fn run(mut self, mut inputs: Inputs, stop: CancellationToken) {
        self.read_interfaces();
        loop {
            self.pump();
            self.rest();
            let sleep = self.until_deadline();
            tokio::select! {
                () = stop.cancelled() => break,
                Some(call) = inputs.calls.recv() => call(&mut self),
                Some(report) = inputs.reports.recv() => {
                    self.on_report(report);
                    for _ in 0..BATCH_MAX {
                        let Ok(report) = inputs.reports.try_recv() else { break };
                        self.on_report(report);
                    }
                }
                Some(event) = inputs.device.recv() => {
                    self.on_device_event(event);
                    for _ in 0..BATCH_MAX {
                        let Ok(event) = inputs.device.try_recv() else { break };
                        self.on_device_event(event);
                    }
                }
                Some((region, event)) = inputs.relays.recv() => {
                    self.on_relay_event(region, event);
                    for _ in 0..BATCH_MAX {
                        let Ok((region, event)) = inputs.relays.try_recv() else { break };
                        self.on_relay_event(region, event);
                    }
                }
                Some(event) = inputs.links.recv() => self.on_link_event(event),
                Some(mapping) = inputs.mappings.recv() => self.on_mapping(mapping),
                Some(applied) = next_applied(&mut inputs.applied) => self.on_applied(applied),
                () = tokio::time::sleep(sleep) => self.on_deadline(),
            }
            self.notice_suspend();
            if self.is_over {
                break;
            }
        }
        self.control.stop().await;
        self.shut_down();
        self.port_mapper.stop().await;
    }

    pub(crate) fn now(&self) -> Now {
        sw_os::clock::now()
    }

    fn until_deadline(&self) -> Duration {
        let paths = self.paths.next_deadline().map(|(at, _)| at);
        let own = [self.remember.due(), self.ways.due, self.path_reports.due, self.quiet.due];
        let deadlines = [self.node.next_deadline(), paths].into_iter().chain(own);
        match deadlines.flatten().min() {
            Some(at) => at - self.now().mono,
            None => Duration::from_secs(3600),
        }
    }

    fn on_deadline(&mut self) {
        let now = self.now();
        self.node.on_deadline(now);
        self.note_forwarded();
        self.paths.on_deadline(now);
        if self.remember.take_due(now.mono) {
            self.write_cache();
        }
        if self.ways.due.is_some_and(|due| due <= now.mono) {
            self.ways.due = None;
            self.store.write_ways(&self.ways);
        }
        if self.path_reports.due.is_some_and(|due| due <= now.mono) {
            self.report_paths();
        }
    }

    fn on_report(&mut self, report: Report) {
        let now = self.now();
        match report {
            Report::Registered { id, answer } => {
                self.node.on_register_answer(id, answer.map(|response| *response), now);
            }
            Report::MapOpened { takes_paths, server } => {
                self.server_is = server;
                self.on_map_opened(takes_paths);
            }
            Report::MapMessage { id, message } => self.node.on_map_message(id, *message, now),
            Report::MapEnded { id } => self.node.on_map_ended(id, now),
            Report::Updated { id, answer } => self.node.on_update_answer(id, answer, now),
            Report::ServerKey(key) => {
                // Pinned as a machine key is written: the Noise key has that form (keys.md §1).
                self.node.on_server_key(sw_types::MachineKey::from_bytes(*key.as_bytes()).to_string());
            }
            Report::ControlProblem(problem) => self.node.on_control_problem(problem),
            Report::Resolved { name, addresses } => self.paths.on_resolved(&name, &addresses, now),
            Report::RelayHttp { region, rtt } => self.paths.on_relay_http(region, rtt, now),
        }
    }

    fn on_link_event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::RuleDeleted => {
                if let Some(reconciler) = &self.reconciler {
                    reconciler.refresh();
                }
            }
            LinkEvent::Changed(interfaces) => {
                let now = self.now();
                let is_major = interfaces.default_v4 != self.interfaces.default_v4
                    || interfaces.default_v6 != self.interfaces.default_v6
                    || interfaces.local_addresses("") != self.interfaces.local_addresses("");
                self.interfaces = interfaces;
                self.look_for_other_client();
                self.tell_local_addresses();
                let change = if is_major { LinkChange::Major } else { LinkChange::Minor };
                self.paths.on_link_change(change, now);
                if is_major {
                    self.node.on_link_change(now);
                    self.relays.check();
                }
                if let Some(reconciler) = &self.reconciler {
                    reconciler.refresh();
                }
            }
        }
    }

    fn on_applied(&mut self, applied: sw_os::Applied) {
        self.applied = applied;
        let now = self.now();
        self.refresh_peer_api();
        let _said_in_log = self.refresh_serving();
        self.node.on_machine_ready(now);
    }

    fn read_interfaces(&mut self) {
        match Interfaces::read() {
            Ok(interfaces) => self.interfaces = interfaces,
            Err(error) => tracing::warn!(%error, "the network interfaces cannot be read"),
        }
        self.look_for_other_client();
        self.tell_local_addresses();
    }

    fn tell_local_addresses(&mut self) {
        let now = self.now();
        let own_tun = self.device.tun_name().unwrap_or_default().to_owned();
        let usable = self.interfaces.local_addresses(&own_tun);
        let mut local = Vec::new();
        let mut lan = Vec::new();
        for interface in &self.interfaces.interfaces {
            for address in &interface.addresses {
                if usable.contains(&address.addr()) && interface.name != own_tun {
                    lan.push(*address);
                    local.push(LocalAddress {
                        interface: interface.name.clone(),
                        ip: address.addr(),
                        prefix_len: address.prefix_len(),
                    });
                }
            }
        }
        self.paths.on_local_addresses(local, now);
        self.ask_for_port();
        self.node.on_network(lan, self.dns_facts(), now);
    }

    pub(crate) fn dns_facts(&self) -> sw_node::desired::DnsFacts {
        let Some(reconciler) = &self.reconciler else { return sw_node::desired::DnsFacts::default() };
        let base = sw_os::dns::Dns::detect(self.device.tun_name().unwrap_or_default()).base();
        sw_node::desired::DnsFacts {
            can_split: reconciler.can_split_dns(),
            base_nameservers: base.nameservers,
            base_search_domains: base.search_domains,
        }
    }

    fn notice_suspend(&mut self) {
        let slept = sw_os::clock::suspended_nanos();
        let jump = Duration::from_nanos(u64::try_from(slept - self.slept_nanos).unwrap_or(0));
        self.slept_nanos = slept;
        if jump >= SUSPEND_MIN {
            let now = self.now();
            tracing::info!(slept = ?jump, "the machine was asleep");
            self.paths.on_resume(jump, now);
            self.node.on_link_change(now);
            self.relays.check();
        }
    }

    /// Leaves the machine as it was.
    fn shut_down(&mut self) {
        if let Some(reconciler) = &mut self.reconciler {
            reconciler.stop();
        }
        if self.remember.take_any() {
            self.write_cache();
        }
        if self.ways.due.is_some() {
            self.store.write_ways(&self.ways);
        }
    }
}

async fn next_applied(results: &mut Option<watch::Receiver<sw_os::Applied>>) -> Option<sw_os::Applied> {
    let Some(receiver) = results else { return std::future::pending().await };
    match receiver.changed().await {
        Ok(()) => Some(receiver.borrow_and_update().clone()),
        // The reconciler is gone: nothing more will come.
        Err(_) => std::future::pending().await,
    }
}
