//! Reading the kernel's counters.

use std::{collections::BTreeMap, io, net::IpAddr};

use aya::maps::{HashMap, Map, PerCpuArray, Queue};
use events::{
    AddressKey, CounterBlock, DEVICE_SLOTS, DeviceEntry, DropCount, DropKey, NET_SOFTIRQ_SAMPLE,
    NET_SOFTIRQS, PeerLosses, RETRANSMIT_KINDS, Retransmit, STOPS, ServerBlock, Side, SoftirqBlock,
};

use crate::{
    attach::{KernelData, Probes},
    catalog::PROBES,
    counters::{
        BySide, Counters, DropPlace, Lost, NapiCounters, PeerCounters, PortPackets,
        RetransmitKinds, SoftirqCounters, Stopped,
    },
    histogram::Durations,
    kernel::monotonic_ns,
    losses::address,
    reasons::DropReasons,
    threads::{CpuHeld, ThreadTable, name},
};

/// Softirq vectors by number, as `/proc/softirqs` names them.
const VECTORS: [&str; 10] =
    ["hi", "timer", "net_tx", "net_rx", "block", "irq_poll", "tasklet", "sched", "hrtimer", "rcu"];

impl Probes {
    /// Reads all counters, cumulative since the probes were attached.
    pub fn read(&self) -> Counters {
        let blocks = self.per_cpu::<CounterBlock>("COUNTERS", 0);
        let sum = |which: fn(&CounterBlock) -> u64| blocks.iter().map(which).sum::<u64>();
        let if_attached = |probe: &str, which| self.is_attached(probe).then(|| sum(which));
        let drops_by_place = self.drops_by_place();
        let mut counters = Counters {
            at_ns: monotonic_ns(),
            packets: self.packets(),
            retransmits: self.retransmits(&blocks),
            retransmits_failed: if_attached("retransmitted", |block| block.retransmits_failed)
                .filter(|_| self.retransmit_tells_error),
            losses_by_client: self.losses_by_client(),
            drops: if_attached("packet_dropped", |block| block.drops_losing),
            drops_harmless: if_attached("packet_dropped", |block| {
                block.drops.saturating_sub(block.drops_losing)
            }),
            drops_all: if_attached("packet_dropped", |block| block.drops_all),
            qdisc_drops: drops_by_place.as_ref().map(|places| {
                let of_qdisc = places.iter().filter(|place| DropReasons::is_qdisc(&place.reason));
                of_qdisc.map(|place| place.port).sum()
            }),
            drops_by_place,
            resets_sent: self.by_side("reset_sent", &blocks, |block| block.resets_sent),
            resets_received: self.by_side("reset_received", &blocks, |block| block.resets_received),
            listen_overflows: self.server_pid().and_then(|pid| self.listening.overflows(pid)),
            receive_queue_full: if_attached("receive_queue_full", |block| block.receive_queue_full),
            buffer_limit: if_attached("buffer_limit", |block| block.buffer_limit),
            lost: Lost {
                records: sum(|block| block.records_lost),
                threads: sum(|block| block.threads_unwatched),
                timelines: sum(|block| block.timelines_lacking),
                flows_collided: sum(|block| block.flows_collided),
                flows_outside: sum(|block| block.flows_outside),
                drop_places: sum(|block| block.drop_places_lost),
                peers: sum(|block| block.peers_lost),
                probe_runs: self.missed_runs(),
            },
            stops: self.is_attached("signalled").then(|| self.stops()),
            ..Counters::default()
        };
        self.add_softirqs(&mut counters);
        let reading = self.end_reading();
        self.add_scheduling(&mut counters, reading);
        self.add_server(&mut counters, reading);
        counters
    }

    /// What is counted from here on is of the next reading. Returns the number of the one before.
    fn end_reading(&self) -> Option<u64> {
        let reading = self.readings.read(0)?;
        self.readings.write(0, reading + 1);
        Some(reading)
    }

    /// Gives back the slots of threads that a reading saw ended, so that others may be watched:
    /// what they did is in that reading. Not where somebody still asks for the past of a thread by
    /// its slot, as clients of a run do.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn reuse_slots(&mut self, reading: &Counters) -> io::Result<()> {
        let array = self.arrays().get(1).copied().ok_or(io::ErrorKind::NotFound)?;
        let threads = ThreadTable::map_as(array, true)?;
        let freed = self.ebpf.map_mut("FREED").ok_or(io::ErrorKind::NotFound)?;
        let mut freed: Queue<_, u32> = Queue::try_from(freed).map_err(io::Error::other)?;
        for ended in reading.threads.iter().flatten().filter(|thread| thread.ended) {
            threads.empty(ended.slot);
            freed.push(u32::from(ended.slot), 0).map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// The latest signals that stopped a watched process, oldest first.
    fn stops(&self) -> Vec<Stopped> {
        let Some(log) = self.stop_log.read(0) else { return Vec::new() };
        let kept = log.written.saturating_sub(STOPS as u64)..log.written;
        let stop = |number: u64| {
            let stop = log.stops[number as usize % STOPS];
            Stopped {
                at_ns: stop.at_ns,
                pid: stop.tgid,
                signal: stop.signal,
                sender: name(&stop.sender_name),
                sender_pid: stop.sender_tgid,
            }
        };
        kept.map(stop).collect()
    }

    /// A value of a per-CPU array, one per CPU.
    fn per_cpu<T: Copy + 'static>(&self, map: &str, index: u32) -> Vec<T> {
        let array: Option<PerCpuArray<_, KernelData<T>>> =
            self.ebpf.map(map).and_then(|map| PerCpuArray::try_from(map).ok());
        let values = array.and_then(|array| array.get(&index, 0).ok());
        values
            .map_or_else(Vec::new, |values| values.iter().map(|KernelData(value)| *value).collect())
    }

    fn map(&self, name: &str) -> Option<&Map> {
        self.ebpf.map(name)
    }

    fn missed_runs(&self) -> u64 {
        PROBES.iter().filter_map(|spec| self.missed(spec.name)).sum()
    }

    fn packets(&self) -> Option<Vec<PortPackets>> {
        let (rx, tx) = (self.is_attached("packet_received"), self.is_attached("packet_sent"));
        if !rx && !tx {
            return None;
        }
        let mut rows: BTreeMap<(u32, u32, String), DeviceEntry> = BTreeMap::new();
        for slot in 0..DEVICE_SLOTS as u32 {
            for entry in self.per_cpu::<DeviceEntry>("DEVICES", slot) {
                if entry.rx_packets == 0 && entry.tx_packets == 0 {
                    continue;
                }
                let row = rows.entry((entry.netns, entry.ifindex, name(&entry.name))).or_default();
                row.rx_packets += entry.rx_packets;
                row.rx_bytes += entry.rx_bytes;
                row.tx_packets += entry.tx_packets;
                row.tx_bytes += entry.tx_bytes;
            }
        }
        let packets = rows.into_iter().map(|((netns, ifindex, name), row)| PortPackets {
            netns,
            ifindex,
            name,
            rx_packets: rx.then_some(row.rx_packets),
            rx_bytes: rx.then_some(row.rx_bytes),
            tx_packets: tx.then_some(row.tx_packets),
            tx_bytes: tx.then_some(row.tx_bytes),
        });
        Some(packets.collect())
    }

    /// Which kinds are counted: (those of data and SYNs, SYN-ACKs).
    fn retransmits_counted(&self) -> (bool, bool) {
        (self.is_attached("retransmitted"), self.is_attached("synack_retransmitted"))
    }

    fn retransmits(&self, blocks: &[CounterBlock]) -> Option<BySide<RetransmitKinds>> {
        let side = |side: Side| {
            let mut kinds = [0; RETRANSMIT_KINDS];
            for block in blocks {
                for (sum, more) in kinds.iter_mut().zip(block.retransmits[side as usize]) {
                    *sum += more;
                }
            }
            self.kinds(&kinds)
        };
        Some(BySide { server: side(Side::Server)?, client: side(Side::Client)? })
    }

    fn kinds(&self, counts: &[u64; RETRANSMIT_KINDS]) -> Option<RetransmitKinds> {
        let (data, syn_acks) = self.retransmits_counted();
        if !data && !syn_acks {
            return None;
        }
        let of = |kind: Retransmit| data.then_some(counts[kind as usize]);
        Some(RetransmitKinds {
            fast: of(Retransmit::Fast),
            timeout: of(Retransmit::Timeout),
            tail_loss: of(Retransmit::TailLoss),
            syn: of(Retransmit::Syn),
            syn_ack: syn_acks.then_some(counts[Retransmit::SynAck as usize]),
            other: of(Retransmit::Other),
        })
    }

    fn by_side(
        &self,
        probe: &str,
        blocks: &[CounterBlock],
        which: fn(&CounterBlock) -> [u64; 2],
    ) -> Option<BySide<u64>> {
        self.is_attached(probe).then(|| BySide {
            server: blocks.iter().map(|block| which(block)[Side::Server as usize]).sum(),
            client: blocks.iter().map(|block| which(block)[Side::Client as usize]).sum(),
        })
    }

    fn losses_by_client(&self) -> Option<BTreeMap<IpAddr, PeerCounters>> {
        let drops = self.is_attached("packet_dropped");
        if !drops && self.retransmits_counted() == (false, false) {
            return None;
        }
        let map: HashMap<_, AddressKey, KernelData<PeerLosses>> =
            HashMap::try_from(self.map("PEERS")?).ok()?;
        let peers = map.iter().filter_map(Result::ok).map(|(key, KernelData(losses))| {
            let counters = PeerCounters {
                retransmits: self.kinds(&losses.retransmits),
                drops: drops.then_some(losses.drops),
            };
            (address(key), counters)
        });
        Some(peers.collect())
    }

    fn drops_by_place(&self) -> Option<Vec<DropPlace>> {
        if !self.is_attached("packet_dropped") {
            return None;
        }
        let map: HashMap<_, KernelData<DropKey>, KernelData<DropCount>> =
            HashMap::try_from(self.map("DROPS")?).ok()?;
        let mut places: BTreeMap<(String, String), DropCount> = BTreeMap::new();
        for (KernelData(key), KernelData(count)) in map.iter().filter_map(Result::ok) {
            let named = (self.reasons.name(key.reason), self.symbols.name(key.location));
            // Two places of one function are one row.
            let row = places.entry(named).or_default();
            row.all += count.all;
            row.port += count.port;
            row.lost += count.lost;
        }
        let rows = places.into_iter().map(|((reason, place), count)| DropPlace {
            reason,
            place,
            all: count.all,
            port: count.port,
            lost: count.lost,
        });
        let mut rows: Vec<_> = rows.collect();
        rows.sort_by_key(|row| std::cmp::Reverse((row.port, row.all)));
        Some(rows)
    }

    fn add_softirqs(&self, counters: &mut Counters) {
        // What is not counted by vector shows whose time it took all the same.
        let timed = self.counts_softirqs
            && self.is_attached("softirq_begins")
            && self.is_attached("softirq_ends");
        let polled = self.is_attached("napi_polled");
        let blocks = self.per_cpu::<SoftirqBlock>("SOFTIRQ", 0);
        let numbered = || (0_u32..).zip(&blocks);
        if timed {
            let row = |(cpu, block): (u32, &SoftirqBlock)| {
                let vectors = || VECTORS.into_iter().enumerate();
                let ran = |(number, _): &(usize, &str)| block.runs[*number] > 0;
                SoftirqCounters {
                    cpu,
                    time_ns: vectors()
                        .filter(ran)
                        .map(|(number, name)| (name, softirq_ns(block, number)))
                        .collect(),
                    runs: vectors().filter(ran).map(|(n, name)| (name, block.runs[n])).collect(),
                }
            };
            counters.softirq = Some(numbered().map(row).collect());
        }
        if polled {
            let row = |(cpu, block): (u32, &SoftirqBlock)| NapiCounters {
                cpu,
                polls: block.polls,
                packets: block.polled_packets,
                exhausted: block.polls_exhausted,
            };
            counters.napi = Some(numbered().map(row).collect());
        }
    }

    /// Waits need both ends of a wait; the holders of a CPU need only the switches.
    fn add_scheduling(&self, counters: &mut Counters, reading: Option<u64>) {
        if !self.is_attached("switched") {
            return;
        }
        let now = monotonic_ns();
        let cpus = (0..self.cpus.len()).filter_map(|cpu| {
            Some(CpuHeld::of(u32::try_from(cpu).ok()?, &self.cpus.read(cpu)?, now))
        });
        counters.cpus = Some(cpus.collect());
        if self.is_attached("woken") && self.is_attached("migrated") {
            counters.threads = Some(self.threads().threads(now, reading));
        }
    }

    fn add_server(&self, counters: &mut Counters, reading: Option<u64>) {
        let sends = self.is_attached("send_begins") || self.is_attached("send_queued");
        let blocks = self.per_cpu::<ServerBlock>("SERVER", 0);
        let merged = |which: fn(&ServerBlock) -> &events::Histogram| {
            let mut merged = Durations::default();
            blocks.iter().for_each(|block| merged.add(which(block), reading));
            merged
        };
        if self.counts_server && self.is_attached("data_ready") && self.is_attached("data_read") {
            counters.server_wait = Some(merged(|block| &block.wait));
            if sends {
                counters.server_service = Some(merged(|block| &block.service));
            }
        }
    }
}

/// The time of a vector: all of it, or what the runs that were timed stand for.
fn softirq_ns(block: &SoftirqBlock, vector: usize) -> u64 {
    if NET_SOFTIRQS.contains(&(vector as u32)) {
        block.time_ns[vector] * NET_SOFTIRQ_SAMPLE
    } else {
        block.time_ns[vector]
    }
}
