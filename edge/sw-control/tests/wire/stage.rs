//! A whole server on loopback.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use sw_control::{Server, ServerConfig};
use sw_net::front::{Front, FrontLimits};
use sw_tailnet::{Command, Done, NewAuthKey, NewUser, PolicyEngine};
use sw_types::{ControlKey, UserId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::client::Client;

/// A stopping server waits this long for what is under way.
const GRACE: Duration = Duration::from_secs(20);

pub(crate) struct Stage {
    state: tempfile::TempDir,
    pub(crate) server: Server,
    front: Front,
    pub(crate) address: SocketAddr,
    pub(crate) noise: ControlKey,
}

pub(crate) const ADA: UserId = UserId(1);

impl Stage {
    /// A new network with one person, Ada.
    pub(crate) async fn new() -> Self {
        let stage = Self::open(tempfile::tempdir().unwrap());
        let ada = NewUser {
            name: "ada".to_owned(),
            email: Some("ada@example.com".to_owned()),
            ..NewUser::default()
        };
        stage.execute(Command::CreateUser(ada)).await;
        stage
    }

    fn open(state: tempfile::TempDir) -> Self {
        let listener = sw_net::socket::listen_tcp((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        let url = format!("http://{address}");
        let engine = Arc::new(PolicyEngine::new(&url));
        let config = ServerConfig { url, state: state.path().to_owned(), engine };
        let server = Server::start(config).unwrap();
        let front = Front::new(server.router(None, false), FrontLimits::default());
        front.listen(listener, None);
        Self { state, noise: server.noise_key(), server, front, address }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stops, as on SIGTERM.
    pub(crate) async fn stop(self) -> tempfile::TempDir {
        self.server.stop(GRACE).await;
        self.front.shutdown(GRACE).await;
        self.state
    }

    /// The next life of the server, on another port.
    pub(crate) async fn restart(self) -> Self {
        Self::open(self.stop().await)
    }

    pub(crate) async fn execute(&self, command: Command) -> Done {
        self.server.control().execute("test", command).await.unwrap()
    }

    pub(crate) async fn auth_key(&self, user: Option<UserId>, tags: &[&str]) -> String {
        let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        let new = NewAuthKey { user, tags, preapproved: true, ..NewAuthKey::default() };
        let Done::Secret { text, .. } = self.execute(Command::CreateAuthKey(new)).await else {
            panic!("a key is a secret");
        };
        text.expose().clone()
    }

    pub(crate) async fn client(&self, n: u8) -> Client {
        Client::dial(self.address, self.noise, n).await
    }

    /// A machine of Ada's.
    pub(crate) async fn joined(&self, n: u8) -> Client {
        let client = self.client(n).await;
        client.join(&self.auth_key(Some(ADA), &[]).await).await;
        client
    }

    /// What the server says to plain HTTP until it closes.
    pub(crate) async fn plain(&self, head: &str) -> String {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        socket.write_all(format!("{head}\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    }
}
