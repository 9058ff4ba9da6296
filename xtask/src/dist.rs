//! `cargo xtask dist`: what a release consists of.

use crate::run;
use anyhow::Context;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

const MUSL: &str = "x86_64-unknown-linux-musl";

pub(crate) fn dist() -> anyhow::Result<()> {
    let out = run::workspace_root().join("target/dist-files");
    fs::create_dir_all(&out)?;
    let mut build = run::cargo();
    build.args(["build", "--profile", "dist", "-p", "samewire"]);
    let built = if has_musl() {
        build.args(["--target", MUSL]);
        format!("target/{MUSL}/dist/samewire")
    } else {
        println!(
            "note: the target {MUSL} is not installed, so the binary is linked against this machine's glibc"
        );
        "target/dist/samewire".to_owned()
    };
    run::run(&mut build)?;
    let binary = out.join("samewire");
    fs::copy(&built, &binary).with_context(|| format!("cannot copy {built}"))?;
    for shell in ["bash", "zsh", "fish"] {
        let text = run::output(Command::new(&binary).args(["completion", shell]))?;
        fs::write(out.join(format!("samewire.{shell}")), text)?;
    }
    run::run(Command::new(&binary).args(["man", "--dir"]).arg(out.join("man")))?;
    checksums(&out)?;
    println!("dist: {}", out.display());
    Ok(())
}

fn has_musl() -> bool {
    let sysroot = run::output(Command::new("rustc").args(["--print", "sysroot"])).unwrap_or_default();
    Path::new(sysroot.trim()).join("lib/rustlib").join(MUSL).is_dir() && run::is_on_path("musl-gcc")
}

/// Writes `SHA256SUMS` over all files beside it, in the form `sha256sum -c` reads.
fn checksums(folder: &Path) -> anyhow::Result<()> {
    let mut names: Vec<_> = fs::read_dir(folder)?.filter_map(|e| e.ok().map(|e| e.path())).collect();
    names.retain(|path| path.is_file() && path.file_name().is_some_and(|n| n != "SHA256SUMS"));
    names.sort();
    let mut text = String::new();
    for path in names {
        let digest = Sha256::digest(fs::read(&path)?);
        let hex = digest.iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("writing to a string cannot fail");
            hex
        });
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        writeln!(text, "{hex}  {name}").expect("writing to a string cannot fail");
    }
    fs::write(folder.join("SHA256SUMS"), text)?;
    Ok(())
}
