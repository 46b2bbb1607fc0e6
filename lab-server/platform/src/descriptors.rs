//! Limits on descriptors.

use rustix::io;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The kernel's own bound on the files that one ring may hold (`IORING_MAX_FIXED_FILES`).
const MAX_FILES_PER_RING: u64 = 1 << 20;

/// How many descriptors a process may have in one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorLimits {
    /// What applies now.
    pub soft: u64,
    /// What the soft limit may be raised to.
    pub hard: u64,
}

impl DescriptorLimits {
    /// The limits of this process. No limit reads as [`u64::MAX`].
    pub fn of_this_process() -> Self {
        let limit = getrlimit(Resource::Nofile);
        let or_none = |value: Option<u64>| value.unwrap_or(u64::MAX);
        Self { soft: or_none(limit.current), hard: or_none(limit.maximum) }
    }

    /// Raises the soft limit to the hard one and returns what applies from then on.
    ///
    /// # Errors
    /// What `setrlimit` says; a process may always do this to itself.
    pub fn raise() -> io::Result<Self> {
        let Self { hard, .. } = Self::of_this_process();
        let most = (hard != u64::MAX).then_some(hard);
        setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most })?;
        Ok(Self::of_this_process())
    }
}

/// How many sockets one ring may hold under this limit: a registration of files is checked
/// against the soft limit on descriptors, each registration for itself.
pub fn sockets_per_ring(limits: DescriptorLimits) -> u32 {
    u32::try_from(limits.soft.min(MAX_FILES_PER_RING)).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_holds_what_the_limit_allows_and_no_more_than_the_kernel_does() {
        let ring = |soft| sockets_per_ring(DescriptorLimits { soft, hard: soft });
        assert_eq!(ring(20_000), 20_000);
        assert_eq!(ring(u64::MAX), 1 << 20);
        assert_eq!(ring(0), 1);
    }

    #[test]
    fn raising_reaches_the_hard_limit() {
        let raised = DescriptorLimits::raise().expect("a process may do that");
        assert_eq!(raised.soft, raised.hard);
    }
}
