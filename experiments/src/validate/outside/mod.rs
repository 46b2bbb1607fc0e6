//! Faults that are made from outside of a run, by the operating system's own means: the run knows
//! nothing of them. Owns: how each is made, and what was done, by the injector's own account or the
//! kernel's. Must not know: what must be blamed for it (`outside_cases`).

pub(super) mod bursts;
mod cgroups;
mod holding;
mod network;
mod signals;

use std::sync::atomic::AtomicBool;

use attribution::End;
use rustix::process::Pid;

use bursts::Made;

/// How a fault is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Means {
    /// SIGSTOP, and SIGCONT.
    Stop(End),
    /// A tracer that holds all threads.
    Trace(End),
    /// A quota of a thousandth of a CPU.
    Quota(End),
    /// The freezer.
    Freeze(End),
    /// A thread of a real-time priority on its CPU.
    RealTimeHog(End),
    /// Programs on its CPU that end as soon as they begin.
    Storm(End),
    /// Threads of an ordinary priority on both CPUs.
    HogsOnBothEnds,
    /// Softirqs of a flood of packets on its CPU.
    Flood(End),
    /// A shaper in front of the server that drops nothing.
    Shaper,
    /// A part of the packets that come in at the server is dropped.
    DropsIn,
    /// A part of the packets that the server sends is dropped.
    DropsOut,
}

/// Where the programs of a run are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Programs {
    pub(super) server: Pid,
    pub(super) client: Pid,
    pub(super) server_cpu: usize,
    pub(super) client_cpu: usize,
}

impl Programs {
    fn pid(&self, end: End) -> Pid {
        match end {
            End::Client => self.client,
            End::Server => self.server,
        }
    }

    fn cpu(&self, end: End) -> usize {
        match end {
            End::Client => self.client_cpu,
            End::Server => self.server_cpu,
        }
    }
}

impl Means {
    /// All of them, at both ends.
    pub(super) fn all() -> Vec<Self> {
        let each: [fn(End) -> Self; 7] = [
            Self::Stop,
            Self::Trace,
            Self::Quota,
            Self::Freeze,
            Self::RealTimeHog,
            Self::Storm,
            Self::Flood,
        ];
        let ends = [End::Server, End::Client];
        let mut all: Vec<Self> = each.iter().flat_map(|means| ends.map(means)).collect();
        all.extend([Self::HogsOnBothEnds, Self::Shaper, Self::DropsIn, Self::DropsOut]);
        all
    }

    /// Whether it is done to the way, and needs one.
    pub(super) const fn is_of_the_way(self) -> bool {
        matches!(self, Self::Shaper | Self::DropsIn | Self::DropsOut)
    }

    /// Its name.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Stop(End::Server) => "stop_server",
            Self::Stop(End::Client) => "stop_client",
            Self::Trace(End::Server) => "trace_server",
            Self::Trace(End::Client) => "trace_client",
            Self::Quota(End::Server) => "quota_server",
            Self::Quota(End::Client) => "quota_client",
            Self::Freeze(End::Server) => "freeze_server",
            Self::Freeze(End::Client) => "freeze_client",
            Self::RealTimeHog(End::Server) => "real_time_hog_server",
            Self::RealTimeHog(End::Client) => "real_time_hog_client",
            Self::Storm(End::Server) => "storm_server",
            Self::Storm(End::Client) => "storm_client",
            Self::HogsOnBothEnds => "hogs_on_both_ends",
            Self::Flood(End::Server) => "flood_server",
            Self::Flood(End::Client) => "flood_client",
            Self::Shaper => "shaper",
            Self::DropsIn => "drops_in",
            Self::DropsOut => "drops_out",
        }
    }

    /// Makes the fault, burst by burst, until it is over or `over` says so. Whatever it holds is
    /// let go in any case.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn make(self, programs: &Programs, over: &AtomicBool) -> Made {
        match self {
            Self::Stop(end) => signals::stop(programs.pid(end), over),
            Self::Trace(end) => signals::trace(programs.pid(end), over),
            Self::Quota(end) => cgroups::quota(programs.pid(end), over),
            Self::Freeze(end) => cgroups::freeze(programs.pid(end), over),
            Self::RealTimeHog(end) => holding::real_time(programs.cpu(end), over),
            Self::Storm(end) => holding::storm(programs.cpu(end), over),
            Self::HogsOnBothEnds => holding::both([programs.server_cpu, programs.client_cpu], over),
            Self::Flood(end) => {
                let from = programs.server_cpu + programs.client_cpu - programs.cpu(end);
                network::flood(programs.cpu(end), from, over)
            }
            Self::Shaper => network::shaper(programs.server, over),
            Self::DropsIn => network::drops("input", programs.server, over),
            Self::DropsOut => network::drops("output", programs.server, over),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_all_different() {
        let mut names: Vec<&str> = Means::all().into_iter().map(Means::name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 18);
    }
}
