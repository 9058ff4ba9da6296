//! `explain` and `check` (ux.md §2.5).

use std::net::IpAddr;
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use sw_types::local::Status;
use sw_types::problem::quoted;

use super::client::escape;
use super::ip::no_address;
use super::status::{notes, now};
use super::terminal::{age, delay};
use super::{Context, Failure, Outcome, Style, Terminal, find_machine, misuse, not_connected, say, say_json};

#[derive(Args, Clone, Debug, Default)]
pub struct ExplainArgs {
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
    /// Machine or address, with or without :port
    target: String,
}

#[derive(Args, Clone, Debug, Default)]
pub struct CheckArgs {
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
    /// Put in by the program where this machine serves its network.
    #[arg(skip)]
    pub server: Option<ServerCheck>,
}

/// How others reach the server on this machine.
#[derive(Clone, Debug)]
pub struct ServerCheck {
    /// Finished lines.
    pub text: String,
    /// For `--json`.
    pub json: Value,
}

pub(super) fn explain(context: &Context, args: &ExplainArgs) -> Outcome {
    let (words, port) = split_port(&args.target);
    let status = context.status()?;
    if let Some(problem) = not_connected(&status) {
        return Err(problem.into());
    }
    let address = match words.parse::<IpAddr>() {
        Ok(address) => address,
        Err(_) if ["autogroup:", "tag:", "group:"].iter().any(|kind| words.starts_with(kind)) => {
            let what = format!(
                "{} is a word of the policy, and a path leads to one machine or address.",
                quoted(words)
            );
            let fix = format!("on the first machine: sudo samewire policy explain MACHINE {}", args.target);
            return Err(misuse(what, fix));
        }
        Err(_) => {
            let machine = find_machine(&status, words)?;
            let v4 = machine.addresses.iter().find(|address| address.is_ipv4());
            *v4.or_else(|| machine.addresses.first()).ok_or_else(|| no_address(&status))?
        }
    };
    let port = port.map(|port| format!("&port={port}")).unwrap_or_default();
    let path = format!("/localapi/samewire/v1/explain?ip={}{port}", escape(&address.to_string()));
    let mut facts: Value = context.client.get(&path)?;
    let view = View { terminal: &context.terminal, facts: &facts };
    let works = view.works();
    if args.json {
        facts["works"] = works.into();
        say_json(&facts)?;
    } else {
        say(view.text().trim_end())?;
    }
    if works { Ok(()) } else { Err(Failure::Exit(1)) }
}

/// `NAME`, `NAME:PORT`, `IPV6`, `[IPV6]:PORT`.
fn split_port(target: &str) -> (&str, Option<u16>) {
    let bare = |text: &'_ str| text.parse::<IpAddr>().is_ok();
    match target.rsplit_once(':') {
        Some((name, port)) if !bare(target) => match port.parse() {
            Ok(port) => (name.trim_start_matches('[').trim_end_matches(']'), Some(port)),
            Err(_) => (target, None),
        },
        Some(_) | None => (target, None),
    }
}

/// The facts of one address, in words.
struct View<'v> {
    terminal: &'v Terminal,
    facts: &'v Value,
}

impl View<'_> {
    fn kind(&self) -> &str {
        self.facts["route"]["kind"].as_str().unwrap_or_default()
    }

    fn text_of(&self, name: &str) -> &str {
        self.facts[name].as_str().unwrap_or_default()
    }

    fn is_denied(&self) -> bool {
        self.facts["policy"]["verdict"] == "denied"
    }

    fn is_away(&self) -> bool {
        self.facts["online"] == false || self.facts["expired"] == true
    }

    fn answers(&self) -> bool {
        self.facts["answers"] == true
    }

    fn works(&self) -> bool {
        let has_way = matches!(self.kind(), "machine" | "subnet" | "exit") && self.answers();
        let port = &self.facts["port"]["how"];
        (has_way || self.kind() == "self")
            && !self.is_denied()
            && !self.is_away()
            && (port.is_null() || port == "open")
    }

    fn text(&self) -> String {
        let facts = self.facts;
        let (own, address) = (self.text_of("self"), self.text_of("address"));
        let is_machine = matches!(self.kind(), "self" | "machine");
        let whom = if is_machine { self.text_of("name") } else { address };
        let to_port =
            facts["port"]["number"].as_u64().map(|port| format!(", port {port}")).unwrap_or_default();
        let how = match (self.works(), self.kind(), facts["direct"].as_bool()) {
            (true, "self", _) => "it is this machine.",
            (true, _, Some(true)) => "it works, directly.",
            (true, ..) => "it works, relayed.",
            (false, ..) => "it does not work.",
        };
        let mut text = format!("  {own} to {whom}{to_port}: {how}\n\n");
        let mut line = |is_good: Option<bool>, label: &str, words: String| {
            let mark = match is_good {
                Some(true) => self.terminal.paint(Style::Good, self.terminal.tick()),
                Some(false) => self.terminal.paint(Style::Bad, self.terminal.cross()),
                None => "-".to_owned(),
            };
            text.push_str(&format!("  {mark} {label:<10} {words}\n"));
        };
        if self.kind() == "self" {
            line(Some(true), "Name", format!("{whom} is {address}"));
            return text;
        }
        let (is_allowed, allowed) = self.allowed();
        line(is_allowed, "Allowed", allowed);
        if is_machine {
            line(Some(true), "Name", format!("{whom} is {address}"));
        } else {
            let (is_there, route) = self.route();
            line(Some(is_there), "Route", route);
        }
        if self.kind() != "none" {
            line(facts["online"].as_bool().map(|_| !self.is_away()), "Online", self.online());
            line(Some(self.answers() && !facts["path"].is_null()), "Path", self.path());
            line(Some(true), "Packets", format!("up to {} bytes", facts["mtu"]));
        }
        if let Some((is_open, port)) = self.port() {
            line(Some(is_open), "Port", port);
        }
        text.push_str(&self.candidates());
        for change in self.changes() {
            text.push_str(&format!("\n  {change}\n"));
        }
        text
    }

    fn allowed(&self) -> (Option<bool>, String) {
        let part = &self.facts["policy"]["parts"][0];
        let rule = &part["rule"];
        let line = rule["line"].as_u64().filter(|line| *line > 0);
        let place = line.map_or_else(|| "the default policy".to_owned(), |line| format!("line {line}"));
        let words = rule["text"].as_str().map(|text| format!(": {text}")).unwrap_or_default();
        let of_rule = |lead: &str| format!("{lead} {place}{words}");
        match self.facts["policy"]["verdict"].as_str() {
            Some("denied") => {
                let why = part["why"].as_str().unwrap_or("no rule of the policy lets it through");
                let near = line.map(|_| format!(" ({place}{words})")).unwrap_or_default();
                (Some(false), format!("no: {why}{near}"))
            }
            Some(_) if rule.is_null() => {
                (Some(true), "yes: there is no policy, everybody reaches everybody".to_owned())
            }
            Some("partly") => (Some(true), of_rule("in part, by")),
            Some(_) => (Some(true), of_rule("yes, by")),
            None if matches!(self.kind(), "none" | "notAccepted") => {
                (None, "not asked: there is no way".to_owned())
            }
            None => (None, "not told by this network's server".to_owned()),
        }
    }

    fn route(&self) -> (bool, String) {
        let prefix = self.facts["route"]["prefix"].as_str().unwrap_or_default();
        let name = self.text_of("name");
        match self.kind() {
            "subnet" => (true, format!("{name} carries {prefix}")),
            "exit" => (true, format!("{name} is the exit node in use")),
            "notAccepted" => {
                (false, format!("{name} offers {prefix}, but this machine does not use what others offer"))
            }
            _ => (false, "no machine of the network has this address or a route to it".to_owned()),
        }
    }

    fn online(&self) -> String {
        match (self.facts["expired"].as_bool(), self.facts["online"].as_bool()) {
            (Some(true), _) => {
                format!("the key of {} has expired: it must sign in again", self.text_of("name"))
            }
            (_, Some(true)) => "yes".to_owned(),
            (_, Some(false)) => match serde_json::from_value(self.facts["lastSeen"].clone()) {
                Ok(seen) => format!("no, last seen {} ago", age(now().saturating_since(seen))),
                Err(_) => "no".to_owned(),
            },
            (_, None) => "not told by the server".to_owned(),
        }
    }

    fn path(&self) -> String {
        let delay = self.facts["candidates"].as_array().into_iter().flatten();
        let used =
            delay.filter(|candidate| candidate["verdict"] == "used").find_map(|used| used["rttMs"].as_f64());
        let used = used.or_else(|| self.facts["relayRttMs"].as_f64());
        let delay = used.map(|ms| format!(", {}", delay_text(ms))).unwrap_or_default();
        match (self.facts["path"].as_str(), self.facts["direct"].as_bool()) {
            _ if !self.answers() => "no answer within 5 s, neither directly nor by relay".to_owned(),
            (None, _) => "none".to_owned(),
            (Some(path), Some(true)) => format!("direct, {path}{delay}"),
            (Some(_), _) => {
                let reason = Some(self.text_of("reason")).filter(|reason| !reason.is_empty());
                let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
                format!("relayed by {}{reason}{delay}", self.text_of("relay"))
            }
        }
    }

    fn port(&self) -> Option<(bool, String)> {
        let number = self.facts["port"]["number"].as_u64()?;
        let ms = self.facts["port"]["ms"].as_f64().unwrap_or_default();
        Some(match self.facts["port"]["how"].as_str() {
            Some("open") => (true, format!("TCP {number} answers, {}", delay_text(ms))),
            Some("refused") => (false, format!("TCP {number} refuses: nothing listens there")),
            _ => (false, format!("TCP {number} does not answer")),
        })
    }

    fn candidates(&self) -> String {
        let candidates = self.facts["candidates"].as_array().map(Vec::as_slice).unwrap_or_default();
        if candidates.is_empty() {
            return String::new();
        }
        let mut text = format!("\n  {:<50} RESULT\n", "Paths tried");
        for candidate in candidates {
            let via = candidate["via"].as_str().unwrap_or_default();
            let verdict = candidate["verdict"].as_str().unwrap_or_default();
            let delay = candidate["rttMs"].as_f64().map(|ms| format!(", {}", delay_text(ms)));
            text.push_str(&format!("    {via:<48} {verdict}{}\n", delay.unwrap_or_default()));
        }
        text
    }

    /// One change that makes it work, one that makes it faster.
    fn changes(&self) -> Vec<String> {
        let name = self.text_of("name");
        let add = self.facts["policy"]["parts"][0]["add"].as_str();
        let lead = "One change would make it work";
        let port = self.facts["port"]["number"].as_u64().unwrap_or_default();
        let to_work = if self.kind() == "notAccepted" {
            format!("{lead}: sudo samewire set --accept-routes")
        } else if self.kind() == "none" {
            format!("{lead}: on a machine that reaches it, sudo samewire set --advertise-routes=PREFIX")
        } else if self.is_denied() {
            match add {
                Some(grant) => format!("{lead}: an admin adds to \"grants\" of the policy\n    {grant}"),
                None => format!("{lead}: an admin lets it through in the policy: samewire admin"),
            }
        } else if self.facts["expired"] == true {
            format!("{lead}: on {name}, samewire login")
        } else if self.facts["online"] == false {
            format!("{lead}: switch {name} on")
        } else if !self.answers() {
            format!("{lead}: see what {name} itself says: samewire netcheck, there and here")
        } else if self.facts["port"]["how"] == "refused" {
            format!("{lead}: start on {name} what is to answer at port {port}")
        } else if self.facts["port"]["how"] == "silent" {
            format!(
                "{lead}: probably the firewall of {name} itself: let TCP {port} in from its samewire interface"
            )
        } else if self.text_of("reason").is_empty() || self.facts["direct"] == true {
            return Vec::new();
        } else {
            let faster = "One change would make it faster: port mapping (UPnP or PCP) in either router,";
            return vec![format!("{faster}\n  or IPv6 on both sides.")];
        };
        vec![to_work]
    }
}

fn delay_text(ms: f64) -> String {
    delay(Duration::from_secs_f64((ms / 1e3).max(0.0)))
}

pub(super) fn check(context: &Context, args: &CheckArgs) -> Outcome {
    let status: Status = context.client.get("/localapi/v0/status?peers=false")?;
    let is_well = status.backend_state == "Running" && status.health.is_empty();
    if args.json {
        let word = if is_well { "pass" } else { "warn" };
        let server = args.server.as_ref().map(|server| &server.json);
        let mut answer = serde_json::json!({
            "status": word, "state": status.backend_state, "problems": status.health, "notices": status.notices,
        });
        if let (Some(server), Some(answer)) = (server, answer.as_object_mut()) {
            answer.insert("server".to_owned(), server.clone());
        }
        say_json(&answer)?;
    } else {
        say(format!("  State: {}", status.backend_state))?;
        if let Some(server) = &args.server {
            say(server.text.trim_end())?;
        }
        for line in &status.health {
            say(format!("  ! {line}"))?;
        }
        for note in notes(&status) {
            say(format!("  - {}", note.sentence()))?;
        }
        if is_well {
            say(format!("  {} nothing is wrong", context.terminal.tick()))?;
        }
    }
    if is_well { Ok(()) } else { Err(Failure::Exit(1)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::ColorChoice;
    use serde_json::json;

    fn text(facts: &Value) -> String {
        let terminal = Terminal { has_unicode: false, ..Terminal::detect(ColorChoice::Never, Some(true)) };
        View { terminal: &terminal, facts }.text()
    }

    #[test]
    fn targets_of_every_form() {
        assert_eq!(split_port("nas"), ("nas", None));
        assert_eq!(split_port("nas:22"), ("nas", Some(22)));
        assert_eq!(split_port("fd7a::1"), ("fd7a::1", None));
        assert_eq!(split_port("[fd7a::1]:22"), ("fd7a::1", Some(22)));
        assert_eq!(split_port("100.64.0.1:22"), ("100.64.0.1", Some(22)));
        assert_eq!(split_port("nas:x"), ("nas:x", None));
    }

    #[test]
    fn a_denied_port_names_the_rule_and_the_change() {
        let facts = json!({
            "self": "laptop", "name": "gate", "address": "100.64.0.2", "route": { "kind": "machine" },
            "online": true, "expired": false, "answers": true, "path": "192.0.2.1:41641", "direct": true, "mtu": 1280,
            "port": { "number": 22, "how": "silent", "ms": 3000.0 },
            "policy": { "verdict": "denied", "parts": [{
                "why": "no rule matches; the nearest allows port 631", "rule": { "line": 9, "text": "ada may print" },
                "add": "{\"src\": [\"ada@\"], \"dst\": [\"tag:site\"], \"ip\": [\"22\"]}",
            }] },
        });
        let text = text(&facts);
        assert!(text.starts_with("  laptop to gate, port 22: it does not work.\n"), "{text}");
        assert!(
            text.contains(
                "x Allowed    no: no rule matches; the nearest allows port 631 (line 9: ada may print)\n"
            ),
            "{text}"
        );
        assert!(text.contains("an admin adds to \"grants\" of the policy\n    {\"src\""), "{text}");
    }

    #[test]
    fn a_route_that_is_not_used_says_how_to_use_it() {
        let facts = json!({
            "self": "laptop", "name": "gate", "address": "192.168.8.9", "online": true, "mtu": 1280,
            "route": { "kind": "notAccepted", "prefix": "192.168.8.0/24" }, "policy": null,
        });
        let text = text(&facts);
        assert!(text.contains("x Route      gate offers 192.168.8.0/24, but"), "{text}");
        assert!(text.contains("sudo samewire set --accept-routes"), "{text}");
    }
}
