//! stub
use crate::LabError;
#[derive(Debug, clap::Args)]
pub(crate) struct PortMapperArgs {}
pub(crate) fn run(_: &PortMapperArgs) -> Result<(), LabError> {
    Err(LabError::new("x", "x"))
}
