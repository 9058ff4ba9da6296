//! The verbs that work on policy texts.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use sw_policy::conform::Network;
use sw_policy::explain::{Question, Verdict, explain as explain_one, split_target};
use sw_policy::{
    Compiled, Context, Policy, Rejection, diff as compare, hujson, parse_protocol, policy_tests,
};

use super::source::{Done, Failure, Loaded, Place, read};

fn say(text: &str) {
    let _reader_gone = crate::local::say(text.trim_end_matches('\n'));
}

fn parse(loaded: &Loaded, network: &Network) -> Result<Policy, Rejection> {
    Policy::parse(&loaded.text, Context { world: &network.world, domains: None })
}

fn compile(loaded: &Loaded, network: &Network) -> Result<Compiled, Failure> {
    let policy = parse(loaded, network).map_err(|rejection| refusal(&loaded.name, &rejection))?;
    Ok(Compiled::new(&Arc::new(policy), &network.world))
}

fn refusal(name: &str, rejection: &Rejection) -> Failure {
    let what = format!("the policy {name:?} is not valid.");
    let why = rejection.message().replace('\n', "\n       ");
    let fix = format!("samewire policy check {name} shows each place and what to write");
    Failure { what, why: Some(why), fix: Some(fix), code: 1 }
}

/// Says whether a policy is valid and its tests hold.
pub(super) fn check(file: Option<&Path>, place: &Place, json: bool) -> Done {
    let loaded = place.policy(file)?;
    let network = place.network(file.is_some())?;
    let has_world = network.is_some();
    let network = network.unwrap_or_default();
    let rejection = match parse(&loaded, &network) {
        Err(rejection) => Some(rejection),
        Ok(policy) if has_world => {
            failed_tests(&loaded.text, &Compiled::new(&Arc::new(policy), &network.world))
        }
        Ok(_) => None,
    };
    if json {
        say(&format!("{}\n", check_json(rejection.as_ref())));
    } else {
        match &rejection {
            None if has_world => say("The policy is valid, and its tests hold.\n"),
            None => say(
                "The policy is valid. Its tests need machines: --world FILE, --state DIR or --server URL.\n",
            ),
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
pub(super) fn test(file: Option<&Path>, place: &Place) -> Done {
    let loaded = place.policy(file)?;
    let network = place.network(file.is_some())?.unwrap_or_default();
    let compiled = compile(&loaded, &network)?;
    if !compiled.policy().has_tests() {
        say("The policy has no tests.\n");
        return Ok(ExitCode::SUCCESS);
    }
    match failed_tests(&loaded.text, &compiled) {
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

/// Says why one machine may reach another, or why not. `words` are `[FILE] SRC DST`.
pub(super) fn explain(words: &[String], proto: Option<&str>, place: &Place, json: bool) -> Done {
    let (file, src, dst) = match words {
        [file, src, dst] => (Some(Path::new(file)), src, dst),
        [src, dst] => (None, src, dst),
        _ => {
            return Err(Failure::wrong(
                "two words are needed.",
                "SRC and DST",
                "samewire policy explain laptop nas:445",
            ));
        }
    };
    let loaded = place.policy(file)?;
    let network = place.network(file.is_some())?.unwrap_or_default();
    let compiled = compile(&loaded, &network)?;
    let (dst, port) = split_target(dst);
    let protocol = proto.map(parse_protocol).transpose().map_err(|why| {
        Failure::wrong("the protocol is not known.", why, "write tcp, udp, icmp, sctp or a number")
    })?;
    let question = Question { src, dst: &dst, port, protocol };
    let answer = explain_one(&compiled, &network.world, &question).map_err(|unknown| {
        let fix = "name a machine, an address or a word of the policy; samewire control nodes list, or the file of \
                   --world, says which machines there are";
        Failure { what: format!("{unknown}."), why: None, fix: Some(fix.to_owned()), code: 1 }
    })?;
    if json {
        say(&format!("{}\n", serde_json::to_value(&answer).unwrap_or_default()));
    } else {
        say(&answer.text());
    }
    Ok(if answer.verdict == Verdict::Allowed { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Says who gains and who loses what. `files` are `[OLD] NEW`.
pub(super) fn diff(files: &[PathBuf], place: &Place, json: bool) -> Done {
    let (old, new) = match files {
        [old, new] => (Some(old.as_path()), new),
        [new] => (None, new),
        _ => {
            return Err(Failure::wrong(
                "a policy file is missing.",
                "NEW",
                "samewire policy diff new.hujson",
            ));
        }
    };
    let network = place.network(old.is_some())?.unwrap_or_default();
    if network.world.nodes.is_empty() {
        let fix = "samewire policy diff --world world.json OLD NEW";
        let why = "the network has none, or neither --world, --state nor --server was given";
        return Err(Failure::wrong("there are no machines to compare.", why, fix));
    }
    let (old, new) = (place.policy(old)?, place.policy(Some(new))?);
    let (old, new) = (compile(&old, &network)?, compile(&new, &network)?);
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
    let laid_out = hujson::format(&text)
        .map_err(|problems| refusal(&path.display().to_string(), &Rejection::new(&text, problems)))?;
    if stdout {
        // A document is never folded.
        let _reader_gone = crate::local::print_bytes(laid_out.as_bytes());
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
