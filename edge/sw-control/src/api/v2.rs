//! `/api/v2`: the hosted service's API, so that its scripts and providers work here (localapi-cli.md part D).
//!
//! One table says what there is: requests are routed by it, and `/api/openapi.json` is written from it.

use http::Method;

use super::{Answer, Ask, no_such_path, ok};

mod devices;
mod dns;
mod keys;
mod tailnet;
#[cfg(test)]
mod tests;

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Devices,
    Device,
    DeviceDelete,
    DeviceAuthorized,
    DeviceName,
    DeviceTags,
    DeviceKey,
    DeviceIp,
    DeviceExpire,
    DeviceRoutes,
    DeviceSetRoutes,
    Keys,
    KeyCreate,
    Key,
    KeyDelete,
    Acl,
    AclSet,
    AclValidate,
    Nameservers,
    NameserversSet,
    SearchPaths,
    SearchPathsSet,
    DnsPreferences,
    DnsPreferencesSet,
    SplitDns,
    SplitDnsPatch,
    SplitDnsPut,
    DnsConfiguration,
    DnsConfigurationSet,
    Users,
    User,
    UserSuspend,
    UserRestore,
    UserDelete,
    UserRole,
    Settings,
    SettingsPatch,
}

struct Line {
    method: Method,
    /// Below `/api/v2/`; `{…}` stands for one word.
    path: &'static str,
    scope: &'static str,
    summary: &'static str,
    act: Act,
}

const fn line(
    method: Method,
    path: &'static str,
    scope: &'static str,
    act: Act,
    summary: &'static str,
) -> Line {
    Line { method, path, scope, summary, act }
}

const TABLE: &[Line] = &[
    line(Method::GET, "tailnet/{tailnet}/devices", "devices:core", Act::Devices, "List devices"),
    line(Method::GET, "device/{device}", "devices:core", Act::Device, "Get a device"),
    line(Method::DELETE, "device/{device}", "devices:core", Act::DeviceDelete, "Delete a device"),
    line(
        Method::POST,
        "device/{device}/authorized",
        "devices:core",
        Act::DeviceAuthorized,
        "Authorize a device",
    ),
    line(Method::POST, "device/{device}/name", "devices:core", Act::DeviceName, "Name a device"),
    line(Method::POST, "device/{device}/tags", "devices:core", Act::DeviceTags, "Set a device's tags"),
    line(Method::POST, "device/{device}/key", "devices:core", Act::DeviceKey, "Switch key expiry on or off"),
    line(Method::POST, "device/{device}/ip", "devices:core", Act::DeviceIp, "Set a device's IPv4 address"),
    line(Method::POST, "device/{device}/expire", "devices:core", Act::DeviceExpire, "Expire a device's key"),
    line(
        Method::GET,
        "device/{device}/routes",
        "devices:routes",
        Act::DeviceRoutes,
        "List a device's routes",
    ),
    line(
        Method::POST,
        "device/{device}/routes",
        "devices:routes",
        Act::DeviceSetRoutes,
        "Set the enabled routes",
    ),
    line(Method::GET, "tailnet/{tailnet}/keys", "auth_keys", Act::Keys, "List keys for joining"),
    line(Method::POST, "tailnet/{tailnet}/keys", "auth_keys", Act::KeyCreate, "Create a key for joining"),
    line(Method::GET, "tailnet/{tailnet}/keys/{key}", "auth_keys", Act::Key, "Get a key"),
    line(Method::DELETE, "tailnet/{tailnet}/keys/{key}", "auth_keys", Act::KeyDelete, "Revoke a key"),
    line(Method::GET, "tailnet/{tailnet}/acl", "policy_file", Act::Acl, "Get the policy file"),
    line(Method::POST, "tailnet/{tailnet}/acl", "policy_file", Act::AclSet, "Set the policy file"),
    line(
        Method::POST,
        "tailnet/{tailnet}/acl/validate",
        "policy_file:read",
        Act::AclValidate,
        "Check a policy file",
    ),
    line(Method::GET, "tailnet/{tailnet}/dns/nameservers", "dns", Act::Nameservers, "List nameservers"),
    line(Method::POST, "tailnet/{tailnet}/dns/nameservers", "dns", Act::NameserversSet, "Set nameservers"),
    line(Method::GET, "tailnet/{tailnet}/dns/searchpaths", "dns", Act::SearchPaths, "List search paths"),
    line(Method::POST, "tailnet/{tailnet}/dns/searchpaths", "dns", Act::SearchPathsSet, "Set search paths"),
    line(Method::GET, "tailnet/{tailnet}/dns/preferences", "dns", Act::DnsPreferences, "Get DNS preferences"),
    line(
        Method::POST,
        "tailnet/{tailnet}/dns/preferences",
        "dns",
        Act::DnsPreferencesSet,
        "Set DNS preferences",
    ),
    line(Method::GET, "tailnet/{tailnet}/dns/split-dns", "dns", Act::SplitDns, "Get split DNS"),
    line(Method::PATCH, "tailnet/{tailnet}/dns/split-dns", "dns", Act::SplitDnsPatch, "Change split DNS"),
    line(Method::PUT, "tailnet/{tailnet}/dns/split-dns", "dns", Act::SplitDnsPut, "Replace split DNS"),
    line(
        Method::GET,
        "tailnet/{tailnet}/dns/configuration",
        "dns",
        Act::DnsConfiguration,
        "Get the whole DNS configuration",
    ),
    line(
        Method::POST,
        "tailnet/{tailnet}/dns/configuration",
        "dns",
        Act::DnsConfigurationSet,
        "Set the whole DNS configuration",
    ),
    line(Method::GET, "tailnet/{tailnet}/users", "users", Act::Users, "List people"),
    line(Method::GET, "users/{user}", "users", Act::User, "Get a person"),
    line(Method::POST, "users/{user}/suspend", "users", Act::UserSuspend, "Suspend a person"),
    line(Method::POST, "users/{user}/restore", "users", Act::UserRestore, "Restore a suspended person"),
    line(Method::POST, "users/{user}/delete", "users", Act::UserDelete, "Delete a person"),
    line(Method::POST, "users/{user}/role", "users", Act::UserRole, "Set a person's role"),
    line(Method::GET, "tailnet/{tailnet}/settings", "feature_settings", Act::Settings, "Get settings"),
    line(
        Method::PATCH,
        "tailnet/{tailnet}/settings",
        "feature_settings",
        Act::SettingsPatch,
        "Change settings",
    ),
];

/// The line of a request, and the words in place of `{…}`.
fn route<'a>(method: &Method, path: &[&'a str]) -> Option<(&'static Line, Vec<&'a str>)> {
    TABLE.iter().filter(|line| line.method == *method).find_map(|line| {
        let mut words = Vec::new();
        let mut parts = line.path.split('/');
        for word in path {
            match parts.next()? {
                part if part.starts_with('{') => words.push(*word),
                part if part == *word => {}
                _ => return None,
            }
        }
        parts.next().is_none().then_some((line, words))
    })
}

pub(crate) async fn handle(ask: Ask<'_>) -> Answer {
    let (line, words) = route(ask.method(), &ask.path).ok_or_else(no_such_path)?;
    match line.scope.strip_suffix(":read") {
        Some(scope) => ask.caller.may(scope, &Method::GET)?,
        None => ask.may(line.scope)?,
    }
    if line.path.starts_with("tailnet/") {
        tailnet::check_name(&ask, words.first().copied().unwrap_or_default()).await?;
    }
    let word = words.last().copied().unwrap_or_default();
    match line.act {
        Act::Devices => devices::list(&ask).await,
        Act::Device
        | Act::DeviceDelete
        | Act::DeviceAuthorized
        | Act::DeviceName
        | Act::DeviceTags
        | Act::DeviceKey
        | Act::DeviceIp
        | Act::DeviceExpire
        | Act::DeviceRoutes
        | Act::DeviceSetRoutes => devices::one(&ask, line.act, word).await,
        Act::Keys | Act::KeyCreate | Act::Key | Act::KeyDelete => keys::handle(&ask, line.act, word).await,
        Act::Acl | Act::AclSet => super::policy::handle(&ask).await,
        Act::AclValidate => tailnet::validate(&ask).await,
        Act::Nameservers
        | Act::NameserversSet
        | Act::SearchPaths
        | Act::SearchPathsSet
        | Act::DnsPreferences
        | Act::DnsPreferencesSet
        | Act::SplitDns
        | Act::SplitDnsPatch
        | Act::SplitDnsPut
        | Act::DnsConfiguration
        | Act::DnsConfigurationSet => dns::handle(&ask, line.act).await,
        Act::Users | Act::User | Act::UserSuspend | Act::UserRestore | Act::UserDelete | Act::UserRole => {
            tailnet::users(&ask, line.act, word).await
        }
        Act::Settings | Act::SettingsPatch => tailnet::settings(&ask, line.act).await,
    }
}

/// The OpenAPI document of this table.
pub(crate) fn openapi() -> Answer {
    ok(&document())
}

fn document() -> serde_json::Value {
    use serde_json::{Map, Value, json};
    let mut paths = Map::new();
    for line in TABLE {
        let words = line.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        let parameters: Vec<Value> = words
            .map(|word| json!({ "name": word, "in": "path", "required": true, "schema": { "type": "string" } }))
            .collect();
        let mut operation = json!({
            "summary": line.summary,
            "operationId": format!("{:?}", line.act),
            "parameters": parameters,
            "security": [{ "key": [] }],
            "x-scope": line.scope,
            "responses": {
                "200": { "description": "done" },
                "4XX": { "description": "not done", "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Error" } } } },
            },
        });
        if [Method::POST, Method::PUT, Method::PATCH].contains(&line.method) {
            let media = if line.path.contains("/acl") { "application/hujson" } else { "application/json" };
            operation["requestBody"] = json!({ "content": { media: { "schema": {} } } });
        }
        let at = paths.entry(format!("/api/v2/{}", line.path)).or_insert_with(|| json!({}));
        at[line.method.as_str().to_ascii_lowercase()] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": "samewire admin API", "version": env!("CARGO_PKG_VERSION") },
        "paths": paths,
        "components": {
            "securitySchemes": { "key": { "type": "http", "scheme": "bearer", "description": "samewire control apikeys create" } },
            "schemas": { "Error": { "type": "object", "properties": {
                "message": { "type": "string" }, "status": { "type": "integer" }, "data": { "type": "array" } } } },
        },
    })
}
