//! The unit that an agent is shipped with: what systemd makes of it, and that an agent can do its
//! work with no more rights than it leaves.

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{output, said};
use needs::test;

needs::main!();

/// What `systemd-analyze security` may say at most, in tenths of its exposure: "OK" ends at 5.0,
/// and a service without any of these settings has 9.6.
const EXPOSURE: u32 = 30;

fn unit() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fleet/lab-agent.service")
}

fn setting(name: &str) -> Option<String> {
    let text = std::fs::read_to_string(unit()).expect("the unit");
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    value.map(str::to_owned)
}

/// Whether systemd can be asked.
fn can_be_asked() -> bool {
    needs::program("systemd", "systemd-analyze")
}

/// What systemd says of a copy of the unit whose program is there.
fn verified(change: impl Fn(String) -> String) -> (bool, String) {
    let text = std::fs::read_to_string(unit()).expect("the unit");
    let program = "ExecStart=/usr/local/bin/lab agent";
    assert!(text.contains(program), "{text}");
    let lab = format!("ExecStart={} agent", env!("CARGO_BIN_EXE_lab"));
    let directory = tempfile::tempdir().expect("a directory");
    let copy = directory.path().join("lab-agent.service");
    std::fs::write(&copy, change(text.replace(program, &lab))).expect("written");
    let found = output(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&copy));
    // It may have something to say of units of this machine, too.
    let said = said(&found);
    let of_copy: Vec<&str> = said.lines().filter(|line| line.contains("lab-agent")).collect();
    (found.status.success(), of_copy.join("\n"))
}

#[test]
fn systemd_understands_every_line() {
    if !can_be_asked() {
        return;
    }
    let (fine, said) = verified(|text| text);
    assert_eq!((fine, said.as_str()), (true, ""));
    let (_, said) = verified(|text| text.replace("ProtectHome=", "ProtectHomes="));
    assert!(said.contains("ProtectHomes"), "a mistake is seen: {said}");
    let (fine, said) = verified(|text| text.replace(env!("CARGO_BIN_EXE_lab"), "/nowhere/lab"));
    assert!(
        !fine && said.contains("/nowhere/lab"),
        "and so is a program that is not there: {said}"
    );
}

#[test]
fn systemd_finds_little_exposed() {
    if !can_be_asked() {
        return;
    }
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["security", "--offline=true", "--no-pager"]);
    analyze.arg(format!("--threshold={EXPOSURE}")).arg(unit());
    let found = output(&mut analyze);
    let said = said(&found);
    assert!(said.contains("Overall exposure level for lab-agent.service"), "{said}");
    assert!(found.status.success(), "{said}");
}

#[test]
fn an_agent_has_a_user_of_its_own_and_the_rights_that_probes_need() {
    let is = |name: &str, value: &str| assert_eq!(setting(name).as_deref(), Some(value), "{name}");
    is("DynamicUser", "yes");
    is("NoNewPrivileges", "yes");
    is("ProtectSystem", "strict");
    is("ProtectHome", "yes");
    let rights = |name: &str| -> BTreeSet<String> {
        let value = setting(name).expect("it is there");
        value.split_whitespace().map(str::to_owned).collect()
    };
    let needed = ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"];
    assert_eq!(rights("CapabilityBoundingSet"), needed.map(str::to_owned).into());
    assert_eq!(rights("AmbientCapabilities"), rights("CapabilityBoundingSet"));
    // The name that the agent has is the user that NATS knows.
    let text = std::fs::read_to_string(unit()).expect("the unit");
    assert!(text.contains("--nats-user ${LAB_NAME} --name ${LAB_NAME}"), "{text}");
}
