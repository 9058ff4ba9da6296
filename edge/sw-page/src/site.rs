//! The site: what it was told, and which request goes where.

use crate::guard::{Failures, Visitor};
use crate::http::{self, Fields, cookie};
use crate::join::{BinaryOffer, Kept, ScriptFacts};
use crate::oidc::OidcConfig;
use crate::undo::Acts;
use crate::{access, acts, check, device, events, join, oidc, passkey, views};
use ::http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use sw_control::{Control, JoinFacts};
use sw_net::front::{Body, Conn};
use sw_web::{Theme, assets::Asset, sign};

/// What the site is told once.
#[derive(Clone, Debug)]
pub struct SiteConfig {
    /// The URL that people and clients use, without slash at the end.
    pub base_url: String,
    /// Host names beside addresses and `localhost` under which it answers.
    pub hosts: Vec<String>,
    /// What join lines and join strings need.
    pub join: Arc<JoinFacts>,
    /// Writes the script of `curl … | sh`.
    pub script: fn(&ScriptFacts<'_>) -> String,
    /// The binary that joining machines may download, if there is one. Filled once its checksum is known.
    pub binary: Arc<OnceLock<Option<BinaryOffer>>>,
    /// Whether a machine of this network runs beside the server, so that connections to its own address of the
    /// network come from machines whose owners are known.
    pub sign_in_by_network: bool,
    /// Company sign-in, if set up.
    pub oidc: Option<OidcConfig>,
    /// Version of this program, for Settings.
    pub version: String,
}

impl SiteConfig {
    pub(crate) fn is_https(&self) -> bool {
        self.base_url.starts_with("https://")
    }
}

/// Serves the page.
pub struct Site {
    pub(crate) control: Control,
    pub(crate) config: SiteConfig,
    pub(crate) acts: Acts,
    pub(crate) invites: Kept,
    pub(crate) risky: access::Risky,
    pub(crate) ceremonies: passkey::Ceremonies,
    pub(crate) failures: Failures,
    pub(crate) oidc_pending: oidc::Pending,
    pub(crate) csrf_secret: [u8; 32],
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site").field("config", &self.config).finish_non_exhaustive()
    }
}

/// One request, read and checked.
pub(crate) struct Ask {
    pub(crate) path: Vec<String>,
    /// Path and query as they came.
    pub(crate) url: String,
    pub(crate) query: Fields,
    pub(crate) visitor: Option<Visitor>,
    pub(crate) theme: Theme,
    pub(crate) user_agent: String,
    pub(crate) accepts_html: bool,
    pub(crate) peer: SocketAddr,
    pub(crate) is_tls: bool,
    /// Whether the request names the server as its own URL does.
    pub(crate) at_own_url: bool,
    pub(crate) offers_passkeys: bool,
}

impl Ask {
    /// The path in pieces, for matching.
    pub(crate) fn pieces(&self) -> Vec<&str> {
        self.path.iter().map(String::as_str).collect()
    }
}

impl Site {
    /// A site over a running control server.
    pub fn new(control: Control, config: SiteConfig) -> Arc<Self> {
        Arc::new(Self {
            control,
            config,
            acts: Acts::default(),
            invites: Kept::default(),
            risky: access::Risky::default(),
            ceremonies: passkey::Ceremonies::default(),
            failures: Failures::default(),
            oidc_pending: oidc::Pending::default(),
            csrf_secret: sw_control::clock::random(),
        })
    }

    /// A site on loopback for tests of one part.
    #[cfg(test)]
    pub(crate) fn for_tests(control: Control) -> Arc<Self> {
        let url = "http://localhost".to_owned();
        let key = sw_types::ControlPrivate::generate([1; 32]).public();
        let join = JoinFacts::new(
            url.clone(),
            url.clone(),
            Vec::new(),
            sw_types::ServerKeyHash::of(&key),
            false,
            None,
        );
        let config = SiteConfig {
            base_url: url,
            hosts: Vec::new(),
            join: Arc::new(join),
            script: |_| String::new(),
            binary: Arc::default(),
            sign_in_by_network: false,
            oidc: None,
            version: "0".into(),
        };
        Self::new(control, config)
    }

    /// Whether a path belongs to the site (architecture.md §10.2).
    pub fn serves(path: &str) -> bool {
        const FIRST: [&str; 24] = [
            "",
            "machines",
            "network",
            "access",
            "people",
            "keys",
            "dns",
            "relays",
            "log",
            "settings",
            "health",
            "more",
            "events",
            "assets",
            "admin",
            "sign-in",
            "sign-out",
            "check",
            "register",
            "j",
            "undo",
            "passkey",
            "oidc",
            "favicon.ico",
        ];
        let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        FIRST.contains(&first)
    }

    /// Answers one request.
    pub async fn route(self: &Arc<Self>, request: Request<Incoming>, conn: &Conn) -> Response<Body> {
        let takes_gzip = http::takes_gzip(request.headers());
        let mut response = self.answer(request, conn).await;
        if takes_gzip {
            response = http::gzipped(response).await;
        }
        http::harden(&mut response, self.config.is_https());
        response
    }

    async fn answer(self: &Arc<Self>, request: Request<Incoming>, conn: &Conn) -> Response<Body> {
        if !self.is_own_host(request.headers(), request.uri()) {
            return http::text(StatusCode::MISDIRECTED_REQUEST, "this server does not go by that name\n");
        }
        let over_network =
            self.config.sign_in_by_network.then(|| came_over_network(conn.peer, conn.local)).flatten();
        let visitor = self.visitor(request.headers(), over_network).await;
        let mut ask = read(&request, visitor, conn);
        ask.at_own_url = self.is_own_url(request.headers(), request.uri());
        ask.offers_passkeys = self.offers_passkeys(ask.at_own_url);
        if *request.method() == Method::GET || *request.method() == Method::HEAD {
            return match ask.pieces()[..] {
                ["oidc", "start"] => oidc::start(self, &ask).await,
                ["oidc", "callback"] => oidc::callback(self, &ask, request.headers()).await,
                _ => self.get(&ask).await,
            };
        }
        if *request.method() != Method::POST {
            return http::text(StatusCode::METHOD_NOT_ALLOWED, "GET or POST\n");
        }
        if !self.is_same_origin(request.headers()) {
            return http::text(StatusCode::FORBIDDEN, "a change must come from a page of this server\n");
        }
        match http::read_form(request).await {
            Some(form) => self.post(&ask, &form).await,
            None => http::text(StatusCode::PAYLOAD_TOO_LARGE, "the form is too long\n"),
        }
    }

    async fn get(self: &Arc<Self>, ask: &Ask) -> Response<Body> {
        match ask.pieces()[..] {
            ["assets", name] => return asset(name),
            ["favicon.ico"] => return http::see_other(&sw_web::assets::ICON.url()),
            ["admin", token] => return device::admin_link(ask, token),
            ["sign-in"] => return sign_in(self, ask, ""),
            ["j", token] => return join::page(self, ask, token).await,
            ["j", token, "bin", arch] => return join::binary(self, ask, token, arch).await,
            ["register", id] => return device::page(self, ask, id).await,
            ["check", id] => return check::page(self, ask, id).await,
            ["register", id, "state"] => return device::state(self, id).await,
            _ => {}
        }
        let Some(visitor) = &ask.visitor else {
            return sign_in(self, ask, "");
        };
        if !visitor.administers() {
            return sign_in(self, ask, "Only an owner or admin may see this page.");
        }
        match ask.pieces()[..] {
            [] | ["admin"] => http::see_other("/machines"),
            ["events"] => events::stream(self, ask, visitor),
            _ => views::page(self, ask, visitor).await,
        }
    }

    async fn post(self: &Arc<Self>, ask: &Ask, form: &Fields) -> Response<Body> {
        let pieces = ask.pieces();
        if let (["admin", _] | ["passkey", "use", _], Some(wait)) =
            (&pieces[..], self.failures.wait(ask.peer.ip()))
        {
            let why = format!("too many tries; it goes on by itself in {wait} s\n");
            return http::text(StatusCode::TOO_MANY_REQUESTS, why);
        }
        match pieces[..] {
            ["admin", token] => return device::use_admin_link(self, ask, token).await,
            ["passkey", "use", half] => return passkey::sign_in(self, ask, form, half).await,
            ["register", id] => return device::decide(self, ask, form, id).await,
            ["check", id] => return check::decide(self, ask, form, id).await,
            _ => {}
        }
        let Some(visitor) = &ask.visitor else {
            return sign_in(self, ask, "You were signed out meanwhile; nothing was changed.");
        };
        if !crate::guard::has_token(visitor, form) {
            return http::text(StatusCode::FORBIDDEN, "the form is too old: load the page again\n");
        }
        match ask.pieces()[..] {
            ["sign-out"] => device::sign_out(self, visitor).await,
            ["settings", "theme"] => set_theme(form),
            _ if !visitor.administers() => {
                http::text(StatusCode::FORBIDDEN, "only an owner or admin may do this\n")
            }
            ["passkey", "add", half] => passkey::add(self, ask, visitor, form, half).await,
            ["settings", "passkeys", "remove"] => passkey::remove(self, visitor, form).await,
            _ => acts::act(self, ask, visitor, form).await,
        }
    }
}

/// The peer's address, when both ends are addresses of the network. Such a connection cannot be made from outside:
/// the answers to a forged source go into the tunnel.
fn came_over_network(peer: SocketAddr, local: SocketAddr) -> Option<IpAddr> {
    let is_of_network = |ip: IpAddr| match ip.to_canonical() {
        IpAddr::V4(ip) => ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64,
        IpAddr::V6(ip) => ip.segments()[..3] == [0xfd7a, 0x115c, 0xa1e0],
    };
    let peer = peer.ip().to_canonical();
    (is_of_network(peer) && is_of_network(local.ip())).then_some(peer)
}

fn read(request: &Request<Incoming>, visitor: Option<Visitor>, conn: &Conn) -> Ask {
    let headers = request.headers();
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let path = request.uri().path().split('/').filter(|piece| !piece.is_empty()).map(decoded).collect();
    Ask {
        path,
        url: request.uri().path_and_query().map(ToString::to_string).unwrap_or_default(),
        query: Fields::parse(request.uri().query().unwrap_or_default().as_bytes()),
        visitor,
        theme: match cookie(headers, "theme") {
            Some("dark") => Theme::Dark,
            Some("light") => Theme::Light,
            _ => Theme::System,
        },
        user_agent: header(header::USER_AGENT).to_owned(),
        accepts_html: header(header::ACCEPT).contains("text/html"),
        peer: conn.peer,
        is_tls: conn.is_tls(),
        at_own_url: false,
        offers_passkeys: false,
    }
}

/// One piece of a path with its escapes resolved.
fn decoded(piece: &str) -> String {
    // '+' is a letter in a path, unlike in a form.
    let pair = format!("x={}", piece.replace('+', "%2B").replace('&', "%26"));
    form_urlencoded::parse(pair.as_bytes()).next().map(|(_, value)| value.into_owned()).unwrap_or_default()
}

pub(crate) fn sign_in(site: &Site, ask: &Ask, refused: &str) -> Response<Body> {
    let view = sign::SignInView {
        refused: refused.into(),
        passkeys: ask.offers_passkeys,
        oidc_name: site.config.oidc.as_ref().map(|oidc| oidc.name().to_owned()).unwrap_or_default(),
        next: next_of(ask),
        theme: ask.theme,
    };
    http::html(StatusCode::OK, sign::sign_in(&view))
}

/// Where to go after signing in: what the page was asked for, or the page itself.
fn next_of(ask: &Ask) -> String {
    match ask.pieces()[..] {
        ["sign-in" | "oidc" | "admin", ..] => passkey::next(&ask.query),
        _ => ask.url.clone(),
    }
}

fn asset(name: &str) -> Response<Body> {
    let Some(asset) = Asset::by_name(name) else {
        return http::text(StatusCode::NOT_FOUND, "no such file\n");
    };
    let mut response = http::with_type(StatusCode::OK, asset.content_type, asset.text);
    // The URL changes with the content.
    let forever = ::http::HeaderValue::from_static("public, max-age=31536000, immutable");
    response.headers_mut().insert(header::CACHE_CONTROL, forever);
    response
}

fn set_theme(form: &Fields) -> Response<Body> {
    let theme = match form.get("theme") {
        "dark" => "dark",
        "light" => "light",
        _ => "system",
    };
    let mut response = http::see_other("/settings");
    let cookie = format!("theme={theme}; Path=/; Max-Age=31536000; SameSite=Lax");
    let value = ::http::HeaderValue::from_str(&cookie).expect("three fixed words");
    response.headers_mut().insert(header::SET_COOKIE, value);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_a_path_are_decoded_one_by_one() {
        assert_eq!(decoded("attic%2Dnas"), "attic-nas");
        assert_eq!(decoded("a%2Fb"), "a/b");
        assert_eq!(decoded("a+b&c"), "a+b&c");
    }

    #[test]
    fn only_connections_between_addresses_of_the_network_came_over_it() {
        let came = |peer: &str, local: &str| {
            let at = |ip: &str| SocketAddr::new(ip.parse().expect("an address"), 443);
            came_over_network(at(peer), at(local)).is_some()
        };
        assert!(came("100.64.0.2", "100.64.0.1"));
        assert!(came("::ffff:100.127.0.2", "::ffff:100.64.0.1"), "a socket for both families");
        assert!(came("fd7a:115c:a1e0::2", "fd7a:115c:a1e0::1"));
        assert!(!came("100.64.0.2", "203.0.113.7"), "a source that anybody can write on a packet");
        assert!(!came("198.51.100.2", "100.64.0.1"));
        assert!(!came("100.128.0.2", "100.64.0.1"), "beyond the range");
        assert!(!came("127.0.0.1", "127.0.0.1"));
    }

    #[test]
    fn the_site_leaves_the_protocols_alone() {
        for path in ["/key", "/ts2021", "/derp", "/api/v2/devices", "/machine/ping-response"] {
            assert!(!Site::serves(path), "{path}");
        }
        for path in ["/", "/machines", "/machines/birch", "/j/abc", "/register/abc", "/assets/app.css"] {
            assert!(Site::serves(path), "{path}");
        }
    }
}
