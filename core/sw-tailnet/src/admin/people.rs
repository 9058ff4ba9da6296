//! People: who they are, what they may, their sign-ins.

use sw_types::{InviteToken, Now, UnixTime, UserId};

use super::{Done, Refusal, audit, check_text, found};
use crate::record::{Change, Passkey, ProviderIdentity, Role, SecretHash, Session, SessionKind, User};
use crate::tailnet::Tailnet;

/// Passkeys of one person.
pub const PASSKEYS_MAX: usize = 16;

/// A new person.
#[derive(Debug, Clone, Default)]
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

impl Tailnet {
    pub(super) fn create_user(&mut self, actor: &str, new: NewUser, now: Now) -> Result<Done, Refusal> {
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

    pub(super) fn check_user_name(&self, name: &str, own: Option<UserId>) -> Result<(), Refusal> {
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

    pub(super) fn check_email(&self, email: Option<&str>, own: Option<UserId>) -> Result<(), Refusal> {
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

    pub(super) fn update_user(
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

    pub(super) fn delete_user(&mut self, actor: &str, id: UserId, now: Now) -> Result<Done, Refusal> {
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

    pub(super) fn create_session(
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
}
