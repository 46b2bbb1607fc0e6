//! What happens on the sockets of a shard: readiness, received bytes, accepted connections, each
//! handed to the program's [`Handler`].

use std::io;
use std::mem;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventFlags};

use crate::connections::{BATCH, CHUNK, LISTENER, NOTIFICATION, Net, TIMER};
use crate::handler::Handler;
use crate::limits::Closed;
use crate::listener::{Accepted, reset};
use crate::slots::{ConnId, Stash, State};
use platform::monotonic_ns;

/// Connections accepted in one poll, so that a rush of newcomers does not starve the others.
const ACCEPTS_PER_POLL: usize = 64;

impl Net {
    /// Handles what has happened, at most 256 events; with `block` waits for something first.
    /// Returns how many events there were, the timer not counted.
    ///
    /// # Errors
    /// What the kernel says about the readiness set or a ring: the shard cannot go on then.
    pub fn poll<H: Handler>(&mut self, handler: &mut H, block: bool) -> io::Result<usize> {
        let mut events = mem::take(&mut self.events);
        events.clear();
        // What is left from the last poll goes first: it could pile up otherwise.
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
                self.record_sleep(began_ns);
            }
        }
        self.read_clock();
        let mut newcomers = false;
        let mut happened = self.readable.len() + events.len();
        for event in &events {
            let id = ConnId::from_u64(event.data.u64());
            match id {
                LISTENER => newcomers = true,
                TIMER => {
                    self.timer.expired();
                    happened -= 1;
                }
                NOTIFICATION => handler.notified(self),
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
        self.report_closed(handler);
        self.busy = happened > 0;
        self.counters.polls += u64::from(self.busy);
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

    /// Reads once from each readable connection and delivers the bytes.
    fn receive<H: Handler>(&mut self, handler: &mut H) -> io::Result<()> {
        let mut batch = mem::take(&mut self.batch);
        // Only live ones: the slot of one that went may belong to another connection by now.
        while batch.len() < BATCH {
            let Some(id) = self.readable.pop_front() else { break };
            if self.slots.get(id).is_some_and(|slot| slot.state != State::Dead) {
                handler.prefetch(id);
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
            (Ok(0), _) => self.fail(id, Closed::ByPeer),
            (Ok(len), _) => {
                self.counters.bytes_in += len as u64;
                if state == State::Open {
                    self.deliver(handler, id, &bytes[..len]);
                }
                let hung_up = self.slots.get(id).is_some_and(|slot| slot.hung_up);
                if hung_up || len == bytes.len() {
                    self.readable.push_back(id);
                }
            }
            (Err(_), State::Connecting) if result != -libc::EAGAIN => {
                self.fail(id, Closed::NotConnected(-result));
            }
            (Err(_), _) if matches!(-result, libc::EAGAIN | libc::EINTR) => {}
            (Err(_), _) => self.fail(id, Closed::Broken(-result)),
        }
    }

    fn deliver<H: Handler>(&mut self, handler: &mut H, id: ConnId, bytes: &[u8]) {
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
                self.fail(id, Closed::FrameTooLong);
            } else {
                slot.stash = Some(rest);
            }
        }
    }

    fn accept<H: Handler>(&mut self, handler: &mut H) -> io::Result<()> {
        for _ in 0..ACCEPTS_PER_POLL {
            let Some(listener) = &mut self.listener else { break };
            match listener.accept()? {
                Accepted::NoPeer => break,
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
                    // No descriptor for another ring, no memory: only this peer is turned away.
                    Ok(None) | Err(_) => self.counters.turned_away += 1,
                },
            }
        }
        Ok(())
    }

    fn report_closed<H: Handler>(&mut self, handler: &mut H) {
        while let Some((id, why)) = self.dead.pop() {
            self.slots.release(id);
            handler.closed(self, id, why);
        }
    }
}
