//! The durable state as a fold of changes, with the look-ups that requests need.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

use sw_types::{MachineKey, NodeId, NodeKey, UserId};

use crate::record::{ApiKey, AuthKey, Change, Ids, Node, PolicyVersion, Session, Settings, User};

/// Everything that survives a restart.
///
/// Two states that folded the same changes are equal, whatever the order of unrelated ones.
#[derive(Debug, Clone)]
pub struct State {
    users: BTreeMap<UserId, User>,
    nodes: BTreeMap<NodeId, Node>,
    auth_keys: BTreeMap<String, AuthKey>,
    api_keys: BTreeMap<String, ApiKey>,
    sessions: BTreeMap<String, Session>,
    settings: Settings,
    policy: Option<PolicyVersion>,
    ids: Ids,
    by_node_key: HashMap<NodeKey, NodeId>,
    by_machine: BTreeMap<(MachineKey, NodeId), ()>,
    by_label: HashMap<String, NodeId>,
    by_v4: HashMap<Ipv4Addr, NodeId>,
}

/// A change that would break a rule which must hold for the stored state.
///
/// It never comes from a request: those are decided first. It comes from a store whose content
/// does not add up, and then the server must not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Inconsistent {
    /// Two machines with one node key.
    #[error("machines {0} and {1} have the same node key")]
    NodeKey(NodeId, NodeId),
    /// Two machines with one name.
    #[error("machines {0} and {1} have the same name")]
    Label(NodeId, NodeId),
    /// Two machines with one address.
    #[error("machines {0} and {1} have the same address")]
    Address(NodeId, NodeId),
    /// A record under another id than its own.
    #[error("a record of id {inside} is stored as {outside}")]
    Id {
        /// The id in the record.
        inside: String,
        /// The id it was found under.
        outside: String,
    },
    /// A machine without its owner.
    #[error("machine {0} belongs to person {1}, who does not exist")]
    Owner(NodeId, UserId),
    /// An id that was not counted.
    #[error("{what} {id} is above the counter {next}")]
    Counter {
        /// `machine` or `person`.
        what: &'static str,
        /// The id found.
        id: i64,
        /// The counter.
        next: i64,
    },
}

impl State {
    /// The state of a network that has nothing but settings.
    pub fn new(settings: Settings) -> Self {
        Self {
            users: BTreeMap::new(),
            nodes: BTreeMap::new(),
            auth_keys: BTreeMap::new(),
            api_keys: BTreeMap::new(),
            sessions: BTreeMap::new(),
            settings,
            policy: None,
            ids: Ids::default(),
            by_node_key: HashMap::new(),
            by_machine: BTreeMap::new(),
            by_label: HashMap::new(),
            by_v4: HashMap::new(),
        }
    }

    /// Builds a state from stored records and checks that they add up.
    ///
    /// # Errors
    /// [`Inconsistent`] names the first records that contradict each other.
    pub fn from_records(
        settings: Settings,
        records: impl IntoIterator<Item = Change>,
    ) -> Result<Self, Inconsistent> {
        let mut state = Self::new(settings);
        for change in records {
            state.check(&change)?;
            state.apply(change);
        }
        for node in state.nodes.values() {
            if let Some(user) = node.user()
                && !state.users.contains_key(&user)
            {
                return Err(Inconsistent::Owner(node.id, user));
            }
        }
        let over = |what, last: Option<i64>, next: i64| match last {
            Some(id) if id >= next => Err(Inconsistent::Counter { what, id, next }),
            Some(_) | None => Ok(()),
        };
        over("machine", state.nodes.keys().next_back().map(|id| id.0), state.ids.node)?;
        over("person", state.users.keys().next_back().map(|id| id.0), state.ids.user)?;
        Ok(state)
    }

    /// Checks one change against the rules of uniqueness.
    fn check(&self, change: &Change) -> Result<(), Inconsistent> {
        let same = |inside: &str, outside: &str| {
            if inside == outside {
                return Ok(());
            }
            Err(Inconsistent::Id { inside: inside.to_owned(), outside: outside.to_owned() })
        };
        match change {
            Change::User(id, Some(user)) => same(&user.id.to_string(), &id.to_string()),
            Change::AuthKey(id, Some(key)) => same(&key.id, id),
            Change::ApiKey(id, Some(key)) => same(&key.id, id),
            Change::Session(id, Some(session)) => same(&session.id, id),
            Change::Node(id, Some(node)) => {
                same(&node.id.to_string(), &id.to_string())?;
                let other = |found: Option<&NodeId>| found.copied().filter(|other| other != id);
                if let Some(other) = other(self.by_node_key.get(&node.node_key)) {
                    return Err(Inconsistent::NodeKey(other, *id));
                }
                if let Some(other) = other(self.by_label.get(&node.label)) {
                    return Err(Inconsistent::Label(other, *id));
                }
                if let Some(other) = other(self.by_v4.get(&node.ipv4)) {
                    return Err(Inconsistent::Address(other, *id));
                }
                Ok(())
            }
            Change::User(_, None)
            | Change::Node(_, None)
            | Change::AuthKey(_, None)
            | Change::ApiKey(_, None)
            | Change::Session(_, None)
            | Change::Settings(_)
            | Change::Policy(_)
            | Change::NextIds(_) => Ok(()),
        }
    }

    /// Folds one change in and returns the change that undoes it.
    pub fn apply(&mut self, change: Change) -> Change {
        match change {
            Change::User(id, new) => Change::User(id, put(&mut self.users, id, new)),
            Change::AuthKey(id, new) => Change::AuthKey(id.clone(), put(&mut self.auth_keys, id, new)),
            Change::ApiKey(id, new) => Change::ApiKey(id.clone(), put(&mut self.api_keys, id, new)),
            Change::Session(id, new) => Change::Session(id.clone(), put(&mut self.sessions, id, new)),
            Change::Settings(new) => {
                // A removal of the settings means nothing: there are always some.
                let new = new.map_or_else(|| self.settings.clone(), |new| *new);
                Change::Settings(Some(Box::new(std::mem::replace(&mut self.settings, new))))
            }
            Change::Policy(new) => {
                let old = std::mem::replace(&mut self.policy, new.map(|new| *new));
                Change::Policy(old.map(Box::new))
            }
            Change::NextIds(new) => Change::NextIds(std::mem::replace(&mut self.ids, new)),
            Change::Node(id, new) => Change::Node(id, self.put_node(id, new.map(|new| *new)).map(Box::new)),
        }
    }

    fn put_node(&mut self, id: NodeId, new: Option<Node>) -> Option<Node> {
        let old = self.nodes.remove(&id);
        if let Some(old) = &old {
            self.by_node_key.remove(&old.node_key);
            self.by_machine.remove(&(old.machine_key, id));
            self.by_label.remove(&old.label);
            self.by_v4.remove(&old.ipv4);
        }
        if let Some(new) = new {
            self.by_node_key.insert(new.node_key, id);
            self.by_machine.insert((new.machine_key, id), ());
            self.by_label.insert(new.label.clone(), id);
            self.by_v4.insert(new.ipv4, id);
            self.nodes.insert(id, new);
        }
        old
    }

    /// Every current record as the change that puts it, in an order that [`Self::from_records`] takes.
    pub fn records(&self) -> Vec<Change> {
        let mut records =
            vec![Change::Settings(Some(Box::new(self.settings.clone()))), Change::NextIds(self.ids)];
        records.extend(self.policy.iter().map(|p| Change::Policy(Some(Box::new(p.clone())))));
        records.extend(self.users.values().map(|u| Change::User(u.id, Some(Box::new(u.clone())))));
        records.extend(self.nodes.values().map(|n| Change::Node(n.id, Some(Box::new(n.clone())))));
        let keys = self.auth_keys.values();
        records.extend(keys.map(|k| Change::AuthKey(k.id.clone(), Some(Box::new(k.clone())))));
        let keys = self.api_keys.values();
        records.extend(keys.map(|k| Change::ApiKey(k.id.clone(), Some(Box::new(k.clone())))));
        let sessions = self.sessions.values();
        records.extend(sessions.map(|s| Change::Session(s.id.clone(), Some(Box::new(s.clone())))));
        records
    }

    /// People by id.
    pub fn users(&self) -> impl Iterator<Item = &User> {
        self.users.values()
    }

    /// One person.
    pub fn user(&self, id: UserId) -> Option<&User> {
        self.users.get(&id)
    }

    /// The person of that short name, login name or decimal id.
    pub fn find_user(&self, word: &str) -> Option<&User> {
        let word = word.strip_suffix('@').unwrap_or(word);
        let by_name = self.users.values().find(|u| u.name == word || u.email.as_deref() == Some(word));
        by_name.or_else(|| self.user(UserId(word.parse().ok()?)))
    }

    /// Machines by id.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// How many machines there are.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// One machine.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(&id)
    }

    /// The machine with that node key.
    pub fn node_by_key(&self, key: &NodeKey) -> Option<&Node> {
        self.node(*self.by_node_key.get(key)?)
    }

    /// The machine of that DNS label.
    pub fn node_by_label(&self, label: &str) -> Option<&Node> {
        self.node(*self.by_label.get(label)?)
    }

    /// The machine of that IPv4 address.
    pub fn node_by_v4(&self, v4: Ipv4Addr) -> Option<&Node> {
        self.node(*self.by_v4.get(&v4)?)
    }

    /// The machines (profiles) of one device, by id.
    pub fn nodes_of_machine(&self, machine: MachineKey) -> impl Iterator<Item = &Node> {
        let range = (machine, NodeId(i64::MIN))..=(machine, NodeId(i64::MAX));
        self.by_machine.range(range).filter_map(|(&(_, id), ())| self.node(id))
    }

    /// The machine that a person means: id, StableID, DNS label, full name, address or node key.
    pub fn find_node(&self, word: &str) -> Option<&Node> {
        let word = word.trim_end_matches('.');
        if let Some(id) = self.stable_to_id(word).or_else(|| Some(NodeId(word.parse().ok()?))) {
            return self.node(id);
        }
        let label = word.strip_suffix(&self.settings.base_domain).map_or(word, |w| w.trim_end_matches('.'));
        self.node_by_label(&label.to_ascii_lowercase())
            .or_else(|| self.node_by_key(&word.parse().ok()?))
            .or_else(|| {
                let ip = word.parse::<std::net::IpAddr>().ok()?;
                self.nodes.values().find(|n| n.addresses().contains(&ip))
            })
    }

    fn stable_to_id(&self, word: &str) -> Option<NodeId> {
        let digits = word.strip_prefix('n')?.strip_suffix(&self.settings.stable_suffix)?;
        Some(NodeId(digits.parse().ok()?))
    }

    /// The StableID of a machine: `n<id><suffix of this server>`.
    pub fn stable_id(&self, id: NodeId) -> String {
        format!("n{id}{}", self.settings.stable_suffix)
    }

    /// The machine's full name with trailing dot.
    pub fn fqdn(&self, node: &Node) -> String {
        format!("{}.{}.", node.label, self.settings.base_domain)
    }

    /// Keys for joining, by id.
    pub fn auth_keys(&self) -> impl Iterator<Item = &AuthKey> {
        self.auth_keys.values()
    }

    /// One key for joining.
    pub fn auth_key(&self, id: &str) -> Option<&AuthKey> {
        self.auth_keys.get(id)
    }

    /// Keys of the API, by id.
    pub fn api_keys(&self) -> impl Iterator<Item = &ApiKey> {
        self.api_keys.values()
    }

    /// One key of the API.
    pub fn api_key(&self, id: &str) -> Option<&ApiKey> {
        self.api_keys.get(id)
    }

    /// Sign-ins, by id.
    pub fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.sessions.values()
    }

    /// One sign-in.
    pub fn session(&self, id: &str) -> Option<&Session> {
        self.sessions.get(id)
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The policy in force; `None` is allow-all.
    pub fn policy(&self) -> Option<&PolicyVersion> {
        self.policy.as_ref()
    }

    /// The counters of ids.
    pub fn ids(&self) -> Ids {
        self.ids
    }
}

/// Equal records; the look-ups follow from them.
impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.records() == other.records()
    }
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, new: Option<Box<V>>) -> Option<Box<V>> {
    match new {
        Some(new) => map.insert(key, *new),
        None => map.remove(&key),
    }
    .map(Box::new)
}
