//! Clients: as much of a node as a control server sees.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request};
use sw_tailcfg::{
    Hostinfo, MapRequest, NetInfo, RegisterAuth, RegisterRequest, RegisterResponse, decode_answer, encode,
};
use sw_types::{CapVer, ControlKey, DiscoKey, MachinePrivate, NodeKey, RegionId, Secret};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Nothing was heard for this long: the network is at rest.
pub(crate) const QUIET: Duration = Duration::from_millis(1_200);
const VERSION: CapVer = CapVer(130);

/// Where everybody is.
pub(crate) struct Network {
    server: SocketAddr,
    key: ControlKey,
    auth_key: String,
    heard: AtomicU64,
    message: Notify,
}

impl Network {
    pub(crate) fn new(server: SocketAddr, key: ControlKey, auth_key: String) -> Self {
        Self { server, key, auth_key, heard: AtomicU64::new(0), message: Notify::new() }
    }

    /// Waits until no stream hears anything for [`QUIET`].
    pub(crate) async fn quiet(&self) {
        loop {
            let before = self.heard.load(Ordering::Relaxed);
            tokio::time::sleep(QUIET).await;
            if self.heard.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }

    /// Waits for a message on any stream, or some milliseconds.
    pub(crate) async fn next_message(&self) {
        drop(tokio::time::timeout(Duration::from_millis(5), self.message.notified()).await);
    }
}

/// One machine.
pub(crate) struct Machine {
    network: Arc<Network>,
    /// A source address of its own for some machines: a fleet, not one host.
    source: Ipv4Addr,
    number: usize,
    machine: MachinePrivate,
    node_key: NodeKey,
    messages: Arc<AtomicU64>,
    sender: Option<SendRequest<Bytes>>,
    stream: Option<JoinHandle<()>>,
    opening: Option<JoinHandle<(SendRequest<Bytes>, JoinHandle<()>)>>,
}

impl Machine {
    /// Registers with the auth key.
    pub(crate) async fn register(network: Arc<Network>, n: usize) -> Self {
        let mut bytes = [7; 32];
        bytes[8..16].copy_from_slice(&(n as u64 + 1).to_le_bytes());
        let machine = MachinePrivate::generate(bytes);
        let octet = |by: usize| u8::try_from(n / by % 200 + 1).unwrap();
        let source = Ipv4Addr::new(127, octet(40_000), octet(200), octet(1));
        let mut this = Self {
            network,
            source,
            number: n,
            machine,
            node_key: NodeKey::from_bytes(bytes),
            messages: Arc::default(),
            sender: None,
            stream: None,
            opening: None,
        };
        let sender = this.dial().await;
        let request = RegisterRequest {
            version: VERSION,
            node_key: this.node_key,
            auth: Some(RegisterAuth { auth_key: Secret::new(this.network.auth_key.clone()) }),
            hostinfo: Some(Arc::new(host(n))),
            ..RegisterRequest::default()
        };
        let answer = post(&sender, "/machine/register", encode(&request)).await;
        let answer: RegisterResponse = decode_answer(&answer, 1 << 20).unwrap();
        assert!(answer.machine_authorized && answer.error.is_empty(), "{answer:?}");
        this.sender = Some(sender);
        this
    }

    /// Messages that its streams have brought so far.
    pub(crate) fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    /// Opens the map stream.
    pub(crate) async fn listen(&mut self) {
        let request = self.map_request(0);
        let sender = self.sender.clone().unwrap();
        self.stream =
            Some(open(sender, request, Arc::clone(&self.network), Arc::clone(&self.messages)).await);
    }

    /// Breaks the connection off and begins to come back.
    pub(crate) fn reconnect(&mut self) {
        if self.opening.is_some() {
            return;
        }
        if let Some(stream) = self.stream.take() {
            stream.abort();
        }
        self.sender = None;
        let (request, network, messages) =
            (self.map_request(0), Arc::clone(&self.network), Arc::clone(&self.messages));
        let (machine, source) = (MachinePrivate::from_bytes(*self.machine.expose_bytes()), self.source);
        self.opening = Some(tokio::spawn(async move {
            let sender = dial(&network, source, &machine).await;
            let stream = open(sender.clone(), request, network, messages).await;
            (sender, stream)
        }));
    }

    /// Waits until it is back.
    pub(crate) async fn settled(&mut self) {
        if let Some(opening) = self.opening.take() {
            let (sender, stream) = opening.await.unwrap();
            (self.sender, self.stream) = (Some(sender), Some(stream));
        }
    }

    /// Tells of a new endpoint.
    pub(crate) async fn tell_endpoint(&self, n: u32) {
        let request = MapRequest { stream: false, omit_peers: true, ..self.map_request(n + 1) };
        post(self.sender.as_ref().unwrap(), "/machine/map", encode(&request)).await;
    }

    fn map_request(&self, n: u32) -> MapRequest {
        let port = 1_024 + u16::try_from(n % 60_000).unwrap();
        MapRequest {
            version: VERSION,
            compress: "zstd".to_owned(),
            keep_alive: true,
            stream: true,
            node_key: self.node_key,
            disco_key: DiscoKey::from_bytes(*self.node_key.as_bytes()),
            hostinfo: Some(Arc::new(host(self.number))),
            endpoints: vec![SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), port))],
            ..MapRequest::default()
        }
    }

    async fn dial(&self) -> SendRequest<Bytes> {
        dial(&self.network, self.source, &self.machine).await
    }
}

fn host(n: usize) -> Hostinfo {
    Hostinfo {
        os: "linux".to_owned(),
        hostname: format!("machine-{n}"),
        net_info: Some(NetInfo { preferred_derp: RegionId(900), ..NetInfo::default() }),
        ..Hostinfo::default()
    }
}

async fn dial(network: &Network, source: Ipv4Addr, machine: &MachinePrivate) -> SendRequest<Bytes> {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((source, 0))).unwrap();
    let stream = socket.connect(network.server).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut random = [0; 32];
    getrandom::fill(&mut random).unwrap();
    let host = network.server.to_string();
    let connected =
        sw_net::ts2021::connect(stream, &host, VERSION, machine, &network.key, random).await.unwrap();
    let (sender, connection) = h2::client::Builder::new()
        .initial_window_size(4 << 20)
        .initial_connection_window_size(8 << 20)
        .handshake(connected.stream)
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

async fn send(sender: &SendRequest<Bytes>, path: &str, body: Vec<u8>) -> h2::RecvStream {
    let request =
        Request::builder().method(Method::POST).uri(format!("https://server{path}")).body(()).unwrap();
    let mut sender = sender.clone().ready().await.unwrap();
    let (response, mut stream) = sender.send_request(request, false).unwrap();
    stream.send_data(body.into(), true).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200, "{path}");
    response.into_body()
}

async fn post(sender: &SendRequest<Bytes>, path: &str, body: Vec<u8>) -> Vec<u8> {
    let mut stream = send(sender, path, body).await;
    let mut answer = Vec::new();
    while let Some(chunk) = stream.data().await {
        let chunk = chunk.unwrap();
        stream.flow_control().release_capacity(chunk.len()).unwrap();
        answer.extend_from_slice(&chunk);
    }
    answer
}

/// Opens a map stream and returns once its first message is whole; later ones are counted.
async fn open(
    sender: SendRequest<Bytes>,
    request: MapRequest,
    network: Arc<Network>,
    messages: Arc<AtomicU64>,
) -> JoinHandle<()> {
    let stream = send(&sender, "/machine/map", encode(&request)).await;
    let first = Arc::new(Notify::new());
    let heard = Arc::clone(&first);
    let task = tokio::spawn(async move {
        let mut frames = Frames { stream, rest: 0, head: Vec::new() };
        while frames.next().await {
            messages.fetch_add(1, Ordering::Relaxed);
            network.heard.fetch_add(1, Ordering::Relaxed);
            network.message.notify_one();
            heard.notify_one();
        }
    });
    first.notified().await;
    task
}

/// Counts the frames of a map stream without looking into them.
struct Frames {
    stream: h2::RecvStream,
    /// Bytes that are missing of the present frame.
    rest: usize,
    /// Bytes of the next frame's length.
    head: Vec<u8>,
}

impl Frames {
    /// Waits for the end of a chunk in which frames ended; false at the end of the stream.
    async fn next(&mut self) -> bool {
        while let Some(Ok(chunk)) = self.stream.data().await {
            drop(self.stream.flow_control().release_capacity(chunk.len()));
            if self.take(&chunk) {
                return true;
            }
        }
        false
    }

    fn take(&mut self, mut chunk: &[u8]) -> bool {
        let mut ended = false;
        while !chunk.is_empty() {
            if self.rest == 0 {
                let wanted = (4 - self.head.len()).min(chunk.len());
                self.head.extend_from_slice(&chunk[..wanted]);
                chunk = &chunk[wanted..];
                if let Some(length) = self.head.first_chunk::<4>() {
                    self.rest = u32::from_le_bytes(*length) as usize;
                    self.head.clear();
                }
            } else {
                let taken = self.rest.min(chunk.len());
                self.rest -= taken;
                chunk = &chunk[taken..];
                ended |= self.rest == 0;
            }
        }
        ended
    }
}
