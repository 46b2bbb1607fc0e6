//! Loading and attaching, one probe at a time.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddrV4},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::OnceLock,
};

use attribution::{FlowLayout, ServerSide, port_span};
use aya::{
    Ebpf, EbpfLoader, Pod, include_bytes_aligned,
    maps::Map,
    programs::{BtfTracePoint, ProgramError},
};
use events::{
    ABSENT, Config, CpuEntry, FLOW_DENSE, FLOW_HASHED, Learn, PROGRAM_INTERRUPTS, StopLog, TaskRef,
    kept_entries,
};
use serde::Serialize;

use crate::{
    absence::{Absence, by_kernel, by_options},
    btf::{Btf, BtfError},
    catalog::{PROBES, Spec},
    flows::FlowTable,
    join::{AnswerTable, KEPT_ANSWERS},
    kernel,
    listening::ListenQueue,
    mapping::{SharedArray, cpu_count},
    namespaces::{self, NamespaceError},
    offsets::{self, Resolved},
    options::Options,
    proc,
    reasons::DropReasons,
    sampling::Regulator,
    symbols::Symbols,
    threads::{Program, ThreadTable},
    ticks::{self, TICK},
    timelines::Timelines,
};

/// The compiled probes.
pub(crate) static OBJECT: &[u8] = include_bytes_aligned!("../prebuilt/probes.o");

/// Why there are no probes at all.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The kernel does not describe its types.
    #[error("the probes need the kernel's own description of its types: {0}")]
    NoBtf(#[from] BtfError),
    /// The kernel's numbers or instants are not those of this process.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// Not allowed.
    #[error(
        "not allowed to load probes: run as root, or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"
    )]
    NotPermitted,
    /// The maps could not be made.
    #[error("cannot load the probes: {0}; they need Linux 5.8 or later")]
    Load(#[source] Box<aya::EbpfError>),
    /// No probe at all could be attached.
    #[error("no probe could be attached; the first one: {0}")]
    NoneAttached(String),
    /// There is no clock to sample by.
    #[error(
        "cannot sample by the clock of each CPU: {0}; it needs a kernel with CONFIG_PERF_EVENTS, \
         and in a container a seccomp profile that allows perf_event_open"
    )]
    NoClock(String),
    /// A kernel array could not be mapped.
    #[error("cannot map the probes' array {name}: {source}")]
    Unmapped {
        /// Which one.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// What became of a probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProbeState {
    /// Its name.
    pub name: &'static str,
    /// Where it attaches: `group:tracepoint`.
    pub tracepoint: String,
    /// Whether it is attached.
    pub attached: bool,
    /// Why not.
    pub reason: Option<Absence>,
    /// The first Linux that has what it needs.
    pub since_kernel: &'static str,
    /// How often it ran; only counted while `kernel.bpf_stats_enabled` is set.
    pub runs: Option<u64>,
    /// Time it took, likewise.
    pub run_time_ns: Option<u64>,
    /// How often it was left out because it was running on the same CPU already.
    pub missed: Option<u64>,
}

/// A type of the kernel side as aya wants it: plain data.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct KernelData<T: Copy>(pub(crate) T);

// SAFETY: the types of `events` are integers only, without padding.
unsafe impl<T: Copy + 'static> Pod for KernelData<T> {}

/// The attached probes. Dropping this detaches all of them.
pub struct Probes {
    pub(crate) ebpf: Ebpf,
    attached: Attached,
    pub(crate) reasons: DropReasons,
    pub(crate) symbols: Symbols,
    pub(crate) layout: FlowLayout,
    arrays: [OwnedFd; 6],
    pub(crate) flow_table: FlowTable,
    answers: Option<AnswerTable>,
    /// Ends before the arrays that it maps.
    regulator: Option<Regulator>,
    pub(crate) timelines: Timelines,
    pub(crate) stop_log: SharedArray<StopLog>,
    /// How often the histograms were read.
    pub(crate) readings: SharedArray<u64>,
    /// Whether stalls are seen, or why not.
    ticks: Result<(), Absence>,
    pub(crate) cpus: SharedArray<CpuEntry>,
    processes: SharedArray<TaskRef>,
    pub(crate) counts_server: bool,
    pub(crate) counts_softirqs: bool,
    pub(crate) retransmit_tells_error: bool,
    /// The server, once it is known.
    server_pid: OnceLock<u32>,
    pub(crate) listening: ListenQueue,
    follows: bool,
}

impl Probes {
    /// Loads the probes and attaches each that can be.
    ///
    /// # Errors
    /// When none can be: no BTF, no permission, a kernel before 5.8.
    pub fn attach(options: &Options) -> Result<Self, AttachError> {
        namespaces::check()?;
        let btf = Btf::of_kernel()?;
        let resolved = offsets::resolve(&btf);
        let reasons = DropReasons::of_kernel(&btf);
        let symbols = Symbols::read();
        let config = configure(options, &resolved, &reasons);
        let config = KernelData(of_kernel(config, &btf, &symbols));
        let aya_btf =
            aya::Btf::from_sys_fs().map_err(|_| BtfError::NotBtf(crate::btf::VMLINUX.into()))?;
        let mut ebpf = load(options, &config, &aya_btf)?;
        let attached = attach_each(&mut ebpf, options, &btf, &resolved, &aya_btf);
        if attached.values().all(Result::is_err) {
            return Err(none_attached(&attached));
        }
        let ticks = attach_ticks(&mut ebpf, options);
        let unmapped = |name| move |source| AttachError::Unmapped { name, source };
        let arrays = shared_arrays(&ebpf)?;
        let [flows, threads, timelines, cpus, logs, sampling] = &arrays;
        let processes = array(&ebpf, "PROCESSES")?;
        let answers = array(&ebpf, "ANSWERS")?;
        let stops = array(&ebpf, "STOP_LOG")?;
        let readings = array(&ebpf, "READINGS")?;
        let answers = options.keep_answers.then(|| AnswerTable::map(&answers)).transpose();
        let map_cpus = || SharedArray::map(cpus.as_fd(), cpu_count(), false);
        let regulator = options.sample_beyond.map(|beyond| {
            let entry = SharedArray::map(sampling.as_fd(), 1, true)?;
            Regulator::start(map_cpus()?, entry, beyond)
        });
        let probes = Self {
            regulator: regulator.transpose().map_err(unmapped("SAMPLING"))?,
            reasons,
            symbols,
            layout: options.flows,
            flow_table: FlowTable::map(flows, options.flows).map_err(unmapped("FLOWS"))?,
            answers: answers.map_err(unmapped("ANSWERS"))?,
            timelines: Timelines::map(threads, timelines, cpus, logs)
                .map_err(unmapped("TIMELINES"))?,
            stop_log: SharedArray::map(stops.as_fd(), 1, false).map_err(unmapped("STOP_LOG"))?,
            readings: SharedArray::map(readings.as_fd(), 1, true).map_err(unmapped("READINGS"))?,
            ticks,
            cpus: map_cpus().map_err(unmapped("CPUS"))?,
            processes: SharedArray::map(processes.as_fd(), pid_max(), true)
                .map_err(unmapped("PROCESSES"))?,
            arrays,
            attached,
            ebpf,
            counts_server: options.server_histograms,
            counts_softirqs: options.softirqs,
            retransmit_tells_error: config.0.retransmit_tells_error != 0,
            server_pid: OnceLock::new(),
            listening: ListenQueue::default(),
            follows: options.follow,
        };
        probes.watch_interrupts();
        if let Some(pid) = options.server_pid {
            probes.watch(pid, Program::Server);
        }
        for (number, pid) in options.client_pids.iter().enumerate() {
            probes.watch(*pid, Program::Client(u8::try_from(number).unwrap_or(u8::MAX)));
        }
        Ok(probes)
    }

    /// Watches the threads of a process: those it has and those it will have.
    pub fn watch(&self, pid: u32, program: Program) {
        let process = TaskRef { slot: 0, program: program.number(), padding: 0, tgid: pid };
        self.processes.write(pid as usize, process);
        if self.follows {
            for child in proc::descendants(pid) {
                self.processes.write(child as usize, TaskRef { tgid: child, ..process });
            }
        }
        if program == Program::Server {
            // Of several processes the first: they share a network namespace.
            let _ = self.server_pid.set(pid);
        }
    }

    /// Tells the kernel side which of the kernel's threads do the work of interrupts.
    fn watch_interrupts(&self) {
        for pid in proc::interrupt_threads() {
            let program = PROGRAM_INTERRUPTS;
            let process = TaskRef { slot: 0, program, padding: 0, tgid: pid };
            self.processes.write(pid as usize, process);
        }
    }

    /// The server's process, as far as it is known by now.
    pub(crate) fn server_pid(&self) -> Option<u32> {
        self.server_pid.get().copied().or_else(|| {
            let threads = self.threads().threads(0, None);
            threads.iter().find(|thread| thread.program == Program::Server).map(|thread| thread.pid)
        })
    }

    /// What became of each probe.
    pub fn report(&self) -> Vec<ProbeState> {
        PROBES.iter().map(|spec| self.state(spec)).chain([self.state_of_ticks()]).collect()
    }

    /// The clock on each CPU is no tracepoint.
    fn state_of_ticks(&self) -> ProbeState {
        let reason = self.ticks.as_ref().err().cloned();
        let runs = self.runs(TICK);
        ProbeState {
            name: TICK,
            tracepoint: "perf:cpu_clock".to_owned(),
            attached: reason.is_none(),
            reason,
            since_kernel: "4.9",
            runs: runs.map(|runs| runs.count),
            run_time_ns: runs.map(|runs| runs.time_ns),
            missed: runs.map(|runs| runs.missed),
        }
    }

    fn state(&self, spec: &Spec) -> ProbeState {
        let outcome = self.attached.get(spec.name);
        let runs = self.runs(spec.name);
        ProbeState {
            name: spec.name,
            tracepoint: spec.place(),
            attached: outcome.is_some_and(Result::is_ok),
            reason: outcome.and_then(|outcome| outcome.clone().err()),
            since_kernel: spec.since,
            runs: runs.map(|runs| runs.count),
            run_time_ns: runs.map(|runs| runs.time_ns),
            missed: runs.map(|runs| runs.missed),
        }
    }

    fn runs(&self, name: &str) -> Option<kernel::Runs> {
        let program = self.ebpf.program(name)?.fd().ok()?;
        kernel::runs(program.as_fd()).ok()
    }

    /// How often a probe was left out because it was running on the same CPU already.
    pub(crate) fn missed(&self, name: &str) -> Option<u64> {
        self.runs(name).map(|runs| runs.missed)
    }

    /// Whether a probe is attached.
    pub fn is_attached(&self, name: &str) -> bool {
        matches!(self.attached.get(name), Some(Ok(())))
    }

    /// The arrays that clients map: flows, threads, timelines, CPUs, what happened on these, and
    /// the sampling. Closed on exec like every other descriptor: duplicate them for a child.
    pub(crate) fn arrays(&self) -> [BorrowedFd<'_>; 6] {
        self.arrays.each_ref().map(AsFd::as_fd)
    }

    /// Of how many connections one is stamped at present: 1 for all.
    pub fn one_in(&self) -> u32 {
        self.regulator.as_ref().map_or(1, Regulator::one_in)
    }

    /// Where flows lie in the flow array.
    pub const fn layout(&self) -> FlowLayout {
        self.layout
    }

    /// The flow array, mapped into this process.
    pub const fn flows(&self) -> &FlowTable {
        &self.flow_table
    }

    /// The server's end of a client's request, by the client's end of the connection and the
    /// request's first byte: of requests in the sample that is kept, and of the latest of each
    /// connection. `None` when it was not seen, or a later request has taken its place.
    pub fn server_side(&self, client: SocketAddrV4, sequence: u32) -> Option<ServerSide> {
        let timelines = &self.timelines;
        let kept = self.answers.as_ref().and_then(|it| it.server_side(client, sequence, timelines));
        kept.or_else(|| self.flow_table.server_side(client, sequence, timelines))
    }

    /// The watched threads, mapped into this process.
    pub const fn threads(&self) -> &ThreadTable {
        self.timelines.threads()
    }

    /// What each thread did and when, mapped into this process.
    pub const fn timelines(&self) -> &Timelines {
        &self.timelines
    }
}

/// The settings as the probes read them.
fn configure(options: &Options, resolved: &Resolved, reasons: &DropReasons) -> Config {
    let mut config = Config {
        port: options.port,
        flow_capacity: options.flows.entries(),
        server_histograms: u32::from(options.server_histograms),
        stamp_reads: u32::from(options.stamp_reads),
        server_end: u32::from(options.server_end),
        softirqs: u32::from(options.softirqs),
        owned: u32::from(options.owned),
        follow: u32::from(options.follow),
        kept_answers: if options.keep_answers { KEPT_ANSWERS } else { 0 },
        harmless_reasons: reasons.harmless(),
        offsets: resolved.offsets,
        ..Config::EMPTY
    };
    match options.flows {
        FlowLayout::Dense { client_first, client_count, port_first, port_last } => {
            config.flow_mode = FLOW_DENSE;
            config.client_first = u32::from(client_first);
            config.client_count = client_count;
            config.port_first = u32::from(port_first);
            config.port_span = port_span(port_first, port_last);
        }
        FlowLayout::Hashed { .. } => config.flow_mode = FLOW_HASHED,
    }
    if let Some(netns) = options.netns.filter(|_| resolved.offsets.skc_net != ABSENT) {
        config.netns = netns;
    }
    set_address(&mut config, options.address);
    if options.learn_server {
        config.learn |= Learn::SERVER;
    }
    if options.learn_clients {
        config.learn |= Learn::CLIENT;
    }
    config
}

/// What the running kernel's code and tracepoints tell.
fn of_kernel(config: Config, btf: &Btf, symbols: &Symbols) -> Config {
    let (takes, turns_away) = DropReasons::places(symbols);
    let retransmit_tells_error = btf.tracepoint_arguments("tcp_retransmit_skb") >= Some(3);
    let exit_tells_process = btf.tracepoint_arguments("sched_process_exit") >= Some(2);
    Config {
        retransmit_tells_error: u32::from(retransmit_tells_error),
        exit_tells_process: u32::from(exit_tells_process),
        takes,
        turns_away,
        ..config
    }
}

/// The server's address that is watched.
fn set_address(config: &mut Config, address: Option<IpAddr>) {
    match address {
        Some(IpAddr::V4(address)) => {
            config.address_family = 4;
            config.address[3] = u32::from(address).to_be();
        }
        Some(IpAddr::V6(address)) => {
            config.address_family = 6;
            let word = |at: usize| {
                let octets = address.octets();
                u32::from_ne_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]])
            };
            config.address = [word(0), word(4), word(8), word(12)];
        }
        None => {}
    }
}

/// Makes the maps, at the sizes that this machine and the options ask for.
fn load(
    options: &Options,
    config: &KernelData<Config>,
    btf: &aya::Btf,
) -> Result<Ebpf, AttachError> {
    let pids = u32::try_from(pid_max()).unwrap_or(u32::MAX);
    EbpfLoader::new()
        .btf(Some(btf))
        .override_global("CONFIG", config, true)
        .map_max_entries("FLOWS", options.flows.entries())
        .map_max_entries("TASKS", pids)
        .map_max_entries("PROCESSES", pids)
        .map_max_entries(
            "ANSWERS",
            if options.keep_answers { kept_entries(KEPT_ANSWERS) } else { 1 },
        )
        .map_max_entries("CPUS", u32::try_from(cpu_count()).unwrap_or(1))
        .map_max_entries("CPU_LOGS", u32::try_from(cpu_count()).unwrap_or(1))
        .load(OBJECT)
        .map_err(|error| {
            if not_permitted(&error) {
                AttachError::NotPermitted
            } else {
                AttachError::Load(Box::new(error))
            }
        })
}

/// The system's error at the root of another one.
fn io_cause<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a io::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io);
        }
        cause = error.source();
    }
    None
}

/// Whether the system forbids it.
pub(crate) fn not_permitted(error: &(dyn std::error::Error + 'static)) -> bool {
    io_cause(error).is_some_and(|io| io.kind() == io::ErrorKind::PermissionDenied)
}

/// What became of each probe.
type Attached = HashMap<&'static str, Result<(), Absence>>;

/// Attaches what can be attached; for the rest, why not.
fn attach_each(
    ebpf: &mut Ebpf,
    options: &Options,
    btf: &Btf,
    resolved: &Resolved,
    aya_btf: &aya::Btf,
) -> Attached {
    let mut attached = Attached::new();
    for spec in PROBES {
        let is_attached = |other: &&str| matches!(attached.get(other), Some(Ok(())));
        let outcome =
            by_options(spec, options).and_then(|()| match spec.instead_of.filter(is_attached) {
                Some(better) => Err(Absence::NotNeeded { better }),
                None => attach_one(ebpf, spec, btf, resolved, aya_btf),
            });
        attached.insert(spec.name, outcome);
    }
    attached
}

fn attach_one(
    ebpf: &mut Ebpf,
    spec: &Spec,
    btf: &Btf,
    resolved: &Resolved,
    aya_btf: &aya::Btf,
) -> Result<(), Absence> {
    by_kernel(spec, btf, resolved)?;
    let program: &mut BtfTracePoint = ebpf
        .program_mut(spec.name)
        .ok_or(Absence::NoProgram)?
        .try_into()
        .map_err(|error: ProgramError| Absence::WrongProgram(error.to_string()))?;
    let attached = program.load(spec.tracepoint, aya_btf).and_then(|()| program.attach());
    attached.map(drop).map_err(|error| Absence::Refused {
        tracepoint: spec.place(),
        // The verifier's refusal is EACCES, which is no matter of permission.
        not_permitted: io_cause(&error).is_some_and(|io| io.raw_os_error() == Some(libc::EPERM)),
        error: brief(&chain(&error)),
    })
}

/// Attaches the clock on each CPU.
fn attach_ticks(ebpf: &mut Ebpf, options: &Options) -> Result<(), Absence> {
    if options.absent.iter().any(|name| name == TICK) {
        return Err(Absence::OnRequest);
    }
    ticks::attach(ebpf).map_err(|error| Absence::NoClock(brief(&chain(&error))))
}

/// The verifier explains itself at length; its complaint is the last line but its statistics.
fn brief(text: &str) -> String {
    let Some((summary, log)) = text.split_once(" Verifier output:") else { return text.to_owned() };
    let statistics = ["verification time", "stack depth", "processed "];
    let complaint = log.lines().rev().find(|line| {
        !line.trim().is_empty() && !statistics.iter().any(|start| line.starts_with(start))
    });
    format!("{summary} The verifier: {}", complaint.unwrap_or_default())
}

/// An error and its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

fn none_attached(attached: &Attached) -> AttachError {
    let first = PROBES.iter().find_map(|spec| attached.get(spec.name)?.clone().err());
    match first {
        Some(Absence::Refused { not_permitted: true, .. }) => AttachError::NotPermitted,
        first => AttachError::NoneAttached(first.map(|it| it.to_string()).unwrap_or_default()),
    }
}

/// The arrays that clients map.
fn shared_arrays(ebpf: &Ebpf) -> Result<[OwnedFd; 6], AttachError> {
    Ok([
        array(ebpf, "FLOWS")?,
        array(ebpf, "THREADS")?,
        array(ebpf, "TIMELINES")?,
        array(ebpf, "CPUS")?,
        array(ebpf, "CPU_LOGS")?,
        array(ebpf, "SAMPLING")?,
    ])
}

/// A descriptor of an array. A duplicate: aya's own is needed by programs loaded later.
pub(crate) fn array(ebpf: &Ebpf, name: &'static str) -> Result<OwnedFd, AttachError> {
    let fd = match ebpf.map(name) {
        Some(Map::Array(data)) => data.fd().as_fd().try_clone_to_owned(),
        _ => Err(io::Error::other("the object has no such array: run ebpf/probes/build")),
    };
    fd.map_err(|source| AttachError::Unmapped { name, source })
}

/// One more than the highest thread number.
pub(crate) fn pid_max() -> usize {
    let text = std::fs::read_to_string("/proc/sys/kernel/pid_max").unwrap_or_default();
    // What a 64-bit kernel can be set to.
    text.trim().parse().unwrap_or(4_194_304)
}
