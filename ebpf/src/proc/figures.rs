//! What `/proc` says, as types. Must not know: paths, and how files are read.

use std::collections::BTreeMap;

use serde::Serialize;

/// Counters of protocols by the kernel's own names: `["TcpExt"]["ListenOverflows"]`. In a
/// difference `None` is what cannot be computed; gauges such as `CurrEstab` keep their value.
pub type Protocols = BTreeMap<String, BTreeMap<String, Option<i64>>>;

/// The queue of a CPU in front of the network stack, counted since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SoftnetCpu {
    /// The CPU.
    pub cpu: u32,
    /// Packets taken from it.
    pub processed: u64,
    /// Packets dropped because it was full (`net.core.netdev_max_backlog`).
    pub dropped: u64,
    /// Times the work of a round was cut off with packets left (`net.core.netdev_budget`).
    pub time_squeeze: u64,
    /// Times another CPU asked this one to take packets; since Linux 2.6.36.
    pub received_rps: Option<u64>,
    /// Packets dropped because their flow filled the queue; since Linux 3.11.
    pub flow_limit: Option<u64>,
    /// Packets in it at the moment; since Linux 5.10.
    pub backlog: Option<u32>,
}

/// What a CPU did since boot, counted in ticks (10 ms each with most kernels).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CpuTimes {
    /// The CPU.
    pub cpu: u32,
    /// In programs.
    pub user_us: u64,
    /// In the kernel.
    pub system_us: u64,
    /// With nothing to do, or waiting for a disk.
    pub idle_us: u64,
    /// In interrupts, where the kernel accounts for them.
    pub interrupt_us: u64,
    /// In soft interrupts.
    pub softirq_us: u64,
    /// Given to others by the hypervisor.
    pub steal_us: Option<u64>,
}

/// How long tasks had to wait for something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct PressureLine {
    /// Share of the last 10 s, in percent.
    pub avg10_percent: f64,
    /// Of the last 60 s.
    pub avg60_percent: f64,
    /// Of the last 300 s.
    pub avg300_percent: f64,
    /// Time since boot.
    pub total_us: u64,
}

/// Waiting for a kind of resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Pressure {
    /// At least one task waited.
    pub some: PressureLine,
    /// All that were not asleep waited; for the CPU since Linux 5.13.
    pub full: Option<PressureLine>,
}

/// The machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MachineReading {
    /// When, CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// The queues in front of the network stack, of CPUs that are online.
    pub softnet: Option<Vec<SoftnetCpu>>,
    /// What the CPUs did.
    pub cpus: Option<Vec<CpuTimes>>,
    /// Memory of the kernel's own objects.
    pub slab_bytes: Option<u64>,
    /// Memory that can be had without swapping.
    pub available_bytes: Option<u64>,
    /// Waiting for a CPU.
    pub pressure_cpu: Option<Pressure>,
    /// Waiting for memory.
    pub pressure_memory: Option<Pressure>,
    /// Waiting for disks.
    pub pressure_io: Option<Pressure>,
    /// Why something above is absent.
    pub missing: BTreeMap<&'static str, String>,
}

/// The protocols of a network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NetworkReading {
    /// When, CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// IP, TCP, UDP and ICMP (`/proc/net/snmp`), TcpExt, IpExt and MPTcpExt (`/proc/net/netstat`).
    pub protocols: Option<Protocols>,
    /// Why something above is absent.
    pub missing: BTreeMap<&'static str, String>,
}

impl NetworkReading {
    /// A counter by its protocol and name: `("TcpExt", "TCPTimeouts")`.
    pub fn counter(&self, protocol: &str, name: &str) -> Option<i64> {
        self.protocols.as_ref()?.get(protocol)?.get(name).copied().flatten()
    }
}

/// What a thread did since it began, by the scheduler's own account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ThreadTimes {
    /// Its name.
    pub name: String,
    /// Time on a CPU, without interrupts and stolen time where the kernel accounts for those; of a
    /// thread that is running, up to the last tick (10 ms at most).
    pub ran_ns: u64,
    /// Time it could have run and did not.
    pub wait_ns: u64,
    /// Times it got a CPU.
    pub turns: u64,
}

/// The threads of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ThreadsReading {
    /// When, CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// The process.
    pub pid: u32,
    /// Anonymous memory that is resident.
    pub rss_anon_bytes: Option<u64>,
    /// CPU time of all its threads, those that have ended included; the zombie's until it is
    /// waited for. Of a difference, what was spent meanwhile.
    pub cpu_ns: Option<u64>,
    /// Its threads.
    pub threads: Option<BTreeMap<u32, ThreadTimes>>,
    /// In a difference: threads that have ended since, and taken their account along.
    pub ended: Option<u64>,
    /// Why something above is absent.
    pub missing: BTreeMap<&'static str, String>,
}

/// An interrupt of a network card.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Interrupt {
    /// Its number.
    pub number: String,
    /// What the driver calls it, such as `eth0-TxRx-3`.
    pub name: String,
    /// How often each CPU has taken it since boot.
    pub by_cpu: BTreeMap<u32, u64>,
}
