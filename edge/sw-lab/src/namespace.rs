//! Namespaces and the programs that configure them, always by argument list and absolute path, never by a shell.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::thread::LinkNameSpaceType;

use crate::LabError;

/// Everything the lab makes carries this prefix.
pub(crate) const PREFIX: &str = "swl-";

/// Where `ip netns` keeps the names of namespaces.
pub(crate) const NETNS_DIR: &str = "/run/netns";

/// Where `ip netns exec` looks for files that replace those of `/etc` in a namespace.
pub(crate) const NETNS_ETC_DIR: &str = "/etc/netns";

/// Returns the name of a room's namespace. The lab's name holds no point, so the parts stay apart.
pub(crate) fn name_of(lab: &str, room: &str) -> String {
    format!("{PREFIX}{lab}.{room}")
}

/// Returns a command for a system program: found in the system's own directories, environment cleared.
///
/// # Errors
/// The program is not installed.
pub fn argv(program: &str) -> Result<Command, LabError> {
    let mut command = Command::new(find_system_program(program)?);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C");
    Ok(command)
}

fn find_system_program(program: &str) -> Result<PathBuf, LabError> {
    let dirs = ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin"];
    dirs.iter().map(|dir| Path::new(dir).join(program)).find(|path| path.is_file()).ok_or_else(|| {
        let package = match program {
            "ip" => "iproute2",
            "nft" => "nftables",
            "ping" => "iputils-ping",
            other => other,
        };
        LabError::new("lab-program-missing", format!("the lab needs the program \"{program}\"."))
            .why("it is in none of the system's program directories")
            .fix(format!("sudo apt install {package}"))
    })
}

/// Runs `command` with `input` on its standard input and returns what it printed.
///
/// # Errors
/// It could not be started or ended with an error; the reason holds its last line.
pub fn run_program(command: &mut Command, input: &str) -> Result<Output, LabError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed =
        |why: String| LabError::new("lab-program-failed", format!("\"{program}\" did not work.")).why(why);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| failed(e.to_string()))?;
    let mut stdin = child.stdin.take();
    let text = input.to_owned();
    // WHY a thread: a program that prints before it has read everything would wait for us for ever.
    let writer = std::thread::spawn(move || stdin.as_mut().map_or(Ok(()), |s| s.write_all(text.as_bytes())));
    let output = child.wait_with_output().map_err(|e| failed(e.to_string()))?;
    // A program that stops reading early says why by its exit code.
    let _written = writer.join();
    if output.status.success() {
        return Ok(output);
    }
    let arguments: Vec<_> = command.get_args().map(|a| a.to_string_lossy().into_owned()).collect();
    // Some programs print their JSON errors as an answer.
    let said = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    let said = String::from_utf8_lossy(said);
    Err(failed(format!("{} {}: {}", output.status, arguments.join(" "), said.trim())))
}

/// Runs `inside` on a thread of its own that lives in the namespace; sockets and programs it starts belong there.
///
/// # Errors
/// The namespace does not exist or may not be entered, or what `inside` returns.
pub(crate) fn enter<T: Send>(
    namespace: &str,
    inside: impl FnOnce() -> Result<T, LabError> + Send,
) -> Result<T, LabError> {
    let closed = |why: String| {
        LabError::new("lab-namespace", format!("the namespace \"{namespace}\" cannot be entered.")).why(why)
    };
    let file = File::open(Path::new(NETNS_DIR).join(namespace)).map_err(|e| closed(e.to_string()))?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            rustix::thread::move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(|e| closed(e.to_string()))?;
            inside()
        });
        thread.join().map_err(|_| closed("the thread in it panicked".into()))?
    })
}

/// Runs `ip -batch` with `lines`, in `namespace` or in the namespace of the caller.
pub(crate) fn ip_batch(namespace: Option<&str>, lines: &[String]) -> Result<(), LabError> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut command = argv("ip")?;
    if let Some(namespace) = namespace {
        command.args(["-n", namespace]);
    }
    command.args(["-batch", "-"]);
    let script = lines.join("\n") + "\n";
    run_program(&mut command, &script).map(drop).map_err(|mut e| {
        if let Some(line) = failed_line(&e.why).and_then(|n| lines.get(n.checked_sub(1)?)) {
            e.why = format!("{} (\"{line}\")", e.why);
        }
        e
    })
}

/// Reads the line number out of iproute2's "Command failed -:7".
fn failed_line(said: &str) -> Option<usize> {
    let (_, number) = said.rsplit_once("Command failed -:")?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Runs an nft script in `namespace`.
pub(crate) fn nft(namespace: &str, script: &str) -> Result<(), LabError> {
    if script.is_empty() {
        return Ok(());
    }
    enter(namespace, || run_program(argv("nft")?.args(["-f", "-"]), script).map(drop))
}

/// Writes kernel settings in `namespace`; those that this kernel does not have are left out.
pub(crate) fn sysctl(namespace: &str, settings: &[(&str, &str)]) -> Result<(), LabError> {
    enter(namespace, || {
        for (name, value) in settings {
            let path = Path::new("/proc/sys").join(name.replace('.', "/"));
            if path.exists() {
                std::fs::write(&path, value).map_err(|e| {
                    LabError::new("lab-sysctl", format!("the setting {name} cannot be written."))
                        .why(e.to_string())
                })?;
            }
        }
        Ok(())
    })
}

/// Returns a command that runs `program` in `namespace`, with the namespace's own files in place of those of `/etc`.
pub(crate) fn command_in(namespace: &str, program: &Path) -> Result<Command, LabError> {
    let mut command = argv("ip")?;
    command.args(["netns", "exec", namespace]).arg(program);
    // The host's message bus would carry DNS settings of a machine of the lab to the host's resolver.
    command.env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent");
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failed_line_of_a_batch_is_found() {
        assert_eq!(
            failed_line("exit status: 1: RTNETLINK answers: File exists\nCommand failed -:12"),
            Some(12)
        );
        assert_eq!(failed_line("something else"), None);
    }

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        let error = argv("no-such-program-of-the-lab").expect_err("it does not exist");
        assert!(error.to_string().contains("fix: sudo apt install"));
    }
}
