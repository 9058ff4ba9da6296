//! The running program, for machines of the network that want this version (`samewire update`).
//!
//! It goes through Noise: the key that a machine pinned proves every byte.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use http::{Response, StatusCode};
use tokio::io::AsyncReadExt as _;
use tokio::sync::Semaphore;

use crate::inner::Refused;
use crate::map_stream::write;

/// The file that runs, even where another one has its name by now.
const OWN_PROGRAM: &str = "/proc/self/exe";
/// Machines that fetch it at a time.
const DOWNLOADS_MAX: usize = 4;
/// A reader that takes nothing for this long is let go.
const STALL_MAX: Duration = Duration::from_secs(60);
const PIECE: usize = 256 << 10;

/// Who fetches the program at present.
#[derive(Debug)]
pub(crate) struct Downloads(Arc<Semaphore>);

impl Default for Downloads {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(DOWNLOADS_MAX)))
    }
}

/// Sends the program to a machine of the same kind; `arch` is that machine's, as Rust names it.
pub(crate) async fn send(
    downloads: &Downloads,
    arch: &[u8],
    respond: &mut SendResponse<Bytes>,
) -> Result<(), Refused> {
    if arch != std::env::consts::ARCH.as_bytes() {
        let why = format!("this server's program is for {}", std::env::consts::ARCH);
        return Err(Refused::Status(StatusCode::NOT_FOUND, why));
    }
    let busy = || Refused::Status(StatusCode::TOO_MANY_REQUESTS, "others fetch it just now".to_owned());
    let _place = Arc::clone(&downloads.0).try_acquire_owned().map_err(|_| busy())?;
    let unreadable =
        |error: std::io::Error| Refused::Status(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    let mut file = tokio::fs::File::open(OWN_PROGRAM).await.map_err(unreadable)?;
    let size = file.metadata().await.map_err(unreadable)?.len();
    let mut head = Response::new(());
    head.headers_mut().insert(http::header::CONTENT_LENGTH, size.into());
    let mut stream = respond.send_response(head, false)?;
    loop {
        let mut piece = BytesMut::with_capacity(PIECE);
        let read = file.read_buf(&mut piece).await.map_err(|_| Refused::Gone)?;
        if read == 0 {
            return Ok(stream.send_data(Bytes::new(), true)?);
        }
        let written = tokio::time::timeout(STALL_MAX, write(&mut stream, piece.freeze())).await;
        written.map_err(|_| Refused::Gone)??;
    }
}
