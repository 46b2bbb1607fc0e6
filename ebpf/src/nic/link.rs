//! The kernel's own counters of an interface, by netlink.
//!
//! Owns: the request for one link and the 64-bit counters in its answer. They are not taken from
//! `/sys/class/net`: it shows the network namespace that it was mounted in, not that of the
//! calling thread, while a socket belongs to the namespace it was made in for good.

use std::{collections::BTreeMap, io};

use netlink_packet_core::{
    NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable, NlasIterator,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const IFLA_IFNAME: u16 = 3;
const IFLA_STATS64: u16 = 23;

/// `struct ifinfomsg`, which goes before the attributes.
const HEADER: usize = 16;

/// More than one link's answer takes (about 2 KB; its virtual functions are not asked for).
const BUFFER: usize = 32 << 10;

/// The counters of `struct rtnl_link_stats64`, in its order. Kernels send as many as they know:
/// `rx_nohandler` came with Linux 4.6, `rx_otherhost_dropped` with 5.19.
pub(crate) const NAMES: [&str; 25] = [
    "rx_packets",
    "tx_packets",
    "rx_bytes",
    "tx_bytes",
    "rx_errors",
    "tx_errors",
    "rx_dropped",
    "tx_dropped",
    "multicast",
    "collisions",
    "rx_length_errors",
    "rx_over_errors",
    "rx_crc_errors",
    "rx_frame_errors",
    "rx_fifo_errors",
    "rx_missed_errors",
    "tx_aborted_errors",
    "tx_carrier_errors",
    "tx_fifo_errors",
    "tx_heartbeat_errors",
    "tx_window_errors",
    "rx_compressed",
    "tx_compressed",
    "rx_nohandler",
    "rx_otherhost_dropped",
];

/// A message about a link, its attributes undecoded: a driver's odd attribute must not cost the
/// counters.
struct LinkMessage {
    kind: u16,
    bytes: Vec<u8>,
}

impl NetlinkSerializable for LinkMessage {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.bytes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer[..self.bytes.len()].copy_from_slice(&self.bytes);
    }
}

impl NetlinkDeserializable for LinkMessage {
    type Error = io::Error;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, io::Error> {
        Ok(Self { kind: header.message_type, bytes: payload.to_vec() })
    }
}

impl From<LinkMessage> for NetlinkPayload<LinkMessage> {
    fn from(message: LinkMessage) -> Self {
        Self::InnerMessage(message)
    }
}

/// An interface's name at the moment, and its counters.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) name: String,
    pub(crate) counters: BTreeMap<&'static str, Option<u64>>,
}

/// A socket that asks about links of the namespace it was made in.
pub(crate) struct LinkSocket {
    socket: Socket,
}

impl LinkSocket {
    /// A socket in the calling thread's network namespace.
    pub(crate) fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket })
    }

    /// The link with this number; ENODEV when there is none.
    pub(crate) fn link(&mut self, ifindex: u32) -> io::Result<Link> {
        self.socket.send(&request(ifindex), 0)?;
        let mut buffer = vec![0; BUFFER];
        let size = loop {
            match self.socket.recv(&mut &mut buffer[..], 0) {
                // The answer is still to be read, and not by the next question.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        let answer = <NetlinkMessage<LinkMessage>>::deserialize(&buffer[..size])
            .map_err(|error| io::Error::other(format!("rtnetlink: {error}")))?;
        match answer.payload {
            NetlinkPayload::InnerMessage(message) if message.kind == RTM_NEWLINK => {
                parse(&message.bytes)
            }
            NetlinkPayload::Error(error) => Err(error.to_io()),
            _ => Err(io::Error::other("rtnetlink: an answer to another question")),
        }
    }
}

fn request(ifindex: u32) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    bytes[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let message = LinkMessage { kind: RTM_GETLINK, bytes };
    let mut message = NetlinkMessage::new(header, message.into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// The name and the counters in an answer.
fn parse(message: &[u8]) -> io::Result<Link> {
    let attributes = message.get(HEADER..).unwrap_or_default();
    let (mut name, mut counters) = (None, None);
    for attribute in NlasIterator::new(attributes) {
        let attribute =
            attribute.map_err(|error| io::Error::other(format!("rtnetlink: {error}")))?;
        match attribute.kind() {
            IFLA_IFNAME => {
                let text = String::from_utf8_lossy(attribute.value());
                name = Some(text.trim_end_matches('\0').to_owned());
            }
            IFLA_STATS64 => counters = Some(stats(attribute.value())),
            _ => {}
        }
    }
    match (name, counters) {
        (Some(name), Some(counters)) => Ok(Link { name, counters }),
        _ => Err(io::Error::other("rtnetlink: a link without a name or counters")),
    }
}

/// The counters that were sent: an older kernel's list is shorter.
fn stats(bytes: &[u8]) -> BTreeMap<&'static str, Option<u64>> {
    let mut values = bytes.as_chunks::<8>().0.iter().map(|chunk| u64::from_ne_bytes(*chunk));
    NAMES.into_iter().map(|name| (name, values.next())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn counters_that_an_old_kernel_does_not_send_are_absent() {
        let values: Vec<u8> = (1..=23u64).flat_map(u64::to_ne_bytes).collect();
        let mut message = vec![0; HEADER];
        message.extend(attribute(IFLA_IFNAME, b"eth7\0"));
        message.extend(attribute(0x8000 | 18, b"whatever a driver says"));
        message.extend(attribute(IFLA_STATS64, &values));
        let link = parse(&message).expect("a link");
        assert_eq!(link.name, "eth7");
        assert_eq!(link.counters["rx_packets"], Some(1));
        assert_eq!(link.counters["rx_missed_errors"], Some(16));
        assert_eq!(link.counters["tx_compressed"], Some(23));
        assert_eq!(link.counters["rx_nohandler"], None);
        assert_eq!(link.counters["rx_otherhost_dropped"], None);
    }

    #[test]
    fn a_damaged_answer_is_an_error() {
        let mut cut = vec![0; HEADER];
        cut.extend([200, 0, 23, 0, 1, 2, 3, 4]);
        for message in [vec![], vec![0; HEADER], cut] {
            assert!(parse(&message).is_err(), "{message:?}");
        }
    }

    #[test]
    fn the_kernel_knows_loopback() {
        let mut socket = LinkSocket::new().expect("a netlink socket");
        let link = socket.link(1).expect("link 1");
        assert_eq!(link.name, "lo");
        assert!(link.counters["rx_packets"].is_some());
        let error = socket.link(0x7fff_fff0).expect_err("no such link");
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }
}
