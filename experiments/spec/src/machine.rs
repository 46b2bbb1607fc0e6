//! What this machine is and has, for preflights and manifests.

use std::collections::BTreeMap;
use std::path::Path;

use platform::{CgroupLimits, DescriptorLimits};
use serde::{Deserialize, Serialize};

/// Settings that matter to a run, as they are below `/proc/sys`.
const SYSCTLS: [&str; 52] = [
    "fs.file-max",
    "fs.nr_open",
    "kernel.io_uring_disabled",
    "kernel.perf_event_paranoid",
    "kernel.pid_max",
    "kernel.sched_autogroup_enabled",
    "kernel.threads-max",
    "kernel.timer_migration",
    "kernel.unprivileged_bpf_disabled",
    "net.core.busy_poll",
    "net.core.busy_read",
    "net.core.default_qdisc",
    "net.core.dev_weight",
    "net.core.netdev_budget",
    "net.core.netdev_budget_usecs",
    "net.core.netdev_max_backlog",
    "net.core.optmem_max",
    "net.core.rmem_default",
    "net.core.rmem_max",
    "net.core.rps_sock_flow_entries",
    "net.core.somaxconn",
    "net.core.wmem_default",
    "net.core.wmem_max",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_autocorking",
    "net.ipv4.tcp_child_ehash_entries",
    "net.ipv4.tcp_congestion_control",
    "net.ipv4.tcp_ehash_entries",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_low_latency",
    "net.ipv4.tcp_max_orphans",
    "net.ipv4.tcp_max_syn_backlog",
    "net.ipv4.tcp_max_tw_buckets",
    "net.ipv4.tcp_mem",
    "net.ipv4.tcp_moderate_rcvbuf",
    "net.ipv4.tcp_no_metrics_save",
    "net.ipv4.tcp_notsent_lowat",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_sack",
    "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_synack_retries",
    "net.ipv4.tcp_timestamps",
    "net.ipv4.tcp_tw_reuse",
    "net.ipv4.tcp_window_scaling",
    "net.ipv4.tcp_wmem",
    "net.netfilter.nf_conntrack_buckets",
    "net.netfilter.nf_conntrack_max",
    "vm.max_map_count",
    "vm.swappiness",
];

/// Whether the machine's wall clock is kept right, and how far off it says it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClockState {
    /// Disciplined by NTP or the like; `None` when the kernel would not say.
    pub synchronised: Option<bool>,
    /// The error that the kernel estimates, in microseconds.
    pub estimated_error_us: Option<u64>,
}

/// A machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Its name.
    pub host: String,
    /// Its kernel, as `uname -r` has it.
    pub kernel: String,
    /// The CPUs that this process may use.
    pub cpus: Vec<usize>,
    /// What they are.
    pub cpu_model: Option<String>,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Memory that can be had without swapping, in bytes: of the machine's, or of what a cgroup
    /// leaves to this process when that is less.
    pub memory_available_bytes: u64,
    /// What the cgroups of this process leave to it.
    #[serde(default)]
    pub limits: CgroupLimits,
    /// Descriptors in one table: what the limit may be raised to.
    pub descriptors: u64,
    /// Files of the whole machine: the most, and how many are in use.
    pub files: (u64, u64),
    /// Ports for clients: the first and the last.
    pub ports: (u16, u16),
    /// Whether this process may do everything (CAP_SYS_ADMIN and CAP_NET_ADMIN).
    pub root: bool,
    /// Congestion controls that the kernel has, and those that a process without privileges may
    /// choose.
    pub congestion: (Vec<String>, Vec<String>),
    /// Buckets of the table that established sockets are found in, in this process's network
    /// namespace; `None` when the kernel does not say (before 6.1).
    pub socket_table: Option<u64>,
    /// The wall clock.
    pub clock: ClockState,
    /// Network interfaces.
    pub nics: Vec<String>,
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn words(path: &str) -> Vec<String> {
    read(path).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

/// A value of `/proc/meminfo`, in bytes.
pub(crate) fn meminfo(name: &str) -> Option<u64> {
    let text = read("/proc/meminfo")?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// What this machine calls itself.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

impl Machine {
    /// This machine.
    pub fn this() -> Self {
        let uname = rustix::system::uname();
        let number = |text: Option<&String>| text.and_then(|it| it.parse().ok()).unwrap_or(0);
        let files = words("/proc/sys/fs/file-nr");
        let cpuinfo = read("/proc/cpuinfo").unwrap_or_default();
        let limits = CgroupLimits::of_this_process();
        let available = meminfo("MemAvailable:").unwrap_or(0);
        let left = limits.memory.as_ref().map_or(u64::MAX, |it| it.available_bytes);
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
        Self {
            host: host_name(),
            kernel: uname.release().to_string_lossy().into_owned(),
            cpus: platform::cpus_allowed().unwrap_or_default(),
            cpu_model: model.map(|it| it.trim_start_matches([' ', '\t', ':']).to_owned()),
            memory_bytes: meminfo("MemTotal:").unwrap_or(0),
            memory_available_bytes: available.min(left),
            limits,
            descriptors: DescriptorLimits::of_this_process().hard,
            files: (number(files.get(2)), number(files.first())),
            ports: platform::port_range().unwrap_or((32_768, 60_999)),
            root: has_capabilities(),
            congestion: (
                words("/proc/sys/net/ipv4/tcp_available_congestion_control"),
                words("/proc/sys/net/ipv4/tcp_allowed_congestion_control"),
            ),
            // Below zero when a namespace shares it with the machine.
            socket_table: read("/proc/sys/net/ipv4/tcp_ehash_entries")
                .and_then(|text| text.parse::<i64>().ok())
                .map(i64::unsigned_abs),
            clock: ClockState::read(),
            nics: interfaces(),
        }
    }

    /// The kernel's version as two numbers.
    pub(crate) fn kernel_version(&self) -> (u32, u32) {
        let mut numbers = self.kernel.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }
}

fn interfaces() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/sys/class/net") else { return Vec::new() };
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Whether the effective capabilities have CAP_NET_ADMIN (12) and CAP_SYS_ADMIN (21).
fn has_capabilities() -> bool {
    let status = read("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    [12, 21].into_iter().all(|capability| effective >> capability & 1 == 1)
}

impl ClockState {
    fn read() -> Self {
        // SAFETY: a zeroed timex asks for the state and changes nothing; the kernel writes within
        // it.
        let (state, timex) = unsafe {
            let mut timex: libc::timex = std::mem::zeroed();
            (libc::adjtimex(&raw mut timex), timex)
        };
        if state < 0 {
            return Self::default();
        }
        Self {
            synchronised: Some(timex.status & libc::STA_UNSYNC == 0),
            estimated_error_us: u64::try_from(timex.esterror).ok(),
        }
    }
}

/// The settings that matter to a run, as the calling thread's network namespace has them. What the
/// kernel does not have is left out.
pub fn sysctls() -> BTreeMap<String, String> {
    SYSCTLS
        .into_iter()
        .filter_map(|name| {
            let value = read(format!("/proc/sys/{}", name.replace('.', "/")))?;
            Some((name.to_owned(), value.split_whitespace().collect::<Vec<_>>().join(" ")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_known() {
        let machine = Machine::this();
        assert!(!machine.host.is_empty() && !machine.cpus.is_empty());
        assert!(machine.kernel_version() >= (5, 0), "{}", machine.kernel);
        assert!(machine.memory_bytes > machine.memory_available_bytes);
        assert!(machine.memory_available_bytes > 0 && machine.files.0 > 0);
        assert!(machine.nics.contains(&"lo".to_owned()));
        let settings = sysctls();
        assert!(settings.contains_key("net.ipv4.tcp_congestion_control"));
        assert!(!settings.contains_key("no.such.setting"));
    }
}
