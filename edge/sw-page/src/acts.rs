//! What the forms do: a path and fields become commands, and what puts them back.

use crate::access;
use crate::guard::Visitor;
use crate::http::{self, Fields};
use crate::join;
use crate::site::{Ask, Site};
use crate::undo::Outcome;
use ::http::{Response, StatusCode};
use ipnet::IpNet;
use std::sync::Arc;
use std::time::Duration;
use sw_control::{Failure, clock};
use sw_net::front::Body;
use sw_tailnet::{
    Command, Done, ExtraRecord, Nameserver, NewApiKey, NewAuthKey, NewUser, Node, Owner, Role, Settings,
    UserChange,
};
use sw_types::{NodeId, UserId};

/// How an act goes: what to do, what to say, how to undo it, where to go on.
struct Plan {
    commands: Vec<Command>,
    said: String,
    back: Vec<Command>,
    to: String,
}

/// Why a form is refused before anything is tried.
type Refused = String;

/// Does what a form asks; answers with a redirect that shows the toast.
pub(crate) async fn act(site: &Arc<Site>, ask: &Ask, visitor: &Visitor, form: &Fields) -> Response<Body> {
    let pieces = ask.pieces();
    match pieces[..] {
        ["log", seq, "undo"] => return crate::log_undo::undo(site, visitor, seq).await,
        ["undo", id] => return undo(site, visitor, id).await,
        ["machines", "add"] => return add_invite(site, visitor).await,
        ["people", "invite"] => return invite_person(site, visitor, form).await,
        ["access"] => return access::save(site, visitor, form).await,
        ["access", "check"] => return access::check(site, visitor, form).await,
        ["access", "rollback"] => return access::rollback(site, visitor, form).await,
        ["access", "keep"] => return access::keep(site, visitor, form),
        ["settings", "backup"] => return backup(site).await,
        ["keys"] | ["keys", "api"] => return make_key(site, visitor, form, pieces.len() == 2).await,
        _ => {}
    }
    match plan(site, visitor, &pieces, form).await {
        Ok(plan) => carry_out(site, visitor, plan).await,
        Err(why) => refuse(site, visitor, &why, &back_to(&pieces)),
    }
}

async fn plan(site: &Site, visitor: &Visitor, pieces: &[&str], form: &Fields) -> Result<Plan, Refused> {
    match *pieces {
        ["machines", id, "approve"] if is_login(site, id).await => {
            let command = Command::ApproveLogin {
                login: id.into(),
                user: visitor.user,
                by_admin: visitor.administers(),
            };
            Ok(Plan {
                commands: vec![command],
                said: "It is in.".into(),
                back: vec![],
                to: "/machines".into(),
            })
        }
        ["machines", id, "refuse"] => {
            // A request at the login page, or a machine that came by a key and waits.
            let command = match is_login(site, id).await {
                true => Command::RefuseLogin(id.into()),
                false => match find_machine(site, id).await? {
                    node if node.approved => return Err(format!("{} is in already.", node.label)),
                    node => Command::DeleteNode(node.id),
                },
            };
            Ok(Plan {
                commands: vec![command],
                said: "Refused.".into(),
                back: vec![],
                to: "/machines".into(),
            })
        }
        ["machines", name, verb] => machine(&find_machine(site, name).await?, verb, form),
        ["people", id, "role"] => role(site, id, form).await,
        ["people", id, "remove"] => remove_person(site, id, form).await,
        ["keys", id, "revoke"] => {
            site.invites.forget(id);
            let command = Command::RevokeAuthKey(id.into());
            Ok(Plan {
                commands: vec![command],
                said: format!("Key {id} is revoked."),
                back: vec![],
                to: "/keys".into(),
            })
        }
        ["keys", "api", id, "revoke"] => {
            let command = Command::DeleteApiKey(id.into());
            Ok(Plan {
                commands: vec![command],
                said: format!("Key {id} is revoked."),
                back: vec![],
                to: "/keys".into(),
            })
        }
        ["dns", ..] | ["settings"] => settings(site, pieces, form).await,
        _ => Err("There is no such act.".into()),
    }
}

async fn carry_out(site: &Site, visitor: &Visitor, plan: Plan) -> Response<Body> {
    let mut back = plan.back;
    for command in plan.commands {
        let lets_in = matches!(command, Command::ApproveLogin { .. });
        match site.control.execute(&visitor.login, command).await {
            // The machine is made by it, so what puts it back to waiting is known only now.
            Ok(Done::Node(node)) if lets_in => back.push(Command::ApproveNode { node, approved: false }),
            Ok(_) => {}
            Err(error) => return refuse(site, visitor, &sentence(&error), &plan.to),
        }
    }
    done(site, visitor, plan.said, Outcome { back, ..Outcome::default() }, &plan.to)
}

/// Sends the browser on, with the toast's id in the URL.
pub(crate) fn done(
    site: &Site,
    visitor: &Visitor,
    said: String,
    outcome: Outcome,
    to: &str,
) -> Response<Body> {
    let id = site.acts.push(visitor.user, said, outcome, clock::now().mono);
    let sign = if to.contains('?') { '&' } else { '?' };
    http::see_other(&format!("{to}{sign}did={id}"))
}

/// The same for a refusal.
pub(crate) fn refuse(site: &Site, visitor: &Visitor, why: &str, to: &str) -> Response<Body> {
    done(site, visitor, why.to_owned(), Outcome { is_error: true, ..Outcome::default() }, to)
}

/// A failure as a sentence.
pub(crate) fn sentence(error: &Failure) -> String {
    let text = error.to_string();
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_uppercase().collect::<String>()).unwrap_or_default();
    format!("{first}{}. Nothing was changed.", chars.as_str().trim_end_matches('.'))
}

async fn undo(site: &Site, visitor: &Visitor, id: &str) -> Response<Body> {
    let Some(act) = site.acts.take(id, visitor.user) else {
        return refuse(site, visitor, "It is too late to undo that here; the Log still can.", "/log");
    };
    for command in act.back {
        if let Err(error) = site.control.execute(&visitor.login, command).await {
            return refuse(site, visitor, &sentence(&error), "/machines");
        }
    }
    done(site, visitor, format!("Undone: {}", act.text), Outcome::default(), "/machines")
}

fn machine(node: &Node, verb: &str, form: &Fields) -> Result<Plan, Refused> {
    let id = node.id;
    let own = |label: &str| format!("/machines/{label}");
    let one = |command, said: String, back: Vec<Command>, to: String| {
        Ok(Plan { commands: vec![command], said, back, to })
    };
    match verb {
        "rename" => {
            let label = form.get("name").to_ascii_lowercase();
            let before = node.label_fixed.then(|| node.label.clone());
            let back = vec![Command::RenameNode { node: id, label: before }];
            let command = Command::RenameNode { node: id, label: Some(label.clone()) };
            one(command, format!("Renamed to {label}."), back, own(&label))
        }
        "tags" => {
            let tags: Vec<String> = list(form.get("tags"));
            let owner = match &node.owner {
                Owner::User(user) => Command::GiveNode { node: id, user: *user },
                Owner::Tags(tags) => Command::TagNode { node: id, tags: tags.clone() },
            };
            // Keys of tagged machines do not expire, so the tag took that away too.
            let back = vec![owner, Command::SetExpiry { node: id, at: node.expiry }];
            one(Command::TagNode { node: id, tags }, "Tags saved.".into(), back, own(&node.label))
        }
        "approve" => {
            let back = vec![Command::ApproveNode { node: id, approved: false }];
            one(
                Command::ApproveNode { node: id, approved: true },
                format!("{} is in.", node.label),
                back,
                own(&node.label),
            )
        }
        "extend" | "keep" | "expire" => {
            let now = clock::now().wall;
            let (at, said) = match verb {
                "extend" => {
                    (Some(now + Duration::from_secs(180 * 86_400)), "Its key is good for 180 days more.")
                }
                "keep" => (None, "Its key does not expire."),
                _ => (Some(now), "Its key has expired; it must sign in again."),
            };
            let back = vec![Command::SetExpiry { node: id, at: node.expiry }];
            one(Command::SetExpiry { node: id, at }, said.into(), back, own(&node.label))
        }
        "routes" => routes(node, form),
        "remove" if form.get("confirm") == node.label => {
            one(Command::DeleteNode(id), format!("{} was removed.", node.label), vec![], "/machines".into())
        }
        "remove" => Err(format!("To remove {0}, type {0}.", node.label)),
        _ => Err("There is no such act.".into()),
    }
}

fn routes(node: &Node, form: &Fields) -> Result<Plan, Refused> {
    let text = form.get("route");
    let wanted: Vec<IpNet> = if text == "exit node" {
        vec!["0.0.0.0/0".parse().expect("a prefix"), "::/0".parse().expect("a prefix")]
    } else {
        vec![text.parse().map_err(|_| format!("\"{text}\" is no network."))?]
    };
    let is_allow = form.get("allow") == "1";
    let mut routes = node.approved_routes.clone();
    routes.retain(|route| !wanted.contains(route));
    if is_allow {
        routes.extend(wanted);
    }
    let said = if is_allow { format!("{text} is allowed.") } else { format!("{text} is no longer allowed.") };
    let back = vec![Command::SetRoutes { node: node.id, routes: node.approved_routes.clone() }];
    let to = if form.has("from") {
        form.get("from").to_owned()
    } else {
        format!("/machines/{}?tab=routes", node.label)
    };
    Ok(Plan { commands: vec![Command::SetRoutes { node: node.id, routes }], said, back, to })
}

async fn role(site: &Site, id: &str, form: &Fields) -> Result<Plan, Refused> {
    let (user, old, name) = find_person(site, id).await?;
    let role = match form.get("role") {
        "owner" => Role::Owner,
        "admin" => Role::Admin,
        "member" => Role::Member,
        other => return Err(format!("There is no role \"{other}\".")),
    };
    let change =
        |role| Command::UpdateUser { user, change: UserChange { role: Some(role), ..UserChange::default() } };
    let said = format!("{name} is {} now.", role.as_str());
    Ok(Plan { commands: vec![change(role)], said, back: vec![change(old)], to: "/people".into() })
}

async fn remove_person(site: &Site, id: &str, form: &Fields) -> Result<Plan, Refused> {
    let (user, _, name) = find_person(site, id).await?;
    if form.get("confirm").trim_end_matches('@') != name {
        return Err(format!("To remove {name}, type {name}@."));
    }
    Ok(Plan {
        commands: vec![Command::DeleteUser(user)],
        said: format!("{name} was removed."),
        back: vec![],
        to: "/people".into(),
    })
}

/// DNS and settings are one record: read, changed, put back whole on undo.
async fn settings(site: &Site, pieces: &[&str], form: &Fields) -> Result<Plan, Refused> {
    let old =
        site.control.read(|tailnet| tailnet.state().settings().clone()).await.map_err(|e| sentence(&e))?;
    let mut new = old.clone();
    let said = change_settings(&mut new, pieces, form)?;
    let to = if pieces[0] == "dns" { "/dns" } else { "/settings" };
    Ok(Plan {
        commands: vec![Command::SetSettings(Box::new(new))],
        said,
        back: vec![Command::SetSettings(Box::new(old))],
        to: to.into(),
    })
}

fn change_settings(new: &mut Settings, pieces: &[&str], form: &Fields) -> Result<String, Refused> {
    match *pieces {
        ["dns", "domain"] => {
            new.base_domain = form.get("domain").trim_matches('.').to_ascii_lowercase();
            Ok(format!("Names end in {} now.", new.base_domain))
        }
        ["dns", "magic"] => {
            new.dns.magic_dns = form.get("on") == "1";
            Ok(if new.dns.magic_dns { "Names are on.".into() } else { "Names are off.".into() })
        }
        ["dns", "records"] => {
            let value = form.get("value");
            value.parse::<std::net::IpAddr>().map_err(|_| format!("\"{value}\" is no address."))?;
            let name = form.get("name").trim_end_matches('.').to_ascii_lowercase();
            new.dns.extra.push(ExtraRecord { name: name.clone(), kind: String::new(), value: value.into() });
            Ok(format!("{name} is {value} now."))
        }
        ["dns", "records", "remove"] => {
            new.dns
                .extra
                .retain(|record| record.name != form.get("name") || record.value != form.get("value"));
            Ok(format!("{} was removed.", form.get("name")))
        }
        ["dns", "resolvers"] => {
            let server = Nameserver { address: form.get("resolver").into(), use_with_exit_node: false };
            match form.get("zone").trim_matches('.') {
                "" => {
                    new.dns.nameservers.push(server);
                    new.dns.override_local = true;
                }
                zone => new.dns.split.entry(zone.to_ascii_lowercase()).or_default().push(server),
            }
            Ok("The resolver is added.".into())
        }
        ["settings"] => match form.get("setting") {
            "network" => {
                new.name = form.get("value").into();
                Ok(format!("The network is called {} now.", new.name))
            }
            "approval" => {
                new.approval = form.get("value") == "on";
                Ok(if new.approval {
                    "New machines wait for approval.".into()
                } else {
                    "New machines get in at once.".into()
                })
            }
            "connections" => {
                new.record_connections = form.get("value") == "on";
                Ok(if new.record_connections {
                    "Connections are remembered for 30 days from now on.".into()
                } else {
                    "Connections are not remembered any more; those of before are forgotten.".into()
                })
            }
            "key-expiry" => {
                let days: u32 = form.get("value").parse().map_err(|_| "How many days?".to_owned())?;
                new.key_days = (days > 0).then_some(days);
                Ok(if days == 0 {
                    "Keys do not expire.".into()
                } else {
                    format!("New keys expire after {days} days.")
                })
            }
            other => Err(format!("There is no setting \"{other}\".")),
        },
        _ => Err("There is no such act.".into()),
    }
}

async fn add_invite(site: &Site, visitor: &Visitor) -> Response<Body> {
    match site.make_invite(&visitor.login, visitor.user).await {
        Ok(_) => http::see_other("/machines/add"),
        Err(error) => refuse(site, visitor, &sentence(&error), "/machines"),
    }
}

/// A new person, and an invite for their machines; the link is shown once.
async fn invite_person(site: &Site, visitor: &Visitor, form: &Fields) -> Response<Body> {
    let name = form.get("name").to_ascii_lowercase();
    let role = if form.get("role") == "admin" { Role::Admin } else { Role::Member };
    let new = NewUser {
        name: name.clone(),
        display_name: form.get("name").into(),
        role: Some(role),
        ..NewUser::default()
    };
    let user = match site.control.execute(&visitor.login, Command::CreateUser(new)).await {
        Ok(Done::User(user)) => user,
        Ok(_) => return refuse(site, visitor, "Nobody was added.", "/people"),
        Err(error) => return refuse(site, visitor, &sentence(&error), "/people"),
    };
    match site.make_invite(&visitor.login, user).await {
        Ok(invite) => {
            let outcome = Outcome { secret: Some(site.config.join.url(&invite.token)), ..Outcome::default() };
            done(
                site,
                visitor,
                format!("{name} is invited: send the link below; it is good for an hour."),
                outcome,
                "/people",
            )
        }
        Err(error) => refuse(site, visitor, &sentence(&error), "/people"),
    }
}

async fn make_key(site: &Site, visitor: &Visitor, form: &Fields, is_api: bool) -> Response<Body> {
    let command = if is_api {
        Command::CreateApiKey(NewApiKey { description: form.get("note").into(), ..NewApiKey::default() })
    } else {
        match auth_key(site, visitor, form).await {
            Ok(new) => Command::CreateAuthKey(new),
            Err(why) => return refuse(site, visitor, &why, "/keys"),
        }
    };
    match site.control.execute(&visitor.login, command).await {
        Ok(Done::Secret { text, .. }) => {
            let outcome = Outcome { secret: Some(text.expose().clone()), ..Outcome::default() };
            done(site, visitor, "The key is made.".into(), outcome, "/keys")
        }
        Ok(_) => refuse(site, visitor, "No key was made.", "/keys"),
        Err(error) => refuse(site, visitor, &sentence(&error), "/keys"),
    }
}

async fn auth_key(site: &Site, visitor: &Visitor, form: &Fields) -> Result<NewAuthKey, Refused> {
    let tags = list(form.get("tags"));
    let user = match form.get("user") {
        "" if tags.is_empty() => Some(visitor.user),
        "" => None,
        word => Some(find_person(site, word).await?.0),
    };
    let seconds: u64 = form.get("expiry").parse().unwrap_or(join::INVITE_S);
    Ok(NewAuthKey {
        user,
        tags,
        uses_max: (!form.has("reusable")).then_some(1),
        ephemeral: form.has("ephemeral"),
        preapproved: true,
        expires: Some(clock::now().wall + Duration::from_secs(seconds.min(366 * 86_400))),
        ..NewAuthKey::default()
    })
}

/// A copy of the database, made beside nothing and read back.
async fn backup(site: &Site) -> Response<Body> {
    let name = format!("samewire-backup-{:016x}.db", u64::from_be_bytes(clock::random()));
    let file = std::env::temp_dir().join(name);
    let made = site.control.backup(file.clone()).await;
    let bytes = match made {
        Ok(()) => tokio::fs::read(&file).await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = tokio::fs::remove_file(&file).await {
        tracing::debug!(%error, "no temporary copy to remove");
    }
    match bytes {
        Ok(bytes) => {
            let mut response = http::with_type(StatusCode::OK, "application/octet-stream", bytes);
            let value = ::http::HeaderValue::from_static("attachment; filename=\"samewire-backup.db\"");
            response.headers_mut().insert(::http::header::CONTENT_DISPOSITION, value);
            response
        }
        Err(error) => {
            http::text(StatusCode::SERVICE_UNAVAILABLE, format!("the backup did not work: {error}\n"))
        }
    }
}

async fn is_login(site: &Site, id: &str) -> bool {
    let id = id.to_owned();
    site.control.read(move |tailnet| tailnet.login(&id).is_some()).await.unwrap_or(false)
}

pub(crate) async fn find_machine(site: &Site, name: &str) -> Result<Node, Refused> {
    let word = name.to_owned();
    let found = site.control.read(move |tailnet| {
        let by_id = word.parse().ok().and_then(|id| tailnet.state().node(NodeId(id)));
        tailnet.state().node_by_label(&word).or(by_id).cloned()
    });
    found.await.map_err(|e| sentence(&e))?.ok_or_else(|| format!("No machine is called \"{name}\"."))
}

async fn find_person(site: &Site, word: &str) -> Result<(UserId, Role, String), Refused> {
    let wanted = word.to_owned();
    let found = site.control.read(move |tailnet| {
        let by_id = wanted.parse().ok().and_then(|id| tailnet.state().user(UserId(id)));
        by_id
            .or_else(|| tailnet.state().find_user(&wanted))
            .map(|user| (user.id, user.role, user.name.clone()))
    });
    found.await.map_err(|e| sentence(&e))?.ok_or_else(|| format!("Nobody is called \"{word}\"."))
}

/// Words between commas or spaces.
fn list(text: &str) -> Vec<String> {
    text.split([',', ' ']).map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// The page a form stood on.
fn back_to(pieces: &[&str]) -> String {
    match *pieces {
        ["machines", name, ..] => format!("/machines/{name}"),
        [first, ..] => format!("/{first}"),
        [] => "/machines".into(),
    }
}
