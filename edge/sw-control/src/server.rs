//! The server: what all connections share, and its start and stop.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sw_net::front::{FrontStats, Router};
use sw_store::{KeyFile, KeyFileError, SqliteStore, Store};
use sw_tailnet::{Config, Engine};
use sw_types::{ControlKey, ControlPrivate, Secret};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::c2n::Questions;
use crate::clock;
use crate::control::{Control, StartError};
use crate::join::JoinFacts;
use crate::metrics::Metrics;
use crate::program::Downloads;
use crate::public::PublicRouter;
use crate::throttle::Throttle;

/// Name of the Noise key in the key file.
const NOISE: &str = "noise";

/// What a server needs.
#[derive(Debug)]
pub struct ServerConfig {
    /// The URL that clients know it by, without trailing slash.
    pub url: String,
    /// Where `control.db`, `control.keys` and `control.sock` lie.
    pub state: PathBuf,
    /// Parses policies.
    pub engine: Arc<dyn Engine>,
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The state directory.
    #[error("{action} {path}: {source}")]
    State {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The key file.
    #[error(transparent)]
    Keys(#[from] KeyFileError),
    /// The key file holds something that is no key.
    #[error("control.keys: the key {name:?} cannot be read: {source}")]
    Key {
        /// Which.
        name: &'static str,
        /// Why.
        source: sw_types::KeyError,
    },
    /// The stored network.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// Everything that connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub control: Control,
    pub noise_key: ControlPrivate,
    pub url: String,
    pub state: PathBuf,
    pub tasks: TaskTracker,
    pub stopping: CancellationToken,
    pub throttle: Throttle,
    pub metrics: Metrics,
    pub questions: Questions,
    pub front: OnceLock<Arc<FrontStats>>,
    pub join: OnceLock<Arc<JoinFacts>>,
    pub downloads: Downloads,
}

/// A running control server, without its listeners: hand [`Self::router`] to a front.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    driver: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Opens the state directory and takes up the network in it, or begins a new one.
    ///
    /// # Errors
    /// [`ServerError`]; nothing was changed but what a new network needs.
    pub fn start(config: ServerConfig) -> Result<Self, ServerError> {
        prepare_directory(&config.state)?;
        let store = SqliteStore::open(&config.state.join("control.db")).map_err(StartError::from)?;
        Self::start_with(config, Box::new(store))
    }

    /// As [`Self::start`], with a store of the caller's.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(config: ServerConfig, store: Box<dyn Store>) -> Result<Self, ServerError> {
        let mut keys = KeyFile::open(&config.state.join("control.keys"))?;
        let make = || ControlPrivate::generate(clock::random()).to_text();
        let noise = keys.get_or_make(NOISE, make)?;
        let noise_key = ControlPrivate::from_text(noise.expose());
        let noise_key = noise_key.map_err(|source| ServerError::Key { name: NOISE, source })?;
        let tailnet = Config { url: config.url.clone(), engine: config.engine, seed: clock::random() };
        let (control, driver) = Control::start(tailnet, store)?;
        let shared = Shared {
            control,
            noise_key,
            url: config.url,
            state: config.state,
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            throttle: Throttle::default(),
            metrics: Metrics::default(),
            questions: Questions::default(),
            front: OnceLock::new(),
            join: OnceLock::new(),
            downloads: Downloads::default(),
        };
        Ok(Self { shared: Arc::new(shared), driver })
    }

    #[cfg(test)]
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Speaks to the network.
    pub fn control(&self) -> &Control {
        &self.shared.control
    }

    /// The key that clients pin.
    pub fn noise_key(&self) -> ControlKey {
        self.shared.noise_key.public()
    }

    /// A private key or certificate kept in `control.keys`, made at the first call.
    ///
    /// # Errors
    /// [`ServerError::Keys`].
    pub fn key_or_make(
        &self,
        name: &str,
        make: impl FnOnce() -> Secret<String>,
    ) -> Result<Secret<String>, ServerError> {
        let mut keys = KeyFile::open(&self.shared.state.join("control.keys"))?;
        Ok(keys.get_or_make(name, make)?)
    }

    /// Answers the control role's paths; `others` gets what is not ours (relay, page). With `has_pages`
    /// login pages are theirs too.
    pub fn router(&self, others: Option<Arc<dyn Router>>, has_pages: bool) -> Arc<PublicRouter> {
        Arc::new(PublicRouter::new(Arc::clone(&self.shared), others, has_pages))
    }

    /// Shows the front's counters among the metrics.
    pub fn set_front_stats(&self, stats: Arc<FrontStats>) {
        drop(self.shared.front.set(stats));
    }

    /// Says how machines join, for invites of API and command line.
    pub fn set_join(&self, facts: Arc<JoinFacts>) {
        drop(self.shared.join.set(facts));
    }

    /// Serves the admin socket `control.sock` until the server stops.
    ///
    /// # Errors
    /// [`ServerError::State`] when it cannot be bound.
    pub fn serve_socket(&self) -> Result<(), ServerError> {
        let path = self.shared.state.join("control.sock");
        let listener = crate::socket::bind(&self.shared.state).map_err(|source| ServerError::State {
            action: "binding",
            path,
            source,
        })?;
        let shared = Arc::clone(&self.shared);
        self.shared.tasks.spawn(crate::socket::serve(shared, listener));
        Ok(())
    }

    /// Makes a snapshot in `snapshots/` each day and drops what of the log is older than 400 days, until the server
    /// stops.
    pub fn keep_up(&self) {
        let Shared { control, state, stopping, .. } = &*self.shared;
        self.shared.tasks.spawn(crate::upkeep::run(control.clone(), state.clone(), stopping.clone()));
    }

    /// Tells clients to go elsewhere, gives them `grace` to finish, saves and ends.
    pub async fn stop(self, grace: Duration) {
        self.shared.stopping.cancel();
        self.shared.tasks.close();
        // Map streams end with the tailnet; the grace is for answers under way.
        tokio::time::sleep(grace.min(Duration::from_millis(200))).await;
        self.shared.control.stop().await;
        drop(tokio::time::timeout(grace, self.driver).await);
        drop(tokio::time::timeout(grace, self.shared.tasks.wait()).await);
        crate::socket::remove(&self.shared.state);
    }
}

fn prepare_directory(path: &Path) -> Result<(), ServerError> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    let state = |action, source| ServerError::State { action, path: path.to_owned(), source };
    if !path.exists() {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(path).map_err(|e| state("making", e))?;
    }
    let mode = std::fs::metadata(path).map_err(|e| state("reading", e))?.permissions().mode();
    if mode & 0o022 != 0 {
        let problem = std::io::Error::other(format!(
            "others can write in it (mode {:o}); run: chmod 700 {}",
            mode & 0o777,
            path.display()
        ));
        return Err(state("using", problem));
    }
    Ok(())
}
