//! Sockets that live in io_uring's tables of registered files instead of the descriptor table.
//!
//! A million sockets do not fit a descriptor table of 20,000, and one thread can have only one
//! table. A ring's table of files is checked against the same limit, but each ring for itself, and
//! one thread can have many rings. So a socket keeps its descriptor just long enough to be added to
//! the readiness set and handed to a ring; receives and sends name the file by its index. This is
//! what lets two shards carry a million connections where descriptor tables would need 54 threads
//! (ARCHITECTURE.md has the figures).
//!
//! Every operation is non-blocking and completes inside the call that submits it: a batch is handed
//! over, and its results are there when the call returns.

use std::io;

use io_uring::{IoUring, opcode, squeue, types};
use rustix::fd::{AsRawFd, OwnedFd};

/// Operations that one ring takes at a time. A poll handles at most as many events (`BATCH`), so
/// that a batch rarely needs a second submission.
const RING_ENTRIES: u32 = 256;

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
}

impl RegisteredSockets {
    /// Room for slots `0..capacity`, at most `per_ring` in a ring. Rings are made when first
    /// needed.
    pub(crate) fn new(capacity: u32, per_ring: u32) -> Self {
        Self { rings: Vec::new(), per_ring: per_ring.min(capacity.max(1)), capacity }
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
        let fds = [socket.as_raw_fd()];
        self.rings[ring].ring.submitter().register_files_update(index, &fds)?;
        drop(socket);
        Ok(())
    }

    /// Closes the socket of a slot.
    pub(crate) fn unregister(&mut self, slot: u32) {
        let (ring, index) = self.place(slot);
        let removed = self.rings[ring].ring.submitter().register_files_update(index, &[-1]);
        // Removing an index of a registered table fails only for an index outside of it.
        debug_assert!(removed.is_ok(), "{removed:?}");
    }

    /// Receives once from each slot into its own `chunk` of `buffer`. `results[i]` is the number of
    /// bytes of `slots[i]`, or a negative errno.
    ///
    /// # Errors
    /// What `io_uring_enter` says.
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
            // SAFETY: `space` is borrowed until this function returns, and `complete` below returns
            // only when every operation has its result.
            unsafe { self.push(ring, recv, token as u64, results)? };
        }
        self.complete(results)
    }

    /// Sends each operation's part of `arena`. `results[i]` is the number of bytes that `ops[i]`
    /// sent, or a negative errno; 0 for one of no bytes, which sends nothing.
    ///
    /// # Errors
    /// What `io_uring_enter` says.
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
            // SAFETY: `arena` is borrowed until this function returns, and `complete` below returns
            // only when every operation has its result.
            unsafe { self.push(ring, send, token as u64, results)? };
        }
        self.complete(results)
    }

    /// Ends the sending direction of each slot; what was sent before still arrives.
    ///
    /// # Errors
    /// What `io_uring_enter` says.
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
        let at = &mut self.rings[ring];
        let entry = entry.user_data(token);
        // SAFETY: the caller keeps the entry's memory alive.
        if unsafe { at.ring.submission().push(&entry) }.is_err() {
            at.complete(results)?;
            // SAFETY: as above; the queue is empty now.
            let pushed = unsafe { at.ring.submission().push(&entry) };
            assert!(pushed.is_ok(), "an empty submission queue takes an entry");
        }
        at.queued += 1;
        Ok(())
    }

    fn complete(&mut self, results: &mut [i32]) -> io::Result<()> {
        for ring in &mut self.rings {
            if ring.queued > 0 {
                ring.complete(results)?;
            }
        }
        Ok(())
    }
}

impl Ring {
    /// Submits what was pushed and collects one result for each.
    fn complete(&mut self, results: &mut [i32]) -> io::Result<()> {
        while self.queued > 0 {
            // Non-blocking operations complete while they are submitted: only when one did not is
            // there something to wait for.
            let wait = usize::from(self.ring.submission().is_empty());
            match self.ring.submit_and_wait(wait) {
                Ok(_) => {}
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error),
            }
            for completion in self.ring.completion() {
                self.queued -= 1;
                let token = usize::try_from(completion.user_data()).unwrap_or(usize::MAX);
                if let Some(result) = results.get_mut(token) {
                    *result = completion.result();
                }
            }
        }
        Ok(())
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
}
