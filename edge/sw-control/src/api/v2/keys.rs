//! Keys for joining.

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use sw_tailnet::{AuthKey, Command, Done, NewAuthKey, Tailnet};
use sw_types::UnixTime;

use super::Act;
use crate::api::{Answer, Ask, Problem, keys, ok};
use crate::clock;

/// How long a key lasts when nothing is said, and at most: 90 days, as at the hosted service.
const SECONDS: u64 = 90 * 24 * 60 * 60;

fn shown(key: &AuthKey, now: UnixTime) -> Value {
    let is_used_up = key.uses_max.is_some_and(|max| key.used >= max);
    let is_over = key.expires.is_some_and(|at| at <= now);
    let mut value = json!({
        "id": key.id, "keyType": "auth", "description": key.description, "created": key.created,
        "expires": key.expires, "invalid": is_used_up || is_over || key.revoked.is_some(),
        "capabilities": { "devices": { "create": {
            "reusable": key.uses_max.is_none(), "ephemeral": key.ephemeral,
            "preauthorized": key.preapproved, "tags": key.tags,
        } } },
    });
    if let Some(at) = key.expires {
        value["expirySeconds"] = json!(at.saturating_since(key.created).as_secs());
    }
    if let Some(at) = key.revoked {
        value["revoked"] = json!(at);
    }
    if let Some(user) = key.user {
        value["userId"] = json!(user.to_string());
    }
    value
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Input {
    key_type: String,
    description: String,
    expiry_seconds: u64,
    capabilities: Capabilities,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Capabilities {
    devices: Devices,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Devices {
    create: Create,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Create {
    reusable: bool,
    ephemeral: bool,
    preauthorized: bool,
    tags: Vec<String>,
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the table of routes sends only these acts here")]
pub(super) async fn handle(ask: &Ask<'_>, act: Act, id: &str) -> Answer {
    let now = clock::now().wall;
    match act {
        Act::Keys => {
            let look = move |tailnet: &Tailnet| {
                let keys = tailnet.state().auth_keys();
                keys.map(|key| json!({ "id": key.id, "description": key.description, "keyType": "auth" }))
                    .collect::<Vec<_>>()
            };
            ok(&json!({ "keys": ask.shared.control.read(look).await? }))
        }
        Act::KeyCreate => create(ask, now).await,
        Act::KeyDelete => {
            ask.shared.control.execute(&ask.caller.name, Command::RevokeAuthKey(id.to_owned())).await?;
            ok(&json!({}))
        }
        _ => ok(&one(ask, id.to_owned(), now).await?),
    }
}

async fn one(ask: &Ask<'_>, id: String, now: UnixTime) -> Result<Value, Problem> {
    let asked = id.clone();
    let look = move |tailnet: &Tailnet| tailnet.state().auth_key(&asked).map(|key| shown(key, now));
    ask.shared.control.read(look).await?.ok_or_else(|| Problem::not_found("key", &id))
}

async fn create(ask: &Ask<'_>, now: UnixTime) -> Answer {
    let input: Input = ask.input()?;
    if !matches!(input.key_type.as_str(), "" | "auth") {
        let why = format!("keys of the type \"{}\" are not made here, only \"auth\"", input.key_type);
        return Err(Problem::new(StatusCode::BAD_REQUEST, why));
    }
    let Create { reusable, ephemeral, preauthorized, tags } = input.capabilities.devices.create;
    let seconds = if input.expiry_seconds == 0 { SECONDS } else { input.expiry_seconds.min(SECONDS) };
    let new = NewAuthKey {
        user: if tags.is_empty() { keys::whose(ask).await? } else { None },
        tags,
        uses_max: if reusable { None } else { Some(1) },
        ephemeral,
        preapproved: preauthorized,
        expires: Some(now + std::time::Duration::from_secs(seconds)),
        description: input.description,
        invite: false,
    };
    match ask.shared.control.execute(&ask.caller.name, Command::CreateAuthKey(new)).await? {
        Done::Secret { id, text, .. } => {
            let mut value = one(ask, id, now).await?;
            value["key"] = json!(text.expose());
            ok(&value)
        }
        Done::Changed | Done::User(_) | Done::Node(_) => ok(&json!({})),
    }
}
