//! Who may depend on whom. The table is the design; `cargo metadata` is the truth it is held against.

use serde_json::Value;
use std::collections::BTreeMap;

/// What a crate of ours may use of ours, besides `sw-types`. A crate that is not listed here is refused.
const ALLOWED: &[(&str, &[&str])] = &[
    // No IO from here …
    ("sw-types", &[]),
    ("sw-tailcfg", &[]),
    ("sw-proto", &[]),
    ("sw-noise", &[]),
    ("sw-lock", &["sw-noise"]),
    ("sw-wg", &["sw-proto", "sw-noise"]),
    ("sw-path", &["sw-proto", "sw-tailcfg"]),
    ("sw-filter", &["sw-tailcfg", "sw-proto"]),
    ("sw-policy", &["sw-tailcfg", "sw-filter"]),
    ("sw-node", &["sw-path", "sw-wg", "sw-filter", "sw-tailcfg", "sw-proto", "sw-noise"]),
    ("sw-tailnet", &["sw-policy", "sw-filter", "sw-tailcfg"]),
    ("sw-relay-core", &["sw-proto"]),
    (
        "sw-fuzz",
        &["sw-tailcfg", "sw-proto", "sw-noise", "sw-wg", "sw-policy", "sw-filter", "sw-node", "sw-lock"],
    ),
    // … to here.
    ("sw-net", &["sw-proto", "sw-tailcfg", "sw-noise"]),
    ("sw-os", &["sw-proto"]),
    ("sw-store", &["sw-tailcfg", "sw-tailnet"]),
    ("sw-dataplane", &["sw-os", "sw-net", "sw-wg", "sw-filter", "sw-proto"]),
    ("sw-netstack", &["sw-net", "sw-proto", "sw-tailcfg"]),
    ("sw-relay", &["sw-relay-core", "sw-net", "sw-proto", "sw-tailcfg"]),
    ("sw-lab", &["sw-os", "sw-net"]),
    (
        "sw-daemon",
        &[
            "sw-node",
            "sw-path",
            "sw-wg",
            "sw-filter",
            "sw-tailcfg",
            "sw-proto",
            "sw-noise",
            "sw-net",
            "sw-os",
            "sw-dataplane",
            "sw-netstack",
        ],
    ),
    (
        "sw-control",
        &["sw-tailnet", "sw-policy", "sw-filter", "sw-store", "sw-noise", "sw-net", "sw-tailcfg", "sw-web"],
    ),
    ("sw-web", &[]),
    ("sw-page", &["sw-control", "sw-web", "sw-tailnet", "sw-policy", "sw-tailcfg", "sw-net"]),
    ("sw-cli", &["sw-tailcfg", "sw-policy", "sw-filter", "sw-net"]),
    (
        "samewire",
        &[
            "sw-page",
            "sw-cli",
            "sw-daemon",
            "sw-lab",
            "sw-control",
            "sw-relay",
            "sw-net",
            "sw-os",
            "sw-dataplane",
            "sw-store",
            "sw-tailcfg",
            "sw-tailnet",
            "sw-netstack",
            "sw-node",
            "sw-policy",
            "sw-proto",
        ],
    ),
    (
        "sw-sim",
        &[
            "sw-tailcfg",
            "sw-proto",
            "sw-noise",
            "sw-wg",
            "sw-path",
            "sw-filter",
            "sw-policy",
            "sw-node",
            "sw-tailnet",
            "sw-relay-core",
        ],
    ),
    ("xtask", &[]),
];

/// Third-party crates that bring IO, a clock or a runtime; nothing under `core/` may use them.
const NOT_IN_CORES: &[&str] = &[
    "tokio",
    "tokio-rustls",
    "tokio-util",
    "socket2",
    "libc",
    "rustix",
    "nix",
    "rusqlite",
    "hyper",
    "hyper-util",
    "axum",
    "rustls",
    "tun-rs",
    "rtnetlink",
    "nftables",
    "getrandom",
    "rand",
    "h2",
    "reqwest",
    "tracing-subscriber",
];

/// Returns every edge that breaks the table, one sentence each; empty means the layers hold.
///
/// `metadata` is the output of `cargo metadata --no-deps`.
pub(crate) fn violations(metadata: &Value) -> Vec<String> {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    let mut found = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(may_use) = allowed.get(name) else {
            found.push(format!("{name} is not in the table of layers (xtask/src/layers.rs)"));
            continue;
        };
        let is_core = package["manifest_path"].as_str().is_some_and(|path| path.contains("/core/"));
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let used = dependency["name"].as_str().unwrap_or_default();
            let is_dev = dependency["kind"].as_str() == Some("dev");
            let is_ours = allowed.contains_key(used);
            if is_ours && used != "sw-types" && !may_use.contains(&used) && !is_dev {
                found.push(format!("{name} must not depend on {used}"));
            }
            if is_core && !is_dev && NOT_IN_CORES.contains(&used) {
                found.push(format!(
                    "{name} is a core and must not depend on {used}: IO and clocks live in edge/"
                ));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, folder: &str, dependencies: &[&str]) -> Value {
        let dependencies: Vec<Value> =
            dependencies.iter().map(|d| serde_json::json!({ "name": d, "kind": null })).collect();
        serde_json::json!({
            "name": name, "manifest_path": format!("/x/{folder}/{name}/Cargo.toml"), "dependencies": dependencies
        })
    }

    #[test]
    fn an_upward_dependency_is_refused() {
        let good = serde_json::json!({ "packages": [package("sw-path", "core", &["sw-types", "sw-proto"])] });
        assert_eq!(violations(&good), Vec::<String>::new());
        let upward = serde_json::json!({ "packages": [package("sw-path", "core", &["sw-node"])] });
        assert_eq!(violations(&upward), ["sw-path must not depend on sw-node"]);
    }

    #[test]
    fn a_runtime_in_a_core_is_refused() {
        let io = serde_json::json!({ "packages": [package("sw-wg", "core", &["tokio"])] });
        assert_eq!(violations(&io).len(), 1);
        let edge = serde_json::json!({ "packages": [package("sw-net", "edge", &["tokio"])] });
        assert!(violations(&edge).is_empty());
    }

    #[test]
    fn a_crate_that_nobody_placed_is_refused() {
        let stranger = serde_json::json!({ "packages": [package("sw-utils", "core", &[])] });
        assert_eq!(violations(&stranger).len(), 1);
    }
}
