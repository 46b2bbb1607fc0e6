//! Shakes: sent when they are due, timed out when they are not answered.

use attribution::Segment;
use wire::Frame;

use crate::load::attributing::Served;
use crate::load::punctual::LATE_NS;
use crate::load::state::{LoadGenerator, UserState};
use crate::transport::Transport;

/// Shakes that leave together, before answers are read and the clock is read again. Each is 5 to
/// 6 KB of sockets and buffers of both ends, which the other end finds in the cache if it takes its
/// turn now: 64 are half of an L2 cache of 1 MB (docs/decisions/0046-turns-of-both-ends.md).
const SENDS_PER_TURN: usize = 64;

/// Shakes of users who cannot shake that are counted in one turn.
const UNSENT_PER_TURN: usize = 1_024;

/// Shakes that a closed load begins in one poll, so that answers are read in between.
const SENDS_PER_POLL: usize = 256;

/// Shakes that are skipped in one poll at the end of a phase: a few milliseconds' work.
const SKIPS_PER_POLL: usize = 8_192;

impl LoadGenerator {
    /// Sends what is due by now, or a turn of it. Returns whether there may be more.
    ///
    /// Who is behind gives way after each turn. Both ends may share a CPU, and the other one then
    /// answers while what it was sent is in the cache; a backlog that goes out whole before it
    /// gets its turn costs half as much again.
    pub(super) fn shake_due(&mut self, net: &mut impl Transport) -> bool {
        if self.closed.is_some() {
            self.keep_closed_load(net, None);
            return false;
        }
        if self.running.as_ref().is_some_and(|run| run.skipping) {
            return true;
        }
        let phase = self.phase_index();
        let now_ns = net.now_ns();
        let (mut sent, mut unsent) = (0, 0);
        while sent < SENDS_PER_TURN && unsent < UNSENT_PER_TURN {
            let Some(pacer) = &mut self.pacer else { break };
            let Some((due_ns, user)) = pacer.next(now_ns).filter(|(due, _)| *due <= now_ns) else {
                break;
            };
            pacer.pop();
            let left = self.shake(net, phase, user, due_ns);
            sent += usize::from(left);
            unsent += usize::from(!left);
        }
        if sent > 0 {
            self.flush_and_record_lag(net, sent);
        }
        if sent < SENDS_PER_TURN {
            return unsent == UNSENT_PER_TURN;
        }
        net.give_way();
        true
    }

    /// The phase ends: what the client was too far behind to send is not sent at all, but counted.
    /// Returns whether that is done; there may be more than fits into one poll.
    pub(super) fn skip_rest(&mut self, now_ns: u64) -> bool {
        let Some(run) = &self.running else { return true };
        let (phase, end_ns) = (run.phase.index, run.end_ns);
        let Some(mut pacer) = self.pacer.take() else { return true };
        let mut skipped = 0;
        while skipped < SKIPS_PER_POLL as u64
            && let Some((due_ns, user)) = pacer.next(end_ns)
        {
            pacer.pop();
            skipped += 1;
            let latency_ns = now_ns.saturating_sub(due_ns);
            self.recorder.record_at_least(phase, latency_ns);
            self.attribute_skipped((phase, user), due_ns, latency_ns);
        }
        let has_more = pacer.has_more(end_ns);
        self.pacer = Some(pacer);
        for tally in [&mut self.tally, &mut self.tallies[usize::from(phase)]] {
            tally.offered += skipped;
            tally.skipped_late += skipped;
            tally.late_turns += skipped;
        }
        if let Some(run) = &mut self.running {
            run.skipping = has_more;
        }
        !has_more
    }

    /// Sends a shake, or skips it; returns whether it was sent.
    fn shake(&mut self, net: &mut impl Transport, phase: u16, user: u32, due_ns: u64) -> bool {
        let tallies = [&mut self.tally, &mut self.tallies[usize::from(phase)]];
        let at = &mut self.users[user as usize];
        let (online, waiting) = (at.state == UserState::Online, at.due_ns != 0);
        for tally in tallies {
            tally.offered += 1;
            tally.skipped_offline += u64::from(!online);
            tally.skipped_waiting += u64::from(online && waiting);
            tally.sent += u64::from(online && !waiting);
        }
        if !online || waiting {
            self.unsent.push(phase, user, due_ns);
            // Whether it could have started when it was due, a client that was late cannot tell.
            self.count_lateness(phase, due_ns, net.now_ns());
            return false;
        }
        at.due_ns = due_ns;
        at.phase = phase;
        // Under a closed load it is due when it leaves; under an open one, how late it is becomes
        // known when it has left.
        at.lag_us = 0;
        net.send(at.conn, &Frame::ShakeRequest { user: self.share.global(user) });
        self.timeouts.push_back((due_ns, user));
        true
    }

    /// Puts the last `sent` shakes on the wire and records how late each left.
    fn flush_and_record_lag(&mut self, net: &mut impl Transport, sent: usize) {
        net.flush();
        let left_ns = net.read_clock();
        let first = self.timeouts.len() - sent;
        for (due_ns, user) in self.timeouts.range(first..) {
            let at = &mut self.users[*user as usize];
            let lag_ns = left_ns.saturating_sub(*due_ns);
            at.lag_us = u32::try_from(lag_ns / 1000).unwrap_or(u32::MAX);
            self.recorder.record(at.phase, Segment::SendLag, lag_ns);
            let own_ns = self.punctuality.own_lag_ns(*due_ns, left_ns);
            if own_ns > self.rules.late_ns.min(LATE_NS) {
                for tally in [&mut self.tally, &mut self.tallies[usize::from(at.phase)]] {
                    tally.late_sends += u64::from(own_ns > self.rules.late_ns);
                    tally.late_turns += u64::from(own_ns > LATE_NS);
                }
            }
        }
    }

    /// Counts a shake that was not sent as late, if its turn came late by the client's own doing.
    fn count_lateness(&mut self, phase: u16, due_ns: u64, now_ns: u64) {
        if self.punctuality.own_lag_ns(due_ns, now_ns) > LATE_NS {
            self.tally.late_turns += 1;
            self.tallies[usize::from(phase)].late_turns += 1;
        }
    }

    /// A user is served, with an answer or a login: what waited for that could start now.
    /// `by` what it is served.
    pub(super) fn serve_waiting(&mut self, now_ns: u64, user: u32, by: Served) {
        if self.unsent.first_due_ns().is_none() {
            return;
        }
        let mut unsent = std::mem::take(&mut self.unsent);
        unsent.serve(user, |phase, due_ns| {
            let latency_ns = now_ns.saturating_sub(due_ns);
            self.recorder.record(phase, Segment::Latency, latency_ns);
            self.attribute_unsent((phase, user), due_ns, latency_ns, by);
        });
        self.unsent = unsent;
    }

    /// What has waited for as long as an answer may take waits no more.
    pub(super) fn expire_waiting(&mut self, now_ns: u64) {
        let timeout_ns = self.rules.timeout_ns;
        let until_ns = now_ns.saturating_sub(timeout_ns);
        if self.unsent.first_due_ns().is_none_or(|due_ns| due_ns > until_ns) {
            return;
        }
        let mut unsent = std::mem::take(&mut self.unsent);
        unsent.expire(until_ns, |phase, user, due_ns| {
            self.recorder.record_at_least(phase, timeout_ns);
            let is_online = self.users[user as usize].state == UserState::Online;
            let by = if is_online { Served::Not } else { Served::ByLogin };
            self.attribute_unsent((phase, user), due_ns, timeout_ns, by);
        });
        self.unsent = unsent;
    }

    /// Under a closed load: sends what is missing. `user` has just come online or been answered.
    pub(super) fn keep_closed_load(&mut self, net: &mut impl Transport, user: Option<u32>) {
        let phase = self.phase_index();
        let mut asked = 0;
        while let Some(closed) = self.closed.as_mut().filter(|closed| closed.missing > 0) {
            // All users were tried: the rest is busy or offline, and an answer brings them back
            // here.
            if asked == closed.users.min(SENDS_PER_POLL as u32) {
                return;
            }
            asked += 1;
            let next = user.filter(|_| asked == 1).unwrap_or_else(|| closed.next_user());
            let at = &self.users[next as usize];
            if at.state == UserState::Online && at.due_ns == 0 {
                closed.missing -= 1;
                let now_ns = net.now_ns();
                self.shake(net, phase, next, now_ns);
            }
        }
    }

    /// A shake of a closed load is over, however it ended: another may take its place.
    pub(super) fn closed_load_freed(&mut self, phase: u16) {
        if phase == self.phase_index()
            && let Some(closed) = &mut self.closed
        {
            closed.missing += 1;
        }
    }

    pub(super) fn time_out(&mut self, user: u32, due_ns: u64) {
        let at = &mut self.users[user as usize];
        if at.due_ns != due_ns {
            return;
        }
        at.due_ns = 0;
        at.owed = at.owed.saturating_add(1);
        let phase = at.phase;
        self.tally.timed_out += 1;
        self.tallies[usize::from(phase)].timed_out += 1;
        // One that was sent is added to those that were due when the second ends.
        self.recorder.record(phase, Segment::LatencySent, self.rules.timeout_ns);
        self.recorder.record(phase, Segment::LatencyAtLeast, self.rules.timeout_ns);
        self.attribute_timeout(user, due_ns);
        self.forget_shake(user);
        self.closed_load_freed(phase);
    }
}
