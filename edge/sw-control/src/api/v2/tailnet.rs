//! The network itself: its name, policy check, people and settings.

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use sw_tailnet::{Command, Role, Tailnet, User, UserChange};

use super::Act;
use crate::api::{Answer, Ask, Problem, ok, settings as own, users as people};

/// A network goes by `-`, its name or its base domain; there is one.
pub(super) async fn check_name(ask: &Ask<'_>, name: &str) -> Result<(), Problem> {
    let settings = own::current(ask).await?;
    if ["-", &*settings.name, &*settings.base_domain].contains(&name) {
        return Ok(());
    }
    Err(Problem::new(StatusCode::NOT_FOUND, format!("this server does not have the tailnet \"{name}\"")))
}

/// Checks a policy with its own tests; nothing is put in force. What is wrong comes with status 200.
pub(super) async fn validate(ask: &Ask<'_>) -> Answer {
    let text = std::str::from_utf8(ask.body);
    let text = text.map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "the policy is not UTF-8"))?.to_owned();
    let checked = ask
        .shared
        .control
        .read(move |tailnet| tailnet.config().engine.parse(&text, tailnet.world()).map(drop));
    let checked = checked.await?;
    match checked {
        Ok(()) => ok(&json!({})),
        Err(error) => {
            let errors = [if error.report.is_empty() { error.to_string() } else { error.report.clone() }];
            ok(&json!({ "message": error.to_string(), "data": [{ "user": "", "errors": errors }] }))
        }
    }
}

fn shown(tailnet: &Tailnet, user: &User) -> Value {
    let nodes: Vec<_> = tailnet.state().nodes().filter(|node| node.user() == Some(user.id)).collect();
    let is_connected = nodes.iter().any(|node| tailnet.is_online(node.id));
    let seen = nodes.iter().filter_map(|node| tailnet.facts(node.id)?.last_seen).max();
    json!({
        "id": user.id.to_string(), "displayName": user.display_name, "loginName": user.login_name(),
        "profilePicUrl": "", "tailnetId": tailnet.state().settings().stable_suffix, "created": user.created,
        "type": "member", "role": user.role.as_str(), "deviceCount": nodes.len(),
        "status": if user.suspended { "suspended" } else if is_connected { "active" } else { "idle" },
        "lastSeen": seen, "currentlyConnected": is_connected,
    })
}

#[derive(Deserialize)]
struct RoleInput {
    role: Role,
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the table of routes sends only these acts here")]
pub(super) async fn users(ask: &Ask<'_>, act: Act, word: &str) -> Answer {
    if act == Act::Users {
        let role = ask.query("role");
        let list = ask.shared.control.read(move |tailnet| {
            let users = tailnet.state().users();
            let asked = users.filter(|user| role.as_deref().is_none_or(|role| role == user.role.as_str()));
            asked.map(|user| shown(tailnet, user)).collect::<Vec<_>>()
        });
        return ok(&json!({ "users": list.await? }));
    }
    let user = people::find(ask, word).await?;
    let change = match act {
        Act::UserSuspend => UserChange { suspended: Some(true), ..UserChange::default() },
        Act::UserRestore => UserChange { suspended: Some(false), ..UserChange::default() },
        Act::UserRole => UserChange { role: Some(ask.input::<RoleInput>()?.role), ..UserChange::default() },
        Act::UserDelete => {
            ask.shared.control.execute(&ask.caller.name, Command::DeleteUser(user)).await?;
            return ok(&json!({}));
        }
        _ => {
            let look = move |tailnet: &Tailnet| tailnet.state().user(user).map(|found| shown(tailnet, found));
            return ok(&ask.shared.control.read(look).await?);
        }
    };
    ask.shared.control.execute(&ask.caller.name, Command::UpdateUser { user, change }).await?;
    ok(&json!({}))
}

/// What can be changed; of the rest only what it is today is taken.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct SettingsInput {
    devices_approval_on: Option<bool>,
    devices_key_duration_days: Option<u32>,
    https_enabled: Option<bool>,
}

pub(super) async fn settings(ask: &Ask<'_>, act: Act) -> Answer {
    let mut settings = own::current(ask).await?;
    if act == Act::SettingsPatch {
        let input: SettingsInput = ask.input()?;
        settings.approval = input.devices_approval_on.unwrap_or(settings.approval);
        settings.https = input.https_enabled.unwrap_or(settings.https);
        settings.key_days =
            input.devices_key_duration_days.map_or(settings.key_days, |days| (days > 0).then_some(days));
        own::store(ask, settings.clone()).await?;
    }
    ok(&json!({
        "aclsExternallyManagedOn": false, "aclsExternalLink": "", "devicesApprovalOn": settings.approval,
        "devicesAutoUpdatesOn": false, "devicesKeyDurationDays": settings.key_days.unwrap_or(0),
        "usersApprovalOn": false, "usersRoleAllowedToJoinExternalTailnets": "none",
        "networkFlowLoggingOn": false, "regionalRoutingOn": false, "postureIdentityCollectionOn": false,
        "httpsEnabled": settings.https,
    }))
}
