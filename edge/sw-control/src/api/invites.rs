//! Invites with all their texts, and one-time links to the admin page.

use std::time::Duration;

use http::{Method, StatusCode};
use serde::Deserialize;
use sw_tailnet::{Command, Done, NewAuthKey, SessionKind, Tailnet};
use sw_types::UserId;

use super::{Answer, Ask, Problem, no_such_path, ok};
use crate::join::{InviteSecrets, JoinFacts};

/// Lifetime and uses of an invite made without wishes (architecture.md §10.1).
const INVITE: Duration = Duration::from_secs(3_600);
const INVITE_USES: u32 = 10;
/// Longest lifetime of an invite: a year.
const INVITE_MAX: Duration = Duration::from_secs(366 * 24 * 3_600);
/// How long an admin link is good (architecture.md §10.1).
const LINK: Duration = Duration::from_secs(3_600);

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Input {
    /// Whose machines; the caller's if nobody is named.
    user: Option<String>,
    tags: Vec<String>,
    uses: Option<u32>,
    expiry_seconds: Option<u64>,
}

pub(crate) async fn handle(ask: &Ask<'_>, path: &[&str]) -> Answer {
    ask.may("auth_keys")?;
    match (ask.method().clone(), path) {
        (Method::POST, []) => make(ask).await,
        (Method::POST, [id, "revoke"]) => {
            ask.shared.control.execute(&ask.caller.name, Command::RevokeAuthKey((*id).to_owned())).await?;
            ok(&serde_json::json!({}))
        }
        _ => Err(no_such_path()),
    }
}

async fn make(ask: &Ask<'_>) -> Answer {
    let input: Input = ask.input()?;
    let facts = facts(ask)?;
    let user = match &input.user {
        Some(word) => Some(super::users::find(ask, word).await?),
        None if !input.tags.is_empty() => None,
        None => Some(asker(ask).await?),
    };
    let uses = input.uses.unwrap_or(INVITE_USES);
    let lifetime = input.expiry_seconds.map_or(INVITE, Duration::from_secs).min(INVITE_MAX);
    let expires = crate::clock::now().wall + lifetime;
    let new = NewAuthKey {
        user,
        tags: input.tags,
        uses_max: Some(uses),
        preapproved: true,
        expires: Some(expires),
        invite: true,
        ..NewAuthKey::default()
    };
    match ask.shared.control.execute(&ask.caller.name, Command::CreateAuthKey(new)).await? {
        Done::Secret { id, text, invite: Some(token) } => {
            let secrets = InviteSecrets { id: &id, token: token.expose(), auth_key: text.expose() };
            ok(&facts.invitation(secrets, expires, uses))
        }
        Done::Secret { .. } | Done::Changed | Done::User(_) | Done::Node(_) => {
            unreachable!("making an invite gives its token")
        }
    }
}

/// `POST admin-link`: a one-time way to the admin page for whoever asks.
pub(crate) async fn admin_link(ask: &Ask<'_>) -> Answer {
    ask.may("all")?;
    let facts = facts(ask)?;
    let user = asker(ask).await?;
    let expires = crate::clock::now().wall + LINK;
    let make = Command::CreateSession { kind: SessionKind::Link, user, expires };
    match ask.shared.control.execute(&ask.caller.name, make).await? {
        Done::Secret { text, .. } => {
            ok(&serde_json::json!({ "adminUrl": facts.admin_url(text.expose()), "expires": expires }))
        }
        Done::Changed | Done::User(_) | Done::Node(_) => unreachable!("a session has a token"),
    }
}

/// Where this server is, as its join lines say it.
fn facts<'a>(ask: &Ask<'a>) -> Result<&'a JoinFacts, Problem> {
    let none = || Problem::new(StatusCode::NOT_IMPLEMENTED, "this server has no page to join by");
    ask.shared.join.get().map(|facts| &**facts).ok_or_else(none)
}

/// The person who asks: the caller, or the owner when it is the machine's root.
async fn asker(ask: &Ask<'_>) -> Result<UserId, Problem> {
    if let Some(user) = ask.caller.user {
        return Ok(user);
    }
    let owner = |tailnet: &Tailnet| {
        let owner = tailnet.state().users().find(|user| user.role == sw_tailnet::Role::Owner);
        owner.or_else(|| tailnet.state().users().next()).map(|user| user.id)
    };
    let nobody = || Problem::new(StatusCode::BAD_REQUEST, "the network has no person yet");
    ask.shared.control.read(owner).await?.ok_or_else(nobody)
}
