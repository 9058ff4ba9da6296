//! `samewire daemon`: the node of this machine, and beside it the server where this machine holds a network.

use std::path::PathBuf;
use std::process::ExitCode;

use sw_daemon::{Daemon, DaemonArgs, Problem, start_log, stop_signal};

use crate::network::{Network, NetworkPlan, control_dir};

/// Threads of the runtime besides the data plane's own; a serving process has more to do.
const WORKERS: usize = 2;
const WORKERS_SERVING: usize = 4;

/// Word before the problem that ended the start, in the notice to whoever started the daemon.
pub(crate) const PROBLEM_NOTICE: &str = "X_SAMEWIRE_PROBLEM=";

/// Word before what the start is waiting for (sd_notify(3)).
pub(crate) const STEP_NOTICE: &str = "STATUS=";

/// Runs the daemon until it is told to stop; `when_ready` is called once local programs can use it.
pub fn run(args: &DaemonArgs, socket: Option<PathBuf>, when_ready: impl FnOnce()) -> ExitCode {
    if args.background {
        // It leads a group already when a shell with job control started it; then it is left alone anyway.
        let _already_leader = rustix::process::setsid();
    }
    start_log(args.verbose);
    let mut config = args.config(socket);
    if args.cleanup {
        return match sw_daemon::cleanup(&config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(problem) => report(&problem),
        };
    }
    // Before the server takes its port: whoever starts a second daemon hears of the first one, not of the port.
    if let Some(Err(problem)) = config.socket.as_deref().map(sw_daemon::ensure_no_daemon) {
        return report(&problem);
    }
    let control = config.state_dir.as_deref().map(control_dir);
    let plan = match control.as_deref().map(NetworkPlan::read).transpose() {
        Ok(plan) => plan.flatten(),
        Err(problem) => return report(&problem),
    };
    let workers = if plan.is_some() { WORKERS_SERVING } else { WORKERS };
    if plan.is_none() {
        sw_os::heap::prefer_small();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .thread_name("sw-async")
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return report(&Problem::other("the daemon could not start.", error.to_string(), "")),
    };
    runtime.block_on(async {
        let network = match plan.zip(control) {
            Some((plan, control)) => match Network::start(&plan, &control, &mut config).await {
                Ok(network) => Some(network),
                Err(problem) => return report(&problem),
            },
            None => None,
        };
        let mut daemon = match Daemon::start(config).await {
            Ok(daemon) => daemon,
            Err(problem) => return report(&problem),
        };
        let _no_service_manager = sw_os::service::notify("READY=1\n");
        when_ready();
        tokio::select! {
            () = stop_signal() => {}
            () = daemon.ended() => {
                tracing::error!("the node's task has ended");
                return ExitCode::FAILURE;
            }
        }
        let _no_service_manager = sw_os::service::notify("STOPPING=1\n");
        daemon.stop().await;
        if let Some(network) = network {
            network.stop().await;
        }
        ExitCode::SUCCESS
    })
}

/// Tells whoever started the daemon, and the log.
fn report(problem: &Problem) -> ExitCode {
    let told = serde_json::to_string(problem).unwrap_or_default();
    let _no_service_manager = sw_os::service::notify(&format!("{PROBLEM_NOTICE}{told}"));
    sw_cli::local::warn(problem.render().trim_end());
    ExitCode::from(problem.exit_code())
}
