//! Counts of a run that must be exact: packets dropped against the injector's own count, segments
//! sent again against the kernel's own counter.

use std::path::Path;

use anyhow::Context;
use record::{
    EVENTS_FILE, EventKind, EventRow, ProbeRow, ProbedThread, ProcRow, ProcSubject, SAMPLES_FILE,
    SampleSource, parse,
};
use serde::Serialize;
use serde_json::Value;

use super::files::text;

/// What was counted over a whole run, by those who did it and by the probes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Counts {
    /// Packets that the injector dropped, by its own count.
    pub(super) dropped: u64,
    /// Packets that the probes saw dropped where the injector does it.
    pub(super) dropped_seen: u64,
    /// Segments sent again, by the kernel's counter `TcpRetransSegs` of the run's namespaces.
    pub(super) sent_again: u64,
    /// Segments that the probes saw sent again.
    pub(super) sent_again_seen: u64,
    /// Packets that left one end of the path and were not seen to enter the other, or the other way
    /// round.
    pub(super) unmatched: u64,
}

impl Counts {
    /// Reads the files of a run in namespaces of its own.
    ///
    /// # Errors
    /// What is the matter with a file, or which count is missing.
    pub(super) fn read(directory: &Path) -> anyhow::Result<Self> {
        let samples = Samples::read(directory)?;
        let mut it = Self { dropped: injected(directory)?, ..Self::default() };
        let (mut sent, mut received) = ([0_u64; 2], [0_u64; 2]);
        for row in &samples.probes {
            let missing = || anyhow::anyhow!("the probes did not count in second {}", row.t);
            let places = row.drops_by_place.as_ref().ok_or_else(missing)?;
            let injected = places.iter().filter(|it| it.reason.as_deref() == Some("TC_INGRESS"));
            it.dropped_seen += injected.map(|place| place.lost()).sum::<u64>();
            let sides = row.retransmits.as_ref().ok_or_else(missing)?;
            for side in ["server", "client"] {
                it.sent_again_seen += sides.get(side).ok_or_else(missing)?.values().sum::<u64>();
            }
            let ends = row.packets.as_ref().ok_or_else(missing)?;
            for (end, (sent, received)) in ends.iter().zip(sent.iter_mut().zip(&mut received)) {
                *sent += end.tx_packets;
                *received += end.rx_packets;
            }
        }
        it.sent_again = samples.sent_again();
        it.unmatched = sent[0].abs_diff(received[1]) + sent[1].abs_diff(received[0]);
        Ok(it)
    }

    /// Whether the kernel kept events from the probes.
    ///
    /// Kernels may be built not to run tracing programs while certain tasks are current; a timer
    /// that interrupts such a task then sends unseen. It is known by packets that came out of the
    /// path and were not seen to enter it, or, when both ends were hidden, by fewer being seen than
    /// there were. More than there were is wrong in any case.
    pub(super) fn hidden(&self) -> bool {
        self.unmatched > 0
            || self.sent_again_seen < self.sent_again
            || self.dropped_seen < self.dropped
    }

    /// What is not exact, in sentences.
    pub(super) fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.dropped != self.dropped_seen {
            let Self { dropped, dropped_seen, .. } = self;
            wrong.push(format!("{dropped} packets were dropped and {dropped_seen} counted"));
        }
        if self.sent_again != self.sent_again_seen {
            let Self { sent_again, sent_again_seen, .. } = self;
            wrong.push(format!("{sent_again} segments sent again and {sent_again_seen} counted"));
        }
        wrong
    }
}

/// The samples of a run that counts are taken from.
struct Samples {
    probes: Vec<ProbeRow>,
    protocols: Vec<ProcRow>,
}

impl Samples {
    fn read(directory: &Path) -> anyhow::Result<Self> {
        let mut samples = Self { probes: Vec::new(), protocols: Vec::new() };
        for line in text(directory, SAMPLES_FILE)?.lines().map(str::as_bytes) {
            match SampleSource::of(line).context(SAMPLES_FILE)? {
                SampleSource::Probe => samples.probes.push(parse(line).context(SAMPLES_FILE)?),
                SampleSource::Proc => {
                    let row: ProcRow = parse(line).context(SAMPLES_FILE)?;
                    samples.protocols.extend(Some(row).filter(|row| row.of == ProcSubject::Tcp));
                }
                _ => {}
            }
        }
        Ok(samples)
    }

    /// Segments sent again, by the kernel's own counter.
    fn sent_again(&self) -> u64 {
        self.protocols.iter().filter_map(|row| row.retrans_segs).sum()
    }
}

/// Packets dropped by all faults that do that.
fn injected(directory: &Path) -> anyhow::Result<u64> {
    let mut dropped = 0;
    for line in text(directory, EVENTS_FILE)?.lines() {
        let event = EventRow::parse(line.as_bytes()).context(EVENTS_FILE)?;
        if let EventKind::FaultEnds { kind, truth: Some(truth), .. } = event.kind
            && kind == "loss"
        {
            dropped += truth.get("dropped").and_then(Value::as_u64).unwrap_or(0);
        }
    }
    Ok(dropped)
}

/// Which of the causes blamed for a part of the excess have nothing in the counters to show for it.
pub(super) fn without_evidence(
    directory: &Path,
    blamed: impl Fn(attribution::Cause) -> bool,
) -> anyhow::Result<Vec<String>> {
    use attribution::Cause;
    let samples = Samples::read(directory)?;
    let of_threads = |server: bool, time_ns: fn(&ProbedThread) -> u64| -> u64 {
        let threads = samples.probes.iter().filter_map(|row| row.threads.as_ref()).flatten();
        threads.filter(|thread| thread.is_of_server() == server).map(time_ns).sum()
    };
    let waited = |thread: &ProbedThread| thread.wait_foreign_ns;
    let ran = |thread: &ProbedThread| thread.ran_ns;
    let drops = samples.probes.iter().filter_map(|row| row.drops).sum::<u64>();
    let lost = drops + samples.sent_again();
    let evidence = [
        (Cause::NetworkLoss, lost, "drops nor segments sent again"),
        (Cause::ServerRunqueue, of_threads(true, waited), "waiting of its threads"),
        (Cause::ClientRunqueue, of_threads(false, waited), "waiting of its threads"),
        (Cause::ServerBusy, of_threads(true, ran), "running of its threads"),
        (Cause::ClientBusy, of_threads(false, ran), "running of its threads"),
    ];
    let bare = evidence.into_iter().filter(|(cause, count, _)| *count == 0 && blamed(*cause));
    let sentence = |(cause, _, what): (Cause, u64, &str)| {
        format!("{} is blamed, and the counters show no {what}", cause.name())
    };
    Ok(bare.map(sentence).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_sums_over_the_whole_run() {
        let directory = tempfile::tempdir().expect("a directory");
        let probe = |drops, again, sent: u64, received: u64| {
            format!(
                r#"{{"t":1,"source":"probe",
                "drops_by_place":[{{"reason":"TC_INGRESS","port":{drops}}},
                {{"reason":"NOT_SPECIFIED","port":9}}],
                "retransmits":{{"server":{{"fast":0,"timeout":{again}}},"client":{{"fast":1}}}},
                "packets":[{{"tx_packets":{sent},"rx_packets":5}},
                {{"tx_packets":5,"rx_packets":{received}}}]}}"#
            )
            .replace('\n', " ")
        };
        let tcp = r#"{"t":1,"source":"proc","of":"tcp","retrans_segs":2}"#;
        let samples = format!("{}\n{tcp}\n{}\n{tcp}\n", probe(3, 2, 7, 6), probe(4, 0, 7, 8));
        std::fs::write(directory.path().join("samples.jsonl"), samples).expect("written");
        let event = r#"{"t":1,"event":"fault_ends","kind":"loss","truth":{"dropped":8}}"#;
        std::fs::write(directory.path().join("events.jsonl"), event).expect("written");
        let counts = Counts::read(directory.path()).expect("counts");
        let expected =
            Counts { dropped: 8, dropped_seen: 7, sent_again: 4, sent_again_seen: 4, unmatched: 0 };
        assert_eq!(counts, expected);
        assert!(counts.hidden(), "one was not seen");
        assert!(!Counts { dropped_seen: 9, ..counts }.hidden(), "more than there were is wrong");
        assert_eq!(counts.wrong(), ["8 packets were dropped and 7 counted"]);
        let bare = without_evidence(directory.path(), |_| true).expect("a file");
        assert_eq!(bare.len(), 4, "all but the loss: {bare:?}");
    }
}
