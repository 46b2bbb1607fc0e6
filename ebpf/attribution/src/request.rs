//! What the kernel saw of one request, put together from both ends' stamps.

use events::{ClientPart, FlowEntry, client, server};
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
    /// The request shared its stretch of the stream with something else, as far as the kernel can
    /// tell; two frames in one send, it cannot.
    pub mixed: bool,
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
        let FlowEntry { client: mine, server: theirs } = entry;
        let has = |flags: u16, bit: u16| flags & bit != 0;
        if !has(mine.flags, client::SENT) {
            return None;
        }
        let same = theirs.sequence == mine.sequence;
        let at_server = |bit: u16, ns: u64| (same && has(theirs.flags, bit)).then_some(ns);
        let unread_ns = unread_before(entry).then_some(theirs.ready_ns);
        let behind_ns = unread_ns.map(|unread_ns| unread_ns.max(mine.sent_ns));
        let at_client = |bit: u16, ns: u64| has(mine.flags, bit).then_some(ns);
        Some(Self {
            sequence: mine.sequence,
            end: mine.sequence.wrapping_add(mine.length),
            answer: mine.answer,
            sent_ns: mine.sent_ns,
            server_ready_ns: at_server(server::READY, theirs.ready_ns).or(behind_ns),
            server_read_ns: at_server(server::READ, theirs.read_ns),
            answered_ns: at_server(server::ANSWERED, theirs.answered_ns),
            ready_ns: at_client(client::READY, mine.ready_ns),
            read_ns: at_client(client::READ, mine.read_ns),
            losses: losses(mine),
            mixed: has(mine.flags, client::SHARED) || shares_its_stretch(entry, same),
            unread_ns,
            client_slot: mine.slot,
            server_slot: theirs.slot,
        })
    }

    /// Enters T6 as the client measured it: when its thread had read the answer.
    #[inline]
    pub fn read_at(&mut self, now_ns: u64) {
        if self.ready_ns.is_some() {
            self.read_ns.get_or_insert(now_ns);
        }
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

/// Whether the server has data of this connection that came before the request and is unread.
fn unread_before(entry: &FlowEntry) -> bool {
    let FlowEntry { client: mine, server: theirs } = entry;
    let unread = theirs.flags & (server::READY | server::READ) == server::READY;
    unread && mine.sequence.wrapping_sub(theirs.sequence).cast_signed() > 0
}

/// Whether the two ends' stretches of the stream say that another frame was there too.
fn shares_its_stretch(entry: &FlowEntry, same: bool) -> bool {
    let FlowEntry { client: mine, server: theirs } = entry;
    if theirs.flags & server::READ == 0 {
        return false;
    }
    let mine_end = mine.sequence.wrapping_add(mine.length);
    if same {
        let answered = theirs.flags & server::ANSWERED != 0;
        return theirs.end != mine_end || (answered && theirs.answer != mine.answer);
    }
    // The server read it together with what came before it: its stretch begins before our first
    // byte and ends after it.
    let begins_before = mine.sequence.wrapping_sub(theirs.sequence).cast_signed() > 0;
    begins_before && theirs.end.wrapping_sub(mine.sequence).cast_signed() > 0
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
        // Both read at once.
        check(|entry| entry.server.sequence = u32::MAX - 23, false, true);
        // More read than was sent.
        check(|entry| entry.server.end = 36, true, true);
        // A notice before the answer.
        check(|entry| entry.server.answer = 30, true, true);
        check(|entry| entry.client.flags |= client::SHARED, true, true);
        check(|entry| entry.server.flags = 0, false, false);
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
