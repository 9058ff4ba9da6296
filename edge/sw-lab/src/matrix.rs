//! stub
use crate::LabError;
use std::process::ExitCode;
#[derive(Debug, clap::Args)]
pub(crate) struct MatrixArgs {}
pub(crate) fn run(_: &MatrixArgs) -> Result<ExitCode, LabError> {
    Err(LabError::new("x", "x"))
}
