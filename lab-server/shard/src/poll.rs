//! What happens on the sockets of a shard: readiness, received bytes, accepted connections, each
//! handed to the program's [`Handler`].
//!
//! A poll asks for readiness, whatever is left from the one before, and does a bounded piece of
//! each kind of work, so that no number of peers keeps a shard from its other peers, its inbox, its
//! listener or its timer. In this order: peers that were quiet, each with a small share; their
//! answers leave; the inbox; newcomers; then those that want more than a share, for [`BUSY_NS`] and
//! [`BUSY_BYTES`]. So whoever was quiet waits for one poll at most, and for nobody in the next.

use std::io;
use std::mem;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventFlags};

use crate::connections::{BATCH, CHUNK, EVENTS, LISTENER, NOTIFICATION, Net, TIMER, is_passing};
use crate::handler::Handler;
use crate::limits::Closed;
use crate::listener::{Accepted, reset};
use crate::ready_queues::Queue;
use crate::slots::{ConnId, State};
use platform::monotonic_ns;

/// Connections accepted in one poll, so that a rush of newcomers does not starve the others: at
/// 15 µs each 0.12 ms.
const ACCEPTS_PER_POLL: usize = 8;

/// Bytes of a quiet connection's share: 16 requests. Who fills it has more, and waits for a turn
/// among those. So 256 peers that pipeline cost the others a poll of about twice the usual length.
const SHARE: usize = 256;

const _: () = assert!(SHARE <= CHUNK);

/// How long a poll serves connections that want more than a share, in nanoseconds, their answers
/// included. Whoever becomes ready meanwhile waits for that, so it is of the order of what an
/// answer takes anyway.
const BUSY_NS: u64 = 100_000;

/// Bytes that a poll takes from them, wherever the clock stands: 1,024 requests, for none is
/// shorter than 16 bytes.
const BUSY_BYTES: u64 = 16 << 10;

/// So many of them are received from together, and answered, before the clock is looked at: chunks
/// of 64 requests each are 130 µs with their sends.
const TOGETHER: usize = 4;

/// Connections told to the handler as gone in one poll.
const GOODBYES_PER_POLL: usize = 256;

/// Boxes of half frames that are kept for the next half frame, so that peers that drip cost no
/// allocation for each drop.
const SPARE_STASHES: usize = 64;

/// What a look at readiness found.
#[derive(Default)]
struct Asked {
    /// How many events, the timer's not counted.
    happened: usize,
    /// Somebody wants to connect.
    newcomers: bool,
    /// Something is in the inbox.
    notified: bool,
}

impl Net {
    /// Handles what has happened; with `block` waits for something first. Returns how many events
    /// and unfinished turns there were, the timer not counted.
    ///
    /// # Errors
    /// What the kernel says about the readiness set or a ring: the shard cannot go on then.
    pub fn poll<H: Handler>(&mut self, handler: &mut H, block: bool) -> io::Result<usize> {
        self.sockets.usable()?;
        let left = self.queues.waiting(Queue::Quiet) + self.queues.waiting(Queue::Busy);
        let asked = self.ask(handler, block && !self.has_work())?;
        self.end_pauses();
        self.serve_quiet(handler)?;
        if asked.notified {
            handler.notified(self);
        }
        if asked.newcomers {
            self.accept(handler)?;
        }
        self.serve_busy(handler)?;
        self.flush()?;
        self.shut_down()?;
        self.expire();
        self.report_closed(handler);
        let happened = left + asked.happened;
        self.busy = happened > 0;
        self.counters.polls += u64::from(self.busy);
        Ok(happened)
    }

    /// Asks what is ready, and notes whose turn it is.
    fn ask<H: Handler>(&mut self, handler: &mut H, block: bool) -> io::Result<Asked> {
        let mut events = mem::take(&mut self.events);
        events.clear();
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let timeout = if block { None } else { Some(&zero) };
        let began_ns = if block { monotonic_ns() } else { 0 };
        match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if block {
            self.record_sleep(began_ns);
        } else {
            self.read_clock();
        }
        let all_seen = !self.filled && self.queues.waiting(Queue::Quiet) == 0;
        self.timing.looked(self.last_sleep_ns(), self.now_ns(), self.busy, all_seen);
        self.filled = events.len() == EVENTS;
        let mut asked = Asked { happened: events.len(), ..Asked::default() };
        for event in &events {
            let id = ConnId::from_u64(event.data.u64());
            match id {
                LISTENER => asked.newcomers = true,
                TIMER => {
                    self.timer.expired();
                    asked.happened -= 1;
                }
                NOTIFICATION => asked.notified = true,
                _ => self.ready(handler, id, event.flags),
            }
        }
        self.events = events;
        Ok(asked)
    }

    fn ready<H: Handler>(&mut self, handler: &mut H, id: ConnId, flags: EventFlags) {
        let Some(slot) = self.slots.get(id) else { return };
        let broken = flags.intersects(EventFlags::ERR | EventFlags::HUP);
        slot.broken |= broken;
        slot.hung_up |= broken || flags.contains(EventFlags::RDHUP);
        if flags.contains(EventFlags::OUT) {
            if slot.state == State::Connecting && !broken {
                slot.state = State::Open;
                handler.connected(self, id);
            } else if slot.backlog.is_some() {
                slot.writable = true;
                self.queues.join(Queue::Busy, id, slot);
            }
        }
        if broken || flags.intersects(EventFlags::IN | EventFlags::RDHUP) {
            // Told that it is connected, the handler may have closed it.
            let Some(slot) = self.slots.get(id) else { return };
            let owes = slot.stash.is_some() || slot.backlog.is_some();
            let queue = if owes { Queue::Busy } else { Queue::Quiet };
            self.queues.join(queue, id, slot);
        }
    }

    /// Gives a share to each connection that was quiet, at most [`BATCH`] of them. Their answers
    /// leave: who was quick to ask does not wait for what follows.
    fn serve_quiet<H: Handler>(&mut self, handler: &mut H) -> io::Result<()> {
        self.take(handler, Queue::Quiet, BATCH);
        self.receive(handler, SHARE)?;
        let answers = self.to_send();
        if answers > 0 {
            self.flush()?;
            let now_ns = self.read_clock();
            self.timing.answered(now_ns, answers);
        }
        Ok(())
    }

    /// Gives a chunk to each connection that has more, and its backlog to each that made room,
    /// until [`BUSY_NS`] have passed or [`BUSY_BYTES`] are read; who then waits is the first to be
    /// served the next time.
    fn serve_busy<H: Handler>(&mut self, handler: &mut H) -> io::Result<()> {
        let mut waiting = self.queues.waiting(Queue::Busy);
        if waiting == 0 {
            return Ok(());
        }
        let until_ns = self.read_clock() + BUSY_NS;
        let until_bytes = self.counters.bytes_in + BUSY_BYTES;
        while waiting > 0 {
            let most = TOGETHER.min(waiting);
            self.take(handler, Queue::Busy, most);
            self.receive(handler, CHUNK)?;
            self.flush()?;
            if self.counters.bytes_in >= until_bytes || self.read_clock() >= until_ns {
                break;
            }
            waiting -= most;
        }
        Ok(())
    }

    /// Takes at most `most` turns of a queue; those who may be read form the batch.
    fn take<H: Handler>(&mut self, handler: &mut H, queue: Queue, most: usize) {
        for _ in 0..most {
            let Some(id) = self.queues.next(queue) else { break };
            if self.may_be_read(id) {
                handler.prefetch(id);
                self.batch.push(id);
            }
        }
    }

    /// Begins the turn of a connection: what waits for it is sent when there is room. Says whether
    /// it may be read. A peer that asks is not read on before it has read the answers that pile up;
    /// where this side asks, answers are always read, or each could wait for the other.
    fn may_be_read(&mut self, id: ConnId) -> bool {
        // Only live ones: the slot of one that went may belong to another connection by now.
        let Some(slot) = self.slots.get(id) else { return false };
        slot.waiting = false;
        if slot.state == State::Dead || slot.backlog.is_none() || slot.broken {
            return slot.state != State::Dead;
        }
        let accepted = slot.accepted;
        slot.held = accepted;
        if mem::take(&mut slot.writable) {
            let backlog = slot.backlog.take();
            backlog.into_iter().for_each(|backlog| self.resend(id, &backlog));
        }
        !accepted
    }

    /// Reads at most `share` bytes from each connection of the batch and delivers them.
    fn receive<H: Handler>(&mut self, handler: &mut H, share: usize) -> io::Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let mut batch = mem::take(&mut self.batch);
        let slots = batch.iter().map(|id| id.slot);
        self.sockets.recv_each(slots, &mut self.buffer, share, &mut self.received)?;
        self.read_clock();
        let buffer = mem::take(&mut self.buffer);
        for (at, bytes) in buffer.chunks_exact(share).take(batch.len()).enumerate() {
            self.read(handler, batch[at], self.received[at], bytes);
        }
        self.buffer = buffer;
        batch.clear();
        self.batch = batch;
        Ok(())
    }

    fn read<H: Handler>(&mut self, handler: &mut H, id: ConnId, result: i32, bytes: &[u8]) {
        let Some(state) = self.slots.get(id).map(|slot| slot.state) else { return };
        match (usize::try_from(result), state) {
            (_, State::Free | State::Dead) => {}
            (Ok(0), _) => self.fail(id, Closed::ByPeer),
            (Ok(len), _) => {
                self.counters.bytes_in += len as u64;
                self.had_memory(id);
                if state == State::Open {
                    self.deliver(handler, id, &bytes[..len]);
                }
                if let Some(slot) = self.slots.get(id)
                    && (slot.hung_up || len == bytes.len())
                {
                    self.queues.join(Queue::Busy, id, slot);
                }
            }
            (Err(_), State::Connecting) if result != -libc::EAGAIN => {
                self.fail(id, Closed::NotConnected(-result));
            }
            (Err(_), _) if result == -libc::EAGAIN => {}
            (Err(_), _) if is_passing(-result) => {
                self.put_off(id, -result);
            }
            (Err(_), _) => self.fail(id, Closed::Broken(-result)),
        }
    }

    fn deliver<H: Handler>(&mut self, handler: &mut H, id: ConnId, bytes: &[u8]) {
        let stash = self.slots.get(id).and_then(|slot| slot.stash.take());
        let stash = if let Some(mut stash) = stash {
            stash.bytes.extend_from_slice(bytes);
            let used = handler.received(self, id, &stash.bytes);
            stash.bytes.drain(..used);
            Some(stash)
        } else {
            let used = handler.received(self, id, bytes);
            (used < bytes.len()).then(|| {
                let mut stash = self.spare.pop().unwrap_or_default();
                stash.bytes.extend_from_slice(&bytes[used..]);
                stash
            })
        };
        let Some(mut stash) = stash else { return };
        let open = self.slots.get(id).filter(|slot| slot.state == State::Open);
        match open {
            Some(_) if stash.bytes.len() > self.limits.stash_bytes => {
                self.fail(id, Closed::FrameTooLong);
            }
            Some(slot) if !stash.bytes.is_empty() => slot.stash = Some(stash),
            _ if self.spare.len() < SPARE_STASHES => {
                stash.bytes.clear();
                self.spare.push(stash);
            }
            _ => {}
        }
    }

    fn accept<H: Handler>(&mut self, handler: &mut H) -> io::Result<()> {
        for _ in 0..ACCEPTS_PER_POLL {
            let Some(listener) = &mut self.listener else { break };
            match listener.accept()? {
                Accepted::NoPeer => break,
                Accepted::Gone => {}
                Accepted::TurnedAway => self.counters.turned_away += 1,
                Accepted::Socket(socket) if self.slots.is_full() => {
                    self.counters.turned_away += 1;
                    self.counters.found_full += 1;
                    reset(socket);
                }
                Accepted::Socket(socket) => match self.adopt(socket, State::Open) {
                    Ok(Some(id)) => {
                        self.counters.accepted += 1;
                        handler.accepted(self, id);
                    }
                    // No descriptor for another ring, no memory: only this peer is turned away.
                    Ok(None) | Err(_) => self.counters.turned_away += 1,
                },
            }
        }
        Ok(())
    }

    fn report_closed<H: Handler>(&mut self, handler: &mut H) {
        for _ in 0..GOODBYES_PER_POLL {
            let Some((id, why)) = self.dead.pop_front() else { break };
            self.slots.release(id);
            handler.closed(self, id, why);
        }
    }
}
