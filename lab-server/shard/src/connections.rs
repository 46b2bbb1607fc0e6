//! The sockets of a shard: opened, written and closed here and nowhere else; [`crate::poll`]
//! accepts and reads. Must not know: the handler, frames, users.

use std::collections::VecDeque;
use std::io;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use socket2::{Domain, Protocol, Socket, Type};

use crate::limits::{Closed, ConnectOptions, Limits, NetCounters};
use crate::listener::{Listener, set_congestion};
use crate::outgoing::{ARENA_BYTES, Outgoing};
use crate::ready_queues::{Queue, ReadyQueues};
use crate::registered::RegisteredSockets;
use crate::setbacks::Setbacks;
use crate::slots::{Backlog, ConnId, NONE, Slots, Stash, State};
use crate::timer::Timer;
use crate::timing::Timing;
use crate::wheel::Wheel;
use platform::monotonic_ns;

/// Quiet connections served in one poll, which bounds how long a rush of them keeps others waiting:
/// 256 requests at 6 µs are 1.5 ms.
pub(crate) const BATCH: usize = 256;

/// Events asked for in one poll. More than are served, so that thousands of peers that drip or
/// pipeline do not keep the others out of sight; one that waits already costs a look at its slot.
pub(crate) const EVENTS: usize = 4 * BATCH;

/// The most bytes received from one connection at a time; what fills them is read on after every
/// other connection was read.
pub(crate) const CHUNK: usize = 1024;

/// A finished connection is closed after this time, whether the peer closed or not.
const FINISH_NS: u64 = 1_000_000_000;

/// How exactly a peer that does not read is timed.
const STALL_TICK_NS: u64 = 10_000_000;

/// Connections closed in one poll because their time is up: at 5 µs each 0.1 ms.
const EXPIRIES_PER_POLL: usize = 16;

/// Sockets tried again in one poll for which the kernel had no memory: as many as are read
/// together.
const RETRIES_PER_POLL: usize = 4;

/// Finished connections shut down in one poll. The kernel has other threads do it, which are waited
/// for: 20 µs each.
const SHUTDOWNS_PER_POLL: usize = 4;

/// Epoll data of the things that are no connections; no slot has this number.
const SPECIAL: u32 = NONE;
pub(crate) const LISTENER: ConnId = ConnId { slot: SPECIAL, generation: 0 };
pub(crate) const TIMER: ConnId = ConnId { slot: SPECIAL, generation: 1 };
pub(crate) const NOTIFICATION: ConnId = ConnId { slot: SPECIAL, generation: 2 };

/// The sockets of a shard. [`crate::Handler`] is told what happens on them.
pub struct Net {
    pub(crate) epoll: OwnedFd,
    pub(crate) sockets: RegisteredSockets,
    pub(crate) slots: Slots,
    pub(crate) listener: Option<Listener>,
    pub(crate) timer: Timer,
    outgoing: Outgoing,
    pub(crate) events: Vec<epoll::Event>,
    /// Connections that are ready, in this poll or left from the one before.
    pub(crate) queues: ReadyQueues,
    pub(crate) buffer: Box<[u8]>,
    /// The connections of a batch of receives, and their results.
    pub(crate) batch: Vec<ConnId>,
    pub(crate) received: Vec<i32>,
    /// The results of a batch of sends.
    results: Vec<i32>,
    /// Connections of which everything is sent, to be shut down.
    to_shut: VecDeque<ConnId>,
    /// The slots of those that are.
    shut: Vec<u32>,
    /// Gone, and the handler has not been told.
    pub(crate) dead: VecDeque<(ConnId, Closed)>,
    /// Boxes for half frames, empty.
    #[expect(clippy::vec_box, reason = "slots hold boxes, which come and go as they are")]
    pub(crate) spare: Vec<Box<Stash>>,
    /// To be shut down once everything is sent, and when to close at the latest.
    finishing: VecDeque<(u64, ConnId)>,
    /// When to look whether a backlog has moved, once for each connection that has one.
    stalled: Wheel<ConnId>,
    /// Sockets for which the kernel has no memory.
    setbacks: Setbacks,
    /// Those to be looked at now.
    overdue: Vec<ConnId>,
    pub(crate) limits: Limits,
    now_ns: u64,
    /// When the last sleep began and ended, in nanoseconds.
    slept_ns: (u64, u64),
    /// The last poll found something.
    pub(crate) busy: bool,
    /// The last look at readiness brought as many events as it had room for.
    pub(crate) filled: bool,
    pub(crate) counters: NetCounters,
    pub(crate) timing: Timing,
}

impl Net {
    /// Sockets for a shard; `notification` is the eventfd of its inbox.
    ///
    /// # Errors
    /// What the kernel says when it makes the readiness set and the timer.
    pub fn new(limits: Limits, notification: Option<BorrowedFd<'_>>) -> io::Result<Self> {
        assert!(limits.backlog_bytes < ARENA_BYTES, "a backlog is sent again in one piece");
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer = Timer::new(limits.timer_slack_ns)?;
        let now_ns = monotonic_ns();
        let edge = EventFlags::IN | EventFlags::ET;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER.to_u64()), edge)?;
        if let Some(eventfd) = notification {
            epoll::add(&epoll, eventfd, EventData::new_u64(NOTIFICATION.to_u64()), edge)?;
        }
        Ok(Self {
            epoll,
            sockets: RegisteredSockets::new(limits.connections, limits.per_ring),
            slots: Slots::new(limits.connections),
            listener: None,
            timer,
            outgoing: Outgoing::new(),
            events: Vec::with_capacity(EVENTS),
            queues: ReadyQueues::new(EVENTS),
            buffer: vec![0; BATCH * CHUNK].into_boxed_slice(),
            batch: Vec::with_capacity(BATCH),
            received: Vec::with_capacity(BATCH),
            results: Vec::with_capacity(BATCH),
            to_shut: VecDeque::new(),
            shut: Vec::new(),
            dead: VecDeque::new(),
            spare: Vec::new(),
            finishing: VecDeque::new(),
            stalled: Wheel::new(STALL_TICK_NS, now_ns),
            setbacks: Setbacks::new(limits.retry_ns, now_ns),
            overdue: Vec::new(),
            limits,
            now_ns,
            slept_ns: (0, 0),
            busy: true,
            filled: false,
            counters: NetCounters::default(),
            timing: Timing::default(),
        })
    }

    /// Begins to accept connections from a socket of [`crate::bind_listener`].
    ///
    /// # Errors
    /// What the kernel says.
    pub fn listen(&mut self, socket: OwnedFd) -> io::Result<()> {
        let listener = Listener::new(socket)?;
        epoll::add(&self.epoll, &listener, EventData::new_u64(LISTENER.to_u64()), EventFlags::IN)?;
        self.listener = Some(listener);
        Ok(())
    }

    /// Stops accepting; connections that wait in the backlog are refused by the kernel.
    pub fn stop_listening(&mut self) {
        self.listener = None;
    }

    /// The monotonic clock as this poll saw it, in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// Reads the clock, for work within a poll that takes long enough to matter.
    pub fn read_clock(&mut self) -> u64 {
        self.now_ns = monotonic_ns();
        self.now_ns
    }

    /// What happened so far.
    pub fn counters(&self) -> NetCounters {
        self.counters
    }

    /// How long polls and answers took so far.
    pub fn timing(&self) -> &Timing {
        &self.timing
    }

    /// Connections that have not gone, those being opened included.
    pub fn connections(&self) -> u32 {
        self.slots.in_use()
    }

    /// Whether the last poll found nothing.
    pub fn is_idle(&self) -> bool {
        !self.busy
    }

    /// Every connection that has not gone.
    pub fn ids(&self) -> impl Iterator<Item = ConnId> + '_ {
        self.slots.ids()
    }

    /// Begins to open a connection; [`crate::Handler::connected`] or [`crate::Handler::closed`]
    /// follows.
    ///
    /// # Errors
    /// What the kernel says at once, above all that the source address is in use.
    pub fn connect(&mut self, options: ConnectOptions<'_>) -> io::Result<ConnId> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        // A port is bound explicitly: left to the kernel, connect searches half of the ports for a
        // free one, which takes 9 ms a connection when that half is full.
        socket.set_reuse_address(true)?;
        socket.set_tcp_nodelay(true)?;
        // Closing resets: no TIME_WAIT keeps the port from the next run.
        socket.set_linger(Some(std::time::Duration::ZERO))?;
        set_congestion(&socket, options.congestion)?;
        socket.bind(&options.source.into())?;
        match socket.connect(&options.server.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        match self.adopt(socket.into(), State::Connecting)? {
            Some(id) => Ok(id),
            None => Err(io::Error::other("the shard has no slot left")),
        }
    }

    /// Sends a frame of `len` bytes that `write` puts into the space it is given. It leaves at the
    /// end of the poll, or at [`Self::flush`]. Nothing happens when the connection is gone.
    pub fn send_with(&mut self, id: ConnId, len: usize, write: impl FnOnce(&mut [u8])) {
        let Some(slot) = self.slots.get(id) else { return };
        if !matches!(slot.state, State::Open) {
            return;
        }
        if let Some(backlog) = &mut slot.backlog {
            if backlog.bytes.len() + len > self.limits.backlog_bytes {
                self.fail(id, Closed::NotReading);
                return;
            }
            let end = backlog.bytes.len();
            backlog.bytes.resize(end + len, 0);
            write(&mut backlog.bytes[end..]);
            return;
        }
        if !self.outgoing.has_room(slot, len) {
            self.flush_or_discard();
            return self.send_with(id, len, write);
        }
        write(self.outgoing.reserve(id, slot, len));
    }

    /// Sends everything that this poll wanted sent so far.
    ///
    /// # Errors
    /// What `io_uring_enter` says; what one socket says ends only its own connection.
    pub fn flush(&mut self) -> io::Result<()> {
        self.sockets.usable()?;
        if !self.outgoing.is_empty() {
            let (ops, arena, _) = self.outgoing.parts();
            self.sockets.send_each(ops, arena, &mut self.results)?;
            for op in 0..self.results.len() {
                self.sent(op);
            }
            self.outgoing.clear();
        }
        Ok(())
    }

    /// Connections that are sent something at the next [`Self::flush`].
    pub(crate) fn to_send(&self) -> usize {
        self.outgoing.len()
    }

    /// Ends the sending direction of finished connections, at most [`SHUTDOWNS_PER_POLL`].
    ///
    /// # Errors
    /// What `io_uring_enter` says.
    pub(crate) fn shut_down(&mut self) -> io::Result<()> {
        for _ in 0..SHUTDOWNS_PER_POLL {
            let Some(id) = self.to_shut.pop_front() else { break };
            // The slot of one that has gone may be another's.
            if self.slots.get(id).is_some_and(|slot| slot.state == State::Finishing) {
                self.shut.push(id.slot);
            }
        }
        if !self.shut.is_empty() {
            // A socket that is not connected any more cannot be shut down: its next read says so.
            self.sockets.shutdown_each(&self.shut, &mut self.results)?;
            self.shut.clear();
        }
        Ok(())
    }

    /// Whether the next poll has something to do though nothing happens.
    pub(crate) fn has_work(&self) -> bool {
        !(self.queues.is_empty() && self.dead.is_empty() && self.to_shut.is_empty())
    }

    /// Closes a connection at once; what was sent in this poll still leaves.
    /// [`crate::Handler::closed`] is not called.
    pub fn close(&mut self, id: ConnId) {
        if self.slots.get(id).is_none_or(|slot| slot.state == State::Dead) {
            return;
        }
        self.flush_or_discard();
        // The flush may have found it broken.
        if self.slots.get(id).is_some_and(|slot| slot.state != State::Dead) {
            self.setbacks.remove(id);
            self.sockets.unregister(id.slot);
            self.slots.release(id);
        }
    }

    /// Closes a connection after what was sent has been read or a second has passed; what comes in
    /// is thrown away meanwhile. A plain close would reset the connection when bytes are unread,
    /// and the peer might never see the last frame. [`crate::Handler::closed`] is not called.
    pub fn finish(&mut self, id: ConnId) {
        let Some(slot) = self.slots.get(id).filter(|slot| slot.state == State::Open) else {
            return self.close(id);
        };
        slot.state = State::Finishing;
        slot.stash = None;
        if slot.link == NONE && slot.backlog.is_none() {
            self.to_shut.push_back(id);
        }
        self.finishing.push_back((self.now_ns + FINISH_NS, id));
    }

    /// When [`Self::poll`] has something to do though nothing happens, in nanoseconds.
    pub(crate) fn next_deadline_ns(&self) -> Option<u64> {
        let finishing = self.finishing.front().map(|(at, _)| *at);
        let later = [self.stalled.next_ns(), self.setbacks.next_ns()];
        finishing.into_iter().chain(later.into_iter().flatten()).min()
    }

    /// Makes [`Self::poll`] return by this instant.
    ///
    /// # Errors
    /// What `timerfd_settime` says.
    pub fn wake_by(&mut self, deadline_ns: u64) -> io::Result<()> {
        Ok(self.timer.arm(deadline_ns, self.now_ns)?)
    }

    /// The readiness set, readable when [`Self::poll`] would find something.
    pub(crate) fn readiness(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Records a sleep that began then and ends now.
    pub(crate) fn record_sleep(&mut self, began_ns: u64) {
        self.slept_ns = (began_ns, self.read_clock());
    }

    /// When the shard last went to sleep and when it woke, on the monotonic clock in nanoseconds.
    pub(crate) fn last_sleep_ns(&self) -> (u64, u64) {
        self.slept_ns
    }

    /// Gives a socket a slot, readiness and a place in a ring. `None` when slots have run out.
    pub(crate) fn adopt(&mut self, socket: OwnedFd, state: State) -> io::Result<Option<ConnId>> {
        let Some(id) = self.slots.acquire(state) else { return Ok(None) };
        let edges = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        // Readiness belongs to the file, not to its number: it stays when the descriptor is closed.
        let held = epoll::add(&self.epoll, &socket, EventData::new_u64(id.to_u64()), edges)
            .map_err(io::Error::from)
            .and_then(|()| self.sockets.register(id.slot, socket));
        if let Err(error) = held {
            self.slots.release(id);
            return Err(error);
        }
        Ok(Some(id))
    }

    /// Accounts for the result of a send.
    fn sent(&mut self, op: usize) {
        let (ops, _, ids) = self.outgoing.parts();
        let (id, len, result) = (ids[op], ops[op].len as usize, self.results[op]);
        let Some(mut slot) = self.slots.get(id) else { return };
        slot.link = NONE;
        let sent = match usize::try_from(result) {
            // One of no bytes, of a connection that is gone, was not tried.
            Ok(sent) => sent,
            Err(_) if result == -libc::EAGAIN => 0,
            Err(_) if is_passing(-result) => {
                if !self.put_off(id, -result) {
                    return;
                }
                let Some(still) = self.slots.get(id) else { return };
                slot = still;
                0
            }
            Err(_) => return self.fail(id, Closed::Broken(-result)),
        };
        if sent > 0 {
            self.setbacks.remove(id);
        }
        self.counters.bytes_out += sent as u64;
        if sent < len {
            let bytes = self.outgoing.bytes_of(op)[sent..].to_vec();
            // Told that there is room where there is none, the peer has not read.
            let since_ns = self.outgoing.waiting_since(op, sent, self.now_ns);
            slot.backlog = Some(Box::new(Backlog { bytes, since_ns }));
            self.counters.short_sends += 1;
            if !std::mem::replace(&mut slot.watched, true) {
                self.stalled.insert(self.now_ns + self.limits.stall_ns, id);
            }
            return;
        }
        if slot.state == State::Finishing {
            self.to_shut.push_back(id);
        }
        if std::mem::take(&mut slot.held) {
            self.queues.join(Queue::Busy, id, slot);
        }
    }

    /// The peer has made room: tries the backlog again.
    pub(crate) fn resend(&mut self, id: ConnId, backlog: &Backlog) {
        let Some(slot) = self.slots.get(id) else { return };
        let len = backlog.bytes.len();
        if self.outgoing.has_room(slot, len) {
            self.outgoing.reserve(id, slot, len).copy_from_slice(&backlog.bytes);
            self.outgoing.waits_since(slot, backlog.since_ns);
        } else {
            self.flush_or_discard();
            self.resend(id, backlog);
        }
    }

    /// The kernel had no memory for a receive or a send, and no event tells when it has: the socket
    /// is tried again after a pause. When that was in vain too often, the connection is closed, and
    /// false is returned.
    pub(crate) fn put_off(&mut self, id: ConnId, errno: i32) -> bool {
        self.counters.put_off += 1;
        let again = self.setbacks.add(id, self.now_ns);
        if !again {
            self.fail(id, Closed::Broken(errno));
        }
        again
    }

    /// The kernel had memory for a socket.
    #[inline]
    pub(crate) fn had_memory(&mut self, id: ConnId) {
        self.setbacks.remove(id);
    }

    /// Those whose pause is over have a turn: to send what waits, and to be read.
    pub(crate) fn end_pauses(&mut self) {
        let (slots, queues) = (&mut self.slots, &mut self.queues);
        self.setbacks.take_due(RETRIES_PER_POLL, self.now_ns, |id| {
            if let Some(slot) = slots.get(id) {
                slot.writable |= slot.backlog.is_some();
                queues.join(Queue::Busy, id, slot);
            }
        });
    }

    /// Closes what is due, a bounded number of each kind: finished connections, and peers that do
    /// not read.
    pub(crate) fn expire(&mut self) {
        for _ in 0..EXPIRIES_PER_POLL {
            let Some((at, id)) = self.finishing.front().copied() else { break };
            if at > self.now_ns {
                break;
            }
            self.finishing.pop_front();
            self.close(id);
        }
        let overdue = &mut self.overdue;
        self.stalled.expire_at_most(EXPIRIES_PER_POLL, self.now_ns, |id| overdue.push(id));
        while let Some(id) = self.overdue.pop() {
            self.look_at_backlog(id);
        }
    }

    /// Closes a connection whose backlog has not moved for too long.
    fn look_at_backlog(&mut self, id: ConnId) {
        let Some(slot) = self.slots.get(id) else { return };
        let Some(backlog) = &slot.backlog else {
            slot.watched = false;
            return;
        };
        let until_ns = backlog.since_ns + self.limits.stall_ns;
        if until_ns <= self.now_ns {
            self.fail(id, Closed::NotReading);
        } else {
            self.stalled.insert(until_ns, id);
        }
    }

    /// Takes the socket away; the handler is told at the end of the poll.
    pub(crate) fn fail(&mut self, id: ConnId, why: Closed) {
        let Some(slot) = self.slots.get(id).filter(|slot| slot.state != State::Dead) else {
            return;
        };
        let handler_knows = slot.state == State::Finishing;
        slot.state = State::Dead;
        slot.backlog = None;
        self.setbacks.remove(id);
        self.outgoing.cancel(slot);
        self.sockets.unregister(id.slot);
        if handler_knows {
            self.slots.release(id);
        } else {
            self.dead.push_back((id, why));
        }
    }

    /// Sends in the middle of a poll. When a ring fails nothing is sent any more, which the end of
    /// the poll reports; who should have been sent something must not be sent another's then.
    fn flush_or_discard(&mut self) {
        if self.flush().is_err() {
            let (_, _, ids) = self.outgoing.parts();
            for id in ids {
                self.slots.get(*id).into_iter().for_each(|slot| slot.link = NONE);
            }
            self.outgoing.clear();
        }
    }
}

/// What the kernel says of a socket that may be well again, and of which no event tells.
pub(crate) fn is_passing(errno: i32) -> bool {
    matches!(errno, libc::EINTR | libc::ENOBUFS | libc::ENOMEM)
}
