//! Splits the time of a request among the causes.
//!
//! Must not know: where instants and timelines come from, or what a share is worth.

use serde::{Deserialize, Serialize};

use crate::causes::{Cause, PerCause};
use crate::contradictions::Contradictions;
use crate::request::Request;
use crate::segments::PerSegment;
use crate::spent::{Doing, Spent};

/// What the threads of a request did while they had to act. What is missing is unexplained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The client's thread, from the instant at which the shake was due to its send.
    pub send_lag: Spent,
    /// The server's thread, from T2 to T3.
    pub server_wait: Spent,
    /// The same, from T3 to T4.
    pub server_service: Spent,
    /// The client's thread, from T5 to T6.
    pub client_receive: Spent,
}

/// The time of a request, attributed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributed {
    /// By cause, in nanoseconds. What is negative or missing is unexplained.
    pub causes_ns: PerCause<u64>,
    /// From T1 on, in nanoseconds; `None` when an instant is missing.
    pub segments_ns: Option<PerSegment<u64>>,
    /// How its evidence contradicts itself: 1 for each way in which it does.
    pub contradictions: Contradictions,
}

impl Attributed {
    /// Nothing is known of a request but how long it took.
    pub fn unexplained(latency_ns: u64) -> Self {
        Self::to_one(Cause::Unexplained, latency_ns)
    }

    /// All of the time has one cause.
    fn to_one(cause: Cause, latency_ns: u64) -> Self {
        let mut causes_ns = PerCause::default();
        causes_ns[cause] = latency_ns;
        Self { causes_ns, ..Self::default() }
    }

    /// The cause that took most.
    #[inline]
    pub fn dominant(&self) -> Cause {
        let most = Cause::ALL.into_iter().max_by_key(|cause| self.causes_ns[*cause]);
        most.unwrap_or(Cause::Unexplained)
    }
}

/// A part of a request's time in which one of its threads, or the network, had to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Until the send.
    SendLag,
    /// From ready to read, at the server.
    ServerWait,
    /// From read to answered.
    ServerService,
    /// From ready to read, at the client.
    ClientReceive,
}

/// A thread that is woken when data is ready for it is still asleep for so long: the data's way
/// ends when it is awake.
const WAKE_UP_NS: u64 = 20_000;

impl Part {
    /// What to blame for something that the thread did meanwhile.
    fn cause(self, doing: Doing, ns: u64) -> Cause {
        let [busy, runqueue, throttled, stopped, blocked, interrupts, stalled] = match self {
            Self::SendLag | Self::ClientReceive => [
                Cause::ClientBusy,
                Cause::ClientRunqueue,
                Cause::ClientThrottled,
                Cause::ClientStopped,
                Cause::ClientBlocked,
                Cause::ClientInterrupts,
                Cause::ClientStalled,
            ],
            Self::ServerWait | Self::ServerService => [
                Cause::ServerBusy,
                Cause::ServerRunqueue,
                Cause::ServerThrottled,
                Cause::ServerStopped,
                Cause::ServerBlocked,
                Cause::ServerInterrupts,
                Cause::ServerStalled,
            ],
        };
        match doing {
            Doing::Run | Doing::WaitOwn => busy,
            Doing::WaitOther => runqueue,
            Doing::WaitIdle | Doing::Stalled => stalled,
            Doing::Throttled => throttled,
            Doing::Stopped => stopped,
            Doing::Blocked => blocked,
            Doing::Interrupts => interrupts,
            Doing::Asleep => match self {
                Self::SendLag => Cause::ClientPacing,
                Self::ServerService => blocked,
                Self::ServerWait | Self::ClientReceive if ns < WAKE_UP_NS => Cause::NetworkDelay,
                // Its data is ready, and it waits for something else.
                Self::ServerWait | Self::ClientReceive => blocked,
            },
            Doing::Unknown | Doing::Contradicted => Cause::Unexplained,
        }
    }
}

/// The time of a request as far as it is attributed.
#[derive(Default)]
struct Split {
    causes_ns: PerCause<u64>,
    total_ns: i64,
    contradictions: Contradictions,
}

/// Splits the time of a request that was due at `due_ns` and took `latency_ns` by the client's own
/// clock, or has not been answered by then. Without an answer it is explained as far as its
/// instants go: whoever had to act next had the rest of the time.
#[inline]
pub fn attribute(
    due_ns: u64,
    latency_ns: u64,
    request: Option<&Request>,
    evidence: &Evidence,
) -> Attributed {
    let mut split = Split::default();
    let end_ns = due_ns + latency_ns;
    // An instant of an earlier request is none of this one.
    let segments_ns = match request.filter(|request| request.sent_ns >= due_ns) {
        // It was not even sent.
        None => {
            split.add(Part::SendLag, latency_ns.cast_signed(), &evidence.send_lag);
            None
        }
        Some(request) => {
            let lag_ns = request.sent_ns - due_ns;
            split.add(Part::SendLag, lag_ns.cast_signed(), &evidence.send_lag);
            split.add_segments(request, end_ns, evidence)
        }
    };
    split.whole(latency_ns, segments_ns)
}

/// Splits the time of a request that has no answer, or whose answer was not read in time, and whose
/// server's end another kernel sees: what the client's own thread did, and a loss, are known of it.
pub fn attribute_half(
    due_ns: u64,
    latency_ns: u64,
    request: Option<&Request>,
    evidence: &Evidence,
) -> Attributed {
    let Some(request) = request.filter(|request| request.sent_ns >= due_ns) else {
        return attribute(due_ns, latency_ns, None, evidence);
    };
    let (mut split, end_ns) = (Split::default(), due_ns + latency_ns);
    split.add(Part::SendLag, span(due_ns, request.sent_ns), &evidence.send_lag);
    let lost = request.losses > 0;
    let away = if lost { Cause::NetworkLoss } else { Cause::Unexplained };
    split.add_way(span(request.sent_ns, request.ready_ns.unwrap_or(end_ns)), away);
    if let Some(ready_ns) = request.ready_ns {
        let receive_ns = span(ready_ns, request.read_ns.unwrap_or(end_ns));
        split.add(Part::ClientReceive, receive_ns, &evidence.client_receive);
    }
    split.whole(latency_ns, None)
}

/// What to blame for a time on the way.
fn way(request: &Request) -> Cause {
    if request.losses > 0 { Cause::NetworkLoss } else { Cause::NetworkDelay }
}

/// What the client's thread did from T5 to T6. Where another frame may have come first, it may have
/// read that and slept again.
fn of_its_own(request: &Request, mut receive: Spent) -> Spent {
    if request.beside {
        let asleep_ns = std::mem::take(&mut receive[Doing::Asleep]);
        receive[Doing::Unknown] += asleep_ns;
    }
    receive
}

/// From one instant to another; negative where they disagree.
fn span(from_ns: u64, to_ns: u64) -> i64 {
    to_ns.wrapping_sub(from_ns).cast_signed()
}

impl Split {
    /// What is left of the time is unexplained.
    #[inline]
    fn whole(self, latency_ns: u64, segments_ns: Option<PerSegment<u64>>) -> Attributed {
        let Self { mut causes_ns, total_ns, mut contradictions } = self;
        let left_ns = latency_ns.cast_signed() - total_ns;
        if left_ns < 0 {
            contradictions.order = 1;
        }
        causes_ns[Cause::Unexplained] += left_ns.unsigned_abs();
        Attributed { causes_ns, segments_ns, contradictions }
    }

    /// From T1 on.
    #[inline]
    fn add_segments(
        &mut self,
        request: &Request,
        end_ns: u64,
        evidence: &Evidence,
    ) -> Option<PerSegment<u64>> {
        let Evidence { server_wait, server_service, client_receive, .. } = evidence;
        if let Some(segments) = request.segments() {
            let (wait_ns, service_ns) = (segments.server_wait_ns, segments.server_service_ns);
            let receive_ns = segments.client_receive_lag_ns;
            let client_receive = &of_its_own(request, *client_receive);
            return Some(PerSegment {
                network: self.add_way(segments.network_ns, way(request)),
                server_wait: self.add(Part::ServerWait, wait_ns, server_wait),
                server_service: self.add(Part::ServerService, service_ns, server_service),
                client_receive_lag: self.add(Part::ClientReceive, receive_ns, client_receive),
            });
        }
        match request.ready_ns {
            Some(ready_ns) => self.add_answered(request, ready_ns, end_ns, evidence),
            None => self.add_unanswered(request, end_ns, evidence),
        }
        None
    }

    /// Answered, or nearly; where the server's instants are missing they are not known.
    fn add_answered(&mut self, request: &Request, ready_ns: u64, end_ns: u64, found: &Evidence) {
        let receive_ns = span(ready_ns, request.read_ns.unwrap_or(end_ns));
        let client_receive = of_its_own(request, found.client_receive);
        self.add(Part::ClientReceive, receive_ns, &client_receive);
        let (t2, t3, t4) = (request.server_ready_ns, request.server_read_ns, request.answered_ns);
        if let (Some(t2), Some(t3), Some(t4)) = (t2, t3, t4) {
            self.add_way(span(request.sent_ns, ready_ns) - span(t2, t4), way(request));
            self.add(Part::ServerWait, span(t2, t3), &found.server_wait);
            self.add(Part::ServerService, span(t3, t4), &found.server_service);
        }
    }

    /// Whoever had to act next has the rest of the time. Of one that was read, and whose coming was
    /// not seen, the rest is not known.
    fn add_unanswered(&mut self, request: &Request, end_ns: u64, found: &Evidence) {
        let (t2, t3, t4) = (request.server_ready_ns, request.server_read_ns, request.answered_ns);
        let end_ns = if request.read_ns.is_some() { None } else { Some(end_ns) };
        if let Some(end_ns) = t2.or(end_ns) {
            self.add_way(span(request.sent_ns, end_ns), way(request));
        }
        if let (Some(t2), Some(end_ns)) = (t2, t3.or(end_ns)) {
            self.add(Part::ServerWait, span(t2, end_ns), &found.server_wait);
        }
        if let (Some(t3), Some(end_ns)) = (t3, t4.or(end_ns)) {
            self.add(Part::ServerService, span(t3, end_ns), &found.server_service);
        }
        if let (Some(t4), Some(end_ns)) = (t4, end_ns) {
            self.add_way(span(t4, end_ns), way(request));
        }
    }

    /// A time on the way. Returns its length, 0 where instants disagree.
    #[inline]
    fn add_way(&mut self, length_ns: i64, way: Cause) -> u64 {
        self.total_ns += length_ns;
        let length = u64::try_from(length_ns).ok();
        let cause = if length.is_some() { way } else { Cause::Unexplained };
        if length.is_none() {
            self.contradictions.order = 1;
        }
        self.causes_ns[cause] += length_ns.unsigned_abs();
        length.unwrap_or_default()
    }

    /// A time in which a thread had to act, and what it did. Returns its length, 0 where instants
    /// disagree.
    #[inline]
    fn add(&mut self, part: Part, length_ns: i64, spent: &Spent) -> u64 {
        self.total_ns += length_ns;
        let known_ns = spent.total_ns();
        let Some(length) = u64::try_from(length_ns).ok().filter(|length| known_ns <= *length)
        else {
            // Instants, or what the thread did, contradict themselves.
            let is_order = length_ns < 0;
            self.contradictions.order |= u64::from(is_order);
            self.contradictions.too_long |= u64::from(!is_order);
            self.causes_ns[Cause::Unexplained] += length_ns.unsigned_abs();
            return length_ns.max(0).unsigned_abs();
        };
        for (doing, ns) in spent.iter() {
            self.causes_ns[part.cause(doing, ns)] += ns;
        }
        self.contradictions.clocks |= u64::from(spent[Doing::Contradicted] > 0);
        self.causes_ns[Cause::Unexplained] += length - known_ns;
        length
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{DUE, evidence, request};

    /// Causes in microseconds; the others took nothing.
    fn check(
        request: Option<Request>,
        evidence: &Evidence,
        latency_us: u64,
        expected: &[(Cause, u64)],
    ) {
        let attributed = attribute(DUE, latency_us * 1000, request.as_ref(), evidence);
        let found: Vec<(Cause, u64)> = attributed
            .causes_ns
            .iter()
            .filter(|(_, ns)| **ns > 0)
            .map(|(cause, ns)| (cause, ns / 1000))
            .collect();
        let mut expected = expected.to_vec();
        expected.sort_unstable_by_key(|(cause, _)| *cause as usize);
        assert_eq!(found, expected, "{request:?} {evidence:?}");
    }

    const BUSY: Cause = Cause::ClientBusy;
    const WAY: Cause = Cause::NetworkDelay;
    const SERVER: Cause = Cause::ServerBusy;
    const WAITED: Cause = Cause::ServerRunqueue;
    const UNKNOWN: Cause = Cause::Unexplained;

    #[test]
    fn every_nanosecond_has_a_cause() {
        // Client busy: 100 before the send, 40 at the end. Server: 15 waiting, 5 + 30 busy.
        let whole = [(BUSY, 140), (WAY, 20), (WAITED, 15), (SERVER, 35)];
        check(Some(request()), &evidence(), 210, &whole);
        // What the client saw later than the kernel is unexplained.
        let later = [(BUSY, 140), (WAY, 20), (WAITED, 15), (SERVER, 35), (UNKNOWN, 5)];
        check(Some(request()), &evidence(), 215, &later);
    }

    #[test]
    fn what_a_thread_did_has_its_own_cause_at_each_end() {
        for (doing, client, server) in [
            (Doing::Run, Cause::ClientBusy, Cause::ServerBusy),
            (Doing::WaitOwn, Cause::ClientBusy, Cause::ServerBusy),
            (Doing::WaitOther, Cause::ClientRunqueue, Cause::ServerRunqueue),
            (Doing::WaitIdle, Cause::ClientStalled, Cause::ServerStalled),
            (Doing::Stalled, Cause::ClientStalled, Cause::ServerStalled),
            (Doing::Throttled, Cause::ClientThrottled, Cause::ServerThrottled),
            (Doing::Stopped, Cause::ClientStopped, Cause::ServerStopped),
            (Doing::Blocked, Cause::ClientBlocked, Cause::ServerBlocked),
            (Doing::Interrupts, Cause::ClientInterrupts, Cause::ServerInterrupts),
            (Doing::Asleep, Cause::ClientPacing, Cause::ServerBlocked),
            (Doing::Unknown, Cause::Unexplained, Cause::Unexplained),
            (Doing::Contradicted, Cause::Unexplained, Cause::Unexplained),
        ] {
            let mut found = Evidence { send_lag: Spent::all(doing, 100_000), ..evidence() };
            let at_server = Spent::all(doing, 30_000);
            found.server_service = at_server;
            let mut expected = PerCause::default();
            for (cause, us) in [(client, 100), (server, 30), (BUSY, 40), (WAY, 20), (WAITED, 15)] {
                expected[cause] += us;
            }
            expected[SERVER] += 5;
            let attributed = attribute(DUE, 210_000, Some(&request()), &found);
            assert_eq!(attributed.causes_ns.map(|ns| ns / 1000), expected, "{doing:?}");
        }
    }

    #[test]
    fn a_thread_that_is_being_woken_is_the_ways_and_one_that_sleeps_on_is_blocked() {
        let lag = |ns| Spent::all(Doing::Asleep, ns);
        let mut found = evidence();
        found.server_wait = lag(15_000);
        let way = [(BUSY, 140), (WAY, 35), (SERVER, 30), (UNKNOWN, 5)];
        check(Some(request()), &found, 210, &way);
        found.client_receive = lag(40_000);
        let blocked =
            [(BUSY, 100), (Cause::ClientBlocked, 40), (WAY, 35), (SERVER, 30), (UNKNOWN, 5)];
        check(Some(request()), &found, 210, &blocked);
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
        let causes = [(BUSY, 140), (Cause::NetworkLoss, 200_020), (WAITED, 15), (SERVER, 35)];
        check(Some(lost), &evidence(), 200_210, &causes);
    }

    #[test]
    fn a_request_without_an_answer_is_explained_as_far_as_its_instants_go() {
        let stopped = |ns| Spent::all(Doing::Stopped, ns);
        let found = Evidence {
            server_wait: stopped(890_000),
            server_service: stopped(870_000),
            client_receive: stopped(830_000),
            ..evidence()
        };
        let whole = request();
        let unanswered = Request { ready_ns: None, read_ns: None, ..whole };
        // Ready at the server after 110 µs, and then never read.
        let unread = Request { server_read_ns: None, answered_ns: None, ..unanswered };
        let causes = [(BUSY, 100), (WAY, 10), (Cause::ServerStopped, 890)];
        check(Some(unread), &found, 1000, &causes);
        // Read, and not answered.
        let read = Request { answered_ns: None, ..unanswered };
        let while_read = Evidence { server_wait: evidence().server_wait, ..found };
        let causes =
            [(BUSY, 100), (WAY, 10), (WAITED, 15), (SERVER, 5), (Cause::ServerStopped, 870)];
        check(Some(read), &while_read, 1000, &causes);
        // Answered, and the answer never came.
        let causes = [(BUSY, 100), (WAY, 850), (WAITED, 15), (SERVER, 35)];
        check(Some(unanswered), &evidence(), 1000, &causes);
        // It came, and was not read.
        let came = Request { read_ns: None, ..whole };
        let while_ready = Evidence { client_receive: stopped(830_000), ..evidence() };
        let causes =
            [(BUSY, 100), (WAY, 20), (WAITED, 15), (SERVER, 35), (Cause::ClientStopped, 830)];
        check(Some(came), &while_ready, 1000, &causes);
        // It was read, and its coming was not seen: nothing is known of the rest.
        let unseen = Request { ready_ns: None, ..whole };
        let causes = [(BUSY, 100), (WAY, 10), (WAITED, 15), (SERVER, 35), (UNKNOWN, 50)];
        check(Some(unseen), &evidence(), 210, &causes);
        let unseen = Request { server_ready_ns: None, server_read_ns: None, ..unseen };
        let unseen = Request { answered_ns: None, ..unseen };
        check(Some(unseen), &evidence(), 210, &[(BUSY, 100), (UNKNOWN, 110)]);
        // It never came to the server; or was never sent.
        let sent = Request { server_ready_ns: None, ..unread };
        check(Some(sent), &evidence(), 1000, &[(BUSY, 100), (WAY, 900)]);
        let held = Evidence { send_lag: stopped(1_000_000), ..Evidence::default() };
        check(None, &held, 1000, &[(Cause::ClientStopped, 1000)]);
        // The entry still has the request before this one.
        let stale = Request { sent_ns: DUE - 1, ..whole };
        check(Some(stale), &held, 1000, &[(Cause::ClientStopped, 1000)]);
    }

    #[test]
    fn what_is_not_known_or_contradicts_itself_is_unexplained() {
        let nothing = Evidence::default();
        check(None, &nothing, 500, &[(UNKNOWN, 500)]);
        check(Some(request()), &nothing, 210, &[(WAY, 20), (UNKNOWN, 190)]);
        // More waiting than there was time.
        let too_much = Evidence { send_lag: Spent::all(Doing::WaitOther, 500_000), ..evidence() };
        let causes = [(BUSY, 40), (WAY, 20), (WAITED, 15), (SERVER, 35), (UNKNOWN, 100)];
        check(Some(request()), &too_much, 210, &causes);
        // The other end was not seen.
        let half =
            Request { server_ready_ns: None, server_read_ns: None, answered_ns: None, ..request() };
        check(Some(half), &evidence(), 210, &[(BUSY, 140), (UNKNOWN, 70)]);
        // The server's clock went backwards by 5: negative time counts by its size, too.
        let odd = Request { server_read_ns: Some(DUE + 105_000), ..request() };
        let attributed = attribute(DUE, 210_000, Some(&odd), &evidence());
        let unknown_ns = attributed.causes_ns[Cause::Unexplained];
        // 5 by the wait, and the 25 by which the service is longer than what is known of it.
        assert_eq!(unknown_ns, 30_000);
    }

    #[test]
    fn contradictions_are_counted_by_kind() {
        let check = |request: Request, found: &Evidence, latency_ns, expected: [u64; 3]| {
            let attributed = attribute(DUE, latency_ns, Some(&request), found);
            let Contradictions { order, too_long, clocks } = attributed.contradictions;
            assert_eq!([order, too_long, clocks], expected, "{request:?} {found:?}");
            // What contradicts itself makes no other cause longer.
            let causes = attribute(DUE, 210_000, Some(&self::request()), &evidence()).causes_ns;
            for (cause, ns) in attributed.causes_ns.iter().filter(|(it, _)| *it != UNKNOWN) {
                assert!(*ns <= causes[cause], "{cause:?}");
            }
        };
        check(request(), &evidence(), 210_000, [0; 3]);
        // What is missing contradicts nothing.
        check(request(), &Evidence::default(), 210_000, [0; 3]);
        let backwards = Request { server_read_ns: Some(DUE + 105_000), ..request() };
        check(backwards, &evidence(), 210_000, [1, 0, 0]);
        // Answered before it was sent: the way's length is negative.
        let way = Request { ready_ns: Some(DUE + 120_000), ..request() };
        check(
            way,
            &Evidence { client_receive: Spent::default(), ..evidence() },
            210_000,
            [1, 0, 0],
        );
        // Read after the client has read it.
        check(request(), &evidence(), 200_000, [1, 0, 0]);
        let too_long = Evidence { send_lag: Spent::all(Doing::WaitOther, 500_000), ..evidence() };
        check(request(), &too_long, 210_000, [0, 1, 0]);
        let odd = Spent::all(Doing::Contradicted, 40_000);
        check(request(), &Evidence { client_receive: odd, ..evidence() }, 210_000, [0, 0, 1]);
        let both = Evidence { client_receive: odd, ..too_long };
        check(backwards, &both, 210_000, [1, 1, 1]);
    }

    #[test]
    fn of_one_end_alone_what_its_thread_did_is_known() {
        let half = Request {
            server_ready_ns: None,
            server_read_ns: None,
            answered_ns: None,
            ready_ns: None,
            read_ns: None,
            ..request()
        };
        let check = |request: Option<Request>, found: &Evidence, expected: &[(Cause, u64)]| {
            let attributed = attribute_half(DUE, 1_000_000, request.as_ref(), found);
            let found = attributed.causes_ns.iter().filter(|(_, ns)| **ns > 0);
            let found: Vec<(Cause, u64)> = found.map(|(cause, ns)| (cause, ns / 1000)).collect();
            assert_eq!(found, expected, "{request:?}");
        };
        // The server, or the way, had it: which of them is not known here.
        check(Some(half), &evidence(), &[(BUSY, 100), (UNKNOWN, 900)]);
        let lost = Request { losses: 1, ..half };
        check(Some(lost), &evidence(), &[(BUSY, 100), (Cause::NetworkLoss, 900)]);
        // Answered, and the client was stopped before it read that.
        let stopped = Spent::all(Doing::Stopped, 830_000);
        let came = Request { ready_ns: Some(DUE + 170_000), ..half };
        let found = Evidence { client_receive: stopped, ..evidence() };
        check(Some(came), &found, &[(BUSY, 100), (UNKNOWN, 70), (Cause::ClientStopped, 830)]);
        let held = Spent::all(Doing::Stopped, 1_000_000);
        let found = Evidence { send_lag: held, ..Evidence::default() };
        let stale = Request { sent_ns: DUE - 1, ..half };
        check(Some(stale), &found, &[(Cause::ClientStopped, 1_000)]);
        check(None, &found, &[(Cause::ClientStopped, 1_000)]);
    }

    #[test]
    fn a_shared_stretch_says_not_that_a_sleeping_client_was_blocked() {
        let beside = Request { beside: true, ..request() };
        let asleep = Spent::all(Doing::Asleep, 40_000);
        let found = Evidence { client_receive: asleep, ..evidence() };
        let causes = [(BUSY, 100), (WAY, 20), (WAITED, 15), (SERVER, 35), (UNKNOWN, 40)];
        check(Some(beside), &found, 210, &causes);
    }
}
