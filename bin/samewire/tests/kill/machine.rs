//! As much of a machine as a control server sees; every step may fail, because the server dies.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request};
use sw_tailcfg::{
    MapRequest, RegisterAuth, RegisterRequest, RegisterResponse, decode_answer, decode_map_response, encode,
};
use sw_types::{CapVer, ControlKey, MachinePrivate, NodeKey, Secret};

const VERSION: CapVer = CapVer(130);
/// A server that died in the middle of an answer says nothing any more.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) struct Machine {
    key: MachinePrivate,
    node_key: NodeKey,
}

impl Machine {
    /// The machine with this number, the same one each time.
    pub(crate) fn new(n: u64) -> Self {
        let mut bytes = [7; 32];
        bytes[8..16].copy_from_slice(&n.to_le_bytes());
        Self { key: MachinePrivate::generate(bytes), node_key: NodeKey::from_bytes(bytes) }
    }

    pub(crate) fn node_key(&self) -> NodeKey {
        self.node_key
    }

    pub(crate) async fn register(&self, server: SocketAddr, noise: ControlKey, auth_key: &str) -> Option<()> {
        let request = RegisterRequest {
            version: VERSION,
            node_key: self.node_key,
            auth: Some(RegisterAuth { auth_key: Secret::new(auth_key.to_owned()) }),
            ..RegisterRequest::default()
        };
        let body = self.ask(server, noise, "/machine/register", encode(&request)).await?;
        let answer: RegisterResponse = decode_answer(&body, 1 << 20).unwrap();
        assert!(answer.machine_authorized, "{answer:?}");
        Some(())
    }

    /// Its addresses, from its map.
    pub(crate) async fn map(&self, server: SocketAddr, noise: ControlKey) -> Option<Vec<IpAddr>> {
        let request = MapRequest { version: VERSION, node_key: self.node_key, ..MapRequest::default() };
        let body = self.ask(server, noise, "/machine/map", encode(&request)).await?;
        let map = decode_map_response(body.get(4..)?).unwrap();
        let own = map.response.node.expect("a full map has the machine itself");
        Some(own.addresses.iter().map(|net| net.addr()).collect())
    }

    async fn ask(&self, server: SocketAddr, noise: ControlKey, path: &str, body: Vec<u8>) -> Option<Vec<u8>> {
        tokio::time::timeout(PATIENCE, self.exchange(server, noise, path, body)).await.ok()?
    }

    async fn exchange(
        &self,
        server: SocketAddr,
        noise: ControlKey,
        path: &str,
        body: Vec<u8>,
    ) -> Option<Vec<u8>> {
        let sender = self.dial(server, noise).await?;
        let request =
            Request::builder().method(Method::POST).uri(format!("https://{server}{path}")).body(()).unwrap();
        let mut sender = sender.ready().await.ok()?;
        let (response, mut stream) = sender.send_request(request, false).ok()?;
        stream.send_data(body.into(), true).ok()?;
        let response = response.await.ok()?;
        assert_eq!(response.status(), 200, "{path}");
        let mut stream = response.into_body();
        let mut answer = Vec::new();
        while let Some(chunk) = stream.data().await {
            let chunk = chunk.ok()?;
            stream.flow_control().release_capacity(chunk.len()).ok()?;
            answer.extend_from_slice(&chunk);
        }
        Some(answer)
    }

    async fn dial(&self, server: SocketAddr, noise: ControlKey) -> Option<SendRequest<Bytes>> {
        let stream = tokio::net::TcpStream::connect(server).await.ok()?;
        let mut random = [0; 32];
        getrandom::fill(&mut random).unwrap();
        let host = server.to_string();
        let connected =
            sw_net::ts2021::connect(stream, &host, VERSION, &self.key, &noise, random).await.ok()?;
        let (sender, connection) = h2::client::handshake(connected.stream).await.ok()?;
        tokio::spawn(connection);
        Some(sender)
    }
}
