//! `debug`: what scripts use of it (localapi-cli.md §B11).

use clap::{Args, Subcommand};
use serde_json::Value;

use sw_types::local::Problem;

use super::client::{Response, escape};
use super::{Context, Outcome, print_bytes, say, say_json};

#[derive(Args, Clone, Debug)]
pub struct DebugArgs {
    #[command(subcommand)]
    action: DebugAction,
}

#[derive(Subcommand, Clone, Debug)]
enum DebugAction {
    /// The relay map
    DerpMap,
    /// The preferences
    Prefs {
        #[arg(long)]
        pretty: bool,
    },
    /// The network as the daemon knows it
    Netmap,
    /// Counters
    Metrics,
    /// Measure the network again
    Restun,
    /// Bind the sockets anew
    Rebind,
    /// Where the state is kept
    Statedir,
    /// Follow the notify bus
    WatchIpn {
        #[arg(long, default_value_t = 0)]
        count: u32,
        #[arg(long)]
        initial: bool,
    },
    /// Record the packets inside the tunnel as a pcap file, until Ctrl-C
    Capture {
        /// Write to this file ("-": standard output)
        #[arg(short, long, value_name = "FILE")]
        output: String,
    },
    /// Send a request to the LocalAPI
    Localapi {
        /// Method and path, or path alone
        words: Vec<String>,
    },
}

pub(super) fn debug(context: &Context, args: &DebugArgs) -> Outcome {
    let act = |action: &str| {
        context
            .client
            .send("POST", &format!("/localapi/v0/debug?action={}", escape(action)), None)?
            .ok()?
            .text()
    };
    match &args.action {
        DebugAction::DerpMap => say_json(&context.client.get::<Value>("/localapi/v0/derpmap")?),
        DebugAction::Prefs { .. } => say_json(&context.client.get::<Value>("/localapi/v0/prefs")?),
        DebugAction::Netmap => say(act("current-netmap")?),
        DebugAction::Metrics => {
            print_bytes(&context.client.send("GET", "/localapi/v0/metrics", None)?.ok()?.bytes()?)
        }
        DebugAction::Restun => say(act("restun")?.trim_end()),
        DebugAction::Rebind => say(act("rebind")?.trim_end()),
        DebugAction::Statedir => say(act("statedir")?.trim_matches('"')),
        DebugAction::WatchIpn { count, initial } => {
            let mask = if *initial { 0b1110 } else { 0 };
            let mut watch =
                context.client.send("GET", &format!("/localapi/v0/watch-ipn-bus?mask={mask}"), None)?.ok()?;
            let mut seen = 0;
            while let Ok(Some(line)) = watch.next_line() {
                say(line)?;
                seen += 1;
                if seen == *count {
                    break;
                }
            }
            Ok(())
        }
        DebugAction::Capture { output } => {
            let packets = context.client.send("POST", "/localapi/v0/debug-capture", None)?.ok()?;
            record(packets, output)
        }
        DebugAction::Localapi { words } => {
            let (method, path) = match words.as_slice() {
                [path] => ("GET", path.as_str()),
                [method, path, ..] => (method.as_str(), path.as_str()),
                [] => return Err(super::misuse("a path is missing.", "samewire debug localapi GET status")),
            };
            let path =
                if path.starts_with("/localapi/") { path.to_owned() } else { format!("/localapi/v0/{path}") };
            print_bytes(
                &context.client.send(method, &path, words.get(2).map(String::as_bytes))?.ok()?.bytes()?,
            )
        }
    }
}

fn record(packets: Response, output: &str) -> Outcome {
    if output == "-" {
        // Whoever reads may stop at any time.
        return packets.copy_to(&mut std::io::stdout().lock()).map_err(|_| super::Failure::Exit(141));
    }
    let written = std::fs::File::create(output).and_then(|mut file| packets.copy_to(&mut file));
    written.map_err(|error| {
        Problem::other(
            "the capture could not be written.",
            format!("{output}: {error}"),
            "choose another place: samewire debug capture -o FILE",
        )
        .into()
    })
}
