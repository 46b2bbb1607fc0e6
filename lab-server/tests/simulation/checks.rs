//! What must hold after every step, and in the end.

use std::sync::atomic::Ordering;

use accounting::Money;
use lab_server::directory::home_of;
use lab_server::message::Message;
use platform::NANOS_PER_SECOND;
use wire::Frame;

use super::{Model, USERS, key};

impl Model {
    /// What must hold at every instant.
    pub(super) fn check(&self) {
        let ledger = self.cluster.ledger();
        let counters = self.cluster.counters();
        assert!(ledger.is_balanced(), "{ledger:?}");
        assert_eq!(ledger.granted, self.granted, "what shakes brought");
        let mut claimed = self.claimed
            + Money { count: counters.undelivered_shares, amount: counters.undelivered_cents };
        let (mut packets, mut sends) = (0, 0);
        for message in self.cluster.messages() {
            match message {
                Message::Claimed { amount: 1.., .. } => {
                    let Message::Claimed { amount, .. } = message else { unreachable!() };
                    claimed += Money::share(*amount);
                }
                Message::Packet { .. } => packets += 1,
                Message::Send(_) => sends += 1,
                _ => {}
            }
        }
        assert_eq!(ledger.claimed, claimed, "received, under way, or undelivered");
        for dropped in &self.cluster.wires.dropped {
            packets += u64::from(matches!(dropped, Message::Packet { .. }));
            sends += u64::from(matches!(dropped, Message::Send(_)));
        }
        // Everything that generators made is in the books, on its way, or found no room.
        let made: u64 = self.cluster.shards.iter().map(|logic| logic.gauges().generated).sum();
        let overflow: u64 =
            self.cluster.shards.iter().map(|logic| logic.sets().overflow().count).sum();
        let by_control = counters.packets_sent - self.created;
        let refused = counters.packets_refused - self.refused;
        let sent_made = by_control + refused + sends - self.ordered;
        let shares = self.created_shares + 3 * by_control;
        assert_eq!(ledger.created.count, shares + made - sent_made - packets - overflow);
        let online = self.peers.values().filter(|peer| peer.user.is_some()).count() as u64;
        assert_eq!(self.cluster.users_online(), online);
        let in_sets = self.cluster.online.iter().map(|set| set.users.load(Ordering::Relaxed));
        assert_eq!(in_sets.map(u64::from).sum::<u64>(), online);
        for peer in self.peers.values() {
            assert_eq!(peer.shakes, peer.shakes_answered, "every shake is answered at once");
            assert!(peer.claims_answered <= peer.claims && peer.creates.is_empty());
        }
    }

    fn deliver_all(&mut self) {
        while self.cluster.messages().next().is_some() {
            self.act(|model| {
                model.cluster.deliver();
            });
        }
    }

    /// Lets everything come to its end: messages are delivered, packets expire, queues are shaken
    /// empty.
    pub(super) fn end(&mut self) {
        self.cluster.tell(0, Message::StopGenerator(None));
        self.deliver_all();
        self.check_directory();
        self.check_answers();
        for _ in 0..7 {
            self.act(|model| {
                model.cluster.pass(NANOS_PER_SECOND);
            });
            self.deliver_all();
        }
        self.cluster.wires.dropped_per_mille = 0;
        let mut users = USERS..;
        for shard in 0..self.shards() {
            // Newcomers join the SET with the fewest: so many, and each SET has had one.
            let online = self.cluster.shards[shard].gauges().users_online as usize;
            for _ in 0..self.cluster.shards[shard].sets().len() * (online + 1) {
                if self.cluster.shards[shard].sets().queued() == 0 {
                    break;
                }
                let key = self.connect(shard);
                let user = users.next().expect("no end");
                self.act(|model| model.send(key, &Frame::LoginRequest { user }));
                while self.cluster.shards[shard].sets().queued() > 0 {
                    let (before, told) = (self.granted.count, self.peers[&key].told.len());
                    self.peers.get_mut(&key).expect("open").shakes += 1;
                    self.act(|model| model.send(key, &Frame::ShakeRequest { user: 0 }));
                    if (self.granted.count, self.peers[&key].told.len()) == (before, told) {
                        break;
                    }
                }
            }
        }
        self.deliver_all();
        let ledger = self.cluster.ledger();
        assert_eq!(ledger.remaining, Money::default(), "{ledger:?}");
        assert_eq!(ledger.created, ledger.granted + ledger.claimed + ledger.refunded);
        assert!(self.cluster.shards.iter().all(|logic| logic.gauges().packets_open == 0));
        assert!((0..USERS).all(|user| self.cluster.under_way.open(user) == 0));
    }

    /// Without messages under way, the directory knows the connections that live, and no others,
    /// but for what dropped messages would have told it.
    fn check_directory(&self) {
        let dropped = &self.cluster.wires.dropped;
        for user in 0..USERS {
            let home = &self.cluster.shards[home_of(user, self.shards())];
            let known = home.directory().find(user);
            if let Some(at) = known {
                let lives = self.peers.get(&key(at)).is_some_and(|peer| peer.user == Some(user));
                assert!(
                    lives || dropped.contains(&Message::Leave { user, at }),
                    "{user} at {at:?}"
                );
            }
            for peer in self.peers.values().filter(|peer| peer.user == Some(user)) {
                let replaced = dropped.contains(&Message::Replace { at: peer.at });
                assert!(known == Some(peer.at) || replaced, "{user} is not only at {known:?}");
            }
        }
    }

    /// Without messages under way, every peer that asked and is still there has an answer.
    fn check_answers(&self) {
        let dropped = &self.cluster.wires.dropped;
        for ((from, number), chat) in &self.chats {
            let lost = dropped.iter().any(|message| {
                matches!(message, Message::Receipt { at, message, .. }
                    if key(*at) == *from && message == number)
            });
            let vanished = !self.peers.contains_key(from);
            assert!(chat.receipt.is_some() || vanished || lost, "no receipt for {number}");
        }
        for (key_of, peer) in &self.peers {
            let lost = dropped.iter().filter(
                |message| matches!(message, Message::Claimed { at, .. } if key(*at) == *key_of),
            );
            assert_eq!(peer.claims_answered as usize + lost.count(), peer.claims as usize);
        }
    }
}
