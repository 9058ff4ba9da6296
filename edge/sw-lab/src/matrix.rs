//! stub
use std::process::ExitCode;
use crate::LabError;
#[derive(Debug, clap::Args)]
pub(crate) struct MatrixArgs {}
pub(crate) fn run(_: &MatrixArgs) -> Result<ExitCode, LabError> { Err(LabError::new("x","x")) }
