//! What a person reads when the lab cannot go on.

use std::fmt;

/// A failure of the lab in the three lines of every message: what happened, why, and the next step.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct LabError {
    /// Stable name of the message, for scripts.
    pub slug: &'static str,
    /// What did not happen: one sentence with its full stop.
    pub what: String,
    /// The observed fact; empty when nothing is known.
    pub why: String,
    /// A command to paste, or one act; empty when no act helps.
    pub fix: String,
    /// Exit code of the program (`ux.md` §1.3).
    pub exit_code: u8,
}

impl LabError {
    /// Returns an error with exit code 1 and neither reason nor remedy yet.
    pub fn new(slug: &'static str, what: impl Into<String>) -> Self {
        Self { slug, what: what.into(), why: String::new(), fix: String::new(), exit_code: 1 }
    }

    /// Sets the observed fact.
    #[must_use]
    pub fn why(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }

    /// Sets the next step.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }

    /// Sets the exit code.
    #[must_use]
    pub fn exit_code(mut self, code: u8) -> Self {
        self.exit_code = code;
        self
    }

    /// Returns the error of a lab that was stopped by Ctrl-C or a signal.
    pub fn interrupted() -> Self {
        Self::new("interrupted", "the lab was stopped; everything it had made is removed.").exit_code(130)
    }
}

impl fmt::Display for LabError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        if !self.why.is_empty() {
            write!(f, "\n  why: {}", self.why)?;
        }
        if !self.fix.is_empty() {
            write!(f, "\n  fix: {}", self.fix)?;
        }
        Ok(())
    }
}
