//! Keys for joining and keys of the API. Texts are shown once, when they are made.

use http::Method;
use serde::{Deserialize, Serialize};
use sw_tailnet::{ApiKey, AuthKey, Command, Done, NewApiKey, NewAuthKey, NewUser, Role, Tailnet};
use sw_types::{UnixTime, UserId};

use super::{Answer, Ask, Problem, no_such_path, ok};

/// A key for joining as scripts see it.
#[derive(Debug, Clone, Serialize)]
struct AuthKeyInfo {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    user: Option<String>,
    reusable: bool,
    ephemeral: bool,
    tags: Vec<String>,
    uses: Option<u32>,
    used: u32,
    preapproved: bool,
    invite: bool,
    description: String,
    created: UnixTime,
    expiry: Option<UnixTime>,
    revoked: Option<UnixTime>,
}

impl AuthKeyInfo {
    fn of(tailnet: &Tailnet, key: &AuthKey) -> Self {
        Self {
            id: key.id.clone(),
            key: None,
            token: None,
            user: key.user.and_then(|user| tailnet.state().user(user)).map(|user| user.name.clone()),
            reusable: key.uses_max.is_none(),
            ephemeral: key.ephemeral,
            tags: key.tags.clone(),
            uses: key.uses_max,
            used: key.used,
            preapproved: key.preapproved,
            invite: key.invite,
            description: key.description.clone(),
            created: key.created,
            expiry: key.expires,
            revoked: key.revoked,
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct AuthInput {
    user: Option<String>,
    reusable: bool,
    uses: Option<u32>,
    ephemeral: bool,
    preapproved: bool,
    invite: bool,
    tags: Vec<String>,
    /// Seconds from now; 0 is never.
    expiry_seconds: Option<u64>,
    description: String,
}

/// How long a key lasts when nothing is said.
const DEFAULT_SECONDS: u64 = 60 * 60;

pub(crate) async fn auth_keys(ask: &Ask<'_>, path: &[&str]) -> Answer {
    ask.may("auth_keys")?;
    match (ask.method().clone(), path) {
        (Method::GET, []) => {
            let list = ask.shared.control.read(|tailnet| {
                let keys = tailnet.state().auth_keys();
                keys.map(|key| AuthKeyInfo::of(tailnet, key)).collect::<Vec<_>>()
            });
            ok(&list.await?)
        }
        (Method::POST, []) => create_auth_key(ask).await,
        (Method::POST, [id, "revoke" | "expire"]) => run(ask, Command::RevokeAuthKey((*id).to_owned())).await,
        (Method::DELETE, [id]) => run(ask, Command::DeleteAuthKey((*id).to_owned())).await,
        _ => Err(no_such_path()),
    }
}

async fn create_auth_key(ask: &Ask<'_>) -> Answer {
    let input: AuthInput = ask.input()?;
    let user = match &input.user {
        Some(word) => Some(super::users::find(ask, word).await?),
        None if input.tags.is_empty() => whose(ask).await?,
        None => None,
    };
    let seconds = input.expiry_seconds.unwrap_or(DEFAULT_SECONDS);
    let expires = (seconds > 0).then(|| crate::clock::now().wall + std::time::Duration::from_secs(seconds));
    let uses_max = input.uses.or(if input.reusable { None } else { Some(1) });
    let new = NewAuthKey {
        user,
        tags: input.tags,
        uses_max,
        ephemeral: input.ephemeral,
        preapproved: input.preapproved,
        expires,
        description: input.description,
        invite: input.invite,
    };
    match ask.shared.control.execute(&ask.caller.name, Command::CreateAuthKey(new)).await? {
        Done::Secret { id, text, invite } => {
            let look = move |tailnet: &Tailnet| {
                tailnet.state().auth_key(&id).map(|key| AuthKeyInfo::of(tailnet, key))
            };
            let info = ask.shared.control.read(look).await?;
            let info = info.ok_or_else(|| Problem::not_found("key", "just made"))?;
            let token = invite.map(|token| token.expose().clone());
            ok(&AuthKeyInfo { key: Some(text.expose().clone()), token, ..info })
        }
        Done::Changed | Done::User(_) | Done::Node(_) => ok(&serde_json::json!({})),
    }
}

/// Whose machines a key is for when nobody is named: the caller's, the only person's, the only owner's. A network without
/// people gets its owner by this. `None`: it must be said.
pub(crate) async fn whose(ask: &Ask<'_>) -> Result<Option<UserId>, Problem> {
    if let Some(caller) = ask.caller.user {
        return Ok(Some(caller));
    }
    let look = |tailnet: &Tailnet| {
        let people: Vec<(UserId, Role)> = tailnet.state().users().map(|user| (user.id, user.role)).collect();
        let mut owners = people.iter().filter(|(_, role)| *role == Role::Owner);
        let only = match (&people[..], owners.next(), owners.next()) {
            ([(only, _)], ..) => Some(*only),
            (_, Some((owner, _)), None) => Some(*owner),
            _ => None,
        };
        (people.is_empty(), only)
    };
    let (is_empty, only) = ask.shared.control.read(look).await?;
    if !is_empty {
        return Ok(only);
    }
    let owner = NewUser { name: "owner".to_owned(), ..NewUser::default() };
    match ask.shared.control.execute(&ask.caller.name, Command::CreateUser(owner)).await? {
        Done::User(id) => Ok(Some(id)),
        Done::Changed | Done::Node(_) | Done::Secret { .. } => Ok(None),
    }
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct ApiInput {
    scopes: Vec<String>,
    expiry_seconds: Option<u64>,
    description: String,
}

#[derive(Serialize)]
struct ApiKeyInfo {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    scopes: Vec<String>,
    description: String,
    created: UnixTime,
    expiry: Option<UnixTime>,
}

impl ApiKeyInfo {
    fn of(key: &ApiKey) -> Self {
        Self {
            id: key.id.clone(),
            key: None,
            scopes: key.scopes.clone(),
            description: key.description.clone(),
            created: key.created,
            expiry: key.expires,
        }
    }
}

/// How long a key of the API lasts when nothing is said: 90 days.
const API_DEFAULT_SECONDS: u64 = 90 * 24 * 60 * 60;

pub(crate) async fn api_keys(ask: &Ask<'_>, path: &[&str]) -> Answer {
    // WHY all: whoever makes keys can make one that may everything.
    ask.may("all")?;
    match (ask.method().clone(), path) {
        (Method::GET, []) => {
            let list = ask
                .shared
                .control
                .read(|tailnet| tailnet.state().api_keys().map(ApiKeyInfo::of).collect::<Vec<_>>());
            ok(&list.await?)
        }
        (Method::POST, []) => {
            let input: ApiInput = ask.input()?;
            let seconds = input.expiry_seconds.unwrap_or(API_DEFAULT_SECONDS);
            let expires =
                (seconds > 0).then(|| crate::clock::now().wall + std::time::Duration::from_secs(seconds));
            let new = NewApiKey { scopes: input.scopes, expires, description: input.description };
            match ask.shared.control.execute(&ask.caller.name, Command::CreateApiKey(new)).await? {
                Done::Secret { id, text, .. } => {
                    let look = move |tailnet: &Tailnet| tailnet.state().api_key(&id).map(ApiKeyInfo::of);
                    let info = ask.shared.control.read(look).await?;
                    let info = info.ok_or_else(|| Problem::not_found("key", "just made"))?;
                    ok(&ApiKeyInfo { key: Some(text.expose().clone()), ..info })
                }
                Done::Changed | Done::User(_) | Done::Node(_) => ok(&serde_json::json!({})),
            }
        }
        (Method::POST, [id, "expire"]) => run(ask, Command::ExpireApiKey((*id).to_owned())).await,
        (Method::DELETE, [id]) => run(ask, Command::DeleteApiKey((*id).to_owned())).await,
        _ => Err(no_such_path()),
    }
}

async fn run(ask: &Ask<'_>, command: Command) -> Answer {
    ask.shared.control.execute(&ask.caller.name, command).await?;
    ok(&serde_json::json!({}))
}
