//! Who asks, and whether the request may have been forged.

use crate::http::{Fields, cookie};
use crate::site::Site;
use ::http::{HeaderMap, Uri, header};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use subtle::ConstantTimeEq;
use sw_tailnet::{Node, Role, SessionKind, Tailnet, User};
use sw_types::{Instant, InviteToken, UnixTime, UserId};

/// How somebody is signed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// By being on the network: the machine's name.
    Machine(String),
    /// By the cookie of this session.
    Session { id: String },
}

/// A person who is signed in.
#[derive(Clone, Debug)]
pub(crate) struct Visitor {
    pub(crate) user: UserId,
    /// Short name; the actor of the audit log.
    pub(crate) login: String,
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) way: Way,
    /// What forms of this visitor carry.
    pub(crate) csrf: String,
}

impl Visitor {
    pub(crate) fn administers(&self) -> bool {
        self.role.administers()
    }
}

impl Site {
    /// Name of the session cookie. `__Host-` needs https (threat-model.md §9).
    pub(crate) fn cookie_name(&self) -> &'static str {
        if self.config.is_https() { "__Host-sw" } else { "sw" }
    }

    /// `Set-Cookie` of a session; an empty token signs out.
    pub(crate) fn session_cookie(&self, token: &str) -> String {
        let age = if token.is_empty() { 0 } else { SESSION_S };
        let secure = if self.config.is_https() { "; Secure" } else { "" };
        format!("{}={token}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict{secure}", self.cookie_name())
    }

    /// Finds out who asks; `peer` is the machine's address when the request came over the network itself.
    pub(crate) async fn visitor(&self, headers: &HeaderMap, peer: Option<IpAddr>) -> Option<Visitor> {
        let token = cookie(headers, self.cookie_name()).and_then(|text| text.parse::<InviteToken>().ok());
        let secret = self.csrf_secret;
        let now = sw_control::clock::now().wall;
        let read = self.control.read(move |tailnet| {
            token
                .and_then(|token| by_session(tailnet, &token, now))
                .or_else(|| by_machine(tailnet, peer?, &secret, now))
        });
        read.await.ok().flatten()
    }

    /// The Host header must name this server, or a page elsewhere could speak to it through DNS (A7).
    pub(crate) fn is_own_host(&self, headers: &HeaderMap, uri: &Uri) -> bool {
        let named = uri.authority().map(::http::uri::Authority::as_str);
        let Some(host) = named.or_else(|| headers.get(header::HOST)?.to_str().ok()) else { return false };
        let bare = strip_port(host);
        bare == "localhost"
            || bare.parse::<std::net::IpAddr>().is_ok()
            || (bare.starts_with('[') && bare.ends_with(']'))
            || self.config.hosts.iter().any(|own| own.eq_ignore_ascii_case(bare))
    }

    /// Whether the request names this server exactly as its URL does.
    pub(crate) fn is_own_url(&self, headers: &HeaderMap, uri: &Uri) -> bool {
        let named = uri.authority().map(::http::uri::Authority::as_str);
        let host = named.or_else(|| headers.get(header::HOST)?.to_str().ok()).unwrap_or_default();
        self.config.base_url.split_once("://").is_some_and(|(_, own)| own.eq_ignore_ascii_case(host))
    }

    /// A change must come from a page of this server.
    pub(crate) fn is_same_origin(&self, headers: &HeaderMap) -> bool {
        match headers.get("sec-fetch-site") {
            Some(site) => site == "same-origin",
            None => {
                let own = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
                let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
                origin.and_then(|origin| origin.split_once("://")).is_some_and(|(_, host)| host == own)
            }
        }
    }
}

/// How often an address failed to sign in lately; successes are not counted (threat-model.md §4).
#[derive(Debug, Default)]
pub(crate) struct Failures(Mutex<HashMap<IpAddr, (Instant, u32)>>);

const FAILURES_PER_MINUTE: u32 = 60;
/// Addresses remembered; beyond it those whose minute is over go, then all.
const FAILURES_MAX: usize = 4_096;

impl Failures {
    pub(crate) fn count(&self, address: IpAddr) {
        let now = sw_control::clock::now().mono;
        let is_over = |since: Instant| now.saturating_since(since).as_secs() >= 60;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= FAILURES_MAX {
            all.retain(|_, (since, _)| !is_over(*since));
        }
        if all.len() >= FAILURES_MAX {
            all.clear();
        }
        let entry = all.entry(address.to_canonical()).or_insert((now, 0));
        *entry = if is_over(entry.0) { (now, 1) } else { (entry.0, entry.1 + 1) };
    }

    /// Seconds that the address has to wait, if it failed too often.
    pub(crate) fn wait(&self, address: IpAddr) -> Option<u64> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, failures) = all.get(&address.to_canonical())?;
        let passed = sw_control::clock::now().mono.saturating_since(*since).as_secs();
        (*failures >= FAILURES_PER_MINUTE && passed < 60).then(|| 60 - passed)
    }
}

/// A session lasts two weeks.
pub(crate) const SESSION_S: i64 = 14 * 86_400;

/// Whether a form carries its visitor's token.
pub(crate) fn has_token(visitor: &Visitor, fields: &Fields) -> bool {
    visitor.csrf.as_bytes().ct_eq(fields.get("csrf").as_bytes()).into()
}

fn by_session(tailnet: &Tailnet, token: &InviteToken, now: UnixTime) -> Option<Visitor> {
    let text = token.to_text();
    let session = tailnet.state().session(&token.id().to_string())?;
    let is_good =
        session.kind == SessionKind::Cookie && session.expires > now && session.hash.matches(text.expose());
    let user = tailnet.state().user(session.user).filter(|user| is_good && !user.suspended)?;
    Some(visitor(user, Way::Session { id: session.id.clone() }, csrf_of(text.expose().as_bytes())))
}

fn by_machine(tailnet: &Tailnet, peer: IpAddr, secret: &[u8; 32], now: UnixTime) -> Option<Visitor> {
    let is_in = |node: &&Node| node.approved && !node.is_expired(now) && node.addresses().contains(&peer);
    let node = tailnet.state().nodes().find(is_in)?;
    let (user, machine) = (node.user()?, node.label.clone());
    let user = tailnet.state().user(user).filter(|user| user.role.administers() && !user.suspended)?;
    let csrf = csrf_of(&[&secret[..], machine.as_bytes()].concat());
    Some(visitor(user, Way::Machine(machine), csrf))
}

fn visitor(user: &User, way: Way, csrf: String) -> Visitor {
    let name =
        crate::words::foreign(if user.display_name.is_empty() { &user.name } else { &user.display_name });
    Visitor { user: user.id, login: user.name.clone(), name, role: user.role, way, csrf }
}

/// Bound to the session's secret and not to be turned back into it.
fn csrf_of(secret: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(b"samewire form token ");
    hash.update(secret);
    hash.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn strip_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|b| b.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_stripped_from_hosts_of_every_form() {
        for (host, bare) in
            [("a:80", "a"), ("a", "a"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("::1", "::1")]
        {
            assert_eq!(strip_port(host), bare);
        }
    }

    #[test]
    fn a_form_token_does_not_contain_its_secret() {
        let token = csrf_of(b"7QmX2vKd9sT4bN8cLw5eRy");
        assert_eq!(token.len(), 32);
        assert_ne!(token, csrf_of(b"7QmX2vKd9sT4bN8cLw5eRz"));
    }
}
