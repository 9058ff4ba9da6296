//! A fresh machine: network, files and processes of its own. Everything in it ends with this value.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The longest wait for anything that goes well; a loaded machine may take its time.
const SOON: Duration = Duration::from_secs(60);
const PROGRAM: &str = env!("CARGO_BIN_EXE_samewire");

/// What a command printed and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) code: i32,
}

/// Whether machines can be made here; prints a visible line when not.
pub(crate) fn can_run(test: &str) -> bool {
    let tools = ["/usr/bin/unshare", "/usr/bin/nsenter", "/usr/bin/setpriv", "/usr/bin/python3"];
    let lacking = tools.iter().find(|tool| !Path::new(tool).exists());
    let why = if rustix::process::geteuid().is_root() {
        lacking.map(|tool| format!("{tool} is not there"))
    } else {
        Some("network namespaces need root".to_owned())
    };
    if let Some(why) = &why {
        writeln!(std::io::stderr(), "skipped: {test}: {why}").expect("stderr");
    }
    why.is_none()
}

/// A machine of namespaces.
pub(crate) struct Machine {
    unshare: Child,
    /// Its first process, as this machine counts.
    init: u32,
}

impl Machine {
    pub(crate) fn new(name: &str) -> Self {
        let begin = format!(
            "for d in /run /var/lib /root /tmp /usr/local/bin; do mount -t tmpfs tmpfs $d; done
             cp -a /etc /run/etc && mount --bind /run/etc /etc
             chmod 1777 /tmp
             ip link set lo up
             ip link add eth0 type veth peer name eth1 && ip link set eth1 up
             ip address add 192.168.8.10/24 dev eth0 && ip link set eth0 up
             cp {PROGRAM} /usr/local/bin/samewire && ln -s samewire /usr/local/bin/tailscale
             echo {name} > /proc/sys/kernel/hostname
             echo ready; exec sleep 3600"
        );
        let mut unshare = Command::new("/usr/bin/unshare")
            .args(["--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["--propagation", "private", "sh", "-ec", &begin])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare");
        let mut line = String::new();
        BufReader::new(unshare.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n", "the machine is made");
        let pid = unshare.id();
        let children =
            std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("its child");
        let init = children.split_whitespace().next().and_then(|pid| pid.parse().ok()).expect("its child");
        Self { unshare, init }
    }

    fn enter(&self) -> Command {
        let mut command = Command::new("/usr/bin/nsenter");
        command.args(["--net", "--mount", "--uts", "--pid", "--target", &self.init.to_string()]);
        command.env_clear().env("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/root");
        command.stdin(Stdio::null()).current_dir("/");
        command
    }

    /// Runs `samewire` with these words; `nobody: ` before them takes every right away, `as tailscale: ` calls it so.
    pub(crate) fn run(&self, words: &str) -> Said {
        let mut command = self.enter();
        let (words, program) = match words.strip_prefix("as tailscale: ") {
            Some(words) => (words, "tailscale"),
            None => (words, "samewire"),
        };
        let words = match words.strip_prefix("nobody: ") {
            Some(words) => {
                command.args(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
                command.env("USER", "nobody").env("HOME", "/tmp");
                words
            }
            None => words,
        };
        // A daemon that starts in spite of what is wrong must not stay.
        command.args(["timeout", "60", program]).args(words.split_whitespace());
        said(&command.output().expect("nsenter"))
    }

    /// As [`Self::run`]; it must work.
    pub(crate) fn works(&self, words: &str) -> Said {
        let said = self.run(words);
        assert_eq!(said.code, 0, "samewire {words}\n{}{}", said.out, said.err);
        said
    }

    /// Runs a line of shell, which must work.
    pub(crate) fn shell(&self, line: &str) {
        let said = said(&self.enter().args(["sh", "-c", line]).output().expect("a shell"));
        assert_eq!(said.code, 0, "{line}\n{}{}", said.out, said.err);
    }

    /// Runs a script with only these variables, on a terminal of its own or into pipes. A terminal has one stream.
    pub(crate) fn bare(&self, environment: &str, script: &str, is_terminal: bool) -> Said {
        let mut command = self.enter();
        command.arg("env").args(environment.split_whitespace());
        if is_terminal {
            // Python would put a locale with UTF-8 in the place of C.
            command.args([
                "PYTHONCOERCECLOCALE=0",
                "python3",
                "-c",
                "import pty, sys; pty.spawn(sys.argv[1:])",
            ]);
        }
        // In a pipe, too, both go to one place, so that they stay in order.
        command.args(["sh", "-c", &format!("exec 2>&1; {script}")]);
        said(&command.output().expect("nsenter"))
    }

    /// Starts a further daemon and waits until it answers at /run/NAME.sock.
    pub(crate) fn daemon(&self, name: &str, flags: &str) {
        let (state, socket) = (format!("/var/lib/{name}"), format!("/run/{name}.sock"));
        self.shell(&format!(
            "samewire daemon --statedir {state} --socket {socket} {flags} >/run/{name}.log 2>&1 </dev/null &"
        ));
        self.until(&format!("{name} answers"), || {
            (self.run(&format!("--socket {socket} version --daemon")).code == 0).then_some(())
        });
    }

    /// Awaits a condition.
    pub(crate) fn until<T>(&self, what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
        let end = Instant::now() + SOON;
        loop {
            if let Some(value) = ready() {
                return value;
            }
            assert!(Instant::now() < end, "{what}: not in {SOON:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _gone = self.unshare.kill();
        let _collected = self.unshare.wait();
    }
}

fn said(output: &Output) -> Said {
    Said {
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
        code: output.status.code().unwrap_or(-1),
    }
}
