//! The sockets of a shard: opened, accepted, read, written and closed here and nowhere else.

use std::collections::VecDeque;
use std::io;
use std::mem;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use socket2::{Domain, Protocol, Socket, Type};

use crate::alarm::Alarm;
use crate::clock::monotonic_ns;
use crate::handler::{Closed, ConnectOptions, Handler, Limits, NetCounters};
use crate::held::HeldSockets;
use crate::listener::{Accepted, Listener, reset, set_congestion};
use crate::outgoing::{ARENA_BYTES, Outgoing};
use crate::slots::{Backlog, ConnId, NONE, Slots, Stash, State};

/// Events of one turn. The batch bounds how long a flood on some connections keeps others waiting:
/// 256 requests at 6 µs are 1.5 ms.
pub(crate) const BATCH: usize = 256;

/// Bytes received from one connection at a time. Requests have 16; what fills a chunk is read on
/// after everybody else had their turn.
const CHUNK: usize = 1024;

/// Connections accepted in one turn, so that a rush of newcomers does not starve the others.
const ACCEPTS_PER_TURN: usize = 64;

/// A connection that is finished by us is closed after this time, whether the peer closed or not.
const FINISH_NS: u64 = 1_000_000_000;

/// Epoll data of the things that are no connections; no slot has this number.
const SPECIAL: u32 = NONE;
const LISTENER: ConnId = ConnId { slot: SPECIAL, generation: 0 };
const ALARM: ConnId = ConnId { slot: SPECIAL, generation: 1 };
const BELL: ConnId = ConnId { slot: SPECIAL, generation: 2 };

/// The sockets of a shard. See [`Handler`] for what comes back.
pub struct Net {
    epoll: OwnedFd,
    sockets: HeldSockets,
    slots: Slots,
    listener: Option<Listener>,
    alarm: Alarm,
    outgoing: Outgoing,
    events: Vec<epoll::Event>,
    /// Connections with bytes to be read, in this turn or left from the one before.
    readable: VecDeque<ConnId>,
    buffer: Box<[u8]>,
    /// The connections of a batch of receives, and their results.
    batch: Vec<ConnId>,
    received: Vec<i32>,
    /// The results of a batch of sends.
    results: Vec<i32>,
    /// Slots to be shut down after the sends under way.
    to_shut: Vec<u32>,
    /// Gone, and the handler has not been told.
    dead: Vec<(ConnId, Closed)>,
    /// To be shut down once everything is sent, and when to close at the latest.
    finishing: VecDeque<(u64, ConnId)>,
    /// When to look whether a backlog has moved.
    stalled: VecDeque<(u64, ConnId)>,
    limits: Limits,
    now_ns: u64,
    /// When the last sleep began and ended, in nanoseconds.
    slept_ns: (u64, u64),
    /// The last turn found something.
    busy: bool,
    counters: NetCounters,
}

impl Net {
    /// Sockets for a shard; `bell` is that of its mail.
    ///
    /// # Errors
    /// What the kernel says when it makes the readiness set and the timer.
    pub fn new(limits: Limits, bell: Option<BorrowedFd<'_>>) -> io::Result<Self> {
        assert!(limits.backlog_bytes < ARENA_BYTES, "a backlog is sent again in one piece");
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let alarm = Alarm::new(limits.alarm_slack_ns)?;
        let edge = EventFlags::IN | EventFlags::ET;
        epoll::add(&epoll, &alarm, EventData::new_u64(ALARM.to_u64()), edge)?;
        if let Some(bell) = bell {
            epoll::add(&epoll, bell, EventData::new_u64(BELL.to_u64()), edge)?;
        }
        Ok(Self {
            epoll,
            sockets: HeldSockets::new(limits.connections, limits.per_ring),
            slots: Slots::new(limits.connections),
            listener: None,
            alarm,
            outgoing: Outgoing::new(),
            events: Vec::with_capacity(BATCH),
            readable: VecDeque::with_capacity(2 * BATCH),
            buffer: vec![0; BATCH * CHUNK].into_boxed_slice(),
            batch: Vec::with_capacity(BATCH),
            received: Vec::with_capacity(BATCH),
            results: Vec::with_capacity(BATCH),
            to_shut: Vec::new(),
            dead: Vec::new(),
            finishing: VecDeque::new(),
            stalled: VecDeque::new(),
            limits,
            now_ns: monotonic_ns(),
            slept_ns: (0, 0),
            busy: true,
            counters: NetCounters::default(),
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

    /// The monotonic clock as this turn saw it, in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// Reads the clock, for work within a turn that takes long enough to matter.
    pub fn read_clock(&mut self) -> u64 {
        self.now_ns = monotonic_ns();
        self.now_ns
    }

    /// What happened so far.
    pub fn counters(&self) -> NetCounters {
        self.counters
    }

    /// Connections that have not gone, those being opened included.
    pub fn connections(&self) -> u32 {
        self.slots.in_use()
    }

    /// Whether the last turn found nothing.
    pub fn is_quiet(&self) -> bool {
        !self.busy
    }

    /// How many connections there can be.
    pub fn capacity(&self) -> u32 {
        self.sockets.capacity()
    }

    /// Every connection that has not gone.
    pub fn ids(&self) -> impl Iterator<Item = ConnId> + '_ {
        self.slots.ids()
    }

    /// Begins to open a connection; [`Handler::connected`] or [`Handler::closed`] follows.
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
    /// end of the turn, or at [`Self::flush`]. Nothing happens when the connection is gone.
    pub fn send_with(&mut self, id: ConnId, len: usize, write: impl FnOnce(&mut [u8])) {
        let Some(slot) = self.slots.get(id) else { return };
        if !matches!(slot.state, State::Open) {
            return;
        }
        if let Some(backlog) = &mut slot.backlog {
            if backlog.bytes.len() + len > self.limits.backlog_bytes {
                self.die(id, Closed::NotReading);
                return;
            }
            let end = backlog.bytes.len();
            backlog.bytes.resize(end + len, 0);
            write(&mut backlog.bytes[end..]);
            return;
        }
        if !self.outgoing.has_room(slot, len) {
            self.flush_or_note();
            return self.send_with(id, len, write);
        }
        write(self.outgoing.reserve(id, slot, len));
    }

    /// Sends everything that this turn wanted sent so far.
    ///
    /// # Errors
    /// What `io_uring_enter` says; what one socket says ends only its own connection.
    pub fn flush(&mut self) -> io::Result<()> {
        if !self.outgoing.is_empty() {
            let (ops, arena, _) = self.outgoing.parts();
            self.sockets.send_each(ops, arena, &mut self.results)?;
            for op in 0..self.results.len() {
                self.sent(op);
            }
            self.outgoing.clear();
        }
        if !self.to_shut.is_empty() {
            // A socket that is not connected any more cannot be shut down: its next read says so.
            self.sockets.shutdown_each(&self.to_shut, &mut self.results)?;
            self.to_shut.clear();
        }
        Ok(())
    }

    /// Closes a connection without a word more; what was sent in this turn still leaves.
    /// [`Handler::closed`] is not called.
    pub fn close(&mut self, id: ConnId) {
        if self.slots.get(id).is_none_or(|slot| slot.state == State::Dead) {
            return;
        }
        self.flush_or_note();
        // The flush may have found it broken.
        if self.slots.get(id).is_some_and(|slot| slot.state != State::Dead) {
            self.sockets.release(id.slot);
            self.slots.give_back(id);
        }
    }

    /// Closes a connection after what was sent has been read or a second has passed; what comes in
    /// is thrown away meanwhile. A plain close would reset the connection when bytes are unread,
    /// and the peer might never see the last frame. [`Handler::closed`] is not called.
    pub fn finish(&mut self, id: ConnId) {
        let Some(slot) = self.slots.get(id).filter(|slot| slot.state == State::Open) else {
            return self.close(id);
        };
        slot.state = State::Finishing;
        slot.stash = None;
        if slot.link == NONE && slot.backlog.is_none() {
            self.to_shut.push(id.slot);
        }
        self.finishing.push_back((self.now_ns + FINISH_NS, id));
        self.flush_or_note();
    }

    /// When [`Self::turn`] has something to do though nothing happens, in nanoseconds.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        let front = |queue: &VecDeque<(u64, ConnId)>| queue.front().map(|(at, _)| *at);
        front(&self.finishing).into_iter().chain(front(&self.stalled)).min()
    }

    /// Sees to it that [`Self::turn`] returns by then.
    ///
    /// # Errors
    /// What `timerfd_settime` says.
    pub fn wake_by(&mut self, deadline_ns: u64) -> io::Result<()> {
        Ok(self.alarm.by(deadline_ns, self.now_ns)?)
    }

    /// The readiness set, readable when [`Self::turn`] would find something.
    pub fn readiness(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Notes a sleep that began then and ends now.
    pub(crate) fn woke(&mut self, began_ns: u64) {
        self.slept_ns = (began_ns, self.read_clock());
    }

    /// When the shard last went to sleep and when it woke, on the monotonic clock in nanoseconds.
    pub fn last_sleep_ns(&self) -> (u64, u64) {
        self.slept_ns
    }

    /// Handles what has happened, at most 256 events; with `block` waits for something first.
    /// Returns how many events there were, the alarm not counted.
    ///
    /// # Errors
    /// What the kernel says about the readiness set or a ring: the shard cannot go on then.
    pub fn turn<H: Handler>(&mut self, handler: &mut H, block: bool) -> io::Result<usize> {
        let mut events = mem::take(&mut self.events);
        events.clear();
        // What is left from the last turn goes first: it could pile up otherwise.
        if self.readable.len() < BATCH {
            let block = block && self.readable.is_empty() && self.dead.is_empty();
            let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
            let timeout = if block { None } else { Some(&zero) };
            let began_ns = if block { monotonic_ns() } else { 0 };
            match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if block {
                self.woke(began_ns);
            }
        }
        self.read_clock();
        let mut newcomers = false;
        let mut happened = self.readable.len() + events.len();
        for event in &events {
            let id = ConnId::from_u64(event.data.u64());
            match id {
                LISTENER => newcomers = true,
                ALARM => {
                    self.alarm.rang();
                    happened -= 1;
                }
                BELL => handler.rung(self),
                _ => self.ready(handler, id, event.flags),
            }
        }
        self.events = events;
        self.receive(handler)?;
        if newcomers {
            self.accept(handler)?;
        }
        self.flush()?;
        self.expire();
        self.bury(handler);
        self.busy = happened > 0;
        self.counters.turns += u64::from(self.busy);
        Ok(happened)
    }

    fn ready<H: Handler>(&mut self, handler: &mut H, id: ConnId, flags: EventFlags) {
        let Some(slot) = self.slots.get(id) else { return };
        let broken = flags.intersects(EventFlags::ERR | EventFlags::HUP);
        slot.hung_up |= broken || flags.contains(EventFlags::RDHUP);
        if flags.contains(EventFlags::OUT) {
            if slot.state == State::Connecting && !broken {
                slot.state = State::Open;
                handler.connected(self, id);
            } else if let Some(backlog) = slot.backlog.take() {
                self.resend(id, &backlog);
            }
        }
        if broken || flags.intersects(EventFlags::IN | EventFlags::RDHUP) {
            self.readable.push_back(id);
        }
    }

    /// Reads once from each readable connection and hands the bytes over.
    fn receive<H: Handler>(&mut self, handler: &mut H) -> io::Result<()> {
        let mut batch = mem::take(&mut self.batch);
        // Only live ones: the slot of one that went may belong to another connection by now.
        while batch.len() < BATCH {
            let Some(id) = self.readable.pop_front() else { break };
            if self.slots.get(id).is_some_and(|slot| slot.state != State::Dead) {
                handler.coming(id);
                batch.push(id);
            }
        }
        if !batch.is_empty() {
            let slots = batch.iter().map(|id| id.slot);
            self.sockets.recv_each(slots, &mut self.buffer, CHUNK, &mut self.received)?;
            self.read_clock();
            let buffer = mem::take(&mut self.buffer);
            for (at, bytes) in buffer.chunks_exact(CHUNK).take(batch.len()).enumerate() {
                self.read(handler, batch[at], self.received[at], bytes);
            }
            self.buffer = buffer;
        }
        batch.clear();
        self.batch = batch;
        Ok(())
    }

    fn read<H: Handler>(&mut self, handler: &mut H, id: ConnId, result: i32, bytes: &[u8]) {
        let Some(state) = self.slots.get(id).map(|slot| slot.state) else { return };
        match (usize::try_from(result), state) {
            (_, State::Free | State::Dead) => {}
            (Ok(0), _) => self.die(id, Closed::ByPeer),
            (Ok(len), _) => {
                self.counters.bytes_in += len as u64;
                if state == State::Open {
                    self.hand_over(handler, id, &bytes[..len]);
                }
                let hung_up = self.slots.get(id).is_some_and(|slot| slot.hung_up);
                if hung_up || len == bytes.len() {
                    self.readable.push_back(id);
                }
            }
            (Err(_), State::Connecting) if result != -libc::EAGAIN => {
                self.die(id, Closed::NotConnected(-result));
            }
            (Err(_), _) if matches!(-result, libc::EAGAIN | libc::EINTR) => {}
            (Err(_), _) => self.die(id, Closed::Broken(-result)),
        }
    }

    fn hand_over<H: Handler>(&mut self, handler: &mut H, id: ConnId, bytes: &[u8]) {
        let stash = self.slots.get(id).and_then(|slot| slot.stash.take());
        let rest = if let Some(mut stash) = stash {
            stash.bytes.extend_from_slice(bytes);
            let used = handler.received(self, id, &stash.bytes);
            stash.bytes.drain(..used);
            (!stash.bytes.is_empty()).then_some(stash)
        } else {
            let used = handler.received(self, id, bytes);
            (used < bytes.len()).then(|| Box::new(Stash { bytes: bytes[used..].to_vec() }))
        };
        let most = self.limits.stash_bytes;
        let open = self.slots.get(id).filter(|slot| slot.state == State::Open);
        if let (Some(rest), Some(slot)) = (rest, open) {
            if rest.bytes.len() > most {
                self.die(id, Closed::FrameTooLong);
            } else {
                slot.stash = Some(rest);
            }
        }
    }

    fn accept<H: Handler>(&mut self, handler: &mut H) -> io::Result<()> {
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(listener) = &mut self.listener else { break };
            match listener.accept()? {
                Accepted::Nobody => break,
                Accepted::TurnedAway => self.counters.turned_away += 1,
                Accepted::Socket(socket) if self.slots.is_full() => {
                    self.counters.turned_away += 1;
                    reset(socket)?;
                }
                Accepted::Socket(socket) => match self.adopt(socket, State::Open) {
                    Ok(Some(id)) => {
                        self.counters.accepted += 1;
                        handler.accepted(self, id);
                    }
                    // No descriptor for another ring, no memory: that is this peer's loss alone.
                    Ok(None) | Err(_) => self.counters.turned_away += 1,
                },
            }
        }
        Ok(())
    }

    /// Gives a socket a slot, readiness and a place in a ring. `None` when slots have run out.
    fn adopt(&mut self, socket: OwnedFd, state: State) -> io::Result<Option<ConnId>> {
        let Some(id) = self.slots.take(state) else { return Ok(None) };
        let edges = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        // Readiness belongs to the file, not to its number: it stays when the descriptor is closed.
        let held = epoll::add(&self.epoll, &socket, EventData::new_u64(id.to_u64()), edges)
            .map_err(io::Error::from)
            .and_then(|()| self.sockets.hold(id.slot, socket));
        if let Err(error) = held {
            self.slots.give_back(id);
            return Err(error);
        }
        Ok(Some(id))
    }

    /// Notes what became of a send.
    fn sent(&mut self, op: usize) {
        let (ops, _, ids) = self.outgoing.parts();
        let (id, len, result) = (ids[op], ops[op].len as usize, self.results[op]);
        let Some(slot) = self.slots.get(id) else { return };
        slot.link = NONE;
        let sent = match usize::try_from(result) {
            Ok(sent) => sent,
            Err(_) if matches!(-result, libc::EAGAIN | libc::EINTR | libc::ENOBUFS) => 0,
            Err(_) => return self.die(id, Closed::Broken(-result)),
        };
        self.counters.bytes_out += sent as u64;
        if sent < len {
            let bytes = self.outgoing.bytes_of(op)[sent..].to_vec();
            slot.backlog = Some(Box::new(Backlog { bytes, since_ns: self.now_ns }));
            self.counters.short_sends += 1;
            self.stalled.push_back((self.now_ns + self.limits.stall_ns, id));
        } else if slot.state == State::Finishing {
            self.to_shut.push(id.slot);
        }
    }

    /// The peer has made room: tries the backlog again.
    fn resend(&mut self, id: ConnId, backlog: &Backlog) {
        let Some(slot) = self.slots.get(id) else { return };
        let len = backlog.bytes.len();
        if self.outgoing.has_room(slot, len) {
            self.outgoing.reserve(id, slot, len).copy_from_slice(&backlog.bytes);
        } else {
            self.flush_or_note();
            self.resend(id, backlog);
        }
    }

    /// Closes what was to be closed by now: finished connections, and peers that do not read.
    fn expire(&mut self) {
        while let Some((at, id)) = self.finishing.front().copied() {
            if at > self.now_ns {
                break;
            }
            self.finishing.pop_front();
            self.close(id);
        }
        while let Some((at, id)) = self.stalled.front().copied() {
            if at > self.now_ns {
                break;
            }
            self.stalled.pop_front();
            let since = self.slots.get(id).and_then(|slot| Some(slot.backlog.as_ref()?.since_ns));
            match since {
                Some(since) if since + self.limits.stall_ns <= self.now_ns => {
                    self.die(id, Closed::NotReading);
                }
                // Moved and stalled again: that one is in the queue by itself.
                _ => {}
            }
        }
    }

    /// Takes the socket away; the handler is told at the end of the turn.
    fn die(&mut self, id: ConnId, why: Closed) {
        let Some(slot) = self.slots.get(id).filter(|slot| slot.state != State::Dead) else {
            return;
        };
        let told_already = slot.state == State::Finishing;
        slot.state = State::Dead;
        slot.backlog = None;
        self.outgoing.cancel(slot);
        self.sockets.release(id.slot);
        if told_already {
            self.slots.give_back(id);
        } else {
            self.dead.push((id, why));
        }
    }

    fn bury<H: Handler>(&mut self, handler: &mut H) {
        while let Some((id, why)) = self.dead.pop() {
            self.slots.give_back(id);
            handler.closed(self, id, why);
        }
    }

    /// Sends in the middle of a turn. When the ring fails, the end of the turn fails the same way
    /// and reports it.
    fn flush_or_note(&mut self) {
        if self.flush().is_err() {
            self.outgoing.clear();
        }
    }
}
