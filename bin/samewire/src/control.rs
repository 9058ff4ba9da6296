//! `samewire control`: the server itself, and verbs against a running one.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand};
use sw_cli::admin::{AdminCommand, Common};
use sw_control::{Control, Place, Roles, ServeArgs, Server};
use sw_net::front::BoxFuture;
use sw_relay::{Admission, OWN_REGION, Relay, RelayConfig, RelayPlace};
use sw_types::{DerpPrivate, NodeKey, STUN_PORT};

/// `samewire control VERB`.
#[derive(Debug, Args)]
pub(crate) struct ControlArgs {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: ControlCommand,
}

#[derive(Debug, Subcommand)]
enum ControlCommand {
    /// Run the control server
    Serve(ServeArgs),
    /// Put a backup in the place of the network (the server must not run)
    Restore {
        /// What `control backup` wrote
        file: PathBuf,
    },
    #[command(flatten)]
    Admin(AdminCommand),
}

pub(crate) fn run(args: ControlArgs) -> ExitCode {
    match args.command {
        ControlCommand::Serve(serve_args) => serve(serve_args, args.common),
        ControlCommand::Restore { file } => match sw_control::restore(&file, &args.common.state) {
            Ok(text) => {
                print(&text);
                ExitCode::SUCCESS
            }
            Err(error) => fail(&format!("the backup was not restored: {error}."), None, None, 1),
        },
        ControlCommand::Admin(command) => match sw_cli::admin::run(&args.common, &command) {
            Ok(code) => ExitCode::from(code),
            Err(error) if args.common.json => {
                print(&serde_json::json!({ "error": error.to_string() }).to_string());
                ExitCode::from(error.exit_code())
            }
            Err(error) => fail(&error.to_string(), error.why(), error.fix(), error.exit_code()),
        },
    }
}

fn serve(args: ServeArgs, common: Common) -> ExitCode {
    let filter =
        tracing_subscriber::EnvFilter::try_from_env("SAMEWIRE_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime =
        match tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("sw-control").build() {
            Ok(runtime) => runtime,
            Err(error) => return fail(&format!("the server cannot start: {error}."), None, None, 1),
        };
    let with_relay = !args.no_relay;
    let roles = move |server: &Server, place: &Place| {
        if with_relay { relay(server, place) } else { Ok(Roles::default()) }
    };
    let engine = Arc::new(sw_tailnet::PolicyEngine::new(&args.url));
    let served = runtime.block_on(sw_control::serve(args, common.state, engine, roles));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail("the control server stopped.", Some(error.to_string()), error.fix(), 1),
    }
}

/// The embedded relay: DERP on the server's listener, STUN on the same number and on 3478 (architecture.md §10.3).
fn relay(server: &Server, place: &Place) -> std::io::Result<Roles> {
    let make = || DerpPrivate::generate(sw_control::clock::random()).to_text();
    let key = server.key_or_make("derp", make).map_err(std::io::Error::other)?;
    let key = DerpPrivate::from_text(key.expose()).map_err(std::io::Error::other)?;
    let mut config = RelayConfig::new(Arc::new(key));
    config.admission = Arc::new(Members(server.control().clone()));
    let relay = Relay::new(config)?;
    place.certs.set_meta(&relay.meta_cert()?);
    let mut stun_ports = Vec::new();
    for port in [STUN_PORT, place.listen.port()] {
        let address = std::net::SocketAddr::new(place.listen.ip(), port);
        match sw_net::socket::bind_udp(address) {
            Ok(socket) => {
                relay.serve_stun(socket)?;
                stun_ports.push(port);
            }
            Err(error) => tracing::warn!(%address, %error, "no STUN there"),
        }
    }
    let place = RelayPlace {
        hosts: vec![place.host.trim_matches(['[', ']']).to_owned()],
        derp_port: place.listen.port(),
        stun_ports,
        cert_sha256: place.pin.map(sw_relay::hash_text),
        can_port_80: place.listen.port() == 80,
    };
    let region = sw_relay::derp_region(OWN_REGION, "home", "home", &place);
    Ok(Roles { others: Some(relay.router()), has_pages: false, derp_map: Some(sw_relay::derp_map(region)) })
}

/// Only machines of the network may use its relay.
struct Members(Control);

impl Admission for Members {
    fn admits(&self, key: NodeKey, _source: std::net::IpAddr) -> BoxFuture<bool> {
        let control = self.0.clone();
        Box::pin(async move {
            let known = control.read(move |tailnet| tailnet.state().node_by_key(&key).is_some());
            known.await.unwrap_or(false)
        })
    }
}

#[expect(clippy::print_stdout, reason = "the answer of the command")]
fn print(text: &str) {
    println!("{text}");
}

/// What, why, fix (ux.md §1).
#[expect(clippy::print_stderr, reason = "the error of the command")]
fn fail(what: &str, why: Option<String>, fix: Option<String>, code: u8) -> ExitCode {
    eprintln!("error: {what}");
    if let Some(why) = why {
        eprintln!("  why: {why}");
    }
    if let Some(fix) = fix {
        eprintln!("  fix: {fix}");
    }
    ExitCode::from(code)
}
