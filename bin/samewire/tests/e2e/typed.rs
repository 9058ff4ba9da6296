//! A shell on a machine of the lab, with files of its own: what somebody types there, and what they see.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use sw_lab::World;

/// Ends the output of one line typed.
const END: &str = "--end of what was typed--";
/// The place where people put the program.
const INSTALLED: &str = "/usr/local/bin/samewire";

/// What a typed line printed and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) out: String,
    pub(crate) code: i32,
}

/// A root shell in a machine's namespace. `/run`, `/var/lib` and `/usr/local/bin` are its own and empty, as on a fresh
/// machine; no service manager runs there.
pub(crate) struct Shell {
    name: String,
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Shell {
    pub(crate) fn open(world: &World, name: &str) -> Self {
        let mut command = world.command_in_room(name, Path::new("/usr/bin/unshare")).expect("ip is there");
        command.args(["--mount", "--uts", "--propagation", "private", "sh", "-s"]);
        command.env("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/root");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell in the lab");
        let stdin = child.stdin.take().expect("piped");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut shell = Self { name: name.to_owned(), child, stdin, lines };
        // A join line has sudo in it, which a container may lack.
        let fresh = format!(
            "for d in /run /var/lib /usr/local/bin; do mount -t tmpfs tmpfs $d; done\n\
             printf '#!/bin/sh\\nexec \"$@\"\\n' > /usr/local/bin/sudo; chmod 755 /usr/local/bin/sudo\n\
             echo {name} > /proc/sys/kernel/hostname"
        );
        assert_eq!(shell.types(&fresh).code, 0, "{name}: a fresh machine");
        shell
    }

    /// Puts the program there, as somebody who downloaded it.
    pub(crate) fn install(&mut self) {
        let copied = self.types(&format!("cp {} {INSTALLED}", env!("CARGO_BIN_EXE_samewire")));
        assert_eq!(copied.code, 0, "{}", self.name);
    }

    /// Types one line (or some) and waits for its end. Both streams are returned as they came.
    pub(crate) fn types(&mut self, line: &str) -> Said {
        self.types_for(Duration::from_secs(60), line)
    }

    pub(crate) fn types_for(&mut self, limit: Duration, line: &str) -> Said {
        let text = format!("( {line}\n) 2>&1 </dev/null; printf '\\n%s %s\\n' \"$?\" '{END}'\n");
        self.stdin.write_all(text.as_bytes()).expect("the shell listens");
        let (mut out, end) = (String::new(), Instant::now() + limit);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("{}: {line:?} does not end in {limit:?}:\n{out}", self.name)
            };
            if let Some(code) = line.strip_suffix(END) {
                // The line break before the mark is ours; where the last line lacked its end, it has one now.
                out.truncate(out.trim_end_matches('\n').len());
                return Said { out, code: code.trim().parse().unwrap_or(-1) };
            }
            out.push_str(&line);
            out.push('\n');
        }
    }

    /// As [`Self::types`]; the line must work.
    pub(crate) fn types_well(&mut self, line: &str) -> String {
        let said = self.types(line);
        if said.code != 0 {
            let log = self.log();
            panic!("{}: {line}\n{}\n{log}", self.name, said.out);
        }
        said.out
    }

    /// Repeats a line until it works.
    pub(crate) fn until(&mut self, limit: Duration, line: &str) -> String {
        let end = Instant::now() + limit;
        loop {
            let said = self.types(line);
            if said.code == 0 {
                return said.out;
            }
            if Instant::now() > end {
                let log = self.log();
                panic!("{}: {line} not in {limit:?}\n{}\n{log}", self.name, said.out);
            }
        }
    }

    fn log(&mut self) -> String {
        self.types("samewire status; tail -n 40 /var/lib/samewire/samewire.log").out
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // The daemon leads a session of its own and would outlive the shell.
        let _shell_gone = self.stdin.write_all(b"samewire uninstall --yes >/dev/null 2>&1; exit\n");
        let end = Instant::now() + Duration::from_secs(15);
        while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}
