//! A demo that is killed half way leaves nothing once `lab down --all` has run: looked at from outside, with the
//! system's own programs.
//!
//! Each try has an island for itself: new mount, network and process namespaces, so that `--all` means all of this
//! try, and neither the host's labs nor its processes are touched.

use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use sw_lab::Interrupt;

use crate::scene::{SOON, missing, skip, turn};

const SAMEWIRE: &str = env!("CARGO_BIN_EXE_samewire");

/// Own `/run`, `/sys` and `/etc`, the last without the files that rooms have of their own, then a process that holds
/// the island.
const FOUND_ISLAND: &str = "mount -t tmpfs none /run && cp -a /etc /run/etc && rm -rf /run/etc/netns \
                            && rm -f /run/etc/resolv.conf /run/etc/hosts /run/etc/nsswitch.conf \
                            && mount --bind /run/etc /etc && mount -t sysfs none /sys && ip link set lo up \
                            && exec sleep 600";

/// Everything of a lab that the system knows, one thing a line; no line is good.
const LOOK: &str = "ip -o netns list; ip -o link | grep -v ' lo:'; nft list tables; \
                    ls -d /run/swl-* /etc/netns/* /etc/resolv.conf /etc/hosts /etc/nsswitch.conf; ps -eo pid,args | grep -v -e 'sleep 600' -e 'ps -eo' -e 'sh -c' -e grep -e PID -e defunct";

/// How far the demo is when it is hit.
#[derive(Clone, Copy, Debug)]
enum Half {
    /// The first namespace exists.
    Building,
    /// The second machine's daemon listens.
    Running,
}

struct Island {
    holder: Child,
    /// The process that the namespaces are entered by.
    inside: i32,
}

impl Island {
    fn found() -> Option<Self> {
        let words = ["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"];
        let mut unshare = Command::new("unshare");
        unshare.args(words).arg(FOUND_ISLAND).stdout(Stdio::null()).stderr(Stdio::null());
        let mut holder = unshare.spawn().ok()?;
        let inside = Interrupt::default().wait_for(SOON, || {
            let child = child_of(holder.id() as i32);
            Ok(child.filter(|pid| command_of(*pid).starts_with("sleep")))
        });
        match inside {
            Ok(Some(inside)) => Some(Self { holder, inside }),
            Ok(None) | Err(_) => {
                drop(holder.kill());
                drop(holder.wait());
                None
            }
        }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.inside.to_string(), "--mount", "--net", "--pid", "--", program]);
        command
    }

    fn run(&self, program: &str, words: &[&str]) -> Output {
        self.command(program).args(words).output().expect("nsenter runs")
    }

    /// What of a lab is there.
    fn look(&self) -> String {
        String::from_utf8_lossy(&self.run("sh", &["-c", LOOK]).stdout).into_owned()
    }
}

impl Drop for Island {
    fn drop(&mut self) {
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}

fn child_of(pid: i32) -> Option<i32> {
    std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .ok()?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

fn command_of(pid: i32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}

fn hit_half_way(half: Half, signal: Signal) {
    let Some(island) = Island::found() else {
        skip("a demo killed half way: new namespaces cannot be made here");
        return;
    };
    assert_eq!(island.look(), "");
    let mut demo = island.command(SAMEWIRE);
    let mut demo =
        demo.args(["lab", "demo"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("nsenter runs");
    let sign = match half {
        Half::Building => "test -n \"$(ip netns list)\"",
        Half::Running => "test -S /run/swl-demo/birch/daemon.sock",
    };
    let ready = Interrupt::default().wait_for(Duration::from_secs(60), || {
        Ok(island.run("sh", &["-c", sign]).status.success().then_some(()))
    });
    assert_eq!(ready, Ok(Some(())), "the demo gets there");
    let victim = child_of(demo.id() as i32).and_then(Pid::from_raw).expect("the demo runs");
    kill_process(victim, signal).expect("it runs");
    assert!(!demo.wait().expect("it ends").success());
    if signal == Signal::KILL {
        assert_ne!(island.look(), "", "a killed demo cannot clean up; else this test shows nothing");
    } else {
        assert_eq!(island.look(), "", "a demo that is asked to stop cleans up itself");
    }
    let down = island.run(SAMEWIRE, &["lab", "down", "--all"]);
    assert!(down.status.success(), "{}", String::from_utf8_lossy(&down.stderr));
    assert_eq!(island.look(), "", "{half:?}, {signal:?}");
}

#[test]
fn a_machine_without_resolver_files_runs_the_demo_and_has_none_after() {
    if missing("a demo without resolver files", &[], sw_lab::Software::None) {
        return;
    }
    let _turn = turn();
    let Some(island) = Island::found() else {
        skip("a demo without resolver files: new namespaces cannot be made here");
        return;
    };
    let demo = island.run(SAMEWIRE, &["lab", "demo"]);
    let said = String::from_utf8_lossy(&demo.stdout);
    assert!(demo.status.success(), "{said}{}", String::from_utf8_lossy(&demo.stderr));
    assert_eq!(island.look(), "");
}

#[test]
fn a_demo_hit_half_way_leaves_nothing_after_down() {
    if missing("a demo killed half way", &[], sw_lab::Software::None) {
        return;
    }
    let _turn = turn();
    hit_half_way(Half::Building, Signal::KILL);
    hit_half_way(Half::Running, Signal::KILL);
    hit_half_way(Half::Running, Signal::INT);
    hit_half_way(Half::Running, Signal::TERM);
}
