//! SSH sessions that wait for their person (check mode).

use http::Method;
use serde::Deserialize;
use sw_tailnet::{Check, CheckAnswer, Command, Tailnet};

use super::{Answer, Ask, no_such_path, ok};

#[derive(Deserialize)]
struct Input {
    allow: bool,
}

pub(crate) async fn handle(ask: &Ask<'_>, path: &[&str]) -> Answer {
    ask.may("devices:core")?;
    match (ask.method().clone(), path) {
        (Method::GET, []) => {
            let open = ask.shared.control.read(|tailnet| {
                let open = tailnet.checks().filter(|check| check.allowed.is_none());
                open.map(|check| shown(tailnet, check)).collect::<Vec<_>>()
            });
            ok(&open.await?)
        }
        (Method::POST, [id]) => {
            let Input { allow } = ask.input()?;
            let answer = CheckAnswer { check: (*id).to_owned(), by: ask.caller.user, allowed: allow };
            ask.shared.control.execute(&ask.caller.name, Command::AnswerCheck(answer)).await?;
            ok(&serde_json::json!({ "id": id, "allowed": allow }))
        }
        _ => Err(no_such_path()),
    }
}

fn shown(tailnet: &Tailnet, check: &Check) -> serde_json::Value {
    let label = |node| tailnet.state().node(node).map(|node| node.label.clone());
    let person = tailnet.state().user(check.person).map(|user| user.name.clone());
    serde_json::json!({
        "id": check.id, "user": person, "from": label(check.session.src), "to": label(check.session.dst),
        "login": check.session.login, "created": check.created,
    })
}
