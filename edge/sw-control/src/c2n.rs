//! Questions of the server to a machine: an HTTP request in its map stream, whose answer comes as the body of a POST
//! inside Noise (control.md §5.15, `c2n`).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sw_tailcfg::{Base64, PingRequest};
use sw_types::{MachineKey, NodeId};
use tokio::sync::oneshot;

use crate::clock;
use crate::server::Shared;
use crate::task::Failure;

/// Where machines bring answers: `…/ID`.
pub(crate) const PATH: &str = "/machine/c2n/";

/// A machine that is there answers within milliseconds; one behind a slow line gets this long.
const PATIENCE: Duration = Duration::from_secs(15);
/// Questions that may be open at once; operators ask, so it is never near.
const OPEN_MAX: usize = 256;

/// Questions that wait for their answers.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    /// By the unguessable end of the path.
    open: Mutex<HashMap<String, (MachineKey, oneshot::Sender<Bytes>)>>,
}

/// Why there is no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Unanswered {
    /// No stream goes to it, or another question is under way there.
    #[error("{0} is not connected to the server")]
    Away(String),
    /// It was asked and said nothing.
    #[error("{0} is connected, but did not answer within 15 s")]
    Silent(String),
    /// It does not know the question, or said something else.
    #[error("{0} gave another answer than it was asked for")]
    Other(String),
    /// Very many are being asked.
    #[error("too many machines are being asked; try again")]
    Busy,
    /// The server is stopping.
    #[error(transparent)]
    Failed(#[from] Failure),
}

impl Questions {
    /// Takes the answer that `machine` brings; false: nobody asked it that.
    pub(crate) fn answer(&self, id: &str, machine: MachineKey, body: Bytes) -> bool {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.get(id).is_none_or(|(asked, _)| *asked != machine) {
            return false;
        }
        open.remove(id).is_some_and(|(_, answer)| answer.send(body).is_ok())
    }

    fn open(&self, id: &str, machine: MachineKey) -> Option<oneshot::Receiver<Bytes>> {
        let (answer, answered) = oneshot::channel();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, (_, answer)| !answer.is_closed());
        (open.len() < OPEN_MAX).then(|| drop(open.insert(id.to_owned(), (machine, answer))))?;
        Some(answered)
    }
}

/// Has a machine say back what it is told; returns how long that took.
pub(crate) async fn echo(shared: &Shared, node: NodeId) -> Result<Duration, Unanswered> {
    let look = move |tailnet: &sw_tailnet::Tailnet| {
        tailnet.state().node(node).map(|node| (node.machine_key, node.label.clone()))
    };
    let Some((machine, name)) = shared.control.read(look).await? else {
        return Err(Unanswered::Away(node.to_string()));
    };
    let id = word();
    let answered = shared.questions.open(&id, machine).ok_or(Unanswered::Busy)?;
    let said = word();
    let length = said.len();
    let request = format!("POST /echo HTTP/1.1\r\nHost: control\r\nContent-Length: {length}\r\n\r\n{said}");
    let question = PingRequest {
        // The authority as clients know it: with another one they open a second connection (control.md §1.7).
        url: format!("{}{PATH}{id}", shared.url),
        url_is_noise: true,
        types: "c2n".to_owned(),
        payload: Base64(request.into_bytes()),
        ..PingRequest::default()
    };
    let begun = Instant::now();
    if !shared.control.question(node, question).await? {
        return Err(Unanswered::Away(name));
    }
    match tokio::time::timeout(PATIENCE, answered).await {
        Ok(Ok(answer)) if is_echo(&answer, said.as_bytes()) => Ok(begun.elapsed()),
        Ok(Ok(_)) => Err(Unanswered::Other(name)),
        Ok(Err(_)) | Err(_) => Err(Unanswered::Silent(name)),
    }
}

fn word() -> String {
    let bytes: [u8; 16] = clock::random();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether an HTTP response as text is a 200 with this body; it has no length, its end is the body's.
fn is_echo(answer: &[u8], said: &[u8]) -> bool {
    let head = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let status = answer.split(|byte| *byte == b' ').nth(1);
    status == Some(b"200") && head.is_some_and(|at| answer.get(at + 4..) == Some(said))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_once_and_from_the_machine_that_was_asked() {
        let questions = Questions::default();
        let (asked, other) = (MachineKey::from_bytes([1; 32]), MachineKey::from_bytes([2; 32]));
        let mut answered = questions.open("id", asked).unwrap();
        assert!(!questions.answer("id", other, Bytes::from_static(b"no")));
        assert!(!questions.answer("other", asked, Bytes::from_static(b"no")));
        assert!(questions.answer("id", asked, Bytes::from_static(b"yes")));
        assert!(!questions.answer("id", asked, Bytes::from_static(b"again")));
        assert_eq!(answered.try_recv().unwrap(), "yes");
        // Who no longer waits takes no place.
        for n in 0..2 * OPEN_MAX {
            assert!(questions.open(&n.to_string(), asked).is_some());
        }
    }

    #[test]
    fn an_echo_is_a_200_that_ends_with_what_was_said() {
        assert!(is_echo(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nword", b"word"));
        assert!(!is_echo(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nword and more", b"word"));
        assert!(!is_echo(b"HTTP/1.1 400 Bad Request\r\n\r\nword", b"word"));
        assert!(!is_echo(b"", b""));
    }
}
