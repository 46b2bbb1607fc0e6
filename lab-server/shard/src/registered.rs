//! Sockets that live in io_uring's tables of registered files instead of the descriptor table.
//!
//! A million sockets do not fit a descriptor table of 20,000, and one thread can have only one
//! table. A ring's table of files is checked against the same limit, but each ring for itself, and
//! one thread can have many rings. So a socket keeps its descriptor just long enough to be added to
//! the readiness set and handed to a ring; receives and sends name the file by its index. This is
//! what lets two shards carry a million connections where descriptor tables would need 54 threads
//! (figures: docs/decisions/0001-registered-files.md).
//!
//! Every operation is non-blocking and completes inside the call that submits it: a batch is handed
//! over, and its results are there when the call returns.
//!
//! An entry that the kernel has not taken stays in its ring and would be carried out by whatever
//! call enters the ring next, with the memory as it is by then: another user's answer. So a batch
//! whose submission fails is tried again while its memory is still lent, and when that is in vain,
//! no ring is entered ever again.

use std::io;
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue, types};
use rustix::fd::{AsRawFd, OwnedFd};

#[cfg(test)]
use crate::faults;

/// Operations that one ring takes at a time. A poll handles at most as many events (`BATCH`), so
/// that a batch rarely needs a second submission.
const RING_ENTRIES: u32 = 256;

/// How often in a row a ring is entered in vain before it is given up: with the pauses between,
/// which double from [`FIRST_PAUSE`], after a tenth of a second. What passes by itself (no memory
/// for a request, a signal, completions in the way) has passed by then.
pub(crate) const ATTEMPTS: u32 = 13;
const FIRST_PAUSE: Duration = Duration::from_micros(25);

/// A send of part of an arena of bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SendOp {
    pub(crate) slot: u32,
    pub(crate) start: u32,
    pub(crate) len: u32,
}

struct Ring {
    ring: IoUring,
    /// Operations pushed and not yet completed.
    queued: usize,
}

/// Sockets by slot, spread over as many rings as their number needs.
pub(crate) struct RegisteredSockets {
    rings: Vec<Ring>,
    per_ring: u32,
    capacity: u32,
    /// What the kernel said when a ring was given up.
    given_up: Option<i32>,
}

impl RegisteredSockets {
    /// Room for slots `0..capacity`, at most `per_ring` in a ring. Rings are made when first
    /// needed.
    pub(crate) fn new(capacity: u32, per_ring: u32) -> Self {
        let per_ring = per_ring.min(capacity.max(1));
        Self { rings: Vec::new(), per_ring, capacity, given_up: None }
    }

    /// Whether operations are still carried out.
    ///
    /// # Errors
    /// Why they are not.
    pub(crate) fn usable(&self) -> io::Result<()> {
        match self.given_up {
            None => Ok(()),
            Some(errno) => {
                let error = io::Error::from_raw_os_error(errno);
                let kind = error.kind();
                Err(io::Error::new(kind, format!("a ring of sockets was given up: {error}")))
            }
        }
    }

    /// Gives all rings up: from here on none is entered.
    fn give_up(&mut self, errno: i32) -> io::Result<()> {
        self.given_up.get_or_insert(errno);
        self.usable()
    }

    fn place(&self, slot: u32) -> (usize, u32) {
        ((slot / self.per_ring) as usize, slot % self.per_ring)
    }

    fn add_ring(&mut self) -> io::Result<()> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_cqsize(2 * RING_ENTRIES)
            .build(RING_ENTRIES)?;
        ring.submitter().register_files_sparse(self.per_ring)?;
        self.rings.push(Ring { ring, queued: 0 });
        Ok(())
    }

    /// Takes over a socket; its descriptor is free again afterwards.
    ///
    /// # Errors
    /// What io_uring says; the socket is closed then.
    pub(crate) fn register(&mut self, slot: u32, socket: OwnedFd) -> io::Result<()> {
        assert!(slot < self.capacity, "slot {slot} of {}", self.capacity);
        let (ring, index) = self.place(slot);
        while self.rings.len() <= ring {
            self.add_ring()?;
        }
        update(&self.rings[ring].ring, index, socket.as_raw_fd())?;
        drop(socket);
        Ok(())
    }

    /// Closes the socket of a slot. A ring that does not let go of one is given up: the next
    /// connection in this slot would have it.
    pub(crate) fn unregister(&mut self, slot: u32) {
        let (ring, index) = self.place(slot);
        if let Err(error) = update(&self.rings[ring].ring, index, -1) {
            let _ = self.give_up(error.raw_os_error().unwrap_or(libc::EIO));
        }
    }

    /// Receives once from each slot into its own `chunk` of `buffer`. `results[i]` is the number of
    /// bytes of `slots[i]`, or a negative errno.
    ///
    /// # Errors
    /// Why the rings were given up.
    pub(crate) fn recv_each(
        &mut self,
        slots: impl ExactSizeIterator<Item = u32>,
        buffer: &mut [u8],
        chunk: usize,
        results: &mut Vec<i32>,
    ) -> io::Result<()> {
        assert!(slots.len() * chunk <= buffer.len());
        results.clear();
        results.resize(slots.len(), 0);
        for ((token, slot), space) in slots.enumerate().zip(buffer.chunks_exact_mut(chunk)) {
            let (ring, index) = self.place(slot);
            let len = u32::try_from(chunk).unwrap_or(u32::MAX);
            let recv = opcode::Recv::new(types::Fixed(index), space.as_mut_ptr(), len)
                .flags(libc::MSG_DONTWAIT)
                .build();
            #[cfg(test)]
            let recv = faults::operation(recv, faults::Call::Receive(slot), token);
            // SAFETY: `space` is borrowed until this function returns, and `complete` below returns
            // when every operation has its result, or no ring is entered any more.
            unsafe { self.push(ring, recv, token as u64, results)? };
        }
        self.complete(results)
    }

    /// Sends each operation's part of `arena`. `results[i]` is the number of bytes that `ops[i]`
    /// sent, or a negative errno; 0 for one of no bytes, which sends nothing.
    ///
    /// # Errors
    /// Why the rings were given up.
    pub(crate) fn send_each(
        &mut self,
        ops: &[SendOp],
        arena: &[u8],
        results: &mut Vec<i32>,
    ) -> io::Result<()> {
        results.clear();
        results.resize(ops.len(), 0);
        for (token, op) in ops.iter().enumerate().filter(|(_, op)| op.len > 0) {
            let bytes = &arena[op.start as usize..][..op.len as usize];
            let (ring, index) = self.place(op.slot);
            let send = opcode::Send::new(types::Fixed(index), bytes.as_ptr(), op.len)
                .flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
                .build();
            #[cfg(test)]
            let send = faults::operation(send, faults::Call::Send(op.slot), token);
            // SAFETY: `arena` is borrowed until this function returns, and `complete` below returns
            // when every operation has its result, or no ring is entered any more.
            unsafe { self.push(ring, send, token as u64, results)? };
        }
        self.complete(results)
    }

    /// Ends the sending direction of each slot; what was sent before still arrives.
    ///
    /// # Errors
    /// Why the rings were given up.
    pub(crate) fn shutdown_each(
        &mut self,
        slots: &[u32],
        results: &mut Vec<i32>,
    ) -> io::Result<()> {
        results.clear();
        results.resize(slots.len(), 0);
        for (token, slot) in slots.iter().enumerate() {
            let (ring, index) = self.place(*slot);
            let shutdown = opcode::Shutdown::new(types::Fixed(index), libc::SHUT_WR).build();
            #[cfg(test)]
            let shutdown = faults::operation(shutdown, faults::Call::Shutdown(*slot), token);
            // SAFETY: the operation refers to no memory.
            unsafe { self.push(ring, shutdown, token as u64, results)? };
        }
        self.complete(results)
    }

    /// # Safety
    /// The memory that the entry refers to must stay valid until [`Self::complete`] returned.
    unsafe fn push(
        &mut self,
        ring: usize,
        entry: squeue::Entry,
        token: u64,
        results: &mut [i32],
    ) -> io::Result<()> {
        self.usable()?;
        let entry = entry.user_data(token);
        // SAFETY: the caller keeps the entry's memory alive.
        if unsafe { self.rings[ring].ring.submission().push(&entry) }.is_err() {
            if let Err(errno) = self.rings[ring].complete(results) {
                return self.give_up(errno);
            }
            // SAFETY: as above; the queue is empty now.
            let pushed = unsafe { self.rings[ring].ring.submission().push(&entry) };
            assert!(pushed.is_ok(), "an empty submission queue takes an entry");
        }
        self.rings[ring].queued += 1;
        Ok(())
    }

    fn complete(&mut self, results: &mut [i32]) -> io::Result<()> {
        self.usable()?;
        let mut rings = self.rings.iter_mut().filter(|ring| ring.queued > 0);
        match rings.try_for_each(|ring| ring.complete(results)) {
            Ok(()) => Ok(()),
            Err(errno) => self.give_up(errno),
        }
    }
}

impl Ring {
    /// Submits what was pushed and collects one result for each; when that is in vain, says what
    /// the kernel said last.
    fn complete(&mut self, results: &mut [i32]) -> Result<(), i32> {
        let mut in_vain = 0;
        while self.queued > 0 {
            let (queued, unsubmitted) = (self.queued, self.ring.submission().len());
            // Non-blocking operations complete while they are submitted: only when one did not is
            // there something to wait for.
            let entered = enter(&self.ring, usize::from(unsubmitted == 0));
            for completion in self.ring.completion() {
                self.queued -= 1;
                let token = usize::try_from(completion.user_data()).unwrap_or(usize::MAX);
                if let Some(result) = results.get_mut(token) {
                    *result = completion.result();
                    #[cfg(test)]
                    faults::completed(token, result);
                }
            }
            let errno = match entered {
                // It takes nothing and says nothing.
                Ok(_) => libc::EAGAIN,
                Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
            };
            if !is_passing(errno) {
                return Err(errno);
            }
            if self.queued < queued || self.ring.submission().len() < unsubmitted {
                in_vain = 0;
                continue;
            }
            in_vain += 1;
            if in_vain == ATTEMPTS {
                return Err(errno);
            }
            pause(pause_after(in_vain));
        }
        Ok(())
    }
}

/// How long to wait after so many attempts in a row that were in vain.
pub(crate) fn pause_after(in_vain: u32) -> Duration {
    FIRST_PAUSE * (1 << (in_vain - 1))
}

/// Waits. Tests of this crate look at how long, and do not.
fn pause(pause: Duration) {
    #[cfg(test)]
    faults::paused(pause);
    #[cfg(not(test))]
    std::thread::sleep(pause);
}

/// Errors of `io_uring_enter` that say nothing about the ring or its entries (`io_uring_enter(2)`).
fn is_passing(errno: i32) -> bool {
    matches!(errno, libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ENOMEM)
}

/// Hands over what was pushed and waits for so many results.
fn enter(ring: &IoUring, wait: usize) -> io::Result<usize> {
    #[cfg(test)]
    if let Some(fault) = faults::of(faults::Call::Enter) {
        return fault.enter(ring, wait);
    }
    ring.submit_and_wait(wait)
}

/// Puts a file at an index of a ring's table, or with -1 takes the one there away.
fn update(ring: &IoUring, index: u32, fd: i32) -> io::Result<()> {
    #[cfg(test)]
    if let Some(faults::Fault::Refused(errno)) = faults::of(faults::Call::Update) {
        return Err(io::Error::from_raw_os_error(errno));
    }
    ring.submitter().register_files_update(index, &[fd]).map(drop)
}
