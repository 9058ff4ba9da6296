//! The next version of this program, from the server of the network (`samewire update`).

use std::path::PathBuf;

use serde::Serialize;
use sw_types::local::Problem;
use sw_types::problem::Slug;
use tokio::io::AsyncWriteExt as _;

use super::{CoreHandle, Stopped, joining};

/// Where it is put, below the state directory.
const FILE: &str = "program.new";

/// A program that was fetched whole.
#[derive(Debug, Serialize)]
pub(crate) struct Fetched {
    path: PathBuf,
}

/// Fetches the server's program into the state directory. The pinned key of the server vouches for it.
pub(crate) async fn fetch(core: &CoreHandle) -> Result<Result<Fetched, Problem>, Stopped> {
    let asked = core.call(|core| {
        let directory = core.store.directory().map(std::borrow::ToOwned::to_owned);
        (core.client_in_use(), directory)
    });
    let (Some((client, key)), Some(directory)) = asked.await? else {
        return Ok(Err(Slug::NotSetUp.problem(&[("dir", "")])));
    };
    let path = directory.join(FILE);
    let failed = |why: String| {
        let fix = "try it again; nothing was changed here";
        Problem::other("the new program was not fetched.", why, fix)
    };
    let _of_a_try_before = std::fs::remove_file(&path);
    let mut options = tokio::fs::OpenOptions::new();
    let opened = options.write(true).create_new(true).mode(0o700).open(&path).await;
    let mut file = match opened {
        Ok(file) => file,
        Err(error) => return Ok(Err(failed(format!("{}: {error}", path.display())))),
    };
    let arch = std::env::consts::ARCH.as_bytes().to_vec();
    let fetched = client.download("/machine/samewire/v1/program", arch, &[key], &mut file).await;
    let outcome = match fetched {
        Ok(()) => file.sync_all().await.map_err(|error| failed(error.to_string())),
        Err(error) => Err(joining::problem(&error, client.authority())),
    };
    drop(file.flush().await);
    if outcome.is_err() {
        let _ours = std::fs::remove_file(&path);
    }
    Ok(outcome.map(|()| Fetched { path }))
}
