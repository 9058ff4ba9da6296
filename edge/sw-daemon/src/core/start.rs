//! Brings the parts up, in the order in which they can fail.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use sw_dataplane::{Device, DeviceConfig, PacketChannel, PacketIo, SocketOptions, UdpOffload};
use sw_net::portmap::PortMapper;
use sw_node::{Node, NodeConfig};
use sw_os::host::{self, Holder};
use sw_os::reconciler::Reconciler;
use sw_os::tun::{Tun, TunError, Want};
use sw_os::{Interfaces, monitor};
use sw_path::{PathConfig, PathEngine};
use sw_tailcfg::Hostinfo;
use sw_types::local::{Prefs, Problem};
use sw_types::problem::Slug;
use sw_types::{DiscoPrivate, NodeKey, NodePrivate, RelayMap};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::control_tasks::ControlTasks;
use super::peer_messages::PeerPings;
use super::remember::Remember;
use super::{Core, CoreHandle, Inputs};
use crate::bus::Bus;
use crate::config::{DaemonConfig, Port, TunMode};
use crate::dns_service::DnsService;
use crate::errors::chain;
use crate::inbox::Inbox;
use crate::peer_api::PeerApi;
use crate::relays::Relays;
use crate::serve::Serving;
use crate::sockets::SocketFactory;
use crate::store::{JOURNAL_FILE, Store, lock_key};
use crate::userspace::Network;

/// Calls that may wait for the node's task.
const CALLS_MAX: usize = 64;
/// Reports of tasks that may wait; a full queue makes the map stream wait, and with it the server.
const REPORTS_MAX: usize = 64;
/// Batches of relayed packets that may wait; then the relay waits.
const RELAY_EVENTS_MAX: usize = 256;
/// Tables to start a TUN's queue with; the kernel's default of 500 is too short for bursts.
const TUN_QUEUE_PACKETS: u32 = 1000;

/// Starts the node's task.
pub(crate) async fn start(
    config: DaemonConfig,
    stop: CancellationToken,
) -> Result<(CoreHandle, JoinHandle<()>, Option<Network>), Problem> {
    let store = Store::open(config.state_dir.clone())?;
    let is_userspace = config.tun == TunMode::Userspace;
    let InnerSide { io, reconciler, packets } = open_inner_side(&config, &store)?;
    let sockets = SocketFactory::new(!is_userspace, config.proxy.clone());
    let (device, device_events) = open_device(&config, io, &sockets)?;
    let device = Arc::new(device);

    let (calls, call_queue) = mpsc::channel(CALLS_MAX);
    let (reports, report_queue) = mpsc::channel(REPORTS_MAX);
    let (relay_events, relay_queue) = mpsc::channel(RELAY_EVENTS_MAX);
    let (links, link_queue) = mpsc::channel(4);
    let (mapping_changes, mappings) = mpsc::channel(4);

    let bus = Bus::new();
    let resolver = Arc::new(ArcSwap::from_pointee(sw_node::resolve::Resolver::default()));
    let dns = Arc::new(DnsService::new(Arc::clone(&resolver), sockets.clone()));
    let prefs = store.prefs();
    let disco = store.disco_key(node_key(&prefs));
    let disco_key = DiscoPrivate::from_bytes(*disco).public();
    let now = sw_os::clock::now();
    let node_config = NodeConfig {
        hostinfo: hostinfo(&config),
        disco: disco_key,
        lock: lock_key(&prefs),
        is_userspace,
        is_ephemeral: store.is_ephemeral(),
        dns_facts: sw_node::desired::DnsFacts::default(),
        seed: crate::random(),
    };
    let (cached, ways) = (store.cached_map(), store.ways());
    let node = Node::new(node_config, prefs, cached, now);
    let paths = PathEngine::new(
        path_config(&config),
        DiscoPrivate::from_bytes(*disco),
        node.key().unwrap_or_default(),
        crate::random(),
    );
    let applied = reconciler.as_ref().map(Reconciler::results);
    let tun_name = device.tun_name().unwrap_or_default().to_owned();
    tokio::spawn(async move {
        if let Err(error) = monitor::watch(tun_name, links).await {
            tracing::warn!(%error, "the network is not watched");
        }
    });
    let network = packets.map(|packets| Network::start(packets, &device, Arc::clone(&resolver), &stop));
    if let Some(network) = &network {
        network.serve(&config, &stop).await?;
    }
    let config_dir = store.directory().map(ToOwned::to_owned);
    let served = store.serve_config();
    let core = Core {
        network: network.clone(),
        relays: Relays::new(relay_events, sockets.dial_options()),
        control: ControlTasks::new(reports.clone()),
        config,
        store,
        node,
        paths,
        device: Arc::clone(&device),
        bus: bus.clone(),
        dns: Arc::clone(&dns),
        reconciler,
        resolver,
        port_mapper: PortMapper::spawn(sockets.open_udp(), mapping_changes),
        mapped_port: None,
        mapping: None,
        sockets,
        disco,
        pings: BTreeMap::new(),
        peer_pings: PeerPings::new(),
        inbox: Inbox::new(config_dir.as_deref()),
        peer_api: PeerApi::new(CoreHandle { calls: calls.clone() }),
        serving: Serving::new(CoreHandle { calls: calls.clone() }, served),
        reports,
        relay_map: RelayMap::default(),
        interfaces: Interfaces::default(),
        other_client: None,
        server_is: None,
        applied: sw_os::Applied::default(),
        activity: BTreeMap::new(),
        gate: None,
        remember: Remember::default(),
        ways,
        quiet: super::quiet::Quiet::new(now.mono),
        path_reports: super::path_reports::PathReports::default(),
        slept_nanos: sw_os::clock::suspended_nanos(),
        is_over: false,
    };
    let inputs = Inputs {
        calls: call_queue,
        reports: report_queue,
        device: device_events,
        relays: relay_queue,
        links: link_queue,
        applied,
        mappings,
    };
    let task = tokio::spawn(core.run(inputs, stop));
    Ok((CoreHandle { calls }, task, network))
}

/// Who this node is, if it has joined.
fn node_key(prefs: &Prefs) -> Option<NodeKey> {
    let text = &prefs.config.as_ref()?.private_node_key.0;
    NodePrivate::from_text(text).ok().map(|key| key.public())
}

/// How the path engine is set, from what the daemon was started with.
pub(super) fn path_config(config: &DaemonConfig) -> PathConfig {
    PathConfig { fixed_port: matches!(config.port, Port::Fixed(_)), ..PathConfig::default() }
}

/// Where inner packets come from and go to.
struct InnerSide {
    io: PacketIo,
    reconciler: Option<Reconciler>,
    packets: Option<PacketChannel>,
}

fn open_inner_side(config: &DaemonConfig, store: &Store) -> Result<InnerSide, Problem> {
    let TunMode::Interface(name) = &config.tun else {
        let (io, packets) = PacketIo::channel();
        return Ok(InnerSide { io, reconciler: None, packets: Some(packets) });
    };
    let journal = match store.directory() {
        Some(directory) => directory.join(JOURNAL_FILE),
        None => std::env::temp_dir().join(format!("samewire-{name}.journal")),
    };
    // First, so that what a crashed process left behind is gone before anything new is made.
    let reconciler = Reconciler::start(name, journal).map_err(|error| {
        if !rustix::process::geteuid().is_root() {
            return needs_root(chain(&error));
        }
        Problem::other(
            "the routes of this machine cannot be set.",
            chain(&error),
            "run it as root: sudo samewire daemon",
        )
    })?;
    let tun = Tun::create(name, Want::Best).map_err(|error| tun_problem(name, &error))?;
    if let Err(error) = tun.set_queue_len(TUN_QUEUE_PACKETS) {
        tracing::debug!(error = chain(&error), "queue length of the TUN");
    }
    Ok(InnerSide { io: PacketIo::Tun(tun), reconciler: Some(reconciler), packets: None })
}

fn tun_problem(name: &str, error: &TunError) -> Problem {
    match error {
        TunError::Open(cause) if cause.kind() == io::ErrorKind::NotFound => Slug::NoTun.problem(&[]),
        TunError::Create { cause, .. } if cause.kind() == io::ErrorKind::ResourceBusy => {
            let holder = host::holder_of_tun(name).map(|holder| holder_text(&holder)).unwrap_or_default();
            Slug::TunNameTaken.problem(&[("tun", name), ("holder", &holder)])
        }
        TunError::Open(cause) | TunError::Create { cause, .. }
            if cause.kind() == io::ErrorKind::PermissionDenied =>
        {
            needs_root(chain(error))
        }
        TunError::Create { cause, .. }
            if cause.kind() == io::ErrorKind::InvalidInput && is_interface(name) =>
        {
            let problem = Slug::TunNameTaken.problem(&[("tun", name), ("holder", "")]);
            Problem { why: "a network interface of another kind has it".to_owned(), ..problem }
        }
        TunError::Name { .. } | TunError::Open(_) | TunError::Create { .. } | TunError::Configure { .. } => {
            Problem::other(
                "the TUN interface could not be made.",
                chain(error),
                "run without it: samewire daemon --tun=userspace-networking",
            )
        }
    }
}

fn needs_root(why: String) -> Problem {
    let fix = "sudo samewire daemon, or run it without: samewire daemon --tun=userspace-networking";
    let problem = Problem::other("making the interface needs root.", why, fix);
    Problem { slug: Slug::NoPermission.name().to_owned(), ..problem }
}

fn is_interface(name: &str) -> bool {
    std::path::Path::new("/sys/class/net").join(name).exists()
}

fn open_device(
    config: &DaemonConfig,
    io: PacketIo,
    sockets: &SocketFactory,
) -> Result<(Device, mpsc::Receiver<sw_dataplane::Event>), Problem> {
    let (wanted, is_fixed) = match config.port {
        Port::Preferred(port) => (port, false),
        Port::Fixed(port) => (port, true),
        Port::Any => (0, false),
    };
    let is_free = wanted == 0 || std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, wanted)).is_ok();
    let port = if is_free { wanted } else { 0 };
    let holder = || host::holder_of_port(wanted).map(|holder| holder_text(&holder)).unwrap_or_default();
    if !is_free && is_fixed {
        return Err(Slug::PortTakenFixed.problem(&[("port", &wanted.to_string()), ("holder", &holder())]));
    }
    let device = Device::start(DeviceConfig {
        io,
        port,
        sockets: SocketOptions { mark: sockets.mark(), address: None, offload: UdpOffload::Best },
        mtu: usize::try_from(sw_node::desired::MTU).expect("a small number"),
    })
    .map_err(|error| {
        Problem::other(
            "the UDP socket could not be opened.",
            chain(&error),
            "another port: samewire daemon --port=0",
        )
    })?;
    if !is_free {
        let used = device.0.local_port().to_string();
        let problem = Slug::PortTaken.problem(&[
            ("wanted", &wanted.to_string()),
            ("port", &used),
            ("holder", &holder()),
        ]);
        tracing::warn!("{} {}", problem.what, problem.why);
    }
    Ok(device)
}

fn holder_text(holder: &Holder) -> String {
    format!("{} (pid {})", holder.program, holder.pid)
}

fn hostinfo(config: &DaemonConfig) -> Hostinfo {
    let facts = host::facts();
    let random = crate::random();
    let log_id: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    Hostinfo {
        ipn_version: crate::VERSION_LONG.to_owned(),
        backend_log_id: log_id,
        os: std::env::consts::OS.to_owned(),
        os_version: facts.os_version,
        container: Some(facts.is_container),
        distro: facts.distro,
        distro_version: facts.distro_version,
        distro_code_name: facts.distro_code_name,
        device_model: facts.device_model,
        hostname: config.hostname.clone().unwrap_or(facts.hostname),
        machine: facts.machine,
        go_arch: facts.go_arch.to_owned(),
        no_logs_no_support: true,
        ..Hostinfo::default()
    }
}
