//! A lab that runs: its rooms, its server and the machines in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::build::{build, reset_nat, spawn_in_background};
use crate::leftovers::{remove_lab, run_dir};
use crate::namespace::{NETNS_DIR, command_in, enter, ip_batch, name_of, nft};
use crate::plan::{MachineLink, Plan};
use crate::{Interrupt, LabError, LocalApi, Programs, Server, Software, Topology};

/// Longest wait for a daemon to answer on its socket.
const DAEMON_LIMIT: Duration = Duration::from_secs(15);

/// Longest wait for a machine to join.
const JOIN_LIMIT: Duration = Duration::from_secs(30);

/// A lab with all that runs in it; it is removed when this is dropped.
#[derive(Debug)]
pub struct World {
    topology: Topology,
    plan: Plan,
    programs: Programs,
    interrupt: Interrupt,
    server: Option<Server>,
    machines: BTreeMap<String, Machine>,
    is_kept: bool,
}

/// Where a machine is plugged in after a change of place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Roam {
    /// To the place with that number in its `at` list.
    To(usize),
    /// To nowhere: every cable is out.
    Unplugged,
}

impl World {
    /// Builds the rooms of `topology`; no server and no daemon runs yet.
    ///
    /// # Errors
    /// The topology is impossible, a lab of that name exists, or the machine cannot build it.
    pub fn build(topology: Topology, programs: Programs, interrupt: Interrupt) -> Result<Self, LabError> {
        topology.validate().map_err(|why| {
            LabError::new("lab-topology", "this lab cannot be built.").why(why).exit_code(2)
        })?;
        let name = topology.name.clone();
        if !crate::find_leftovers(Some(&name)).is_empty() {
            return Err(LabError::new("lab-exists", format!("a lab called \"{name}\" exists."))
                .why(format!("its namespaces are in {NETNS_DIR}"))
                .fix(format!("samewire lab down {name}")));
        }
        let plan = Plan::of(&topology);
        // From here on a drop removes what was made.
        let mut world = Self {
            topology,
            plan,
            programs,
            interrupt,
            server: None,
            machines: BTreeMap::new(),
            is_kept: false,
        };
        let server = world.topology.server.as_ref().map(|s| s.name.as_str());
        build((&name, server), &world.plan, &world.programs.samewire, &world.interrupt)?;
        world.register()?;
        Ok(world)
    }

    /// Takes up a lab that an earlier command has built and kept.
    ///
    /// # Errors
    /// There is no such lab.
    pub fn open(name: &str, programs: Programs, interrupt: Interrupt) -> Result<Self, LabError> {
        let file = run_dir(name).join("lab.json");
        let text = std::fs::read_to_string(&file).map_err(|e| {
            LabError::new("lab-unknown", format!("no lab is called \"{}\".", name.escape_default()))
                .why(format!("{}: {e}", file.display()))
                .fix("samewire lab ps")
        })?;
        let topology: Topology = serde_json::from_str(&text).map_err(|e| {
            LabError::new("lab-damaged", "the lab's own file is damaged.")
                .why(e.to_string())
                .fix("samewire lab down --all")
        })?;
        let plan = Plan::of(&topology);
        let mut world = Self {
            topology,
            plan,
            programs,
            interrupt,
            server: None,
            machines: BTreeMap::new(),
            is_kept: true,
        };
        world.register()?;
        Ok(world)
    }

    /// Leaves everything running when this value is dropped; `samewire lab down` removes it.
    pub fn keep(&mut self) {
        self.is_kept = true;
    }

    fn register(&mut self) -> Result<(), LabError> {
        let name = self.topology.name.clone();
        let dir = run_dir(&name);
        let failed = |e: std::io::Error| {
            LabError::new("lab-files", "the files of the lab cannot be written.").why(e.to_string())
        };
        let json = serde_json::to_string(&self.topology).unwrap_or_default();
        std::fs::write(dir.join("lab.json"), json).map_err(failed)?;
        let server = self.topology.server.clone();
        if let Some(spec) = &server {
            let dir = dir.join(&spec.name);
            std::fs::create_dir_all(&dir).map_err(failed)?;
            let reached_at = (spec.name.as_str(), self.plan.addresses(&spec.name));
            let namespace = name_of(&name, &spec.name);
            self.server =
                Some(Server::new((spec.software, spec.relay), reached_at, &namespace, &dir, &self.programs));
        }
        for spec in &self.topology.machine {
            let dir = dir.join(&spec.name);
            std::fs::create_dir_all(&dir).map_err(failed)?;
            let namespace = name_of(&name, &spec.name);
            let machine = Machine {
                links: self.plan.machines.get(&spec.name).map(|m| m.links.clone()).unwrap_or_default(),
                name: spec.name.clone(),
                software: spec.software,
                namespace,
                dir,
                programs: self.programs.clone(),
                daemon: None,
            };
            self.machines.insert(spec.name.clone(), machine);
        }
        Ok(())
    }

    /// Returns the topology that this lab was built from.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Returns the lab's Ctrl-C, for waits of the caller.
    pub fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// Returns the server.
    ///
    /// # Errors
    /// The topology has none.
    pub fn server(&mut self) -> Result<&mut Server, LabError> {
        self.server
            .as_mut()
            .ok_or_else(|| LabError::new("lab-no-server", "the lab has no server.").exit_code(2))
    }

    /// Starts the server and returns a key to join with.
    ///
    /// # Errors
    /// It did not start.
    pub fn start_server(&mut self) -> Result<String, LabError> {
        let interrupt = self.interrupt.clone();
        let server = self.server()?;
        server.start(&interrupt)?;
        server.auth_key()
    }

    /// Returns the machine of that name.
    ///
    /// # Errors
    /// There is none.
    pub fn machine(&mut self, name: &str) -> Result<&mut Machine, LabError> {
        let known: Vec<&str> = self.topology.machine.iter().map(|m| m.name.as_str()).collect();
        let error = LabError::new(
            "no-such-machine",
            format!("no machine of the lab is called \"{}\".", name.escape_default()),
        )
        .why(format!("its machines are {}", known.join(", ")))
        .exit_code(2);
        self.machines.get_mut(name).ok_or(error)
    }

    /// Starts a machine's daemon and joins it to the network of the lab's server; returns how long `up` took.
    ///
    /// # Errors
    /// The daemon or `up` failed.
    pub fn join(&mut self, name: &str, key: &str) -> Result<Duration, LabError> {
        let url = self.server()?.url();
        let interrupt = self.interrupt.clone();
        let machine = self.machine(name)?;
        machine.start(&interrupt)?;
        machine.up(&url, key, &[], &interrupt)
    }

    /// Makes the NATs of these rooms forget their flows and ports; of all rooms when none is named.
    ///
    /// # Errors
    /// A rule could not be loaded.
    pub fn reset_nats(&self, rooms: &[String]) -> Result<(), LabError> {
        let named = self.plan.rooms.iter().filter(|r| rooms.is_empty() || rooms.contains(&r.name));
        named.into_iter().try_for_each(|room| reset_nat(&self.topology.name, room))
    }

    /// Loads an nft script in a room: a site, a machine, or `internet`.
    ///
    /// # Errors
    /// There is no such room, or the script is refused.
    pub fn nft(&self, room: &str, script: &str) -> Result<(), LabError> {
        nft(&name_of(&self.topology.name, room), script)
    }

    /// Runs `inside` on a thread of its own in a room; the sockets that it opens stay in that room.
    ///
    /// # Errors
    /// There is no such room, or what `inside` returns.
    pub fn in_room<T: Send>(
        &self,
        room: &str,
        inside: impl FnOnce() -> Result<T, LabError> + Send,
    ) -> Result<T, LabError> {
        enter(&name_of(&self.topology.name, room), inside)
    }

    /// Returns a command that runs `program` in any room of the lab.
    ///
    /// # Errors
    /// `ip` is absent.
    pub fn command_in_room(&self, room: &str, program: &Path) -> Result<Command, LabError> {
        command_in(&name_of(&self.topology.name, room), program)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !self.is_kept {
            // Nobody is left to tell; `lab down --all` tries again.
            let _told = remove_lab(&self.topology.name);
        }
    }
}

/// One machine of a lab.
#[derive(Debug)]
pub struct Machine {
    name: String,
    software: Software,
    namespace: String,
    dir: PathBuf,
    programs: Programs,
    links: Vec<MachineLink>,
    daemon: Option<Child>,
}

impl Machine {
    /// Returns the machine's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns whose software runs on it.
    pub fn software(&self) -> Software {
        self.software
    }

    /// Returns the namespace it lives in.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Returns the directory of its state, socket and log.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns its places with their addresses, the one in use at the start first.
    pub fn places(&self) -> Vec<(String, Vec<std::net::IpAddr>)> {
        self.links.iter().map(|l| (l.place.clone(), l.addresses.clone())).collect()
    }

    /// Returns the client of its daemon.
    pub fn local_api(&self) -> LocalApi {
        LocalApi::new(&self.dir.join("daemon.sock"))
    }

    /// Starts the daemon and waits until it answers.
    ///
    /// # Errors
    /// It ended or does not answer in time.
    pub fn start(&mut self, interrupt: &Interrupt) -> Result<(), LabError> {
        let mut command = self.software.daemon(&self.programs, &self.namespace, &self.dir)?;
        let mut child = spawn_in_background(&mut command, &self.dir.join("daemon.log"))?;
        let api = self.local_api();
        let answered = interrupt.wait_for(DAEMON_LIMIT, || match child.try_wait() {
            Ok(Some(status)) => Err(self.not_started(&format!("it ended with {status}"))),
            Ok(None) | Err(_) => Ok(api.status().map(drop)),
        });
        self.daemon = Some(child);
        answered?.ok_or_else(|| self.not_started("its socket does not answer"))
    }

    fn not_started(&self, why: &str) -> LabError {
        LabError::new("lab-daemon", format!("the daemon of \"{}\" did not start.", self.name))
            .why(why)
            .fix(format!("read {}", self.dir.join("daemon.log").display()))
    }

    /// Joins the network at `url`; returns how long it took from `up` to an address of its own.
    ///
    /// # Errors
    /// `up` failed or did not end in time.
    pub fn up(
        &mut self,
        url: &str,
        key: &str,
        extra: &[&str],
        interrupt: &Interrupt,
    ) -> Result<Duration, LabError> {
        let start = Instant::now();
        let mut words =
            vec!["up", "--login-server", url, "--auth-key", key, "--hostname", self.name.as_str()];
        words.extend(extra);
        let output = self.command_line(&words, JOIN_LIMIT, interrupt)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(LabError::new("lab-join", format!("\"{}\" did not join.", self.name))
                .why(said.trim().to_owned()));
        }
        let api = self.local_api();
        let address = interrupt.wait_for(JOIN_LIMIT, || Ok(api.own_address()))?;
        address.map(|_| start.elapsed()).ok_or_else(|| {
            LabError::new("lab-join", format!("\"{}\" joined but has no address.", self.name))
                .fix(format!("read {}", self.dir.join("daemon.log").display()))
        })
    }

    /// Runs the command line program (`samewire` or `tailscale`) with `words` for at most `limit`.
    ///
    /// # Errors
    /// It could not be started or did not end in time.
    pub fn command_line(
        &self,
        words: &[&str],
        limit: Duration,
        interrupt: &Interrupt,
    ) -> Result<Output, LabError> {
        let mut command = self.command_of_its_program()?;
        command.args(words);
        run_with_limit(&mut command, limit, interrupt)
    }

    /// Returns the command line program without words yet.
    pub(crate) fn command_of_its_program(&self) -> Result<Command, LabError> {
        self.software.command_line(&self.programs, &self.namespace, &self.dir)
    }

    /// Runs any program on the machine for at most `limit`.
    ///
    /// # Errors
    /// It could not be started or did not end in time.
    pub fn exec(&self, words: &[&str], limit: Duration, interrupt: &Interrupt) -> Result<Output, LabError> {
        run_with_limit(&mut self.command(words)?, limit, interrupt)
    }

    /// Returns a command that runs on the machine.
    ///
    /// # Errors
    /// `words` is empty or `ip` is absent.
    pub fn command(&self, words: &[&str]) -> Result<Command, LabError> {
        let Some((program, arguments)) = words.split_first() else {
            return Err(LabError::new("lab-exec", "there is nothing to run.").exit_code(2));
        };
        let mut command = command_in(&self.namespace, Path::new(program))?;
        command.args(arguments).env("HOME", &self.dir).env("SAMEWIRE_SOCKET", self.dir.join("daemon.sock"));
        Ok(command)
    }

    /// Asks the daemon to end and waits for it; after 5 s it is killed.
    pub fn stop(&mut self) {
        if let Some(child) = &mut self.daemon {
            if let Some(pid) = Pid::from_raw(i32::try_from(child.id()).unwrap_or(0)) {
                // It may have ended by itself.
                let _gone = kill_process(pid, Signal::TERM);
            }
            let end = Instant::now() + Duration::from_secs(5);
            while Instant::now() < end && matches!(child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        self.kill();
    }

    /// Ends the daemon with no time to clean up, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.daemon.take() {
            // It may have ended by itself.
            let _gone = child.kill();
            let _collected = child.wait();
        }
    }

    /// Returns the process number of the daemon while it runs.
    pub fn daemon_pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Child::id)
    }

    /// Plugs the machine in at another of its places.
    ///
    /// # Errors
    /// It has no such place.
    pub fn roam(&self, to: Roam) -> Result<(), LabError> {
        let mut lines: Vec<String> =
            self.links.iter().map(|l| format!("link set {} down", l.interface)).collect();
        if let Roam::To(number) = to {
            let link = self.links.get(number).ok_or_else(|| {
                LabError::new("lab-place", format!("\"{}\" has no place number {number}.", self.name))
                    .exit_code(2)
            })?;
            lines.extend(link.up.iter().cloned());
        }
        ip_batch(Some(&self.namespace), &lines)
    }
}

/// Runs a command and collects its output; at the limit it is killed.
pub(crate) fn run_with_limit(
    command: &mut Command,
    limit: Duration,
    interrupt: &Interrupt,
) -> Result<Output, LabError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed =
        |why: String| LabError::new("lab-program-failed", format!("\"{program}\" did not work.")).why(why);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().map_err(|e| failed(e.to_string()))?;
    let pid = Pid::from_child(&child);
    let reader = std::thread::spawn(move || child.wait_with_output());
    let ended = interrupt.wait_for(limit, || Ok(reader.is_finished().then_some(())));
    if !matches!(ended, Ok(Some(()))) {
        // It may end in this moment.
        let _gone = kill_process(pid, Signal::KILL);
    }
    let output = reader
        .join()
        .map_err(|_| failed("its reader panicked".into()))?
        .map_err(|e| failed(e.to_string()))?;
    match ended? {
        Some(()) => Ok(output),
        None => {
            let words: Vec<_> = command.get_args().map(|a| a.to_string_lossy().into_owned()).collect();
            Err(failed(format!("{} did not end in {} s", words.join(" "), limit.as_secs())))
        }
    }
}
