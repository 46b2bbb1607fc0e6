//! Why a request took its time: asked of the witness when the request is over.

use std::net::SocketAddrV4;

use ebpf::Request;
use shard::ConnId;

use super::Crowd;
use crate::causes::{BeforeSend, Cause, Explained, explain};
use crate::joined::{self, Sampled};
use crate::slow::{Half, SlowRequest};
use crate::witness::before_send;

impl Crowd {
    /// The client's end of a user's connection.
    fn flow_of(&self, user: u32) -> SocketAddrV4 {
        let flow = self.share.global(user) - self.rules.first_flow;
        self.rules.flows.of(flow, u32::from(self.users[user as usize].ports))
    }

    /// Bytes are there for a connection, and will be read next.
    pub fn coming(&self, conn: ConnId) {
        if let (Some(witness), Some(user)) = (&self.witness, self.user_of(conn)) {
            witness.prepare(self.flow_of(user));
        }
    }

    /// An answer has come: accounts for its time, and keeps a record of it when it is among the
    /// slowest.
    pub(super) fn explain_answer(&mut self, user: u32, due_ns: u64, latency_ns: u64) {
        let wanted = self.slow.wants(latency_ns);
        if self.witness.is_none() && !wanted {
            return;
        }
        let from = self.flow_of(user);
        let at = &self.users[user as usize];
        let (phase, lag_us, slept_us) = (at.phase, at.lag_us, at.slept_us);
        let (mut seen, mut half) = (None, None);
        if let Some(witness) = &self.witness {
            if !witness.looks_at(from, due_ns) {
                self.causes.enter_unsampled(phase);
                return;
            }
            let request = witness.request(from, due_ns + latency_ns);
            let before = request.as_ref().map_or_else(BeforeSend::default, |request| {
                before_send(witness.as_ref(), request, due_ns, u64::from(slept_us) * 1000)
            });
            let explained = explain(due_ns, latency_ns, request.as_ref(), before);
            seen = request.map(|request| (request, explained));
            let fresh = request.filter(|request| request.sent_ns >= due_ns);
            half = fresh
                .filter(|request| self.rules.join && request.is_half())
                .map(|request| Half { request, before });
            if !self.is_in_sample(from, request.as_ref()) {
                self.causes.enter_unsampled(phase);
            } else if fresh.is_some_and(|request| request.mixed) {
                self.causes.enter_mixed(phase);
            } else if let Some(half) = half {
                let seconds = self.seconds(due_ns, latency_ns);
                self.pass_on(Sampled { from, phase, due_ns, latency_ns, seconds, half });
            } else {
                self.account(phase, due_ns, latency_ns, &explained);
            }
        }
        if wanted {
            let request = SlowRequest {
                user: self.share.global(user),
                from,
                phase,
                due_ns,
                send_lag_us: u64::from(lag_us),
                latency_us: latency_ns / 1000,
                seen: None,
                half,
            };
            self.slow.enter(request, seen);
        }
    }

    /// A shake has timed out: all of its time has one cause, if a loss is known, or none.
    pub(super) fn explain_timeout(&mut self, user: u32, due_ns: u64) {
        let Some(witness) = &self.witness else { return };
        let (latency_ns, from) = (self.rules.timeout_ns, self.flow_of(user));
        let phase = self.users[user as usize].phase;
        if !witness.looks_at(from, due_ns) {
            self.causes.enter_unsampled(phase);
            return;
        }
        let request = witness.request(from, due_ns + latency_ns);
        if !self.is_in_sample(from, request.as_ref()) {
            self.causes.enter_unsampled(phase);
            return;
        }
        let lost = request.is_some_and(|it| it.sent_ns >= due_ns && it.losses > 0);
        let mut explained = Explained::not(latency_ns);
        if lost {
            explained.causes.swap(Cause::NetworkLoss as usize, Cause::Unexplained as usize);
        }
        self.account(phase, due_ns, latency_ns, &explained);
    }

    fn account(&mut self, phase: u16, due_ns: u64, latency_ns: u64, explained: &Explained) {
        let seconds = self.seconds(due_ns, latency_ns);
        self.causes.enter(phase, latency_ns, explained, seconds);
        if let Some(segments) = explained.segments {
            self.recorder.record_segments(phase, segments);
        }
    }

    /// The Unix seconds in which a request was due and over.
    fn seconds(&self, due_ns: u64, latency_ns: u64) -> (u64, u64) {
        let second = |ns| self.clock.unix_second(ns);
        (second(due_ns), second(due_ns + latency_ns))
    }

    /// Whether a request counts: all do, unless they are joined with the server's ends elsewhere.
    fn is_in_sample(&self, from: SocketAddrV4, request: Option<&Request>) -> bool {
        !self.rules.join || request.is_none_or(|request| request.is_joined(from))
    }

    /// Has a request joined with the server's end of it by whoever can.
    fn pass_on(&mut self, request: Sampled) {
        if self.sampled.len() < joined::MOST {
            self.sampled.push(request);
        } else {
            self.causes.enter_unsampled(request.phase);
        }
    }
}
