//! Ctrl-C in `up` and `join`: the machine is left in its old or in its new state, and it is said in which.

use std::process::exit;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::Duration;

use sw_cli::local::warn;

/// Exit code of a command that was interrupted (ux.md §1.3).
const INTERRUPTED: i32 = 130;
const LOOK_AGAIN: Duration = Duration::from_millis(20);
const STARTING: &str =
    "note: interrupted while the daemon starts.\n  fix: see what became of it: samewire status";
const OLD: &str = "note: interrupted; nothing was changed.";

/// Answers Ctrl-C from its making to the end of the process.
#[derive(Clone, Debug)]
pub(super) struct Interrupt(Arc<Mutex<&'static str>>);

impl Interrupt {
    /// Without a signal handler, or without a thread for it, Ctrl-C ends the command silently.
    pub(super) fn watch() -> Self {
        let state = Arc::new(Mutex::new(OLD));
        let told = Arc::clone(&state);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        if let Ok(runtime) = runtime {
            std::thread::spawn(move || runtime.block_on(answer(&told)));
        }
        Self(state)
    }

    /// Does what brings the machine into its new state; an interruption comes before or after it, not within.
    pub(super) fn cross<T>(&self, now: &'static str, act: impl FnOnce() -> T) -> T {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let result = act();
        *state = now;
        result
    }

    /// From here on this is said.
    pub(super) fn say(&self, now: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }
}

/// The first Ctrl-C waits until a line is crossed that is being crossed; a second one does not.
async fn answer(state: &Mutex<&'static str>) {
    if tokio::signal::ctrl_c().await.is_err() {
        return;
    }
    loop {
        match state.try_lock() {
            // Held to the end: nobody crosses the line from old to new meanwhile.
            Ok(state) => end(*state),
            Err(TryLockError::Poisoned(state)) => end(*state.into_inner()),
            Err(TryLockError::WouldBlock) => {}
        }
        if tokio::time::timeout(LOOK_AGAIN, tokio::signal::ctrl_c()).await.is_ok() {
            end(STARTING);
        }
    }
}

fn end(said: &str) -> ! {
    warn(said);
    exit(INTERRUPTED)
}
