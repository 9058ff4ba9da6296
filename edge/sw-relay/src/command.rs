//! `samewire relay`: a relay as a program of its own.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use sw_net::acme::{AcmeWish, Entrance, HttpProofs, Keeper, LETS_ENCRYPT};
use sw_net::front::{Front, FrontLimits};
use sw_net::socket::{bind_udp, listen_tcp};
use sw_net::tls::{CertStore, Identity, server_config};
use sw_types::{CertCheck, HTTP_PORT, MeshKey, RelayAddr, RelayNode, RelayRegion, STUN_PORT};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use crate::config::RelayConfig;
use crate::region::{OWN_REGION, RelayPlace, derp_map, derp_region, hash_text};
use crate::relay::Relay;
use crate::state::{StateDir, read_secret};
use crate::verify::VerifyUrl;

/// How long clients get to take what waits for them when the relay stops.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// The meta certificate is good for 30 days from its making (derp.md §3).
const META_RENEWAL: Duration = Duration::from_secs(20 * 24 * 3600);

/// Runs a relay: DERP over TLS and STUN. Clients need no other relay; it needs no domain.
///
/// Example, on a machine with the public address 203.0.113.7:
///   samewire relay --hostname 203.0.113.7 --state /var/lib/samewire/relay
///   samewire relay derp-map --state /var/lib/samewire/relay
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, verbatim_doc_comment)]
pub struct RelayArgs {
    #[command(subcommand)]
    verb: Option<RelayVerb>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
enum RelayVerb {
    /// Print the DERP map by which clients reach this relay, pinned certificate included
    DerpMap {
        /// The relay's directory
        #[arg(long, value_name = "DIR")]
        state: PathBuf,
    },
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// Where DERP listens, TLS and plain HTTP on the same port
    #[arg(long, value_name = "ADDR:PORT", default_value = "[::]:443")]
    listen: SocketAddr,
    /// Where STUN listens; the UDP port with the number of the TCP port answers too, if it is free
    #[arg(long, value_name = "ADDR:PORT")]
    stun_listen: Option<SocketAddr>,
    /// Name or address by which clients reach this machine
    #[arg(long, value_name = "NAME_OR_IP", required = true)]
    hostname: Option<String>,
    /// Directory for key and certificate, made if need be
    #[arg(long, value_name = "DIR", required = true)]
    state: Option<PathBuf>,
    /// Which certificate is shown
    #[arg(long, value_enum, default_value = "self-signed")]
    tls: TlsMode,
    /// Certificate chain in PEM form, for --tls manual
    #[arg(long, value_name = "F")]
    cert: Option<PathBuf>,
    /// Private key in PEM form, for --tls manual
    #[arg(long, value_name = "F")]
    key: Option<PathBuf>,
    /// The authority for --tls acme
    #[arg(long, value_name = "URL", default_value = LETS_ENCRYPT)]
    acme_directory: String,
    /// Root certificate of that authority, PEM, where the system does not know it
    #[arg(long, value_name = "F")]
    acme_ca: Option<PathBuf>,
    /// File with the 64 hex digits that the relays of a region share
    #[arg(long, value_name = "F")]
    mesh_key_file: Option<PathBuf>,
    /// Another relay of the region; may be given several times. With =sha256-raw:HEX behind it, its certificate is
    /// the one with that hash (CertName of its DERP map), else a publicly valid one
    #[arg(long, value_name = "HOST:PORT", requires = "mesh_key_file")]
    mesh_with: Vec<String>,
    /// Name whose addresses clients without working DNS may ask for at /bootstrap-dns, usually the control server's; may
    /// be given several times
    #[arg(long = "bootstrap-name", value_name = "HOST")]
    bootstrap_names: Vec<String>,
    /// Ask this URL whether a client may come in; while it does not answer, nobody new does
    #[arg(long, value_name = "URL")]
    verify_url: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TlsMode {
    /// Made by the relay and pinned by its hash in the DERP map: needs no domain
    SelfSigned,
    /// Given by --cert and --key; read again on SIGHUP
    Manual,
    /// From an authority, for --hostname (a name or an address), renewed by itself
    Acme,
    /// No TLS: for development, or behind a TLS proxy
    Off,
}

/// Runs the command.
#[must_use]
pub fn run(args: RelayArgs) -> ExitCode {
    let result = match args.verb {
        Some(RelayVerb::DerpMap { state }) => print_map(state),
        None => serve(args.serve),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "the error of the command")]
fn complain(error: &anyhow::Error) {
    eprintln!("error: the relay does not run.\n  why: {error:#}");
}

#[expect(clippy::print_stdout, reason = "the answer of the command")]
fn print_map(state: PathBuf) -> anyhow::Result<()> {
    let place = StateDir::open(&state)?.place()?;
    let name = place.hosts.first().cloned().unwrap_or_default();
    let map = derp_map(derp_region(OWN_REGION, "home", &name, &place));
    println!("{}", serde_json::to_string_pretty(&map)?);
    Ok(())
}

fn serve(args: ServeArgs) -> anyhow::Result<()> {
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("sw-relay")
        .build()
        .context("no threads")?;
    runtime.block_on(serve_async(args))
}

/// One descriptor per client: take what the system gives.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        warn!(%error, "the limit of open files stays as it is");
    }
}

async fn serve_async(args: ServeArgs) -> anyhow::Result<()> {
    let state = StateDir::open(args.state.as_deref().context("--state is missing")?)?;
    let hostname = args.hostname.clone().context("--hostname is missing")?;
    let relay = Relay::new(config(&args, &state)?)?;
    let store = CertStore::new();
    let mut place = RelayPlace {
        hosts: vec![hostname.clone()],
        derp_port: 0,
        stun_ports: Vec::new(),
        cert_sha256: None,
        can_port_80: false,
    };
    let proofs = Arc::<HttpProofs>::default();
    let keeper = (args.tls == TlsMode::Acme).then(|| {
        let host = hostname.trim_matches(['[', ']']).to_owned();
        let (directory, authority) = (args.acme_directory.clone(), args.acme_ca.clone());
        let wish = AcmeWish { host, directory, authority };
        Keeper::new(wish, state.path(), None, Arc::clone(&store), Arc::clone(&proofs))
    });
    if let Some(identity) = identity(&args, &state, &hostname, keeper.as_ref())? {
        store.set_default(&identity);
        if args.tls == TlsMode::SelfSigned {
            place.cert_sha256 = Some(hash_text(identity.hash()));
        }
    }
    store.set_meta(&relay.meta_cert()?);

    let entrance = Entrance::new(proofs);
    entrance.open(relay.router());
    let front = Front::new(entrance, FrontLimits::default());
    let listener = listen_tcp(args.listen).with_context(|| format!("TCP {} cannot be used", args.listen))?;
    place.derp_port = listener.local_addr()?.port();
    let tls = (args.tls != TlsMode::Off).then(|| server_config(Arc::clone(&store)));
    front.listen(listener, tls);
    // Captive-portal checks come to port 80, if we may have it.
    if place.derp_port == sw_types::HTTPS_PORT
        && let Ok(listener) = listen_tcp(SocketAddr::new(args.listen.ip(), HTTP_PORT))
    {
        front.listen(listener, None);
        place.can_port_80 = true;
    }
    place.stun_ports = serve_stun(&relay, &args, place.derp_port)?;
    for peer in &args.mesh_with {
        relay.join_mesh(mesh_region(peer)?, args.tls == TlsMode::Off);
    }
    state.set_place(&place)?;
    info!(key = %relay.key().short(), ?place, "relay is up");
    let (news, _nobody_asks) = tokio::sync::mpsc::channel(1);
    let renewing = keeper.map(|keeper| tokio::spawn(keeper.run(false, news)));
    until_stopped(&args, &state, &hostname, &relay, &store).await?;
    if let Some(renewing) = renewing {
        renewing.abort();
    }
    relay.drain(DRAIN_LIMIT).await;
    front.shutdown(Duration::from_secs(1)).await;
    Ok(())
}

fn config(args: &ServeArgs, state: &StateDir) -> anyhow::Result<RelayConfig> {
    let mut config = RelayConfig::new(Arc::new(state.key()?));
    config.plain_http = args.tls == TlsMode::Off;
    config.rate = state.rate()?;
    config.bootstrap_names.clone_from(&args.bootstrap_names);
    if let Some(path) = &args.mesh_key_file {
        let text = read_secret(path)?.with_context(|| format!("{} is not there", path.display()))?;
        let text = String::from_utf8(text).unwrap_or_default();
        let key = MeshKey::from_text(text.trim()).with_context(|| format!("{}", path.display()))?;
        config.mesh_key = Some(Arc::new(key));
    }
    if let Some(url) = &args.verify_url {
        config.admission = Arc::new(VerifyUrl::new(url, false)?);
    }
    Ok(config)
}

fn identity(
    args: &ServeArgs,
    state: &StateDir,
    hostname: &str,
    keeper: Option<&Keeper>,
) -> anyhow::Result<Option<Identity>> {
    match (args.tls, &args.cert, &args.key) {
        (TlsMode::Off, ..) => Ok(None),
        (TlsMode::SelfSigned, ..) => state.self_signed(hostname).map(Some),
        (TlsMode::Manual, Some(cert), Some(key)) => {
            let read = |path: &PathBuf| {
                std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))
            };
            Ok(Some(Identity::from_pem(&read(cert)?, &read(key)?)?))
        }
        (TlsMode::Acme, ..) => Ok(keeper.map(Keeper::kept).transpose()?.flatten()),
        (TlsMode::Manual, ..) => bail!("--tls manual needs --cert and --key"),
    }
}

/// Binds the STUN sockets; gives their ports, the best first (architecture.md §10.3).
fn serve_stun(relay: &Relay, args: &ServeArgs, derp_port: u16) -> anyhow::Result<Vec<u16>> {
    let asked = args.stun_listen.unwrap_or_else(|| SocketAddr::new(args.listen.ip(), STUN_PORT));
    let mut ports = Vec::new();
    match bind_udp(asked) {
        Ok(socket) => {
            ports.push(socket.local_addr()?.port());
            relay.serve_stun(socket)?;
        }
        Err(error) if args.stun_listen.is_some() => {
            return Err(error).with_context(|| format!("UDP {asked} cannot be used"));
        }
        Err(error) => warn!(%error, "UDP {asked} cannot be used"),
    }
    if !ports.contains(&derp_port)
        && let Ok(socket) = bind_udp(SocketAddr::new(asked.ip(), derp_port))
    {
        ports.push(derp_port);
        relay.serve_stun(socket)?;
    }
    Ok(ports)
}

/// The other relay of a mesh. Its certificate is checked as a client would: the mesh key is sealed for whoever shows
/// a relay key behind it.
fn mesh_region(peer: &str) -> anyhow::Result<RelayRegion> {
    let (address, cert) = match peer.split_once('=') {
        Some((address, hash)) => (address, CertCheck::Sha256(parse_hash(hash)?)),
        None => (peer, CertCheck::HostName),
    };
    let (host, port) = address.rsplit_once(':').with_context(|| format!("{peer:?} is not HOST:PORT"))?;
    let port = port.parse().with_context(|| format!("{peer:?} is not HOST:PORT"))?;
    let host = host.trim_matches(['[', ']']).to_owned();
    let (ipv4, ipv6) = match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => (RelayAddr::Fixed(ip), RelayAddr::Disabled),
        Ok(IpAddr::V6(ip)) => (RelayAddr::Disabled, RelayAddr::Fixed(ip)),
        Err(_) => (RelayAddr::Resolve, RelayAddr::Resolve),
    };
    let node = RelayNode {
        name: address.to_owned(),
        host_name: host,
        cert,
        ipv4,
        ipv6,
        stun_port: None,
        stun_only: false,
        derp_port: port,
        insecure_for_tests: false,
        stun_test_ip: None,
        can_port_80: false,
    };
    Ok(RelayRegion {
        id: OWN_REGION,
        code: String::new(),
        name: String::new(),
        no_measure_no_home: false,
        nodes: vec![node],
    })
}

fn parse_hash(text: &str) -> anyhow::Result<[u8; 32]> {
    let mut hash = [0u8; 32];
    let digits = text.strip_prefix("sha256-raw:").context("a pinned certificate is sha256-raw:HEX")?;
    hex::decode_to_slice(digits, &mut hash).context("a pinned certificate has 64 hex digits")?;
    Ok(hash)
}

/// Reads again what may have changed: the certificate, and how fast clients may send.
fn reload(args: &ServeArgs, state: &StateDir, hostname: &str, relay: &Relay, store: &CertStore) {
    // An authority's certificate is in force already: its keeper sees to that.
    match identity(args, state, hostname, None) {
        Ok(Some(identity)) => store.set_default(&identity),
        Ok(None) => {}
        Err(error) => warn!("the certificate stays as it is: {error:#}"),
    }
    match state.rate() {
        Ok(rate) => {
            info!(?rate, "rate of clients");
            relay.set_rate(rate);
        }
        Err(error) => warn!("the rate of clients stays as it is: {error:#}"),
    }
}

/// Waits for the end; keeps the certificate that tells the relay's key fresh meanwhile.
async fn until_stopped(
    args: &ServeArgs,
    state: &StateDir,
    hostname: &str,
    relay: &Relay,
    store: &CertStore,
) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut renewal = tokio::time::interval(META_RENEWAL);
    loop {
        tokio::select! {
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            _ = hangup.recv() => reload(args, state, hostname, relay, store),
            _ = renewal.tick() => store.set_meta(&relay.meta_cert()?),
        }
    }
}
