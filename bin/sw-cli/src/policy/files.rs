//! The verbs that work on policy files.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use sw_policy::conform::{Network, WorldInput};
use sw_policy::explain::{Question, explain as explain_one, split_target};
use sw_policy::{
    Compiled, Context, Policy, Rejection, diff as compare, hujson, parse_protocol, policy_tests,
};

/// Why a verb did not do its work: a message for people and an exit code.
pub(super) struct Failure {
    what: String,
    why: Option<String>,
    fix: Option<String>,
    code: u8,
}

impl Failure {
    fn wrong(what: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what: what.into(), why: Some(why.into()), fix: Some(fix.into()), code: 2 }
    }

    /// Prints it on standard error.
    #[expect(clippy::print_stderr, reason = "the words of a failure")]
    pub(super) fn report(self) -> ExitCode {
        eprintln!("error: {}", self.what);
        if let Some(why) = self.why {
            eprintln!("  why: {why}");
        }
        if let Some(fix) = self.fix {
            eprintln!("  fix: {fix}");
        }
        ExitCode::from(self.code)
    }
}

type Done = Result<ExitCode, Failure>;

/// What `explain` is asked.
pub(super) struct Asked<'a> {
    pub(super) src: &'a str,
    pub(super) dst: &'a str,
    pub(super) proto: Option<&'a str>,
    pub(super) json: bool,
}

/// Why a policy file is of no use.
enum Refused {
    File(Failure),
    Policy(Rejection),
}

#[expect(clippy::print_stdout, reason = "the answer of the command")]
fn say(text: &str) {
    print!("{text}");
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| {
        let what = format!("the file {:?} cannot be read.", path.display().to_string());
        Failure::wrong(what, error.to_string(), "check the name and the rights of the file")
    })
}

fn world(path: Option<&Path>) -> Result<Network, Failure> {
    let Some(path) = path else { return Ok(Network::default()) };
    let input: WorldInput = serde_json::from_str(&read(path)?).map_err(|error| {
        let what = format!("the file {:?} is not a world.", path.display().to_string());
        let fix = "write {\"users\": [{\"id\": 1, \"name\": ...}], \"nodes\": [{\"id\": 1, \"name\": ..., \
                   \"user\": 1, \"ipv4\": ...}]}";
        Failure::wrong(what, error.to_string(), fix)
    })?;
    Ok(input.network())
}

fn parse(path: &Path, network: &Network) -> Result<(String, Policy), Refused> {
    let text = read(path).map_err(Refused::File)?;
    let policy =
        Policy::parse(&text, Context { world: &network.world, domains: None }).map_err(Refused::Policy)?;
    Ok((text, policy))
}

fn compile(path: &Path, network: &Network) -> Result<Compiled, Failure> {
    match parse(path, network) {
        Ok((_, policy)) => Ok(Compiled::new(&Arc::new(policy), &network.world)),
        Err(Refused::File(failure)) => Err(failure),
        Err(Refused::Policy(rejection)) => Err(refusal(path, &rejection)),
    }
}

fn refusal(path: &Path, rejection: &Rejection) -> Failure {
    let what = format!("the policy {:?} is not valid.", path.display().to_string());
    let why = rejection.message().replace('\n', "\n       ");
    let fix = format!("samewire policy check {} shows each place and what to write", path.display());
    Failure { what, why: Some(why), fix: Some(fix), code: 1 }
}

/// Says whether a policy is valid and its tests hold.
pub(super) fn check(path: &Path, world_path: Option<&Path>, json: bool) -> Done {
    let network = world(world_path)?;
    let rejection = match parse(path, &network) {
        Err(Refused::File(failure)) => return Err(failure),
        Err(Refused::Policy(rejection)) => Some(rejection),
        Ok((text, policy)) if world_path.is_some() => {
            failed_tests(&text, &Compiled::new(&Arc::new(policy), &network.world))
        }
        Ok(_) => None,
    };
    if json {
        say(&format!("{}\n", check_json(rejection.as_ref())));
    } else {
        match &rejection {
            None if world_path.is_some() => say("The policy is valid, and its tests hold.\n"),
            None => say("The policy is valid. Its tests need --world FILE.\n"),
            Some(rejection) => say(&rejection.report()),
        }
    }
    Ok(if rejection.is_none() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn failed_tests(text: &str, compiled: &Compiled) -> Option<Rejection> {
    let failed = policy_tests::run(compiled);
    (!failed.is_empty()).then(|| Rejection::new(text, failed))
}

fn check_json(rejection: Option<&Rejection>) -> serde_json::Value {
    let problem = |rejection: &Rejection, problem: &sw_policy::Problem| {
        let at = rejection.position(problem);
        serde_json::json!({
            "kind": problem.kind.name(), "line": at.line, "column": at.column,
            "message": problem.message, "fix": problem.fix,
        })
    };
    let problems: Vec<serde_json::Value> = rejection
        .map(|rejection| rejection.problems().iter().map(|one| problem(rejection, one)).collect())
        .unwrap_or_default();
    serde_json::json!({ "valid": rejection.is_none(), "problems": problems })
}

/// Runs the policy's own tests.
pub(super) fn test(path: &Path, world_path: Option<&Path>) -> Done {
    let network = world(world_path)?;
    let compiled = compile(path, &network)?;
    let text = compiled.policy().text().to_owned();
    if !compiled.policy().has_tests() {
        say("The policy has no tests.\n");
        return Ok(ExitCode::SUCCESS);
    }
    match failed_tests(&text, &compiled) {
        None => {
            say("All tests hold.\n");
            Ok(ExitCode::SUCCESS)
        }
        Some(rejection) => {
            say(&rejection.report());
            Ok(ExitCode::from(1))
        }
    }
}

/// Says why one machine may reach another, or why not.
pub(super) fn explain(path: &Path, world_path: Option<&Path>, asked: &Asked<'_>) -> Done {
    let network = world(world_path)?;
    let compiled = compile(path, &network)?;
    let (dst, port) = split_target(asked.dst);
    let protocol = asked.proto.map(parse_protocol).transpose().map_err(|why| {
        Failure::wrong("the protocol is not known.", why, "write tcp, udp, icmp, sctp or a number")
    })?;
    let question = Question { src: asked.src, dst: &dst, port, protocol };
    let answer = explain_one(&compiled, &network.world, &question).map_err(|unknown| {
        let fix =
            "name a machine, an address or a word of the policy; --world FILE says which machines there are";
        Failure { what: format!("{unknown}."), why: None, fix: Some(fix.to_owned()), code: 1 }
    })?;
    if asked.json {
        say(&format!("{}\n", serde_json::to_value(&answer).unwrap_or_default()));
    } else {
        say(&answer.text());
    }
    Ok(if answer.allowed { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Says who gains and who loses what.
pub(super) fn diff(old: &Path, new: &Path, world_path: Option<&Path>, json: bool) -> Done {
    let network = world(world_path)?;
    if network.world.nodes.is_empty() {
        let fix = "samewire policy diff --world world.json OLD NEW";
        return Err(Failure::wrong("there are no machines to compare.", "no --world FILE was given", fix));
    }
    let (old, new) = (compile(old, &network)?, compile(new, &network)?);
    let changes = compare::diff(&old, &new, &network.world);
    if json {
        say(&format!("{}\n", serde_json::json!({ "changes": changes })));
    } else {
        say(&compare::text(&changes));
    }
    Ok(ExitCode::SUCCESS)
}

/// Lays a policy file out anew.
pub(super) fn fmt(path: &Path, check: bool, stdout: bool) -> Done {
    let text = read(path)?;
    let laid_out =
        hujson::format(&text).map_err(|problems| refusal(path, &Rejection::new(&text, problems)))?;
    if stdout {
        say(&laid_out);
        return Ok(ExitCode::SUCCESS);
    }
    if laid_out == text {
        return Ok(ExitCode::SUCCESS);
    }
    if check {
        say(&format!("{} is not in the standard layout.\n", path.display()));
        return Ok(ExitCode::from(1));
    }
    std::fs::write(path, laid_out).map_err(|error| {
        let what = format!("the file {:?} cannot be written.", path.display().to_string());
        Failure::wrong(what, error.to_string(), "check the rights of the file")
    })?;
    Ok(ExitCode::SUCCESS)
}
