//! Splits the time of a request among the causes.
//!
//! Must not know: where the instants come from, or what a share is worth.

use serde::{Deserialize, Serialize};

use crate::causes::{Cause, PerCause};
use crate::request::{CpuWait, Request};
use crate::segments::{PerSegment, Segments};

/// What the client's thread did between the instant at which a shake was due and its send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeforeSend {
    /// Asleep: its timer had not fired yet.
    pub asleep_ns: u64,
    /// Waiting for a CPU.
    pub waited: CpuWait,
    /// Of the rest, how long it is not known whether it waited.
    #[serde(default)]
    pub unknown_ns: u64,
}

/// The time of a request, attributed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributed {
    /// By cause, in nanoseconds. What is negative or missing is unexplained.
    pub causes_ns: PerCause<u64>,
    /// From T1 on, in nanoseconds; `None` when an instant is missing.
    pub segments_ns: Option<PerSegment<u64>>,
}

impl Attributed {
    /// Nothing is known of a request but how long it took.
    pub fn unexplained(latency_ns: u64) -> Self {
        Self::to_one(Cause::Unexplained, latency_ns)
    }

    /// All of the time has one cause.
    pub fn to_one(cause: Cause, latency_ns: u64) -> Self {
        let mut causes_ns = PerCause::default();
        causes_ns[cause] = latency_ns;
        Self { causes_ns, segments_ns: None }
    }

    /// The cause that took most.
    pub fn dominant(&self) -> Cause {
        let most = Cause::ALL.into_iter().max_by_key(|cause| self.causes_ns[*cause]);
        most.unwrap_or(Cause::Unexplained)
    }
}

/// A stretch of a request's time, and what of it counts as which cause.
struct Stretch {
    length_ns: i64,
    /// Of the part in which the thread waited for a CPU that its program did not hold.
    waiting: Cause,
    /// Of the rest.
    rest: Cause,
    /// How long that part was; `None` when it is not known which thread it was.
    foreign_ns: Option<u64>,
}

/// Splits the time of a request that was due at `due_ns` and took `latency_ns` by the client's own
/// clock.
pub fn attribute(
    due_ns: u64,
    latency_ns: u64,
    request: Option<&Request>,
    before: BeforeSend,
) -> Attributed {
    // An instant of an earlier request is none of this one.
    let Some((request, segments)) = request
        .filter(|request| request.sent_ns >= due_ns)
        .and_then(|request| Some((request, request.segments()?)))
    else {
        return Attributed::unexplained(latency_ns);
    };
    let mut causes_ns = PerCause::default();
    let send_lag_ns = request.sent_ns - due_ns;
    attribute_send_lag(&mut causes_ns, send_lag_ns, before);
    let mut total_ns = send_lag_ns.cast_signed();
    let segments_ns = stretches(request, &segments).map(|stretch| {
        total_ns += stretch.length_ns;
        attribute_stretch(&mut causes_ns, &stretch)
    });
    causes_ns[Cause::Unexplained] += (latency_ns.cast_signed() - total_ns).unsigned_abs();
    Attributed { causes_ns, segments_ns: Some(segments_ns) }
}

/// From T0 to T1.
fn attribute_send_lag(causes_ns: &mut PerCause<u64>, send_lag_ns: u64, before: BeforeSend) {
    let foreign_ns = before.waited.foreign_ns.min(send_lag_ns);
    let own_ns = before.waited.own_ns.min(send_lag_ns - foreign_ns);
    let asleep_ns = before.asleep_ns.min(send_lag_ns - foreign_ns - own_ns);
    let unknown_ns = before.unknown_ns.min(send_lag_ns - foreign_ns - own_ns - asleep_ns);
    causes_ns[Cause::ClientRunqueue] += foreign_ns;
    causes_ns[Cause::ClientBusy] += send_lag_ns - foreign_ns - asleep_ns - unknown_ns;
    causes_ns[Cause::Unexplained] += asleep_ns + unknown_ns;
}

/// From T1 to T6.
fn stretches(request: &Request, segments: &Segments) -> PerSegment<Stretch> {
    let way = if request.losses > 0 { Cause::NetworkLoss } else { Cause::NetworkDelay };
    let of_thread = |length_ns, wait: Option<CpuWait>, [waiting, rest]: [Cause; 2]| Stretch {
        length_ns,
        waiting,
        rest,
        foreign_ns: wait.map(|wait| wait.foreign_ns),
    };
    let server = [Cause::ServerRunqueue, Cause::ServerBusy];
    let client = [Cause::ClientRunqueue, Cause::ClientBusy];
    PerSegment {
        network: Stretch {
            length_ns: segments.network_ns,
            waiting: way,
            rest: way,
            foreign_ns: Some(0),
        },
        server_wait: of_thread(segments.server_wait_ns, request.server_wait, server),
        server_service: of_thread(segments.server_service_ns, request.server_service, server),
        client_receive_lag: of_thread(
            segments.client_receive_lag_ns,
            request.client_receive,
            client,
        ),
    }
}

/// Returns the length of the stretch in nanoseconds, 0 where instants disagree.
fn attribute_stretch(causes_ns: &mut PerCause<u64>, stretch: &Stretch) -> u64 {
    let Ok(length_ns) = u64::try_from(stretch.length_ns) else {
        causes_ns[Cause::Unexplained] += stretch.length_ns.unsigned_abs();
        return 0;
    };
    match stretch.foreign_ns {
        Some(foreign_ns) => {
            let foreign_ns = foreign_ns.min(length_ns);
            causes_ns[stretch.waiting] += foreign_ns;
            causes_ns[stretch.rest] += length_ns - foreign_ns;
        }
        // Whose thread it was is not known, so neither is what it did.
        None => causes_ns[Cause::Unexplained] += length_ns,
    }
    length_ns
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{DUE, request};

    fn check(request: Option<Request>, before: BeforeSend, latency_us: u64, us: [u64; 7]) {
        let attributed = attribute(DUE, latency_us * 1000, request.as_ref(), before);
        assert_eq!(attributed.causes_ns.map(|ns| ns / 1000).0, us, "{request:?}");
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
        let attributed = attribute(DUE, 210_000, Some(&odd), nothing);
        assert_eq!(attributed.causes_ns[Cause::Unexplained], 5_000);
    }
}
