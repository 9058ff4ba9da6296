//! `up` and `login` (localapi-cli.md §B3).

use std::io;
use std::time::{Duration, Instant};

use base64::Engine as _;
use clap::Args;
use serde_json::json;
use sw_types::local::{BackendState, MaskedPrefs, Notify, Prefs, Problem, StartOptions, Status};
use sw_types::problem::{Slug, quoted};

use super::flags::{PrefFlags, as_flags, as_typed, parse_bool};
use super::terminal::parse_duration;
use super::{Context, Failure, Outcome, Response, find_machine, misuse, say, say_json, warn};

/// The server of the hosted service.
const HOSTED_SERVER: &str = "https://controlplane.tailscale.com";

/// Flags that `up` and `login` share.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct SessionFlags {
    /// Server of the network
    #[arg(long, value_name = "URL")]
    login_server: Option<String>,
    /// Key that lets this machine in without signing in (or file:PATH)
    #[arg(long, alias = "authkey", value_name = "KEY")]
    auth_key: Option<String>,
    /// Tags to ask for, separated by commas
    #[arg(long, value_name = "TAGS")]
    advertise_tags: Option<String>,
    /// Give up after this time (0 = never)
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// Show the sign-in address as a QR code too
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool)]
    qr: Option<bool>,
    #[arg(long, hide = true, value_name = "FORMAT")]
    qr_format: Option<String>,
    #[arg(long, hide = true)]
    client_id: Option<String>,
    #[arg(long, hide = true)]
    client_secret: Option<String>,
    #[arg(long, hide = true)]
    id_token: Option<String>,
    #[arg(long, hide = true)]
    audience: Option<String>,
}

/// Flags of `up` on a machine that becomes the first one of a new network.
#[derive(Args, Clone, Debug, Default)]
pub struct FirstFlags {
    /// First machine: the name or address by which others reach it, also later on
    #[arg(long, value_name = "NAME")]
    pub domain: Option<String>,
    /// First machine: stay in the foreground, without a service
    #[arg(long)]
    pub foreground: bool,
    /// First machine: say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// First machine: another certificate authority than Let's Encrypt
    #[arg(long, value_name = "URL")]
    pub acme_directory: Option<String>,
    /// First machine: root certificate of that authority, PEM
    #[arg(long, value_name = "FILE")]
    pub acme_ca: Option<std::path::PathBuf>,
    /// Name of the interface, or userspace-networking for none; kept for later starts
    #[arg(long, value_name = "NAME")]
    pub tun: Option<String>,
    /// First machine: begin a new network although another one is near
    #[arg(long)]
    pub new_network: bool,
}

/// Flags of `up`.
#[derive(Args, Clone, Debug, Default)]
pub struct UpArgs {
    #[command(flatten)]
    session: SessionFlags,
    #[command(flatten)]
    prefs: PrefFlags,
    #[command(flatten)]
    pub first: FirstFlags,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Set everything not mentioned to its default
    #[arg(long)]
    reset: bool,
    /// Sign in again, with a new key for this machine
    #[arg(long)]
    force_reauth: bool,
    /// Go on in spite of a risk (lose-ssh, all)
    #[arg(long, value_name = "RISK")]
    accept_risk: Option<String>,
    #[arg(long, hide = true, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_bool)]
    host_routes: Option<bool>,
    #[arg(hide = true)]
    extra: Vec<String>,
}

/// Flags of `login`.
#[derive(Args, Clone, Debug, Default)]
pub struct LoginArgs {
    #[command(flatten)]
    session: SessionFlags,
    #[command(flatten)]
    prefs: PrefFlags,
    /// Name for this account in `switch`
    #[arg(long, value_name = "NAME")]
    nickname: Option<String>,
}

pub(super) fn up(context: &Context, args: &UpArgs) -> Outcome {
    args.check()?;
    let status = context.status()?;
    let current: Prefs = context.client.get("/localapi/v0/prefs")?;
    let has_login = status.have_node_key || !status.self_node.as_ref().is_none_or(|node| node.id.is_empty());
    let is_bare = args.session.is_empty() && args.prefs.is_empty() && !args.reset && !args.force_reauth;
    let plan = Plan::new(context, args, &status, &current)?;

    if is_bare && has_login && status.backend_state != "NeedsLogin" && !current.control_url.is_empty() {
        return simple_up(context, &plan);
    }
    // What a failed first try left behind are no settings of anybody.
    if !args.reset && !current.control_url.is_empty() && has_login {
        check_unmentioned(context, args, &current, &plan.wanted)?;
    }
    let is_running = status.backend_state == "Running";
    let same_server = plan.wanted.control_url == current.control_url;
    if is_running && !same_server && !args.force_reauth {
        return Err(misuse(
            "this machine is in the network of another server.",
            "to leave it for the new one: samewire up --force-reauth and the same flags",
        ));
    }
    let same_tags = plan.wanted.advertise_tags == current.advertise_tags;
    if is_running && !args.force_reauth && plan.auth_key.is_empty() && same_server && same_tags {
        let mut masked = plan.masked.clone();
        masked.set("WantRunning", true);
        let _prefs: Prefs = context.client.exchange("PATCH", "/localapi/v0/prefs", &masked)?;
        return plan.report_running(context);
    }
    start_session(context, &plan, args.force_reauth || !has_login, args.force_reauth)
}

pub(super) fn login(context: &Context, args: &LoginArgs) -> Outcome {
    let status = context.status()?;
    let current: Prefs = context.client.get("/localapi/v0/prefs")?;
    let mut up = UpArgs { session: args.session.clone(), prefs: args.prefs.clone(), ..UpArgs::default() };
    // Whoever names no server means the one of this machine.
    if up.session.login_server.is_none() && up.session.auth_key.is_none() && !current.control_url.is_empty() {
        up.session.login_server = Some(current.control_url.clone());
    }
    // All that can be wrong with the words is found before anything is left behind.
    up.check()?;
    let mut plan = Plan::new(context, &up, &status, &current)?;
    let needs_new_profile = status.have_node_key && status.backend_state != "NeedsLogin";
    if needs_new_profile {
        context.client.command("PUT", "/localapi/v0/profiles/", None)?;
        let current: Prefs = context.client.get("/localapi/v0/prefs")?;
        plan = Plan::new(context, &up, &context.status()?, &current)?;
    }
    if let Some(name) = &args.nickname {
        plan.wanted.profile_name.clone_from(name);
    }
    start_session(context, &plan, true, true)
}

impl UpArgs {
    /// Whether a server or a key was given: then no new network is wanted.
    pub fn names_server(&self) -> bool {
        self.session.login_server.is_some() || self.session.auth_key.is_some() || self.force_reauth
    }

    /// Refuses what `up` never takes.
    ///
    /// # Errors
    /// Which word that is.
    pub fn check(&self) -> Result<(), Problem> {
        if let Some(word) = self.extra.first() {
            return Err(Problem::misuse(
                format!("`up` takes no argument {}.", quoted(word)),
                "see: samewire up --help",
            ));
        }
        if self.host_routes == Some(false) {
            return Err(Problem::misuse("--host-routes can only be true.", "leave it out"));
        }
        self.session.check()?;
        self.session.login_server.as_deref().map_or(Ok(()), |url| check_url(url).map(drop))
    }

    /// Whether nothing was asked for but to be up.
    pub fn changes_nothing(&self) -> bool {
        self.session.is_empty() && self.prefs.is_empty() && !self.reset
    }

    /// `current` with the settings named here.
    ///
    /// # Errors
    /// A value that cannot be.
    pub fn wanted_prefs(&self, current: &Prefs) -> Result<Prefs, Problem> {
        let refuse = |what: String| Problem::misuse(format!("{what}."), "see: samewire up --help");
        let no_peers = |name: &str| Err(format!("no machine is called {name:?} yet"));
        let mut masked = self.prefs.to_masked(current, no_peers).map_err(refuse)?;
        if let Some(text) = &self.session.advertise_tags {
            masked.set("AdvertiseTags", parse_tags(text).map_err(refuse)?);
        }
        masked.apply_to(current).map_err(|error| refuse(error.to_string()))
    }
}

impl SessionFlags {
    /// Refuses the ways in that are not here.
    fn check(&self) -> Result<(), Problem> {
        let others = [&self.client_id, &self.client_secret, &self.id_token, &self.audience];
        if others.into_iter().all(Option::is_none) {
            return Ok(());
        }
        Err(Problem::misuse(
            "a machine joins by an auth key or by a person, not by a client of the API.",
            "make a key: samewire control keys create; then --auth-key=KEY",
        ))
    }

    fn is_empty(&self) -> bool {
        self.login_server.is_none() && self.auth_key.is_none() && self.advertise_tags.is_none()
    }
}

/// What an `up` wants, worked out before anything is done.
struct Plan {
    wanted: Prefs,
    /// Only the mentioned flags.
    masked: MaskedPrefs,
    auth_key: String,
    deadline: Option<Instant>,
    shows_qr: bool,
    json: bool,
}

impl Plan {
    fn new(context: &Context, args: &UpArgs, status: &Status, current: &Prefs) -> Result<Self, Failure> {
        let refuse = |what: String| misuse(format!("{what}."), "see: samewire up --help");
        let resolve = |name: &str| exit_node_id(status, name);
        let mut masked = args.prefs.to_masked(current, resolve).map_err(refuse)?;
        if let Some(text) = &args.session.advertise_tags {
            let tags = parse_tags(text).map_err(refuse)?;
            masked.set("AdvertiseTags", tags);
        }
        let auth_key = read_auth_key(args.session.auth_key.as_deref().unwrap_or_default())?;
        let server = match &args.session.login_server {
            Some(url) => check_url(url)?,
            None if !current.control_url.is_empty() => current.control_url.clone(),
            None if context.is_official || auth_key.starts_with("tskey-") => HOSTED_SERVER.to_owned(),
            None if !auth_key.is_empty() => {
                return Err(misuse(
                    "an auth key without the address of its server.",
                    "samewire up --login-server=URL --auth-key=KEY",
                ));
            }
            None => return Err(Slug::NotSetUp.problem(&[("dir", "")]).into()),
        };
        masked.set("ControlURL", server);
        let base = if args.reset { Prefs::default() } else { current.clone() };
        // What is not mentioned falls back to defaults for the comparison of §B3 step 3.
        let fresh = Prefs {
            operator_user: current.operator_user.clone(),
            profile_name: current.profile_name.clone(),
            ..Prefs::default()
        };
        let from = if args.reset { base } else { fresh };
        let mut wanted = masked.apply_to(&from).map_err(|error| refuse(error.to_string()))?;
        wanted.want_running = true;
        wanted.logged_out = false;
        let deadline =
            args.session.timeout.filter(|timeout| !timeout.is_zero()).map(|timeout| Instant::now() + timeout);
        Ok(Self {
            wanted,
            masked,
            auth_key,
            deadline,
            shows_qr: args.session.qr == Some(true),
            json: args.json,
        })
    }

    fn report_running(&self, context: &Context) -> Outcome {
        if self.json {
            return say_json(&json!({ "BackendState": "Running" }));
        }
        let status = context.status()?;
        let Some(own) = &status.self_node else { return Ok(()) };
        let name = own.dns_name.split('.').next().unwrap_or_default();
        let address = own.tailscale_ips.iter().flatten().next().map(ToString::to_string).unwrap_or_default();
        let network = status.current_tailnet.as_ref().map(|tailnet| tailnet.name.clone()).unwrap_or_default();
        if context.terminal.is_pretty {
            context.done(format!("{name} is up in {network}, {address}."))?;
        }
        context.tell_notices(&status);
        Ok(())
    }
}

/// The id of the exit node that is named or addressed; empty for an address that cannot be looked up now.
pub(super) fn exit_node_id(status: &Status, words: &str) -> Result<String, String> {
    let is_address = words.parse::<std::net::IpAddr>().is_ok();
    if is_address && status.backend_state != "Running" {
        return Ok(String::new());
    }
    let machine =
        find_machine(status, words).map_err(|problem| problem.what.trim_end_matches('.').to_owned())?;
    if machine.is_self {
        return Err("this machine cannot be its own exit node".to_owned());
    }
    let peers = status.peer.iter().flat_map(|peers| peers.values());
    peers
        .filter(|peer| peer.tailscale_ips.as_deref() == Some(&machine.addresses))
        .find(|peer| peer.exit_node_option)
        .map(|peer| peer.id.clone())
        .ok_or_else(|| format!("{} does not offer to be an exit node", machine.name))
}

/// How far the way into the network is, for whoever waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    Up,
    WaitsForApproval,
    OnTheWay,
}

impl Progress {
    /// What a state means for whoever waits.
    pub fn of(state: Option<BackendState>) -> Self {
        match state {
            Some(BackendState::Running) => Self::Up,
            Some(BackendState::NeedsMachineAuth) => Self::WaitsForApproval,
            Some(
                BackendState::NoState
                | BackendState::InUseOtherUser
                | BackendState::NeedsLogin
                | BackendState::Stopped
                | BackendState::Starting,
            )
            | None => Self::OnTheWay,
        }
    }
}

fn parse_tags(text: &str) -> Result<Vec<String>, String> {
    text.split(',')
        .map(str::trim)
        .filter(|tag| !tag.is_empty())
        .map(|tag| {
            let tag = if tag.contains(':') { tag.to_owned() } else { format!("tag:{tag}") };
            let name = tag.strip_prefix("tag:").unwrap_or_default();
            let is_good = name.starts_with(|c: char| c.is_ascii_alphabetic())
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
            if is_good { Ok(tag) } else { Err(format!("{tag:?} is no tag; write for example tag:server")) }
        })
        .collect()
}

fn read_auth_key(text: &str) -> Result<String, Failure> {
    let Some(path) = text.strip_prefix("file:") else { return Ok(text.to_owned()) };
    std::fs::read_to_string(path).map(|key| key.trim().to_owned()).map_err(|error| {
        let what = format!("the file {} with the auth key cannot be read.", quoted(path));
        Problem { why: error.to_string(), ..Problem::misuse(what, "check its name and its rights") }.into()
    })
}

fn check_url(url: &str) -> Result<String, Problem> {
    let trimmed = url.trim_end_matches('/');
    let host = trimmed.strip_prefix("https://").or_else(|| trimmed.strip_prefix("http://"));
    match host {
        Some(host) if !host.is_empty() && !host.contains(char::is_whitespace) => Ok(trimmed.to_owned()),
        Some(_) | None => {
            let what = format!("{} is no server address.", quoted(url));
            Err(Problem::misuse(what, "write it as https://HOST"))
        }
    }
}

fn simple_up(context: &Context, plan: &Plan) -> Outcome {
    let mut watch = open_bus(context)?;
    let mut masked = MaskedPrefs::default();
    masked.set("WantRunning", true);
    let _prefs: Prefs = context.client.exchange("PATCH", "/localapi/v0/prefs", &masked)?;
    follow(context, plan, &mut watch, None)
}

/// Refuses to change settings that were not mentioned (§B3 step 3).
fn check_unmentioned(context: &Context, args: &UpArgs, current: &Prefs, wanted: &Prefs) -> Outcome {
    let mut mentioned = args.prefs.mentioned();
    for (flag, is_mentioned) in [
        ("login-server", args.session.login_server.is_some()),
        ("advertise-tags", args.session.advertise_tags.is_some()),
    ] {
        if is_mentioned {
            mentioned.push(flag);
        }
    }
    // The exit node flag speaks for both forms; a mentioned half of the routes keeps the other.
    let (current_flags, wanted_flags) = (as_flags(current), as_flags(wanted));
    let missing: Vec<String> = current_flags
        .iter()
        .zip(&wanted_flags)
        .filter(|((flag, now), (_, then))| {
            now != then && !mentioned.contains(flag) && *flag != "login-server"
        })
        .filter(|((flag, now), _)| !(*flag == "stateful-filtering" && now == "true"))
        .map(|((flag, now), _)| as_typed(flag, now))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let typed = wanted_flags
        .iter()
        .filter(|(flag, _)| mentioned.contains(flag))
        .map(|(flag, value)| as_typed(flag, value));
    let all: Vec<String> = typed.chain(missing).collect();
    let name = if context.is_official { "tailscale" } else { "samewire" };
    Err(misuse(
        "`up` sets all settings, and this would change some that were not mentioned.",
        format!(
            "mention them: {name} up {}\n       or change only what you name: {name} set; or all to defaults: {name} up --reset",
            all.join(" ")
        ),
    ))
}

fn open_bus(context: &Context) -> Result<Response, Problem> {
    context.client.send("GET", "/localapi/v0/watch-ipn-bus?mask=0", None)?.ok()
}

fn start_session(context: &Context, plan: &Plan, interactive: bool, is_forced: bool) -> Outcome {
    let old_key = context.status()?.self_node.map(|node| node.public_key);
    let mut watch = open_bus(context)?;
    let options = StartOptions {
        frontend_log_id: String::new(),
        update_prefs: Some(plan.wanted.clone()),
        auth_key: plan.auth_key.clone(),
    };
    let body = serde_json::to_vec(&options).map_err(|error| Problem::other(error.to_string(), "", ""))?;
    context.client.command("POST", "/localapi/v0/start", Some(&body))?;
    if interactive && plan.auth_key.is_empty() {
        context.client.command("POST", "/localapi/v0/login-interactive", None)?;
    }
    follow(context, plan, &mut watch, old_key.filter(|_| is_forced))
}

/// Watches the bus until the machine is up, or cannot be.
fn follow(
    context: &Context,
    plan: &Plan,
    watch: &mut Response,
    old_key: Option<sw_types::NodeKey>,
) -> Outcome {
    let mut has_printed = false;
    let mut shown_url = String::new();
    loop {
        let left = plan.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return timed_out(context);
        }
        // Without a deadline of the user's: look at the state now and then, should a message be missed.
        let _ignored =
            watch.set_read_timeout(Some(left.unwrap_or(Duration::from_secs(5)).min(Duration::from_secs(5))));
        let notify = match watch.next_line() {
            Ok(Some(line)) => serde_json::from_str::<Notify>(&line).unwrap_or_default(),
            Ok(None) => {
                return Err(Problem::other(
                    "the daemon ended meanwhile.",
                    "",
                    "see: journalctl -u samewire -n 20",
                )
                .into());
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                let state = context.status()?.backend_state;
                Notify { state: (state == "Running").then_some(BackendState::Running), ..Notify::default() }
            }
            Err(error) => {
                return Err(
                    Problem::other("the connection to the daemon broke.", error.to_string(), "").into()
                );
            }
        };
        if let Some(problem) = notify.problem.filter(|_| !context.is_official) {
            return Err(problem.into());
        }
        if let Some(message) = notify.err_message {
            return Err(Problem::other(message, "", "see: samewire status").into());
        }
        if let Some(url) = notify.browse_to_url.filter(|url| !url.is_empty() && *url != shown_url) {
            show_login_url(context, plan, &url)?;
            has_printed = true;
            shown_url = url;
        }
        match Progress::of(notify.state) {
            Progress::Up => {
                if old_key.is_some() && context.status()?.self_node.map(|node| node.public_key) == old_key {
                    continue;
                }
                if has_printed && !plan.json {
                    warn("Success.");
                }
                return plan.report_running(context);
            }
            Progress::WaitsForApproval => {
                show_waiting(context, plan)?;
                has_printed = true;
            }
            Progress::OnTheWay => {}
        }
    }
}

/// Says what the machine was waiting for.
fn timed_out(context: &Context) -> Outcome {
    let status = context.status()?;
    let why = match status.backend_state.as_str() {
        "NeedsLogin" if !status.auth_url.is_empty() => format!("nobody signed in at {}", status.auth_url),
        "NeedsMachineAuth" => "an admin has not approved this machine yet".to_owned(),
        _ => status.health.first().map_or_else(
            || format!("its state is {}", status.backend_state),
            |told| told.trim_end_matches('.').to_owned(),
        ),
    };
    Err(super::timed_out(why, "it goes on trying; see: samewire status"))
}

fn show_login_url(context: &Context, plan: &Plan, url: &str) -> Outcome {
    if plan.json {
        let code = qr_png_text(url);
        return say(tab_indented(&json!({ "AuthURL": url, "QR": code, "BackendState": "NeedsLogin" })));
    }
    warn(format!("\nTo authenticate, visit:\n\n\t{url}\n"));
    if plan.shows_qr
        && let Some(code) = qr_blocks(url)
    {
        warn(code);
    }
    let _unused = context;
    Ok(())
}

fn show_waiting(context: &Context, plan: &Plan) -> Outcome {
    if plan.json {
        return say(tab_indented(&json!({ "BackendState": "NeedsMachineAuth" })));
    }
    let url = format!("{}/admin", plan.wanted.control_url);
    if context.is_official {
        warn(format!("\nTo approve your machine, visit (as admin):\n\n\t{url}\n"));
        return Ok(());
    }
    let status = context.status()?;
    let name = status.self_node.map(|node| node.host_name).unwrap_or_default();
    warn(Slug::WaitingApproval.problem(&[("name", &name), ("url", &url)]).render().trim_end());
    Ok(())
}

fn tab_indented(value: &serde_json::Value) -> String {
    use serde::Serialize as _;
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    match value.serialize(&mut serializer) {
        Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => value.to_string(),
    }
}

/// A QR code in half blocks.
fn qr_blocks(text: &str) -> Option<String> {
    let code = qrcode::QrCode::with_error_correction_level(text, qrcode::EcLevel::L).ok()?;
    Some(code.render::<qrcode::render::unicode::Dense1x2>().quiet_zone(true).build())
}

/// A QR code as a data URL. A bitmap in the simplest form that browsers show: SVG.
fn qr_png_text(text: &str) -> String {
    let Ok(code) = qrcode::QrCode::with_error_correction_level(text, qrcode::EcLevel::L) else {
        return String::new();
    };
    let width = code.width();
    let mut svg = format!("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"-2 -2 {0} {0}\">", width + 4);
    for (index, color) in code.to_colors().iter().enumerate() {
        if *color == qrcode::Color::Dark {
            svg.push_str(&format!("<path d=\"M{} {}h1v1h-1z\"/>", index % width, index / width));
        }
    }
    svg.push_str("</svg>");
    format!("data:image/svg+xml;base64,{}", base64::engine::general_purpose::STANDARD.encode(svg))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_get_their_prefix() {
        assert_eq!(parse_tags("server, tag:ci").expect("good"), ["tag:server", "tag:ci"]);
        assert!(parse_tags("tag:1x").is_err());
    }

    #[test]
    fn server_addresses_are_checked_and_trimmed() {
        assert_eq!(check_url("https://x.example/").expect("good"), "https://x.example");
        assert!(check_url("x.example").is_err());
    }
}
