//! The kernel, its rings, descriptors, memory, CPUs and clock.

use platform::CgroupLimits;
use text::thousands;

use super::{Doctor, Finding, RingError, bpf};

/// The size of run that this lab is about.
const MILLION: u64 = 1_000_000;

/// Both ends of a connection on this machine, in bytes: two sockets of 4,400 in the kernel and 350
/// in the programs (what `lab run` counts on before it starts).
const BYTES_PER_CONNECTION: u64 = 2 * 4_400 + 350;

/// The part of the available memory that a run may count on, in percent.
const MEMORY_PERCENT: u64 = 90;

/// Threads that a run on a machine of many CPUs gets along with.
const ENOUGH_THREADS: u64 = 256;

/// A smaller limit makes a ring for every few thousand sockets.
const FEW_DESCRIPTORS: u64 = 4_096;

/// Clock sources that are read by a system call or from a slow device: a microsecond or more, where
/// the others take 20 ns.
const SLOW_CLOCKS: [&str; 5] = ["hpet", "acpi_pm", "jiffies", "refined-jiffies", "pit"];

impl Doctor {
    pub(super) fn kernel(&self) -> Finding {
        let way_out = "boot Linux 6.0 or later";
        let release = match self.of_proc("sys/kernel/osrelease") {
            Ok(release) => release,
            Err(reason) => {
                return Finding::missing("kernel", reason, "nothing can be told", way_out);
            }
        };
        let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        let rings = "server and client cannot run: io_uring with one submitter came with 6.0";
        let found = format!("Linux {release}");
        match version {
            (0, _) => Finding::missing("kernel", found, "its version is not known", way_out),
            (major, _) if major >= 6 => Finding::ok("kernel", found),
            version if version >= (5, 8) => Finding::missing("kernel", found, rings, way_out),
            _ => {
                let also = format!("{rings}, and ring buffers for probes with 5.8");
                Finding::missing("kernel", found, also, way_out)
            }
        }
    }

    pub(super) fn io_uring(&self) -> Finding {
        let consequence = "server and client cannot run";
        let disabled = self.sysctl("kernel.io_uring_disabled");
        let found = match &disabled {
            Ok(level) => format!("kernel.io_uring_disabled is {level}"),
            // Since Linux 6.6.
            Err(_) => "kernel.io_uring_disabled is not known to this kernel".to_owned(),
        };
        let Err(error) = &self.live.io_uring else {
            return Finding::ok("io_uring", format!("a ring was set up; {found}"));
        };
        let way_out = match disabled {
            Ok(1) => "as root: sysctl -w kernel.io_uring_disabled=0, or run as root",
            Ok(2..) => "as root: sysctl -w kernel.io_uring_disabled=0",
            _ if *error == RingError::NotPermitted => {
                "let the container's seccomp profile allow io_uring_setup"
            }
            _ => "boot Linux 6.0 or later, built with CONFIG_IO_URING",
        };
        Finding::missing("io_uring", format!("no ring: {error}; {found}"), consequence, way_out)
    }

    /// The soft and hard limit on descriptors; none reads as the largest number.
    fn limits(&self) -> Option<(u64, u64)> {
        let text = self.of_proc("self/limits").ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
        let mut numbers = line.split_whitespace().map(|number| match number {
            "unlimited" => Some(u64::MAX),
            number => number.parse().ok(),
        });
        Some((numbers.next()??, numbers.next()??))
    }

    pub(super) fn descriptors(&self) -> Finding {
        let name = "descriptor limit";
        let Some((soft, hard)) = self.limits() else {
            let reason = "/proc/self/limits does not say";
            return Finding::less(name, reason, "room for connections is not known", "mount /proc");
        };
        let of = |limit| if limit == u64::MAX { "unlimited".to_owned() } else { thousands(limit) };
        let found = format!("{} soft, {} hard", of(soft), of(hard));
        // Sockets lie in rings' tables of registered files, each held to this limit for itself.
        let rings = MILLION.div_ceil(hard.max(1));
        let rings = match rings {
            1 => "one ring a side holds".to_owned(),
            rings => format!("{} rings a side hold", thousands(rings)),
        };
        let room = if hard == u64::MAX { "any number of".to_owned() } else { thousands(hard) };
        let consequence =
            format!("{room} sockets in one ring's table of registered files, so {rings} a million");
        if hard < FEW_DESCRIPTORS {
            let way_out = "as root: ulimit -Hn 1048576, or LimitNOFILE= of the service";
            return Finding::less(name, found, consequence, way_out);
        }
        Finding::ok(name, found).with_consequence(consequence)
    }

    pub(super) fn descriptors_at_most(&self) -> Finding {
        match self.sysctl("fs.nr_open") {
            Ok(most) => {
                let consequence = "what the hard limit can be raised to, with CAP_SYS_RESOURCE";
                Finding::ok("fs.nr_open", thousands(most.cast_unsigned()))
                    .with_consequence(consequence)
            }
            Err(reason) => Finding::less(
                "fs.nr_open",
                reason,
                "what the descriptor limit can be raised to is not known",
                "mount /proc",
            ),
        }
    }

    pub(super) fn files(&self) -> Finding {
        let name = "fs.file-max";
        let most = self.sysctl("fs.file-max").map(i64::cast_unsigned);
        let used = self.of_proc("sys/fs/file-nr").ok();
        let used = used.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
        let (most, used) = match (most, used) {
            (Ok(most), Some(used)) => (most, used),
            (most, _) => {
                let reason = most.err().unwrap_or_else(|| "fs.file-nr does not say".to_owned());
                let consequence = "room for open files is not known";
                return Finding::less(name, reason, consequence, "mount /proc");
            }
        };
        let found = format!("{}, {} in use", thousands(most), thousands(used));
        let connections = most.saturating_sub(used) / 2;
        let consequence = format!("{} connections with both ends here", thousands(connections));
        if connections >= MILLION {
            Finding::ok(name, found).with_consequence(consequence)
        } else if self.has(bpf::SYS_ADMIN) == Some(true) {
            Finding::ok(name, found)
                .with_consequence(format!("{consequence}, but CAP_SYS_ADMIN is exempt"))
        } else {
            let way_out = "as root: sysctl -w fs.file-max=4000000";
            Finding::less(name, found, consequence, way_out)
        }
    }

    pub(super) fn memory(&self) -> Finding {
        let text = self.of_proc("meminfo").unwrap_or_default();
        let bytes = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
        };
        let (Some(total), Some(available)) = (bytes("MemTotal:"), bytes("MemAvailable:")) else {
            let reason = "/proc/meminfo does not say";
            return Finding::less("memory", reason, "room for users is not known", "mount /proc");
        };
        let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
        let mut found = format!("{}, {} available", gib(total), gib(available));
        let limit = self.limits_of_cgroups().memory;
        let limit = limit.filter(|limit| limit.available_bytes < available);
        let mut way_out = "fewer users, more memory, or clients on hosts of their own".to_owned();
        if let Some(limit) = &limit {
            let (left, all) = (gib(limit.available_bytes), gib(limit.bytes));
            found += &format!("; cgroup {} leaves {left} of its {all}", limit.group);
            way_out = format!("raise the memory limit of cgroup {}, or fewer users", limit.group);
        }
        let available = limit.map_or(available, |limit| limit.available_bytes);
        let users = available / 100 * MEMORY_PERCENT / BYTES_PER_CONNECTION;
        let consequence = format!("{} users with both ends here", thousands(users));
        if users >= MILLION {
            Finding::ok("memory", found).with_consequence(consequence)
        } else {
            Finding::less("memory", found, consequence, way_out)
        }
    }

    pub(super) fn cpus(&self) -> Finding {
        let status = self.of_proc("thread-self/status").or_else(|_| self.of_proc("self/status"));
        let status = status.unwrap_or_default();
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let Some(count) = list.and_then(cpus_in) else {
            let consequence = "how many shards there may be is not known";
            return Finding::less("CPUs", "/proc does not say", consequence, "mount /proc");
        };
        let limits = self.limits_of_cgroups();
        let mut found = format!("{count} to run on");
        if let Some(set) = limits.cpuset {
            found += &format!(" (cpuset of cgroup {})", set.group);
        }
        // A quota of fractions of a CPU is worth less than a CPU, however many there are.
        if let Some(quota) = limits.cpu.filter(|quota| quota.cpus < count as f64) {
            let found =
                format!("{:.2} by the quota of cgroup {}; {found}", quota.cpus, quota.group);
            let consequence = "once a period's quota is used up, all threads stand still until \
                               the next one (server_throttled, client_throttled)";
            let way_out =
                format!("raise the CPU quota of cgroup {}, or run elsewhere", quota.group);
            return Finding::less("CPUs", found, consequence, way_out);
        }
        if count < 2 {
            return Finding::less(
                "CPUs",
                found,
                "server and clients share one CPU: each one's figures contain the other's",
                "two CPUs or more, or clients on hosts of their own",
            );
        }
        match self.of_sys("devices/system/cpu/smt/active").as_deref() {
            Ok("1") => Finding::less(
                "CPUs",
                format!("{found}, two threads a core"),
                "shards on the two threads of a core slow each other, and no counter says so",
                "as root: echo off > /sys/devices/system/cpu/smt/control, or pin shards to cores",
            ),
            Ok(_) => Finding::ok("CPUs", format!("{found}, a core each")),
            Err(_) => Finding::ok("CPUs", found),
        }
    }

    /// Processes and threads; nothing where no cgroup limits them.
    pub(super) fn threads(&self) -> Option<Finding> {
        let limit = self.limits_of_cgroups().pids?;
        let (left, most) = (thousands(limit.left), thousands(limit.most));
        let found = format!("cgroup {} leaves {left} of its {most}", limit.group);
        if limit.left >= ENOUGH_THREADS {
            return Some(Finding::ok("threads", found));
        }
        let way_out = format!("raise pids.max of cgroup {}", limit.group);
        let consequence = "server and clients may not get the threads of their shards";
        Some(Finding::less("threads", found, consequence, way_out))
    }

    fn limits_of_cgroups(&self) -> CgroupLimits {
        CgroupLimits::of(&self.proc)
    }

    pub(super) fn pressure(&self) -> Finding {
        match self.of_proc("pressure/cpu") {
            Ok(_) => Finding::ok("pressure", "CPU, memory and disk"),
            Err(reason) => Finding::less(
                "pressure",
                reason,
                "how long tasks waited for memory and disks is null",
                "boot Linux 4.20 or later with psi=1",
            ),
        }
    }

    pub(super) fn clock_source(&self) -> Finding {
        let name = "clock source";
        match self.of_sys("devices/system/clocksource/clocksource0/current_clocksource") {
            Ok(source) if SLOW_CLOCKS.contains(&source.as_str()) => Finding::less(
                name,
                source,
                "reading the time takes a microsecond or more, several times a request",
                "boot with clocksource=tsc where the CPU's is stable (dmesg says why not)",
            ),
            Ok(source) => Finding::ok(name, source),
            Err(reason) => Finding::less(
                name,
                reason,
                "what reading the time costs is not known",
                "mount /sys",
            ),
        }
    }

    pub(super) fn clock_synchronised(&self) -> Finding {
        let name = "clock synchronised";
        let consequence = "on several hosts the seconds do not begin together; one host is fine";
        let way_out = "run chrony or systemd-timesyncd on every host";
        match &self.live.clock {
            Ok(clock) if clock.synchronised => {
                let found = format!("yes, {} µs estimated error", clock.estimated_error_us);
                Finding::ok(name, found)
            }
            Ok(_) => Finding::less(name, "no", consequence, way_out),
            Err(reason) => {
                Finding::less(name, format!("not known: {reason}"), consequence, way_out)
            }
        }
    }
}

/// How many CPUs a list such as `0-3,8` names.
fn cpus_in(list: &str) -> Option<usize> {
    let spans = list.trim().split(',').map(|span| {
        let (first, last) = span.split_once('-').unwrap_or((span, span));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        Some(last.checked_sub(first)? + 1)
    });
    spans.sum()
}
