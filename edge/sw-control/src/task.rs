//! The driver of the tailnet: takes jobs, commits what they decide, then answers.
//!
//! Jobs that came in while the disk was busy are decided together and committed together, so a
//! thousand machines that join at once cost a handful of syncs. Nothing leaves before its commit.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use sw_store::{Seq, Store, StoreError};
use sw_tailcfg::{DerpMap, MapRequest, PathsReport, PingRequest, RegisterRequest, RegisterResponse};
use sw_tailnet::{
    CheckDecision, Command, Done, EndReason, Ended, Entry, Facts, MapMessage, MapRefused, MapReply, Output,
    Refusal, Registered, SshSession, StreamId, Tailnet, Ticket,
};
use sw_types::{MachineKey, NodeId, UnixTime};
use tokio::sync::{mpsc, oneshot};

use crate::clock;
use crate::store_thread::StoreThread;

/// Jobs that may wait; beyond it their senders do.
pub(crate) const JOBS_MAX: usize = 4_096;
/// Jobs decided before one commit.
const BATCH_MAX: usize = 512;
/// How often facts that may be lost are saved.
const SAVE_EVERY: Duration = Duration::from_secs(60);

/// Why a job was not done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    /// The tailnet said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It was decided but could not be kept, so it did not happen.
    #[error("the change could not be saved: {0}")]
    Storage(String),
    /// The same, for want of space.
    #[error("the disk holding {0} is full, so nothing was changed")]
    DiskFull(String),
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopping,
}

/// What a map stream is sent.
#[derive(Debug)]
pub(crate) enum StreamItem {
    Message(MapMessage),
    End(EndReason),
}

/// An accepted map request.
#[derive(Debug)]
pub(crate) enum MapAnswer {
    Stored,
    Once(MapMessage),
    Streaming { id: StreamId, items: mpsc::Receiver<StreamItem> },
}

type Answer<T> = oneshot::Sender<Result<T, Failure>>;

/// Something to do for the owner of the tailnet.
pub(crate) enum Job {
    Register {
        machine: MachineKey,
        request: Box<RegisterRequest>,
        answer: Answer<RegisterResponse>,
    },
    Map {
        machine: MachineKey,
        request: Box<MapRequest>,
        answer: Answer<Result<MapAnswer, MapRefused>>,
    },
    StreamReady(StreamId),
    StreamClosed(StreamId, Ended),
    Execute {
        actor: String,
        command: Box<Command>,
        answer: Answer<Done>,
    },
    Read(Box<dyn FnOnce(&Tailnet) + Send>),
    Paths(NodeId, Box<PathsReport>),
    DerpMap(Box<DerpMap>),
    Audit {
        before: Option<Seq>,
        limit: usize,
        answer: Answer<Vec<(Seq, Entry)>>,
    },
    SshCheck {
        machine: MachineKey,
        session: SshSession,
        waiting: Option<String>,
        answer: Answer<CheckDecision>,
    },
    Question {
        node: NodeId,
        question: Box<PingRequest>,
        answer: Answer<bool>,
    },
    Backup {
        to: PathBuf,
        answer: Answer<()>,
    },
    Trim {
        before: UnixTime,
        answer: Answer<usize>,
    },
    Stop {
        done: oneshot::Sender<()>,
    },
}

/// An answer that waits for the commit.
enum Pending {
    Register(Answer<RegisterResponse>, RegisterResponse),
    Map(Answer<Result<MapAnswer, MapRefused>>, Result<MapAnswer, MapRefused>),
    Execute(Answer<Done>, Done),
}

impl Pending {
    fn settle(self, outcome: Result<(), Failure>) {
        match self {
            Self::Register(answer, value) => drop(answer.send(outcome.map(|()| value))),
            Self::Map(answer, value) => drop(answer.send(outcome.map(|()| value))),
            Self::Execute(answer, value) => drop(answer.send(outcome.map(|()| value))),
        }
    }
}

pub(crate) struct Driver {
    tailnet: Tailnet,
    store: StoreThread,
    seq: Seq,
    jobs: mpsc::Receiver<Job>,
    sinks: HashMap<StreamId, mpsc::Sender<StreamItem>>,
    tickets: HashMap<Ticket, Answer<RegisterResponse>>,
    checks: HashMap<Ticket, Answer<CheckDecision>>,
    next_stream: StreamId,
    next_ticket: Ticket,
    pending: Vec<Pending>,
    stop: Option<oneshot::Sender<()>>,
}

impl Driver {
    pub(crate) fn new(tailnet: Tailnet, store: StoreThread, seq: Seq, jobs: mpsc::Receiver<Job>) -> Self {
        Self {
            tailnet,
            store,
            seq,
            jobs,
            sinks: HashMap::new(),
            tickets: HashMap::new(),
            checks: HashMap::new(),
            next_stream: 1,
            next_ticket: 1,
            pending: Vec::new(),
            stop: None,
        }
    }

    /// Runs until a [`Job::Stop`] or until nobody can send jobs any more.
    pub(crate) async fn run(mut self) {
        let mut save = tokio::time::interval(SAVE_EVERY);
        save.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.settle().await;
        while self.stop.is_none() {
            let deadline = self.tailnet.next_deadline(clock::now()).map(|(at, _)| at);
            tokio::select! {
                job = self.jobs.recv() => match job {
                    Some(job) => self.batch(job).await,
                    None => break,
                },
                () = clock::sleep_until(deadline) => self.tailnet.on_deadline(clock::now()),
                _ = save.tick() => self.save_facts().await,
            }
            self.settle().await;
        }
        self.finish().await;
    }

    /// Decides one job and those that wait behind it.
    async fn batch(&mut self, first: Job) {
        self.job(first).await;
        for _ in 1..BATCH_MAX {
            match self.jobs.try_recv() {
                Ok(job) => self.job(job).await,
                Err(_) => break,
            }
        }
    }

    async fn job(&mut self, job: Job) {
        let now = clock::now();
        match job {
            Job::Register { machine, request, answer } => {
                let ticket = self.next_ticket;
                self.next_ticket += 1;
                match self.tailnet.on_register(machine, &request, ticket, now) {
                    Registered::Now(response) => self.pending.push(Pending::Register(answer, *response)),
                    Registered::Later => drop(self.tickets.insert(ticket, answer)),
                }
            }
            Job::Map { machine, request, answer } => self.map(machine, &request, answer),
            Job::StreamReady(id) => self.tailnet.on_stream_ready(id),
            Job::StreamClosed(id, ended) => {
                self.sinks.remove(&id);
                self.tailnet.on_stream_closed(id, ended, now);
            }
            Job::Execute { actor, command, answer } => match self.tailnet.execute(&actor, *command, now) {
                Ok(done) => self.pending.push(Pending::Execute(answer, done)),
                Err(refusal) => drop(answer.send(Err(refusal.into()))),
            },
            Job::Read(read) => {
                // Readers see only what is kept.
                if self.tailnet.is_uncommitted() || !self.pending.is_empty() {
                    self.settle().await;
                }
                read(&self.tailnet);
            }
            Job::Paths(node, report) => self.tailnet.on_paths(node, *report, now),
            Job::DerpMap(map) => self.tailnet.on_derp_map(*map),
            Job::SshCheck { machine, session, waiting, answer } => {
                let ticket = self.next_ticket;
                self.next_ticket += 1;
                match self.tailnet.on_ssh_check(machine, session, waiting.as_deref(), ticket, now) {
                    CheckDecision::Later => drop(self.checks.insert(ticket, answer)),
                    decided @ (CheckDecision::Accept | CheckDecision::Refuse(_) | CheckDecision::Ask(_)) => {
                        drop(answer.send(Ok(decided)));
                    }
                }
            }
            Job::Audit { before, limit, answer } => {
                let entries = self.store.call(move |store| store.entries_before(before, limit)).await;
                drop(answer.send(entries.map_err(storage)));
            }
            Job::Question { node, question, answer } => {
                drop(answer.send(Ok(self.tailnet.on_question(node, *question))));
            }
            Job::Backup { to, answer } => {
                self.settle().await;
                self.save_facts().await;
                let done = self.store.call(move |store| store.backup(&to)).await;
                drop(answer.send(done.map_err(storage)));
            }
            Job::Trim { before, answer } => {
                let done = self.store.call(move |store| trim(store, before)).await;
                drop(answer.send(done.map_err(storage)));
            }
            Job::Stop { done } => self.stop = Some(done),
        }
        self.tickets.retain(|_, answer| !answer.is_closed());
        self.checks.retain(|_, answer| !answer.is_closed());
    }

    fn map(
        &mut self,
        machine: MachineKey,
        request: &MapRequest,
        answer: Answer<Result<MapAnswer, MapRefused>>,
    ) {
        let id = self.next_stream;
        let reply = match self.tailnet.on_map_request(machine, request, id, clock::now()) {
            Ok(MapReply::Stored) => Ok(MapAnswer::Stored),
            Ok(MapReply::Once(message)) => Ok(MapAnswer::Once(message)),
            Ok(MapReply::Streaming { replaced }) => {
                self.next_stream += 1;
                if let Some(old) = replaced.and_then(|old| self.sinks.remove(&old)) {
                    drop(old.try_send(StreamItem::End(EndReason::Replaced)));
                }
                // Two places: one message under way, and an end behind it.
                let (sink, items) = mpsc::channel(2);
                self.sinks.insert(id, sink);
                Ok(MapAnswer::Streaming { id, items })
            }
            Err(refused) => Err(refused),
        };
        self.pending.push(Pending::Map(answer, reply));
    }

    /// Commits what was decided, answers, and hands messages to the streams, until all is quiet.
    async fn settle(&mut self) {
        loop {
            let outcome = self.commit().await;
            for pending in std::mem::take(&mut self.pending) {
                pending.settle(outcome.clone());
            }
            let now = clock::now();
            while let Some(output) = self.tailnet.poll_output(now) {
                self.perform(output);
            }
            if !self.tailnet.is_uncommitted() {
                return;
            }
        }
    }

    async fn commit(&mut self) -> Result<(), Failure> {
        let entries = self.tailnet.take_uncommitted();
        if entries.is_empty() {
            self.tailnet.committed();
            return Ok(());
        }
        let expected = self.seq;
        match self.store.call(move |store| store.append(expected, &entries)).await {
            Ok(seq) => {
                self.seq = seq;
                self.tailnet.committed();
                Ok(())
            }
            Err(error) => {
                tracing::error!(%error, "a change could not be saved; it did not happen");
                self.tailnet.rolled_back(clock::now());
                // Whoever waits asks again; the answer may have been part of what did not happen.
                self.tickets.clear();
                self.checks.clear();
                Err(storage(error))
            }
        }
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Map { stream, message } => {
                let sent = self.sinks.get(&stream).map(|sink| sink.try_send(StreamItem::Message(message)));
                if !matches!(sent, Some(Ok(()))) {
                    // The stream's task is gone; it says so itself.
                    self.sinks.remove(&stream);
                }
            }
            Output::End { stream, reason } => {
                if let Some(sink) = self.sinks.remove(&stream) {
                    drop(sink.try_send(StreamItem::End(reason)));
                }
            }
            Output::Checked { ticket, allowed } => {
                if let Some(answer) = self.checks.remove(&ticket) {
                    let decision = if allowed {
                        CheckDecision::Accept
                    } else {
                        CheckDecision::Refuse("the person said no, or nothing for 30 minutes")
                    };
                    drop(answer.send(Ok(decision)));
                }
            }
            Output::Registered { ticket, response } => {
                if let Some(answer) = self.tickets.remove(&ticket) {
                    drop(answer.send(Ok(*response)));
                }
            }
        }
    }

    async fn save_facts(&mut self) {
        let facts = self.tailnet.unsaved_facts();
        if facts.is_empty() {
            return;
        }
        let rows: Vec<(NodeId, Option<String>)> =
            facts.iter().map(|(id, facts)| (*id, encode(facts))).collect();
        if let Err(error) = self.store.call(move |store| store.put_volatile(&rows)).await {
            tracing::warn!(%error, "facts about machines could not be saved; they are tried again when they change");
        }
    }

    async fn finish(mut self) {
        self.settle().await;
        self.save_facts().await;
        self.store.stop().await;
        if let Some(done) = self.stop {
            let _gone = done.send(());
        }
    }
}

/// Drops log entries from before a moment, oldest first, and returns how many.
fn trim(store: &mut dyn Store, before: UnixTime) -> Result<usize, StoreError> {
    const AT_ONCE: usize = 1_000;
    let mut dropped = 0;
    loop {
        let oldest = store.entries_after(Seq(0), AT_ONCE)?;
        let old: Vec<Seq> =
            oldest.iter().take_while(|(_, entry)| entry.at < before).map(|(seq, _)| *seq).collect();
        let Some(last) = old.last() else {
            return Ok(dropped);
        };
        store.trim(*last)?;
        dropped += old.len();
    }
}

fn encode(facts: &Facts) -> Option<String> {
    serde_json::to_string(facts).ok()
}

fn storage(error: StoreError) -> Failure {
    match error {
        StoreError::Full { file } => Failure::DiskFull(file.parent().unwrap_or(&file).display().to_string()),
        StoreError::Moved { .. }
        | StoreError::Busy { .. }
        | StoreError::Corrupt { .. }
        | StoreError::TooNew { .. }
        | StoreError::NoFiles
        | StoreError::Io { .. }
        | StoreError::Sqlite { .. } => Failure::Storage(error.to_string()),
    }
}
