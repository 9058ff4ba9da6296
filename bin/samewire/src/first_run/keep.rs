//! `samewire backup`, `samewire restore` and `samewire move`: a machine's part of the network in one file.
//!
//! The file is a plain tar archive of at most five known files, readable by its owner alone: whoever has it is the
//! machine, and the server.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use sw_cli::local::{Context, Globals, Outcome, finish, say, warn};
use sw_daemon::Problem;

use super::background::{self, Paths};
use super::up::problem_of;

/// What a backup holds, below the state directory.
const FILES: [&str; 5] = [
    "control/control.db",
    "control/control.keys",
    "control/network.json",
    "control/acme.json",
    "node/node.state",
];
const BLOCK: usize = 512;
/// Largest file that is taken out of a backup: a database with the history of years.
const FILE_MAX: u64 = 8 << 30;

/// Flags of `backup`.
#[derive(Args, Clone, Debug)]
pub struct BackupArgs {
    /// A file that does not exist yet
    file: PathBuf,
}

/// Flags of `restore`.
#[derive(Args, Clone, Debug)]
pub struct RestoreArgs {
    /// What `samewire backup` wrote
    #[arg(required_unless_present = "latest")]
    file: Option<PathBuf>,
    /// Instead of a file: the newest of the copies that a server makes of its network each day
    #[arg(long, conflicts_with = "file")]
    latest: bool,
    /// Put it in the place of the network that is here now; that one is kept beside it
    #[arg(long)]
    yes: bool,
}

/// Flags of `move`.
#[derive(Args, Clone, Debug)]
pub struct MoveArgs {
    /// The machine that is to serve the network
    #[arg(long, value_name = "HOST")]
    to: Option<String>,
}

/// Runs `backup`.
pub fn backup(args: &BackupArgs, globals: &Globals) -> ExitCode {
    let context = Context::new(globals, false);
    let paths = Paths::detect(globals.socket.as_deref());
    match write_backup(&args.file, &paths) {
        Ok(count) => {
            let file = args.file.display();
            drop(
                context.done(format!(
                    "{file} holds {count} files. Whoever has it is this machine; keep it safe."
                )),
            );
            ExitCode::SUCCESS
        }
        Err(problem) => finish(Err(problem.into()), &context, false),
    }
}

fn write_backup(file: &Path, paths: &Paths) -> Result<usize, Problem> {
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |error: io::Error| {
            let fix = if error.kind() == io::ErrorKind::PermissionDenied {
                "as root: sudo samewire backup FILE"
            } else if error.kind() == io::ErrorKind::AlreadyExists {
                "give it a name that is not there yet: samewire backup FILE"
            } else {
                "choose another place: samewire backup FILE"
            };
            Problem::other("the backup was not written.", format!("{path}: {error}"), fix)
        }
    };
    let mut out =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map_err(failed(file))?;
    let work = paths.state.join("backup.tmp");
    let _left_by_a_crash = fs::remove_dir_all(&work);
    let mut write = || -> Result<usize, Problem> {
        let mut count = 0;
        let copy = work.join("control.db");
        if paths.control().join("network.json").exists() {
            fs::create_dir(&work).map_err(failed(&work))?;
            // The server copies itself while it runs; a file copy of a live database would be torn.
            sw_cli::admin::ask(&paths.control(), "POST", "backup", json!({ "path": copy }))
                .map_err(|error| problem_of(&error))?;
        }
        for name in FILES {
            let source = match name {
                "control/control.db" => copy.clone(),
                _ => paths.state.join(name),
            };
            let content = match fs::read(&source) {
                Ok(content) => content,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(&source)(error)),
            };
            append(&mut out, name, &content).map_err(failed(file))?;
            count += 1;
        }
        if count == 0 {
            let why = format!("there is no state in {}", paths.state.display());
            return Err(Problem::other("there is nothing to keep.", why, ""));
        }
        out.write_all(&[0; 2 * BLOCK]).and_then(|()| out.sync_all()).map_err(failed(file))?;
        Ok(count)
    };
    let result = write();
    let _absent_for_a_node = fs::remove_dir_all(&work);
    if result.is_err() {
        let _ours = fs::remove_file(file);
    }
    result
}

/// One member of a ustar archive.
fn append(out: &mut File, name: &str, content: &[u8]) -> io::Result<()> {
    let mut head = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, b"0000600\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    // Sizes of 8 GiB and more do not fit eleven octal digits.
    if content.len() as u64 >= FILE_MAX {
        return Err(io::Error::other("the file is too long for a backup"));
    }
    put(124, format!("{:011o}\0", content.len()).as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
    head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.write_all(&head)?;
    out.write_all(content)?;
    out.write_all(&vec![0; content.len().next_multiple_of(BLOCK) - content.len()])
}

/// Runs `restore`.
pub fn restore(args: &RestoreArgs, globals: &Globals) -> ExitCode {
    let context = Context::new(globals, false);
    let paths = Paths::detect(globals.socket.as_deref());
    let restored = match &args.file {
        Some(file) => read_backup(file, args.yes, &paths, context.quiet),
        None => return finish(restore_latest(args.yes, &context, &paths), &context, false),
    };
    match restored {
        Ok(kept) => {
            if let Some(kept) = kept {
                drop(context.done(format!("What was here is kept in {}", kept.display())));
            }
            drop(context.done("The backup is in force. See who is here: samewire status"));
            ExitCode::SUCCESS
        }
        Err(problem) => finish(Err(problem.into()), &context, false),
    }
}

/// Puts the newest daily copy that is whole in the place of the server's database.
fn restore_latest(yes: bool, context: &Context, paths: &Paths) -> Outcome {
    let control = paths.control();
    let serves = sw_cli::admin::ask(&control, "GET", "settings", json!({})).is_ok();
    if serves && !yes {
        let problem = Problem::misuse(
            "this network is served and well; a copy would take back what was done since.",
            "to go on; what is here is kept: samewire restore --latest --yes",
        );
        return Err(problem.into());
    }
    let folder = control.join("snapshots");
    let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
    let mut copies: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    copies.retain(|file| file.extension().is_some_and(|extension| extension == "db"));
    // Their names are dates.
    copies.sort_unstable_by(|a, b| b.cmp(a));
    let not_restored = "no copy was put back; nothing was changed.";
    let fix = "a backup of yours puts it back: samewire restore FILE";
    let mut why = format!("there is none in {}", folder.display());
    background::stop(paths)?;
    for copy in &copies {
        match sw_control::restore(copy, &control) {
            Ok(_) => {
                let day = copy.file_stem().unwrap_or_default().to_string_lossy();
                context
                    .done(format!("The network is as it was on {day}; what was there is kept beside it."))?;
                background::start(paths, context.quiet)?;
                return context.done("It is served again. See who is here: samewire status");
            }
            Err(error) => why = error.to_string(),
        }
    }
    Err(Problem::other(not_restored, why, fix).into())
}

/// Puts the backup in place and starts the daemon. Returns where the old state is kept.
fn read_backup(file: &Path, yes: bool, paths: &Paths, is_quiet: bool) -> Result<Option<PathBuf>, Problem> {
    let failed = |what: &'static str| move |error: io::Error| Problem::other(what, error.to_string(), "");
    let not_restored = "the backup was not restored; nothing was changed.";
    let fresh = paths.state.with_extension("restoring");
    let _left_by_a_crash = fs::remove_dir_all(&fresh);
    let unpacked = File::open(file).and_then(|mut file| unpack(&mut file, &fresh));
    if let Err(error) = unpacked {
        let _ours = fs::remove_dir_all(&fresh);
        let why = format!("{}: {error}", file.display());
        return Err(Problem::other(not_restored, why, "use a file that samewire backup wrote"));
    }
    let is_taken = FILES.iter().any(|name| paths.state.join(name).exists());
    if is_taken && !yes {
        let _ours = fs::remove_dir_all(&fresh);
        return Err(Problem {
            slug: "second-network".to_owned(),
            what: "this machine is in a network already, and the backup would take its place.".to_owned(),
            why: format!("state in {}", paths.state.display()),
            fix: "to go on; what is here is kept: samewire restore --yes FILE".to_owned(),
        });
    }
    background::stop(paths)?;
    let mut kept = None;
    if is_taken {
        let place = free_name(&paths.state);
        fs::rename(&paths.state, &place).map_err(failed(not_restored))?;
        kept = Some(place);
    } else {
        let _absent_or_empty = fs::remove_dir_all(&paths.state);
    }
    fs::rename(&fresh, &paths.state).map_err(failed("the backup is unpacked but not in place."))?;
    background::start(paths, is_quiet)?;
    Ok(kept)
}

fn free_name(state: &Path) -> PathBuf {
    let mut number = 0;
    loop {
        let suffix =
            if number == 0 { "before-restore".to_owned() } else { format!("before-restore-{number}") };
        let name = state.with_extension(suffix);
        if !name.exists() {
            return name;
        }
        number += 1;
    }
}

/// Takes the known files out of an archive; anything else is refused, and so is a damaged head.
fn unpack(archive: &mut impl Read, into: &Path) -> io::Result<()> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let directory = |path: &Path| {
        sw_os::files::create_private_directory(path).map_err(|error| io::Error::other(error.to_string()))
    };
    let mut count = 0;
    loop {
        let mut head = [0; BLOCK];
        archive.read_exact(&mut head)?;
        if head.iter().all(|byte| *byte == 0) {
            break;
        }
        let octal = |from: usize, to: usize| {
            let text = std::str::from_utf8(&head[from..to]).ok()?;
            u64::from_str_radix(text.trim_matches(['\0', ' ']), 8).ok()
        };
        let sum: u64 = head
            .iter()
            .enumerate()
            .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u64::from(*byte) })
            .sum();
        if octal(148, 156) != Some(sum) || head[156] != b'0' {
            return Err(bad("it is no backup, or it is damaged"));
        }
        let name = head[..100].split(|byte| *byte == 0).next().unwrap_or_default();
        let name = FILES.iter().find(|known| known.as_bytes() == name);
        let name = name.ok_or_else(|| bad("it holds files that no backup has"))?;
        let size = octal(124, 136).ok_or_else(|| bad("it is damaged"))?;
        let path = into.join(name);
        directory(path.parent().unwrap_or(into))?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let copied = io::copy(&mut archive.take(size), &mut file)?;
        let padding = size.next_multiple_of(BLOCK as u64) - size;
        if copied != size || io::copy(&mut archive.take(padding), &mut io::sink())? != padding {
            return Err(bad("it is cut"));
        }
        file.sync_all()?;
        count += 1;
    }
    if count == 0 { Err(bad("it is empty")) } else { Ok(()) }
}

/// Runs `move`: the steps, since two machines and their operator have a part in it.
pub fn show_move(args: &MoveArgs, globals: &Globals) -> ExitCode {
    let paths = Paths::detect(globals.socket.as_deref());
    if !paths.control().join("network.json").exists() {
        warn("error: this machine serves no network.\n  fix: run it on the first machine");
        return ExitCode::from(1);
    }
    let host = args.to.as_deref().unwrap_or("HOST");
    let steps = format!(
        "\
  To move this network to {host}, with its machines, people and policy:

  1 Here: keep everything in one file.
samewire backup network.samewire

  2 Carry the file and the program over.
scp network.samewire {exe} {host}:

  3 Here: stop serving. Two servers with the same keys must never run at once.
samewire uninstall --yes

  4 There: it serves on from where it was.
sudo ./samewire restore network.samewire

  Machines look for the server where they joined it. At a name: point its DNS
  record to {host}. At an address: give {host} that address, or let each machine
  join again with a line of samewire invite.",
        exe = std::env::current_exe()
            .map(|exe| exe.display().to_string())
            .unwrap_or_else(|_| "samewire".into()),
    );
    drop(say(steps));
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_is_read_back_and_damage_is_refused() {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("backup");
        let mut file = File::create(&path).expect("a file");
        append(&mut file, "node/node.state", b"keys").expect("written");
        append(&mut file, "control/network.json", &[b'x'; 1000]).expect("written");
        file.write_all(&[0; 2 * BLOCK]).expect("written");
        let bytes = fs::read(&path).expect("readable");

        let whole = place.path().join("whole");
        unpack(&mut bytes.as_slice(), &whole).expect("a good backup");
        assert_eq!(fs::read(whole.join("node/node.state")).expect("there"), b"keys");
        assert_eq!(fs::read(whole.join("control/network.json")).expect("there").len(), 1000);

        for (what, damaged) in [
            ("cut", bytes[..BLOCK + 100].to_vec()),
            ("name", [b"node/../etc/passwd".as_slice(), &bytes[18..]].concat()),
            ("empty", vec![0; BLOCK]),
        ] {
            let into = place.path().join(what);
            assert!(unpack(&mut damaged.as_slice(), &into).is_err(), "{what}");
        }
    }

    #[test]
    fn tar_itself_reads_a_backup() {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("backup.tar");
        let mut file = File::create(&path).expect("a file");
        append(&mut file, "node/node.state", b"keys").expect("written");
        file.write_all(&[0; 2 * BLOCK]).expect("written");
        let listed = std::process::Command::new("tar").arg("tf").arg(&path).output().expect("tar runs");
        assert_eq!(String::from_utf8_lossy(&listed.stdout), "node/node.state\n");
    }
}
