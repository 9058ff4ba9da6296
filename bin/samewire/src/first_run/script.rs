//! The script behind `curl … | sudo sh`. Its bytes are proved by the public certificate or by the pin in the line.

/// What the server puts into the script.
#[derive(Clone, Debug)]
pub struct JoinScript<'a> {
    /// `https://203.0.113.7` without a slash at the end.
    pub base_url: &'a str,
    pub token: &'a str,
    pub join_string: &'a str,
    /// SHA-256 of the binary that this server hands out, hexadecimal; `None` when it cannot be handed out.
    pub binary_sha256: Option<&'a str>,
    /// Machine the binary is for, as `uname -m` says it.
    pub arch: &'a str,
    /// `sha256//…` of the server's certificate, when it is its own.
    pub pin: Option<&'a str>,
}

/// Writes the script. Every value comes from the server's own state and is checked to need no quoting.
pub fn join_script(script: &JoinScript<'_>) -> String {
    let curl = match script.pin {
        Some(pin) => format!("curl -fsSk --pinnedpubkey '{pin}'"),
        None => "curl -fsSL".to_owned(),
    };
    let install = match script.binary_sha256 {
        Some(sha256) => INSTALL
            .replace("{curl}", &curl)
            .replace("{url}", &format!("{}/j/{}/bin/{}", script.base_url, script.token, script.arch))
            .replace("{sha256}", sha256)
            .replace("{arch}", script.arch),
        None => NO_BINARY.to_owned(),
    };
    HEAD.to_owned() + &install + &TAIL.replace("{join}", script.join_string)
}

const HEAD: &str = r#"#!/bin/sh
# Installs samewire and joins this machine to the network that handed out this line.
set -eu
say() { printf '%s\n' "$*" >&2; }
fail() { say "error: $1"; [ -z "${2:-}" ] || say "  why: $2"; [ -z "${3:-}" ] || say "  fix: $3"; exit 1; }
[ "$(uname -s)" = Linux ] || fail "this line is for Linux." "this machine runs $(uname -s)" "use the Tailscale app there: samewire invite shows how"
[ "$(id -u)" = 0 ] || fail "the line needs root." "you are $(id -un)" "put sudo before sh at its end"
"#;

const INSTALL: &str = r#"new_here=
if command -v samewire >/dev/null 2>&1; then
  bin=$(command -v samewire)
else
  [ "$(uname -m)" = "{arch}" ] || fail "there is no samewire for this kind of machine here." "this machine is $(uname -m), the server hands out {arch}" "build it from source, then: samewire join with the string of samewire invite"
  command -v sha256sum >/dev/null 2>&1 || fail "the download cannot be checked." "sha256sum is not installed" "install coreutils, then paste the line again"
  mkdir -p /usr/local/bin
  new=$(mktemp /usr/local/bin/.samewire.XXXXXX)
  trap 'rm -f "$new"' EXIT
  {curl} -o "$new" '{url}' || fail "the download broke off." "" "paste the line again"
  printf '%s  %s\n' '{sha256}' "$new" | sha256sum -c - >/dev/null 2>&1 || fail "the download is damaged, so it was not installed." "its checksum differs" "paste the line again"
  chmod 755 "$new"
  mv "$new" /usr/local/bin/samewire
  trap - EXIT
  bin=/usr/local/bin/samewire
  new_here=--downloaded
fi
"#;

const NO_BINARY: &str = r#"command -v samewire >/dev/null 2>&1 || fail "samewire is not installed here, and this server has no copy that runs on other machines." "its binary is linked to its own system" "install samewire on this machine, then paste the line again"
bin=$(command -v samewire)
new_here=
"#;

const TAIL: &str = r#"exec "$bin" join $new_here '{join}'
"#;

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn sample() -> JoinScript<'static> {
        JoinScript {
            base_url: "https://203.0.113.7",
            token: "7QmX2vKd9sT4bN8cLw5eRy",
            join_string: "sw1.abc",
            binary_sha256: Some("00ff"),
            arch: "x86_64",
            pin: None,
        }
    }

    #[test]
    fn the_shell_reads_every_form_of_it() {
        let pinned = JoinScript { pin: Some("sha256//AAAA="), ..sample() };
        let without = JoinScript { binary_sha256: None, ..sample() };
        for script in [sample(), pinned, without] {
            let text = join_script(&script);
            let status = Command::new("sh").args(["-n", "-c", &text]).status().expect("sh runs");
            assert!(status.success(), "{text}");
            assert!(text.ends_with("exec \"$bin\" join $new_here 'sw1.abc'\n"));
            assert!(!text.contains('{') || !text.contains("{url}"), "a placeholder is left");
        }
    }

    #[test]
    fn the_pin_is_asked_of_curl_for_the_binary_too() {
        let text = join_script(&JoinScript { pin: Some("sha256//AAAA="), ..sample() });
        assert!(text.contains("curl -fsSk --pinnedpubkey 'sha256//AAAA=' -o"));
    }
}
