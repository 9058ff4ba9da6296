//! Carries out the node core's requests to the control server, each in a task of its own.

use std::sync::Arc;
use std::time::Duration;

use sw_node::ControlOutput;
use sw_node::RequestId;
use sw_tailcfg::{MapRequest, PathsReport, RegisterRequest};
use sw_types::NodeKey;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Report;
use crate::control::{ControlClient, ControlConfig, ControlError};

/// Limit of a report of the paths.
const TELL_MAX: Duration = Duration::from_secs(10);

/// At most one task of each kind.
#[derive(Debug)]
pub(super) struct ControlTasks {
    client: Option<Arc<ControlClient>>,
    register: Option<JoinHandle<()>>,
    map: Option<JoinHandle<()>>,
    reports: mpsc::Sender<Report>,
}

impl ControlTasks {
    pub(super) fn new(reports: mpsc::Sender<Report>) -> Self {
        Self { client: None, register: None, map: None, reports }
    }

    /// The client in use, if there was a request.
    pub(super) fn client(&self) -> Option<&Arc<ControlClient>> {
        self.client.as_ref()
    }

    /// Gives all requests up; the server is told in the background.
    pub(super) fn abandon(&mut self) {
        abort(&mut self.register);
        abort(&mut self.map);
        self.client = None;
    }

    /// Another server, or another key of it, from the next request on.
    pub(super) fn forget_client(&mut self) {
        self.client = None;
    }

    /// Carries out one request; `config` is asked for when there is no client yet.
    pub(super) fn perform(&mut self, output: ControlOutput, config: impl FnOnce() -> ControlConfig) {
        match output {
            ControlOutput::CancelRegister => abort(&mut self.register),
            ControlOutput::CloseMap => abort(&mut self.map),
            ControlOutput::Register { id, request } => {
                let client = self.client_or(config);
                abort(&mut self.register);
                self.register = Some(tokio::spawn(register(client, id, request, self.reports.clone())));
            }
            ControlOutput::OpenMap { id, request } => {
                let client = self.client_or(config);
                abort(&mut self.map);
                self.map = Some(tokio::spawn(map(client, id, request, self.reports.clone())));
            }
            ControlOutput::Update { id, request } => {
                let client = self.client_or(config);
                // Short, and never cancelled: what it tells is true.
                tokio::spawn(update(client, id, request, self.reports.clone()));
            }
        }
    }

    /// Tells the server of the paths; a report that is lost is made good by the next one.
    pub(super) fn tell_paths(&self, key: NodeKey, report: PathsReport) {
        let Some(client) = self.client.clone() else { return };
        tokio::spawn(async move {
            let told = tokio::time::timeout(TELL_MAX, client.paths(key, &report)).await;
            if let Ok(Err(error)) = told {
                tracing::debug!(%error, "the server was not told of the paths");
            }
        });
    }

    fn client_or(&mut self, config: impl FnOnce() -> ControlConfig) -> Arc<ControlClient> {
        Arc::clone(self.client.get_or_insert_with(|| Arc::new(ControlClient::new(config()))))
    }

    /// Gives all requests up and takes leave of the server, so that it shows this machine as offline at once.
    pub(super) async fn stop(&mut self) {
        for task in [self.register.take(), self.map.take()].into_iter().flatten() {
            task.abort();
            // Ended, it has given its stream up.
            let _cancelled = task.await;
        }
        if let Some(client) = self.client.take() {
            client.close().await;
        }
    }
}

fn abort(task: &mut Option<JoinHandle<()>>) {
    if let Some(task) = task.take() {
        task.abort();
    }
}

async fn register(
    client: Arc<ControlClient>,
    id: RequestId,
    request: Box<RegisterRequest>,
    reports: mpsc::Sender<Report>,
) {
    let answer = client.register(&request).await;
    let answer = tell(&client, answer, &reports).await.map(Box::new).map_err(|error| error.failure());
    send(&reports, Report::Registered { id, answer }).await;
}

async fn map(
    client: Arc<ControlClient>,
    id: RequestId,
    request: Box<MapRequest>,
    reports: mpsc::Sender<Report>,
) {
    let answer = read_map(&client, id, &request, &reports).await;
    let _told = tell(&client, answer, &reports).await;
    send(&reports, Report::MapEnded { id }).await;
}

async fn read_map(
    client: &ControlClient,
    id: RequestId,
    request: &MapRequest,
    reports: &mpsc::Sender<Report>,
) -> Result<(), ControlError> {
    let mut stream = client.open_map(request).await?;
    let opened = Report::MapOpened { takes_paths: stream.takes_paths, server: stream.server.take() };
    send(reports, opened).await;
    while let Some(message) = stream.next().await? {
        if reports.send(Report::MapMessage { id, message: Box::new(message) }).await.is_err() {
            break;
        }
    }
    Ok(())
}

async fn update(
    client: Arc<ControlClient>,
    id: RequestId,
    request: Box<MapRequest>,
    reports: mpsc::Sender<Report>,
) {
    let answer = client.update(&request).await;
    let answer = tell(&client, answer, &reports).await.map_err(|error| error.failure());
    send(&reports, Report::Updated { id, answer }).await;
}

/// Tells the node's task of a key seen for the first time, or of what a user must know.
async fn tell<T>(
    client: &ControlClient,
    answer: Result<T, ControlError>,
    reports: &mpsc::Sender<Report>,
) -> Result<T, ControlError> {
    match &answer {
        Ok(_) => {
            if let Some(key) = client.server_key() {
                send(reports, Report::ServerKey(key)).await;
            }
        }
        Err(error) => {
            tracing::debug!(%error, "control");
            if let Some(problem) = error.problem(client.authority()) {
                send(reports, Report::ControlProblem(problem)).await;
            }
        }
    }
    answer
}

async fn send(reports: &mpsc::Sender<Report>, report: Report) {
    // The node's task may be gone; then nobody cares.
    let _stopping = reports.send(report).await;
}
