//! What a server does for itself once a day: a snapshot of the database, and an end to the oldest log.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sw_types::UnixTime;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::control::Control;

/// Under the state directory.
const FOLDER: &str = "snapshots";
/// Snapshots that are kept, one of each day.
const KEPT: usize = 7;
/// How long the log (the audit log, and old versions of the policy) is kept.
const LOG_KEPT: Duration = Duration::from_secs(400 * 24 * 60 * 60);
/// A day's work is done in the first such interval of the day (UTC).
const LOOK_EVERY: Duration = Duration::from_secs(30 * 60);
/// A new network has its machines by then: a copy of an empty one helps nobody.
const FIRST_LOOK: Duration = Duration::from_secs(5 * 60);

/// Runs until the server stops.
pub(crate) async fn run(control: Control, state: PathBuf, stopping: CancellationToken) {
    let mut look = tokio::time::interval_at(tokio::time::Instant::now() + FIRST_LOOK, LOOK_EVERY);
    while stopping.run_until_cancelled(look.tick()).await.is_some() {
        once(&control, &state.join(FOLDER), clock::now().wall).await;
    }
}

/// Does what is due.
async fn once(control: &Control, folder: &Path, now: UnixTime) {
    let day = now.to_string().chars().take_while(|c| *c != 'T').collect::<String>();
    let file = folder.join(format!("{day}.db"));
    if file.exists() {
        return;
    }
    if let Err(error) = make_folder(folder) {
        tracing::warn!(%error, folder = %folder.display(), "today's snapshot cannot be made");
        return;
    }
    if let Err(error) = control.backup(file).await {
        tracing::warn!(%error, "today's snapshot cannot be made");
        return;
    }
    if let Err(error) = remove_old(folder) {
        tracing::warn!(%error, folder = %folder.display(), "old snapshots cannot be removed");
    }
    match control.trim(now - LOG_KEPT).await {
        Ok(0) => {}
        Ok(entries) => tracing::info!(entries, "the oldest entries of the log were dropped"),
        Err(error) => tracing::warn!(%error, "the log cannot be trimmed"),
    }
}

fn make_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Names are dates, so their order is that of time.
fn remove_old(folder: &Path) -> io::Result<()> {
    let entries = std::fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    let mut files: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "db"));
    files.sort();
    let old = files.len().saturating_sub(KEPT);
    files.iter().take(old).try_for_each(std::fs::remove_file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Server, ServerConfig};
    use std::sync::Arc;
    use sw_store::SqliteStore;
    use sw_tailnet::{Command, PolicyEngine, Settings};

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    async fn rename_network(server: &Server, name: &str) {
        let settings = server.control().read(|tailnet| tailnet.state().settings().clone()).await.unwrap();
        let settings = Settings { base_domain: name.to_owned(), ..settings };
        server.control().execute("test", Command::SetSettings(Box::new(settings))).await.unwrap();
    }

    #[tokio::test]
    async fn a_snapshot_of_each_day_is_kept_for_a_week_and_old_log_goes() {
        let state = tempfile::tempdir().unwrap();
        let url = "http://192.0.2.1".to_owned();
        let engine = Arc::new(PolicyEngine::new(&url));
        let server = Server::start(ServerConfig { url, state: state.path().to_owned(), engine }).unwrap();
        let folder = state.path().join(FOLDER);
        let now = clock::now().wall;
        for day in 0..9_u32 {
            rename_network(&server, &format!("day{day}.example")).await;
            once(server.control(), &folder, now + DAY * day).await;
            once(server.control(), &folder, now + DAY * day).await;
        }
        let kept = names(&folder);
        assert_eq!(kept.len(), KEPT);
        let first = (now + DAY * 2).to_string();
        assert!(first.starts_with(kept[0].trim_end_matches(".db")), "{kept:?}");
        for name in &kept {
            SqliteStore::verify(&folder.join(name)).unwrap();
        }

        assert!(server.control().audit(None, 100).await.unwrap().len() > 8, "nothing is old yet");
        once(server.control(), &folder, now + LOG_KEPT + DAY).await;
        assert_eq!(server.control().audit(None, 100).await.unwrap().len(), 0);
        rename_network(&server, "after.example").await;
        server.stop(Duration::from_secs(5)).await;
        assert_eq!(
            SqliteStore::verify(&state.path().join("control.db")).unwrap().0,
            11,
            "it goes on where it was"
        );
    }
}
