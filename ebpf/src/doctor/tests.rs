//! This machine, and machines that lack one thing after the other.

use std::collections::BTreeSet;

use super::{live::Clock, *};
use crate::{btf::VMLINUX, catalog::PROBES, perf::CounterError};

/// A machine in a folder of its own, gone when dropped.
struct Machine {
    folder: PathBuf,
    live: LiveChecks,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

const CAPABLE: &str = "000001ffffffffff";

impl Machine {
    /// One that has everything.
    fn whole(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("lab-doctor-{name}-{}", std::process::id()));
        let card = Card {
            name: "eth0".to_owned(),
            driver: "bnx2".to_owned(),
            counters: Ok(44),
            known: true,
        };
        let live = LiveChecks {
            io_uring: Ok(()),
            perf_software: Ok(()),
            perf_hardware: Ok(()),
            clock: Ok(Clock { synchronised: true, estimated_error_us: 12 }),
            cards: vec![card],
        };
        let machine = Self { folder, live };
        machine.status(CAPABLE);
        for (file, text) in [
            ("proc/sys/kernel/osrelease", "6.18.44-test\n"),
            ("proc/sys/kernel/io_uring_disabled", "0\n"),
            ("proc/sys/kernel/perf_event_paranoid", "2\n"),
            ("proc/sys/kernel/kptr_restrict", "1\n"),
            ("proc/sys/fs/nr_open", "1048576\n"),
            ("proc/sys/fs/file-max", "9223372036854775807\n"),
            ("proc/sys/fs/file-nr", "526\t0\t2466170\n"),
            (
                "proc/self/limits",
                "Limit   Soft Limit  Hard Limit  Units\nMax open files  1024  20000  files\n",
            ),
            ("proc/meminfo", "MemTotal:  24573636 kB\nMemAvailable:  20573636 kB\n"),
            ("proc/pressure/cpu", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"),
            (
                "proc/kallsyms",
                "ffffffff81000000 T _stext\nffffffff81000010 t tbf_enqueue\nffffffff81000020 t \
                 netem_enqueue\t[sch_netem]\n",
            ),
            ("sys/devices/system/cpu/smt/active", "0\n"),
            ("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n"),
        ] {
            machine.put(file, text.as_bytes());
        }
        for spec in PROBES {
            let folder = format!("sys/kernel/tracing/events/{}/{}/id", spec.group, spec.tracepoint);
            machine.put(&folder, b"1\n");
        }
        machine
    }

    /// With the types of the running kernel, where it has them.
    fn typed(self) -> Option<Self> {
        let types = fs::read(VMLINUX);
        if !needs::can("btf", types.is_ok()) {
            return None;
        }
        self.put("sys/kernel/btf/vmlinux", &types.ok()?);
        Some(self)
    }

    fn put(&self, file: &str, bytes: &[u8]) {
        let path = self.folder.join(file);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, bytes).expect("a file");
    }

    fn status(&self, effective: &str) {
        let text = format!("Name:\tlab\nCapEff:\t{effective}\nCpus_allowed_list:\t0-3,8\n");
        self.put("proc/thread-self/status", text.as_bytes());
    }

    fn without(self, path: &str) -> Self {
        let path = self.folder.join(path);
        if path.is_dir() {
            fs::remove_dir_all(&path).expect("removed");
        } else {
            fs::remove_file(&path).expect("removed");
        }
        self
    }

    fn examine(&self) -> Vec<Finding> {
        let doctor =
            Doctor::at(self.folder.join("proc"), self.folder.join("sys"), self.live.clone());
        doctor.examine()
    }
}

/// The names of findings that are not well.
fn unwell(findings: &[Finding]) -> Vec<(&str, State)> {
    let unwell = findings.iter().filter(|finding| finding.state != State::Ok);
    unwell.map(|finding| (finding.name.as_str(), finding.state)).collect()
}

fn named<'a>(findings: &'a [Finding], name: &str) -> &'a Finding {
    findings.iter().find(|finding| finding.name == name).unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn this_machine_is_examined() {
    let findings = examine();
    print!("{}", table(&findings));
    let names: BTreeSet<_> = findings.iter().map(|finding| &finding.name).collect();
    assert_eq!(names.len(), findings.len(), "names are unique");
    for finding in &findings {
        let unwell = finding.state != State::Ok;
        assert_eq!(unwell, finding.way_out.is_some(), "{finding:?}");
        assert!(!unwell || finding.consequence.is_some(), "{finding:?}");
    }
    assert_eq!(table(&findings).lines().count(), findings.len());
    let json = serde_json::to_value(&findings).expect("JSON");
    for key in ["name", "state", "found", "consequence", "way_out"] {
        assert!(json[0].get(key).is_some(), "{key} in {json}");
    }
    // This program runs: so do rings, or it says why.
    assert!(named(&findings, "kernel").found.starts_with("Linux "));
}

#[test]
fn a_whole_machine_is_well() {
    let Some(machine) = Machine::whole("whole").typed() else { return };
    let findings = machine.examine();
    let own = [("probe", State::Missing), ("probe", State::Less)];
    // The kernel that this runs on may lack a probe's tracepoint.
    let unwell: Vec<_> = unwell(&findings)
        .into_iter()
        .filter(|(name, state)| {
            !own.contains(&(name.split(' ').next().unwrap_or_default(), *state))
        })
        .collect();
    assert_eq!(unwell, [], "{}", table(&findings));
    let found = |name| named(&findings, name).found.as_str();
    assert_eq!(found("descriptor limit"), "1,024 soft, 20,000 hard");
    assert_eq!(found("CPUs"), "5 to run on, a core each");
    assert_eq!(found("perf_event_paranoid"), "2, from which CAP_PERFMON is exempt");
    assert_eq!(found("network card eth0"), "bnx2, 44 counters of its own");
    assert_eq!(found("netem"), "in the kernel");
    let rings = named(&findings, "descriptor limit").consequence.as_deref();
    assert!(rings.is_some_and(|rings| rings.contains("50 rings")), "{rings:?}");
}

#[test]
fn without_root() {
    let machine = Machine::whole("noroot");
    machine.status("0000000000000000");
    machine.put("proc/kallsyms", b"0000000000000000 T _stext\n0000000000000000 t tbf_enqueue\n");
    machine.put("proc/sys/fs/file-max", b"1000000\n");
    let findings = machine.examine();
    for name in ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "CAP_SYS_ADMIN"] {
        let finding = named(&findings, name);
        assert_eq!(finding.state, State::Missing);
        assert!(finding.way_out.as_deref().is_some_and(|it| it.contains("root")), "{finding:?}");
    }
    for name in ["perf_event_paranoid", "kptr_restrict", "fs.file-max", "netem"] {
        assert_eq!(named(&findings, name).state, State::Less, "{name}");
    }
    let paranoid = named(&findings, "perf_event_paranoid").way_out.as_deref();
    assert_eq!(paranoid, Some("as root: sysctl -w kernel.perf_event_paranoid=1"));
    // Probes alone: two capabilities suffice.
    machine.status("000000c000000000");
    let findings = machine.examine();
    assert_eq!(named(&findings, "CAP_BPF").state, State::Ok);
    assert_eq!(named(&findings, "CAP_PERFMON").state, State::Ok);
    assert_eq!(named(&findings, "CAP_NET_ADMIN").state, State::Missing);
    // The old way covers the new.
    machine.status("0000000000200000");
    assert!(named(&machine.examine(), "CAP_BPF").found.contains("CAP_SYS_ADMIN covers it"));
}

#[test]
fn without_types_no_probe_can_be_promised() {
    let machine = Machine::whole("nobtf");
    let findings = machine.examine();
    let types = named(&findings, "BTF");
    assert_eq!(types.state, State::Missing);
    assert!(types.found.contains("CONFIG_DEBUG_INFO_BTF"), "{types:?}");
    for spec in PROBES {
        let finding = named(&findings, &format!("probe {}", spec.name));
        assert_eq!(finding.state, State::Missing, "{finding:?}");
        assert_eq!(finding.way_out.as_deref(), Some("see BTF"));
    }
    machine.put("sys/kernel/btf/vmlinux", b"ELF");
    assert!(named(&machine.examine(), "BTF").found.contains("is not BTF"));
}

#[test]
fn every_probe_has_its_consequence() {
    for spec in PROBES {
        assert_ne!(bpf::without(spec.name), bpf::UNKNOWN, "{}", spec.name);
    }
}

#[test]
fn without_tracefs_the_probes_are_well() {
    let machine = Machine::whole("notracefs").without("sys/kernel/tracing/events");
    let finding = named(&machine.examine(), "tracefs").clone();
    assert_eq!(finding.state, State::Less);
    assert!(finding.way_out.expect("a way out").contains("mount -t tracefs"));
    // Older systems mount it below debugfs.
    machine.put("sys/kernel/debug/tracing/events/sched/sched_switch/id", b"1\n");
    let finding = named(&machine.examine(), "tracefs").clone();
    assert_eq!(finding.state, State::Ok);
    assert!(finding.found.contains("without") && finding.found.contains("sched:sched_wakeup"));
}

#[test]
fn without_a_tracepoint_its_probe_is_named_with_the_kernel_that_has_it() {
    let Some(machine) = Machine::whole("notracepoint").typed() else { return };
    let path = machine.folder.join("sys/kernel/btf/vmlinux");
    let mut types = fs::read(&path).expect("types");
    for hidden in [&b"\0btf_trace_kfree_skb\0"[..], b"\0btf_trace_tcp_sendmsg_locked\0"] {
        let places: Vec<_> =
            types.windows(hidden.len()).enumerate().filter(|(_, it)| *it == hidden).collect();
        let at: Vec<usize> = places.into_iter().map(|(at, _)| at).collect();
        for at in at {
            types[at + 1] = b'x';
        }
    }
    fs::write(&path, types).expect("types");
    let findings = machine.examine();
    let dropped = named(&findings, "probe packet_dropped");
    assert_eq!(dropped.state, State::Missing);
    assert_eq!(dropped.found, "skb:kfree_skb: the kernel has no such tracepoint");
    assert!(dropped.way_out.as_deref().is_some_and(|it| it.contains("Linux 5.17")), "{dropped:?}");
    assert!(dropped.consequence.as_deref().is_some_and(|it| it.contains("drops")), "{dropped:?}");
    // Where another probe stands in, a run goes on with less.
    assert_eq!(named(&findings, "probe send_begins").state, State::Less);
    assert_eq!(named(&findings, "probe send_queued").state, State::Ok);
}

/// Changes a whole machine, and compares the finding about one thing with a state and a part.
fn check(change: &dyn Fn(&mut Machine), name: &str, state: State, part: &str) {
    let mut machine = Machine::whole(&format!("each-{}", name.replace(' ', "-")));
    change(&mut machine);
    let findings = machine.examine();
    let finding = named(&findings, name);
    assert_eq!(finding.state, state, "{finding:?}");
    let message = table(std::slice::from_ref(finding));
    assert!(message.contains(part), "{part:?} in {message}");
}

#[test]
fn each_thing_that_a_file_tells_is_said() {
    let put = |file: &'static str, text: &'static str| {
        move |machine: &mut Machine| machine.put(file, text.as_bytes())
    };
    let release = "proc/sys/kernel/osrelease";
    check(&put(release, "5.15.0-91-generic"), "kernel", State::Missing, "came with 6.0");
    check(&put(release, "4.18.0"), "kernel", State::Missing, "with 5.8");
    check(&put(release, "nonsense"), "kernel", State::Missing, "not known");
    let limits = "proc/self/limits";
    let few = "Max open files 1024 1024 files";
    check(&put(limits, few), "descriptor limit", State::Less, "977 rings");
    let none = "Max open files unlimited unlimited files";
    check(&put(limits, none), "descriptor limit", State::Ok, "so one ring a side holds");
    check(&put(limits, ""), "descriptor limit", State::Less, "not known");
    let memory = "MemTotal: 2000000 kB\nMemAvailable: 1000000 kB";
    check(&put("proc/meminfo", memory), "memory", State::Less, "100,721 users");
    let group = |machine: &Machine| {
        let point = machine.folder.join("cgroup");
        let mounts = format!("30 1 0:26 / {} rw - cgroup2 none rw\n", point.display());
        machine.put("proc/self/mountinfo", mounts.as_bytes());
        machine.put("proc/self/cgroup", b"0::/pod/box\n");
    };
    let limited = |machine: &mut Machine| {
        group(machine);
        machine.put("cgroup/pod/memory.max", b"629145600\n");
        machine.put("cgroup/pod/memory.current", b"0\n");
    };
    check(&limited, "memory", State::Less, "cgroup /pod leaves 0.6 GiB of its 0.6 GiB");
    check(&limited, "memory", State::Less, "61,883 users");
    let quota = |machine: &mut Machine| {
        group(machine);
        machine.put("cgroup/pod/cpu.max", b"8000 100000\n");
    };
    check(&quota, "CPUs", State::Less, "0.08 by the quota of cgroup /pod; ");
    let pids = |machine: &mut Machine| {
        group(machine);
        machine.put("cgroup/pod/pids.max", b"20\n");
        machine.put("cgroup/pod/pids.current", b"7\n");
    };
    check(&pids, "threads", State::Less, "cgroup /pod leaves 13 of its 20");
    let smt = "sys/devices/system/cpu/smt/active";
    check(&put(smt, "1"), "CPUs", State::Less, "two threads a core");
    let one = "CapEff:\t0\nCpus_allowed_list:\t2\n";
    check(&put("proc/thread-self/status", one), "CPUs", State::Less, "share one CPU");
    let clock = "sys/devices/system/clocksource/clocksource0/current_clocksource";
    check(&put(clock, "hpet"), "clock source", State::Less, "a microsecond or more");
    let hidden = "0000000000000000 T _stext\n";
    check(&put("proc/kallsyms", hidden), "kptr_restrict", State::Less, "paranoid=1");
    check(&put("proc/kallsyms", hidden), "netem", State::Less, "CONFIG_NET_SCH_NETEM");
    let no_pressure = |machine: &mut Machine| {
        let _ = fs::remove_dir_all(machine.folder.join("proc/pressure"));
    };
    check(&no_pressure, "pressure", State::Less, "psi=1");
    let module = |machine: &mut Machine| {
        machine.put("proc/kallsyms", b"ffffffff81000000 T _stext\n");
        let file = "lib/modules/6.18.44-test/modules.dep";
        machine.put(file, b"kernel/net/sched/sch_netem.ko.xz:\n");
    };
    check(&module, "netem", State::Ok, "as a module");
}

#[test]
fn each_thing_that_was_tried_is_said() {
    let refused = |machine: &mut Machine| machine.live.io_uring = Err(RingError::NotPermitted);
    check(&refused, "io_uring", State::Missing, "seccomp");
    let disabled = |machine: &mut Machine| {
        refused(machine);
        machine.put("proc/sys/kernel/io_uring_disabled", b"2\n");
    };
    check(&disabled, "io_uring", State::Missing, "kernel.io_uring_disabled=0");
    let no_pmu = |machine: &mut Machine| {
        machine.live.perf_hardware = Err(CounterError::NotSupported);
    };
    check(&no_pmu, "hardware counters", State::Less, "virtual PMU");
    let no_leave = |machine: &mut Machine| {
        machine.live.perf_hardware = Err(CounterError::NotPermitted);
    };
    check(&no_leave, "hardware counters", State::Less, "whether there are any is not known");
    let no_perf = |machine: &mut Machine| {
        machine.live.perf_software = Err(CounterError::Other("refused".to_owned()));
    };
    check(&no_perf, "perf_event_paranoid", State::Missing, "refused");
    let adrift = |machine: &mut Machine| {
        machine.live.clock = Ok(Clock { synchronised: false, estimated_error_us: 0 });
    };
    check(&adrift, "clock synchronised", State::Less, "chrony");
    let unknown = |machine: &mut Machine| machine.live.cards[0].known = false;
    check(&unknown, "network card eth0", State::Less, "rx_missed_errors");
    let none = |machine: &mut Machine| machine.live.cards.clear();
    check(&none, "network card", State::Ok, "loopback");
}

#[test]
fn a_machine_without_anything_is_examined_without_a_panic() {
    let live = LiveChecks {
        io_uring: Err(RingError::NotThere),
        perf_software: Err(CounterError::Other("none".to_owned())),
        perf_hardware: Err(CounterError::Other("none".to_owned())),
        clock: Err("none".to_owned()),
        cards: Vec::new(),
    };
    let findings = Doctor::at("/nowhere/proc", "/nowhere/sys", live).examine();
    assert_eq!(worst(&findings), State::Missing);
    let well: Vec<_> = findings.iter().filter(|it| it.state == State::Ok).collect();
    assert_eq!(well.len(), 1, "{well:?}");
    assert_eq!(worst(&[]), State::Ok);
}

#[test]
fn the_table_has_a_line_for_each_finding() {
    let findings = [
        Finding::ok("a", "there"),
        Finding::ok("bcd", "9").with_consequence("enough"),
        Finding::missing("ef", "gone", "nothing works", "buy one"),
    ];
    let lines = [
        "ok       a    there",
        "ok       bcd  9 | so: enough",
        "missing  ef   gone | so: nothing works | way out: buy one",
    ];
    assert_eq!(table(&findings).lines().collect::<Vec<_>>(), lines);
}
