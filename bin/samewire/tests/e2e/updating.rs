//! Versions: a machine hears that its server runs a newer program, takes it, and goes back from one that does not work.
//! The other versions are this program with other numbers in it.

use std::time::Duration;

use serde_json::Value;
use sw_lab::{Interrupt, MachineSpec, Nat, SiteSpec, Software, Topology, World};

use crate::scene::{SOON, missing, programs, turn};
use crate::typed::Shell;

const OWN: &str = env!("CARGO_PKG_VERSION");

/// Makes `/run/NAME` of the program, with `from` replaced by `to`.
fn variant(shell: &mut Shell, name: &str, from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let program = env!("CARGO_BIN_EXE_samewire");
    shell.types_well(&format!(
        "python3 -c 'import os; d = open(\"{program}\", \"rb\").read(); n = d.replace(b\"{from}\", b\"{to}\"); \
         assert n != d; open(\"/run/{name}\", \"wb\").write(n); os.chmod(\"/run/{name}\", 0o755)'
         ! command -v strip >/dev/null || strip /run/{name}"
    ));
}

fn slugs(shell: &mut Shell) -> Vec<String> {
    let status: Value = serde_json::from_str(&shell.types_well("samewire status --json")).expect("JSON");
    let notices = status["SamewireNotices"].as_array().cloned().unwrap_or_default();
    notices.iter().filter_map(|notice| notice["slug"].as_str().map(str::to_owned)).collect()
}

fn daemon_version(shell: &mut Shell) -> String {
    shell
        .types_well("samewire version --daemon | sed -n 's/Daemon: \\(.*\\)-samewire/\\1/p'")
        .trim()
        .to_owned()
}

#[test]
fn a_machine_takes_the_version_of_its_server_and_goes_back_from_one_that_does_not_work() {
    if missing("update", &[], Software::None) {
        return;
    }
    let _turn = turn();
    let machine = [("birch", "internet"), ("desk", "home")];
    let machine = machine.map(|(name, at)| MachineSpec::new(name, at, Software::None)).to_vec();
    let site = vec![SiteSpec::new("home", Nat::Easy)];
    let topology = Topology { name: "update".into(), server: None, site, machine };
    let world = World::build(topology, programs(), Interrupt::default()).expect("a lab");
    let (mut birch, mut desk) = (Shell::open(&world, "birch"), Shell::open(&world, "desk"));
    birch.install();
    desk.install();
    birch.types_well("samewire up");
    let invite: Value = serde_json::from_str(&birch.types_well("samewire invite --json")).expect("JSON");
    desk.types_well(&format!("samewire join {}", invite["joinString"].as_str().expect("a string")));
    let said = desk.types_well("samewire update");
    assert_eq!(said.trim(), format!("samewire {OWN} is what the server runs too."));

    // Somebody puts a new program on the server, by hand; the next `up` starts it.
    let newer = format!("9{}", &OWN[1..]);
    variant(&mut birch, "newer", OWN, &newer);
    let said = birch.types("samewire update");
    assert!(said.code == 1 && said.out.contains("sudo samewire update --file PROGRAM"), "{}", said.out);
    birch.types_well("cp /run/newer /usr/local/bin/next && mv /usr/local/bin/next /usr/local/bin/samewire");
    birch.types_well("samewire up");
    assert_eq!(daemon_version(&mut birch), newer);
    let told = format!("samewire {newer} is out; this is {OWN}. Fix: sudo samewire update.");
    desk.until(SOON, &format!("samewire status --pretty | grep -F '{told}'"));
    assert_eq!(slugs(&mut desk), ["update-available"]);

    // A build that is not optimised takes its time for as many bytes.
    let said = desk.types_for(Duration::from_secs(300), "samewire update");
    assert_eq!(
        said.out.trim(),
        format!("samewire {newer} runs; before it was {OWN}. To go back: sudo samewire update --undo")
    );
    assert_eq!((desk.types_well("samewire version").trim(), &*daemon_version(&mut desk)), (&*newer, &*newer));
    desk.types_well("ping -n -c 1 -W 5 birch");
    assert_eq!(slugs(&mut desk), <[&str; 0]>::default());
    desk.types_well("samewire update --undo");
    assert_eq!(daemon_version(&mut desk), OWN);

    // One that says that it is good and is not.
    desk.types_well(
        "printf '#!/bin/sh\\n[ \"$1\" = version ] && echo 9.9.9\\n' > /run/broken; chmod 755 /run/broken",
    );
    let said = desk.types("samewire update --file /run/broken");
    assert_eq!(said.code, 1, "{}", said.out);
    assert!(said.out.contains(&format!("samewire 9.9.9 did not connect, so {OWN} is back.")), "{}", said.out);
    assert_eq!(daemon_version(&mut desk), OWN);
    desk.until(SOON, "ping -n -c 1 -W 1 birch");

    // A server of an older protocol.
    let protocol = |number: u16| format!("{OWN} {number}");
    let (own, older) = (sw_types::CapVer::CLIENT.0, sw_types::CapVer::CLIENT.0 - 1);
    variant(&mut birch, "older", &protocol(own), &protocol(older));
    birch.types_well("samewire update --file /run/older");
    assert_eq!(daemon_version(&mut birch), OWN);
    desk.until(
        SOON,
        &format!(
            "samewire check | grep -F 'the server speaks an older protocol ({older}) than this machine.'"
        ),
    );
    assert_eq!(slugs(&mut desk), ["server-older"]);
}
