//! `/api/samewire/v1`: what the hosted service's API has no place for, and the shapes of our CLI.

use http::{Method, StatusCode};
use serde::Deserialize;
use sw_store::Seq;

use super::{
    Answer, Ask, Problem, checks, health, invites, keys, no_such_path, nodes, ok, policy, settings, users,
};
use crate::metrics::{Scrape, text as metrics_text};
use crate::public::text;

pub(crate) async fn handle(ask: Ask<'_>) -> Answer {
    let path = ask.path.clone();
    match (ask.method().clone(), path.as_slice()) {
        (_, ["nodes", rest @ ..]) => nodes::handle(&ask, rest).await,
        (Method::GET, ["logins"]) => nodes::logins(&ask).await,
        (_, ["ssh-checks", rest @ ..]) => checks::handle(&ask, rest).await,
        (Method::GET, ["routes"]) => nodes::routes(&ask).await,
        (_, ["users", rest @ ..]) => users::handle(&ask, rest).await,
        (_, ["keys", rest @ ..]) => keys::auth_keys(&ask, rest).await,
        (_, ["invites", rest @ ..]) => invites::handle(&ask, rest).await,
        (Method::POST, ["admin-link"]) => invites::admin_link(&ask).await,
        (_, ["apikeys", rest @ ..]) => keys::api_keys(&ask, rest).await,
        (_, ["policy"]) => policy::handle(&ask).await,
        (_, ["policy", rest @ ..]) => policy::more(&ask, rest).await,
        (_, ["settings"]) => settings::settings(&ask).await,
        (_, ["dns"]) => settings::dns(&ask).await,
        (Method::GET, ["config"]) => settings::config(&ask).await,
        (Method::GET, ["audit"]) => audit(&ask).await,
        (Method::POST, ["backup"]) => backup(&ask).await,
        (Method::GET, ["health"]) => health::handle(&ask).await,
        (Method::GET, ["metrics"]) => metrics(&ask).await,
        _ => Err(no_such_path()),
    }
}

async fn audit(ask: &Ask<'_>) -> Answer {
    ask.may("logs:configuration")?;
    let before = ask.query("before").and_then(|text| text.parse().ok()).map(Seq);
    let limit = ask.query("limit").and_then(|text| text.parse().ok()).unwrap_or(100).min(1_000);
    let entries = ask.shared.control.audit(before, limit).await?;
    let lines: Vec<serde_json::Value> = entries
        .iter()
        .map(|(seq, entry)| serde_json::json!({ "seq": seq, "at": entry.at, "actor": entry.actor, "changes": entry.audit }))
        .collect();
    ok(&lines)
}

#[derive(Deserialize)]
struct BackupInput {
    path: std::path::PathBuf,
}

async fn backup(ask: &Ask<'_>) -> Answer {
    ask.may("all")?;
    let input: BackupInput = ask.input()?;
    if !input.path.is_absolute() {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "the path of a backup must be absolute"));
    }
    ask.shared.control.backup(input.path.clone()).await?;
    let keys = sw_store::KeyFile::beside(&input.path);
    let saved =
        sw_store::KeyFile::open(&ask.shared.state.join("control.keys")).and_then(|file| file.save_to(&keys));
    saved.map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    ok(&serde_json::json!({ "path": input.path, "keys": keys }))
}

async fn metrics(ask: &Ask<'_>) -> Answer {
    ask.may("logs:configuration")?;
    let counted = ask.shared.control.read(|tailnet| {
        let online = tailnet.state().nodes().filter(|node| tailnet.is_online(node.id)).count();
        (tailnet.stats(), tailnet.state().node_count(), online)
    });
    let (stats, nodes, online) = counted.await?;
    let front = ask.shared.front.get().map(|front| &**front);
    let scrape = Scrape { metrics: &ask.shared.metrics, front, stats, nodes, online };
    Ok(text(StatusCode::OK, metrics_text(&scrape)))
}
