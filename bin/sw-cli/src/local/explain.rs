//! `explain` and `check` (ux.md §2.5).

use clap::Args;
use serde_json::Value;
use sw_types::local::{Problem, Status};

use super::client::escape;
use super::{Context, Failure, Outcome, Style, find_machine, say, say_json};

#[derive(Args, Clone, Debug, Default)]
pub struct ExplainArgs {
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
    /// Machine, or machine:port
    target: String,
}

#[derive(Args, Clone, Debug, Default)]
pub struct CheckArgs {
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn explain(context: &Context, args: &ExplainArgs) -> Outcome {
    let status = context.status()?;
    let (words, port) = split_port(&args.target);
    let machine = find_machine(&status, words)?;
    let address =
        machine.addresses.first().ok_or_else(|| Problem::other("the machine has no address.", "", ""))?;
    let facts: Value =
        context.client.get(&format!("/localapi/samewire/v1/explain?ip={}", escape(&address.to_string())))?;
    let works = !facts["path"].is_null()
        && facts["online"] != Value::Bool(false)
        && facts["expired"] != Value::Bool(true);
    if args.json {
        say_json(&facts)?;
        return if works { Ok(()) } else { Err(Failure::Exit(1)) };
    }
    show(context, &facts, port, works)?;
    if works { Ok(()) } else { Err(Failure::Exit(1)) }
}

fn split_port(target: &str) -> (&str, Option<u16>) {
    match target.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') => match port.parse() {
            Ok(port) => (name, Some(port)),
            Err(_) => (target, None),
        },
        Some(_) | None => (target, None),
    }
}

fn show(context: &Context, facts: &Value, port: Option<u16>, works: bool) -> Outcome {
    let terminal = &context.terminal;
    let text = |name: &str| facts[name].as_str().unwrap_or_default().to_owned();
    let mark = |is_good: bool| {
        if is_good {
            terminal.paint(Style::Good, terminal.tick())
        } else {
            terminal.paint(Style::Bad, terminal.cross())
        }
    };
    let how = match (works, facts["direct"].as_bool()) {
        (false, _) => "it does not work.",
        (true, Some(true)) => "direct.",
        (true, _) => "it works, relayed.",
    };
    let to_port = port.map(|port| format!(", port {port}")).unwrap_or_default();
    say(format!("  {} to {}{to_port}: {how}\n", text("self"), text("name")))?;
    say(format!("  {} Name       {} is {}", mark(true), text("name"), text("address")))?;
    let online = match (facts["expired"].as_bool(), facts["online"].as_bool()) {
        (Some(true), _) => "its key has expired: it must sign in again".to_owned(),
        (_, Some(true)) => "yes".to_owned(),
        (_, Some(false)) => format!("no, last seen {}", text("lastSeen")),
        (_, None) => "not told by the server".to_owned(),
    };
    say(format!(
        "  {} Online     {online}",
        mark(facts["online"] != Value::Bool(false) && facts["expired"] != Value::Bool(true))
    ))?;
    let path = match (facts["path"].as_str(), facts["direct"].as_bool()) {
        (None, _) => "none yet: nothing was sent to it".to_owned(),
        (Some(path), Some(true)) => format!("direct, {path}"),
        (Some(_), _) => format!("relayed by {}{}", text("relay"), reason(&text("reason"))),
    };
    say(format!("  {} Path       {path}", mark(!facts["path"].is_null())))?;
    say(format!("  {} Packets    up to {} bytes\n", mark(true), facts["mtu"]))?;
    let candidates = facts["candidates"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !candidates.is_empty() {
        say(format!("  {:<50} RESULT", "Paths tried"))?;
        for candidate in candidates {
            let via = candidate["via"].as_str().unwrap_or_default();
            let verdict = candidate["verdict"].as_str().unwrap_or_default();
            let delay = candidate["rttMs"].as_f64().map(|ms| format!(", {ms:.1} ms")).unwrap_or_default();
            say(format!("    {via:<48} {verdict}{delay}"))?;
        }
    }
    if text("reason").is_empty() {
        return Ok(());
    }
    say(
        "\n  One change would make it faster: port mapping (UPnP or PCP) in either router,\n  or IPv6 on both sides.",
    )
}

fn reason(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(" ({reason})") }
}

pub(super) fn check(context: &Context, args: &CheckArgs) -> Outcome {
    let status: Status = context.client.get("/localapi/v0/status?peers=false")?;
    let is_well = status.backend_state == "Running" && status.health.is_empty();
    if args.json {
        let word = if is_well { "pass" } else { "warn" };
        say_json(
            &serde_json::json!({ "status": word, "state": status.backend_state, "problems": status.health }),
        )?;
    } else {
        say(format!("  State: {}", status.backend_state))?;
        for line in &status.health {
            say(format!("  ! {line}"))?;
        }
        if is_well {
            say(format!("  {} nothing is wrong", context.terminal.tick()))?;
        }
    }
    if is_well { Ok(()) } else { Err(Failure::Exit(1)) }
}
