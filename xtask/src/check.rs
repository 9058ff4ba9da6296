//! `cargo xtask check`: everything that can be refused without running the product.

use crate::{layers, lengths, purity, run, unused};
use anyhow::bail;
use std::time::Instant;

pub(crate) fn check() -> anyhow::Result<()> {
    let begun = Instant::now();
    rules()?;
    lints()?;
    deny()?;
    println!("check: all good in {:.0} s", begun.elapsed().as_secs_f32());
    Ok(())
}

/// Format and lints.
fn lints() -> anyhow::Result<()> {
    run::run(run::cargo().args(["fmt", "--all", "--check"]))?;
    run::run(run::cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

/// The lints as part of the tests: only with the compiler that they were written for, because a newer one knows
/// new lints and an old house must still pass its tests there.
pub(crate) fn lints_of_this_compiler() -> anyhow::Result<()> {
    let ours = concat!("rustc ", env!("CARGO_PKG_RUST_VERSION"));
    let here = run::output(std::process::Command::new("rustc").arg("--version"))?;
    let installed = run::output(run::cargo().args(["clippy", "--version"])).is_ok()
        && run::output(run::cargo().args(["fmt", "--version"])).is_ok();
    if !here.starts_with(ours) || !installed {
        println!(
            "skipped: format and lints: they need {ours} with clippy and rustfmt, here is {}",
            here.trim()
        );
        return Ok(());
    }
    lints()
}

/// The rules that need no compiler: layers, purity of the cores, file lengths.
pub(crate) fn rules() -> anyhow::Result<()> {
    let root = run::workspace_root();
    let metadata = run::output(run::cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata = serde_json::from_str(&metadata)?;
    let mut found = layers::violations(&metadata);
    found.extend(unused::violations(&metadata, &std::fs::read_to_string(root.join("Cargo.toml"))?)?);
    found.extend(purity::violations(&root.join("core"))?);
    found.extend(lengths::violations(&root)?);
    if !found.is_empty() {
        for line in &found {
            eprintln!("refused: {line}");
        }
        bail!("{} rules of the house are broken", found.len());
    }
    println!("ok: layers, purity of the cores, file lengths, no unused dependency");
    Ok(())
}

/// Licences, sources and duplicates by deny.toml, where cargo-deny is installed.
fn deny() -> anyhow::Result<()> {
    if !run::is_on_path("cargo-deny") {
        println!("skipped: deny.toml was not checked: cargo-deny is not installed");
        return Ok(());
    }
    run::run(run::cargo().args(["deny", "--offline", "check", "bans", "licenses", "sources"]))
}
