//! `samewire control`: the server itself, and verbs against a running one.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand};
use samewire::first_run::reach;
use samewire::serving::{Place, Serving};
use sw_cli::admin::{AdminCommand, Common};
use sw_control::{Bound, Roles, ServeArgs, Server};
use sw_net::acme::{HttpProofs, Keeper};
use sw_net::tls::CertStore;
use sw_page::OidcConfig;
use sw_types::Secret;

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
    Serve {
        #[command(flatten)]
        serve: Box<ServeArgs>,
        #[command(flatten)]
        oidc: OidcArgs,
    },
    /// Put a backup in the place of the network (the server must not run)
    Restore {
        /// What `control backup` wrote
        file: PathBuf,
    },
    #[command(flatten)]
    Admin(AdminCommand),
}

/// Company sign-in (OpenID Connect).
#[derive(Debug, Args)]
struct OidcArgs {
    /// The provider's issuer URL; its people can then sign in to the page
    #[arg(long, value_name = "URL", requires = "oidc_client_id")]
    oidc_issuer: Option<String>,
    /// The name under which the provider knows this server (redirect URL: URL/oidc/callback)
    #[arg(long, value_name = "ID", requires = "oidc_issuer")]
    oidc_client_id: Option<String>,
    /// File with the client's secret
    #[arg(long, value_name = "FILE", requires = "oidc_issuer")]
    oidc_client_secret_file: Option<PathBuf>,
    /// People with a verified mail address of this domain get in (may be given more than once)
    #[arg(long, value_name = "DOMAIN", requires = "oidc_issuer")]
    oidc_allow_domain: Vec<String>,
    /// People of this group get in (may be given more than once)
    #[arg(long, value_name = "GROUP", requires = "oidc_issuer")]
    oidc_allow_group: Vec<String>,
    /// The claim that lists a person's groups; they are group:NAME in the policy
    #[arg(long, value_name = "CLAIM", default_value = "groups")]
    oidc_groups_claim: String,
    /// Members of this group are admins
    #[arg(long, value_name = "GROUP", requires = "oidc_issuer")]
    oidc_admin_group: Option<String>,
}

impl OidcArgs {
    fn config(self) -> std::io::Result<Option<OidcConfig>> {
        let (Some(issuer), Some(client_id)) = (self.oidc_issuer, self.oidc_client_id) else {
            return Ok(None);
        };
        let secret = self.oidc_client_secret_file.map(std::fs::read_to_string).transpose()?;
        Ok(Some(OidcConfig {
            issuer,
            client_id,
            client_secret: secret.map(|text| Secret::new(text.trim().to_owned())),
            allow_domains: self.oidc_allow_domain,
            allow_groups: self.oidc_allow_group,
            groups_claim: self.oidc_groups_claim,
            admin_group: self.oidc_admin_group,
        }))
    }
}

pub(crate) fn run(args: ControlArgs) -> ExitCode {
    match args.command {
        ControlCommand::Serve { serve: serve_args, oidc } => match oidc.config() {
            Ok(oidc) => serve(*serve_args, oidc, args.common),
            Err(error) => fail(&format!("the OIDC secret cannot be read: {error}."), None, None, 1),
        },
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
                print_error(&serde_json::json!({ "error": error.problem() }).to_string());
                ExitCode::from(error.exit_code())
            }
            Err(error) => fail(&error.to_string(), error.why(), error.fix(), error.exit_code()),
        },
    }
}

fn serve(args: ServeArgs, oidc: Option<OidcConfig>, common: Common) -> ExitCode {
    crate::start_log();
    let runtime =
        match tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("sw-control").build() {
            Ok(runtime) => runtime,
            Err(error) => return fail(&format!("the server cannot start: {error}."), None, None, 1),
        };
    let engine = Arc::new(sw_tailnet::PolicyEngine::new(&args.url));
    let (no_relay, state) = (args.no_relay, common.state.clone());
    let roles = move |server: &Server, bound: Bound| roles(server, bound, oidc, &state, no_relay);
    let served = runtime.block_on(sw_control::serve(args, common.state, engine, roles));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail("the control server stopped.", Some(error.to_string()), error.fix(), 1),
    }
}

/// Relay, STUN and page of this process.
fn roles(
    server: &Server,
    bound: Bound,
    oidc: Option<OidcConfig>,
    state: &std::path::Path,
    no_relay: bool,
) -> Result<Roles, String> {
    let mut hosts = vec![bound.host];
    let own = bound.listen.ip();
    if !own.is_unspecified() && !hosts.contains(&reach::url_host(own)) {
        hosts.push(reach::url_host(own));
    }
    let port = bound.listen.port();
    let is_tls = bound.url.starts_with("https://");
    let mut place = Place {
        tls_url: if is_tls { bound.url.clone() } else { format!("https://{}:{port}", hosts[0]) },
        login_server: bound.url,
        candidates: hosts.iter().map(|host| (host.clone(), port)).collect(),
        hosts,
        listen: bound.listen,
        can_port_80: port == sw_types::HTTP_PORT,
        is_reachable_outside: reach::is_public(own),
        has_node: false,
        given: bound.given,
        oidc,
    };
    let told = |error: anyhow::Error| format!("{error:#}");
    let (certificates, proofs) = (CertStore::new(), Arc::<HttpProofs>::default());
    let keeper = match bound.acme {
        Some(wish) => {
            let key = samewire::serving::own_key_pem(state, &place.hosts).map_err(told)?;
            let (store, proofs) = (Arc::clone(&certificates), Arc::clone(&proofs));
            let keeper = Keeper::new(wish, state, Some(key), store, proofs);
            place.given = keeper.kept().map_err(|error| error.to_string())?;
            Some(keeper)
        }
        None => None,
    };
    let serving = Serving::start(server, state, &place, no_relay, &certificates).map_err(told)?;
    Ok(Roles {
        others: Some(serving.router()),
        derp_map: serving.derp_map.clone(),
        tls: Some(Arc::clone(&serving.tls)),
        proofs,
        keeper,
        certified: Some(Box::new(serving.when_certified())),
    })
}

fn print(text: &str) {
    let _reader_gone = sw_cli::local::say(text);
}

fn print_error(text: &str) {
    sw_cli::local::warn(text);
}

/// What, why, fix (ux.md §1).
fn fail(what: &str, why: Option<String>, fix: Option<String>, code: u8) -> ExitCode {
    print_error(&format!("error: {what}"));
    if let Some(why) = why {
        print_error(&format!("  why: {why}"));
    }
    if let Some(fix) = fix {
        print_error(&format!("  fix: {fix}"));
    }
    ExitCode::from(code)
}
