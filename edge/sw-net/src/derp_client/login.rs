//! The login without IO: frames in, the frame to send out (derp.md §6).

use sw_proto::derp::{
    ClientFrame, ClientInfo, FrameError, LoginError, ServerFrame, ServerInfo, open_server_info,
    seal_client_info, split_server_frame,
};
use sw_proto::nacl::{BoxKey, Nonce};
use sw_types::DerpKey;

use super::ClientKey;

/// Why the login fails.
#[derive(Debug, thiserror::Error)]
pub enum LoginFailed {
    /// A frame that cannot be.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The sealed answer cannot be read: the relay does not hold the key it names.
    #[error("the relay does not prove its key: {0}")]
    Sealed(#[from] LoginError),
    /// The relay's key has low order.
    #[error("the relay's key is not usable")]
    WeakKey,
    /// The relay named another key than its certificate did.
    #[error("the relay's key is not that of its certificate")]
    KeyChanged,
}

/// What is left to do.
#[derive(Debug)]
enum Step {
    /// The relay's key is not known yet.
    ServerKey,
    /// ClientInfo was sent; the answer is to come.
    ServerInfo(BoxKey),
}

/// One login.
#[derive(Debug)]
pub struct Login {
    key: ClientKey,
    info: ClientInfo,
    nonce: Nonce,
    relay: Option<DerpKey>,
    step: Step,
}

/// What one look at the input gave.
#[derive(Debug)]
pub enum Progress {
    /// More bytes are needed.
    Incomplete,
    /// Send this frame.
    Send(Vec<u8>),
    /// Logged in.
    Done {
        /// The relay's key.
        relay: DerpKey,
        /// What it says of itself.
        info: ServerInfo,
    },
}

impl Login {
    /// A login that waits for the relay's key. The nonce must be random.
    #[must_use]
    pub fn new(key: ClientKey, info: ClientInfo, nonce: Nonce) -> Self {
        Self { key, info, nonce, relay: None, step: Step::ServerKey }
    }

    /// Fast start: the certificate told the key, so the frame can go with the request (derp.md §4.2).
    ///
    /// # Errors
    /// [`LoginFailed::WeakKey`].
    pub fn start_with(&mut self, relay: DerpKey) -> Result<Vec<u8>, LoginFailed> {
        let shared = self.key.agree(&relay).ok_or(LoginFailed::WeakKey)?;
        let body = seal_client_info(self.key.public(), &shared, &self.nonce, &self.info);
        let mut frame = Vec::new();
        ClientFrame::ClientInfo(&body).encode(&mut frame);
        self.relay = Some(relay);
        self.step = Step::ServerInfo(shared);
        Ok(frame)
    }

    /// Takes the first frame of `input`; gives how many bytes it used.
    ///
    /// # Errors
    /// See [`LoginFailed`]; the connection is closed.
    pub fn on_input(&mut self, input: &[u8]) -> Result<(usize, Progress), LoginFailed> {
        let Some((frame, rest)) = split_server_frame(input)? else { return Ok((0, Progress::Incomplete)) };
        let used = input.len() - rest.len();
        let progress = match (frame, &self.step) {
            (ServerFrame::ServerKey(relay), Step::ServerKey) => Progress::Send(self.start_with(relay)?),
            (ServerFrame::ServerKey(relay), Step::ServerInfo(_)) => {
                // It comes behind a fast start too.
                if self.relay != Some(relay) {
                    return Err(LoginFailed::KeyChanged);
                }
                Progress::Send(Vec::new())
            }
            (ServerFrame::ServerInfo(body), Step::ServerInfo(shared)) => {
                let info = open_server_info(body, shared)?;
                Progress::Done { relay: self.relay.unwrap_or_default(), info }
            }
            _ => Progress::Send(Vec::new()),
        };
        Ok((used, progress))
    }
}
