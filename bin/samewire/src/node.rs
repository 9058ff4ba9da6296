//! A machine of the network inside a program: no daemon, no privilege, no interface.

use std::net::IpAddr;
use std::path::PathBuf;

use sw_daemon::{
    BoxedStream, Daemon, DaemonConfig, DialError, NetstackError, Network, Port, Problem, Target, TcpListener,
    TunMode, UdpSocket,
};
use sw_types::local::{Prefs, StartOptions};

/// How a node joins.
#[derive(Clone, Default)]
pub struct JoinOptions {
    /// The server's address, as for `samewire up --login-server`.
    pub server: String,
    /// A key of the server; not needed when `state_dir` holds a node that joined before.
    pub auth_key: String,
    /// The machine's name in the network; empty takes the host's.
    pub hostname: String,
    /// Where keys are kept; `None` keeps nothing, and the machine leaves the network when it ends.
    pub state_dir: Option<PathBuf>,
}

impl std::fmt::Debug for JoinOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the key.
        f.debug_struct("JoinOptions")
            .field("server", &self.server)
            .field("hostname", &self.hostname)
            .field("state_dir", &self.state_dir)
            .finish_non_exhaustive()
    }
}

/// A machine of the network inside this program.
///
/// Other machines see it like any other; what they may reach is what the program listens on and the policy allows.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use samewire::{JoinOptions, Node};
/// use tokio::io::AsyncWriteExt as _;
///
/// let node = Node::join(JoinOptions {
///     server: "https://vpn.example.org".into(),
///     auth_key: std::env::var("SAMEWIRE_AUTH_KEY")?,
///     hostname: "greeter".into(),
///     state_dir: None,
/// })
/// .await?;
/// let mut listener = node.listen(80)?;
/// while let Some(mut client) = listener.accept().await {
///     client.write_all(b"hello\n").await?;
/// }
/// node.stop().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Node {
    daemon: Daemon,
    network: Network,
}

impl Node {
    /// Joins the network, in the present tokio runtime.
    ///
    /// # Errors
    /// What stands in the way, in words that a user can act on.
    pub async fn join(options: JoinOptions) -> Result<Self, Problem> {
        let config = DaemonConfig {
            state_dir: options.state_dir,
            tun: TunMode::Userspace,
            port: Port::Any,
            ..DaemonConfig::default()
        };
        let daemon = Daemon::start(config).await?;
        let network = daemon.network().cloned().expect("userspace mode has its own network");
        let prefs = Prefs {
            control_url: options.server,
            hostname: options.hostname,
            want_running: true,
            ..Prefs::default()
        };
        let start =
            StartOptions { update_prefs: Some(prefs), auth_key: options.auth_key, ..StartOptions::default() };
        if let Err(problem) = daemon.connect(start).await {
            daemon.stop().await;
            return Err(problem);
        }
        Ok(Self { daemon, network })
    }

    /// Returns this machine's addresses.
    pub async fn addresses(&self) -> Vec<IpAddr> {
        self.daemon.addresses().await
    }

    /// Opens a TCP connection to `host:port`: a machine's name or address, or anything outside of the network.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn dial(&self, target: &str) -> Result<BoxedStream, DialError> {
        self.network.dial(Target::parse(target, 80).ok_or(DialError::NoSuchName)?).await
    }

    /// Listens on a TCP port of this machine's addresses.
    ///
    /// # Errors
    /// The port is taken.
    pub fn listen(&self, port: u16) -> Result<TcpListener, NetstackError> {
        self.network.listen(port)
    }

    /// Binds a UDP port of this machine's addresses; 0 takes a free one.
    ///
    /// # Errors
    /// The port is taken.
    pub fn bind_udp(&self, port: u16) -> Result<UdpSocket, NetstackError> {
        self.network.bind_udp(port)
    }

    /// Leaves in good order. A node that is only dropped goes on until its runtime ends.
    pub async fn stop(self) {
        self.daemon.stop().await;
    }
}
