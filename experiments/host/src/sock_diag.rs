//! What the kernel says about connections: established ones at the server's end, counted by the
//! address of the client. The articles did it with `ss -ant | grep 1025 | grep EST | … | uniq -c`.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddrV4};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{
    ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags,
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};
use serde::Serialize;

/// The kernel fills at most this much in one message of a dump.
const BUFFER: usize = 32 << 10;

/// Established connections of a server by the client's address, in the calling thread's network
/// namespace.
///
/// # Errors
/// What the kernel says.
pub fn established(server: SocketAddrV4) -> io::Result<BTreeMap<IpAddr, u64>> {
    let here = IpAddr::V4(*server.ip());
    let mut counts = BTreeMap::new();
    let wanted = (AF_INET, StateFlags::ESTABLISHED, ExtensionFlags::empty());
    for response in dump(server.port(), wanted)? {
        let id = &response.header.socket_id;
        // On one machine a client's own port may be the server's number, too.
        if id.source_address == here {
            *counts.entry(id.destination_address).or_default() += 1;
        }
    }
    Ok(counts)
}

/// A socket that listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Listener {
    /// Where.
    pub(crate) address: IpAddr,
    /// The number of its socket.
    pub(crate) inode: u64,
    /// Connections that wait to be accepted.
    pub(crate) waiting: u32,
    /// How many may.
    pub(crate) limit: u32,
    /// Connections, or attempts, turned away here: the accept queue was full, or there was no
    /// memory. The kernel's 32 bits.
    pub(crate) turned_away: u32,
}

/// The sockets that listen on a port, in the calling thread's network namespace.
///
/// # Errors
/// What the kernel says.
pub(crate) fn listeners(port: u16) -> io::Result<Vec<Listener>> {
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let wanted = (family, StateFlags::LISTEN, ExtensionFlags::SKMEMINFO);
        for response in dump(port, wanted)? {
            let header = &response.header;
            let drops = response.nlas.iter().find_map(|it| match it {
                Nla::MemInfo(memory) => Some(memory.drops),
                _ => None,
            });
            if header.socket_id.source_port == port {
                found.push(Listener {
                    address: header.socket_id.source_address,
                    inode: u64::from(header.inode),
                    waiting: header.recv_queue,
                    limit: header.send_queue,
                    turned_away: drops.unwrap_or(0),
                });
            }
        }
    }
    Ok(found)
}

/// What the kernel says of TCP sockets with a local port: of a family, in some states, with
/// extensions.
fn dump(
    port: u16,
    (family, states, extensions): (u8, StateFlags, ExtensionFlags),
) -> io::Result<Vec<InetResponse>> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    // The kernel itself leaves out what has another local port.
    let no_one = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
    let socket_id = SocketId { source_port: port, ..no_one };
    let request = InetRequest { family, protocol: IPPROTO_TCP, extensions, states, socket_id };
    socket.send(&bytes_of(request), 0)?;
    let mut responses = Vec::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        let size = socket.recv(&mut &mut buffer[..], 0)?;
        let mut rest = &buffer[..size];
        while !rest.is_empty() {
            let message = <NetlinkMessage<SockDiagMessage>>::deserialize(rest)
                .map_err(|error| io::Error::other(format!("sock_diag: {error}")))?;
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    responses.push(*response);
                }
                NetlinkPayload::Done(_) => return Ok(responses),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
            let length = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

fn bytes_of(request: InetRequest) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_listener_tells_its_own_queue() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = address_of(&listener).port();
        let waits = TcpStream::connect(address_of(&listener)).expect("connects");
        let [own] = &listeners(port).expect("the kernel answers")[..] else { panic!("one") };
        assert_eq!((own.address, own.waiting), (IpAddr::V4(Ipv4Addr::LOCALHOST), 1));
        assert!(own.limit > 1 && own.turned_away == 0 && own.inode > 0, "{own:?}");
        drop((waits, listener));
        assert_eq!(listeners(port).expect("the kernel answers"), Vec::new());
    }

    #[test]
    fn connections_are_counted_by_address() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let server = address_of(&listener);
        let mut clients: Vec<_> =
            (0..5).map(|_| TcpStream::connect(server).expect("connects")).collect();
        // A client whose own port has the server's number is no connection of the server's twice.
        let twin = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
            .expect("a socket");
        let twin_address = SocketAddrV4::new(Ipv4Addr::new(127, 0, 9, 9), server.port());
        twin.bind(&twin_address.into()).expect("a free port");
        twin.connect(&server.into()).expect("connects");
        clients.push(twin.into());
        let counts = established(server).expect("the kernel answers");
        let expected = BTreeMap::from([
            (IpAddr::V4(Ipv4Addr::LOCALHOST), 5),
            (IpAddr::V4(*twin_address.ip()), 1),
        ]);
        assert_eq!(counts, expected);
        let idle = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        assert_eq!(established(address_of(&idle)).expect("the kernel answers"), BTreeMap::new());
    }

    fn address_of(listener: &TcpListener) -> SocketAddrV4 {
        match listener.local_addr() {
            Ok(std::net::SocketAddr::V4(address)) => address,
            other => panic!("no IPv4 address: {other:?}"),
        }
    }
}
