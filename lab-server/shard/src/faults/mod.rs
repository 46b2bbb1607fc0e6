//! Failures between a shard and its rings, call by call, and what must hold then: whatever a peer
//! is sent is its own answer, whole and in order.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue};

mod talk;
mod tests;

/// A call or an operation that may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// Entries are handed over.
    Enter,
    /// A file comes or goes.
    Update,
    /// Bytes are received from the socket of a slot.
    Receive(u32),
    /// Bytes are sent to it.
    Send(u32),
    /// Its sending direction ends.
    Shutdown(u32),
}

impl Call {
    /// The slot of an operation, which is on one socket.
    pub(crate) fn slot(self) -> Option<u32> {
        match self {
            Call::Enter | Call::Update => None,
            Call::Receive(slot) | Call::Send(slot) | Call::Shutdown(slot) => Some(slot),
        }
    }
}

/// How it fails.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// With this errno, and nothing was taken.
    Refused(i32),
    /// With this errno, after everything was carried out.
    Late(i32),
    /// Not at all, but at most so many entries were taken.
    Partial(u32),
    /// An operation completes with this errno, and nothing of it was done.
    Completed(i32),
}

type Plan = Box<dyn FnMut(Call) -> Option<Fault>>;

thread_local! {
    static PLAN: RefCell<Option<Plan>> = const { RefCell::new(None) };
    /// By token, the results of operations under way that were told to fail.
    static FAILED: RefCell<BTreeMap<usize, i32>> = const { RefCell::new(BTreeMap::new()) };
    /// How long was waited between attempts.
    static PAUSES: RefCell<Vec<Duration>> = const { RefCell::new(Vec::new()) };
}

/// What is to happen to a call of this thread.
pub(crate) fn of(call: Call) -> Option<Fault> {
    PLAN.with_borrow_mut(|plan| plan.as_mut().and_then(|plan| plan(call)))
}

/// An operation, or in its stead one that does nothing and whose result will be an errno.
pub(crate) fn operation(entry: squeue::Entry, call: Call, token: usize) -> squeue::Entry {
    let Some(Fault::Completed(errno)) = of(call) else { return entry };
    FAILED.with_borrow_mut(|failed| failed.insert(token, -errno));
    opcode::Nop::new().build()
}

/// An operation has a result: another if it was told to fail.
pub(crate) fn completed(token: usize, result: &mut i32) {
    if let Some(failed) = FAILED.with_borrow_mut(|failed| failed.remove(&token)) {
        *result = failed;
    }
}

/// A pause between two attempts; nobody sleeps here.
pub(crate) fn paused(pause: Duration) {
    PAUSES.with_borrow_mut(|pauses| pauses.push(pause));
}

impl Fault {
    pub(crate) fn enter(self, ring: &IoUring, wait: usize) -> io::Result<usize> {
        match self {
            Fault::Refused(errno) => Err(io::Error::from_raw_os_error(errno)),
            Fault::Late(errno) => {
                ring.submit_and_wait(wait)?;
                Err(io::Error::from_raw_os_error(errno))
            }
            // SAFETY: it submits what `submit_and_wait` would, only less of it.
            Fault::Partial(most) if wait == 0 => unsafe {
                ring.submitter().enter::<libc::sigset_t>(most, 0, 0, None)
            },
            Fault::Partial(_) | Fault::Completed(_) => ring.submit_and_wait(wait),
        }
    }
}
