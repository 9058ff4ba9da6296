//! A real control server and a real listener with the page, spoken to byte by byte.
#![allow(dead_code, clippy::allow_attributes, reason = "each test program uses a part of it")]

use http::{Request, Response};
use hyper::body::Incoming;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use sw_control::{Control, JoinFacts, Server, ServerConfig, clock};
use sw_net::front::{Body, BoxFuture, Conn, Front, FrontLimits, Router};
use sw_page::{OidcConfig, Site, SiteConfig};
use sw_store::{Seq, SqliteStore, Store as _};
use sw_tailnet::{
    Change, Command, Done, Entry, Ids, JoinedBy, NewUser, Node, Owner, PolicyEngine, Pool, Role, SessionKind,
    Settings, User,
};
use sw_types::{ControlPrivate, JoinAddress, MachineKey, NodeId, NodeKey, ServerKeyHash, UnixTime, UserId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

struct PageOnly(Arc<Site>);

impl Router for PageOnly {
    fn route(&self, request: Request<Incoming>, conn: Arc<Conn>) -> BoxFuture<Response<Body>> {
        let site = Arc::clone(&self.0);
        Box::pin(async move { site.route(request, &conn).await })
    }
}

pub(crate) struct World {
    pub(crate) control: Control,
    address: SocketAddr,
    _front: Front,
    _server: Server,
    _state: tempfile::TempDir,
}

pub(crate) async fn world(oidc: Option<OidcConfig>) -> World {
    world_with(oidc, &[]).await
}

/// A network in whose books machines of these names stand; none of them was ever seen.
pub(crate) async fn world_with(oidc: Option<OidcConfig>, machines: &[&str]) -> World {
    let state = tempfile::tempdir().expect("a folder");
    write_machines(&state.path().join("control"), machines);
    let config = ServerConfig {
        url: "http://127.0.0.1".into(),
        state: state.path().join("control"),
        engine: Arc::new(PolicyEngine::new("http://127.0.0.1")),
    };
    let server = Server::start(config).expect("starts");
    let control = server.control().clone();
    let new = NewUser { name: "ada".into(), display_name: "Ada Marsh".into(), ..NewUser::default() };
    if machines.is_empty() {
        control.execute("root", Command::CreateUser(new)).await.expect("a person");
    }
    let key = ControlPrivate::generate([1; 32]).public();
    let addresses = vec![JoinAddress::V4([203, 0, 113, 7].into(), 443)];
    let url = "http://127.0.0.1".to_owned();
    let join = JoinFacts::new(url.clone(), url, addresses, ServerKeyHash::of(&key), true, None);
    let config = SiteConfig {
        base_url: "http://127.0.0.1".into(),
        hosts: vec!["net.example.org".into()],
        join: Arc::new(join),
        script: |facts| format!("#!/bin/sh\n# {}\n", facts.join_string),
        binary: Arc::new(OnceLock::from(None)),
        sign_in_by_network: false,
        oidc,
        version: "0".into(),
    };
    let site = Site::new(control.clone(), config);
    let front = Front::new(Arc::new(PageOnly(site)), FrontLimits::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    front.listen(listener, None);
    World { control, address, _front: front, _server: server, _state: state }
}

/// A database as a server leaves it, with Ada's machines.
fn write_machines(dir: &Path, names: &[&str]) {
    if names.is_empty() {
        return;
    }
    std::fs::create_dir_all(dir).expect("a folder");
    let created = UnixTime::from_secs(1_790_000_000);
    let ada = User {
        id: UserId(1),
        name: "ada".into(),
        email: None,
        display_name: "Ada Marsh".into(),
        picture: None,
        role: Role::Owner,
        suspended: false,
        provider: None,
        groups: Vec::new(),
        passkeys: Vec::new(),
        created,
    };
    let machine = |(number, name): (u8, &&str)| {
        let node = Node {
            id: NodeId(i64::from(number)),
            machine_key: MachineKey::from_bytes([number; 32]),
            node_key: NodeKey::from_bytes([number; 32]),
            owner: Owner::User(UserId(1)),
            host_name: (*name).into(),
            label: (*name).into(),
            label_fixed: false,
            ipv4: [100, 64, 0, number].into(),
            ipv6: format!("fd7a:115c:a1e0::{number:x}").parse().expect("an address"),
            created,
            expiry: Some(clock::now().wall + Duration::from_secs(86_400)),
            // Those after the first two wait, the second too where it is the last.
            approved: usize::from(number) < names.len().min(3),
            approved_routes: vec!["192.168.8.0/24".parse().expect("a prefix")],
            ephemeral: false,
            joined_by: JoinedBy::Admin,
        };
        Change::Node(node.id, Some(Box::new(node)))
    };
    let settings = Settings::new("PG".to_owned(), Pool::default());
    let mut changes =
        vec![Change::Settings(Some(Box::new(settings))), Change::User(ada.id, Some(Box::new(ada)))];
    changes.extend((1..).zip(names).map(machine));
    let count = i64::try_from(names.len()).expect("few");
    changes.push(Change::NextIds(Ids {
        node: count + 1,
        user: 2,
        last_v4: u32::from_be_bytes([100, 64, 0, 200]),
    }));
    let entry = Entry { at: created, actor: "root".into(), audit: Vec::new(), changes };
    let mut store = SqliteStore::open(&dir.join("control.db")).expect("a store");
    store.load().expect("empty");
    store.append(Seq(0), &[entry]).expect("written");
}

impl World {
    pub(crate) async fn ask(&self, head: &str, body: &str) -> String {
        let mut io = TcpStream::connect(self.address).await.expect("connects");
        let request = format!("{head}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        io.write_all(request.as_bytes()).await.expect("writes");
        let mut answer = Vec::new();
        io.read_to_end(&mut answer).await.expect("reads");
        String::from_utf8_lossy(&answer).into_owned()
    }

    pub(crate) async fn get(&self, path: &str, cookie: &str) -> String {
        self.ask(
            &format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/html\r\nCookie: {cookie}"),
            "",
        )
        .await
    }

    pub(crate) async fn post(&self, path: &str, cookie: &str, body: &str) -> String {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nSec-Fetch-Site: same-origin\r\nCookie: {cookie}\r\nContent-Type: application/x-www-form-urlencoded"
        );
        self.ask(&head, body).await
    }

    pub(crate) async fn link(&self) -> String {
        let user = self
            .control
            .read(|t| t.state().find_user("ada").map(|u| u.id))
            .await
            .expect("runs")
            .expect("ada");
        let expires = clock::now().wall + Duration::from_secs(3_600);
        let make = Command::CreateSession { kind: SessionKind::Link, user, expires };
        let done = self.control.execute("root", make).await.expect("made");
        let Done::Secret { text, .. } = done else { panic!("no secret: {done:?}") };
        text.expose().clone()
    }

    /// Signs in by link; gives the cookie and the token of the forms.
    pub(crate) async fn sign_in(&self) -> (String, String) {
        let link = self.link().await;
        let answer = self.post(&format!("/admin/{link}"), "", "").await;
        let cookie = between(&answer, "set-cookie: ", ";").to_owned();
        let page = self.get("/settings", &cookie).await;
        let token = between(&page, "name=\"csrf\" value=\"", "\"").to_owned();
        (cookie, token)
    }
}

pub(crate) fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let start = text.to_ascii_lowercase().find(before).unwrap_or_else(|| panic!("no {before} in {text}"))
        + before.len();
    text[start..].split(after).next().expect("split gives one")
}
