//! The page over a real control server and a real listener, spoken to byte by byte.

use http::{Request, Response};
use hyper::body::Incoming;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use sw_control::{Control, JoinFacts, Server, ServerConfig, clock};
use sw_net::front::{Body, BoxFuture, Conn, Front, FrontLimits, Router};
use sw_page::{Site, SiteConfig};
use sw_tailnet::{AllowAll, Command, Done, NewUser, SessionKind};
use sw_types::{ControlPrivate, JoinAddress, ServerKeyHash};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

struct PageOnly(Arc<Site>);

impl Router for PageOnly {
    fn route(&self, request: Request<Incoming>, conn: Arc<Conn>) -> BoxFuture<Response<Body>> {
        let site = Arc::clone(&self.0);
        Box::pin(async move { site.route(request, &conn).await })
    }
}

struct World {
    control: Control,
    address: SocketAddr,
    _front: Front,
    _server: Server,
    _state: tempfile::TempDir,
}

async fn world() -> World {
    let state = tempfile::tempdir().expect("a folder");
    let config = ServerConfig {
        url: "http://127.0.0.1".into(),
        state: state.path().join("control"),
        engine: Arc::new(AllowAll),
    };
    let server = Server::start(config).expect("starts");
    let control = server.control().clone();
    let new = NewUser {
        name: "ada".into(),
        email: None,
        display_name: "Ada Marsh".into(),
        role: None,
        provider: None,
        groups: Vec::new(),
    };
    control.execute("root", Command::CreateUser(new)).await.expect("a person");
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
        version: "0".into(),
    };
    let site = Site::new(control.clone(), config);
    let front = Front::new(Arc::new(PageOnly(site)), FrontLimits::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    front.listen(listener, None);
    World { control, address, _front: front, _server: server, _state: state }
}

impl World {
    async fn ask(&self, head: &str, body: &str) -> String {
        let mut io = TcpStream::connect(self.address).await.expect("connects");
        let request = format!("{head}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        io.write_all(request.as_bytes()).await.expect("writes");
        let mut answer = Vec::new();
        io.read_to_end(&mut answer).await.expect("reads");
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn get(&self, path: &str, cookie: &str) -> String {
        self.ask(
            &format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/html\r\nCookie: {cookie}"),
            "",
        )
        .await
    }

    async fn post(&self, path: &str, cookie: &str, body: &str) -> String {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nSec-Fetch-Site: same-origin\r\nCookie: {cookie}\r\nContent-Type: application/x-www-form-urlencoded"
        );
        self.ask(&head, body).await
    }

    async fn link(&self) -> String {
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
    async fn sign_in(&self) -> (String, String) {
        let link = self.link().await;
        let answer = self.post(&format!("/admin/{link}"), "", "").await;
        let cookie = between(&answer, "set-cookie: ", ";").to_owned();
        let page = self.get("/settings", &cookie).await;
        let token = between(&page, "name=\"csrf\" value=\"", "\"").to_owned();
        (cookie, token)
    }
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let start = text.to_ascii_lowercase().find(before).unwrap_or_else(|| panic!("no {before} in {text}"))
        + before.len();
    text[start..].split(after).next().expect("split gives one")
}

#[tokio::test]
async fn a_link_signs_in_once_and_a_get_does_not_use_it_up() {
    let world = world().await;
    let link = world.link().await;
    for _ in 0..3 {
        assert!(world.get(&format!("/admin/{link}"), "").await.contains("Sign in as owner on this browser"));
    }
    let answer = world.post(&format!("/admin/{link}"), "", "").await;
    assert!(answer.starts_with("HTTP/1.1 303") && answer.contains("HttpOnly; SameSite=Strict"), "{answer}");
    let cookie = between(&answer, "set-cookie: ", ";");
    let page = world.get("/machines", cookie).await;
    assert!(page.contains("Ada Marsh") && page.contains("Only this machine so far"), "{page}");
    let again = world.post(&format!("/admin/{link}"), "", "").await;
    assert!(again.starts_with("HTTP/1.1 410") && again.contains("samewire admin"), "{again}");
}

#[tokio::test]
async fn every_page_is_there_and_hardened() {
    let world = world().await;
    let (cookie, _) = world.sign_in().await;
    for path in [
        "/machines",
        "/machines/add",
        "/network",
        "/network?as=table",
        "/access",
        "/access?tab=matrix",
        "/access?tab=tests",
        "/access?tab=history",
        "/people",
        "/keys",
        "/dns",
        "/relays",
        "/log",
        "/settings",
        "/health",
        "/more",
    ] {
        let page = world.get(path, &cookie).await;
        assert!(page.starts_with("HTTP/1.1 200"), "{path}: {page}");
        let head = page.split("\r\n\r\n").next().expect("a head").to_ascii_lowercase();
        for header in [
            "content-security-policy: default-src 'none'",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "frame-ancestors 'none'",
        ] {
            assert!(head.contains(header), "{path} lacks {header}");
        }
        assert!(!page.contains(" style=\"") && !page.contains("<script>"), "{path}: nothing is inline");
        assert_eq!(page.matches("<h1").count(), 1, "{path}");
    }
}

#[tokio::test]
async fn strangers_see_the_sign_in_page_only() {
    let world = world().await;
    for path in ["/machines", "/keys", "/log", "/settings", "/access"] {
        let page = world.get(path, "").await;
        assert!(page.contains("<h1>Sign in</h1>") && !page.contains("Ada"), "{path}");
    }
    assert!(
        world.get("/machines", "sw=7QmX2vKd9sT4bN8cLw5eRy").await.contains("<h1>Sign in</h1>"),
        "a made-up cookie"
    );
}

#[tokio::test]
async fn forged_changes_are_refused() {
    let world = world().await;
    let (cookie, token) = world.sign_in().await;
    let body = format!("csrf={token}&name=sam&role=member");
    let elsewhere = format!(
        "POST /people/invite HTTP/1.1\r\nHost: 127.0.0.1\r\nSec-Fetch-Site: cross-site\r\nCookie: {cookie}"
    );
    assert!(world.ask(&elsewhere, &body).await.starts_with("HTTP/1.1 403"));
    let origin = format!(
        "POST /people/invite HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://evil.example\r\nCookie: {cookie}"
    );
    assert!(world.ask(&origin, &body).await.starts_with("HTTP/1.1 403"));
    assert!(
        world
            .post("/people/invite", &cookie, "csrf=0&name=sam&role=member")
            .await
            .starts_with("HTTP/1.1 403")
    );
    let rebound = format!("GET /machines HTTP/1.1\r\nHost: evil.example\r\nCookie: {cookie}");
    assert!(world.ask(&rebound, "").await.starts_with("HTTP/1.1 421"));
    let people = world.control.read(|t| t.state().users().count()).await.expect("runs");
    assert_eq!(people, 1, "nothing was changed");
}

#[tokio::test]
async fn an_act_shows_its_undo_and_the_undo_works() {
    let world = world().await;
    let (cookie, token) = world.sign_in().await;
    let answer = world.post("/settings", &cookie, &format!("csrf={token}&setting=network&value=attic")).await;
    let to = between(&answer, "location: ", "\r\n").to_owned();
    let page = world.get(&to, &cookie).await;
    assert!(page.contains("The network is called attic now.") && page.contains(">Undo</button>"), "{page}");
    let undo = between(&page, "action=\"/undo/", "\"").to_owned();
    let answer = world.post(&format!("/undo/{undo}"), &cookie, &format!("csrf={token}")).await;
    assert!(answer.starts_with("HTTP/1.1 303"));
    let name = world.control.read(|t| t.state().settings().name.clone()).await.expect("runs");
    assert_eq!(name, "home.internal");
}

#[tokio::test]
async fn an_invite_gives_a_line_a_page_for_phones_and_no_script_over_plain_http() {
    let world = world().await;
    let (cookie, token) = world.sign_in().await;
    assert!(world.get("/machines/add", &cookie).await.contains("Make an invite"));
    world.post("/machines/add", &cookie, &format!("csrf={token}")).await;
    let page = world.get("/machines/add", &cookie).await;
    let line = between(&page, "curl -fssl http://127.0.0.1/j/", " ").to_owned();
    let phone = world.get(&format!("/j/{line}"), "").await;
    assert!(phone.contains("Join this network"), "{phone}");
    let script = world.ask(&format!("GET /j/{line} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*"), "").await;
    assert!(script.starts_with("HTTP/1.1 403") && script.contains("over TLS alone"), "{script}");
    assert!(world.get("/j/7QmX2vKd9sT4bN8cLw5eRy", "").await.contains("not known here"));
}
