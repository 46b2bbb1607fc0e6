//! Profiles against the real kernel: in network namespaces of the tests' own, and on the machine
//! where a setting has no namespace, which is put back.

mod common;

use std::path::Path;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use common::{Held, Line, Place, beside_sysctls, changed, everything, in_namespace, set, sysctl};
use needs::test;
use rustix::process::{Rlimit, getrlimit, setrlimit};
use tuning::profile::{Effect, Key, Resource, Scope, names};
use tuning::{AppliedSetting, ApplyError, ApplyOptions, Outcome, Owner, Profile, Selection, State};

needs::main!();

/// What a full apply may take.
const QUICK: Duration = Duration::from_millis(100);

const SOMAXCONN: Line<'_> = ("Sysctl(\"net.core.somaxconn\")", "Exactly(\"1234\")", "");
const ALLOWED: &str = "net.ipv4.tcp_allowed_congestion_control";

const PORTS: Line<'_> =
    ("Sysctl(\"net.ipv4.ip_local_port_range\")", "Exactly(\"0x800\t 65000\")", "");

/// The settings of the machine: one test changes them for a moment, and what a namespace is made
/// with, or shows of the machine, must not change under the others. Another forks, and what the
/// others have open is open in its children until they begin.
static MACHINE: RwLock<()> = RwLock::new(());

/// Keeps the machine's settings as they are; `None` without root.
fn machine_as_it_is() -> Option<RwLockReadGuard<'static, ()>> {
    needs::root().then(|| MACHINE.read().unwrap_or_else(PoisonError::into_inner))
}

#[test]
fn applied_checked_and_reverted() {
    let Some(_machine) = machine_as_it_is() else { return };
    in_namespace(|| {
        let place = Place::new();
        let profile = place.profile(
            "x",
            &[
                SOMAXCONN,
                PORTS,
                ("Sysctl(\"net.ipv4.tcp_rmem\")", "AtLeast(\"1 2 90000000\")", ""),
                ("Sysctl(\"net.ipv4.tcp_fin_timeout\")", "AtMost(\"{1 + 6}\")", ""),
                ("Feature(\"tso\")", "Exactly(\"off\")", "nics: [\"lo\"]"),
                ("RpsFlows", "Exactly(\"1000\")", "nics: [\"lo\"], rounding: PowerOfTwo"),
                ("Rps", "Exactly(\"all\")", "nics: [\"lo\"]"),
                ("Xps", "Exactly(\"spread\")", "nics: [\"lo\"]"),
                ("Irq", "Exactly(\"spread\")", "nics: [\"lo\"], scope: Machine"),
            ],
        );
        let before = everything("net");
        let differences = |strict| {
            let findings = tuning::check(&profile).expect("readable");
            let names: Vec<String> = findings
                .into_iter()
                .filter(|it| it.is_difference(strict))
                .map(|it| it.name)
                .collect();
            names
        };
        let lo = ["nic.feature.tso lo", "nic.rps-flows lo rx-0", "nic.rps lo rx-0"];
        let keys = ["somaxconn", "ip_local_port_range", "tcp_rmem", "tcp_fin_timeout"];
        let names = differences(true);
        assert_eq!(names.len(), 7, "{names:?}");
        assert!(keys.iter().zip(&names).all(|(key, name)| name.ends_with(key)), "{names:?}");
        assert_eq!(names[4..], lo);
        let applied = place.apply(&profile).expect("applied");
        assert!(applied.failures.is_empty() && applied.changes.len() == 7, "{applied:?}");
        assert_eq!(sysctl("net.core.somaxconn"), "1234");
        assert_eq!(sysctl("net.ipv4.ip_local_port_range"), "2048 65000");
        let rmem = sysctl("net.ipv4.tcp_rmem");
        assert!(rmem.starts_with("4096 ") && rmem.ends_with(" 90000000"), "{rmem}");
        assert_eq!(differences(true), Vec::<String>::new());
        // Twice changes nothing, and needs no journal.
        let again = place.apply(&profile).expect("applied");
        assert!(again.changes.is_empty() && again.journal.is_none(), "{again:?}");
        let changed: Vec<_> = everything("net")
            .into_iter()
            .filter(|(path, now)| before.get(path) != Some(now))
            .map(|(path, _)| path.file_name().expect("a name").to_string_lossy().into_owned())
            .collect();
        assert_eq!(changed, ["somaxconn", "ip_local_port_range", "tcp_fin_timeout", "tcp_rmem"]);
        let reverted = place.revert(Selection::All);
        assert!(reverted[0].is_done() && reverted[0].settings.len() == 7, "{reverted:?}");
        assert!(reverted[0].settings.iter().all(|it| it.outcome == Outcome::Restored));
        assert_eq!(everything("net"), before);
        assert_eq!(differences(true), names);
        assert_eq!(place.files(), Vec::<String>::new());
    });
}

/// Every mistake is named with profile, line and reason, and nothing is changed.
#[test]
fn what_cannot_be_set_is_named() {
    let Some(_machine) = machine_as_it_is() else { return };
    let sysctl_of = |name: &str| format!("Sysctl(\"{name}\")");
    in_namespace(|| {
        let place = Place::new();
        let before = everything("net");
        for (key, value, more, words) in [
            ("net.core.somaxcon", "1", "", "did you mean somaxconn?"),
            ("net.core.nothing_like_it", "1", "", "built without it"),
            ("net.ipv4.tcp_tw_recycle", "1", "until: \"4.12\"", "4.12 took it out"),
            ("net.core.from_the_future", "1", "since: \"99.1\"", "it came with 99.1"),
            ("net.ipv4.tcp_ehash_entries", "1", "", "it is read-only"),
            ("net.core.somaxconn", "many", "", "the kernel does not take 'many'"),
            ("net.core.somaxconn", "1 2", "", "does not take '1 2': it takes a part"),
            ("net.ipv4.tcp_congestion_control", "no_such", "", "the kernel does not take"),
            ("net.ipv4.tcp_fin_timeout", "{1 / 0}", "", "division by zero"),
        ] {
            let value = format!("Exactly(\"{value}\")");
            let key = sysctl_of(key);
            let profile = place.profile("wrong", &[PORTS, (&key, &value, more)]);
            let message = match place.apply(&profile) {
                Err(error @ ApplyError::Refused(_)) => error.to_string(),
                Ok(applied) => {
                    let rolled_back = applied.rolled_back.expect("rolled back");
                    assert!(rolled_back.is_done() && applied.changes.is_empty(), "{key} {value}");
                    applied.failures[0].to_string()
                }
                other => panic!("{key}: {other:?}"),
            };
            assert!(message.contains(words), "{key} {value}: {message}");
            assert!(message.contains("wrong.ron:3: "), "{message}");
            assert_eq!(everything("net"), before, "{key} {value}");
            assert_eq!(place.files(), Vec::<String>::new(), "{key} {value}");
        }
        for (key, value, words) in [
            ("Sysctl(\"net.core.somaxconn\")", "AtLeast(\"many\")", "cannot be at least"),
            ("Sysctl(\"net.ipv4.tcp_rmem\")", "AtLeast(\"1\")", "has 3 numbers"),
            ("Rps", "Exactly(\"some\")", "names no CPUs"),
            ("Ring(rx)", "AtLeast(\"1\")", "has no rings"),
            ("Coalesce(\"rx-usec\")", "AtLeast(\"1\")", "no such field, only: rx-usecs"),
            ("Feature(\"rx-grow\")", "Exactly(\"on\")", "no such feature"),
        ] {
            let nics = if key.starts_with("Sysctl") { "" } else { "nics: [\"lo\"]" };
            let profile = place.profile("wrong", &[(key, value, nics)]);
            let message = place.apply(&profile).expect_err(key).to_string();
            assert!(
                message.contains(words) && message.contains("wrong.ron:2: "),
                "{key}: {message}"
            );
        }
        let nowhere = ("Rps", "Exactly(\"all\")", "nics: [\"nowhere0\"]");
        let message = place.apply(&place.profile("wrong", &[nowhere])).expect_err("no interface");
        assert!(message.to_string().contains("there is no interface nowhere0"), "{message}");
        assert_eq!(everything("net"), before);
    });
}

#[test]
fn what_is_optional_is_skipped_and_nothing_else_is() {
    let Some(_machine) = machine_as_it_is() else { return };
    in_namespace(|| {
        let place = Place::new();
        let profile = place.profile(
            "x",
            &[
                ("Sysctl(\"net.core.nothing\")", "Exactly(\"1\")", "optional: true"),
                ("Ring(tx)", "AtLeast(\"1\")", "optional: true, nics: [\"lo\"]"),
                ("Rps", "Exactly(\"all\")", "optional: true, nics: [\"nowhere0\"]"),
                SOMAXCONN,
            ],
        );
        let applied = place.apply(&profile).expect("applied");
        assert_eq!(applied.changes.len(), 1, "{applied:?}");
        assert_eq!(applied.others.len(), 3, "{applied:?}");
        assert!(applied.others.iter().all(|it| matches!(it.state, State::Skipped(_))));
        // Optional is what a kernel lacks, not what it does not take.
        let wrong = ("Sysctl(\"net.core.somaxconn\")", "Exactly(\"many\")", "optional: true");
        let applied = place.apply(&place.profile("y", &[wrong])).expect("tried");
        assert_eq!(applied.failures.len(), 1, "{applied:?}");
    });
}

#[test]
fn keep_going_keeps_what_could_be_set() {
    let Some(_machine) = machine_as_it_is() else { return };
    in_namespace(|| {
        let place = Place::new();
        let before = everything("net");
        let wrong = ("Sysctl(\"net.ipv4.tcp_fin_timeout\")", "Exactly(\"many\")", "");
        let profile = place.profile("x", &[SOMAXCONN, wrong, PORTS]);
        let options = ApplyOptions { owner: Owner::Hand, keep_going: true };
        let applied = place.apply_in(&profile, options).expect("tried");
        assert_eq!((applied.changes.len(), applied.failures.len()), (2, 1), "{applied:?}");
        assert_eq!(sysctl("net.ipv4.ip_local_port_range"), "2048 65000");
        assert!(place.revert(Selection::Leftovers).is_empty(), "it came to its end");
        assert!(place.revert(Selection::All)[0].is_done());
        assert_eq!(everything("net"), before);
    });
}

/// The user id of the calling thread alone.
fn become_nobody() {
    const NOBODY: libc::c_long = 65_534;
    // SAFETY: the call changes the ids of this thread and no memory.
    let result = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
    assert_eq!(result, 0);
}

#[test]
fn who_may_not_write_is_told_so() {
    let Some(_machine) = machine_as_it_is() else { return };
    let place = Place::new();
    std::fs::create_dir(place.path("journals")).expect("made");
    for path in [place.path("journals"), place.path(".")] {
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(path, everybody).expect("set");
    }
    in_namespace(|| {
        let profile = place.profile("x", &[SOMAXCONN]);
        become_nobody();
        let message = place.apply(&profile).expect_err("not root").to_string();
        assert!(
            message.contains("x.ron:2: net.core.somaxconn: this process may not write"),
            "{message}"
        );
        assert!(message.contains("run as root"), "{message}");
        assert_eq!(place.files(), Vec::<String>::new());
    });
}

#[test]
fn what_somebody_else_has_set_is_left_alone() {
    let Some(_machine) = machine_as_it_is() else { return };
    in_namespace(|| {
        let place = Place::new();
        let profile = place.profile("x", &[SOMAXCONN, PORTS]);
        let before = sysctl("net.core.somaxconn");
        place.apply(&profile).expect("applied");
        set("net.core.somaxconn", "77");
        for _ in 0..2 {
            let reverted = place.revert(Selection::All);
            let outcomes: Vec<_> = reverted[0].settings.iter().map(|it| &it.outcome).collect();
            assert_eq!(*outcomes[1], Outcome::Changed { now: "77".to_owned() }, "{outcomes:?}");
            assert!(!reverted[0].is_done());
            assert_eq!(sysctl("net.core.somaxconn"), "77");
            assert_eq!(sysctl("net.ipv4.ip_local_port_range"), "32768 60999");
        }
        let lock = place.lock();
        let applied = tuning::status(&place.directory).expect("readable");
        let AppliedSetting { name, before: was, set: ours, now } = &applied[0].settings[0];
        assert_eq!((name.as_str(), was, ours.as_str()), ("net.core.somaxconn", &before, "1234"));
        assert_eq!(now.as_deref(), Some("77"));
        let reverted =
            tuning::revert(&place.directory, Selection::All, true, &lock).expect("reverted");
        assert!(reverted[0].is_done());
        assert_eq!(sysctl("net.core.somaxconn"), before);
        assert!(tuning::status(&place.directory).expect("readable").is_empty());
    });
}

#[test]
fn profiles_on_top_of_each_other_go_back_one_by_one_or_together() {
    let Some(_machine) = machine_as_it_is() else { return };
    in_namespace(|| {
        let place = Place::new();
        let lower = place.profile("lower", &[SOMAXCONN, PORTS]);
        let upper = ("Sysctl(\"net.core.somaxconn\")", "AtLeast(\"5000\")", "");
        let upper = place.profile("upper", &[upper]);
        let before = everything("net");
        place.apply(&lower).expect("applied");
        let between = everything("net");
        place.apply(&upper).expect("applied");
        assert_eq!(sysctl("net.core.somaxconn"), "5000");
        assert_eq!(place.revert(Selection::Last)[0].profile, "upper");
        assert_eq!(everything("net"), between);
        place.apply(&upper).expect("applied");
        let reverted = place.revert(Selection::All);
        let order: Vec<&str> = reverted.iter().map(|it| it.profile.as_str()).collect();
        assert_eq!(order, ["upper", "lower"]);
        assert_eq!(everything("net"), before);
    });
}

#[test]
fn after_a_reboot_or_without_its_namespace_nothing_is_left_to_restore() {
    let Some(_machine) = machine_as_it_is() else { return };
    let place = Place::new();
    let profile = place.profile("x", &[SOMAXCONN]);
    in_namespace(|| {
        place.apply(&profile).expect("applied");
        let journal = place.path("journals/0001.json");
        let text = std::fs::read_to_string(&journal).expect("there");
        let boot = sysctl("kernel.random.boot_id");
        assert!(text.contains(&boot));
        let other = text.replace(&boot, "00000000-0000-0000-0000-000000000000");
        std::fs::write(&journal, other).expect("written");
        let reverted = place.revert(Selection::All);
        assert!(reverted[0].rebooted && reverted[0].is_done(), "{reverted:?}");
        assert_eq!(sysctl("net.core.somaxconn"), "1234", "this machine was not started anew");
        assert_eq!(place.files(), Vec::<String>::new());
    });
    in_namespace(|| place.apply(&profile).map(|_| ()).expect("applied"));
    let machines = sysctl("net.core.somaxconn");
    let reverted = place.revert(Selection::All);
    assert_eq!(reverted[0].settings[0].outcome, Outcome::Gone, "{reverted:?}");
    assert_eq!(sysctl("net.core.somaxconn"), machines);
}

/// A profile that was applied in a namespace is reverted there, wherever revert is called.
#[test]
fn reverted_in_the_namespace_that_it_was_applied_in() {
    let Some(_machine) = machine_as_it_is() else { return };
    in_namespace(|| {
        let place = Place::new();
        let profile = place.profile("x", &[SOMAXCONN]);
        let before = sysctl("net.core.somaxconn");
        place.apply(&profile).expect("applied");
        in_namespace(|| {
            let elsewhere = sysctl("net.core.somaxconn");
            let applied = tuning::status(&place.directory).expect("readable");
            assert_eq!(applied[0].settings[0].now.as_deref(), Some("1234"));
            let reverted = place.revert(Selection::All);
            assert_eq!(reverted[0].settings[0].outcome, Outcome::Restored, "{reverted:?}");
            assert_eq!(sysctl("net.core.somaxconn"), elsewhere);
        });
        assert_eq!(sysctl("net.core.somaxconn"), before);
    });
}

/// An interface of the calling thread's namespace that has coalescing, for as long as it is open.
fn tap(name: &str) -> Option<std::fs::File> {
    use std::os::fd::AsRawFd;

    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    const TAP_WITHOUT_HEADER: u16 = 0x0002 | 0x1000;
    let file = std::fs::File::options().read(true).write(true).open("/dev/net/tun").ok()?;
    let mut request = [0_u8; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    request[16..18].copy_from_slice(&TAP_WITHOUT_HEADER.to_ne_bytes());
    // SAFETY: the request is an ifreq's size, and the kernel writes within it.
    let made = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
    (made == 0).then_some(file)
}

#[test]
fn coalescing_of_an_interface_and_one_that_goes_away() {
    let Some(_machine) = machine_as_it_is() else { return };
    if !needs::can("tun", Path::new("/dev/net/tun").exists()) {
        return;
    }
    in_namespace(|| {
        let interface = tap("tuned0").expect("an interface");
        let place = Place::new();
        let nics = "nics: [\"tuned0\"]";
        let profile = place.profile(
            "x",
            &[
                SOMAXCONN,
                ("Coalesce(\"rx-frames\")", "AtLeast(\"16\")", nics),
                ("Feature(\"gro\")", "Exactly(\"off\")", nics),
            ],
        );
        let values = || -> Vec<Option<String>> {
            tuning::check(&profile).expect("readable").into_iter().map(|it| it.now).collect()
        };
        let before = values();
        let applied = place.apply(&profile).expect("applied");
        assert_eq!(applied.changes.len(), 3, "{applied:?}");
        assert_eq!(values()[1..], [Some("16".to_owned()), Some("off".to_owned())]);
        assert!(place.revert(Selection::All)[0].is_done());
        assert_eq!(values(), before);
        place.apply(&profile).expect("applied");
        drop(interface);
        let reverted = place.revert(Selection::All);
        let outcomes: Vec<&Outcome> = reverted[0].settings.iter().map(|it| &it.outcome).collect();
        assert_eq!(outcomes, [&Outcome::Gone, &Outcome::Gone, &Outcome::Restored]);
    });
}

/// Limits are raised for a child between fork and exec, as far as they may be.
#[test]
fn limits_are_raised_for_children() {
    use std::os::unix::process::CommandExt;

    let _alone = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    let soft = |wanted: u64| {
        let limits = [tuning::Limit { resource: Resource::Nofile, least: wanted }];
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", "ulimit -S -n"]);
        // SAFETY: system calls alone are made between fork and exec.
        unsafe {
            shell.pre_exec(move || {
                let now = getrlimit(rustix::process::Resource::Nofile);
                let low = Rlimit { current: Some(200), maximum: now.maximum };
                setrlimit(rustix::process::Resource::Nofile, low)?;
                let _ = tuning::raise_limits(&limits);
                Ok(())
            });
        }
        let output = shell.output().expect("a shell");
        String::from_utf8_lossy(&output.stdout).trim().parse::<u64>().expect("a number")
    };
    let hard = getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX);
    assert_eq!(soft(100), 200, "never lowered");
    assert_eq!(soft(250), 250);
    // Beyond what any process may have: as far as it goes.
    assert_eq!(soft(1 << 40), hard);
}

/// The table of sockets is that of the namespace that was made after it was set.
#[test]
fn the_socket_table_is_pending_until_a_namespace_is_made() {
    let Some(_machine) = machine_as_it_is() else { return };
    in_namespace(|| {
        let place = Place::new();
        let mut profile = Profile::load("million-sockets").expect("embedded");
        let table = |key: &Key| key.to_string() == "net.ipv4.tcp_child_ehash_entries";
        profile.settings.retain(|it| table(&it.setting.key));
        let state = || {
            let mut findings = tuning::check(&profile).expect("readable");
            findings.remove(0)
        };
        assert!(matches!(state().state, State::Differs));
        place.apply(&profile).expect("applied");
        let pending = state();
        assert!(matches!(&pending.state, State::Pending(why) if why.contains("made from now on")));
        assert!(!pending.is_difference(false) && pending.is_difference(true));
        common::unshare();
        assert_eq!(sysctl("net.ipv4.tcp_ehash_entries"), "4194304");
        assert!(matches!(state().state, State::Holds), "{:?}", state());
        assert_eq!(sysctl("net.ipv4.tcp_child_ehash_entries"), "0", "not handed down");
    });
}

/// What profiles say of namespaces is so: what is of a namespace can be set in a new one, and the
/// machine does not notice; what is of the machine cannot.
#[test]
fn scopes_are_what_the_kernel_makes_of_them() {
    let Some(_machine) = machine_as_it_is() else { return };
    let machines = everything("net");
    in_namespace(|| {
        for placed in names().flat_map(|name| Profile::load(name).expect("embedded").settings) {
            let Key::Sysctl(name) = &placed.setting.key else { continue };
            let path = format!("/proc/sys/{}", name.replace('.', "/"));
            let Ok(now) = std::fs::read_to_string(&path) else {
                let missing_here = placed.setting.scope == Scope::Machine;
                assert!(missing_here || placed.setting.optional, "{}: {name}", placed.place);
                continue;
            };
            let writable = std::fs::write(&path, &now).is_ok();
            match placed.setting.scope {
                Scope::Namespace => assert!(writable, "{}: {name}", placed.place),
                _ if name.starts_with("net.") => assert!(!writable, "{}: {name}", placed.place),
                _ => {}
            }
            if let Effect::NewNamespace { shown_by } = &placed.setting.effect {
                assert!(!sysctl(shown_by).is_empty());
            }
        }
        for name in names() {
            let mut profile = Profile::load(name).expect("embedded");
            profile.settings.retain(|it| it.setting.key.to_string().starts_with("net."));
            let applied = tuning::apply_to_own_namespace(&profile).expect("applied");
            assert!(applied.failures.is_empty(), "{name}: {applied:?}");
        }
    });
    assert_eq!(changed(&machines, &everything("net")), []);
}

/// A whole profile on the machine, which takes under 100 ms and leaves nothing behind: all of
/// `sysctl -a`, where interrupts go, queues, huge pages and CPUs are as before. What else writes to
/// the disk can only make it take longer.
#[test]
fn a_full_apply_is_quick_and_leaves_nothing() {
    if !needs::root() {
        return;
    }
    let _machine = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    let place = Place::new();
    let _allowed = Held::new(ALLOWED);
    let default = sysctl("net.ipv4.tcp_congestion_control");
    // What a profile makes the default is not allowed to everybody before.
    set(ALLOWED, &format!("reno {default}"));
    let see = || (everything(""), beside_sysctls());
    let before = see();
    for name in names() {
        let profile = Profile::load(name).expect("embedded");
        let mut quickest = Duration::MAX;
        for _ in 0..5 {
            // No panic before the revert.
            let applied =
                place.apply_in(&profile, ApplyOptions { owner: Owner::Hand, keep_going: true });
            let checked = tuning::check(&profile);
            let reverted = place.revert(Selection::All);
            let applied = applied.expect("applied");
            // A driver may refuse what it claims to have.
            let refused = |name: &str| applied.failures.iter().any(|it| it.name == name);
            assert!(applied.failures.iter().all(|it| it.name.starts_with("nic.")), "{applied:?}");
            println!("{name}: {} settings in {:?}", applied.changes.len(), applied.took);
            let differences: Vec<_> = checked
                .expect("readable")
                .into_iter()
                .filter(|it| it.is_difference(false) && !refused(&it.name))
                .collect();
            assert!(differences.is_empty(), "{differences:?}");
            assert!(reverted.iter().all(tuning::RevertedProfile::is_done), "{reverted:?}");
            quickest = quickest.min(applied.took);
            if quickest < QUICK {
                break;
            }
        }
        assert!(quickest < QUICK, "{name}: {quickest:?}");
        let after = see();
        assert_eq!(changed(&before.0, &after.0), [], "{name}");
        assert_eq!(changed(&before.1, &after.1), [], "{name}");
    }
}

/// A set is compared as a set: the kernel joins neighbours, and the empty set is a value.
#[test]
fn sets_of_ports_hold_however_they_are_written() {
    let Some(_machine) = machine_as_it_is() else { return };
    in_namespace(|| {
        const KEY: &str = "net.ipv4.ip_local_reserved_ports";
        let place = Place::new();
        let key = format!("Sysctl(\"{KEY}\")");
        let wanted = "Exactly(\"8080,8081,9148,30000-30010\")";
        let profile = place.profile("ports", &[(&key, wanted, "")]);
        let applied = place.apply(&profile).expect("applied");
        assert!(applied.failures.is_empty(), "{applied:?}");
        assert_eq!(sysctl(KEY), "8080-8081,9148,30000-30010");
        assert!(place.apply(&profile).expect("applied").changes.is_empty());
        let none = place.profile("none", &[(&key, "Exactly(\"\")", "")]);
        assert!(place.apply(&none).expect("applied").failures.is_empty());
        assert_eq!(sysctl(KEY), "");
        assert!(place.revert(Selection::Last)[0].is_done());
        assert_eq!(sysctl(KEY), "8080-8081,9148,30000-30010");
        assert!(place.revert(Selection::All)[0].is_done());
        assert_eq!(sysctl(KEY), "");
    });
}

/// What cannot be kept, and what another namespace alone has, is said as it is.
#[test]
fn odd_settings_are_named_for_what_they_are() {
    let Some(_machine) = machine_as_it_is() else { return };
    in_namespace(|| {
        let place = Place::new();
        let faulty = |name: &str, value: &str, more: &str| {
            let (key, value) = (format!("Sysctl(\"{name}\")"), format!("Exactly(\"{value}\")"));
            let profile = place.profile("odd", &[(&key, &value, more)]);
            tuning::check(&profile).expect("readable")[0].to_string()
        };
        let said = faulty("net.ipv4.route.flush", "1", "");
        assert!(said.contains("FAULTY") && said.contains("write-only"), "{said}");
        let said = faulty("net.ipv4.route.flush", "1", "optional: true");
        assert!(said.contains("skipped") && said.contains("write-only"), "{said}");
        for name in ["net.ipv4.tcp_mem", "net.core.netdev_max_backlog"] {
            let said = faulty(name, "1", "");
            assert!(said.contains("first network namespace only"), "{said}");
        }
        let both = [
            ("Sysctl(\"net.ipv4.ip_forward\")", "Exactly(\"1\")", ""),
            ("Sysctl(\"net.ipv4.conf.all.forwarding\")", "Exactly(\"0\")", ""),
        ];
        let error = place.apply(&place.profile("alias", &both)).expect_err("both").to_string();
        assert!(error.contains("another name of net.ipv4.conf.all.forwarding"), "{error}");
    });
}
