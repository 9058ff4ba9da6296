//! People.

use http::Method;
use serde::{Deserialize, Serialize};
use sw_tailnet::{Command, Done, NewUser, Role, Tailnet, User, UserChange};
use sw_types::{UnixTime, UserId};

use super::{Answer, Ask, Problem, no_such_path, ok};

/// A person as scripts see it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct UserInfo {
    id: String,
    name: String,
    email: Option<String>,
    login_name: String,
    display_name: String,
    role: Role,
    suspended: bool,
    created: UnixTime,
    machines: usize,
}

impl UserInfo {
    fn of(tailnet: &Tailnet, user: &User) -> Self {
        Self {
            id: user.id.to_string(),
            name: user.name.clone(),
            email: user.email.clone(),
            login_name: user.login_name().to_owned(),
            display_name: user.display_name.clone(),
            role: user.role,
            suspended: user.suspended,
            created: user.created,
            machines: tailnet.state().nodes().filter(|node| node.user() == Some(user.id)).count(),
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Input {
    name: Option<String>,
    email: Option<String>,
    display_name: Option<String>,
    role: Option<Role>,
    suspended: Option<bool>,
}

pub(crate) async fn handle(ask: &Ask<'_>, path: &[&str]) -> Answer {
    ask.may("users")?;
    match (ask.method().clone(), path) {
        (Method::GET, []) => {
            let list = ask.shared.control.read(|tailnet| {
                let users = tailnet.state().users();
                users.map(|user| UserInfo::of(tailnet, user)).collect::<Vec<_>>()
            });
            ok(&list.await?)
        }
        (Method::POST, []) => {
            let input: Input = ask.input()?;
            let new = NewUser {
                name: input.name.unwrap_or_default(),
                email: input.email,
                display_name: input.display_name.unwrap_or_default(),
                role: input.role,
                ..NewUser::default()
            };
            run(ask, Command::CreateUser(new)).await
        }
        (Method::GET, [word]) => one(ask, find(ask, word).await?).await,
        (Method::POST, [word]) => {
            let user = find(ask, word).await?;
            let Input { name, email, display_name, role, suspended } = ask.input()?;
            let change =
                UserChange { name, email, display_name, role, suspended, groups: None, passkeys: None };
            run(ask, Command::UpdateUser { user, change }).await
        }
        (Method::DELETE, [word]) => {
            let user = find(ask, word).await?;
            run(ask, Command::DeleteUser(user)).await
        }
        _ => Err(no_such_path()),
    }
}

async fn run(ask: &Ask<'_>, command: Command) -> Answer {
    match ask.shared.control.execute(&ask.caller.name, command).await? {
        Done::User(id) => one(ask, id).await,
        Done::Changed | Done::Node(_) | Done::Secret { .. } => ok(&serde_json::json!({})),
    }
}

async fn one(ask: &Ask<'_>, id: UserId) -> Answer {
    let look = move |tailnet: &Tailnet| tailnet.state().user(id).map(|user| UserInfo::of(tailnet, user));
    let info = ask.shared.control.read(look).await?;
    ok(&info.ok_or_else(|| Problem::not_found("person", &id.to_string()))?)
}

pub(crate) async fn find(ask: &Ask<'_>, word: &str) -> Result<UserId, Problem> {
    let asked = word.to_owned();
    let found =
        ask.shared.control.read(move |tailnet| tailnet.state().find_user(&asked).map(|user| user.id)).await?;
    found.ok_or_else(|| Problem::not_found("person", word))
}
