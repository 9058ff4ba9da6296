//! What people change: typed commands, decided against the state, recorded with an audit line.
//!
//! CLI, API and page all come here, so they cannot differ.

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::IpNet;
use sw_types::{InviteToken, NodeId, Now, Secret, SecretText, TokenId, TokenKind, UnixTime, UserId};

use crate::addresses::v6_of;
use crate::checks::CheckAnswer;
use crate::logins::LoginStatus;
use crate::names::is_tag;
use crate::record::{
    ApiKey, Audit, AuthKey, Change, JoinedBy, Node, Owner, Passkey, PolicyVersion, ProviderIdentity, Role,
    SecretHash, Session, SessionKind, Settings, User,
};
use crate::register::{Entrance, expiry_audit, refusal};
use crate::rules::PolicyError;
use crate::tailnet::Tailnet;

/// Longest text a person may give for a name, in bytes.
const TEXT_MAX: usize = 200;

/// A wish of an operator. Machines and people are named by id; look words up with
/// [`crate::State::find_node`] and [`crate::State::find_user`].
#[derive(Debug, Clone)]
pub enum Command {
    /// Adds a person.
    CreateUser(NewUser),
    /// Changes what is given of a person.
    UpdateUser {
        /// Whom.
        user: UserId,
        /// What; `None` stays.
        change: UserChange,
    },
    /// Removes a person who has no machines.
    DeleteUser(UserId),
    /// Makes an auth key or invite; the answer holds its text.
    CreateAuthKey(NewAuthKey),
    /// Takes a key back; it stays in the list.
    RevokeAuthKey(String),
    /// Removes a key from the list.
    DeleteAuthKey(String),
    /// Makes a key of the API; the answer holds its text.
    CreateApiKey(NewApiKey),
    /// Ends a key of the API now.
    ExpireApiKey(String),
    /// Removes a key of the API.
    DeleteApiKey(String),
    /// Makes a sign-in; the answer holds its token.
    CreateSession {
        /// Link or cookie.
        kind: SessionKind,
        /// For whom.
        user: UserId,
        /// Until when.
        expires: UnixTime,
    },
    /// Ends a sign-in.
    DeleteSession(String),
    /// Names a machine; `None` lets it follow its host name again.
    RenameNode {
        /// Which.
        node: NodeId,
        /// DNS label.
        label: Option<String>,
    },
    /// Sets when a machine's key expires; `None` is never.
    SetExpiry {
        /// Which.
        node: NodeId,
        /// When.
        at: Option<UnixTime>,
    },
    /// Removes a machine.
    DeleteNode(NodeId),
    /// Gives a machine tags in place of its owner or tags.
    TagNode {
        /// Which.
        node: NodeId,
        /// `tag:…`, at least one.
        tags: Vec<String>,
    },
    /// Gives a machine to a person.
    GiveNode {
        /// Which.
        node: NodeId,
        /// To whom.
        user: UserId,
    },
    /// Lets a machine in, or takes that back.
    ApproveNode {
        /// Which.
        node: NodeId,
        /// In or out.
        approved: bool,
    },
    /// Sets which of a machine's routes are approved; exit routes go in pairs.
    SetRoutes {
        /// Which.
        node: NodeId,
        /// All that shall be approved.
        routes: Vec<IpNet>,
    },
    /// Moves a machine to another address of the pool.
    SetAddress {
        /// Which.
        node: NodeId,
        /// Where to.
        ipv4: Ipv4Addr,
    },
    /// Lets a machine in that waits at the login page.
    ApproveLogin {
        /// The page's id.
        login: String,
        /// Whose machine it becomes.
        user: UserId,
        /// Whether the approver is an operator rather than the person at the page.
        by_admin: bool,
    },
    /// Refuses a machine that waits at the login page.
    RefuseLogin(String),
    /// Answers whether an SSH session that waits for its person may begin.
    AnswerCheck(CheckAnswer),
    /// Puts a policy in force; `None` is allow-all.
    SetPolicy {
        /// The text.
        text: Option<String>,
        /// The version that the writer saw; another one in force refuses the write.
        expect: Option<u64>,
    },
    /// Replaces the settings.
    SetSettings(Box<Settings>),
}

/// Passkeys of one person.
pub const PASSKEYS_MAX: usize = 16;

/// A new person.
#[derive(Debug, Clone)]
pub struct NewUser {
    /// Short name.
    pub name: String,
    /// Mail address.
    pub email: Option<String>,
    /// The name people see; empty: the short name.
    pub display_name: String,
    /// `None`: owner if it is the first person, else member.
    pub role: Option<Role>,
    /// Account at the identity provider.
    pub provider: Option<ProviderIdentity>,
    /// Groups of the identity provider.
    pub groups: Vec<String>,
}

/// A change of a person; `None` stays.
#[derive(Debug, Clone, Default)]
pub struct UserChange {
    /// Short name.
    pub name: Option<String>,
    /// Mail address.
    pub email: Option<String>,
    /// The name people see.
    pub display_name: Option<String>,
    /// Role; the last owner cannot be demoted.
    pub role: Option<Role>,
    /// Suspension.
    pub suspended: Option<bool>,
    /// Groups of the identity provider.
    pub groups: Option<Vec<String>>,
    /// All passkeys, in place of those before; at most [`PASSKEYS_MAX`].
    pub passkeys: Option<Vec<Passkey>>,
}

/// A new key for joining.
#[derive(Debug, Clone, Default)]
pub struct NewAuthKey {
    /// Whose machines.
    pub user: Option<UserId>,
    /// Which tags.
    pub tags: Vec<String>,
    /// How many times; `None` any number.
    pub uses_max: Option<u32>,
    /// Whether machines are removed when away.
    pub ephemeral: bool,
    /// Whether machines need no approval.
    pub preapproved: bool,
    /// Until when.
    pub expires: Option<UnixTime>,
    /// Free text.
    pub description: String,
    /// Whether it is an invite: then the answer holds the 22 digits of its token as well.
    pub invite: bool,
}

/// A new key of the API.
#[derive(Debug, Clone, Default)]
pub struct NewApiKey {
    /// Scopes; empty is `all`.
    pub scopes: Vec<String>,
    /// Until when.
    pub expires: Option<UnixTime>,
    /// Free text.
    pub description: String,
}

/// What a command did.
#[derive(Debug, Clone)]
pub enum Done {
    /// It is so.
    Changed,
    /// The person made or changed.
    User(UserId),
    /// The machine let in or changed.
    Node(NodeId),
    /// A secret was made; this is the only time its text is seen.
    Secret {
        /// The public six characters.
        id: String,
        /// `swkey-…`, `swapi-…`, or a token of 22 digits.
        text: Secret<String>,
        /// The token of an invite.
        invite: Option<Secret<String>>,
    },
}

/// Why a command did nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such thing.
    #[error("there is no {what} {word:?}")]
    NotFound {
        /// `machine`, `person`, `key`, …
        what: &'static str,
        /// As given.
        word: String,
    },
    /// Something else has it already.
    #[error("{what} {word:?} is taken by {by}")]
    Taken {
        /// `name`, `address`, `mail address`.
        what: &'static str,
        /// As given.
        word: String,
        /// Who has it.
        by: String,
    },
    /// The value cannot be.
    #[error("{what} {word:?} {why}")]
    Unfit {
        /// Which value.
        what: &'static str,
        /// As given.
        word: String,
        /// Why not, to follow the value.
        why: &'static str,
    },
    /// Somebody changed it since it was read.
    #[error("the policy changed meanwhile: version {found} is in force, not {expected}")]
    Moved {
        /// As the writer believed.
        expected: u64,
        /// In force.
        found: u64,
    },
    /// It would break a rule.
    #[error("{0}")]
    Forbidden(String),
    /// The policy is not valid.
    #[error("the policy is not valid: {0}")]
    Policy(#[from] PolicyError),
}

impl Tailnet {
    /// Decides and folds a command. Whoever calls must have checked that `actor` may do this.
    ///
    /// # Errors
    /// [`Refusal`]; then nothing changed.
    pub fn execute(&mut self, actor: &str, command: Command, now: Now) -> Result<Done, Refusal> {
        match command {
            Command::CreateUser(new) => self.create_user(actor, new, now),
            Command::UpdateUser { user, change } => self.update_user(actor, user, change, now),
            Command::DeleteUser(user) => self.delete_user(actor, user, now),
            Command::CreateAuthKey(new) => self.create_auth_key(actor, new, now),
            Command::RevokeAuthKey(id) => self.revoke_auth_key(actor, &id, now),
            Command::DeleteAuthKey(id) => {
                found("key", &id, self.state.auth_key(&id))?;
                self.change(actor, audit("key.delete", &id, None, None), Change::AuthKey(id, None), now)
            }
            Command::CreateApiKey(new) => self.create_api_key(actor, new, now),
            Command::ExpireApiKey(id) => {
                let mut key = found("key", &id, self.state.api_key(&id))?.clone();
                key.expires = Some(now.wall);
                self.change(
                    actor,
                    audit("api-key.expire", &id, None, None),
                    Change::ApiKey(id, Some(Box::new(key))),
                    now,
                )
            }
            Command::DeleteApiKey(id) => {
                found("key", &id, self.state.api_key(&id))?;
                self.change(actor, audit("api-key.delete", &id, None, None), Change::ApiKey(id, None), now)
            }
            Command::CreateSession { kind, user, expires } => {
                self.create_session(actor, kind, user, expires, now)
            }
            Command::DeleteSession(id) => {
                found("session", &id, self.state.session(&id))?;
                self.change(actor, audit("session.end", &id, None, None), Change::Session(id, None), now)
            }
            Command::SetPolicy { text, expect } => self.set_policy(actor, text, expect, now),
            Command::SetSettings(new) => self.set_settings(actor, *new, now),
            Command::ApproveLogin { login, user, by_admin } => {
                self.approve_login(actor, &login, user, by_admin, now)
            }
            Command::AnswerCheck(answer) => self.answer_check(actor, &answer, now),
            Command::RefuseLogin(login) => self.refuse_login(actor, &login, now),
            Command::RenameNode { node, label } => self.rename_node(actor, node, label, now),
            Command::SetExpiry { node, at } => {
                let old = self.one_node(node)?;
                let audit = expiry_audit(&old, at);
                self.change_node(actor, audit, Node { expiry: at, ..old }, now)
            }
            Command::DeleteNode(node) => {
                let old = self.one_node(node)?;
                self.change(
                    actor,
                    audit("machine.delete", &old.label, None, None),
                    Change::Node(node, None),
                    now,
                )
            }
            Command::TagNode { node, tags } => self.tag_node(actor, node, tags, now),
            Command::GiveNode { node, user } => {
                let old = self.one_node(node)?;
                let to = found("person", &user.to_string(), self.state.user(user))?.name.clone();
                let audit = audit("machine.owner", &old.label, Some(owner_text(&old.owner)), Some(to));
                self.change_node(actor, audit, Node { owner: Owner::User(user), ..old }, now)
            }
            Command::ApproveNode { node, approved } => {
                let old = self.one_node(node)?;
                let what = if approved { "machine.approve" } else { "machine.unapprove" };
                self.change_node(actor, audit(what, &old.label, None, None), Node { approved, ..old }, now)
            }
            Command::SetRoutes { node, routes } => self.set_routes(actor, node, routes, now),
            Command::SetAddress { node, ipv4 } => self.set_address(actor, node, ipv4, now),
        }
    }

    fn change(&mut self, actor: &str, audit: Audit, change: Change, now: Now) -> Result<Done, Refusal> {
        self.record(actor, vec![audit], vec![change], now);
        Ok(Done::Changed)
    }

    fn change_node(&mut self, actor: &str, audit: Audit, new: Node, now: Now) -> Result<Done, Refusal> {
        let id = new.id;
        self.record(actor, vec![audit], vec![Change::Node(id, Some(Box::new(new)))], now);
        Ok(Done::Node(id))
    }

    fn one_node(&self, id: NodeId) -> Result<Node, Refusal> {
        found("machine", &id.to_string(), self.state.node(id)).cloned()
    }

    fn create_user(&mut self, actor: &str, new: NewUser, now: Now) -> Result<Done, Refusal> {
        self.check_user_name(&new.name, None)?;
        self.check_email(new.email.as_deref(), None)?;
        let first = self.state.users().next().is_none();
        let mut ids = self.state.ids();
        let id = UserId(ids.user);
        ids.user += 1;
        let display_name = if new.display_name.is_empty() { new.name.clone() } else { new.display_name };
        check_text("display name", &display_name)?;
        let role = new.role.unwrap_or(if first { Role::Owner } else { Role::Member });
        let user = User {
            id,
            name: new.name,
            email: new.email,
            display_name,
            picture: None,
            role,
            suspended: false,
            provider: new.provider,
            groups: new.groups,
            passkeys: Vec::new(),
            created: now.wall,
        };
        let audit = audit("user.create", &user.name, None, Some(role.as_str().to_owned()));
        let changes = vec![Change::NextIds(ids), Change::User(id, Some(Box::new(user)))];
        self.record(actor, vec![audit], changes, now);
        Ok(Done::User(id))
    }

    fn check_user_name(&self, name: &str, own: Option<UserId>) -> Result<(), Refusal> {
        check_text("name", name)?;
        let fit = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | '+' | '@');
        if !name.chars().all(fit) || name.parse::<i64>().is_ok() {
            let why = "must be letters, digits and . - _ + @, and not a number alone";
            return Err(Refusal::Unfit { what: "name", word: name.to_owned(), why });
        }
        match self.state.users().find(|u| u.name == name && Some(u.id) != own) {
            Some(other) => {
                Err(Refusal::Taken { what: "name", word: name.to_owned(), by: other.id.to_string() })
            }
            None => Ok(()),
        }
    }

    fn check_email(&self, email: Option<&str>, own: Option<UserId>) -> Result<(), Refusal> {
        let Some(email) = email else {
            return Ok(());
        };
        check_text("mail address", email)?;
        match self.state.users().find(|u| u.email.as_deref() == Some(email) && Some(u.id) != own) {
            Some(other) => {
                Err(Refusal::Taken { what: "mail address", word: email.to_owned(), by: other.name.clone() })
            }
            None => Ok(()),
        }
    }

    fn update_user(
        &mut self,
        actor: &str,
        id: UserId,
        change: UserChange,
        now: Now,
    ) -> Result<Done, Refusal> {
        let old = found("person", &id.to_string(), self.state.user(id))?.clone();
        let mut user = old.clone();
        if let Some(name) = change.name {
            self.check_user_name(&name, Some(id))?;
            user.name = name;
        }
        if let Some(email) = change.email {
            self.check_email(Some(&email), Some(id))?;
            user.email = Some(email);
        }
        if let Some(display_name) = change.display_name {
            check_text("display name", &display_name)?;
            user.display_name = display_name;
        }
        user.role = change.role.unwrap_or(user.role);
        user.suspended = change.suspended.unwrap_or(user.suspended);
        user.groups = change.groups.unwrap_or(user.groups);
        user.passkeys = change.passkeys.unwrap_or(user.passkeys);
        if user.passkeys.len() > PASSKEYS_MAX {
            return Err(Refusal::Forbidden(format!("a person has at most {PASSKEYS_MAX} passkeys")));
        }
        let owners = self.state.users().filter(|u| u.role == Role::Owner && !u.suspended).count();
        let was_owner = old.role == Role::Owner && !old.suspended;
        if was_owner && (user.role != Role::Owner || user.suspended) && owners == 1 {
            return Err(Refusal::Forbidden(
                "the network's last owner cannot be demoted or suspended".to_owned(),
            ));
        }
        let text = |u: &User| {
            let keys = match u.passkeys.len() {
                0 => String::new(),
                1 => ", 1 passkey".to_owned(),
                n => format!(", {n} passkeys"),
            };
            let suspended = if u.suspended { " suspended" } else { "" };
            format!("{} {}{suspended}{keys}", u.login_name(), u.role.as_str())
        };
        let audit = audit("user.update", &old.name, Some(text(&old)), Some(text(&user)));
        self.record(actor, vec![audit], vec![Change::User(id, Some(Box::new(user)))], now);
        Ok(Done::User(id))
    }

    fn delete_user(&mut self, actor: &str, id: UserId, now: Now) -> Result<Done, Refusal> {
        let user = found("person", &id.to_string(), self.state.user(id))?.clone();
        let machines = self.state.nodes().filter(|n| n.user() == Some(id)).count();
        if machines > 0 {
            return Err(Refusal::Forbidden(format!(
                "{} still has {machines} machines; delete or move them first",
                user.name
            )));
        }
        let owners = self.state.users().filter(|u| u.role == Role::Owner && !u.suspended).count();
        if user.role == Role::Owner && owners == 1 && self.state.users().count() > 1 {
            return Err(Refusal::Forbidden("the network's last owner cannot be removed".to_owned()));
        }
        let keys = self
            .state
            .auth_keys()
            .filter(|k| k.user == Some(id))
            .map(|k| Change::AuthKey(k.id.clone(), None));
        let sessions =
            self.state.sessions().filter(|s| s.user == id).map(|s| Change::Session(s.id.clone(), None));
        let mut changes: Vec<Change> = keys.chain(sessions).collect();
        changes.push(Change::User(id, None));
        self.record(actor, vec![audit("user.delete", &user.name, None, None)], changes, now);
        Ok(Done::Changed)
    }

    fn free_id(&mut self) -> TokenId {
        loop {
            let id = TokenId::from_number(self.rng.next_u64());
            let text = id.to_string();
            if self.state.auth_key(&text).is_none()
                && self.state.api_key(&text).is_none()
                && self.state.session(&text).is_none()
            {
                return id;
            }
        }
    }

    fn create_auth_key(&mut self, actor: &str, new: NewAuthKey, now: Now) -> Result<Done, Refusal> {
        if let Some(user) = new.user {
            found("person", &user.to_string(), self.state.user(user))?;
        }
        if new.user.is_none() && new.tags.is_empty() {
            return Err(Refusal::Forbidden("a key needs a person or tags".to_owned()));
        }
        let tags = self.check_tags(new.tags)?;
        if new.description.len() > TEXT_MAX {
            return Err(Refusal::Unfit { what: "description", word: new.description, why: "is too long" });
        }
        let mut invite = new.invite.then(|| InviteToken::from_bytes(self.rng.bytes()));
        while invite.as_ref().is_some_and(|token| self.state.auth_key(&token.id().to_string()).is_some()) {
            invite = Some(InviteToken::from_bytes(self.rng.bytes()));
        }
        let id = invite.as_ref().map_or_else(|| self.free_id(), InviteToken::id);
        let secret = SecretText::generate(TokenKind::AuthKey, id, self.rng.bytes());
        let mut hashes = vec![SecretHash(*secret.hash().as_bytes())];
        hashes.extend(invite.as_ref().map(|token| SecretHash::of(token.to_auth_key().expose())));
        let key = AuthKey {
            id: id.to_string(),
            hashes,
            user: new.user,
            tags,
            uses_max: new.uses_max,
            used: 0,
            ephemeral: new.ephemeral,
            preapproved: new.preapproved,
            invite: new.invite,
            description: new.description,
            created: now.wall,
            expires: new.expires,
            revoked: None,
        };
        let id = key.id.clone();
        let audit = audit("key.create", &id, None, Some(key_text(&key)));
        self.record(actor, vec![audit], vec![Change::AuthKey(id.clone(), Some(Box::new(key)))], now);
        Ok(Done::Secret { id, text: secret.text().clone(), invite: invite.map(|token| token.to_text()) })
    }

    fn revoke_auth_key(&mut self, actor: &str, id: &str, now: Now) -> Result<Done, Refusal> {
        let mut key = found("key", id, self.state.auth_key(id))?.clone();
        key.revoked = key.revoked.or(Some(now.wall));
        let change = Change::AuthKey(id.to_owned(), Some(Box::new(key)));
        self.change(actor, audit("key.revoke", id, None, None), change, now)
    }

    fn create_api_key(&mut self, actor: &str, new: NewApiKey, now: Now) -> Result<Done, Refusal> {
        let id = self.free_id();
        let secret = SecretText::generate(TokenKind::ApiKey, id, self.rng.bytes());
        let scopes = if new.scopes.is_empty() { vec!["all".to_owned()] } else { new.scopes };
        let audit = audit("api-key.create", &id.to_string(), None, Some(scopes.join(" ")));
        let key = ApiKey {
            id: id.to_string(),
            hash: SecretHash(*secret.hash().as_bytes()),
            scopes,
            description: new.description,
            created: now.wall,
            expires: new.expires,
        };
        self.record(actor, vec![audit], vec![Change::ApiKey(key.id.clone(), Some(Box::new(key)))], now);
        Ok(Done::Secret { id: id.to_string(), text: secret.text().clone(), invite: None })
    }

    fn create_session(
        &mut self,
        actor: &str,
        kind: SessionKind,
        user: UserId,
        expires: UnixTime,
        now: Now,
    ) -> Result<Done, Refusal> {
        found("person", &user.to_string(), self.state.user(user))?;
        let token = InviteToken::from_bytes(self.rng.bytes());
        let text = token.to_text();
        let id = token.id().to_string();
        let session = Session {
            id: id.clone(),
            hash: SecretHash::of(text.expose()),
            kind,
            user,
            created: now.wall,
            expires,
        };
        // Old sign-ins go when new ones come, so they never pile up.
        let gone = self
            .state
            .sessions()
            .filter(|s| s.expires <= now.wall)
            .map(|s| Change::Session(s.id.clone(), None));
        let mut changes: Vec<Change> = gone.collect();
        changes.push(Change::Session(id.clone(), Some(Box::new(session))));
        self.record(actor, vec![audit("session.start", &id, None, None)], changes, now);
        Ok(Done::Secret { id, text, invite: None })
    }

    fn rename_node(
        &mut self,
        actor: &str,
        id: NodeId,
        label: Option<String>,
        now: Now,
    ) -> Result<Done, Refusal> {
        let old = self.one_node(id)?;
        let taken = |label: &str| self.state.node_by_label(label).is_some_and(|other| other.id != id);
        let (label, label_fixed) = match label {
            Some(label) => {
                if label.parse::<sw_types::DnsLabel>().map(|l| l.as_str().to_owned()) != Ok(label.clone()) {
                    let why = "must be lower-case letters, digits and inner dashes, at most 63";
                    return Err(Refusal::Unfit { what: "name", word: label, why });
                }
                if taken(&label) {
                    return Err(Refusal::Taken {
                        what: "name",
                        word: label,
                        by: "another machine".to_owned(),
                    });
                }
                (label, true)
            }
            None => (crate::names::free_label(&old.host_name, taken), false),
        };
        let audit = audit("machine.rename", &old.label, Some(old.label.clone()), Some(label.clone()));
        self.change_node(actor, audit, Node { label, label_fixed, ..old }, now)
    }

    fn check_tags(&self, mut tags: Vec<String>) -> Result<Vec<String>, Refusal> {
        tags.sort();
        tags.dedup();
        for tag in &tags {
            if !is_tag(tag) {
                return Err(Refusal::Unfit {
                    what: "tag",
                    word: tag.clone(),
                    why: "must be tag: and letters, digits or -",
                });
            }
            if !self.rules.declares_tag(tag) {
                return Err(Refusal::Unfit {
                    what: "tag",
                    word: tag.clone(),
                    why: "is not in the policy's tagOwners",
                });
            }
        }
        Ok(tags)
    }

    fn tag_node(&mut self, actor: &str, id: NodeId, tags: Vec<String>, now: Now) -> Result<Done, Refusal> {
        let old = self.one_node(id)?;
        let tags = self.check_tags(tags)?;
        if tags.is_empty() {
            return Err(Refusal::Forbidden(
                "a tagged machine cannot be without tags; give it to a person instead".to_owned(),
            ));
        }
        let audit = audit("machine.tags", &old.label, Some(owner_text(&old.owner)), Some(tags.join(" ")));
        // Keys of tagged machines do not expire (control.md §3.7).
        self.change_node(actor, audit, Node { owner: Owner::Tags(tags), expiry: None, ..old }, now)
    }

    fn set_routes(&mut self, actor: &str, id: NodeId, routes: Vec<IpNet>, now: Now) -> Result<Done, Refusal> {
        let old = self.one_node(id)?;
        let mut approved: Vec<IpNet> = routes.iter().map(IpNet::trunc).collect();
        if approved.iter().any(crate::routes::is_exit) {
            // Approving one of the two approves both (control.md §8.2).
            approved.extend(exit_routes());
        }
        approved.sort();
        approved.dedup();
        let audit = audit(
            "machine.routes",
            &old.label,
            Some(join_display(&old.approved_routes)),
            Some(join_display(&approved)),
        );
        self.change_node(actor, audit, Node { approved_routes: approved, ..old }, now)
    }

    fn set_address(&mut self, actor: &str, id: NodeId, ipv4: Ipv4Addr, now: Now) -> Result<Done, Refusal> {
        let old = self.one_node(id)?;
        if !self.state.settings().pool.contains(ipv4) {
            return Err(Refusal::Unfit {
                what: "address",
                word: ipv4.to_string(),
                why: "is not in the network's pool",
            });
        }
        if let Some(other) = self.state.node_by_v4(ipv4).filter(|other| other.id != id) {
            return Err(Refusal::Taken { what: "address", word: ipv4.to_string(), by: other.label.clone() });
        }
        let audit = audit("machine.address", &old.label, Some(old.ipv4.to_string()), Some(ipv4.to_string()));
        self.change_node(actor, audit, Node { ipv4, ipv6: v6_of(ipv4), ..old }, now)
    }

    fn approve_login(
        &mut self,
        actor: &str,
        id: &str,
        user: UserId,
        by_admin: bool,
        now: Now,
    ) -> Result<Done, Refusal> {
        let login = found("login request", id, self.logins.get(id))?.clone();
        if let LoginStatus::Approved(node) = login.status {
            return Ok(Done::Node(node));
        }
        let person = found("person", &user.to_string(), self.state.user(user))?;
        if person.suspended {
            return Err(Refusal::Forbidden(format!("{} is suspended", person.name)));
        }
        let administers = person.role.administers();
        let owner = self.owner_of(user, Some(&login.host)).map_err(Refusal::Forbidden)?;
        let entrance = Entrance {
            machine: login.machine_key,
            node_key: login.node_key,
            old_node_key: login.old_node_key,
            host: Arc::new(login.host.clone()),
            owner,
            ephemeral: login.ephemeral,
            preapproved: by_admin || administers,
            expiry: login.expiry,
            joined_by: if by_admin { JoinedBy::Admin } else { JoinedBy::Login(user) },
        };
        let node =
            self.enter(entrance, actor, Vec::new(), now).map_err(|why| Refusal::Forbidden(why.to_owned()))?;
        let welcome = self.state.node(node).map(|node| self.welcome(node)).unwrap_or_default();
        for ticket in self.logins.decide(id, LoginStatus::Approved(node)) {
            self.answer_later(ticket, welcome.clone());
        }
        Ok(Done::Node(node))
    }

    fn refuse_login(&mut self, actor: &str, id: &str, now: Now) -> Result<Done, Refusal> {
        let login = found("login request", id, self.logins.get(id))?;
        let audit = audit("login.refuse", &login.host.hostname, None, None);
        self.record(actor, vec![audit], Vec::new(), now);
        for ticket in self.logins.decide(id, LoginStatus::Refused) {
            self.answer_later(ticket, refusal("an admin refused this machine"));
        }
        Ok(Done::Changed)
    }

    fn set_policy(
        &mut self,
        actor: &str,
        text: Option<String>,
        expect: Option<u64>,
        now: Now,
    ) -> Result<Done, Refusal> {
        let current = self.state.policy().map_or(0, |p| p.version);
        if let Some(expected) = expect.filter(|expected| *expected != current) {
            return Err(Refusal::Moved { expected, found: current });
        }
        let (rules, policy): (Arc<dyn crate::rules::Rules>, _) = match text {
            None => (self.config.engine.without_policy(&self.world), None),
            Some(text) => {
                let rules = self.config.engine.parse(&text, &self.world)?;
                let version =
                    PolicyVersion { version: current + 1, text, author: actor.to_owned(), at: now.wall };
                (rules, Some(Box::new(version)))
            }
        };
        let version = policy.as_ref().map(|p| p.version.to_string());
        let audit = audit("policy.set", "policy", Some(current.to_string()), version);
        self.record(actor, vec![audit], vec![Change::Policy(policy)], now);
        self.install_rules(rules);
        Ok(Done::Changed)
    }

    fn set_settings(&mut self, actor: &str, new: Settings, now: Now) -> Result<Done, Refusal> {
        let old = self.state.settings().clone();
        check_text("network name", &new.name)?;
        if new.base_domain.parse::<sw_types::DnsName>().is_err() {
            return Err(Refusal::Unfit {
                what: "base domain",
                word: new.base_domain,
                why: "is no domain name",
            });
        }
        if new.stable_suffix != old.stable_suffix {
            return Err(Refusal::Forbidden("the suffix of machine ids cannot be changed".to_owned()));
        }
        if !(8..=30).contains(&new.pool.bits) {
            return Err(Refusal::Unfit {
                what: "pool",
                word: format!("/{}", new.pool.bits),
                why: "must be /8 to /30",
            });
        }
        let text = |s: &Settings| serde_json::to_string(s).ok();
        let audit = audit("settings.set", &old.name, text(&old), text(&new));
        self.change(actor, audit, Change::Settings(Some(Box::new(new))), now)
    }
}

impl SecretHash {
    /// Hashes a secret's whole text.
    pub fn of(text: &str) -> Self {
        Self(*sw_types::TokenHash::of(text).as_bytes())
    }

    /// Compares in constant time.
    pub fn matches(&self, text: &str) -> bool {
        sw_types::TokenHash::from_bytes(self.0).ct_eq(&sw_types::TokenHash::of(text))
    }
}

/// Both routes of an exit node.
pub(crate) fn exit_routes() -> [IpNet; 2] {
    use std::net::Ipv6Addr;
    [
        IpNet::V4(ipnet::Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)),
        IpNet::V6(ipnet::Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)),
    ]
}

pub(crate) fn join_display<T: std::fmt::Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(" ")
}

fn owner_text(owner: &Owner) -> String {
    match owner {
        Owner::User(user) => format!("person {user}"),
        Owner::Tags(tags) => tags.join(" "),
    }
}

fn key_text(key: &AuthKey) -> String {
    let uses = key.uses_max.map_or_else(|| "reusable".to_owned(), |n| format!("{n} uses"));
    let owner = key.user.map(|user| format!(" person {user}")).unwrap_or_default();
    format!("{uses}{owner} {}{}", key.tags.join(" "), if key.ephemeral { " ephemeral" } else { "" })
}

fn audit(what: &str, target: &str, old: Option<String>, new: Option<String>) -> Audit {
    Audit { what: what.to_owned(), target: target.to_owned(), old, new }
}

fn found<T>(what: &'static str, word: &str, thing: Option<T>) -> Result<T, Refusal> {
    thing.ok_or_else(|| Refusal::NotFound { what, word: word.to_owned() })
}

/// A text that may stand in maps: not empty, not long, nothing that JSON must escape (control.md §8.3).
fn check_text(what: &'static str, text: &str) -> Result<(), Refusal> {
    let why = if text.is_empty() {
        "is empty"
    } else if text.len() > TEXT_MAX {
        "is too long"
    } else if text.chars().any(|c| c.is_control() || matches!(c, '"' | '\\')) {
        "has quotes, backslashes or control characters"
    } else {
        return Ok(());
    };
    Err(Refusal::Unfit { what, word: text.to_owned(), why })
}
