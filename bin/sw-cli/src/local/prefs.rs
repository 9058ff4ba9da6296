//! `set` and `get` (localapi-cli.md §B4).

use clap::Args;
use serde_json::{Value, json};
use sw_types::local::{Prefs, Problem};
use sw_types::problem::quoted;

use super::flags::{PrefFlags, as_flags, as_typed, parse_bool};
use super::up::exit_node_id;
use super::{Context, Outcome, misuse, say, say_json};

#[derive(Args, Clone, Debug, Default)]
pub struct SetArgs {
    #[command(flatten)]
    prefs: PrefFlags,
    /// Name for this account in `switch`
    #[arg(long, value_name = "NAME")]
    nickname: Option<String>,
    /// Kept for scripts' sake; nothing follows from it in this version
    #[arg(long, hide = true, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool)]
    update_check: Option<bool>,
    /// Kept for scripts' sake; nothing follows from it in this version
    #[arg(long, hide = true, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool)]
    auto_update: Option<bool>,
    /// Kept for scripts' sake; nothing follows from it in this version
    #[arg(long, hide = true, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool)]
    webclient: Option<bool>,
    /// Relay over UDP for peers that a policy's "tailscale.com/cap/relay" lets; any number turns it on (the daemon's own
    /// port serves), an empty one off
    #[arg(long, hide_short_help = true, value_name = "PORT")]
    relay_server_port: Option<String>,
    /// Further addresses at which those peers find it, such as a forwarded port: ADDRESS:PORT,…
    #[arg(long, hide_short_help = true, value_name = "ADDRESSES")]
    relay_server_static_endpoints: Option<String>,
    /// Go on in spite of a risk (lose-ssh, all)
    #[arg(long, value_name = "RISK")]
    accept_risk: Option<String>,
}

#[derive(Args, Clone, Debug, Default)]
pub struct GetArgs {
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
    /// Print flags for `set`
    #[arg(long)]
    set_flags: bool,
    /// One setting, or all
    setting: Option<String>,
}

pub(super) fn set(context: &Context, args: &SetArgs) -> Outcome {
    let current: Prefs = context.client.get("/localapi/v0/prefs")?;
    let status = context.status()?;
    let resolve = |words: &str| exit_node_id(&status, words);
    let refuse = |what: String| misuse(format!("{what}."), "see: samewire set --help");
    let mut masked = args.prefs.to_masked(&current, resolve).map_err(refuse)?;
    if let Some(name) = &args.nickname {
        masked.set("ProfileName", name.as_str());
    }
    if let Some(run) = args.webclient {
        masked.set("RunWebClient", run);
    }
    if args.update_check.is_some() || args.auto_update.is_some() {
        let check = args.update_check.unwrap_or(current.auto_update.check);
        masked.set(
            "AutoUpdate",
            json!({ "Check": check, "Apply": args.auto_update.or(current.auto_update.apply) }),
        );
    }
    if let Some(port) = &args.relay_server_port {
        let value = if port.is_empty() {
            Value::Null
        } else {
            port.parse::<u16>().map(Value::from).map_err(|_| refuse(format!("{port:?} is no port")))?
        };
        masked.set("RelayServerPort", value);
    }
    if let Some(text) = &args.relay_server_static_endpoints {
        let endpoints: Vec<std::net::SocketAddr> = text
            .split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty())
            .map(|word| word.parse().map_err(|_| refuse(format!("{} is no address with port", quoted(word)))))
            .collect::<Result<_, _>>()?;
        masked.set("RelayServerStaticEndpoints", json!(endpoints));
    }
    let _accepted = &args.accept_risk;
    if masked.is_empty() {
        return Err(misuse("`set` without a setting.", "see: samewire set --help"));
    }
    let _prefs: Prefs = context.client.exchange("PATCH", "/localapi/v0/prefs", &masked)?;
    Ok(())
}

pub(super) fn get(context: &Context, args: &GetArgs) -> Outcome {
    let prefs: Prefs = context.client.get("/localapi/v0/prefs")?;
    let flags = as_flags(&prefs);
    if args.set_flags {
        let typed: Vec<String> = flags
            .iter()
            .filter(|(flag, _)| !matches!(*flag, "login-server" | "advertise-tags"))
            .map(|(flag, value)| as_typed(flag, value))
            .collect();
        return say(typed.join(" "));
    }
    match args.setting.as_deref() {
        None | Some("all") if args.json => {
            let map: serde_json::Map<String, Value> =
                flags.iter().map(|(flag, value)| ((*flag).to_owned(), json!(value))).collect();
            say_json(&map)
        }
        None | Some("all") => {
            say(format!("{:<32}VALUE", "NAME"))?;
            flags.iter().try_for_each(|(flag, value)| say(format!("{flag:<32}{value}").trim_end()))
        }
        Some(name) => match flags.iter().find(|(flag, _)| *flag == name) {
            Some((_, value)) if args.json => say_json(&json!({ name: value })),
            Some((_, value)) => say(value),
            None => {
                let what = format!("there is no setting {}.", quoted(name));
                Err(Problem::misuse(what, "samewire get lists all").into())
            }
        },
    }
}
