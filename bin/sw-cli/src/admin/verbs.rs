//! From a verb to requests and their answers on the screen.

use std::io::Read;
use std::path::Path;

use hyper::Method;
use serde_json::{Value, json};

use super::client::{Client, ClientError};
use super::render::{self, show, table};
use super::{AdminCommand, ApiKeys, Common, Dns, Keys, Nodes, Policy, Routes, Ssh, Users};

pub(crate) async fn run(common: &Common, command: &AdminCommand) -> Result<u8, ClientError> {
    let client = Client::new(&common.state);
    match command {
        AdminCommand::Users(verb) => users(&client, common, verb).await?,
        AdminCommand::Nodes(verb) => nodes(&client, common, verb).await?,
        AdminCommand::Keys(verb) => keys(&client, common, verb).await?,
        AdminCommand::Apikeys(verb) => api_keys(&client, common, verb).await?,
        AdminCommand::Ssh(verb) => ssh(&client, common, verb).await?,
        AdminCommand::Routes(verb) => routes(&client, common, verb).await?,
        AdminCommand::Policy(verb) => policy(&client, common.json, verb).await?,
        AdminCommand::Dns(verb) => dns(&client, verb).await?,
        AdminCommand::Settings { changes } => settings(&client, changes).await?,
        AdminCommand::Audit { limit } => {
            let lines = client.get(&format!("audit?limit={limit}")).await?;
            list(common, &lines, &[("WHEN", "at"), ("WHO", "actor"), ("WHAT", "changes")]);
        }
        AdminCommand::Backup { file } => backup(&client, common, file).await?,
        AdminCommand::Config => render::json(&client.get("config").await?),
        AdminCommand::Metrics => render::document(&client.text(Method::GET, "metrics", String::new()).await?),
        AdminCommand::Health => return health(&client, common).await,
    }
    Ok(0)
}

fn list(common: &Common, value: &Value, columns: &[(&str, &str)]) {
    if common.json {
        render::json(value);
    } else {
        table(value, columns);
    }
}

/// What is true now, in one line.
fn done(common: &Common, value: &Value, text: &str) {
    if common.json {
        render::json(value);
    } else {
        render::line(text);
    }
}

fn word<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

async fn users(client: &Client<'_>, common: &Common, verb: &Users) -> Result<(), ClientError> {
    match verb {
        Users::Create { name, email, display_name, role } => {
            let mut body = json!({ "name": name });
            for (key, value) in [("email", email), ("displayName", display_name), ("role", role)] {
                if let Some(value) = value {
                    body[key] = json!(value);
                }
            }
            let user = client.post("users", body).await?;
            done(common, &user, &format!("{name} is in the network as {}.", word(&user, "role")));
        }
        Users::List => {
            let columns = [
                ("ID", "id"),
                ("NAME", "name"),
                ("LOGIN", "loginName"),
                ("ROLE", "role"),
                ("MACHINES", "machines"),
                ("CREATED", "created"),
            ];
            list(common, &client.get("users").await?, &columns);
        }
        Users::Rename { user, name } => {
            let changed = client.post(&format!("users/{user}"), json!({ "name": name })).await?;
            done(common, &changed, &format!("{user} is called {name}."));
        }
        Users::Role { user, role } => {
            let changed = client.post(&format!("users/{user}"), json!({ "role": role })).await?;
            done(common, &changed, &format!("{user} is {role}."));
        }
        Users::Suspend { user } => {
            let changed = client.post(&format!("users/{user}"), json!({ "suspended": true })).await?;
            done(common, &changed, &format!("{user} and all machines of {user} are cut off."));
        }
        Users::Restore { user } => {
            let changed = client.post(&format!("users/{user}"), json!({ "suspended": false })).await?;
            done(common, &changed, &format!("{user} is let in again."));
        }
        Users::Delete { user } => {
            let gone = client.delete(&format!("users/{user}")).await?;
            done(common, &gone, &format!("{user} is removed."));
        }
    }
    Ok(())
}

async fn nodes(client: &Client<'_>, common: &Common, verb: &Nodes) -> Result<(), ClientError> {
    match verb {
        Nodes::List { user } => {
            let mut all = client.get("nodes").await?;
            if let (Some(user), Some(list)) = (user, all.as_array_mut()) {
                list.retain(|node| word(node, "user") == user);
            }
            let columns = [
                ("ID", "id"),
                ("NAME", "givenName"),
                ("USER", "user"),
                ("TAGS", "tags"),
                ("ADDRESSES", "addresses"),
                ("ONLINE", "online"),
                ("LAST SEEN", "lastSeen"),
                ("EXPIRY", "expiry"),
            ];
            list(common, &all, &columns);
        }
        Nodes::Approve { id, user } => {
            let id = id.rsplit('/').next().unwrap_or(id);
            let body = user.as_ref().map_or_else(|| json!({}), |user| json!({ "user": user }));
            let node = client.post(&format!("nodes/{id}/approve"), body).await?;
            done(common, &node, &format!("{} is in the network.", word(&node, "givenName")));
        }
        Nodes::Refuse { id } => {
            let id = id.rsplit('/').next().unwrap_or(id);
            let refused = client.post(&format!("nodes/{id}/refuse"), json!({})).await?;
            done(common, &refused, "the machine is refused.");
        }
        Nodes::Waiting => {
            let columns = [("ID", "id"), ("NAME", "name"), ("OS", "os"), ("SINCE", "created")];
            list(common, &client.get("logins").await?, &columns);
        }
        Nodes::Rename { id, name } => {
            let body = name.as_ref().map_or_else(|| json!({}), |name| json!({ "name": name }));
            let node = client.post(&format!("nodes/{id}/rename"), body).await?;
            done(common, &node, &format!("{id} is called {}.", word(&node, "givenName")));
        }
        Nodes::Expire { id, expiry, disable } => {
            let mut body = json!({ "disable": disable });
            if let Some(expiry) = expiry {
                body["expiry"] = json!(expiry);
            }
            let node = client.post(&format!("nodes/{id}/expire"), body).await?;
            let until = node.get("expiry").map_or_else(|| "-".to_owned(), show);
            done(common, &node, &format!("the key of {} expires: {until}.", word(&node, "givenName")));
        }
        Nodes::Ping { id } => {
            let answer = client.post(&format!("nodes/{id}/ping"), json!({})).await?;
            let took = answer.get("milliseconds").and_then(Value::as_f64).unwrap_or_default();
            done(common, &answer, &format!("{id} answers the server in {took:.0} ms."));
        }
        Nodes::Delete { id } => {
            let gone = client.delete(&format!("nodes/{id}")).await?;
            done(common, &gone, &format!("{id} is removed."));
        }
        Nodes::Tag { id, tags } => {
            let node = client.post(&format!("nodes/{id}/tags"), json!({ "tags": tags })).await?;
            done(common, &node, &format!("{} has {}.", word(&node, "givenName"), tags.join(" ")));
        }
        Nodes::Move { id, user } => {
            let node = client.post(&format!("nodes/{id}/user"), json!({ "user": user })).await?;
            done(common, &node, &format!("{} belongs to {user}.", word(&node, "givenName")));
        }
    }
    Ok(())
}

async fn keys(client: &Client<'_>, common: &Common, verb: &Keys) -> Result<(), ClientError> {
    match verb {
        Keys::Create { user, reusable, ephemeral, preapproved, tags, expiry } => {
            let mut body = json!({
                "reusable": reusable, "ephemeral": ephemeral, "preapproved": preapproved, "tags": tags,
                "expiry_seconds": seconds(expiry)?,
            });
            if let Some(user) = user {
                body["user"] = json!(user);
            }
            let key = client.post("keys", body).await?;
            done(common, &key, word(&key, "key"));
        }
        Keys::List => {
            let columns = [
                ("ID", "id"),
                ("USER", "user"),
                ("TAGS", "tags"),
                ("REUSABLE", "reusable"),
                ("EPHEMERAL", "ephemeral"),
                ("USED", "used"),
                ("EXPIRY", "expiry"),
                ("REVOKED", "revoked"),
            ];
            list(common, &client.get("keys").await?, &columns);
        }
        Keys::Expire { id } => {
            let gone = client.post(&format!("keys/{id}/expire"), json!({})).await?;
            done(common, &gone, &format!("key {id} is taken back; machines that used it stay."));
        }
        Keys::Delete { id } => {
            let gone = client.delete(&format!("keys/{id}")).await?;
            done(common, &gone, &format!("key {id} is removed."));
        }
    }
    Ok(())
}

async fn api_keys(client: &Client<'_>, common: &Common, verb: &ApiKeys) -> Result<(), ClientError> {
    match verb {
        ApiKeys::Create { expiry, scopes } => {
            let body = json!({ "scopes": scopes, "expiry_seconds": seconds(expiry)? });
            let key = client.post("apikeys", body).await?;
            done(common, &key, word(&key, "key"));
        }
        ApiKeys::List => {
            let columns = [("ID", "id"), ("SCOPES", "scopes"), ("CREATED", "created"), ("EXPIRY", "expiry")];
            list(common, &client.get("apikeys").await?, &columns);
        }
        ApiKeys::Expire { id } => {
            let gone = client.post(&format!("apikeys/{id}/expire"), json!({})).await?;
            done(common, &gone, &format!("key {id} is ended."));
        }
        ApiKeys::Delete { id } => {
            let gone = client.delete(&format!("apikeys/{id}")).await?;
            done(common, &gone, &format!("key {id} is removed."));
        }
    }
    Ok(())
}

async fn ssh(client: &Client<'_>, common: &Common, verb: &Ssh) -> Result<(), ClientError> {
    let (id, allow) = match verb {
        Ssh::List => {
            let columns = [
                ("ID", "id"),
                ("WHO", "user"),
                ("FROM", "from"),
                ("TO", "to"),
                ("AS", "login"),
                ("SINCE", "created"),
            ];
            list(common, &client.get("ssh-checks").await?, &columns);
            return Ok(());
        }
        Ssh::Allow { id } => (id, true),
        Ssh::Refuse { id } => (id, false),
    };
    let id = id.rsplit('/').next().unwrap_or(id);
    let answer = client.post(&format!("ssh-checks/{id}"), json!({ "allow": allow })).await?;
    done(common, &answer, if allow { "the session may begin." } else { "the session is turned away." });
    Ok(())
}

async fn routes(client: &Client<'_>, common: &Common, verb: &Routes) -> Result<(), ClientError> {
    match verb {
        Routes::List => {
            let columns = [
                ("ID", "id"),
                ("NAME", "givenName"),
                ("ROUTE", "route"),
                ("ANNOUNCED", "advertised"),
                ("APPROVED", "approved"),
                ("SERVING", "serving"),
            ];
            list(common, &client.get("routes").await?, &columns);
        }
        Routes::Approve { id, routes } => {
            let routes = match routes {
                Some(routes) => json!(routes),
                None => {
                    let node = client.get(&format!("nodes/{id}")).await?;
                    node.get("routes")
                        .and_then(|routes| routes.get("advertised"))
                        .cloned()
                        .unwrap_or(json!([]))
                }
            };
            let node = client.post(&format!("nodes/{id}/routes"), json!({ "routes": routes })).await?;
            let approved =
                node.get("routes").and_then(|routes| routes.get("approved")).map_or_else(String::new, show);
            done(common, &node, &format!("approved routes of {}: {approved}", word(&node, "givenName")));
        }
    }
    Ok(())
}

pub(crate) async fn policy(client: &Client<'_>, as_json: bool, verb: &Policy) -> Result<(), ClientError> {
    match verb {
        Policy::Get => render::document(&client.text(Method::GET, "policy", String::new()).await?),
        Policy::Set { file } => {
            client.text(Method::PUT, "policy", read(file)?).await?;
            render::line("the policy is in force.");
        }
        Policy::History => {
            let versions = client.get("policy/history").await?;
            let columns = [
                ("VERSION", "version"),
                ("WHEN", "at"),
                ("WHO", "author"),
                ("LINES", "lines"),
                ("IN FORCE", "inForce"),
            ];
            if as_json {
                render::json(&versions);
            } else {
                table(&versions, &columns);
            }
        }
        Policy::Rollback { version } => {
            let done = client.post("policy/rollback", json!({ "version": version })).await?;
            if as_json {
                render::json(&done);
            } else {
                let now = done.get("version").map_or_else(String::new, show);
                render::line(&format!("version {version} is in force again, as version {now}."));
            }
        }
    }
    Ok(())
}

async fn dns(client: &Client<'_>, verb: &Dns) -> Result<(), ClientError> {
    match verb {
        Dns::Get => render::json(&client.get("dns").await?),
        Dns::Set { file } => {
            let text = client.text(Method::PUT, "dns", read(file)?).await?;
            render::line(&text);
        }
    }
    Ok(())
}

async fn settings(client: &Client<'_>, changes: &[String]) -> Result<(), ClientError> {
    let mut body = json!({});
    for change in changes {
        let unfit =
            || ClientError::Argument { what: format!("{change:?}"), why: "it is not NAME=VALUE".to_owned() };
        let (name, value) = change.split_once('=').ok_or_else(unfit)?;
        body[name] = serde_json::from_str(value).unwrap_or_else(|_| json!(value));
    }
    let settings = if changes.is_empty() {
        client.get("settings").await?
    } else {
        client.patch("settings", body).await?
    };
    render::json(&settings);
    Ok(())
}

async fn backup(client: &Client<'_>, common: &Common, file: &Path) -> Result<(), ClientError> {
    let path = std::path::absolute(file);
    let path =
        path.map_err(|e| ClientError::Argument { what: file.display().to_string(), why: e.to_string() })?;
    let saved = client.post("backup", json!({ "path": path })).await?;
    done(
        common,
        &saved,
        &format!("saved to {} and {} (keep the second secret).", word(&saved, "path"), word(&saved, "keys")),
    );
    Ok(())
}

async fn health(client: &Client<'_>, common: &Common) -> Result<u8, ClientError> {
    let health = client.get("health").await?;
    if common.json {
        render::json(&health);
    } else {
        render::line(word(&health, "status"));
        for problem in health.get("problems").and_then(Value::as_array).into_iter().flatten() {
            let machine = word(problem, "machine");
            let lead = if machine.is_empty() { String::new() } else { format!("{machine}: ") };
            let mut text = format!("! {lead}{}", word(problem, "what"));
            for part in ["why", "fix"].iter().filter(|part| !word(problem, part).is_empty()) {
                text.push_str(&format!("\n    {part}: {}", word(problem, part)));
            }
            render::line(&text);
        }
    }
    Ok(u8::from(word(&health, "status") == "fail"))
}

fn read(file: &Path) -> Result<String, ClientError> {
    let mut text = String::new();
    let done = if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).map(drop)
    } else {
        std::fs::read_to_string(file).map(|read| text = read)
    };
    done.map_err(|e| ClientError::Argument { what: file.display().to_string(), why: e.to_string() })?;
    Ok(text)
}

/// `90d`, `1h30m`, `45s`, `0` in seconds.
fn seconds(text: &str) -> Result<u64, ClientError> {
    let unfit = || ClientError::Argument {
        what: format!("{text:?}"),
        why: "a duration is 30m, 1h30m or 90d; 0 is never".to_owned(),
    };
    let mut total = 0_u64;
    let mut number = String::new();
    for c in text.chars() {
        let unit = match c {
            '0'..='9' => {
                number.push(c);
                continue;
            }
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            'w' => 604_800,
            'y' => 31_536_000,
            _ => return Err(unfit()),
        };
        let n: u64 = number.parse().map_err(|_| unfit())?;
        total = n.checked_mul(unit).and_then(|n| total.checked_add(n)).ok_or_else(unfit)?;
        number.clear();
    }
    match number.as_str() {
        "" if !text.is_empty() => Ok(total),
        "0" if text == "0" => Ok(0),
        _ => Err(unfit()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_headscale_writes_them() {
        for (text, wanted) in [("1h", 3_600), ("90d", 7_776_000), ("1h30m", 5_400), ("0", 0), ("45s", 45)] {
            assert_eq!(seconds(text).unwrap(), wanted, "{text}");
        }
        for bad in ["", "1", "h", "1x", "-1h", "99999999999999999999d"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
