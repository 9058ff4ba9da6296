//! The handle to a running tailnet, for everybody in this process.

use std::path::PathBuf;

use sw_store::{Seq, Store, StoreError};
use sw_tailcfg::{DerpMap, MapRequest, PathsReport, PingRequest, RegisterRequest, RegisterResponse};
use sw_tailnet::{
    Change, CheckDecision, Command, Config, Done, Ended, Entry, Facts, MapRefused, PolicyVersion, Pool,
    Settings, SshSession, State, StreamId, Tailnet,
};
use sw_types::{MachineKey, NodeId, UnixTime};
use tokio::sync::{mpsc, oneshot};

use crate::clock;
use crate::store_thread::StoreThread;
use crate::task::{Driver, Failure, JOBS_MAX, Job, MapAnswer};

/// Speaks to the owner of the tailnet. Clones speak to the same one.
///
/// This is the one way in for the API, the command line and the page: [`Self::execute`] changes,
/// [`Self::read`] looks.
#[derive(Debug, Clone)]
pub struct Control {
    jobs: mpsc::Sender<Job>,
}

/// Why a stored state cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Storage.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The records contradict each other.
    #[error("the stored records do not add up: {0}")]
    Inconsistent(#[from] sw_tailnet::Inconsistent),
    /// The system.
    #[error("starting the storage thread: {0}")]
    Thread(#[from] std::io::Error),
}

impl Control {
    /// Loads the tailnet from `store` and runs it on the present runtime.
    ///
    /// # Errors
    /// [`StartError`]; damage never becomes an empty network.
    pub fn start(
        config: Config,
        mut store: Box<dyn Store>,
    ) -> Result<(Self, tokio::task::JoinHandle<()>), StartError> {
        let loaded = store.load()?;
        let (state, seq) = take_up(loaded.seq, loaded.records, &mut *store)?;
        let facts = take_facts(&state, loaded.volatile, &mut *store);
        let tailnet = Tailnet::new(config, state, facts, clock::now());
        let (jobs, inbox) = mpsc::channel(JOBS_MAX);
        let driver = Driver::new(tailnet, StoreThread::start(store)?, seq, inbox);
        Ok((Self { jobs }, tokio::spawn(driver.run())))
    }

    /// Does what an operator wants. The caller has checked that `actor` may.
    ///
    /// # Errors
    /// [`Failure`]; then nothing changed.
    pub async fn execute(&self, actor: &str, command: Command) -> Result<Done, Failure> {
        let (actor, command) = (actor.to_owned(), Box::new(command));
        self.ask(|answer| Job::Execute { actor, command, answer }).await
    }

    /// Looks at the tailnet between two changes. `look` must be quick: it holds everybody up.
    ///
    /// # Errors
    /// [`Failure::Stopping`].
    pub async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Tailnet) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        self.ask(|answer| Job::Read(Box::new(move |tailnet| drop(answer.send(Ok(look(tailnet))))))).await
    }

    /// The audit log before `before`, newest first.
    ///
    /// # Errors
    /// [`Failure::Storage`], [`Failure::Stopping`].
    pub async fn audit(&self, before: Option<Seq>, limit: usize) -> Result<Vec<(Seq, Entry)>, Failure> {
        self.ask(|answer| Job::Audit { before, limit, answer }).await
    }

    /// All versions of the policy that the log still holds, newest first.
    ///
    /// # Errors
    /// [`Failure::Storage`], [`Failure::Stopping`].
    pub async fn policy_versions(&self) -> Result<Vec<PolicyVersion>, Failure> {
        const LOOKED_AT: usize = 5_000;
        let changes = self.audit(None, LOOKED_AT).await?.into_iter().flat_map(|(_, entry)| entry.changes);
        let mut versions: Vec<PolicyVersion> = changes
            .filter_map(
                |change| if let Change::Policy(Some(version)) = change { Some(*version) } else { None },
            )
            .collect();
        versions.sort_by_key(|version| std::cmp::Reverse(version.version));
        versions.dedup_by_key(|version| version.version);
        Ok(versions)
    }

    /// Writes a copy of the database to a file that does not exist yet.
    ///
    /// # Errors
    /// [`Failure::Storage`], [`Failure::Stopping`].
    pub async fn backup(&self, to: PathBuf) -> Result<(), Failure> {
        self.ask(|answer| Job::Backup { to, answer }).await
    }

    /// Drops log entries from before a moment and returns how many. Records stay.
    ///
    /// # Errors
    /// [`Failure::Storage`], [`Failure::Stopping`].
    pub(crate) async fn trim(&self, before: UnixTime) -> Result<usize, Failure> {
        self.ask(|answer| Job::Trim { before, answer }).await
    }

    /// Puts a relay map in force.
    ///
    /// # Errors
    /// [`Failure::Stopping`].
    pub async fn set_derp_map(&self, map: DerpMap) -> Result<(), Failure> {
        self.send(Job::DerpMap(Box::new(map))).await
    }

    /// Saves and ends the tailnet.
    pub async fn stop(&self) {
        let (done, ended) = oneshot::channel();
        if self.send(Job::Stop { done }).await.is_ok() {
            drop(ended.await);
        }
    }

    pub(crate) async fn register(
        &self,
        machine: MachineKey,
        request: RegisterRequest,
    ) -> Result<RegisterResponse, Failure> {
        let request = Box::new(request);
        self.ask(|answer| Job::Register { machine, request, answer }).await
    }

    pub(crate) async fn map(
        &self,
        machine: MachineKey,
        request: MapRequest,
    ) -> Result<Result<MapAnswer, MapRefused>, Failure> {
        let request = Box::new(request);
        self.ask(|answer| Job::Map { machine, request, answer }).await
    }

    /// Asks whether an SSH session may begin; waits for the person when `waiting` names a check.
    pub(crate) async fn ssh_check(
        &self,
        machine: MachineKey,
        session: SshSession,
        waiting: Option<String>,
    ) -> Result<CheckDecision, Failure> {
        self.ask(|answer| Job::SshCheck { machine, session, waiting, answer }).await
    }

    /// Sends a question on a machine's stream; false: it has none, or is being asked already.
    pub(crate) async fn question(&self, node: NodeId, question: PingRequest) -> Result<bool, Failure> {
        let question = Box::new(question);
        self.ask(|answer| Job::Question { node, question, answer }).await
    }

    pub(crate) async fn stream_ready(&self, id: StreamId) {
        drop(self.send(Job::StreamReady(id)).await);
    }

    pub(crate) async fn stream_closed(&self, id: StreamId, ended: Ended) {
        drop(self.send(Job::StreamClosed(id, ended)).await);
    }

    pub(crate) async fn paths(&self, node: NodeId, report: PathsReport) -> Result<(), Failure> {
        self.send(Job::Paths(node, Box::new(report))).await
    }

    async fn send(&self, job: Job) -> Result<(), Failure> {
        self.jobs.send(job).await.map_err(|_| Failure::Stopping)
    }

    async fn ask<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, Failure>>) -> Job,
    ) -> Result<T, Failure> {
        let (answer, result) = oneshot::channel();
        self.send(job(answer)).await?;
        result.await.unwrap_or(Err(Failure::Stopping))
    }
}

/// The stored state, or that of a new network if there is none.
fn take_up(seq: Seq, records: Vec<Change>, store: &mut dyn Store) -> Result<(State, Seq), StartError> {
    let settings = records.iter().find_map(|change| match change {
        Change::Settings(Some(settings)) => Some((**settings).clone()),
        Change::User(..)
        | Change::Node(..)
        | Change::AuthKey(..)
        | Change::ApiKey(..)
        | Change::Session(..)
        | Change::Settings(_)
        | Change::Policy(_)
        | Change::NextIds(_) => None,
    });
    match settings {
        Some(settings) => Ok((State::from_records(settings, records)?, seq)),
        None if seq == Seq(0) && records.is_empty() => {
            let settings = new_settings();
            let changes = vec![Change::Settings(Some(Box::new(settings.clone())))];
            let entry =
                Entry { at: clock::now().wall, actor: "server".to_owned(), audit: Vec::new(), changes };
            let seq = store.append(seq, &[entry])?;
            Ok((State::new(settings), seq))
        }
        None => {
            let what = "table record: the settings are missing".to_owned();
            Err(StoreError::Corrupt { file: "control.db".into(), what }.into())
        }
    }
}

fn new_settings() -> Settings {
    let [a, b, c, d, e, f] = clock::random();
    let suffix = sw_types::TokenId::from_number(u64::from_be_bytes([0, 0, 0, a, b, c, d, e])).to_string();
    // A letter between the digits of the id and those of the suffix (control.md §5.6).
    Settings::new(format!("S{suffix}"), Pool::starting_at(u32::from_be_bytes([0, d ^ f, e, f])))
}

/// Reads saved facts and drops those of machines that are gone.
fn take_facts(state: &State, saved: Vec<(NodeId, String)>, store: &mut dyn Store) -> Vec<(NodeId, Facts)> {
    let (known, gone): (Vec<_>, Vec<_>) = saved.into_iter().partition(|(id, _)| state.node(*id).is_some());
    if !gone.is_empty() {
        let gone: Vec<(NodeId, Option<String>)> = gone.into_iter().map(|(id, _)| (id, None)).collect();
        if let Err(error) = store.put_volatile(&gone) {
            tracing::warn!(%error, "facts about removed machines could not be dropped");
        }
    }
    known.into_iter().filter_map(|(id, text)| Some((id, serde_json::from_str(&text).ok()?))).collect()
}
