//! How machines are told to join: the line, the string, the address (ux.md §2.1 to §2.3).
//!
//! API, page and command line take every such text from here.

use std::sync::{PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use sw_types::local::Problem;
use sw_types::{InviteToken, JoinAddress, JoinString, ServerKeyHash, UnixTime};

/// What every invite of this server says.
#[derive(Debug)]
pub struct JoinFacts {
    /// The URL for official clients, without slash at the end.
    pub login_server: String,
    /// The URL of page and join script: always TLS, since the script is proved by it.
    pub page_url: String,
    /// Candidate addresses, best first.
    pub addresses: Vec<JoinAddress>,
    /// Hash of the server's Noise key.
    pub server_key: ServerKeyHash,
    /// Whether machines outside this LAN get in.
    pub is_reachable_outside: bool,
    pin: RwLock<Option<String>>,
    problems: RwLock<Vec<Problem>>,
}

/// An invite with all its texts; the keys that scripts rely on (ux.md §2.1).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Invitation {
    /// For `--login-server`.
    pub login_server: String,
    /// Six characters, to take it back by.
    pub invite_id: String,
    /// The page for phones, and the script.
    pub join_url: String,
    /// To paste on a Linux machine.
    pub join_line: String,
    /// For `samewire join`.
    pub join_string: String,
    /// RFC 3339.
    pub expires: String,
    /// How many machines may join by it.
    pub uses: u32,
    /// The line for official clients.
    pub official_up: String,
}

/// The secrets of an invite just made.
#[derive(Clone, Copy, Debug)]
pub struct InviteSecrets<'a> {
    /// Its public id.
    pub id: &'a str,
    /// The token of URL and join string.
    pub token: &'a str,
    /// The same as an auth key.
    pub auth_key: &'a str,
}

impl JoinFacts {
    /// Puts the facts together. `pin` is `sha256//…` of the certificate's key when the certificate is our own.
    pub fn new(
        login_server: String,
        page_url: String,
        addresses: Vec<JoinAddress>,
        server_key: ServerKeyHash,
        is_reachable_outside: bool,
        pin: Option<String>,
    ) -> Self {
        let (pin, problems) = (RwLock::new(pin), RwLock::default());
        Self { login_server, page_url, addresses, server_key, is_reachable_outside, pin, problems }
    }

    /// What curl is to check the certificate by; none when an authority vouches for it.
    pub fn pin(&self) -> Option<String> {
        self.pin.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The certificate is another one.
    pub fn set_pin(&self, pin: Option<String>) {
        *self.pin.write().unwrap_or_else(PoisonError::into_inner) = pin;
    }

    /// What keeps machines from getting in, or phones from trusting the server.
    pub fn problems(&self) -> Vec<Problem> {
        self.problems.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whoever runs the server found out what is wrong with the way in.
    pub fn set_problems(&self, problems: Vec<Problem>) {
        *self.problems.write().unwrap_or_else(PoisonError::into_inner) = problems;
    }

    /// `/j/TOKEN`.
    pub fn url(&self, token: &str) -> String {
        format!("{}/j/{token}", self.page_url)
    }

    /// The line to paste. With a pin, curl checks the certificate's key itself and needs no authority.
    pub fn line(&self, token: &str) -> String {
        let url = self.url(token);
        match self.pin() {
            Some(pin) => format!("curl -fsSk --pinnedpubkey {pin} {url} | sudo sh"),
            None => format!("curl -fsSL {url} | sudo sh"),
        }
    }

    /// The join string of an invite; `None` when the server has no address.
    pub fn string(&self, token: &str, expires: UnixTime) -> Option<String> {
        let token: InviteToken = token.parse().ok()?;
        let join = JoinString::new(self.addresses.clone(), self.server_key, token, expires).ok()?;
        Some(join.to_text().expose().clone())
    }

    /// The line for machines that have the official client.
    pub fn official_up(&self, auth_key: &str) -> String {
        format!("tailscale up --login-server={} --auth-key={auth_key}", self.login_server)
    }

    /// The one-time way to the admin page.
    pub fn admin_url(&self, token: &str) -> String {
        format!("{}/admin/{token}", self.page_url)
    }

    /// All texts of an invite.
    pub fn invitation(&self, secrets: InviteSecrets<'_>, expires: UnixTime, uses: u32) -> Invitation {
        Invitation {
            login_server: self.login_server.clone(),
            invite_id: secrets.id.to_owned(),
            join_url: self.url(secrets.token),
            join_line: self.line(secrets.token),
            join_string: self.string(secrets.token, expires).unwrap_or_default(),
            expires: expires.to_string(),
            uses,
            official_up: self.official_up(secrets.auth_key),
        }
    }
}
