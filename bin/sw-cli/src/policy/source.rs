//! Where a policy and the machines it applies to come from: files, or a server.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use hyper::Method;
use sw_policy::conform::{Network, WorldInput};

use crate::admin::{self, Client, ClientError, Remote};

/// Why a verb did not do its work: a message for people and an exit code.
pub(super) struct Failure {
    pub(super) what: String,
    pub(super) why: Option<String>,
    pub(super) fix: Option<String>,
    pub(super) code: u8,
}

impl Failure {
    pub(super) fn wrong(what: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what: what.into(), why: Some(why.into()), fix: Some(fix.into()), code: 2 }
    }

    /// Prints it on standard error.
    pub(super) fn report(self) -> ExitCode {
        let mut text = format!("error: {}", self.what);
        if let Some(why) = self.why {
            text.push_str(&format!("\n  why: {}", sw_types::problem::without_numbers(&why)));
        }
        if let Some(fix) = self.fix {
            text.push_str(&format!("\n  fix: {fix}"));
        }
        crate::local::warn(text);
        ExitCode::from(self.code)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        // A refused policy says each of its mistakes on a line.
        let what = error.to_string().replace('\n', "\n       ");
        Self { what, why: error.why(), fix: error.fix(), code: error.exit_code() }
    }
}

pub(super) type Done = Result<ExitCode, Failure>;

/// What a verb is about.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// JSON file with the people and machines the policy applies to
    #[arg(long = "world", value_name = "FILE", conflicts_with_all = ["state", "server"])]
    world: Option<PathBuf>,
    /// The server on this machine with this state directory
    #[arg(long, value_name = "DIR", conflicts_with = "server")]
    state: Option<PathBuf>,
    /// The server at this URL
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Key of the server's API: samewire control apikeys create
    #[arg(long, value_name = "KEY", env = "SAMEWIRE_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// SHA-256 of the certificate of a server which made its own
    #[arg(long, value_name = "HASH", requires = "server")]
    pin: Option<String>,
}

/// A policy text with the machines it is to apply to.
pub(super) struct Loaded {
    /// The file, or what stands for it in messages.
    pub(super) name: String,
    pub(super) text: String,
}

impl Place {
    /// Reads the policy file, or the policy in force when there is none.
    pub(super) fn policy(&self, file: Option<&Path>) -> Result<Loaded, Failure> {
        if let Some(file) = file {
            return Ok(Loaded { name: file.display().to_string(), text: read(file)? });
        }
        if self.world.is_some() {
            let fix = "name the policy file before the other words";
            return Err(Failure::wrong(
                "a policy file is missing.",
                "--world names machines, not a policy",
                fix,
            ));
        }
        Ok(Loaded { name: "in force".to_owned(), text: self.ask("policy")? })
    }

    /// Reads the people and machines: of the file, of the server, or none when only a policy file was named.
    pub(super) fn network(&self, has_file: bool) -> Result<Option<Network>, Failure> {
        if let Some(path) = &self.world {
            let fix = "write {\"users\": [{\"id\": 1, \"name\": ...}], \"nodes\": [{\"id\": 1, \"name\": ..., \
                       \"user\": 1, \"ipv4\": ...}]}";
            let input: WorldInput = serde_json::from_str(&read(path)?).map_err(|error| {
                let what = format!("the file {:?} is not a world.", path.display().to_string());
                Failure::wrong(what, error.to_string(), fix)
            })?;
            return Ok(Some(input.network()));
        }
        if has_file && self.state.is_none() && self.server.is_none() {
            return Ok(None);
        }
        let input: WorldInput = serde_json::from_str(&self.ask("policy/world")?)
            .map_err(|error| ClientError::Broken(error.to_string()))?;
        Ok(Some(input.network()))
    }

    fn client(&self) -> Result<Client<'_>, Failure> {
        let Some(url) = &self.server else {
            return Ok(Client::new(self.state.as_deref().unwrap_or(Path::new(admin::STATE))));
        };
        let Some(key) = &self.api_key else {
            let fix =
                "on the server: samewire control apikeys create; then --api-key KEY or SAMEWIRE_API_KEY";
            return Err(Failure::wrong("--server needs an API key.", "none was given", fix));
        };
        Ok(Client::There(Remote::new(url, key, self.pin.as_deref())?))
    }

    fn ask(&self, path: &str) -> Result<String, Failure> {
        let client = self.client()?;
        Ok(runtime()?.block_on(client.text(Method::GET, path, String::new()))?)
    }

    /// Does what only a server can do.
    pub(super) fn do_on_server(&self, as_json: bool, verb: &admin::Policy) -> Done {
        if self.world.is_some() {
            let fix = "name a server: --state DIR or --server URL";
            return Err(Failure::wrong("a world is no server.", "--world was given", fix));
        }
        let client = self.client()?;
        runtime()?.block_on(admin::policy(&client, as_json, verb))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, ClientError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ClientError::Runtime)
}

pub(super) fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| {
        let what = format!("the file {:?} cannot be read.", path.display().to_string());
        Failure::wrong(what, error.to_string(), "check the name and the rights of the file")
    })
}
