//! What the probes need: types, tracepoints, permission.

use super::{Doctor, Finding};
use crate::{
    absence::{Absence, by_kernel},
    btf::Btf,
    catalog::{PROBES, Spec},
    offsets,
    perf::CounterError,
};

/// Capabilities by number (`linux/capability.h`).
const NET_ADMIN: u32 = 12;
pub(super) const SYS_ADMIN: u32 = 21;
const SYSLOG: u32 = 34;
const PERFMON: u32 = 38;
const BPF: u32 = 39;

const AS_ROOT: &str = "run as root";

/// Of a probe that [`without`] does not know.
pub(super) const UNKNOWN: &str = "what it measures is null";

/// What is not known without a probe.
pub(super) fn without(probe: &str) -> &'static str {
    match probe {
        "switched" | "woken" => {
            "waiting for a CPU is not seen: runqueue causes cannot be told from busy ones"
        }
        "forked" => "children of a process given by --pid are not watched",
        "exited" => "a process that gets the number of a watched one that ended is taken for it",
        "migrated" => "moves between CPUs are left to the perf counters",
        "send_begins" => "sends are stamped when they leave TCP, later than they begin",
        "send_queued" => "where send_begins is absent too, requests have no T1 and T4",
        "data_ready" => "requests have no T2 and T5, so no segments",
        "data_read" => "requests have no T3 and T6, so no segments",
        "packet_received" => "packets in of the port are null",
        "packet_sent" => "packets out of the port are null",
        "packet_dropped" => "drops and their reasons are null: a loss shows by its retransmission",
        "retransmitted" => "retransmissions are null: losses show in the totals of /proc only",
        "synack_retransmitted" => "retransmitted SYN-ACKs are null",
        "reset_sent" | "reset_received" => "resets are null",
        "receive_queue_full" | "buffer_limit" => "full socket buffers are null",
        "waking" => "a CPU that is slow to wake for a thread counts as that thread's sleep",
        "signalled" => "who stopped a program is not known",
        "softirq_begins" | "softirq_ends" => {
            "what interrupts take from a thread counts as its own work"
        }
        "tick" => "a CPU that does not run (hypervisor, firmware) is not seen to stall",
        "napi_polled" => "NAPI polls are null",
        _ => UNKNOWN,
    }
}

impl Doctor {
    /// Whether the effective set has a capability; `None` when that cannot be read.
    pub(super) fn has(&self, capability: u32) -> Option<bool> {
        let status = self.of_proc("thread-self/status").or_else(|_| self.of_proc("self/status"));
        let status = status.ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
        let effective = u64::from_str_radix(line.trim(), 16).ok()?;
        Some(effective >> capability & 1 == 1)
    }

    pub(super) fn capabilities(&self) -> Vec<Finding> {
        let admin = self.has(SYS_ADMIN) == Some(true);
        let check = |name: &'static str,
                     number,
                     covered: bool,
                     consequence: &str,
                     way_out: &str| {
            match self.has(number) {
                None => Finding::less(name, "not known", consequence, "mount /proc"),
                Some(true) => Finding::ok(name, "effective"),
                Some(false) if covered && admin => {
                    Finding::ok(name, "not effective, but CAP_SYS_ADMIN covers it")
                }
                Some(false) => Finding::missing(name, "not effective", consequence, way_out),
            }
        };
        let set = |name: &str| format!("{AS_ROOT}, or `setcap {name}+ep` on the program");
        let both = set("cap_bpf,cap_perfmon");
        vec![
            check("CAP_BPF", BPF, true, "no probe can be loaded", &both),
            check("CAP_PERFMON", PERFMON, true, "no probe can be attached", &both),
            check(
                "CAP_NET_ADMIN",
                NET_ADMIN,
                false,
                "no loss or delay can be injected, no interface be made",
                &set("cap_net_admin"),
            ),
            check(
                "CAP_SYS_ADMIN",
                SYS_ADMIN,
                false,
                "no network namespaces: runs share the machine's, with its small socket table",
                AS_ROOT,
            ),
        ]
    }

    fn types(&self) -> Result<Btf, String> {
        Btf::read(&self.sys.join("kernel/btf/vmlinux")).map_err(|error| error.to_string())
    }

    pub(super) fn btf(&self) -> Finding {
        match self.types() {
            Ok(_) => Finding::ok("BTF", "the kernel describes its types"),
            Err(reason) => Finding::missing(
                "BTF",
                reason,
                "no probe can be attached: NIC, /proc and perf figures remain",
                "boot a kernel built with CONFIG_DEBUG_INFO_BTF (Debian 11, Ubuntu 20.10, RHEL 8.2 \
                 and later)",
            ),
        }
    }

    pub(super) fn tracefs(&self) -> Finding {
        let roots = ["kernel/tracing/events", "kernel/debug/tracing/events"];
        let root = roots.into_iter().map(|root| self.sys.join(root)).find(|root| {
            // The folder of an absent mount is there, and empty.
            root.read_dir().is_ok()
        });
        let Some(root) = root else {
            return Finding::less(
                "tracefs",
                "not mounted, or not readable",
                "nothing is lost while there is BTF: names of drop reasons come from it",
                "as root: mount -t tracefs tracefs /sys/kernel/tracing",
            );
        };
        let absent: Vec<String> = PROBES
            .iter()
            .filter(|spec| !root.join(spec.group).join(spec.tracepoint).exists())
            .map(|spec| spec.place())
            .collect();
        if absent.is_empty() {
            Finding::ok("tracefs", format!("{}, with every tracepoint", root.display()))
        } else {
            let found = format!("{}, without {}", root.display(), absent.join(", "));
            Finding::ok("tracefs", found).with_consequence("see the probes below")
        }
    }

    /// One finding for each probe: whether the running kernel has what it is attached to.
    pub(super) fn probes(&self) -> Vec<Finding> {
        let types = self.types();
        let resolved = types.as_ref().ok().map(offsets::resolve);
        let lacking = |spec: &Spec| -> Option<String> {
            let (Ok(btf), Some(resolved)) = (&types, &resolved) else {
                return Some("not known without BTF".to_owned());
            };
            // The finding names the tracepoint and the Linux that has it elsewhere.
            Some(match by_kernel(spec, btf, resolved).err()? {
                Absence::NoTracepoint { .. } => "the kernel has no such tracepoint".to_owned(),
                Absence::TooFewArguments { arguments, needed, .. } => {
                    format!("{arguments} arguments of the {needed} needed")
                }
                other => other.to_string(),
            })
        };
        let check = |spec: &Spec| {
            let name = format!("probe {}", spec.name);
            let place = spec.place();
            let Some(reason) = lacking(spec) else { return Finding::ok(name, place) };
            let found = format!("{place}: {reason}");
            let stands_in = PROBES.iter().find(|other| other.instead_of == Some(spec.name));
            if spec.instead_of.is_some_and(|other| {
                PROBES.iter().any(|spec| spec.name == other && lacking(spec).is_none())
            }) {
                return Finding::ok(name, found).with_consequence("not needed here");
            }
            let way_out = match &types {
                Ok(_) => format!("boot Linux {} or later", spec.since),
                Err(_) => "see BTF".to_owned(),
            };
            match stands_in {
                Some(other) if lacking(other).is_none() => {
                    Finding::less(name, found, without(spec.name), way_out)
                }
                _ => Finding::missing(name, found, without(spec.name), way_out),
            }
        };
        PROBES.iter().map(check).collect()
    }

    pub(super) fn perf_events(&self) -> Finding {
        let name = "perf_event_paranoid";
        let privileged = [PERFMON, SYS_ADMIN].into_iter().any(|it| self.has(it) == Some(true));
        let consequence = "no switches, migrations and faults by thread, and no profile";
        let found = match self.sysctl("kernel.perf_event_paranoid") {
            Ok(level) if level <= 1 => level.to_string(),
            Ok(level) if privileged => format!("{level}, from which CAP_PERFMON is exempt"),
            Ok(level) => {
                let way_out = "as root: sysctl -w kernel.perf_event_paranoid=1";
                return Finding::less(name, level.to_string(), consequence, way_out);
            }
            Err(reason) => {
                let way_out = "boot a kernel with CONFIG_PERF_EVENTS";
                return Finding::missing(name, reason, consequence, way_out);
            }
        };
        match &self.live.perf_software {
            Ok(()) => Finding::ok(name, found),
            Err(reason) => Finding::missing(
                name,
                format!("{found}, but a counter was refused: {reason}"),
                consequence,
                "let the container's seccomp profile allow perf_event_open",
            ),
        }
    }

    pub(super) fn hardware_counters(&self) -> Finding {
        match &self.live.perf_hardware {
            Ok(()) => Finding::ok("hardware counters", "cycles count"),
            Err(error) => {
                let way_out = if matches!(error, CounterError::NotPermitted) {
                    "see perf_event_paranoid: whether there are any is not known"
                } else {
                    "use a machine, or a hypervisor setting, with a virtual PMU"
                };
                let consequence = "cycles, instructions and cache misses are null";
                Finding::less("hardware counters", error.to_string(), consequence, way_out)
            }
        }
    }

    /// Names of kernel functions: places of drops, frames of a profile.
    pub(super) fn kernel_names(&self) -> Finding {
        let name = "kptr_restrict";
        let consequence = "places of drops and kernel frames of profiles are bare addresses";
        let level = match self.sysctl("kernel.kptr_restrict") {
            Ok(level) => level.to_string(),
            Err(reason) => reason,
        };
        // What counts is what is shown to this process.
        let first = first_line(&self.proc.join("kallsyms"));
        let shown = first.as_deref().map(|line| {
            line.split_whitespace().next().is_some_and(|address| address.contains(|c| c != '0'))
        });
        match shown {
            Some(true) => Finding::ok(name, format!("{level}, addresses are shown")),
            Some(false) => {
                let way_out = match (level.as_str(), self.has(SYSLOG)) {
                    ("2", _) => "as root: sysctl -w kernel.kptr_restrict=1",
                    (_, Some(true)) => "as root: sysctl -w kernel.perf_event_paranoid=1",
                    _ => "run as root (CAP_SYSLOG)",
                };
                Finding::less(name, format!("{level}, addresses are hidden"), consequence, way_out)
            }
            None => Finding::less(
                name,
                "no /proc/kallsyms",
                consequence,
                "boot a kernel with CONFIG_KALLSYMS",
            ),
        }
    }
}

/// The first line of a file that may be long.
fn first_line(path: &std::path::Path) -> Option<String> {
    use std::io::BufRead as _;
    let mut line = String::new();
    std::io::BufReader::new(std::fs::File::open(path).ok()?).read_line(&mut line).ok()?;
    (!line.is_empty()).then_some(line)
}
