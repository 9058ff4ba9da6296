//! What people change: typed commands, decided against the state, recorded with an audit line.
//!
//! CLI, API and page all come here, so they cannot differ.

mod keys;
mod machines;
mod network;
mod people;

use std::net::Ipv4Addr;

use ipnet::IpNet;
use sw_types::{NodeId, Now, Secret, UnixTime, UserId};

pub use self::keys::{NewApiKey, NewAuthKey};
pub use self::people::{NewUser, PASSKEYS_MAX, UserChange};
use crate::checks::CheckAnswer;
use crate::record::{Audit, Change, Node, Owner, SessionKind, Settings};
use crate::register::expiry_audit;
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
