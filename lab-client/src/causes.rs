//! Why an answer was late: the time of a request, cause by cause, and the sums of a second.
//!
//! Owns: the causes, how the instants of one request become time spent on each, and what is kept of
//! that. Must not know: where the instants come from ([`crate::witness`]), or what a share is worth
//! (the experiment's summary works that out).

use std::collections::BTreeMap;

use ebpf::{CpuWait, Request};
use serde::{Deserialize, Serialize};

/// What can be to blame. The names are those of files, tables and plots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The client's thread wanted a CPU that another program, or nobody, held.
    ClientRunqueue,
    /// The client's thread was busy, or waited for another thread of the client.
    ClientBusy,
    /// A packet of the connection was dropped or sent again on the way.
    NetworkLoss,
    /// On the way without any loss.
    NetworkDelay,
    /// The server's thread wanted a CPU that another program, or nobody, held.
    ServerRunqueue,
    /// The server's thread was busy, or waited for another thread of the server.
    ServerBusy,
    /// None of these.
    Unexplained,
}

impl Cause {
    /// All of them, in the order of [`PerCause`].
    pub const ALL: [Cause; 7] = [
        Cause::ClientRunqueue,
        Cause::ClientBusy,
        Cause::NetworkLoss,
        Cause::NetworkDelay,
        Cause::ServerRunqueue,
        Cause::ServerBusy,
        Cause::Unexplained,
    ];

    /// Its name in files.
    pub const fn name(self) -> &'static str {
        match self {
            Cause::ClientRunqueue => "client_runqueue",
            Cause::ClientBusy => "client_busy",
            Cause::NetworkLoss => "network_loss",
            Cause::NetworkDelay => "network_delay",
            Cause::ServerRunqueue => "server_runqueue",
            Cause::ServerBusy => "server_busy",
            Cause::Unexplained => "unexplained",
        }
    }
}

/// A figure for each cause, in the order of [`Cause::ALL`].
pub type PerCause<T> = [T; 7];

/// What the client's thread did between the instant at which a shake was due and its send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeforeSend {
    /// Asleep: its timer had not rung yet.
    pub asleep_ns: u64,
    /// Waiting for a CPU.
    pub waited: CpuWait,
    /// Of the rest, how long it is not known whether it waited.
    #[serde(default)]
    pub unknown_ns: u64,
}

/// The time of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Explained {
    /// By cause, in nanoseconds. What is negative or missing is unexplained.
    pub causes: PerCause<u64>,
    /// Network, server wait, server service and client receive lag, in nanoseconds; `None` when an
    /// instant is missing.
    pub segments: Option<[u64; 4]>,
}

impl Explained {
    /// Nothing is known of a request but how long it took.
    pub fn not(latency_ns: u64) -> Self {
        let mut causes = [0; 7];
        causes[Cause::Unexplained as usize] = latency_ns;
        Self { causes, segments: None }
    }

    /// The cause that took most.
    pub fn dominant(&self) -> Cause {
        let most = Cause::ALL.into_iter().max_by_key(|cause| self.causes[*cause as usize]);
        most.unwrap_or(Cause::Unexplained)
    }
}

/// Splits the time of a request that was due at `due_ns` and took `latency_ns` by the client's own
/// clock.
pub fn explain(
    due_ns: u64,
    latency_ns: u64,
    request: Option<&Request>,
    before: BeforeSend,
) -> Explained {
    // An instant of an earlier request is none of this one.
    let Some((request, segments)) = request
        .filter(|request| request.sent_ns >= due_ns)
        .and_then(|request| Some((request, request.segments()?)))
    else {
        return Explained::not(latency_ns);
    };
    let mut causes = [0; 7];
    let mut add = |cause: Cause, ns: u64| causes[cause as usize] += ns;
    let mut total: i64 = 0;
    let mut unexplained: u64 = 0;

    let send_lag = request.sent_ns - due_ns;
    let foreign = before.waited.foreign_ns.min(send_lag);
    let own = before.waited.own_ns.min(send_lag - foreign);
    let asleep = before.asleep_ns.min(send_lag - foreign - own);
    let unknown = before.unknown_ns.min(send_lag - foreign - own - asleep);
    add(Cause::ClientRunqueue, foreign);
    add(Cause::ClientBusy, send_lag - foreign - asleep - unknown);
    unexplained += asleep + unknown;
    total += send_lag.cast_signed();

    let loss = if request.losses > 0 { Cause::NetworkLoss } else { Cause::NetworkDelay };
    let server = [Cause::ServerRunqueue, Cause::ServerBusy];
    let client = [Cause::ClientRunqueue, Cause::ClientBusy];
    let foreign = |wait: Option<CpuWait>| wait.map(|wait| wait.foreign_ns);
    // Length, what waiting for a foreign CPU and the rest of it count as, and how long that was.
    let parts = [
        (segments.network_ns, [loss, loss], Some(0)),
        (segments.server_wait_ns, server, foreign(request.server_wait)),
        (segments.server_service_ns, server, foreign(request.server_service)),
        (segments.client_receive_lag_ns, client, foreign(request.client_receive)),
    ];
    let mut lengths = [0; 4];
    for ((length, [waiting, rest], foreign_ns), known) in parts.into_iter().zip(&mut lengths) {
        total += length;
        let Ok(length_ns) = u64::try_from(length) else {
            unexplained += length.unsigned_abs();
            continue;
        };
        *known = length_ns;
        match foreign_ns {
            Some(foreign_ns) => {
                let foreign_ns = foreign_ns.min(length_ns);
                add(waiting, foreign_ns);
                add(rest, length_ns - foreign_ns);
            }
            // Whose thread it was is not known, so neither is what it did.
            None => unexplained += length_ns,
        }
    }
    unexplained += (latency_ns.cast_signed() - total).unsigned_abs();
    add(Cause::Unexplained, unexplained);
    Explained { causes, segments: Some(lengths) }
}

/// Buckets of an octave: values within one differ by an eighth at most.
const STEPS: u64 = 8;

/// Buckets in all: up to 2^27 µs, two minutes.
pub const BUCKETS: usize = 200;

/// The bucket of a duration in microseconds: exact below 8, then eight to an octave.
pub fn bucket(us: u64) -> usize {
    if us < STEPS {
        return us as usize;
    }
    let octave = u64::from(us.ilog2()) - 3;
    let step = (us >> octave) - STEPS;
    ((octave + 1) * STEPS + step).min(BUCKETS as u64 - 1) as usize
}

/// The least duration in a bucket, in microseconds.
pub fn bucket_floor(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < STEPS {
        return bucket;
    }
    let (octave, step) = (bucket / STEPS - 1, bucket % STEPS);
    (STEPS + step) << octave
}

/// What a second of a shard adds to the account of a phase. Sparse: most buckets are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CauseRows {
    /// Requests that were explained.
    pub requests: u64,
    /// Requests left out, because their frame shared its stretch of the stream with another.
    pub mixed: u64,
    /// Requests left out, because their connection was not in the sample.
    #[serde(default)]
    pub unsampled: u64,
    /// Explained requests of which an instant is missing: all of their time is unexplained.
    pub incomplete: u64,
    /// By bucket of latency: how many requests, and the sums of each cause in microseconds.
    pub sums: Vec<(u16, u64, PerCause<u64>)>,
    /// By cause and bucket of its time: how many requests.
    pub times: Vec<(Cause, u16, u64)>,
    /// Requests due in one second and over in another: the second in which they were due, and how
    /// many had each cause for their dominant one.
    pub moved: Vec<(u64, PerCause<u64>)>,
}

#[derive(Clone, Copy, Default)]
struct Sum {
    requests: u64,
    ns: PerCause<u64>,
}

/// The account of a phase in the second under way.
struct Account {
    phase: u16,
    requests: u64,
    mixed: u64,
    unsampled: u64,
    incomplete: u64,
    sums: Box<[Sum]>,
    /// By cause and bucket; requests on which a cause spent no time at all are not entered.
    times: [Box<[u32]>; 7],
    moved: BTreeMap<u64, PerCause<u64>>,
}

impl Account {
    fn new(phase: u16) -> Self {
        Self {
            phase,
            requests: 0,
            mixed: 0,
            unsampled: 0,
            incomplete: 0,
            sums: vec![Sum::default(); BUCKETS].into_boxed_slice(),
            times: std::array::from_fn(|_| vec![0; BUCKETS].into_boxed_slice()),
            moved: BTreeMap::new(),
        }
    }

    fn take(&mut self) -> CauseRows {
        let sums = self.sums.iter_mut().enumerate().filter(|(_, sum)| sum.requests > 0);
        let sums = sums.map(|(bucket, sum)| {
            let sum = std::mem::take(sum);
            (bucket as u16, sum.requests, sum.ns.map(|ns| ns / 1000))
        });
        let mut times = Vec::new();
        for (cause, counts) in Cause::ALL.into_iter().zip(&mut self.times) {
            let entered: u64 = counts.iter().map(|count| u64::from(*count)).sum();
            counts[0] += u32::try_from(self.requests - entered).unwrap_or(u32::MAX);
            let counts = counts.iter_mut().enumerate().filter(|(_, count)| **count > 0);
            times.extend(
                counts.map(|(bucket, count)| {
                    (cause, bucket as u16, u64::from(std::mem::take(count)))
                }),
            );
        }
        CauseRows {
            requests: std::mem::take(&mut self.requests),
            mixed: std::mem::take(&mut self.mixed),
            unsampled: std::mem::take(&mut self.unsampled),
            incomplete: std::mem::take(&mut self.incomplete),
            sums: sums.collect(),
            times,
            moved: std::mem::take(&mut self.moved).into_iter().collect(),
        }
    }
}

/// The causes of the second under way, phase by phase.
#[derive(Default)]
pub struct Causes {
    accounts: Vec<Account>,
}

impl Causes {
    fn account(&mut self, phase: u16) -> &mut Account {
        let place = self.accounts.iter().position(|account| account.phase == phase);
        let place = place.unwrap_or_else(|| {
            self.accounts.push(Account::new(phase));
            self.accounts.len() - 1
        });
        &mut self.accounts[place]
    }

    /// Enters a request that was over in the second `now`, due in the second `due`.
    pub fn enter(
        &mut self,
        phase: u16,
        latency_ns: u64,
        explained: &Explained,
        (due, now): (u64, u64),
    ) {
        let account = self.account(phase);
        account.requests += 1;
        account.incomplete += u64::from(explained.segments.is_none());
        let sum = &mut account.sums[bucket(latency_ns / 1000)];
        sum.requests += 1;
        for (place, ns) in explained.causes.into_iter().enumerate() {
            if ns > 0 {
                sum.ns[place] += ns;
                account.times[place][bucket(ns / 1000)] += 1;
            }
        }
        if due != now {
            account.moved.entry(due).or_default()[explained.dominant() as usize] += 1;
        }
    }

    /// Counts a request that cannot be explained because another frame was in its way.
    pub fn enter_mixed(&mut self, phase: u16) {
        self.account(phase).mixed += 1;
    }

    /// Counts a request whose connection is not looked at.
    pub fn enter_unsampled(&mut self, phase: u16) {
        self.account(phase).unsampled += 1;
    }

    /// What the second that ends adds to each phase.
    pub fn take(&mut self) -> impl Iterator<Item = (u16, CauseRows)> + '_ {
        let used = self.accounts.iter_mut().filter(|it| it.requests + it.mixed + it.unsampled > 0);
        used.map(|account| (account.phase, account.take()))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const DUE: u64 = 1_000_000;

    /// A request of 100 µs before its send, 10 on the way there, 20 until it is read, 30 until it
    /// is answered, 10 on the way back, 40 until that is read.
    pub(crate) fn request() -> Request {
        let split = |foreign_ns| Some(CpuWait { foreign_ns, own_ns: 0 });
        Request {
            sequence: 1,
            end: 21,
            answer: 1,
            sent_ns: DUE + 100_000,
            server_ready_ns: Some(DUE + 110_000),
            server_read_ns: Some(DUE + 130_000),
            answered_ns: Some(DUE + 160_000),
            ready_ns: Some(DUE + 170_000),
            read_ns: Some(DUE + 210_000),
            server_wait: split(15_000),
            server_service: split(0),
            client_receive: split(0),
            losses: 0,
            mixed: false,
            client_slot: 1,
            server_slot: 2,
            ready_totals: None,
            sent_totals: None,
        }
    }

    fn check(request: Option<Request>, before: BeforeSend, latency_us: u64, us: PerCause<u64>) {
        let explained = explain(DUE, latency_us * 1000, request.as_ref(), before);
        assert_eq!(explained.causes.map(|ns| ns / 1000), us, "{request:?}");
    }

    #[test]
    fn every_nanosecond_has_a_cause() {
        let nothing = BeforeSend::default();
        // Client busy: 100 before the send, 40 at the end. Server: 15 waiting, 5 + 30 busy.
        check(Some(request()), nothing, 210, [0, 140, 0, 20, 15, 35, 0]);
        // What the client saw later than the kernel is unexplained.
        check(Some(request()), nothing, 215, [0, 140, 0, 20, 15, 35, 5]);
        let before = BeforeSend {
            asleep_ns: 30_000,
            waited: CpuWait { foreign_ns: 40_000, own_ns: 10_000 },
            unknown_ns: 0,
        };
        check(Some(request()), before, 210, [40, 70, 0, 20, 15, 35, 30]);
        // More waiting than there was time is cut to the time.
        let waited = CpuWait { foreign_ns: 500_000, own_ns: 500_000 };
        check(
            Some(request()),
            BeforeSend { asleep_ns: 9, waited, unknown_ns: 9 },
            210,
            [100, 40, 0, 20, 15, 35, 0],
        );
    }

    #[test]
    fn a_loss_takes_the_whole_way() {
        let late = 200_000_000;
        let mut lost = request();
        lost.losses = 2;
        for instant in [
            &mut lost.server_ready_ns,
            &mut lost.server_read_ns,
            &mut lost.answered_ns,
            &mut lost.ready_ns,
            &mut lost.read_ns,
        ] {
            *instant = instant.map(|ns| ns + late);
        }
        check(Some(lost), BeforeSend::default(), 200_210, [0, 140, 200_020, 0, 15, 35, 0]);
    }

    #[test]
    fn what_is_not_known_is_unexplained() {
        let nothing = BeforeSend::default();
        let waited = CpuWait { foreign_ns: 25_000, own_ns: 0 };
        let before = BeforeSend { waited, ..nothing };
        check(None, nothing, 500, [0, 0, 0, 0, 0, 0, 500]);
        check(Some(Request { read_ns: None, ..request() }), nothing, 210, [0, 0, 0, 0, 0, 0, 210]);
        // The entry still has the request before this one.
        let stale = Request { sent_ns: DUE - 1, ..request() };
        check(Some(stale), nothing, 210, [0, 0, 0, 0, 0, 0, 210]);
        // Before the send, whether the thread waited or was busy.
        let unknown = BeforeSend { unknown_ns: 60_000, ..before };
        check(Some(request()), unknown, 210, [25, 55, 0, 20, 15, 35, 60]);
        let no_thread = Request { server_wait: None, ..request() };
        check(Some(no_thread), nothing, 210, [0, 140, 0, 20, 0, 30, 20]);
        // The server's clock went backwards by 5: negative time counts by its size, too.
        let odd = Request { server_read_ns: Some(DUE + 105_000), ..request() };
        let explained = explain(DUE, 210_000, Some(&odd), nothing);
        assert_eq!(explained.causes[Cause::Unexplained as usize], 5_000);
    }

    #[test]
    fn buckets_keep_order_and_eighths() {
        for us in (0..5_000).chain([1 << 20, (1 << 26) + 12_345, 119_000_000]) {
            let at = bucket(us);
            assert!(bucket_floor(at) <= us && us < bucket_floor(at + 1), "{us} in {at}");
        }
        assert!((1..BUCKETS).all(|at| bucket(bucket_floor(at)) == at));
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn a_second_is_accounted_for_and_the_next_begins_empty() {
        let mut causes = Causes::default();
        let explained = explain(DUE, 210_000, Some(&request()), BeforeSend::default());
        causes.enter(1, 210_000, &explained, (7, 7));
        causes.enter(1, 212_000, &explained, (7, 8));
        causes.enter(2, 3_000_000, &Explained::not(3_000_000), (8, 8));
        causes.enter_mixed(2);
        let all: Vec<_> = causes.take().collect();
        let [(1, one), (2, two)] = &all[..] else { panic!("{all:?}") };
        assert_eq!((one.requests, one.mixed, one.incomplete), (2, 0, 0));
        assert_eq!((two.requests, two.mixed, two.incomplete), (1, 1, 1));
        assert_eq!(one.sums, [(bucket(210) as u16, 2, [0, 280, 0, 40, 30, 70, 0])]);
        assert_eq!(one.moved, [(7, [0, 1, 0, 0, 0, 0, 0])]);
        assert_eq!(two.sums[0].2[Cause::Unexplained as usize], 3_000);
        assert_eq!(one.times.iter().map(|(.., count)| count).sum::<u64>(), 14);
        assert!(causes.take().next().is_none());
    }
}
