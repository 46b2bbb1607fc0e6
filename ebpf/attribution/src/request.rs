//! What the kernel saw of one request, put together from both ends' stamps.

use events::{ClientPart, FlowEntry, ServerPart, client, server};
use serde::{Deserialize, Serialize};

use crate::segments::Segments;

/// What the kernel saw of one request. Instants are CLOCK_MONOTONIC nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The request's first byte in the stream.
    pub sequence: u32,
    /// Its exclusive end in the stream.
    pub end: u32,
    /// The answer's first byte.
    pub answer: u32,
    /// T1: the client's send began.
    pub sent_ns: u64,
    /// T2: ready at the server.
    pub server_ready_ns: Option<u64>,
    /// T3: read by the server.
    pub server_read_ns: Option<u64>,
    /// T4: the server's send began.
    pub answered_ns: Option<u64>,
    /// T5: the answer was ready.
    pub ready_ns: Option<u64>,
    /// T6: the answer was read.
    pub read_ns: Option<u64>,
    /// Drops of the connection, and retransmissions that were needed, either way, from T1 to T5 (or
    /// till now).
    pub losses: u32,
    /// The request shared its stretch of the stream with another frame, and what is whose cannot be
    /// told.
    pub mixed: bool,
    /// It shared its stretch with another frame, and was told apart by its first byte.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub beside: bool,
    /// When data that came before the request was ready at the server, if it has not been read yet:
    /// until then the request cannot be, wherever it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread_ns: Option<u64>,
    /// The slot of the client's thread among the watched threads; 0 for none.
    pub client_slot: u16,
    /// The same of the server's thread.
    pub server_slot: u16,
}

impl Request {
    /// Puts together what belongs together. `None` if nothing was sent yet.
    pub fn of(entry: &FlowEntry) -> Option<Self> {
        let mine = &entry.client;
        let has = |bit: u16| mine.flags & bit != 0;
        if !has(client::SENT) {
            return None;
        }
        let sent = Self {
            sequence: mine.sequence,
            end: mine.sequence.wrapping_add(mine.length),
            answer: mine.answer,
            sent_ns: mine.sent_ns,
            server_ready_ns: None,
            server_read_ns: None,
            answered_ns: None,
            ready_ns: has(client::READY).then_some(mine.ready_ns),
            read_ns: has(client::READ).then_some(mine.read_ns),
            losses: losses(mine),
            mixed: false,
            beside: has(client::SHARED),
            unread_ns: None,
            client_slot: mine.slot,
            server_slot: 0,
        };
        Some(sent.with_server_part(mine, &entry.server))
    }

    /// This request as it is now that its user has sent other frames after it: what was known of it
    /// before the first of them left, and what the entry has of it since.
    #[must_use]
    pub fn behind(self, entry: &FlowEntry) -> Self {
        let mine = &entry.client;
        if mine.flags & client::SENT == 0 || mine.sequence == self.sequence {
            return Self::of(entry).unwrap_or(self);
        }
        if self.ready_ns.is_some() {
            // Its answer came before.
            return self;
        }
        let has = |bit: u16| mine.flags & bit != 0;
        let later = Self {
            ready_ns: has(client::READY).then_some(mine.ready_ns),
            read_ns: has(client::READ).then_some(mine.read_ns),
            losses: self.losses + losses(mine),
            beside: true,
            ..self
        };
        let known = later.answered_ns.is_some();
        let seen = if known { later } else { later.with_server_part(mine, &entry.server) };
        let theirs = &entry.server;
        // The server's line has a later frame, or its answer came before that frame left: what was
        // seen of it then has been overwritten.
        let lost = !known && follows(theirs.sequence, self.sequence) && theirs.flags != 0;
        let came = seen.answered_ns.is_some() && follows(mine.answer, theirs.answer);
        Self { mixed: seen.mixed || lost || came, ..seen }
    }

    /// With what the server's end of the connection has of it, in this kernel.
    fn with_server_part(self, mine: &ClientPart, theirs: &ServerPart) -> Self {
        let same = theirs.sequence == self.sequence;
        let has = |bit: u16| theirs.flags & bit != 0;
        let unread = !same
            && theirs.flags & (server::READY | server::READ) == server::READY
            && follows(self.sequence, theirs.sequence);
        // Read at once with what came before it: it was not there before it was sent.
        let read = theirs.has_read(self.sequence);
        let its = same || read;
        let at = |bit: u16, ns: u64| (its && has(bit)).then_some(ns);
        let ready_ns = if same { theirs.ready_ns } else { theirs.ready_ns.max(self.sent_ns) };
        let of_both = if unread { Some(ready_ns) } else { at(server::READY, ready_ns) };
        let in_pieces = read && follows(self.end, theirs.end);
        let answered = theirs.has_answered(self.sequence);
        // What came first began where the answer does, or something else came before.
        let is_early =
            mine.flags & (client::READY | client::EARLY) == client::READY | client::EARLY;
        let early = is_early && theirs.answer != mine.answer;
        // Without the server's end what came first cannot be told from its answer.
        let unseen = theirs.flags == 0 && self.beside;
        Self {
            server_ready_ns: of_both,
            server_read_ns: at(server::READ, theirs.read_ns),
            answered_ns: at(server::ANSWERED, theirs.answered_ns),
            mixed: self.mixed || in_pieces || unseen || (answered && early),
            beside: self.beside || unread || (read && (!same || theirs.end != self.end)),
            unread_ns: unread.then_some(theirs.ready_ns),
            server_slot: theirs.slot,
            ..self
        }
    }

    /// Enters T6 as the client measured it: when its thread had read the answer.
    #[inline]
    pub fn read_at(&mut self, now_ns: u64) {
        self.read_ns.get_or_insert(now_ns);
    }

    /// What is left of it from an instant on: for a shake that waits for its end.
    #[must_use]
    pub fn since(self, due_ns: u64) -> Self {
        let later = |ns: Option<u64>| ns.map(|ns| ns.max(due_ns));
        Self {
            sent_ns: if self.unread_ns.is_some() { due_ns } else { self.sent_ns.max(due_ns) },
            server_ready_ns: later(self.unread_ns.or(self.server_ready_ns)),
            server_read_ns: later(self.server_read_ns),
            answered_ns: later(self.answered_ns),
            ready_ns: later(self.ready_ns),
            read_ns: later(self.read_ns),
            ..self
        }
    }

    /// T1 to T6.
    pub fn instants_ns(&self) -> [Option<u64>; 6] {
        [
            Some(self.sent_ns),
            self.server_ready_ns,
            self.server_read_ns,
            self.answered_ns,
            self.ready_ns,
            self.read_ns,
        ]
    }

    /// T2 to T4 and the rest, in order; negative where clocks or the kernel's order disagree.
    #[inline]
    pub fn segments(&self) -> Option<Segments> {
        let span = |from: u64, to: u64| to.wrapping_sub(from).cast_signed();
        let (t2, t3, t4) = (self.server_ready_ns?, self.server_read_ns?, self.answered_ns?);
        let (t5, t6) = (self.ready_ns?, self.read_ns?);
        Some(Segments {
            network_ns: span(self.sent_ns, t5) - span(t2, t4),
            server_wait_ns: span(t2, t3),
            server_service_ns: span(t3, t4),
            client_receive_lag_ns: span(t5, t6),
        })
    }
}

/// Drops, and the retransmissions that were needed, as far as the timestamps of the segment that
/// brought the answer tell.
fn losses(mine: &ClientPart) -> u32 {
    let has = |bit: u16| mine.flags & bit != 0;
    let (losses, resends) = if has(client::READY) {
        (mine.losses_at_ready, mine.resends_at_ready)
    } else {
        (mine.losses as u16, mine.resends as u16)
    };
    let request_lost = mine.resent_stamp != 0 && !has(client::REQUEST_IN_TIME);
    let answer_lost = mine.answer_resent_stamp != 0 && !has(client::ANSWER_IN_TIME);
    let resent = mine.resent_stamp | mine.answer_resent_stamp != 0;
    let needless = resent && !request_lost && !answer_lost;
    let resends = if needless { 0 } else { resends.wrapping_sub(mine.resends_at_send) };
    u32::from(losses.wrapping_sub(mine.losses_at_send)) + u32::from(resends)
}

/// Whether a byte of the stream comes after another one.
fn follows(byte: u32, other: u32) -> bool {
    byte.wrapping_sub(other).cast_signed() > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered() -> FlowEntry {
        let mut entry = FlowEntry::default();
        entry.client.flags = client::SENT | client::READY | client::READ;
        (entry.client.sequence, entry.client.length, entry.client.answer) = (u32::MAX - 3, 20, 7);
        (entry.client.sent_ns, entry.client.ready_ns, entry.client.read_ns) = (10, 60, 70);
        entry.server.flags = server::READY | server::READ | server::ANSWERED;
        (entry.server.sequence, entry.server.end, entry.server.answer) = (u32::MAX - 3, 16, 7);
        (entry.server.ready_ns, entry.server.read_ns, entry.server.answered_ns) = (20, 30, 45);
        entry
    }

    #[test]
    fn instants_of_one_request_make_its_segments() {
        let request = Request::of(&answered()).expect("sent");
        assert!(!request.mixed);
        let expected = Segments {
            network_ns: 25,
            server_wait_ns: 10,
            server_service_ns: 15,
            client_receive_lag_ns: 10,
        };
        assert_eq!(request.segments(), Some(expected));
    }

    #[test]
    fn frames_that_share_a_stretch_are_split_at_their_first_bytes() {
        let check = |change: fn(&mut FlowEntry), instants: [u64; 3]| {
            let mut entry = answered();
            change(&mut entry);
            let request = Request::of(&entry).expect("sent");
            assert!(request.beside && !request.mixed, "{request:?}");
            let Request { server_ready_ns, server_read_ns, answered_ns, .. } = request;
            assert_eq!([server_ready_ns, server_read_ns, answered_ns], instants.map(Some));
            assert!(request.segments().is_some(), "{request:?}");
        };
        // Read at once with a text before it, that was there before it was sent, or after.
        let with_one_before = |entry: &mut FlowEntry| {
            (entry.server.sequence, entry.server.ready_ns) = (u32::MAX - 23, 4);
        };
        check(with_one_before, [10, 30, 45]);
        check(|entry| entry.server.sequence = u32::MAX - 23, [20, 30, 45]);
        // Read at once with a text after it.
        check(|entry| entry.server.end = 36, [20, 30, 45]);
        // Sent while a text before it was unanswered.
        check(|entry| entry.client.flags |= client::SHARED, [20, 30, 45]);
        // A notice came before the answer, and T5 is the answer's.
        let mut entry = answered();
        entry.server.answer = 30;
        assert!(!Request::of(&entry).expect("sent").mixed);
    }

    #[test]
    fn a_text_that_follows_a_shake_does_not_hide_it() {
        let mut entry = answered();
        entry.client.flags = client::SENT;
        (entry.server.sequence, entry.server.flags) = (0, 0);
        let shake = Request::of(&entry).expect("sent");
        // The text left 8 ns after it, and the server read both.
        let mut after = answered();
        (after.client.sequence, after.client.length, after.client.sent_ns) = (16, 30, 18);
        after.server.end = 46;
        let whole = shake.behind(&after);
        assert!(whole.beside && !whole.mixed, "{whole:?}");
        assert_eq!(whole.instants_ns(), [10, 20, 30, 45, 60, 70].map(Some));
        assert_eq!((whole.sequence, whole.end), (u32::MAX - 3, 16));
        // It was read before the text was there, and only the text's reading is left.
        (after.server.sequence, after.server.ready_ns) = (16, 50);
        assert!(shake.behind(&after).mixed);
        // The same, and nothing has come since the text left.
        after.client.flags = client::SENT;
        assert!(shake.behind(&after).mixed);
        // Its answer came before the text left, and after what is known of it.
        let mut came = answered();
        (came.client.sequence, came.client.answer, came.server.end) = (16, 27, 46);
        assert!(shake.behind(&came).mixed);
        // Its answer came before the text left.
        let before = Request::of(&answered()).expect("sent");
        assert_eq!(before.behind(&after), before);
        // The text has not left yet.
        assert_eq!(shake.behind(&answered()), before);
    }

    #[test]
    fn what_belongs_to_another_request_is_left_out_or_called_mixed() {
        let check = |change: fn(&mut FlowEntry), whole: bool, mixed: bool| {
            let mut entry = answered();
            change(&mut entry);
            let request = Request::of(&entry).expect("sent");
            assert_eq!((request.segments().is_some(), request.mixed), (whole, mixed), "{entry:?}");
        };
        // An older request of the server's.
        let older = |entry: &mut FlowEntry| {
            (entry.server.sequence, entry.server.end) = (u32::MAX - 23, u32::MAX - 3);
        };
        check(older, false, false);
        // Read in pieces.
        check(|entry| entry.server.end = 10, true, true);
        // A notice came, and the answer has not been seen.
        let noticed = |entry: &mut FlowEntry| {
            (entry.client.flags, entry.server.answer) = (entry.client.flags | client::EARLY, 30);
        };
        check(noticed, true, true);
        // The same, and the server has not answered; or is not seen.
        let early = |entry: &mut FlowEntry| {
            entry.client.flags |= client::EARLY;
            entry.server.flags &= !server::ANSWERED;
        };
        check(early, false, false);
        check(|entry| entry.server.flags = 0, false, false);
        let unseen = |entry: &mut FlowEntry| {
            entry.client.flags |= client::EARLY | client::SHARED;
            entry.server.flags = 0;
        };
        check(unseen, false, true);
        assert_eq!(Request::of(&FlowEntry::default()), None);
    }

    #[test]
    fn behind_unread_data_a_request_waits_for_the_server() {
        let mut entry = answered();
        entry.client.flags = client::SENT;
        (entry.server.sequence, entry.server.flags) = (u32::MAX - 23, server::READY);
        let behind = Request::of(&entry).expect("sent");
        assert_eq!(
            (behind.sent_ns, behind.server_ready_ns, behind.unread_ns),
            (10, Some(20), Some(20))
        );
        entry.server.ready_ns = 4;
        let behind = Request::of(&entry).expect("sent");
        assert_eq!((behind.server_ready_ns, behind.unread_ns), (Some(10), Some(4)));
        // A shake that was due before it was sent waits for the server, too.
        let rest = behind.since(2);
        assert_eq!((rest.sent_ns, rest.server_ready_ns), (2, Some(4)));
        entry.server.flags |= server::READ;
        assert_eq!(Request::of(&entry).expect("sent").unread_ns, None);
    }

    #[test]
    fn the_rest_of_a_request_begins_when_it_is_asked_for() {
        let request = Request::of(&answered()).expect("sent");
        assert_eq!(request.since(3), request);
        let rest = request.since(40);
        let [t1, t2, t3, t4, t5, t6] = rest.instants_ns().map(|ns| ns.expect("all are known"));
        assert_eq!([t1, t2, t3, t4, t5, t6], [40, 40, 40, 45, 60, 70]);
    }

    #[test]
    fn what_was_sent_again_is_a_loss_unless_the_first_transmission_came() {
        let check = |change: fn(&mut ClientPart), losses: u32| {
            let mut entry = answered();
            change(&mut entry.client);
            assert_eq!(Request::of(&entry).expect("sent").losses, losses, "{entry:?}");
        };
        check(|_| {}, 0);
        check(|mine| mine.losses_at_ready = 1, 1);
        // Sent again, and nothing is known of which one came.
        check(|mine| (mine.resends_at_ready, mine.resent_stamp) = (2, 5), 2);
        check(
            |mine| {
                (mine.resends_at_ready, mine.resent_stamp) = (2, 5);
                mine.flags |= client::REQUEST_IN_TIME;
            },
            0,
        );
        // Both ends sent again, and only the request came at once.
        check(
            |mine| {
                (mine.resends_at_ready, mine.resent_stamp, mine.answer_resent_stamp) = (3, 5, 6);
                mine.flags |= client::REQUEST_IN_TIME;
            },
            3,
        );
        // A packet was dropped all the same.
        check(
            |mine| {
                (mine.resends_at_ready, mine.answer_resent_stamp) = (1, 6);
                mine.losses_at_ready = 1;
                mine.flags |= client::ANSWER_IN_TIME;
            },
            1,
        );
        // Not answered yet: all that was sent again counts.
        check(
            |mine| {
                mine.flags = client::SENT;
                (mine.losses, mine.resends, mine.resends_at_send, mine.resent_stamp) = (7, 9, 8, 1);
                mine.losses_at_send = 7;
            },
            1,
        );
    }
}
