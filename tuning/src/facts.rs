//! The facts of a machine that formulas and kernel versions are compared with: memory, CPUs,
//! kernel.

use std::io;

/// A machine, as far as profiles care.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Memory in bytes.
    pub memory: u64,
    /// Bytes of a page.
    pub page: u64,
    /// The CPUs that are switched on.
    pub cpus: Vec<usize>,
    /// The kernel, as `uname -r` has it.
    pub kernel: String,
}

impl Facts {
    /// This machine.
    ///
    /// # Errors
    /// When `/proc` or `/sys` cannot be read.
    pub fn of_this_machine() -> io::Result<Self> {
        let cannot = |what: &str| io::Error::other(format!("{what} cannot be understood"));
        let meminfo = std::fs::read_to_string("/proc/meminfo")?;
        let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kib: u64 = total
            .and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse().ok())
            .ok_or_else(|| cannot("/proc/meminfo"))?;
        let online = "/sys/devices/system/cpu/online";
        let cpus = cpu_list(&std::fs::read_to_string(online)?).ok_or_else(|| cannot(online))?;
        Ok(Self {
            memory: kib * 1024,
            page: rustix::param::page_size() as u64,
            cpus,
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        })
    }

    /// The kernel's version as two numbers.
    pub fn kernel_version(&self) -> (u32, u32) {
        version(&self.kernel).unwrap_or((0, 0))
    }
}

/// `6.18.44-x` as two numbers.
pub(crate) fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(['.', '-', '+']);
    let major = parts.next()?.parse().ok()?;
    Some((major, parts.next().unwrap_or("0").parse().ok()?))
}

/// `0-2,5` as numbers.
pub(crate) fn cpu_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for range in text.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        cpus.extend(first.parse::<usize>().ok()?..=last.parse().ok()?);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_versions() {
        assert_eq!(cpu_list("0-2,5\n"), Some(vec![0, 1, 2, 5]));
        assert_eq!(cpu_list("0"), Some(vec![0]));
        assert_eq!(cpu_list(""), None);
        assert_eq!(version("6.18.44-fc"), Some((6, 18)));
        assert_eq!(version("5"), Some((5, 0)));
        assert_eq!(version("new"), None);
    }

    #[test]
    fn this_machine() {
        let facts = Facts::of_this_machine().expect("readable");
        assert!(facts.memory > 1 << 20 && facts.page >= 4096 && !facts.cpus.is_empty());
        assert!(facts.kernel_version() > (3, 0), "{}", facts.kernel);
    }
}
