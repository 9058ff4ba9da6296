//! `samewire lab demo`: the product's main job shown from nothing, with figures, in under a minute.

use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use crate::cli::{progress, say};
use crate::measure::{DirectTry, measure_direct, millis};
use crate::namespace::argv;
use crate::nat::Nat;
use crate::topology::{MachineSpec, RelayProcess, ServerSpec, SiteSpec, Topology};
use crate::{Interrupt, LabError, Programs, Software, World, find_leftovers};

/// Name of the demo's lab.
const LAB: &str = "demo";

/// Longest wait for a direct path.
const DIRECT_LIMIT: Duration = Duration::from_secs(10);

/// Longest wait for a name to be answered.
const PING_LIMIT: Duration = Duration::from_secs(15);

/// Length of each throughput run, seconds.
const IPERF_SECONDS: &str = "3";

/// Words of `samewire lab demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Print the figures as one JSON object
    #[arg(long)]
    json: bool,
    /// Whose software the machines run
    #[arg(long, value_parser = parse_software, default_value = "samewire", value_name = "samewire|official")]
    machines: Software,
    /// Whose server they join
    #[arg(long, value_parser = parse_software, default_value = "samewire", value_name = "samewire|official")]
    server: Software,
    /// Where its relay runs
    #[arg(long, value_parser = parse_relay, default_value = "built-in", value_name = "built-in|separate")]
    relay: RelayProcess,
}

/// Reads where a relay runs from the command line.
pub(crate) fn parse_relay(word: &str) -> Result<RelayProcess, String> {
    match word {
        "built-in" => Ok(RelayProcess::BuiltIn),
        "separate" => Ok(RelayProcess::Separate),
        _ => Err("must be built-in or separate".into()),
    }
}

/// Reads a software's word from the command line.
pub(crate) fn parse_software(word: &str) -> Result<Software, String> {
    match word {
        "samewire" => Ok(Software::Samewire),
        "official" => Ok(Software::Official),
        _ => Err("must be samewire or official".into()),
    }
}

/// Figures of one demo.
#[derive(Debug, Serialize)]
struct Figures {
    schema: u32,
    machines: Software,
    server: Software,
    /// Namespaces, cables and NATs made, milliseconds.
    build_ms: u64,
    /// Server and relay serve, milliseconds.
    server_ms: u64,
    /// From `up` to an address, milliseconds, for each machine.
    join_ms: [u64; 2],
    /// From nothing (the first word of the command) to the first answer by name, milliseconds, each way.
    ping_by_name_ms: [u64; 2],
    direct: DirectTry,
    /// TCP throughput over the direct path, Mbit/s, each way; absent without iperf3.
    tcp_mbit_per_s: Option<[u64; 2]>,
    total_ms: u64,
}

/// Runs the demo; the lab is gone when this returns.
pub(crate) fn run(args: &DemoArgs) -> Result<ExitCode, LabError> {
    let start = Instant::now();
    let interrupt = Interrupt::on_signals()?;
    let figures = {
        let mut world = World::build(topology(args), Programs::of_this_process()?, interrupt)?;
        play(&mut world, args, start)?
    };
    let left = find_leftovers(Some(LAB));
    if !left.is_empty() {
        return Err(LabError::new("lab-leftovers", "the demo left something behind.")
            .why(format!("{left:?}"))
            .fix("sudo samewire lab down --all"));
    }
    progress("everything is removed");
    if args.json {
        say(&serde_json::to_string_pretty(&figures).unwrap_or_default());
    } else {
        say(&screen(&figures));
    }
    Ok(ExitCode::from(u8::from(figures.direct.direct_ms.is_none())))
}

fn topology(args: &DemoArgs) -> Topology {
    Topology {
        name: LAB.into(),
        server: Some(ServerSpec { relay: args.relay, ..ServerSpec::new("hub", args.server) }),
        site: vec![SiteSpec::new("home", Nat::Easy), SiteSpec::new("office", Nat::EasyAf)],
        machine: vec![
            MachineSpec::new("alder", "home", args.machines),
            MachineSpec::new("birch", "office", args.machines),
        ],
    }
}

fn play(world: &mut World, args: &DemoArgs, start: Instant) -> Result<Figures, LabError> {
    let build_ms = millis(start.elapsed());
    progress(&format!("the Internet, two homes with NATs and a server's machine are wired ({build_ms} ms)"));
    let at = Instant::now();
    let key = world.start_server()?;
    let server_ms = millis(at.elapsed());
    progress(&format!("hub: server and relay run ({server_ms} ms)"));
    let mut join_ms = [0; 2];
    for (slot, name) in join_ms.iter_mut().zip(["alder", "birch"]) {
        *slot = millis(world.join(name, &key)?);
        progress(&format!("{name}: joined with one command ({slot} ms)"));
    }
    let direct = measure_direct(world, "alder", "birch", DIRECT_LIMIT)?;
    match (&direct.direct_ms, &direct.via) {
        (Some(ms), Some(via)) => {
            progress(&format!("alder → birch: direct by {via}, {ms} ms after the first packet"));
        }
        _ => progress("alder → birch: relayed"),
    }
    let mut ping_by_name_ms = [0; 2];
    for (slot, (from, to)) in ping_by_name_ms.iter_mut().zip([("alder", "birch"), ("birch", "alder")]) {
        ping_by_name(world, from, to)?;
        *slot = millis(start.elapsed());
        progress(&format!("{from}: ping {to} is answered, {slot} ms after the start"));
    }
    let tcp_mbit_per_s = throughput(world)?;
    if let Some([there, back]) = tcp_mbit_per_s {
        progress(&format!("iperf3: {there} Mbit/s there, {back} Mbit/s back"));
    }
    let (machines, server) = (args.machines, args.server);
    let total_ms = millis(start.elapsed());
    Ok(Figures {
        schema: 1,
        machines,
        server,
        build_ms,
        server_ms,
        join_ms,
        ping_by_name_ms,
        direct,
        tcp_mbit_per_s,
        total_ms,
    })
}

fn ping_by_name(world: &mut World, from: &str, to: &str) -> Result<(), LabError> {
    let interrupt = world.interrupt().clone();
    let ping = argv("ping")?.get_program().to_string_lossy().into_owned();
    let machine = world.machine(from)?;
    let mut said = String::new();
    let answered = interrupt.wait_for(PING_LIMIT, || {
        let output =
            machine.exec(&[&ping, "-n", "-c", "1", "-W", "1", to], Duration::from_secs(5), &interrupt)?;
        said = String::from_utf8_lossy(&output.stderr).trim().to_owned()
            + String::from_utf8_lossy(&output.stdout).trim();
        Ok(output.status.success().then_some(()))
    })?;
    answered.ok_or_else(|| {
        LabError::new("lab-ping", format!("\"{from}\" cannot ping \"{to}\" by name.")).why(said)
    })
}

/// Runs iperf3 through the tunnel in both directions.
fn throughput(world: &mut World) -> Result<Option<[u64; 2]>, LabError> {
    let Ok(iperf) = argv("iperf3") else { return Ok(None) };
    let iperf = iperf.get_program().to_string_lossy().into_owned();
    let interrupt = world.interrupt().clone();
    let failed = |why: String| LabError::new("lab-iperf", "iperf3 did not work.").why(why);
    let birch = world.machine("birch")?;
    let target = birch.local_api().own_address().ok_or_else(|| failed("birch has no address".into()))?;
    let mut server = birch.command(&[&iperf, "-s", "-B", &target])?;
    let server = server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut server = server.map_err(|e| failed(e.to_string()))?;
    let run = |world: &mut World, extra: &[&str]| {
        let mut words = vec![iperf.as_str(), "-c", &target, "-t", IPERF_SECONDS, "-J"];
        words.extend(extra);
        let alder = world.machine("alder")?;
        // The server needs a moment to listen: asked again until a report has figures, since iperf3 also ends well
        // with a report that holds nothing but an error.
        let bits = interrupt.wait_for(Duration::from_secs(8), || {
            let output = alder.exec(&words, Duration::from_secs(15), &interrupt)?;
            let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            Ok(report["end"]["sum_received"]["bits_per_second"].as_f64())
        })?;
        let bits = bits.ok_or_else(|| failed("no run ended well".into()))?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rate of this machine in whole Mbit/s"
        )]
        Ok((bits / 1e6) as u64)
    };
    let figures = run(world, &[]).and_then(|there| Ok([there, run(world, &["-R"])?]));
    // It serves until it is killed.
    let _gone = server.kill();
    let _collected = server.wait();
    figures.map(Some)
}

fn screen(figures: &Figures) -> String {
    let [there, back] = figures.ping_by_name_ms;
    let mut lines = vec![
        String::new(),
        format!(
            "From nothing to a ping by name: {:.1} s there, {:.1} s back.",
            seconds(there),
            seconds(back)
        ),
    ];
    lines.push(match (figures.direct.direct_ms, figures.direct.first_reply_ms) {
        (Some(direct), Some(first)) => {
            format!("First answer {first} ms after the first packet, direct after {direct} ms.")
        }
        (Some(direct), None) => format!("Direct {direct} ms after the first packet."),
        (None, _) => "The path stayed relayed.".into(),
    });
    if let Some([there, back]) = figures.tcp_mbit_per_s {
        lines.push(format!("TCP through it: {there} Mbit/s there, {back} Mbit/s back."));
    }
    lines.push(format!("The whole demo took {:.1} s and left nothing behind.", seconds(figures.total_ms)));
    lines.join("\n")
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of one demo")]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}
