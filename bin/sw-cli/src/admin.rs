//! `samewire control …`: verbs against a running server, over its admin socket.
//!
//! Every verb is one or two requests of the admin API, so whatever is possible here is possible there.

mod client;
mod render;
mod verbs;

use std::path::PathBuf;

use clap::{Args, Subcommand};

pub use client::ClientError;
pub(crate) use client::{Client, Remote};
pub(crate) use verbs::policy;

/// Where the server's state lies when nothing is said (architecture.md §10.1).
pub(crate) const STATE: &str = "/var/lib/samewire/control";

/// What every verb takes.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// State directory of the server
    #[arg(long, value_name = "DIR", default_value = STATE, global = true)]
    pub state: PathBuf,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// Verbs of `samewire control`.
#[derive(Debug, Clone, Subcommand)]
pub enum AdminCommand {
    /// People of the network
    #[command(subcommand, visible_alias = "user")]
    Users(Users),
    /// Machines
    #[command(subcommand, visible_alias = "node")]
    Nodes(Nodes),
    /// Keys with which machines join
    #[command(subcommand, visible_aliases = ["preauthkeys", "authkeys", "key"])]
    Keys(Keys),
    /// Keys of the admin API
    #[command(subcommand, visible_aliases = ["apikey", "api"])]
    Apikeys(ApiKeys),
    /// SSH sessions that wait for their person (rules with "check")
    #[command(subcommand)]
    Ssh(Ssh),
    /// Subnet and exit routes
    #[command(subcommand)]
    Routes(Routes),
    /// The policy: who may reach whom
    #[command(subcommand)]
    Policy(Policy),
    /// DNS of the network
    #[command(subcommand)]
    Dns(Dns),
    /// Settings of the network: print them, or change some with NAME=VALUE
    Settings {
        /// approval=true, key_days=180, base_domain=example.net, name=…, https=true, …
        changes: Vec<String>,
    },
    /// Who changed what
    Audit {
        /// How many lines
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// Copy the running network into FILE (and its keys into FILE.keys)
    Backup {
        /// A file that does not exist yet
        file: PathBuf,
    },
    /// What the running server works with
    Config,
    /// Whether the server is well
    Health,
    /// Counters, as Prometheus reads them
    Metrics,
}

/// SSH sessions that wait.
#[derive(Debug, Clone, Subcommand)]
pub enum Ssh {
    /// List what waits
    #[command(visible_alias = "ls")]
    List,
    /// Let a session begin
    Allow {
        /// The id, or the page's URL
        id: String,
    },
    /// Turn a session away
    Refuse {
        /// The id, or the page's URL
        id: String,
    },
}

/// People.
#[derive(Debug, Clone, Subcommand)]
pub enum Users {
    /// Add a person
    #[command(visible_aliases = ["new", "c"])]
    Create {
        /// Short name
        name: String,
        /// Mail address
        #[arg(short, long)]
        email: Option<String>,
        /// The name people see
        #[arg(short, long)]
        display_name: Option<String>,
        /// owner, admin or member
        #[arg(long)]
        role: Option<String>,
    },
    /// List people
    #[command(visible_aliases = ["ls", "show"])]
    List,
    /// Change a person's short name
    #[command(visible_alias = "mv")]
    Rename {
        /// Name or id
        user: String,
        /// The new name
        name: String,
    },
    /// Set what a person may do
    Role {
        /// Name or id
        user: String,
        /// owner, admin or member
        role: String,
    },
    /// Cut a person and all their machines off
    Suspend {
        /// Name or id
        user: String,
    },
    /// Take a suspension back
    Restore {
        /// Name or id
        user: String,
    },
    /// Remove a person who has no machines
    #[command(visible_aliases = ["destroy", "rm"])]
    Delete {
        /// Name or id
        user: String,
    },
}

/// Machines. ID is an id, name, address or node key.
#[derive(Debug, Clone, Subcommand)]
pub enum Nodes {
    /// List machines
    #[command(visible_aliases = ["ls", "show"])]
    List {
        /// Only this person's
        #[arg(short, long)]
        user: Option<String>,
    },
    /// Let a machine in: a login request's id or URL, or a machine that waits
    #[command(visible_alias = "register")]
    Approve {
        /// What waits
        id: String,
        /// Whose machine it becomes; not needed where there is one person
        #[arg(short, long)]
        user: Option<String>,
    },
    /// Refuse a login request
    Refuse {
        /// Its id or URL
        id: String,
    },
    /// List login requests that wait
    Waiting,
    /// Give a machine another name; without one it follows its host name
    #[command(visible_alias = "mv")]
    Rename {
        /// Which machine
        id: String,
        /// The new name
        name: Option<String>,
    },
    /// End a machine's key now, or set when it ends
    #[command(visible_aliases = ["logout", "exp"])]
    Expire {
        /// Which machine
        id: String,
        /// RFC 3339 time
        #[arg(short, long, value_name = "TIME")]
        expiry: Option<String>,
        /// Never expire
        #[arg(short, long)]
        disable: bool,
    },
    /// Ask a machine whether it hears the server
    Ping {
        /// Which machine
        id: String,
    },
    /// Remove a machine
    #[command(visible_aliases = ["rm", "del"])]
    Delete {
        /// Which machine
        id: String,
    },
    /// Give a machine tags in place of its owner
    #[command(visible_alias = "tags")]
    Tag {
        /// Which machine
        id: String,
        /// tag:a,tag:b
        #[arg(short, long, value_delimiter = ',', required = true)]
        tags: Vec<String>,
    },
    /// Give a machine to a person
    Move {
        /// Which machine
        id: String,
        /// To whom
        #[arg(short, long)]
        user: String,
    },
}

/// Keys for joining.
#[derive(Debug, Clone, Subcommand)]
pub enum Keys {
    /// Make a key; its text is shown this once
    #[command(visible_aliases = ["new", "c"])]
    Create {
        /// Whose machines; not needed where there is one person
        #[arg(short, long)]
        user: Option<String>,
        /// Good for any number of machines
        #[arg(long)]
        reusable: bool,
        /// Machines are removed when they have been away
        #[arg(long)]
        ephemeral: bool,
        /// Machines need no approval
        #[arg(long)]
        preapproved: bool,
        /// tag:a,tag:b
        #[arg(long, value_delimiter = ',')]
        tags: Vec<String>,
        /// 30m, 1h, 90d; 0 is never
        #[arg(short, long, visible_alias = "expiration", default_value = "1h")]
        expiry: String,
    },
    /// List keys
    #[command(visible_aliases = ["ls", "show"])]
    List,
    /// Take a key back
    #[command(visible_alias = "revoke")]
    Expire {
        /// Its six characters
        id: String,
    },
    /// Remove a key from the list
    #[command(visible_aliases = ["rm", "del"])]
    Delete {
        /// Its six characters
        id: String,
    },
}

/// Keys of the admin API.
#[derive(Debug, Clone, Subcommand)]
pub enum ApiKeys {
    /// Make a key; its text is shown this once
    #[command(visible_aliases = ["new", "c"])]
    Create {
        /// 30m, 1h, 90d; 0 is never
        #[arg(short, long, visible_alias = "expiration", default_value = "90d")]
        expiry: String,
        /// all, devices:core:read, …
        #[arg(short, long, value_delimiter = ',')]
        scopes: Vec<String>,
    },
    /// List keys
    #[command(visible_aliases = ["ls", "show"])]
    List,
    /// End a key now
    Expire {
        /// Its six characters
        id: String,
    },
    /// Remove a key
    #[command(visible_aliases = ["rm", "del"])]
    Delete {
        /// Its six characters
        id: String,
    },
}

/// Routes.
#[derive(Debug, Clone, Subcommand)]
pub enum Routes {
    /// List announced and approved routes
    #[command(visible_alias = "ls")]
    List,
    /// Set which routes of a machine are approved
    Approve {
        /// Which machine
        id: String,
        /// 10.0.0.0/8,0.0.0.0/0; without it: everything the machine announces
        #[arg(short, long, value_delimiter = ',')]
        routes: Option<Vec<String>>,
    },
}

/// Policy.
#[derive(Debug, Clone, Subcommand)]
pub enum Policy {
    /// Print the policy in force
    Get,
    /// Put a file in force
    Set {
        /// HuJSON; - is standard input
        file: PathBuf,
    },
    /// List the versions: when, by whom
    History,
    /// Put an old version in force again
    Rollback {
        /// The version, as `history` lists it
        version: u64,
    },
}

/// DNS.
#[derive(Debug, Clone, Subcommand)]
pub enum Dns {
    /// Print the DNS settings as JSON
    Get,
    /// Put the DNS settings of a JSON file in force
    Set {
        /// The file; - is standard input
        file: PathBuf,
    },
}

/// One request of the admin API, for other verbs; `path` is below `/api/samewire/v1/`.
///
/// # Errors
/// [`ClientError`].
pub fn ask(
    state: &std::path::Path,
    method: &str,
    path: &str,
    body: serde_json::Value,
) -> Result<serde_json::Value, ClientError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ClientError::Runtime)?;
    let client = Client::new(state);
    runtime.block_on(async {
        match method {
            "GET" => client.get(path).await,
            _ => client.post(path, body).await,
        }
    })
}

/// Runs a verb and returns its exit code.
///
/// # Errors
/// [`ClientError`], with what, why and fix for people.
pub fn run(common: &Common, command: &AdminCommand) -> Result<u8, ClientError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ClientError::Runtime)?;
    runtime.block_on(verbs::run(common, command))
}
