//! Why a request took its time: read from the traces when the request is over.

use std::net::SocketAddrV4;

use attribution::{
    Attributed, ClientSide, Doing, Evidence, Request, Sampled, Seconds, SlowRequest, attribute,
    attribute_half, is_joined_at,
};
use shard::ConnId;

use crate::load::state::LoadGenerator;
use crate::traces::{TraceReader, evidence};

/// Requests of a second and shard that are passed on: at one in 64, more than a shard can make.
const MOST_SAMPLED: usize = 4096;

/// A request that is over.
#[derive(Clone, Copy)]
struct Over {
    phase: u16,
    from: SocketAddrV4,
    due_ns: u64,
    latency_ns: u64,
}

/// What the traces have of a request.
struct Traced {
    request: Option<Request>,
    evidence: Evidence,
    attributed: Attributed,
}

/// What ended the waiting of a shake that could not start.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Served {
    /// The calling thread has just read its user's answer.
    ByAnswer,
    /// Its user has just logged in, or has not come back.
    ByLogin,
    /// Nothing: its time was up.
    Not,
}

impl Over {
    /// Looks up what became of the latest request of the connection. `answered`: the calling thread
    /// has just read its answer.
    fn look_up(
        &self,
        traces: &dyn TraceReader,
        mut request: Option<Request>,
        answered: bool,
    ) -> Traced {
        let end_ns = self.due_ns + self.latency_ns;
        if let Some(request) = request.as_mut().filter(|_| answered) {
            request.read_at(end_ns);
        }
        let evidence = request
            .as_ref()
            .map(|request| evidence(traces, request, self.due_ns, end_ns))
            .unwrap_or_default();
        let attributed = attribute(self.due_ns, self.latency_ns, request.as_ref(), &evidence);
        Traced { request, evidence, attributed }
    }

    /// Looks up what the client's end has of a request that this shake had to wait for.
    fn half_of(&self, traces: &dyn TraceReader, mut request: Request) -> ClientSide {
        let end_ns = self.due_ns + self.latency_ns;
        request.read_at(end_ns);
        let evidence = evidence(traces, &request.since(self.due_ns), self.due_ns, end_ns);
        ClientSide { request, evidence }
    }

    /// Looks up what is left of a request since this shake was due that had to wait for it.
    fn look_up_rest(&self, traces: &dyn TraceReader, request: Request, by: Served) -> Attributed {
        let end_ns = self.due_ns + self.latency_ns;
        let mut rest = request.since(self.due_ns);
        if by == Served::ByAnswer {
            rest.read_at(end_ns);
        }
        let mut evidence = evidence(traces, &rest, self.due_ns, end_ns);
        // Until then it waited for something else, which is not known.
        let asleep_ns = std::mem::take(&mut evidence.send_lag[Doing::Asleep]);
        evidence.send_lag[Doing::Unknown] += asleep_ns;
        attribute(self.due_ns, self.latency_ns, Some(&rest), &evidence)
    }

    /// What the traces have, if it is of this request and not of an earlier one.
    fn own<'a>(&self, request: Option<&'a Request>) -> Option<&'a Request> {
        request.filter(|request| request.sent_ns >= self.due_ns)
    }
}

impl LoadGenerator {
    /// The client's end of a user's connection.
    fn flow_of(&self, user: u32) -> SocketAddrV4 {
        let flow = self.share.global(user) - self.rules.first_flow;
        self.rules.flows.of(flow, u32::from(self.users[user as usize].ports))
    }

    /// A user sends something else. Of a connection the traces have the latest frame only: what
    /// they have of a shake under way is kept.
    pub(super) fn keep_shake(&mut self, user: u32) {
        let Some(traces) = &self.traces else { return };
        let due_ns = self.users[user as usize].due_ns;
        let from = self.flow_of(user);
        if due_ns == 0 || self.overtaken.contains_key(&user) || !traces.has(from, due_ns) {
            return;
        }
        // If the shake leaves together with what follows, that hides nothing.
        if let Some(request) = traces.request(from).filter(|request| request.sent_ns >= due_ns) {
            self.overtaken.insert(user, request);
        }
    }

    /// A user's shake is over.
    pub(super) fn forget_shake(&mut self, user: u32) {
        if !self.overtaken.is_empty() {
            self.overtaken.remove(&user);
        }
    }

    /// The latest request of a user's connection, whatever the user has sent since.
    fn request_of(
        &self,
        traces: &dyn TraceReader,
        (user, from): (u32, SocketAddrV4),
    ) -> Option<Request> {
        match self.overtaken.get(&user) {
            Some(request) => Some(traces.request_behind(from, *request)),
            None => traces.request(from),
        }
    }

    /// Bytes are there for a connection, and will be read next.
    pub(crate) fn prefetch(&self, conn: ConnId) {
        if let (Some(traces), Some(user)) = (&self.traces, self.user_of(conn)) {
            traces.prepare(self.flow_of(user));
        }
    }

    /// An answer has come: attributes its time, and keeps a record of it when it is among the
    /// slowest.
    pub(super) fn attribute_answer(&mut self, user: u32, due_ns: u64, latency_ns: u64) {
        let wanted = self.slow.wants(latency_ns);
        if self.traces.is_none() && !wanted {
            return;
        }
        let at = &self.users[user as usize];
        let lag_us = at.lag_us;
        let over = Over { phase: at.phase, from: self.flow_of(user), due_ns, latency_ns };
        let (mut seen, mut client_side) = (None, None);
        if let Some(traces) = &self.traces {
            if !traces.has(over.from, due_ns) {
                self.causes.enter_unsampled(over.phase, over.latency_ns);
                return;
            }
            let request = self.request_of(traces.as_ref(), (user, over.from));
            let traced = over.look_up(traces.as_ref(), request, true);
            client_side = self.record_traced(&over, &traced);
            seen = traced.request.map(|request| (request, traced.attributed));
        }
        if wanted {
            let request = SlowRequest {
                user: self.share.global(user),
                from: over.from,
                phase: over.phase,
                due_ns,
                send_lag_us: u64::from(lag_us),
                latency_us: latency_ns / 1000,
                trace: None,
                client_side,
            };
            self.slow.enter(request, seen);
        }
    }

    /// Enters a request into the sums of its second. Returns the client's end of it, if the other
    /// end is to be joined elsewhere.
    fn record_traced(&mut self, over: &Over, traced: &Traced) -> Option<ClientSide> {
        let own = over.own(traced.request.as_ref());
        let client_side = own
            .filter(|request| self.rules.join && request.is_half())
            .map(|request| ClientSide { request: *request, evidence: traced.evidence });
        if !self.is_in_sample(over.from, traced.request.as_ref()) {
            self.causes.enter_unsampled(over.phase, over.latency_ns);
        } else if own.is_some_and(|request| request.mixed) {
            self.causes.enter_mixed(over.phase, over.latency_ns);
        } else if let Some(client_side) = client_side {
            self.pass_on(over, client_side);
        } else {
            self.record(over, &traced.attributed);
        }
        client_side
    }

    /// A shake has timed out: explained as far as its instants go. Where the server's end is
    /// another host's, what the client's own thread did, and a loss, are known.
    pub(super) fn attribute_timeout(&mut self, user: u32, due_ns: u64) {
        let Some(traces) = &self.traces else { return };
        let over = Over {
            phase: self.users[user as usize].phase,
            from: self.flow_of(user),
            due_ns,
            latency_ns: self.rules.timeout_ns,
        };
        if !traces.has(over.from, due_ns) {
            self.causes.enter_unsampled(over.phase, over.latency_ns);
            return;
        }
        let request = self.request_of(traces.as_ref(), (user, over.from));
        let traced = over.look_up(traces.as_ref(), request, false);
        let request = traced.request.as_ref();
        if !self.is_in_sample(over.from, request) {
            self.causes.enter_unsampled(over.phase, over.latency_ns);
            return;
        }
        let attributed = if self.rules.join {
            attribute_half(due_ns, over.latency_ns, request, &traced.evidence)
        } else {
            traced.attributed
        };
        self.record(&over, &attributed);
    }

    /// A shake that could not start is over: what kept it is the rest of the request that its user
    /// waited for. What kept a user offline is not known.
    pub(super) fn attribute_unsent(
        &mut self,
        (phase, user): (u16, u32),
        due_ns: u64,
        latency_ns: u64,
        served: Served,
    ) {
        let Some(traces) = &self.traces else { return };
        let over = Over { phase, from: self.flow_of(user), due_ns, latency_ns };
        let request = self.request_of(traces.as_ref(), (user, over.from));
        let request = request.filter(|_| served != Served::ByLogin);
        // On a fleet it is in the sample when what it waited for is.
        let in_sample = match &request {
            Some(request) => self.is_in_sample(over.from, Some(request)),
            None => self.is_in_sample_at(&over),
        };
        if !in_sample || !traces.has(over.from, due_ns) {
            self.causes.enter_unsampled(phase, latency_ns);
            return;
        }
        if request.is_some_and(|request| request.mixed) {
            self.causes.enter_mixed(phase, latency_ns);
            return;
        }
        let attributed = match request {
            Some(request) if self.rules.join && served == Served::ByAnswer => {
                let half = over.half_of(traces.as_ref(), request);
                return self.pass_on(&over, half);
            }
            // What kept it, the other host has not told by then.
            Some(request) if self.rules.join => {
                let rest = request.since(due_ns);
                let evidence = evidence(traces.as_ref(), &rest, due_ns, due_ns + latency_ns);
                attribute_half(due_ns, latency_ns, Some(&rest), &evidence)
            }
            Some(request) => over.look_up_rest(traces.as_ref(), request, served),
            None => Attributed::unexplained(latency_ns),
        };
        // Its segments are those of the request, which counts itself.
        self.causes.enter(phase, latency_ns, &attributed, self.seconds(&over));
    }

    /// A shake is not sent any more, because the client came too late to it: the client's own
    /// thread had all of its time.
    pub(super) fn attribute_skipped(
        &mut self,
        (phase, user): (u16, u32),
        due_ns: u64,
        latency_ns: u64,
    ) {
        let Some(traces) = &self.traces else { return };
        let over = Over { phase, from: self.flow_of(user), due_ns, latency_ns };
        if !self.is_in_sample_at(&over) || !traces.has(over.from, due_ns) {
            self.causes.enter_unsampled(phase, latency_ns);
            return;
        }
        let spent =
            |request: Request| traces.spent(request.client_slot, due_ns, due_ns + latency_ns);
        let send_lag = traces.request(over.from).map(spent).unwrap_or_default();
        let evidence = Evidence { send_lag, ..Evidence::default() };
        let attributed = attribute(due_ns, latency_ns, None, &evidence);
        self.causes.enter(phase, latency_ns, &attributed, self.seconds(&over));
    }

    fn record(&mut self, over: &Over, attributed: &Attributed) {
        self.causes.enter(over.phase, over.latency_ns, attributed, self.seconds(over));
        if let Some(segments_ns) = attributed.segments_ns {
            self.recorder.record_segments(over.phase, segments_ns);
        }
    }

    fn seconds(&self, over: &Over) -> Seconds {
        let second = |ns| self.clock.unix_second(ns);
        Seconds { due: second(over.due_ns), over: second(over.due_ns + over.latency_ns) }
    }

    /// Whether a request counts: all do, unless they are joined with the server's ends elsewhere.
    fn is_in_sample(&self, from: SocketAddrV4, request: Option<&Request>) -> bool {
        !self.rules.join || request.is_none_or(|request| request.is_joined(from))
    }

    /// The same of a shake that was never sent: its due instant takes the place of its first byte.
    fn is_in_sample_at(&self, over: &Over) -> bool {
        !self.rules.join || is_joined_at(over.from, over.due_ns)
    }

    /// Passes a request on to where it is joined with the server's end of it.
    fn pass_on(&mut self, over: &Over, client_side: ClientSide) {
        if self.sampled.len() < MOST_SAMPLED {
            let Over { phase, from, due_ns, latency_ns } = *over;
            let seconds = self.seconds(over);
            let sampled = Sampled { from, phase, due_ns, latency_ns, seconds, client_side };
            self.sampled.push(sampled);
        } else {
            self.causes.enter_unsampled(over.phase, over.latency_ns);
        }
    }
}

#[cfg(test)]
mod tests;
