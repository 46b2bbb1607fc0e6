//! What the files of `/proc` say, as pure functions of their text.

use crate::proc::figures::{
    CpuTimes, Interrupt, Pressure, PressureLine, Protocols, SoftnetCpu, ThreadTimes,
};

/// `/proc/net/softnet_stat`: a line for each online CPU, numbers of 32 bits in hexadecimal.
/// Columns have been added over time; those that a kernel does not print are `None`.
pub(super) fn softnet(text: &str) -> Option<Vec<SoftnetCpu>> {
    let lines = text.lines().enumerate().map(|(number, line)| {
        let column =
            |place: usize| u32::from_str_radix(line.split_whitespace().nth(place)?, 16).ok();
        Some(SoftnetCpu {
            // Since Linux 5.10; before, lines of CPUs that are offline were left out silently.
            cpu: column(12).unwrap_or(number as u32),
            processed: u64::from(column(0)?),
            dropped: u64::from(column(1)?),
            time_squeeze: u64::from(column(2)?),
            received_rps: column(9).map(u64::from),
            flow_limit: column(10).map(u64::from),
            backlog: column(11),
        })
    });
    lines.collect()
}

/// `/proc/net/snmp` and `/proc/net/netstat`: pairs of lines, the names and then the values.
pub(super) fn protocols(text: &str) -> Option<Protocols> {
    let lines: Vec<&str> = text.lines().collect();
    let (pairs, odd) = lines.as_chunks::<2>();
    if !odd.is_empty() {
        return None;
    }
    let mut protocols = Protocols::new();
    for [names, values] in pairs {
        let (protocol, names) = names.split_once(':')?;
        let (second, values) = values.split_once(':')?;
        if protocol != second {
            return None;
        }
        let counters = protocols.entry(protocol.to_owned()).or_default();
        for (name, value) in names.split_whitespace().zip(values.split_whitespace()) {
            // `Tcp: MaxConn` is -1.
            counters.insert(name.to_owned(), Some(value.parse().ok()?));
        }
    }
    Some(protocols)
}

/// `/proc/<pid>/task/<tid>/schedstat`: time on a CPU, time waiting for one, turns.
pub(super) fn schedstat(text: &str) -> Option<ThreadTimes> {
    let mut numbers = text.split_whitespace().map(|number| number.parse().ok());
    Some(ThreadTimes {
        name: String::new(),
        ran_ns: numbers.next()??,
        wait_ns: numbers.next()??,
        turns: numbers.next()??,
    })
}

/// The lines `cpuN` of `/proc/stat`, in ticks of `us_per_tick`.
pub(super) fn cpus(text: &str, us_per_tick: u64) -> Option<Vec<CpuTimes>> {
    let lines = text.lines().filter_map(|line| {
        let (cpu, times) = line.strip_prefix("cpu")?.split_once(' ')?;
        Some((cpu.parse::<u32>().ok()?, times))
    });
    let cpus: Option<Vec<CpuTimes>> = lines
        .map(|(cpu, times)| {
            let ticks: Vec<u64> =
                times.split_whitespace().map_while(|ticks| ticks.parse().ok()).collect();
            let us = |place: usize| ticks.get(place).map(|ticks| ticks * us_per_tick);
            Some(CpuTimes {
                cpu,
                user_us: us(0)? + us(1)?,
                system_us: us(2)?,
                idle_us: us(3)? + us(4)?,
                interrupt_us: us(5)?,
                softirq_us: us(6)?,
                // Since Linux 2.6.11.
                steal_us: us(7),
            })
        })
        .collect();
    cpus.filter(|cpus| !cpus.is_empty())
}

/// A line such as `MemAvailable:   20573636 kB` of `/proc/meminfo` or `/proc/<pid>/status`, in
/// bytes.
pub(super) fn bytes(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(value.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// A file of `/proc/pressure`.
pub(super) fn pressure(text: &str) -> Option<Pressure> {
    let line = |kind: &str| {
        let fields = text.lines().find_map(|line| line.strip_prefix(kind))?;
        let value = |name: &str| {
            let found = fields.split_whitespace().find_map(|field| field.strip_prefix(name));
            found.map(str::to_owned)
        };
        Some(PressureLine {
            avg10_percent: value("avg10=")?.parse().ok()?,
            avg60_percent: value("avg60=")?.parse().ok()?,
            avg300_percent: value("avg300=")?.parse().ok()?,
            total_us: value("total=")?.parse().ok()?,
        })
    };
    // `full` for the CPU came with Linux 5.13.
    Some(Pressure { some: line("some ")?, full: line("full ") })
}

/// The lines of `/proc/interrupts` whose description has one of the words, which are names of an
/// interface or of its place on the bus.
pub(super) fn interrupts(text: &str, words: &[&str]) -> Vec<Interrupt> {
    let mut lines = text.lines();
    let cpus: Vec<u32> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|title| title.strip_prefix("CPU")?.parse().ok())
        .collect();
    lines
        .filter_map(|line| {
            let (number, rest) = line.trim_start().split_once(':')?;
            number.parse::<u32>().ok()?;
            let counts: Vec<u64> =
                rest.split_whitespace().map_while(|count| count.parse().ok()).collect();
            let counts = counts.get(..cpus.len())?;
            let of_card = rest
                .split_whitespace()
                .skip(cpus.len())
                .any(|field| words.iter().any(|word| !word.is_empty() && has_word(field, word)));
            of_card.then(|| Interrupt {
                number: number.to_owned(),
                name: rest.split_whitespace().last().unwrap_or_default().to_owned(),
                by_cpu: cpus.iter().copied().zip(counts.iter().copied()).collect(),
            })
        })
        .collect()
}

/// Whether a word stands in a text with no letter or digit on either side: `eth1` is not in
/// `eth10-rx`.
fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let free = |c: Option<char>| c.is_none_or(|c| !c.is_ascii_alphanumeric());
        free(text[..at].chars().next_back()) && free(text[at + word.len()..].chars().next())
    })
}

/// What is a value in `/proc/net/snmp`, not a count.
const GAUGES: [&str; 7] =
    ["Forwarding", "DefaultTTL", "RtoAlgorithm", "RtoMin", "RtoMax", "MaxConn", "CurrEstab"];

/// How much each of the counters of protocols grew: `None` for what only one of the readings has,
/// or what went backwards because it is of another namespace. Gauges keep their value.
pub(super) fn growth(now: &Protocols, then: &Protocols) -> Protocols {
    let grown = |protocol: &str, name: &str, now: Option<i64>| {
        if GAUGES.contains(&name) {
            return now;
        }
        let then = match then.get(protocol)?.get(name) {
            Some(then) => *then,
            // Its counters appear when there is something to count.
            None if protocol == "IcmpMsg" => Some(0),
            None => None,
        };
        now?.checked_sub(then?).filter(|growth| *growth >= 0)
    };
    now.iter()
        .map(|(protocol, counters)| {
            let counters = counters
                .iter()
                .map(|(name, now)| (name.clone(), grown(protocol, name, *now)))
                .collect();
            (protocol.clone(), counters)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softnet_of_old_and_new_kernels() {
        // Linux 6.18, CPUs 0 and 2 online.
        let new = "0a6ce6db 0005ce19 00000060 00000000 00000000 00000000 00000000 00000000 \
                   00000000 0000000b 00000007 00000003 00000000 00000001 00000002\n\
                   0a2c8d59 0000938e 00000073 00000000 00000000 00000000 00000000 00000000 \
                   00000000 00000000 00000000 00000000 00000002 00000000 00000000\n";
        let cpus = softnet(new).expect("softnet");
        assert_eq!(
            cpus[0],
            SoftnetCpu {
                cpu: 0,
                processed: 0x0a6c_e6db,
                dropped: 0x5ce19,
                time_squeeze: 0x60,
                received_rps: Some(11),
                flow_limit: Some(7),
                backlog: Some(3),
            }
        );
        assert_eq!((cpus[1].cpu, cpus[1].dropped), (2, 0x938e));
        // Linux 2.6.32.
        let old = softnet("00358fe3 00006283 00000002 00000000 00000000 0 0 0 00000000\n");
        let old = old.expect("softnet");
        assert_eq!((old[0].cpu, old[0].dropped, old[0].time_squeeze), (0, 0x6283, 2));
        assert_eq!((old[0].received_rps, old[0].flow_limit, old[0].backlog), (None, None, None));
        assert_eq!(softnet("00358fe3 zzz 1"), None);
        assert_eq!(softnet("00358fe3 1"), None);
    }

    const SNMP: &str = "\
Ip: Forwarding DefaultTTL InReceives
Ip: 2 64 98824848
Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens CurrEstab RetransSegs
Tcp: 1 200 120000 -1 1663613 2 67060
TcpExt: ListenOverflows TCPTimeouts TCPLostRetransmit
TcpExt: 72381 4892 304
";

    #[test]
    fn protocols_by_name() {
        let all = protocols(SNMP).expect("protocols");
        assert_eq!(all["Tcp"]["MaxConn"], Some(-1));
        assert_eq!(all["Tcp"]["RetransSegs"], Some(67_060));
        assert_eq!(all["TcpExt"]["TCPLostRetransmit"], Some(304));
        let later = SNMP.replace("67060", "67065").replace(" 2 67", " 7 67").replace("304", "303");
        let grown = growth(&protocols(&later).expect("protocols"), &all);
        assert_eq!(grown["Tcp"]["RetransSegs"], Some(5));
        assert_eq!(grown["Tcp"]["CurrEstab"], Some(7), "a value, not a count");
        assert_eq!(grown["TcpExt"]["ListenOverflows"], Some(0));
        assert_eq!(grown["TcpExt"]["TCPLostRetransmit"], None, "it went backwards");
        let icmp = |text: &str| protocols(text).expect("protocols");
        let (none, one) = (icmp("IcmpMsg:\nIcmpMsg:\n"), icmp("IcmpMsg: InType3\nIcmpMsg: 1\n"));
        assert_eq!(growth(&one, &none)["IcmpMsg"]["InType3"], Some(1));
        for damaged in ["Ip: A B\n", "Ip: A\nTcp: 1\n", "Ip: A\nIp: x\n", "nothing\nnothing\n"] {
            assert_eq!(protocols(damaged), None, "{damaged}");
        }
    }

    #[test]
    fn times_of_threads_and_cpus() {
        let thread = schedstat("123456789 47739 12\n").expect("schedstat");
        assert_eq!((thread.ran_ns, thread.wait_ns, thread.turns), (123_456_789, 47_739, 12));
        assert_eq!(schedstat("1 2"), None);
        let stat = "cpu  251883 0 317420 2052048 158527 0 78670 626 0 0\n\
                    cpu0 127249 1 148142 1091866 25887 2 35885 337 0 0\n\
                    cpu3 1 0 2 3 4 5 6\nintr 1 2 3\n";
        let cpus = cpus(stat, 10_000).expect("stat");
        assert_eq!(cpus.len(), 2);
        assert_eq!(cpus[0].user_us, 1_272_500_000);
        assert_eq!((cpus[0].softirq_us, cpus[0].steal_us), (358_850_000, Some(3_370_000)));
        assert_eq!((cpus[0].idle_us, cpus[0].interrupt_us), (11_177_530_000, 20_000));
        assert_eq!((cpus[1].cpu, cpus[1].steal_us), (3, None));
        assert_eq!(super::cpus("intr 1\n", 10_000), None);
    }

    #[test]
    fn memory_in_bytes() {
        let text = "MemFree:  1 kB\nSlabs:  9 kB\nSlab:   205736 kB\n";
        assert_eq!(bytes(text, "Slab"), Some(205_736 * 1024));
        assert_eq!(bytes(text, "MemAvailable"), None);
    }

    #[test]
    fn pressure_with_and_without_full() {
        let text = "some avg10=92.10 avg60=79.82 avg300=52.29 total=1389219128\n\
                    full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        let both = pressure(text).expect("pressure");
        assert_eq!((both.some.avg10_percent, both.some.total_us), (92.10, 1_389_219_128));
        assert_eq!(both.full.map(|full| full.total_us), Some(7));
        let some = pressure(text.lines().next().expect("a line")).expect("pressure");
        assert_eq!(some.full, None);
        assert_eq!(pressure(""), None);
    }

    #[test]
    fn interrupts_of_one_card() {
        let text = "           CPU0       CPU2\n \
            38:          0      10988 PCI-MSIX-0000:00:03.0   1-edge      virtio2-input.0\n \
            39:       9229          0 PCI-MSIX-0000:00:03.0   2-edge      virtio2-output.0\n \
            40:          5          6 IR-PCI-MSI 1048576-edge      eth1-TxRx-0\n \
            41:          7          8 IR-PCI-MSI 1048577-edge      eth10-TxRx-0\n\
            NMI:          0          0   Non-maskable interrupts\nERR:          0\n";
        let virtio = interrupts(text, &["eth0", "virtio2"]);
        assert_eq!(virtio.len(), 2);
        assert_eq!((virtio[0].number.as_str(), virtio[0].name.as_str()), ("38", "virtio2-input.0"));
        assert_eq!(virtio[0].by_cpu.iter().collect::<Vec<_>>(), [(&0, &0), (&2, &10_988)]);
        let names = |words: &[&str]| -> Vec<String> {
            interrupts(text, words).into_iter().map(|it| it.name).collect()
        };
        assert_eq!(names(&["eth1", ""]), ["eth1-TxRx-0"]);
        assert_eq!(names(&["0000:00:03.0"]), ["virtio2-input.0", "virtio2-output.0"]);
        assert!(names(&["eth0"]).is_empty() && interrupts("", &["eth0"]).is_empty());
    }
}
