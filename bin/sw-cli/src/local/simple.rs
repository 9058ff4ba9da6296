//! Verbs of one request each.

use std::io::Read as _;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use serde_json::json;
use sw_types::local::{MaskedPrefs, Prefs, Problem, Status};

use super::terminal::parse_duration;
use super::{Context, Outcome, print_bytes, say, say_json, warn};

#[derive(Args, Clone, Debug, Default)]
pub struct DownArgs {
    /// Go on in spite of a risk (lose-ssh, all)
    #[arg(long, value_name = "RISK")]
    accept_risk: Option<String>,
    #[arg(long, hide = true)]
    reason: Option<String>,
}

#[derive(Args, Clone, Debug, Default)]
pub struct LogoutArgs {
    #[arg(long, hide = true)]
    reason: Option<String>,
}

#[derive(Args, Clone, Debug, Default)]
pub struct WaitArgs {
    /// Give up after this time (0 = never)
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,
}

#[derive(Args, Clone, Debug, Default)]
pub struct VersionArgs {
    /// Ask the daemon for its version too
    #[arg(long)]
    daemon: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
    #[arg(long, hide = true)]
    upstream: bool,
    #[arg(long, hide = true)]
    track: Option<String>,
}

#[derive(Args, Clone, Debug, Default)]
pub struct MetricsArgs {
    #[command(subcommand)]
    action: Option<MetricsAction>,
}

#[derive(Subcommand, Clone, Debug)]
enum MetricsAction {
    /// Print them
    Print,
    /// Write them to a file
    Write {
        /// The file
        path: std::path::PathBuf,
    },
}

#[derive(Args, Clone, Debug, Default)]
pub struct BugreportArgs {
    /// What happened
    note: Option<String>,
    #[arg(long, hide = true)]
    diagnose: bool,
    #[arg(long, hide = true)]
    record: bool,
}

#[derive(Args, Clone, Debug, Default)]
pub struct NcArgs {
    /// Machine
    host: String,
    /// Port
    port: u16,
}

pub(super) fn down(context: &Context, args: &DownArgs) -> Outcome {
    let _unused = (&args.accept_risk, &args.reason);
    let status: Status = context.client.get("/localapi/v0/status?peers=false")?;
    if status.backend_state == "Stopped" {
        warn(if context.is_official {
            "Tailscale was already stopped."
        } else {
            "This machine was already disconnected."
        });
        return Ok(());
    }
    let mut masked = MaskedPrefs::default();
    masked.set("WantRunning", false);
    let _prefs: Prefs = context.client.exchange("PATCH", "/localapi/v0/prefs", &masked)?;
    if context.terminal.is_pretty {
        context.done("This machine is disconnected. To connect it: samewire up")
    } else {
        Ok(())
    }
}

pub(super) fn logout(context: &Context, args: &LogoutArgs) -> Outcome {
    let _unused = &args.reason;
    context.client.command("POST", "/localapi/v0/logout", None)?;
    if context.terminal.is_pretty { context.done("This machine is signed out.") } else { Ok(()) }
}

pub(super) fn wait(context: &Context, args: &WaitArgs) -> Outcome {
    let deadline = args.timeout.filter(|timeout| !timeout.is_zero()).map(|timeout| Instant::now() + timeout);
    loop {
        let state = context.client.get::<Status>("/localapi/v0/status?peers=false");
        if let Ok(status) = &state
            && status.backend_state == "Running"
            && status.tailscale_ips.as_ref().is_some_and(|ips| !ips.is_empty())
        {
            return Ok(());
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            let cause = state.map_or_else(Some, |status| super::not_connected(&status));
            let why = cause.map(|problem| problem.what.trim_end_matches('.').to_owned()).unwrap_or_default();
            return Err(super::timed_out(why, "see: samewire status"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

pub(super) fn version(context: &Context, args: &VersionArgs) -> Outcome {
    if args.upstream || args.track.is_some() {
        let what = "nobody is asked which version is the newest.";
        return Err(super::misuse(what, "what runs here: samewire version --daemon"));
    }
    let own = env!("CARGO_PKG_VERSION");
    let long = concat!(env!("CARGO_PKG_VERSION"), "-samewire");
    let daemon = if args.daemon {
        Some(context.client.get::<Status>("/localapi/v0/status?peers=false")?.version)
    } else {
        None
    };
    if args.json {
        let mut value = json!({ "majorMinorPatch": own, "short": own, "long": long, "cap": 145 });
        if let (Some(daemon), Some(fields)) = (daemon, value.as_object_mut()) {
            fields.insert("daemonLong".to_owned(), json!(daemon));
        }
        return say_json(&value);
    }
    match daemon {
        Some(daemon) => say(format!("Client: {own}\nDaemon: {daemon}")),
        None => say(own),
    }
}

pub(super) fn metrics(context: &Context, args: &MetricsArgs) -> Outcome {
    let text = context.client.send("GET", "/localapi/v0/usermetrics", None)?.ok()?.bytes()?;
    match &args.action {
        None | Some(MetricsAction::Print) => print_bytes(&text),
        Some(MetricsAction::Write { path }) => std::fs::write(path, text).map_err(|error| {
            let why = format!("{}: {error}", path.display());
            Problem::other("the file was not written.", why, "choose a place that you may write to").into()
        }),
    }
}

pub(super) fn bugreport(context: &Context, args: &BugreportArgs) -> Outcome {
    let note = super::client::escape(args.note.as_deref().unwrap_or_default());
    let marker =
        context.client.send("POST", &format!("/localapi/v0/bugreport?note={note}"), None)?.ok()?.text()?;
    say(marker.trim())
}

/// Joins standard input and output to a connection that the daemon opens.
pub(super) fn nc(context: &Context, args: &NcArgs) -> Outcome {
    let status = context.status()?;
    if let Some(problem) = super::not_connected(&status) {
        return Err(problem.into());
    }
    // A bare word is a machine's name; what has a dot may be somebody else's.
    if args.host.parse::<std::net::IpAddr>().is_err() && !args.host.contains('.') {
        super::find_machine(&status, &args.host)?;
    }
    let port = args.port.to_string();
    let headers = [
        ("Upgrade", "ts-dial"),
        ("Connection", "upgrade"),
        ("Dial-Host", args.host.as_str()),
        ("Dial-Port", &port),
    ];
    let response = context.client.send_with("POST", "/localapi/v0/dial", None, &headers, None)?;
    if response.status() == 200 && response.header("dial-self") == Some("true") {
        let address = response.header("dial-addr").unwrap_or_default().to_owned();
        let stream =
            std::net::TcpStream::connect(&address).map_err(|error| silent(args, &error.to_string()))?;
        let reader = stream.try_clone().map_err(|error| Problem::other(error.to_string(), "", ""))?;
        return join(reader, stream, &[]);
    }
    if response.status() == 502 {
        return Err(silent(args, response.text()?.trim()).into());
    }
    if response.status() != 101 {
        response.ok()?;
        return Err(Problem::other(
            "the daemon cannot open connections.",
            "",
            "restart it: sudo systemctl restart samewire",
        )
        .into());
    }
    let (rest, stream) = response.into_stream();
    let reader = stream.try_clone().map_err(|error| Problem::other(error.to_string(), "", ""))?;
    join(reader, stream, &rest)
}

fn silent(args: &NcArgs, why: &str) -> Problem {
    Problem::other(
        format!("{} does not answer on port {}.", args.host, args.port),
        why,
        format!("samewire explain {}:{}", args.host, args.port),
    )
}

fn join(
    mut reader: impl std::io::Read,
    mut writer: impl std::io::Write + Send + 'static,
    first: &[u8],
) -> Outcome {
    print_bytes(first)?;
    std::thread::spawn(move || {
        let mut buffer = [0; 16 << 10];
        let mut stdin = std::io::stdin().lock();
        while let Ok(read) = stdin.read(&mut buffer) {
            if read == 0 || writer.write_all(&buffer[..read]).is_err() {
                return;
            }
        }
    });
    let mut buffer = [0; 16 << 10];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) | Err(_) => return Ok(()),
            Ok(read) => print_bytes(&buffer[..read])?,
        }
    }
}
