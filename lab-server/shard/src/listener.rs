//! The listening socket of a shard.

use std::io;
use std::net::SocketAddrV4;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::SocketFlags;
use socket2::{Domain, Protocol, Socket, Type};

/// What a listening socket is to be.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// Where to listen; every shard listens on the same address (SO_REUSEPORT).
    pub address: SocketAddrV4,
    /// Connections that wait to be accepted; the kernel caps it at `net.core.somaxconn`.
    pub backlog: i32,
    /// The CPU whose new connections this shard takes (SO_INCOMING_CPU); when `None`, a hash over
    /// both addresses chooses the shard.
    pub cpu: Option<usize>,
    /// Congestion control of the accepted connections, the system's default when `None`.
    pub congestion: Option<String>,
}

/// Opens and binds a listening socket. Accepted sockets inherit TCP_NODELAY and congestion control.
///
/// # Errors
/// What the kernel says: the address is in use or not of this machine, the congestion control is
/// unknown or not permitted.
pub fn bind_listener(options: &ListenOptions) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_tcp_nodelay(true)?;
    set_congestion(&socket, options.congestion.as_deref())?;
    socket.bind(&options.address.into())?;
    if let Some(cpu) = options.cpu {
        socket.set_cpu_affinity(cpu)?;
    }
    socket.listen(options.backlog)?;
    Ok(socket.into())
}

/// Sets the congestion control of a socket, if one is wanted.
pub(crate) fn set_congestion(socket: &Socket, name: Option<&str>) -> io::Result<()> {
    let Some(name) = name else { return Ok(()) };
    socket.set_tcp_congestion(name.as_bytes()).map_err(|error| {
        let why = match error.raw_os_error() {
            Some(libc::ENOENT) => {
                "this kernel does not have it (net.ipv4.tcp_available_congestion_control)"
            }
            Some(libc::EPERM) => {
                "only root may choose it (net.ipv4.tcp_allowed_congestion_control lists the others)"
            }
            _ => return error,
        };
        io::Error::new(error.kind(), format!("congestion control '{name}': {why}"))
    })
}

/// The result of one attempt to accept.
pub(crate) enum Accepted {
    Socket(OwnedFd),
    /// No peer waits.
    NoPeer,
    /// A peer waited and was turned away, because descriptors or files have run out.
    TurnedAway,
    /// A peer waited and was gone before it could be accepted.
    Gone,
}

/// A listening socket and one spare descriptor: when all others are used up, the spare one is given
/// up to accept a connection and close it, so that its peer is told instead of hanging in the
/// backlog.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: OwnedFd,
    spare: Option<OwnedFd>,
}

impl Listener {
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        let spare = Some(open_spare()?);
        Ok(Self { socket, spare })
    }

    pub(crate) fn accept(&mut self) -> io::Result<Accepted> {
        match self.accept_once() {
            Ok(socket) => Ok(Accepted::Socket(socket)),
            Err(rustix::io::Errno::AGAIN) => Ok(Accepted::NoPeer),
            Err(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE) => Ok(self.turn_away()),
            // No memory for a socket: the peer stays in the backlog until there is.
            Err(rustix::io::Errno::NOBUFS | rustix::io::Errno::NOMEM) => Ok(Accepted::NoPeer),
            Err(error) if is_of_the_peer(error) => Ok(Accepted::Gone),
            Err(error) => Err(error.into()),
        }
    }

    fn accept_once(&self) -> rustix::io::Result<OwnedFd> {
        rustix::net::accept_with(&self.socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)
    }

    fn turn_away(&mut self) -> Accepted {
        self.spare = None;
        // Without a descriptor to give, the kernel refuses before it looks whether a peer waits.
        let turned_away = match self.accept_once() {
            Ok(socket) => {
                reset(socket);
                Accepted::TurnedAway
            }
            Err(_) => Accepted::NoPeer,
        };
        self.spare = open_spare().ok();
        turned_away
    }
}

/// Whether an error of `accept` is about the connection that waited: it gave up, a packet of its
/// handshake was bad, the way to it failed, or a rule of this machine forbids it (accept(2)). The
/// next one may be all right.
fn is_of_the_peer(error: rustix::io::Errno) -> bool {
    use rustix::io::Errno;
    matches!(
        error,
        Errno::INTR
            | Errno::CONNABORTED
            | Errno::PROTO
            | Errno::PERM
            | Errno::TIMEDOUT
            | Errno::NETDOWN
            | Errno::NOPROTOOPT
            | Errno::HOSTDOWN
            | Errno::NONET
            | Errno::HOSTUNREACH
            | Errno::OPNOTSUPP
            | Errno::NETUNREACH
    )
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Closes a connection so that its peer learns of it at once and no TIME_WAIT is left.
pub(crate) fn reset(socket: OwnedFd) {
    // Without the option it is closed like any other.
    let _ = Socket::from(socket).set_linger(Some(std::time::Duration::ZERO));
}

fn open_spare() -> io::Result<OwnedFd> {
    Ok(rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?)
}
