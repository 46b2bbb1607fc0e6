//! What a write changes beside the setting itself, against the real kernel: it goes back, too.

mod common;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::{Held, Place, changed, everything, in_namespace, set, sysctl};
use needs::test;
use tuning::{Outcome, RevertedSetting, Selection};

needs::main!();

/// One test at a time of those that change the machine's settings or look at all of them.
static MACHINE: Mutex<()> = Mutex::new(());

fn exclusive() -> MutexGuard<'static, ()> {
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

const ALLOWED: &str = "net.ipv4.tcp_allowed_congestion_control";

/// What becomes the default is allowed to everybody from then on: that goes back, too.
#[test]
fn what_the_kernel_changes_along_goes_back() {
    if !needs::root() {
        return;
    }
    let _machine = exclusive();
    let place = Place::new();
    let (_default, _allowed) = (Held::new("net.ipv4.tcp_congestion_control"), Held::new(ALLOWED));
    let default = sysctl("net.ipv4.tcp_congestion_control");
    let other = if default == "cubic" { "bbr" } else { "cubic" };
    let available = sysctl("net.ipv4.tcp_available_congestion_control");
    if !needs::can(&format!("tcp_{other}"), available.split(' ').any(|it| it == other)) {
        return;
    }
    let exactly = format!("Exactly(\"{other}\")");
    let key = "Sysctl(\"net.ipv4.tcp_congestion_control\")";
    let profile = place.profile("x", &[(key, &exactly, "")]);
    // Also when the default itself is not allowed.
    for allowed in [format!("reno {default}"), "reno".to_owned()] {
        set(ALLOWED, &allowed);
        let before = everything("net/ipv4");
        place.apply(&profile).expect("applied");
        let gained = sysctl(ALLOWED);
        let reverted = place.revert(Selection::All);
        assert!(gained.split(' ').any(|it| it == other), "{gained}");
        assert!(reverted[0].is_done(), "{reverted:?}");
        let named = |it: &RevertedSetting| it.name.contains("allowed_congestion");
        assert!(reverted[0].settings.iter().any(named), "{reverted:?}");
        assert_eq!(changed(&before, &everything("net/ipv4")), []);
    }
    // What another program has allowed meanwhile is left alone.
    set(ALLOWED, "reno");
    place.apply(&profile).expect("applied");
    set(ALLOWED, &format!("reno {default}"));
    let reverted = place.revert(Selection::All);
    let changed = Outcome::Changed { now: format!("reno {default}") };
    let outcomes: Vec<&Outcome> = reverted[0].settings.iter().map(|it| &it.outcome).collect();
    assert_eq!(outcomes, [&Outcome::Restored, &changed], "{reverted:?}");
}

/// Of two settings that reset each other the one that counted comes back, and with it the 0 of the
/// other one, which cannot be written.
#[test]
fn pairs_go_back_in_the_order_that_works() {
    if !needs::root() {
        return;
    }
    let _machine = exclusive();
    let place = Place::new();
    let pairs = [
        ("vm.dirty_bytes", "vm.dirty_ratio", "536870912"),
        ("vm.dirty_background_bytes", "vm.dirty_background_ratio", "268435456"),
        ("vm.overcommit_kbytes", "vm.overcommit_ratio", "16777216"),
    ];
    for (size, share, wanted) in pairs {
        let _both = [size, share].map(Held::new);
        let of = |name: &str, value: &str| {
            (format!("Sysctl(\"{name}\")"), format!("Exactly(\"{value}\")"))
        };
        let there_and_back = |(key, value): (String, String), reset: &str| {
            let profile = place.profile("x", &[(&key, &value, "scope: Machine")]);
            let before = everything("vm");
            let applied = place.apply(&profile);
            let reads = sysctl(reset);
            let reverted = place.revert(Selection::All);
            applied.expect("applied");
            assert_eq!(reads, "0", "{key} resets {reset}");
            assert!(reverted[0].is_done(), "{reverted:?}");
            assert_eq!(changed(&before, &everything("vm")), [], "{key}");
        };
        set(share, "33");
        there_and_back(of(size, wanted), share);
        set(size, wanted);
        there_and_back(of(share, "22"), size);
        // Both in one profile cannot hold.
        let [one, other] = [of(size, "1073741824"), of(share, "44")];
        let machine = "scope: Machine";
        let lines = [(one.0.as_str(), one.1.as_str(), machine), (&other.0, &other.1, machine)];
        let error = place.apply(&place.profile("y", &lines)).expect_err("both").to_string();
        assert!(error.contains(&format!("it resets {share}, which")), "{error}");
        set(share, "20");
    }
    let locked = ("Sysctl(\"kernel.modules_disabled\")", "Exactly(\"1\")", "scope: Machine");
    if Path::new("/proc/sys/kernel/modules_disabled").exists() {
        let error = place.apply(&place.profile("z", &[locked])).expect_err("for ever").to_string();
        assert!(error.contains("until the next boot"), "{error}");
    }
}

/// Texts that a normal form would lose, an empty list, and what is written to all interfaces.
#[test]
fn every_text_goes_back_as_it_was() {
    if !needs::root() {
        return;
    }
    let _machine = exclusive();
    in_namespace(|| {
        // SAFETY: a new name of the host changes nothing that this process's memory depends on.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWUTS) }
            .expect("a namespace");
        let place = Place::new();
        set("kernel.hostname", "007");
        set("net.ipv4.conf.lo.forwarding", "1");
        set("net.ipv4.ip_local_reserved_ports", "");
        let see = || {
            let mut all = everything("net");
            all.insert("hostname".into(), sysctl("kernel.hostname"));
            all
        };
        let before = see();
        let profile = place.profile(
            "x",
            &[
                ("Sysctl(\"kernel.hostname\")", "Exactly(\"lab\")", "scope: Machine"),
                ("Sysctl(\"net.ipv4.ip_forward\")", "Exactly(\"1\")", ""),
                ("Sysctl(\"net.ipv4.ip_local_reserved_ports\")", "Exactly(\"8000-8010\")", ""),
            ],
        );
        place.apply(&profile).expect("applied");
        assert_eq!(sysctl("kernel.hostname"), "lab");
        assert_eq!(sysctl("net.ipv4.conf.default.forwarding"), "1");
        let reverted = place.revert(Selection::All);
        assert!(reverted[0].is_done(), "{reverted:?}");
        assert_eq!(changed(&before, &see()), []);
    });
}
