//! The node daemon: connects the pure cores to the world, and serves the LocalAPI.
//!
//! ```text
//!   LocalAPI (Unix socket) ──┐                      ┌── ControlClient   ts2021, map stream
//!   link monitor ────────────┤                      ├── Relays          DERP connections
//!   data plane events ───────┼──> Core (one task) ──┼── Device          packets
//!   relay events ────────────┤    sw_node::Node     ├── Reconciler      routes, DNS
//!   answers of requests ─────┘    sw_path::PathEngine └─ Bus, files
//! ```
//!
//! [`Daemon::start`] runs it inside any tokio runtime.
#![forbid(unsafe_code)]

mod args;
mod bus;
mod config;
mod control;
mod core;
mod dialer;
mod dns_service;
mod errors;
mod inbox;
mod inner;
mod local_api;
mod metrics;
mod peer_api;
mod ping;
mod recall;
mod relays;
mod serve;
mod sockets;
mod store;
mod userspace;

use std::net::IpAddr;

use sw_types::local::{BackendState, StartOptions};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

pub use args::{DEFAULT_STATE, DaemonArgs, TUN_FILE, cleanup, start_log, stop_signal, user_path};
pub use config::{AnswerStun, DaemonConfig, Port, StunAnswer, TunMode};
pub use local_api::{ResponseBody, ensure_free as ensure_no_daemon};
pub use sw_netstack::{BoxedStream, DialError, NetstackError, Target, TcpListener, TcpStream, UdpSocket};
pub use sw_types::local::Problem;
pub use userspace::Network;

use crate::core::{CoreHandle, Stopped};

/// Short form of the version, as official programs print theirs.
pub const VERSION_SHORT: &str = env!("CARGO_PKG_VERSION");
/// Long form; a dotted number stands first, since peers and servers read it.
pub const VERSION_LONG: &str = concat!(env!("CARGO_PKG_VERSION"), "-samewire");

/// A running node.
#[derive(Debug)]
pub struct Daemon {
    core: CoreHandle,
    stop: CancellationToken,
    core_task: tokio::task::JoinHandle<()>,
    api_task: Option<tokio::task::JoinHandle<()>>,
    network: Option<Network>,
}

impl Daemon {
    /// Starts the node in the present tokio runtime.
    ///
    /// # Errors
    /// A problem that a user can read and act on.
    pub async fn start(config: DaemonConfig) -> Result<Self, Problem> {
        let stop = CancellationToken::new();
        let socket = config.socket.clone();
        // Before anything is made: a second daemon must not touch what the first one holds.
        if let Some(path) = &socket {
            local_api::ensure_free(path)?;
        }
        let alias = config.official_alias.clone();
        let (core, core_task, network) =
            core::start(config, stop.clone()).await.inspect_err(|_| stop.cancel())?;
        let api_task = match socket {
            Some(path) => Some(local_api::serve(path, alias, core.clone(), stop.clone())?),
            None => None,
        };
        Ok(Self { core, stop, core_task, api_task, network })
    }

    /// Sends a LocalAPI request without a socket, with full rights; for programs that embed the node.
    pub async fn local_api(&self, request: http::Request<bytes::Bytes>) -> http::Response<ResponseBody> {
        local_api::handle_in_process(&self.core, request).await
    }

    /// Asks the node's task until it is on the network, or cannot get there by itself.
    ///
    /// # Errors
    /// What the server or the settings stand in the way with.
    pub async fn connect(&self, options: StartOptions) -> Result<(), Problem> {
        let stopped = |Stopped| Problem::other("the node has ended.", "", "start it anew");
        let mut news = self.core.call(|core| core.bus.subscribe()).await.map_err(stopped)?;
        self.core.call(|core| core.start_session(options)).await.map_err(stopped)?;
        loop {
            let (state, problem, url) = self
                .core
                .call(|core| {
                    (core.node.state(), core.node.problem().cloned(), core.node.auth_url().to_owned())
                })
                .await
                .map_err(stopped)?;
            if state == BackendState::Running {
                return Ok(());
            }
            if let Some(problem) = problem {
                return Err(problem);
            }
            if !url.is_empty() {
                return Err(Problem::other(
                    "the server wants a person to log in.",
                    "",
                    format!("open {url}"),
                ));
            }
            // Lagging or not: something changed, so look again.
            if let Err(RecvError::Closed) = news.recv().await {
                return Err(stopped(Stopped));
            }
        }
    }

    /// This node's addresses on the network.
    pub async fn addresses(&self) -> Vec<IpAddr> {
        self.core.call(|core| core.status(false).tailscale_ips).await.ok().flatten().unwrap_or_default()
    }

    /// The network as programs of this process see it; `None` with a TUN, where the system's own sockets do.
    pub fn network(&self) -> Option<&Network> {
        self.network.as_ref()
    }

    /// Ends the node in good order: peers' tunnels, routes, DNS settings, socket.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if (&mut self.core_task).await.is_err() {
            tracing::error!("the node's task has panicked");
        }
        if let Some(task) = self.api_task.take() {
            let _panicked = task.await;
        }
    }

    /// Waits until the node's task has ended by itself, which it does only when it cannot go on.
    pub async fn ended(&mut self) {
        let _panicked = (&mut self.core_task).await;
    }
}

/// 32 bytes of the operating system's generator; without it nothing may go on (threat-model.md §5).
pub(crate) fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}
