//! Login requests that wait for a person (control.md §3.5).

use std::collections::BTreeMap;
use std::time::Duration;

use sw_tailcfg::Hostinfo;
use sw_types::{CapVer, Instant, MachineKey, NodeId, NodeKey, Now, UnixTime};

use crate::tailnet::Ticket;

/// How long a login page is good (architecture.md §10.1).
const LIFETIME: Duration = Duration::from_secs(30 * 60);

/// Most requests at once; beyond it the oldest give way. Strangers can fill this.
const COUNT_MAX: usize = 1_000;

/// Most waiting answers of one request: a client repeats its Followup after each broken connection.
const TICKETS_MAX: usize = 4;

/// Where a login request stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginStatus {
    /// Nobody has decided.
    Waiting,
    /// The machine is in.
    Approved(NodeId),
    /// Somebody said no.
    Refused,
}

/// One machine that wants in.
#[derive(Debug, Clone)]
pub struct Login {
    /// The unguessable part of the page's URL.
    pub id: String,
    /// Its device.
    pub machine_key: MachineKey,
    /// The key it wants to use.
    pub node_key: NodeKey,
    /// What it says of itself; untrusted text.
    pub host: Hostinfo,
    /// Its capability version.
    pub cap: CapVer,
    /// Whether it asked to be removed when away.
    pub ephemeral: bool,
    /// The expiry it asked for.
    pub expiry: Option<UnixTime>,
    /// The key it had before, if any.
    pub old_node_key: NodeKey,
    /// When it asked.
    pub created: UnixTime,
    /// Where it stands.
    pub status: LoginStatus,
    pub(crate) until: Instant,
    pub(crate) tickets: Vec<Ticket>,
}

/// The requests, bounded.
#[derive(Debug, Default)]
pub(crate) struct Logins {
    by_id: BTreeMap<String, Login>,
}

impl Logins {
    pub(crate) fn get(&self, id: &str) -> Option<&Login> {
        self.by_id.get(id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Login> {
        self.by_id.values()
    }

    /// Adds a request and returns the tickets of those that had to give way.
    pub(crate) fn insert(&mut self, mut login: Login, now: Now) -> Vec<Ticket> {
        login.until = now.mono + LIFETIME;
        let mut given_way = Vec::new();
        // A client that asks anew does not need its former request.
        let former =
            self.by_id.values().find(|l| l.machine_key == login.machine_key && l.node_key == login.node_key);
        if let Some(id) = former.map(|l| l.id.clone()) {
            given_way.extend(self.remove(&id));
        }
        while self.by_id.len() >= COUNT_MAX {
            let Some(oldest) = self.by_id.values().min_by_key(|l| l.until).map(|l| l.id.clone()) else {
                break;
            };
            given_way.extend(self.remove(&oldest));
        }
        self.by_id.insert(login.id.clone(), login);
        given_way
    }

    /// Lets `ticket` wait for the decision; returns one that had to give way.
    pub(crate) fn wait(&mut self, id: &str, ticket: Ticket) -> Option<Ticket> {
        let login = self.by_id.get_mut(id)?;
        login.tickets.push(ticket);
        (login.tickets.len() > TICKETS_MAX).then(|| login.tickets.remove(0))
    }

    /// Puts the decision down and returns who waits for it.
    pub(crate) fn decide(&mut self, id: &str, status: LoginStatus) -> Vec<Ticket> {
        match self.by_id.get_mut(id) {
            Some(login) => {
                login.status = status;
                std::mem::take(&mut login.tickets)
            }
            None => Vec::new(),
        }
    }

    pub(crate) fn remove(&mut self, id: &str) -> Vec<Ticket> {
        self.by_id.remove(id).map(|login| login.tickets).unwrap_or_default()
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.by_id.values().map(|l| l.until).min()
    }

    /// Takes out what is too old.
    pub(crate) fn expired(&mut self, now: Now) -> Vec<Login> {
        let old = self.by_id.extract_if(.., |_, login| login.until <= now.mono);
        old.map(|(_, login)| login).collect()
    }
}
