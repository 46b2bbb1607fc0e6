//! The links between the network namespaces of a run: one veth pair for each namespace of clients,
//! that has its other end in the server's. Gone with the namespaces.
//!
//! Owns: interfaces, addresses and routes. Must not know: who uses them.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::fd::{AsFd, AsRawFd};

use host::namespace::{Netns, bring_up};
use spec::Experiment;
use spec::places::{Group, SERVER_ADDRESS, group_of, groups};

/// The client's end of a link, in the namespace of the clients.
pub const CLIENT_END: &str = "lab0";

/// An answer to a single request is never longer.
const BUFFER: usize = 8 << 10;

/// The network namespaces of a run.
#[derive(Clone, Debug, Default)]
pub struct Namespaces {
    /// The server's; `None` when it is that of the machine.
    pub server: Option<Arc<Netns>>,
    /// Those of the clients; none when they share the server's.
    pub clients: Vec<Arc<Netns>>,
}

/// The server's end of the link to a namespace of clients, in the server's namespace.
pub fn server_end(number: usize) -> String {
    format!("lab{number}")
}

impl Namespaces {
    /// Makes what an experiment asks for, if it is to have namespaces of its own.
    ///
    /// # Errors
    /// What the kernel says, with what was tried.
    pub fn make(experiment: &Experiment, own: bool) -> io::Result<Self> {
        if !own {
            return Ok(Self::default());
        }
        let make = || Netns::make(&experiment.network, experiment.tuning.is_some()).map(Arc::new);
        let server = make()?;
        let mut clients = Vec::new();
        for (number, group) in groups(experiment).iter().enumerate() {
            let client = make()?;
            join(&server, &client, number, group)?;
            clients.push(client);
        }
        Ok(Self { server: Some(server), clients })
    }

    /// That of a client process.
    pub fn of_client(&self, experiment: &Experiment, process: u32) -> Option<&Netns> {
        let own = group_of(experiment, process).and_then(|(number, _)| self.clients.get(number));
        own.or(self.server.as_ref()).map(Arc::as_ref)
    }
}

/// Joins two namespaces.
fn join(server: &Netns, client: &Netns, number: usize, group: &Group) -> io::Result<()> {
    let name = server_end(number);
    client.run(|| -> io::Result<()> {
        let routes = Routes::open()?;
        routes.ask(veth_pair(CLIENT_END, &name, server), "a veth pair cannot be made")?;
        bring_up("lab0")?;
        let own = index(CLIENT_END)?;
        for source in &group.sources {
            routes.ask(address(own, *source), &format!("address {source} cannot be added"))?;
        }
        routes.ask(route(own, SERVER_ADDRESS), "the route to the server cannot be added")
    })??;
    server.run(|| -> io::Result<()> {
        let routes = Routes::open()?;
        bring_up(&name)?;
        let own = index(&name)?;
        let what = format!("address {SERVER_ADDRESS} cannot be added");
        routes.ask(address(own, SERVER_ADDRESS), &what)?;
        for source in &group.sources {
            routes.ask(route(own, *source), &format!("the route to {source} cannot be added"))?;
        }
        Ok(())
    })?
}

/// The number of an interface in the calling thread's namespace.
///
/// # Errors
/// When there is none of that name.
pub fn index(interface: &str) -> io::Result<u32> {
    let name = std::ffi::CString::new(interface)?;
    // SAFETY: the name ends with a zero, and the call keeps nothing of it.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => {
            let error = io::Error::last_os_error();
            Err(io::Error::new(error.kind(), format!("interface {interface}: {error}")))
        }
        index => Ok(index),
    }
}

/// A socket for requests to the calling thread's namespace.
struct Routes(Socket);

impl Routes {
    fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    /// Asks for something to be made, and waits until it is.
    fn ask(&self, message: RouteNetlinkMessage, failed: &str) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.0.send(&bytes, 0)?;
        let mut buffer = vec![0; BUFFER];
        let size = self.0.recv(&mut &mut buffer[..], 0)?;
        let answer = <NetlinkMessage<RouteNetlinkMessage>>::deserialize(&buffer[..size])
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

fn veth_pair(own: &str, others: &str, other: &Netns) -> RouteNetlinkMessage {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(others.to_owned()),
        LinkAttribute::NetNsFd(other.as_fd().as_raw_fd()),
    ];
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(own.to_owned()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    RouteNetlinkMessage::NewLink(link)
}

/// An address of an interface, without a network around it.
fn address(interface: u32, address: Ipv4Addr) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = 32;
    message.header.scope = AddressScope::Universe;
    message.header.index = interface;
    message.attributes =
        vec![AddressAttribute::Local(address.into()), AddressAttribute::Address(address.into())];
    RouteNetlinkMessage::NewAddress(message)
}

/// The route to an address that is reached directly through an interface.
fn route(interface: u32, to: Ipv4Addr) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = 32;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Link;
    message.header.kind = RouteType::Unicast;
    message.attributes =
        vec![RouteAttribute::Destination(RouteAddress::Inet(to)), RouteAttribute::Oif(interface)];
    RouteNetlinkMessage::NewRoute(message)
}
