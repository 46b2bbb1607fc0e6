//! Network interfaces of the calling thread's namespace by rtnetlink(7): veth pairs, addresses and
//! routes.
//!
//! Owns: the messages, of which there are five, laid out by hand. The kernel's structures that they
//! begin with are in `linux/rtnetlink.h`, `linux/if_addr.h` and `linux/veth.h`.

use std::io;
use std::net::Ipv4Addr;

use netlink_packet_core::{
    DefaultNla, Emitable, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE,
    NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable, NlasIterator,
};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::net::{AddressFamily, SocketType, netdevice, socket};

/// An answer to a single request is never longer.
const BUFFER: usize = 8 << 10;

/// The kernel's messages of a dump are at most this long together.
const DUMP: usize = 64 << 10;

/// Bytes of `struct nlmsghdr`, and of `struct rtmsg`.
const NLMSG: usize = 16;
const RTMSG: usize = 12;

/// `RTAX_CC_ALGO` of `linux/rtnetlink.h`: among the metrics of a route, its congestion control.
const RTAX_CC_ALGO: u16 = 16;

/// The whole of an address is the network.
const ONE_ADDRESS: u8 = 32;

const INET: u8 = libc::AF_INET as u8;

/// `VETH_INFO_PEER` of `linux/veth.h`: the other end of a pair.
const VETH_INFO_PEER: u16 = 1;

/// `struct ifinfomsg` of an interface yet to be made: no family, type, number or flags.
const NEW_LINK: [u8; 16] = [0; 16];

/// The number of an interface in the calling thread's namespace.
///
/// # Errors
/// When there is none of that name.
pub fn index(interface: &str) -> io::Result<u32> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    netdevice::name_to_index(&socket, interface).map_err(|error| {
        let error = io::Error::from(error);
        io::Error::new(error.kind(), format!("interface {interface}: {error}"))
    })
}

/// Switches an interface of the calling thread's namespace on.
///
/// # Errors
/// What the kernel says, with the name of the interface.
pub fn bring_up(interface: &str) -> io::Result<()> {
    let request = up(index(interface)?);
    Links::open()?.ask(0, request, &format!("interface {interface} cannot be switched on"))
}

/// A socket for requests to the calling thread's namespace.
pub struct Links(Socket);

impl Links {
    /// Opens it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    /// Makes a veth pair: the end `own` here, the end `others` in another namespace.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn add_veth_pair(&self, own: &str, others: &str, other: BorrowedFd<'_>) -> io::Result<()> {
        self.add(veth_pair(own, others, other), "a veth pair cannot be made")
    }

    /// Gives an interface an address, without a network around it.
    ///
    /// # Errors
    /// What the kernel says, with the address.
    pub fn add_address(&self, interface: u32, address: Ipv4Addr) -> io::Result<()> {
        let what = format!("address {address} cannot be added");
        self.add(new_address(interface, address), &what)
    }

    /// Adds the route to an address that is reached directly through an interface.
    ///
    /// # Errors
    /// What the kernel says, with the address.
    pub fn add_route(&self, interface: u32, to: Ipv4Addr) -> io::Result<()> {
        self.add(new_route(interface, to), &format!("the route to {to} cannot be added"))
    }

    /// Gives all IPv4 routes a congestion control, which the connections over them have on both
    /// ends. A namespace may not make one its default, nor a user choose one, that
    /// `net.ipv4.tcp_allowed_congestion_control` does not name.
    ///
    /// # Errors
    /// What the kernel says, with the name.
    pub fn set_congestion(&self, name: &str) -> io::Result<()> {
        let failed = format!("the routes cannot have the congestion control {name}");
        for request in self.routes()?.into_iter().filter_map(|it| with_congestion(&it, name)) {
            self.ask(NLM_F_CREATE | NLM_F_REPLACE, request, &failed)?;
        }
        Ok(())
    }

    /// The IPv4 routes of all tables, each as the kernel's structure with its attributes.
    fn routes(&self) -> io::Result<Vec<Vec<u8>>> {
        // struct rtmsg of any route.
        let head = [&[INET][..], &[0; 11]].concat();
        let request = Request { kind: libc::RTM_GETROUTE, head, attributes: Vec::new() };
        self.0.send(&bytes(NLM_F_DUMP, request), 0)?;
        let mut routes = Vec::new();
        let mut buffer = vec![0; DUMP];
        loop {
            let size = self.0.recv(&mut &mut buffer[..], 0)?;
            let mut rest = &buffer[..size];
            while let Some(length) = rest.first_chunk::<4>().map(|it| u32::from_ne_bytes(*it)) {
                let length = length as usize;
                let cut_off = || io::Error::other("rtnetlink: a route is cut off");
                let message = rest.get(..length).filter(|_| length >= NLMSG);
                let message = message.ok_or_else(cut_off)?;
                match u16::from_ne_bytes([message[4], message[5]]) {
                    libc::RTM_NEWROUTE => routes.push(message[NLMSG..].to_vec()),
                    kind if i32::from(kind) == libc::NLMSG_DONE => return Ok(routes),
                    kind if i32::from(kind) == libc::NLMSG_ERROR => {
                        return Err(io::Error::other("rtnetlink: the routes are not told"));
                    }
                    _ => {}
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }

    /// Has something made that must not be there yet.
    fn add(&self, request: Request, failed: &str) -> io::Result<()> {
        self.ask(NLM_F_CREATE | NLM_F_EXCL, request, failed)
    }

    /// Sends a request, and waits until it is carried out.
    fn ask(&self, flags: u16, request: Request, failed: &str) -> io::Result<()> {
        self.0.send(&bytes(flags, request), 0)?;
        let mut buffer = vec![0; BUFFER];
        let size = self.0.recv(&mut &mut buffer[..], 0)?;
        let answer = <NetlinkMessage<Unread>>::deserialize(&buffer[..size])
            .map_err(|error| io::Error::other(format!("rtnetlink: {error}")))?;
        match answer.payload {
            // An error without a code is the acknowledgement.
            NetlinkPayload::Error(error) if error.code.is_some() => {
                let error = error.to_io();
                Err(io::Error::new(error.kind(), format!("{failed}: {error}")))
            }
            _ => Ok(()),
        }
    }
}

/// A request: its type, the kernel's structure that it begins with, and attributes.
struct Request {
    kind: u16,
    head: Vec<u8>,
    attributes: Vec<DefaultNla>,
}

impl NetlinkSerializable for Request {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.head.len() + self.attributes.as_slice().buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let (head, attributes) = buffer.split_at_mut(self.head.len());
        head.copy_from_slice(&self.head);
        self.attributes.as_slice().emit(attributes);
    }
}

/// The payload of an answer that is neither an error nor an acknowledgement.
#[derive(Debug)]
struct Unread;

impl NetlinkDeserializable for Unread {
    type Error = std::convert::Infallible;

    fn deserialize(_: &NetlinkHeader, _: &[u8]) -> Result<Self, Self::Error> {
        Ok(Self)
    }
}

fn bytes(flags: u16, request: Request) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// An attribute that holds others.
fn nested(kind: u16, attributes: &[DefaultNla]) -> DefaultNla {
    let mut value = vec![0; attributes.buffer_len()];
    attributes.emit(&mut value);
    DefaultNla::new(kind, value)
}

/// An attribute with the name of an interface, which ends with a zero.
fn name(interface: &str) -> DefaultNla {
    DefaultNla::new(libc::IFLA_IFNAME, [interface.as_bytes(), &[0]].concat())
}

fn up(interface: u32) -> Request {
    let flag = (libc::IFF_UP as u32).to_ne_bytes();
    // The interface's number, its flags, and which of them change, behind family and type.
    let head = [[0; 4], interface.to_ne_bytes(), flag, flag].concat();
    Request { kind: libc::RTM_NEWLINK, head, attributes: Vec::new() }
}

fn veth_pair(own: &str, others: &str, other: BorrowedFd<'_>) -> Request {
    let namespace = other.as_raw_fd().to_ne_bytes().to_vec();
    let peer = [name(others), DefaultNla::new(libc::IFLA_NET_NS_FD, namespace)];
    // The peer is described as an interface of its own.
    let mut value = NEW_LINK.to_vec();
    value.resize(NEW_LINK.len() + peer.as_slice().buffer_len(), 0);
    peer.as_slice().emit(&mut value[NEW_LINK.len()..]);
    let peer = DefaultNla::new(VETH_INFO_PEER, value);
    let info = [
        DefaultNla::new(libc::IFLA_INFO_KIND, b"veth\0".to_vec()),
        nested(libc::IFLA_INFO_DATA, &[peer]),
    ];
    Request {
        kind: libc::RTM_NEWLINK,
        head: NEW_LINK.to_vec(),
        attributes: vec![name(own), nested(libc::IFLA_LINKINFO, &info)],
    }
}

fn new_address(interface: u32, address: Ipv4Addr) -> Request {
    // struct ifaddrmsg: family, length of the network, flags, scope, interface.
    let head = [&[INET, ONE_ADDRESS, 0, libc::RT_SCOPE_UNIVERSE], &interface.to_ne_bytes()[..]];
    let address = address.octets().to_vec();
    Request {
        kind: libc::RTM_NEWADDR,
        head: head.concat(),
        attributes: vec![
            DefaultNla::new(libc::IFA_LOCAL, address.clone()),
            DefaultNla::new(libc::IFA_ADDRESS, address),
        ],
    }
}

fn new_route(interface: u32, to: Ipv4Addr) -> Request {
    // struct rtmsg: family, lengths of destination and source, type of service, table, protocol,
    // scope, type, flags.
    let (table, protocol) = (libc::RT_TABLE_MAIN, libc::RTPROT_STATIC);
    let (scope, kind) = (libc::RT_SCOPE_LINK, libc::RTN_UNICAST);
    let head = vec![INET, ONE_ADDRESS, 0, 0, table, protocol, scope, kind, 0, 0, 0, 0];
    Request {
        kind: libc::RTM_NEWROUTE,
        head,
        attributes: vec![
            DefaultNla::new(libc::RTA_DST, to.octets().to_vec()),
            DefaultNla::new(libc::RTA_OIF, interface.to_ne_bytes().to_vec()),
        ],
    }
}

/// The request that replaces a route by one with a congestion control; `None` for a route over
/// which no connection goes.
fn with_congestion(route: &[u8], congestion: &str) -> Option<Request> {
    let (head, attributes) = route.split_at_checked(RTMSG)?;
    let mut head = head.to_vec();
    if head[0] != INET || !matches!(head[7], libc::RTN_UNICAST | libc::RTN_LOCAL) {
        return None;
    }
    // Flags say how the route is, and not how it is to be.
    head[8..].fill(0);
    let kept = [libc::RTA_DST, libc::RTA_OIF, libc::RTA_GATEWAY, libc::RTA_PREFSRC]
        .into_iter()
        .chain([libc::RTA_TABLE, libc::RTA_PRIORITY]);
    let kept: Vec<u16> = kept.collect();
    let there = NlasIterator::new(attributes).flatten();
    let there = there.filter(|it| kept.contains(&it.kind()));
    let mut attributes: Vec<DefaultNla> =
        there.map(|it| DefaultNla::new(it.kind(), it.value().to_vec())).collect();
    let name = [congestion.as_bytes(), &[0]].concat();
    attributes.push(nested(libc::RTA_METRICS, &[DefaultNla::new(RTAX_CC_ALGO, name)]));
    Some(Request { kind: libc::RTM_NEWROUTE, head, attributes })
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;

    fn check(request: Request, expected: &str) {
        let bytes = bytes(NLM_F_CREATE | NLM_F_EXCL, request);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected);
    }

    /// Expected is what netlink-packet-route 0.34 made of the same.
    #[test]
    fn requests_are_laid_out_as_the_kernel_wants_them() {
        // SAFETY: the number is only written down, and nothing is done with the descriptor.
        let namespace = unsafe { BorrowedFd::borrow_raw(9) };
        check(
            veth_pair("lab0", "lab17", namespace),
            "6800000010000506000000000000000000000000000000000000000000000000\
             090003006c616230000000003c0012000900010076657468000000002c000200\
             28000100000000000000000000000000000000000a0003006c61623137000000\
             08001c0009000000",
        );
        check(
            new_address(5, Ipv4Addr::new(10, 253, 1, 7)),
            "280000001400050600000000000000000220000005000000080002000afd0107\
             080001000afd0107",
        );
        check(
            new_route(5, Ipv4Addr::new(10, 253, 0, 1)),
            "2c00000018000506000000000000000002200000fe04fd01000000000800010\
             00afd00010800040005000000",
        );
    }

    #[test]
    fn interfaces_have_numbers() {
        assert!(index("lo").is_ok());
        let error = index("lab-none").expect_err("no such interface").to_string();
        assert!(error.starts_with("interface lab-none: "), "{error}");
    }

    /// Both ends of a connection have the congestion control of the routes, which a namespace may
    /// not make its default when root alone may choose it.
    #[test]
    fn connections_have_the_congestion_control_of_their_routes() {
        if !needs::root() {
            return;
        }
        let default = std::fs::read("/proc/sys/net/ipv4/tcp_congestion_control").expect("there");
        assert_ne!(default, b"reno\n", "the routes must make a difference");
        let inside = std::thread::spawn(|| {
            // SAFETY: a new network namespace changes nothing that memory depends on.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
                .expect("a namespace");
            bring_up("lo").expect("up");
            let of = |socket: socket2::SockRef<'_>| socket.tcp_congestion().expect("known");
            let both = || {
                let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("free");
                let address = listener.local_addr().expect("bound");
                let client = std::net::TcpStream::connect(address).expect("connected");
                let (server, _) = listener.accept().expect("accepted");
                [of((&client).into()), of((&server).into())]
            };
            let before = both();
            let links = Links::open().expect("a socket");
            links.set_congestion("reno").expect("set");
            let after = both();
            let unknown = links.set_congestion("none such").expect_err("unknown").to_string();
            (before, after, unknown)
        });
        let (before, after, unknown) = inside.join().expect("no panic");
        assert!(before.iter().all(|it| !it.starts_with(b"reno")), "{before:?}");
        assert!(after.iter().all(|it| it.starts_with(b"reno")), "{after:?}");
        assert!(unknown.contains("cannot have the congestion control none such"), "{unknown}");
    }
}
