//! What is kept for ever: people, machines, keys, settings, and the changes of these.
//!
//! A change puts or removes one whole record. So the fold is an assignment, a change is undone by
//! putting back what was there, and a table of current records equals the log (architecture.md §5).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sw_types::{MachineKey, NodeId, NodeKey, UnixTime, UserId};

use crate::addresses::Pool;

/// The pseudo-user that owns every tagged machine on the wire (control.md §3.7).
pub const TAGGED_DEVICES: UserId = UserId(2_147_455_555);

/// What a person may do in the admin page and API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Everything; the first person is the owner.
    Owner,
    /// Everything but making owners.
    Admin,
    /// Own machines only.
    Member,
}

impl Role {
    /// Whether the role may change what others see.
    pub fn administers(self) -> bool {
        match self {
            Self::Owner | Self::Admin => true,
            Self::Member => false,
        }
    }

    /// The word used in APIs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Admin => "admin",
            Self::Member => "member",
        }
    }
}

/// An account at an identity provider. Identity is issuer + subject, never the mail address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProviderIdentity {
    /// The provider's issuer URL.
    pub issuer: String,
    /// The provider's name of the account.
    pub subject: String,
}

/// One person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Never 0, never used again.
    pub id: UserId,
    /// Short name, unique; `name@` in policies.
    pub name: String,
    /// Mail address, unique if present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// The name people see.
    pub display_name: String,
    /// Picture of the profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub picture: Option<String>,
    /// What the person may do.
    pub role: Role,
    /// Suspended people cannot log in; their machines are cut off.
    #[serde(default)]
    pub suspended: bool,
    /// The account at the identity provider, if the person came from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<ProviderIdentity>,
    /// Groups the identity provider named at the last login; `group:` in policies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// What signs this person in at the admin page besides links and machines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passkeys: Vec<Passkey>,
    /// When the person was added.
    pub created: UnixTime,
}

/// A passkey (WebAuthn credential) of a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passkey {
    /// The credential's id, base64url.
    pub id: String,
    /// The public half with its counter, as the page's WebAuthn library writes it (JSON).
    pub credential: String,
    /// When it was registered.
    pub created: UnixTime,
}

impl User {
    /// The login name on the wire: the mail address if known, else the short name.
    pub fn login_name(&self) -> &str {
        self.email.as_deref().unwrap_or(&self.name)
    }
}

/// Whose machine it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Owner {
    /// A person.
    User(UserId),
    /// The tags, sorted, at least one; nobody's login is behind the machine.
    Tags(Vec<String>),
}

/// How a machine got in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JoinedBy {
    /// With an auth key or invite of this id.
    Key(String),
    /// A person approved the login page.
    Login(UserId),
    /// An operator approved it on the command line or by the API.
    Admin,
}

/// One machine: what must survive a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Never 0, never used again.
    pub id: NodeId,
    /// The device; a node key belongs to one machine key (threat-model.md §11).
    pub machine_key: MachineKey,
    /// The current WireGuard key.
    pub node_key: NodeKey,
    /// Person or tags.
    pub owner: Owner,
    /// The host name as the machine reports it.
    pub host_name: String,
    /// The DNS label, unique.
    pub label: String,
    /// Whether an admin chose the label; then host name changes leave it alone.
    #[serde(default)]
    pub label_fixed: bool,
    /// The machine's IPv4 address, unique.
    pub ipv4: Ipv4Addr,
    /// The machine's IPv6 address, unique.
    pub ipv6: Ipv6Addr,
    /// When it joined.
    pub created: UnixTime,
    /// When its key stops being accepted; `None` is never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiry: Option<UnixTime>,
    /// Whether an admin let it in, where approval is asked for.
    pub approved: bool,
    /// Routes somebody approved, announced or not, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approved_routes: Vec<IpNet>,
    /// Removed when it has been away for a while.
    #[serde(default)]
    pub ephemeral: bool,
    /// How it got in.
    pub joined_by: JoinedBy,
}

impl Node {
    /// IPv4, then IPv6: the order that strict clients demand (control.md §8.3).
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.ipv4.into(), self.ipv6.into()]
    }

    /// The tags, none for a person's machine.
    pub fn tags(&self) -> &[String] {
        match &self.owner {
            Owner::User(_) => &[],
            Owner::Tags(tags) => tags,
        }
    }

    /// The person, `None` for a tagged machine.
    pub fn user(&self) -> Option<UserId> {
        match &self.owner {
            Owner::User(id) => Some(*id),
            Owner::Tags(_) => None,
        }
    }

    /// The user id that stands in maps.
    pub fn wire_user(&self) -> UserId {
        self.user().unwrap_or(TAGGED_DEVICES)
    }

    /// Whether the key is no longer accepted at `now`.
    pub fn is_expired(&self, now: UnixTime) -> bool {
        self.expiry.is_some_and(|expiry| expiry <= now)
    }
}

/// SHA-256 of a secret's whole text (keys.md §1.4).
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretHash(#[serde(with = "hex_bytes")] pub [u8; 32]);

impl std::fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretHash(***)")
    }
}

/// A key with which machines join without a person: auth key or invite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthKey {
    /// The public six characters.
    pub id: String,
    /// Hashes of the texts that are this key: `swkey-…`, for an invite also `swinv-…`.
    pub hashes: Vec<SecretHash>,
    /// The person whose machine it will be; `None` only with tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
    /// Tags the machine gets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// How often it may be used; `None`: any number of times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses_max: Option<u32>,
    /// How often it was used.
    pub used: u32,
    /// Whether machines are removed after they have been away.
    #[serde(default)]
    pub ephemeral: bool,
    /// Whether machines are let in where approval is asked for.
    #[serde(default)]
    pub preapproved: bool,
    /// Whether this is an invite of the join line rather than a plain key.
    #[serde(default)]
    pub invite: bool,
    /// Free text of whoever made it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// When it was made.
    pub created: UnixTime,
    /// When it stops working; `None` is never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<UnixTime>,
    /// When somebody took it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<UnixTime>,
}

/// A key of the admin API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// The public six characters.
    pub id: String,
    /// Hash of `swapi-…`.
    pub hash: SecretHash,
    /// Scopes of localapi-cli.md part D, e.g. `all`, `devices:core:read`.
    pub scopes: Vec<String>,
    /// Free text of whoever made it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// When it was made.
    pub created: UnixTime,
    /// When it stops working; `None` is never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<UnixTime>,
}

/// What a browser holds: the link that signs in, or the cookie that stays signed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SessionKind {
    /// `/admin/TOKEN`, one use.
    Link,
    /// The session cookie.
    Cookie,
}

/// A sign-in to the admin page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The look-up id.
    pub id: String,
    /// Hash of the token.
    pub hash: SecretHash,
    /// Link or cookie.
    pub kind: SessionKind,
    /// Who is signed in.
    pub user: UserId,
    /// When it was made.
    pub created: UnixTime,
    /// When it ends.
    pub expires: UnixTime,
}

/// A version of the policy text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyVersion {
    /// Counts from 1; the version before stays in the log.
    pub version: u64,
    /// The text as written, comments included.
    pub text: String,
    /// Who wrote it; `file` when it came from `--policy`.
    pub author: String,
    /// When it came into force.
    pub at: UnixTime,
}

/// One upstream resolver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nameserver {
    /// IP address or DoH URL (control.md §5.9).
    pub address: String,
    /// Whether it is used while an exit node is.
    #[serde(default)]
    pub use_with_exit_node: bool,
}

/// One extra name that MagicDNS answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtraRecord {
    /// Full name without trailing dot.
    pub name: String,
    /// `A` or `AAAA`; empty: by value.
    #[serde(default, rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// The address.
    pub value: String,
}

/// DNS of the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Whether machines answer each other's names.
    pub magic_dns: bool,
    /// Whether `nameservers` replace what the machine's own network offers.
    pub override_local: bool,
    /// Resolvers for everything.
    #[serde(default)]
    pub nameservers: Vec<Nameserver>,
    /// Resolvers by domain.
    #[serde(default)]
    pub split: BTreeMap<String, Vec<Nameserver>>,
    /// Search domains after the network's own.
    #[serde(default)]
    pub search: Vec<String>,
    /// Further names.
    #[serde(default)]
    pub extra: Vec<ExtraRecord>,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            magic_dns: true,
            override_local: false,
            nameservers: Vec::new(),
            split: BTreeMap::new(),
            search: Vec::new(),
            extra: Vec::new(),
        }
    }
}

/// Settings of the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The network's name, shown as `Domain`.
    pub name: String,
    /// The domain below which machines have names, without dots at the ends.
    pub base_domain: String,
    /// Ends every StableID, so that ids of two servers differ.
    pub stable_suffix: String,
    /// Where addresses come from.
    pub pool: Pool,
    /// DNS.
    #[serde(default)]
    pub dns: Dns,
    /// Whether an admin must let new machines in.
    #[serde(default)]
    pub approval: bool,
    /// How long a person's key is good, in days; `None` is for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_days: Option<u32>,
    /// Removal of ephemeral machines after this many seconds away.
    pub ephemeral_s: u32,
    /// Attributes every machine gets besides the built-in ones (control.md §7.2).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<String>,
    /// Whether machines may send each other files.
    pub file_sharing: bool,
    /// Whether machines may be reached by SSH through the tailnet.
    pub ssh: bool,
    /// Whether machines may get HTTPS certificates for their names.
    #[serde(default)]
    pub https: bool,
    /// Whether it is kept for 30 days who connected to which port of whom, as machines tell it.
    #[serde(default = "yes")]
    pub record_connections: bool,
}

fn yes() -> bool {
    true
}

impl Settings {
    /// The settings of a new network (architecture.md §10.1).
    pub fn new(stable_suffix: String, pool: Pool) -> Self {
        Self {
            name: "home.internal".to_owned(),
            base_domain: "home.internal".to_owned(),
            stable_suffix,
            pool,
            dns: Dns::default(),
            approval: false,
            key_days: None,
            ephemeral_s: 30 * 60,
            attributes: Vec::new(),
            file_sharing: true,
            ssh: true,
            https: false,
            record_connections: true,
        }
    }
}

/// One record is put or removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// A person.
    User(UserId, Option<Box<User>>),
    /// A machine.
    Node(NodeId, Option<Box<Node>>),
    /// A key for joining.
    AuthKey(String, Option<Box<AuthKey>>),
    /// A key of the API.
    ApiKey(String, Option<Box<ApiKey>>),
    /// A sign-in.
    Session(String, Option<Box<Session>>),
    /// The settings, which are never removed once put.
    Settings(Option<Box<Settings>>),
    /// The policy in force; removed is allow-all.
    Policy(Option<Box<PolicyVersion>>),
    /// The next ids to give out: never lower than before, so that no id is used twice.
    NextIds(Ids),
}

/// Counters of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ids {
    /// Next machine.
    pub node: i64,
    /// Next person.
    pub user: i64,
    /// The IPv4 address given out last, 0 before the first.
    pub last_v4: u32,
}

impl Default for Ids {
    fn default() -> Self {
        Self { node: 1, user: 1, last_v4: 0 }
    }
}

/// One line of the audit log: who did what to whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// `machine.rename`, `key.create`, …
    pub what: String,
    /// Name of the thing.
    pub target: String,
    /// The value before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<String>,
    /// The value after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<String>,
}

/// Changes that happen together or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When.
    pub at: UnixTime,
    /// Who: `alice`, `key A8DyxF`, `machine nas`, `root`, `file`, `server`.
    pub actor: String,
    /// For people.
    pub audit: Vec<Audit>,
    /// For the state.
    pub changes: Vec<Change>,
}

mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8; 32], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&hex::encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(d)?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(serde::de::Error::custom)?;
        Ok(bytes)
    }
}
