//! The loop of a shard, and where it waits.
//!
//! glommio waits on the readiness set alone, as one poll of its ring, because one poll a connection
//! does not scale. But a wait in glommio's reactor arms and cancels timers and links its rings:
//! about 9 µs more than `epoll_wait` (docs/decisions/0002-one-epoll-set.md), which at 60,000
//! requests/s is half of what the requests cost themselves. So a shard that was busy a moment ago
//! waits in `epoll_wait`, bounded by the timer, and goes back to the reactor when glommio wants to
//! run something else or nothing has happened for [`LINGER_NS`].

use std::io;

use futures_lite::AsyncReadExt;
use glommio::net::TcpStream;
use rustix::fd::{FromRawFd, IntoRawFd};

use crate::connections::Net;
use crate::handler::{Handler, Next};

/// How long a shard waits in `epoll_wait` after something happened, and so the longest that another
/// task of its executor can be kept waiting: two timers of 100 a second cost nothing measurable.
const LINGER_NS: u64 = 10_000_000;

/// Runs a shard until its handler says [`Next::Stop`].
///
/// # Errors
/// What the kernel says about the readiness set, the timer or a ring; single connections do not
/// end the loop.
pub async fn drive<H: Handler>(net: &mut Net, handler: &mut H) -> io::Result<()> {
    let mut busy_ns = net.read_clock();
    loop {
        let deadline_ns = match handler.polled(net) {
            Next::Whenever => u64::MAX,
            Next::By(at) => at,
            Next::Stop => {
                net.flush()?;
                return net.shut_down();
            }
        };
        net.flush()?;
        let deadline_ns = deadline_ns.min(net.next_deadline_ns().unwrap_or(u64::MAX));
        let now_ns = net.now_ns();
        let happened = if deadline_ns <= now_ns || net.has_work() {
            net.poll(handler, false)?
        } else if now_ns < busy_ns + LINGER_NS {
            net.wake_by(deadline_ns.min(busy_ns + LINGER_NS))?;
            net.poll(handler, true)?
        } else {
            if deadline_ns != u64::MAX {
                net.wake_by(deadline_ns)?;
            }
            let began_ns = net.read_clock();
            readable(net).await?;
            net.record_sleep(began_ns);
            net.poll(handler, false)?
        };
        if happened > 0 {
            busy_ns = net.now_ns();
        }
        glommio::yield_if_needed().await;
    }
}

/// Waits in glommio's reactor until the readiness set has something.
///
/// glommio has no public way to wait for a descriptor that is no socket. But a `TcpStream` begins
/// with a readiness poll of its descriptor, and only then reads: from an epoll descriptor that ends
/// with ENOTSOCK, exactly when the set is ready. Each wait needs a stream, and so a descriptor,
/// anew.
async fn readable(net: &Net) -> io::Result<()> {
    let Ok(copy) = net.readiness().try_clone_to_owned() else {
        // No descriptor left: the caller looks at the set without waiting, which keeps the shard
        // alive at the price of CPU until one is free.
        return Ok(());
    };
    // SAFETY: the descriptor was just made, has no other owner, and is given away here.
    let mut stream = unsafe { TcpStream::from_raw_fd(copy.into_raw_fd()) };
    match stream.read(&mut [0; 1]).await {
        Err(error) if error.raw_os_error() == Some(libc::ENOTSOCK) => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::other("an epoll descriptor was read like a socket")),
    }
}
