//! The shell scripts have the effect of the profiles that they are made from, and take it back.

mod common;

use std::path::Path;
use std::process::{Command, Output};

use common::{Place, everything, in_namespace, set, sysctl};
use needs::test;
use tuning::{Profile, Selection};

needs::main!();

/// Runs a script as a shell does that sees the interfaces of this thread's network namespace.
fn run(script: &Path, state: &Path, what: &str) -> Output {
    let inside = "mount --make-rprivate / && mount -t sysfs sysfs /sys && exec sh \"$0\" \"$1\"";
    Command::new("unshare")
        .args(["-m", "sh", "-c", inside])
        .args([script.as_os_str(), what.as_ref()])
        .env("LAB_TUNING_STATE", state)
        .output()
        .expect("unshare is there")
}

fn well(output: &Output) -> String {
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{text}");
    text
}

/// A profile with everything that a script can do without ethtool.
fn profile(place: &Place) -> Profile {
    place.profile(
        "x",
        &[
            ("Sysctl(\"net.core.somaxconn\")", "AtLeast(\"{min(70000, pow2(65535))}\")", ""),
            ("Sysctl(\"net.ipv4.tcp_max_syn_backlog\")", "Exactly(\"{cores * 1000 + 7}\")", ""),
            ("Sysctl(\"net.ipv4.tcp_rmem\")", "AtLeast(\"1 {pages / 16} 90000000\")", ""),
            ("Sysctl(\"net.ipv4.tcp_fin_timeout\")", "AtMost(\"0x10\")", ""),
            ("Sysctl(\"net.ipv4.tcp_keepalive_time\")", "AtMost(\"{memory / memory * 9}\")", ""),
            ("Sysctl(\"net.ipv4.ip_local_port_range\")", "Exactly(\"1024\t65535\")", ""),
            ("Sysctl(\"net.ipv4.tcp_congestion_control\")", "Exactly(\"reno\")", ""),
            ("Sysctl(\"net.ipv4.ip_forward\")", "Exactly(\"1\")", ""),
            ("Sysctl(\"net.ipv4.ip_local_reserved_ports\")", "AtLeast(\"8000,8005-8010\")", ""),
            ("Sysctl(\"net.ipv4.tcp_retries2\")", "AtLeast(\"3\")", ""),
            ("Sysctl(\"net.core.nothing\")", "Exactly(\"3\")", "optional: true"),
            ("RpsFlows", "AtLeast(\"1000\")", "nics: [\"lo\"], rounding: PowerOfTwo"),
            ("Rps", "Exactly(\"spread\")", "nics: [\"lo\"]"),
            ("Xps", "Exactly(\"spread\")", "nics: [\"lo\"]"),
            ("CStates", "AtMost(\"1000000\")", "optional: true, scope: Machine"),
            ("Governor", "Exactly(\"performance\")", "optional: true, scope: Machine"),
        ],
    )
}

fn of_lo(profile: &Profile) -> Vec<(String, Option<String>)> {
    let findings = tuning::check(profile).expect("readable");
    findings.into_iter().map(|it| (it.name, it.now)).collect()
}

#[test]
fn a_script_does_what_the_program_does() {
    if !needs::root() {
        return;
    }
    in_namespace(|| {
        let place = Place::new();
        let profile = profile(&place);
        let script = place.path("x.sh");
        std::fs::write(&script, tuning::script(&profile)).expect("written");
        let state = place.path("state");
        let see = || (everything("net"), of_lo(&profile));
        // What is written to all interfaces is not what one of them had.
        set("net.ipv4.conf.lo.forwarding", "1");
        // At least of a set is with all of these.
        set("net.ipv4.ip_local_reserved_ports", "8001-8004,9000");
        let before = see();

        place.apply(&profile).expect("applied");
        let by_program = see();
        assert_eq!(sysctl("net.ipv4.ip_local_reserved_ports"), "8000-8010,9000");
        let checked = run(&script, &state, "check");
        assert!(place.revert(Selection::All)[0].is_done());
        well(&checked);
        assert_eq!(see(), before);

        let message = run(&script, &state, "check");
        assert!(!message.status.success(), "{message:?}");
        let message = well(&run(&script, &state, "apply"));
        assert!(message.contains("skipped: net.core.nothing"), "{message}");
        assert_eq!(see(), by_program);
        assert_ne!(by_program, before);
        let again = run(&script, &state, "apply");
        assert!(!again.status.success(), "{again:?}");
        well(&run(&script, &state, "undo"));
        assert_eq!(see(), before);
        assert!(!state.exists());
        assert!(well(&run(&script, &state, "undo")).contains("nothing is applied"));
    });
}

#[test]
fn a_script_leaves_alone_what_somebody_else_has_set() {
    if !needs::root() {
        return;
    }
    in_namespace(|| {
        let place = Place::new();
        let script = place.path("x.sh");
        std::fs::write(&script, tuning::script(&profile(&place))).expect("written");
        let state = place.path("state");
        let before = everything("net");
        well(&run(&script, &state, "apply"));
        set("net.core.somaxconn", "99");
        let undone = run(&script, &state, "undo");
        let message = String::from_utf8_lossy(&undone.stderr).into_owned();
        assert!(
            !undone.status.success() && message.contains("left alone: net.core.somaxconn"),
            "{message}"
        );
        assert_eq!(sysctl("net.core.somaxconn"), "99");
        assert!(state.exists());
        set("net.core.somaxconn", "4096");
        well(&run(&script, &state, "undo"));
        assert_eq!(everything("net"), before);
    });
}

#[test]
fn a_script_takes_everything_back_when_a_value_is_not_taken() {
    if !needs::root() {
        return;
    }
    in_namespace(|| {
        let place = Place::new();
        let wrong = place.profile(
            "x",
            &[
                ("Sysctl(\"net.core.somaxconn\")", "Exactly(\"99\")", ""),
                ("Sysctl(\"net.ipv4.tcp_congestion_control\")", "Exactly(\"no_such\")", ""),
            ],
        );
        let missing =
            place.profile("y", &[("Sysctl(\"net.core.nothing\")", "Exactly(\"99\")", "")]);
        let before = everything("net");
        for (profile, words) in [(wrong, "no_such was not taken"), (missing, "nothing was changed")]
        {
            let script = place.path("z.sh");
            std::fs::write(&script, tuning::script(&profile)).expect("written");
            let output = run(&script, &place.path("state"), "apply");
            let message = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success() && message.contains(words), "{message}");
            assert_eq!(everything("net"), before);
            assert!(!place.path("state").exists());
        }
    });
}

/// The scripts of the repository, in a namespace: what can be set there is.
#[test]
fn the_scripts_of_the_profiles_are_shell() {
    for name in tuning::profile::names() {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("scripts/{name}.sh"));
        let checked = Command::new("sh").arg("-n").arg(&script).output().expect("sh is there");
        well(&checked);
    }
}
