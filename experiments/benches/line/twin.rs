//! The plain epoll twin of the server: what answering costs when nothing else is done.
//!
//! Threads with descriptor tables of their own, an edge-triggered epoll set each, one `recv` and
//! one
//! `send` a request, no SETs, packets, directory or ledger: a login is welcome, a shake finds
//! nothing.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Barrier};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send};
use rustix::thread::UnshareFlags;
use wire::{Decoded, Frame, LoginResult, MAX_FRAME, ShakeResult, decode};

/// Marks the listening socket in a thread's set.
const LISTENER: u64 = u64::MAX;

/// Serves until it is killed. Prints the address once all threads listen.
pub(crate) fn serve(threads: usize, cpu: Option<usize>) -> anyhow::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    // Bound and not listening: it only keeps the port, and copies of it in the threads' tables do
    // no harm.
    let first = bound(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
    let Some(address) = first.local_addr()?.as_socket_ipv4() else {
        anyhow::bail!("no IPv4 address");
    };
    let all_there = Arc::new(Barrier::new(threads + 1));
    let running: Vec<_> = (0..threads)
        .map(|_| {
            let all_there = Arc::clone(&all_there);
            std::thread::spawn(move || -> io::Result<()> {
                if let Some(cpu) = cpu {
                    platform::pin_to(cpu)?;
                }
                // SAFETY: the thread uses no descriptor of another one from here on.
                unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FILES)? };
                let listener = bound(address)?;
                listener.listen(16_384)?;
                all_there.wait();
                answer(&listener.into())
            })
        })
        .collect();
    all_there.wait();
    drop(first);
    println!("{address}");
    for thread in running {
        thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
    }
    Ok(())
}

fn bound(address: SocketAddrV4) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// A connection, by descriptor.
#[derive(Default)]
struct Peer {
    socket: Option<OwnedFd>,
    user: u32,
}

fn answer(listener: &OwnedFd) -> io::Result<()> {
    let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&set, listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut peers: Vec<Peer> = Vec::new();
    let mut events = Vec::with_capacity(256);
    loop {
        events.clear();
        match epoll::wait(&set, spare_capacity(&mut events), None) {
            Err(Errno::INTR) => continue,
            waited => waited?,
        };
        for event in &events {
            match event.data.u64() {
                LISTENER => accept(&set, listener, &mut peers)?,
                place => {
                    let peer = &mut peers[place as usize];
                    if !serve_peer(peer) {
                        peer.socket = None;
                    }
                }
            }
        }
    }
}

fn accept(set: &OwnedFd, listener: &OwnedFd, peers: &mut Vec<Peer>) -> io::Result<()> {
    for _ in 0..64 {
        let Ok(socket) = accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) else {
            break;
        };
        rustix::net::sockopt::set_tcp_nodelay(&socket, true)?;
        let place = socket.as_raw_fd() as usize;
        let edge = EventFlags::IN | EventFlags::ET;
        epoll::add(set, &socket, EventData::new_u64(place as u64), edge)?;
        if peers.len() <= place {
            peers.resize_with(place + 1, Peer::default);
        }
        peers[place] = Peer { socket: Some(socket), user: 0 };
    }
    Ok(())
}

/// Answers what has arrived; false when the connection is over.
fn serve_peer(peer: &mut Peer) -> bool {
    let Some(socket) = &peer.socket else { return false };
    let mut space = [0; 1024];
    let mut answer = [0; MAX_FRAME];
    loop {
        let length = match recv(socket, &mut space[..], RecvFlags::empty()) {
            Ok((0, _)) => return false,
            Ok((length, _)) => length,
            Err(Errno::AGAIN) => return true,
            Err(_) => return false,
        };
        let mut bytes = &space[..length];
        while !bytes.is_empty() {
            // Frames of 16 bytes arrive whole: one that does not ends the connection.
            let Decoded::Frame { frame, length, .. } = decode(bytes) else { return false };
            bytes = &bytes[length..];
            let frame = match frame {
                Frame::LoginRequest { user } => {
                    peer.user = user;
                    Frame::LoginResponse { user, result: LoginResult::Ok as u32 }
                }
                _ => Frame::ShakeResponse {
                    user: peer.user,
                    result: ShakeResult::NoPacket as u32,
                    packet: 0,
                    amount: 0,
                },
            };
            let length = frame.encoded_len();
            if frame.encode(0, &mut answer[..length]).is_err()
                || send(socket, &answer[..length], SendFlags::NOSIGNAL).is_err()
            {
                return false;
            }
        }
        if length < space.len() {
            return true;
        }
    }
}
