//! Signals that end a process wait while settings are written, so that a terminal that is closed,
//! or Ctrl-C, leaves all of a profile or nothing. Must not know: what is written.

use std::mem::MaybeUninit;

/// What ends a process, unless it says otherwise.
const ENDING: [libc::c_int; 3] = [libc::SIGHUP, libc::SIGINT, libc::SIGTERM];

/// While this lives, the calling thread gets none of them; those that came are delivered then.
pub(crate) struct SignalsWait {
    before: libc::sigset_t,
}

impl SignalsWait {
    /// From here on.
    pub(crate) fn begin() -> Self {
        let (mut ending, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        // SAFETY: both sets are the caller's; the first one is made empty before it is added to,
        // and the second one is written by the call, which cannot fail with these arguments.
        unsafe {
            libc::sigemptyset(ending.as_mut_ptr());
            for signal in ENDING {
                libc::sigaddset(ending.as_mut_ptr(), signal);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, ending.as_ptr(), before.as_mut_ptr());
            Self { before: before.assume_init() }
        }
    }
}

impl Drop for SignalsWait {
    fn drop(&mut self) {
        // SAFETY: the set is one that the kernel has given.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut());
        }
    }
}
