//! Keys: for joining, for the API, and the hashes that stand for them.

use sw_types::{InviteToken, Now, SecretText, TokenId, TokenKind, UnixTime, UserId};

use super::{Done, Refusal, TEXT_MAX, audit, found};
use crate::record::{ApiKey, AuthKey, Change, SecretHash};
use crate::tailnet::Tailnet;

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

impl Tailnet {
    pub(super) fn free_id(&mut self) -> TokenId {
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

    pub(super) fn create_auth_key(
        &mut self,
        actor: &str,
        new: NewAuthKey,
        now: Now,
    ) -> Result<Done, Refusal> {
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

    pub(super) fn revoke_auth_key(&mut self, actor: &str, id: &str, now: Now) -> Result<Done, Refusal> {
        let mut key = found("key", id, self.state.auth_key(id))?.clone();
        key.revoked = key.revoked.or(Some(now.wall));
        let change = Change::AuthKey(id.to_owned(), Some(Box::new(key)));
        self.change(actor, audit("key.revoke", id, None, None), change, now)
    }

    pub(super) fn create_api_key(&mut self, actor: &str, new: NewApiKey, now: Now) -> Result<Done, Refusal> {
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

fn key_text(key: &AuthKey) -> String {
    let uses = key.uses_max.map_or_else(|| "reusable".to_owned(), |n| format!("{n} uses"));
    let owner = key.user.map(|user| format!(" person {user}")).unwrap_or_default();
    format!("{uses}{owner} {}{}", key.tags.join(" "), if key.ephemeral { " ephemeral" } else { "" })
}
