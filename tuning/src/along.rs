//! What else a write changes: settings that the kernel changes along with another one, those that
//! reset each other, and those that have no way back. Must not know: profiles, journals.

use ethtool::COALESCING;

use crate::system::{Location, System};

/// A setting, and those that the kernel may change when it is written. A star is every name of a
/// directory. All are below `/proc/sys`.
pub(crate) const ALONG: [(&str, &[&str]); 12] = [
    // What becomes the default is allowed to everybody from then on (net/ipv4/tcp_cong.c).
    ("net/ipv4/tcp_congestion_control", &["net/ipv4/tcp_allowed_congestion_control"]),
    // Bytes and ratio: the one that is written counts, and the other one becomes 0
    // (mm/page-writeback.c, mm/util.c).
    ("vm/dirty_bytes", &["vm/dirty_ratio"]),
    ("vm/dirty_ratio", &["vm/dirty_bytes"]),
    ("vm/dirty_background_bytes", &["vm/dirty_background_ratio"]),
    ("vm/dirty_background_ratio", &["vm/dirty_background_bytes"]),
    ("vm/overcommit_kbytes", &["vm/overcommit_ratio"]),
    ("vm/overcommit_ratio", &["vm/overcommit_kbytes"]),
    // Both watchdogs, each of them, and what was read of them last (kernel/watchdog.c).
    ("kernel/watchdog", &["kernel/nmi_watchdog", "kernel/soft_watchdog"]),
    ("kernel/nmi_watchdog", &["kernel/watchdog", "kernel/soft_watchdog"]),
    ("kernel/soft_watchdog", &["kernel/watchdog", "kernel/nmi_watchdog"]),
    // A router accepts no redirects, and all its interfaces forward (net/ipv4/devinet.c).
    ("net/ipv4/ip_forward", &["net/ipv4/conf/*/forwarding", "net/ipv4/conf/*/accept_redirects"]),
    (
        "net/ipv4/conf/all/forwarding",
        &["net/ipv4/conf/*/forwarding", "net/ipv4/conf/*/accept_redirects"],
    ),
];

/// Settings of all interfaces, that are written to each of them (net/ipv6/addrconf.c).
const OF_ALL_INTERFACES: [&str; 3] = ["forwarding", "disable_ipv6", "ignore_routes_with_linkdown"];

/// Pairs of which one is 0 while the other one counts.
const EITHER: [(&str, &str); 3] = [
    ("vm/dirty_bytes", "vm/dirty_ratio"),
    ("vm/dirty_background_bytes", "vm/dirty_background_ratio"),
    ("vm/overcommit_kbytes", "vm/overcommit_ratio"),
];

/// Names of one number: what is written under one of them is read under the other one.
const ALIASES: [(&str, &str); 2] = [
    ("net/nf_conntrack_max", "net/netfilter/nf_conntrack_max"),
    ("net/ipv4/ip_forward", "net/ipv4/conf/all/forwarding"),
];

/// Values that the kernel keeps until the next boot.
const ONE_WAY: [(&str, &str); 4] = [
    ("kernel/kexec_load_disabled", "1"),
    ("kernel/modules_disabled", "1"),
    ("kernel/unprivileged_bpf_disabled", "1"),
    ("kernel/yama/ptrace_scope", "3"),
];

/// Huge pages that are switched on need free memory (mm/khugepaged.c).
const HUGE_PAGES: &str = "kernel/mm/transparent_hugepage/";
const MIN_FREE: &str = "vm/min_free_kbytes";

/// What the kernel may change along with a setting, and this process may write.
pub(crate) fn along(at: &Location, system: &System) -> Vec<Location> {
    let mut found: Vec<Location> = match at {
        Location::Sysctl(path) => of_sysctl(path, system),
        Location::Sys { path, .. } if path.starts_with(HUGE_PAGES) => {
            vec![Location::Sysctl(MIN_FREE.to_owned())]
        }
        Location::Sys { path, format } => {
            let Some(policy) = path.strip_suffix("/scaling_governor") else { return Vec::new() };
            let beside =
                |name: &str| Location::Sys { path: format!("{policy}/{name}"), format: *format };
            vec![beside("scaling_setspeed"), beside("energy_performance_preference")]
        }
        // All fields are written at once, and a driver may round any of them.
        Location::Coalesce { nic, .. } => {
            let field =
                |field: &&str| Location::Coalesce { nic: nic.clone(), field: (*field).to_owned() };
            COALESCING.iter().map(field).collect()
        }
        Location::Ring { nic, .. } => {
            use crate::profile::Ring::{Rx, Tx};
            [Rx, Tx].map(|ring| Location::Ring { nic: nic.clone(), ring }).into()
        }
        Location::Irq(_) | Location::Feature { .. } | Location::Limit(_) => Vec::new(),
    };
    found.retain(|it| it != at && system.may_write(it).is_ok());
    found
}

fn of_sysctl(path: &str, system: &System) -> Vec<Location> {
    let row = ALONG.iter().find(|(written, _)| *written == path);
    let mut patterns: Vec<String> = row
        .map(|(_, others)| others.iter().map(|it| (*it).to_owned()).collect())
        .unwrap_or_default();
    let of_all = path.strip_prefix("net/ipv6/conf/all/");
    patterns.extend(
        of_all
            .filter(|name| OF_ALL_INTERFACES.contains(name))
            .map(|name| format!("net/ipv6/conf/*/{name}")),
    );
    let each = |pattern: String| match pattern.split_once('*') {
        None => vec![pattern],
        Some((before, after)) => {
            let names = system.sysctls_beside(before);
            names.into_iter().map(|name| format!("{before}{name}{after}")).collect()
        }
    };
    patterns.into_iter().flat_map(each).map(Location::Sysctl).collect()
}

/// The setting that becomes 0 when this one is written.
pub(crate) fn reset_by(at: &Location) -> Option<Location> {
    let Location::Sysctl(path) = at else { return None };
    let other = EITHER.iter().find_map(|(one, other)| match path.as_str() {
        path if path == *one => Some(other),
        path if path == *other => Some(one),
        _ => None,
    })?;
    Some(Location::Sysctl((*other).to_owned()))
}

/// The other name of a setting's number.
pub(crate) fn alias_of(at: &Location) -> Option<Location> {
    let Location::Sysctl(path) = at else { return None };
    let other = ALIASES.iter().find_map(|(one, other)| match path.as_str() {
        path if path == *one => Some(other),
        path if path == *other => Some(one),
        _ => None,
    })?;
    Some(Location::Sysctl((*other).to_owned()))
}

/// Whether the kernel keeps a value of a setting until the next boot.
pub(crate) fn has_no_way_back(at: &Location, value: &str) -> bool {
    match at {
        Location::Sysctl(path) => ONE_WAY.contains(&(path.as_str(), value)),
        _ => false,
    }
}

/// The table as patterns of a shell's `case`.
pub(crate) fn for_shell() -> String {
    let row = |(written, others): &(&str, &[&str])| {
        let others: Vec<String> = others.iter().map(|it| format!("/proc/sys/{it}")).collect();
        format!("        /proc/sys/{written}) echo {} ;;\n", others.join(" "))
    };
    let mut rows: String = ALONG.iter().map(row).collect();
    for name in OF_ALL_INTERFACES {
        let all = format!("/proc/sys/net/ipv6/conf/all/{name}");
        rows += &format!("        {all}) echo /proc/sys/net/ipv6/conf/*/{name} ;;\n");
    }
    rows += &format!("        /sys/{HUGE_PAGES}*) echo /proc/sys/{MIN_FREE} ;;\n");
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sysctl(path: &str) -> Location {
        Location::Sysctl(path.to_owned())
    }

    #[test]
    fn what_a_write_may_change() {
        let paths = |at: &Location| -> Vec<String> {
            along(at, &System::of_this_thread()).iter().map(ToString::to_string).collect()
        };
        let forwarding = paths(&sysctl("net/ipv4/ip_forward"));
        let may_write = rustix::process::geteuid().is_root();
        assert_eq!(
            forwarding.contains(&"/proc/sys/net/ipv4/conf/lo/forwarding".to_owned()),
            may_write,
            "{forwarding:?}"
        );
        assert!(paths(&sysctl("net/core/somaxconn")).is_empty());
        assert!(!paths(&sysctl("vm/dirty_ratio")).contains(&"/proc/sys/vm/dirty_ratio".to_owned()));
    }

    #[test]
    fn pairs_go_both_ways() {
        for (one, other) in EITHER {
            assert_eq!(reset_by(&sysctl(one)), Some(sysctl(other)));
            assert_eq!(reset_by(&sysctl(other)), Some(sysctl(one)));
            for (written, reset) in [(one, other), (other, one)] {
                assert!(ALONG.contains(&(written, &[reset])), "{written}");
            }
        }
        assert_eq!(reset_by(&sysctl("vm/swappiness")), None);
        assert!(has_no_way_back(&sysctl("kernel/modules_disabled"), "1"));
        assert!(!has_no_way_back(&sysctl("kernel/unprivileged_bpf_disabled"), "2"));
    }
}
