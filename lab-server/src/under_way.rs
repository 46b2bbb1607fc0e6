//! What each user has under way: messages and chat texts of a second, and open packets.
//!
//! One table for all shards, so that a user who connects again, to another shard too, has what is
//! left of the budgets and no new ones. Claims, creations, chat texts and their answers touch it,
//! no shake does. Must not know: what is asked for, and on which shard a user is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use journal::State;
use service::Budgets;
use zerocopy::FromZeros;

/// What was counted in the newest second in which a user asked for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counted {
    second: u32,
    /// Messages of the user that are on their way: a claim's until it is answered, and all at most
    /// until the second is over, whether their answers were lost or not.
    mail: u16,
    /// The same of chat texts, until their receipts come.
    chats: u16,
}

impl Counted {
    fn from_word(word: u64) -> Self {
        Self { second: (word >> 32) as u32, mail: (word >> 16) as u16, chats: word as u16 }
    }

    fn word(self) -> u64 {
        (u64::from(self.second) << 32) | (u64::from(self.mail) << 16) | u64::from(self.chats)
    }

    /// As it is at the beginning of a newer second. A shard that lags in an older one counts in the
    /// newest: else two shards would begin each other's seconds anew.
    fn in_second(self, unix_second: u64) -> Self {
        let second = u32::try_from(unix_second).unwrap_or(u32::MAX);
        if second > self.second { Self { second, mail: 0, chats: 0 } } else { self }
    }
}

/// What all users have under way, for all shards: 12 bytes a user. No order between two words
/// matters, so that every access is relaxed.
#[derive(Debug)]
pub struct UnderWay {
    /// [`Counted`], by user.
    counted: Box<[AtomicU64]>,
    /// Packets that are open on any shard, by user.
    open: Box<[AtomicU32]>,
}

impl UnderWay {
    /// Of users `0..users`, who have nothing under way. Others cannot log in; a packet of theirs
    /// that a restart found is not counted, and whatever they ask for is over budget.
    pub fn new(users: u32) -> Arc<Self> {
        let users = users as usize;
        Arc::new(Self { counted: zeroed(users), open: zeroed(users) })
    }

    /// Counts the packets that a restart found open, before any user can log in.
    pub fn count_open(&self, state: &State) {
        for packet in state.open.values() {
            if let Some(open) = self.open.get(packet.creator as usize) {
                open.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// How many packets of a user are open.
    pub fn open(&self, user: u32) -> u32 {
        self.open.get(user as usize).map_or(0, |open| open.load(Ordering::Relaxed))
    }

    /// Counts a packet of a user; false when as many are open as may be.
    pub(crate) fn opens(&self, user: u32, most: u32) -> bool {
        let Some(open) = self.open.get(user as usize) else { return false };
        let another = |open| (open < most).then(|| open + 1);
        open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, another).is_ok()
    }

    /// A packet that was counted is over.
    pub(crate) fn closes(&self, user: u32) {
        let Some(open) = self.open.get(user as usize) else { return };
        let one_less = |open: u32| open.checked_sub(1);
        let counted = open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok();
        debug_assert!(counted, "a packet of user {user} was not counted");
    }

    /// Counts messages that a request is about to bring about; false when the budget has no room
    /// for them.
    pub(crate) fn takes_mail(
        &self,
        user: u32,
        unix_second: u64,
        messages: usize,
        most: Budgets,
    ) -> bool {
        self.count(user, unix_second, |counted| {
            let mail = usize::from(counted.mail).checked_add(messages)?;
            let mail = u16::try_from(mail).ok().filter(|mail| *mail <= most.mail)?;
            Some(Counted { mail, ..counted })
        })
    }

    /// The same of a chat text.
    pub(crate) fn takes_chat(&self, user: u32, unix_second: u64, most: Budgets) -> bool {
        self.count(user, unix_second, |counted| {
            let chats = counted.chats.checked_add(1).filter(|chats| *chats <= most.chats)?;
            Some(Counted { chats, ..counted })
        })
    }

    /// Messages are not on their way any more. Those of an earlier second were forgotten when that
    /// was over: what is on its way is at most two seconds' worth.
    pub(crate) fn mail_answered(&self, user: u32, messages: usize) {
        let messages = u16::try_from(messages).unwrap_or(u16::MAX);
        self.change(user, |counted| {
            let mail = counted.mail.saturating_sub(messages);
            Some(Counted { mail, ..counted })
        });
    }

    /// A chat text has its receipt.
    pub(crate) fn chat_answered(&self, user: u32) {
        self.change(user, |counted| {
            let chats = counted.chats.saturating_sub(1);
            Some(Counted { chats, ..counted })
        });
    }

    fn count(&self, user: u32, second: u64, add: impl Fn(Counted) -> Option<Counted>) -> bool {
        self.change(user, |counted| add(counted.in_second(second)))
    }

    /// Changes what was counted of a user; false when it stays, and nothing is written then.
    fn change(&self, user: u32, change: impl Fn(Counted) -> Option<Counted>) -> bool {
        let Some(word) = self.counted.get(user as usize) else { return false };
        let changed = |word| change(Counted::from_word(word)).map(Counted::word);
        word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, changed).is_ok()
    }
}

/// Zeroed pages are not resident until a user of theirs asks for something.
fn zeroed<T: FromZeros>(users: usize) -> Box<[T]> {
    <[T]>::new_box_zeroed_with_elems(users)
        .unwrap_or_else(|_| std::alloc::handle_alloc_error(std::alloc::Layout::new::<T>()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use journal::OpenPacket;

    use super::*;

    const MOST: Budgets = Budgets { packets: 5, mail: 20, chats: 10 };

    #[test]
    fn a_word_holds_what_was_counted() {
        for counted in [
            Counted { second: 0, mail: 0, chats: 0 },
            Counted { second: u32::MAX, mail: 0, chats: u16::MAX },
            Counted { second: 1, mail: u16::MAX, chats: 0 },
            Counted { second: 1_764_000_000, mail: 4096, chats: 256 },
        ] {
            assert_eq!(Counted::from_word(counted.word()), counted);
        }
    }

    #[test]
    fn budgets_are_of_a_user_and_a_second_and_what_is_answered_counts_no_more() {
        let users = UnderWay::new(3);
        let mail = |user, second, messages| users.takes_mail(user, second, messages, MOST);
        assert!(mail(0, 7, 15) && !mail(0, 7, 6) && mail(0, 7, 5) && !mail(0, 7, 1));
        assert!(mail(1, 7, 20), "another's");
        assert!(!mail(2, 7, 21) && !mail(2, 7, usize::MAX) && mail(2, 7, 0));
        assert!((0..10).all(|_| users.takes_chat(0, 7, MOST)), "apart from mail");
        assert!(!users.takes_chat(0, 7, MOST));
        users.mail_answered(0, 3);
        users.chat_answered(0);
        assert!(mail(0, 7, 3) && !mail(0, 7, 1));
        assert!(users.takes_chat(0, 7, MOST) && !users.takes_chat(0, 7, MOST));
        assert!(mail(0, 8, 20) && !mail(0, 8, 1), "a new second");
        assert!(users.takes_chat(0, 8, MOST));
        // Answers that are more than what was counted leave nothing behind.
        users.mail_answered(0, usize::MAX);
        assert!(mail(0, 8, 20) && !mail(0, 8, 1));
        assert!(!mail(3, 8, 1) && !users.takes_chat(3, 8, MOST), "nobody");
        let all = Budgets { mail: u16::MAX, chats: u16::MAX, ..MOST };
        let most = usize::from(u16::MAX);
        assert!(users.takes_mail(0, 9, most, all) && !users.takes_mail(0, 9, 1, all));
    }

    /// Two shards that pass from one second to the next at instants of their own, in every order of
    /// what the user asks of them.
    #[test]
    fn shards_that_take_turns_around_the_edge_of_a_second_begin_it_once() {
        const EACH: usize = 4;
        let most = Budgets { mail: 3, ..MOST };
        // Bit `i` of an order says whom the user asks as the i-th.
        for order in 0..1u32 << (4 * EACH) {
            if order.count_ones() as usize != 2 * EACH {
                continue;
            }
            let users = UnderWay::new(1);
            let (mut asked, mut taken) = ([0; 2], 0);
            for step in 0..4 * EACH {
                let shard = (order >> step & 1) as usize;
                let second = 100 + asked[shard] / EACH;
                asked[shard] += 1;
                taken += u16::from(users.takes_mail(0, second as u64, 1, most));
            }
            assert!((most.mail..=2 * most.mail).contains(&taken), "{taken} in {order:b}");
        }
    }

    #[test]
    fn threads_together_keep_the_budgets() {
        const TRIES: usize = 20_000;
        let most = Budgets { packets: 1_000, mail: 4_000, chats: 3_000 };
        let users = UnderWay::new(2);
        let ask = || {
            let opened = (0..TRIES).filter(|_| users.opens(1, most.packets)).count();
            let mail = (0..TRIES).filter(|_| users.takes_mail(1, 5, 1, most)).count();
            let chats = (0..TRIES).filter(|_| users.takes_chat(1, 5, most)).count();
            [opened, mail, chats]
        };
        let taken = std::thread::scope(|scope| {
            let threads = [(); 4].map(|()| scope.spawn(ask));
            threads.map(|thread| thread.join().expect("no panic"))
        });
        let sum = |kind: usize| taken.iter().map(|taken| taken[kind]).sum::<usize>();
        assert_eq!([0, 1, 2].map(sum), [1_000, 4_000, 3_000]);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..250).for_each(|_| users.closes(1)));
            }
        });
        assert_eq!((users.open(0), users.open(1)), (0, 0));
    }

    #[test]
    fn packets_that_a_restart_found_are_counted_of_users_whom_there_are() {
        let of = |creator| OpenPacket {
            set: 0,
            creator,
            left: 1,
            shares: 1,
            deadline_ns: 1,
            waiting: vec![1],
        };
        let creators = [1, 1, 2, u32::MAX, 1].into_iter();
        let open: BTreeMap<u32, OpenPacket> = (0..).zip(creators.map(of)).collect();
        let users = UnderWay::new(2);
        users.count_open(&State { open, ..State::default() });
        assert_eq!([0, 1, 2].map(|user| users.open(user)), [0, 3, 0]);
        assert!(users.opens(1, 4) && !users.opens(1, 4));
        assert!(!users.opens(2, 4), "nobody");
        users.closes(2);
        users.closes(u32::MAX);
        (0..4).for_each(|_| users.closes(1));
        assert_eq!(users.open(1), 0);
    }
}
