//! What a node serves to its network: programs of the machine, files and texts (node-services.md §8.1).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{is_false, null_is_default};

/// The services of one profile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ServeConfig {
    #[serde(
        rename = "TCP",
        deserialize_with = "null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub tcp: BTreeMap<u16, TcpPortHandler>,
    /// By `host:port`; the host is a full name without its final dot.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub web: BTreeMap<String, WebServer>,
    /// Services with addresses of their own, which this node cannot host.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub services: BTreeMap<String, Value>,
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub allow_funnel: BTreeMap<String, bool>,
    /// By the session of a watcher; ends with it.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub foreground: BTreeMap<String, Self>,
}

/// What answers on a TCP port: exactly one of the kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct TcpPortHandler {
    #[serde(rename = "HTTPS", skip_serializing_if = "is_false")]
    pub https: bool,
    #[serde(rename = "HTTP", skip_serializing_if = "is_false")]
    pub http: bool,
    /// `host:port`, or `unix:/path`.
    #[serde(rename = "TCPForward", skip_serializing_if = "String::is_empty")]
    pub tcp_forward: String,
    /// The name whose certificate ends TLS before forwarding.
    #[serde(rename = "TerminateTLS", skip_serializing_if = "String::is_empty")]
    pub terminate_tls: String,
    /// 1 or 2: a header with the true source goes first.
    #[serde(skip_serializing_if = "is_zero")]
    pub proxy_protocol: u8,
}

/// One web server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct WebServer {
    /// By mount, such as `/` or `/app/`.
    #[serde(deserialize_with = "null_is_default")]
    pub handlers: BTreeMap<String, HttpHandler>,
}

/// What answers below a mount: exactly one of the first four.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct HttpHandler {
    /// A file or a directory.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// A URL of a program on this machine.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub proxy: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub text: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub redirect: String,
    #[serde(
        rename = "AcceptAppCaps",
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub accept_app_caps: Vec<String>,
}

const fn is_zero(value: &u8) -> bool {
    *value == 0
}

/// Why a configuration cannot be served: what is wrong with it, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unservable {
    pub what: String,
    pub fix: &'static str,
}

impl ServeConfig {
    /// Whether nothing is served.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The configuration and those of the foreground, one after the other.
    pub fn parts(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(self.foreground.values())
    }

    /// What outlives its makers.
    #[must_use]
    pub fn background(&self) -> Self {
        Self { foreground: BTreeMap::new(), ..self.clone() }
    }

    /// Whether only root may set it: it opens files, or sockets that may be closed to others.
    pub fn needs_root(&self) -> bool {
        self.parts().any(|part| {
            let handlers = part.web.values().flat_map(|server| server.handlers.values());
            let reads =
                |handler: &HttpHandler| !handler.path.is_empty() || handler.proxy.starts_with("unix:");
            handlers.into_iter().any(reads)
                || part.tcp.values().any(|tcp| tcp.tcp_forward.starts_with("unix:"))
        })
    }

    /// Looks whether all of it can be served.
    ///
    /// # Errors
    /// The first thing that cannot.
    pub fn check(&self) -> Result<(), Unservable> {
        let mut taken = Vec::new();
        for part in self.parts() {
            part.check_part()?;
            for port in part.tcp.keys() {
                if taken.contains(port) {
                    return Err(unservable(format!("port {port} is served twice."), "take another port"));
                }
                taken.push(*port);
            }
        }
        Ok(())
    }

    fn check_part(&self) -> Result<(), Unservable> {
        if self.allow_funnel.values().any(|on| *on) {
            return Err(unservable("the Internet cannot be served.", "samewire serve: inside the network"));
        }
        if let Some(name) = self.services.keys().next() {
            return Err(unservable(
                format!("{name} wants an address of its own, which is not given here."),
                "serve on a port of this machine",
            ));
        }
        for (port, handler) in &self.tcp {
            handler.check(*port)?;
        }
        for (place, server) in &self.web {
            let port = place.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            let is_web = port.and_then(|port| self.tcp.get(&port)).is_some_and(|tcp| tcp.http);
            if !is_web {
                return Err(unservable(
                    format!("no port of \"TCP\" carries the web server \"{place}\"."),
                    "name it HOST:PORT, and set \"HTTP\" for its port",
                ));
            }
            for (mount, handler) in &server.handlers {
                handler.check(mount)?;
            }
        }
        Ok(())
    }
}

fn unservable(what: impl Into<String>, fix: &'static str) -> Unservable {
    Unservable { what: what.into(), fix }
}

impl TcpPortHandler {
    fn check(&self, port: u16) -> Result<(), Unservable> {
        if port == 0 {
            return Err(unservable("port 0 is none.", "take a port from 1 to 65535"));
        }
        if self.https || !self.terminate_tls.is_empty() {
            return Err(unservable(
                format!("port {port} wants HTTPS, but this network has no certificates for its names."),
                "serve plain HTTP: the tunnel encrypts it all the same",
            ));
        }
        if self.http != self.tcp_forward.is_empty() {
            return Err(unservable(
                format!("port {port} must be either HTTP or forwarded."),
                "set one of \"HTTP\" and \"TCPForward\"",
            ));
        }
        let target = self.tcp_forward.as_str();
        let is_target = target.is_empty()
            || target.strip_prefix("unix:").is_some_and(|path| path.starts_with('/'))
            || target
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if !is_target || self.proxy_protocol > 2 || (self.http && self.proxy_protocol > 0) {
            return Err(unservable(
                format!("port {port} cannot be forwarded to \"{target}\" like that."),
                "a target is HOST:PORT or unix:/PATH; the PROXY protocol has the versions 1 and 2",
            ));
        }
        Ok(())
    }
}

impl HttpHandler {
    fn check(&self, mount: &str) -> Result<(), Unservable> {
        let kinds = [&self.path, &self.proxy, &self.text, &self.redirect];
        let count = kinds.iter().filter(|kind| !kind.is_empty()).count();
        if !mount.starts_with('/') || count != 1 {
            return Err(unservable(
                format!("\"{mount}\" must begin with / and have one thing behind it."),
                "set one of \"Path\", \"Proxy\", \"Text\" and \"Redirect\"",
            ));
        }
        if !self.path.is_empty() && !self.path.starts_with('/') {
            return Err(unservable(
                format!("\"{}\" depends on the directory.", self.path),
                "give the whole path",
            ));
        }
        if !self.proxy.is_empty() && Upstream::parse(&self.proxy).is_none() {
            return Err(unservable(
                format!("\"{}\" is nothing to pass requests on to.", self.proxy),
                "a port, HOST:PORT, http://…, https://…, https+insecure://… or unix:/PATH",
            ));
        }
        Ok(())
    }
}

/// Where a proxy passes requests on to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    pub kind: UpstreamKind,
    /// In front of every path; without a final slash.
    pub base: String,
}

/// How an upstream is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamKind {
    Http { host: String, port: u16 },
    Https { host: String, port: u16, is_verified: bool },
    Unix(String),
}

impl Upstream {
    /// Reads a proxy's target: digits are a port of this machine, and plain HTTP is meant where nothing is said.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            let is_path = path.starts_with('/');
            return is_path.then(|| Self { kind: UpstreamKind::Unix(path.to_owned()), base: String::new() });
        }
        if let Ok(port) = text.parse::<u16>() {
            let host = "127.0.0.1".to_owned();
            return Some(Self { kind: UpstreamKind::Http { host, port }, base: String::new() });
        }
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let usual = if scheme == "http" { 80 } else { 443 };
        let (host, port) = split_authority(authority, usual)?;
        let kind = match scheme {
            "http" => UpstreamKind::Http { host, port },
            "https" => UpstreamKind::Https { host, port, is_verified: true },
            "https+insecure" => UpstreamKind::Https { host, port, is_verified: false },
            _ => return None,
        };
        Some(Self { kind, base: path.trim_end_matches('/').to_owned() })
    }
}

/// Splits `host`, `host:port`, `[v6]` and `[v6]:port`; the host is without brackets.
fn split_authority(text: &str, usual: u16) -> Option<(String, u16)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            (host, rest.strip_prefix(':').map_or(rest.is_empty().then_some(""), Some)?)
        }
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let port = if port.is_empty() { usual } else { port.parse().ok()? };
    let is_host = !host.is_empty() && !host.contains(char::is_whitespace) && !host.contains('@');
    is_host.then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> ServeConfig {
        serde_json::from_str(json).expect("a configuration")
    }

    #[test]
    fn the_official_form_is_kept() {
        let text = r#"{"TCP":{"80":{"HTTP":true},"5432":{"TCPForward":"127.0.0.1:5432","ProxyProtocol":1}},"Web":{"nas.home.internal:80":{"Handlers":{"/":{"Proxy":"http://127.0.0.1:3000"}}}},"Foreground":{"s":{"TCP":{"81":{"HTTP":true}}}}}"#;
        let config = read(text);
        assert_eq!(config.check(), Ok(()));
        let written: Value = serde_json::to_value(&config).expect("JSON");
        assert_eq!(written, serde_json::from_str::<Value>(text).expect("JSON"));
        assert!(!config.needs_root());
        assert!(config.background().foreground.is_empty());
        assert!(read(r#"{"TCP":null,"Web":null}"#).is_empty());
    }

    #[test]
    fn what_cannot_be_served_is_said() {
        for (json, what) in [
            (r#"{"TCP":{"443":{"HTTPS":true}}}"#, "no certificates"),
            (r#"{"TCP":{"80":{}}}"#, "either HTTP or forwarded"),
            (r#"{"TCP":{"80":{"TCPForward":"nowhere"}}}"#, "cannot be forwarded"),
            (r#"{"Web":{"a:80":{"Handlers":{}}}}"#, "no port"),
            (
                r#"{"TCP":{"80":{"HTTP":true}},"Web":{"a:80":{"Handlers":{"x":{"Text":"a"}}}}}"#,
                "begin with /",
            ),
            (
                r#"{"TCP":{"80":{"HTTP":true}},"Web":{"a:80":{"Handlers":{"/":{"Text":"a","Path":"/b"}}}}}"#,
                "one thing",
            ),
            (
                r#"{"TCP":{"80":{"HTTP":true}},"Web":{"a:80":{"Handlers":{"/":{"Proxy":"ftp://x"}}}}}"#,
                "pass requests",
            ),
            (
                r#"{"TCP":{"80":{"HTTP":true}},"Foreground":{"s":{"TCP":{"80":{"HTTP":true}}}}}"#,
                "served twice",
            ),
            (r#"{"AllowFunnel":{"a:443":true}}"#, "Internet"),
            (r#"{"Services":{"svc:a":{}}}"#, "address of its own"),
        ] {
            let refused = read(json).check().expect_err(json);
            assert!(refused.what.contains(what), "{json}: {}", refused.what);
        }
    }

    #[test]
    fn targets_are_read_as_people_write_them() {
        let http = |host: &str, port, base: &str| {
            Some(Upstream { kind: UpstreamKind::Http { host: host.to_owned(), port }, base: base.to_owned() })
        };
        assert_eq!(Upstream::parse("3000"), http("127.0.0.1", 3000, ""));
        assert_eq!(Upstream::parse("localhost:3000"), http("localhost", 3000, ""));
        assert_eq!(Upstream::parse("http://[::1]:80/app/"), http("::1", 80, "/app"));
        assert_eq!(Upstream::parse("http://nas"), http("nas", 80, ""));
        let insecure = Upstream::parse("https+insecure://nas:8443").expect("a target");
        assert!(matches!(insecure.kind, UpstreamKind::Https { port: 8443, is_verified: false, .. }));
        for bad in ["", "http://", "ftp://x", "a b", "http://x:y", "unix:relative", "http://u@h"] {
            assert_eq!(Upstream::parse(bad), None, "{bad:?}");
        }
    }
}
