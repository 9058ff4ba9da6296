//! `samewire daemon`: its flags (those of the official daemon), its log, its end.

use std::path::PathBuf;

use clap::Args;
use sw_net::dial::Proxy;
use sw_types::DEFAULT_NODE_PORT;
use sw_types::local::{OFFICIAL_SOCKET_PATH, Problem, SOCKET_PATH};

use crate::config::{DaemonConfig, Port, TunMode};
use crate::errors;

const USERSPACE: &str = "userspace-networking";
const DEFAULT_TUN: &str = "samewire0";
/// In the state directory: the interface's name for starts without `--tun`.
pub const TUN_FILE: &str = "tun";
/// Where root's node keeps its state.
pub const DEFAULT_STATE: &str = "/var/lib/samewire/node";

/// Flags of `samewire daemon`.
#[derive(Args, Clone, Debug, Default)]
pub struct DaemonArgs {
    /// Directory for keys and state
    #[arg(long, value_name = "DIR")]
    statedir: Option<PathBuf>,
    /// State file, for compatibility; `mem:` keeps nothing
    #[arg(long, value_name = "FILE")]
    state: Option<String>,
    /// Name of the TUN interface, or userspace-networking
    #[arg(long, value_name = "NAME")]
    tun: Option<String>,
    /// UDP port; 0 lets the system choose
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Serve a SOCKS5 proxy here
    #[arg(long, value_name = "ADDRESS")]
    socks5_server: Option<String>,
    /// Serve an HTTP proxy here
    #[arg(long, value_name = "ADDRESS")]
    outbound_http_proxy_listen: Option<String>,
    /// More about what it does, in the log
    #[arg(long, value_name = "LEVEL", default_value_t = 0)]
    pub verbose: u8,
    /// Undo what a crashed daemon left on this machine, and end
    #[arg(long)]
    pub cleanup: bool,
    /// Leave the terminal of whoever started it
    #[arg(long, hide = true)]
    pub background: bool,
    #[arg(long, hide = true)]
    no_logs_no_support: bool,
}

impl DaemonArgs {
    /// What the flags mean. `given_socket` is where local programs reach the daemon.
    pub fn config(&self, given_socket: Option<PathBuf>) -> DaemonConfig {
        let is_root = rustix::process::geteuid().is_root();
        let is_memory = self.state.as_deref() == Some("mem:");
        let from_state_file =
            self.state.as_deref().and_then(|file| std::path::Path::new(file).parent()).map(ToOwned::to_owned);
        let state_dir = self.statedir.clone().or(from_state_file).or_else(|| {
            Some(user_path(is_root, DEFAULT_STATE, "XDG_STATE_HOME", ".local/state", "samewire/node"))
        });
        let kept = state_dir.as_ref().and_then(|dir| std::fs::read_to_string(dir.join(TUN_FILE)).ok());
        let tun = match self.tun.as_deref().or(kept.as_deref().map(str::trim)) {
            Some(USERSPACE) => TunMode::Userspace,
            Some(name) => TunMode::Interface(name.to_owned()),
            None if is_root => TunMode::Interface(DEFAULT_TUN.to_owned()),
            None => TunMode::Userspace,
        };
        let is_default_socket = given_socket.is_none();
        let socket = given_socket.unwrap_or_else(|| {
            user_path(is_root, SOCKET_PATH, "XDG_RUNTIME_DIR", ".cache", "samewire/samewire.sock")
        });
        DaemonConfig {
            state_dir: state_dir.filter(|_| !is_memory),
            socket: Some(socket),
            official_alias: (is_root && is_default_socket).then(|| PathBuf::from(OFFICIAL_SOCKET_PATH)),
            tun,
            port: match self.port {
                None => Port::Preferred(DEFAULT_NODE_PORT),
                Some(0) => Port::Any,
                Some(port) => Port::Fixed(port),
            },
            socks5: self.socks5_server.clone(),
            http_proxy: self.outbound_http_proxy_listen.clone(),
            serves_host: true,
            proxy: Proxy::from_environment(|name| std::env::var(name).ok()),
            ..DaemonConfig::default()
        }
    }
}

/// A path of root's, or below a directory of the user: that of `variable`, else `in_home`.
pub fn user_path(is_root: bool, of_root: &str, variable: &str, in_home: &str, rest: &str) -> PathBuf {
    if is_root {
        return PathBuf::from(of_root);
    }
    let base = std::env::var_os(variable)
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(in_home)));
    base.unwrap_or_else(std::env::temp_dir).join(rest)
}

/// Undoes what a crashed daemon left on this machine.
///
/// # Errors
/// What a user can act on.
pub fn cleanup(config: &DaemonConfig) -> Result<(), Problem> {
    let (TunMode::Interface(name), Some(directory)) = (&config.tun, &config.state_dir) else {
        return Ok(());
    };
    match sw_os::Reconciler::start(name, directory.join(crate::store::JOURNAL_FILE)) {
        Ok(_undone_by_start) => Ok(()),
        Err(error) => {
            Err(Problem::other("the cleanup was not possible.", errors::chain(&error), "run it as root"))
        }
    }
}

/// Waits for SIGTERM or SIGINT.
pub async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let terminate = signal(SignalKind::terminate());
    let interrupt = signal(SignalKind::interrupt());
    match (terminate, interrupt) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        (Err(error), _) | (_, Err(error)) => {
            tracing::warn!(%error, "signals are not heard");
            std::future::pending::<()>().await;
        }
    }
}

/// Starts the log on standard error, unless the program has one already.
pub fn start_log(verbose: u8) {
    let default = match verbose {
        0 => "info",
        1 => "debug",
        _ => "trace",
    };
    let filter = std::env::var("SAMEWIRE_LOG").unwrap_or_else(|_| default.to_owned());
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .finish();
    // Embedded in a program that logs already: that one's logger stays.
    let _already_set = tracing::subscriber::set_global_default(subscriber);
}
