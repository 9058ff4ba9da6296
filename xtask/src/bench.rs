//! `cargo xtask bench NAME` and `cargo xtask soak`.

use crate::run;
use anyhow::bail;

/// Name → the cargo commands that make it up.
const BENCHES: &[(&str, &[&[&str]])] = &[
    ("control", &[&["bench", "-p", "sw-control", "--bench", "control", "--"]]),
    ("relay", &[&["bench", "-p", "sw-relay", "--bench", "relay", "--"]]),
    (
        "policy",
        &[
            &["bench", "-p", "sw-policy", "--bench", "policy", "--"],
            &["bench", "-p", "sw-filter", "--bench", "filter", "--"],
        ],
    ),
    (
        "node",
        &[
            &["build", "--release", "-p", "samewire"],
            &[
                "bench",
                "-p",
                "sw-control",
                "--bench",
                "control",
                "--",
                "--daemon",
                "../../target/release/samewire",
            ],
            &["run", "--release", "-p", "samewire", "--", "lab", "times", "--only", "idle"],
        ],
    ),
    ("times", &[&["run", "--release", "-p", "samewire", "--", "lab", "times"]]),
    ("dataplane", &[&["bench", "-p", "sw-dataplane", "--bench", "dataplane", "--"]]),
    ("fuzz", &[&["run", "--release", "-p", "sw-fuzz", "--"]]),
];

pub(crate) fn bench(name: &str, args: &[String]) -> anyhow::Result<()> {
    let Some((_, commands)) = BENCHES.iter().find(|(known, _)| *known == name) else {
        let known: Vec<&str> = BENCHES.iter().map(|(known, _)| *known).collect();
        bail!("there is no benchmark \"{name}\"; there are: {}", known.join(", "));
    };
    commands.iter().try_for_each(|command| {
        // What only builds, or measures one thing, takes no arguments of the benchmark.
        let takes_args = command.contains(&"--") && !command.contains(&"--only");
        let args = if takes_args { args } else { &[] };
        run::run(run::cargo().args(*command).args(args))
    })
}

pub(crate) fn soak(args: &[String]) -> anyhow::Result<()> {
    run::run(run::cargo().args(["run", "--release", "-p", "sw-sim", "--bin", "soak", "--"]).args(args))
}
