//! Packets of the experiment's port on every interface, and what a packet's headers say.

use aya_ebpf::{
    macros::{btf_tracepoint, map},
    maps::PerCpuArray,
    programs::BtfTracePointContext,
};
use events::{DEVICE_SLOTS, DeviceEntry, Side};

use crate::{
    flow::Peer,
    kernel::{Object, Socket, config},
};

/// Packets by interface.
///
/// A per-CPU array probed a few times from the interface's number, and no hash map: two lookups
/// per packet, each way, at 3 ns and not 40. The last slot takes what finds no other.
#[map]
static DEVICES: PerCpuArray<DeviceEntry> = PerCpuArray::with_max_entries(DEVICE_SLOTS as u32, 0);

/// Slots tried before the last one is taken.
const PROBES: u32 = 4;

const IPPROTO_TCP: u8 = 6;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;

/// An IPv4 header without options, and the TCP header behind it; or an IPv6 header.
#[derive(Clone, Copy)]
#[repr(C)]
struct Headers {
    version_and_length: u8,
    service: u8,
    total_length: u16,
    identification: u16,
    fragment: u16,
    ttl: u8,
    protocol: u8,
    checksum: u16,
    source: u32,
    destination: u32,
    tcp: Tcp,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Tcp {
    source: u16,
    destination: u16,
    sequence: u32,
    acknowledgement: u32,
    offset: u8,
    flags: u8,
    window: u16,
    checksum_and_urgent: u32,
}

/// Only what it takes to compare ports.
#[derive(Clone, Copy)]
#[repr(C)]
struct Start {
    version_and_length: u8,
    service: u8,
    length: u16,
    middle: [u8; 5],
    protocol: u8,
    rest: [u8; 10],
    source: u16,
    destination: u16,
}

/// A TCP segment of the experiment's port, from a packet's headers.
#[derive(Clone, Copy)]
pub(crate) struct Segment {
    /// Whose it is.
    pub(crate) peer: Peer,
    /// The end that sent it.
    pub(crate) sender: Side,
    /// Its first byte.
    pub(crate) sequence: u32,
    /// Bytes of data.
    pub(crate) payload: u32,
    /// Whether it is one at all.
    pub(crate) found: bool,
}

impl Segment {
    /// What is left of a packet that is no such segment. No `Option`, whose absent half the
    /// compiler leaves uninitialised in registers, which the verifier refuses to see copied.
    const NONE: Self =
        Self { peer: Peer::NOBODY, sender: Side::Server, sequence: 0, payload: 0, found: false };

    /// The segment in a packet whose network header has been set.
    #[inline(always)]
    pub(crate) fn of(skb: Object) -> Self {
        let head = skb.object(config!(offsets.skb_head));
        let network: u16 = skb.field(config!(offsets.skb_network_header));
        let protocol: u16 = skb.field(config!(offsets.skb_protocol));
        let mut segment = Self::NONE;
        let found = match u16::from_be(protocol) {
            ETH_P_IP => segment.read_v4(head, u32::from(network)),
            ETH_P_IPV6 => segment.read_v6(head, u32::from(network)),
            _ => None,
        };
        segment.found = found.is_some();
        segment
    }

    #[inline(always)]
    fn read_v4(&mut self, head: Object, network: u32) -> Option<()> {
        let ip: Headers = head.copy(network)?;
        if ip.version_and_length >> 4 != 4 || ip.protocol != IPPROTO_TCP {
            return None;
        }
        let header = u32::from(ip.version_and_length & 15) * 4;
        let tcp: Tcp = if header == 20 { ip.tcp } else { head.copy(network + header)? };
        self.sender = sender(tcp.source, tcp.destination)?;
        let (address, port) = match self.sender {
            Side::Server => (ip.destination, tcp.destination),
            Side::Client => (ip.source, tcp.source),
        };
        let length = u32::from(u16::from_be(ip.total_length));
        self.peer = Peer::v4(u32::from_be(address), u16::from_be(port));
        self.sequence = u32::from_be(tcp.sequence);
        self.payload = length.saturating_sub(header + u32::from(tcp.offset >> 4) * 4);
        Some(())
    }

    #[inline(always)]
    fn read_v6(&mut self, head: Object, network: u32) -> Option<()> {
        let ip: [u64; 5] = head.copy(network)?;
        let first = u64::from_be(ip[0]);
        if first >> 60 != 6 || (first >> 8) as u8 != IPPROTO_TCP {
            return None;
        }
        let tcp: Tcp = head.copy(network + 40)?;
        self.sender = sender(tcp.source, tcp.destination)?;
        self.peer = match self.sender {
            Side::Server => Peer::v6(ip[3], ip[4], u16::from_be(tcp.destination)),
            Side::Client => Peer::v6(ip[1], ip[2], u16::from_be(tcp.source)),
        };
        let length = (first >> 16) as u16;
        self.sequence = u32::from_be(tcp.sequence);
        self.payload = u32::from(length).saturating_sub(u32::from(tcp.offset >> 4) * 4);
        Some(())
    }
}

/// Who sent a segment with these ports (network byte order).
#[inline(always)]
fn sender(source: u16, destination: u16) -> Option<Side> {
    let port = config!(port).to_be();
    if source == port {
        Some(Side::Server)
    } else if destination == port {
        Some(Side::Client)
    } else {
        None
    }
}

/// Whether the packet at a network header belongs to the experiment's port.
#[inline(always)]
fn of_the_port(at: Object, offset: u32) -> Option<()> {
    let start: Start = at.copy(offset)?;
    if start.version_and_length == 0x45 {
        if start.protocol != IPPROTO_TCP {
            return None;
        }
        return sender(start.source, start.destination).map(|_| ());
    }
    let ports: u32 = match start.version_and_length >> 4 {
        4 if start.protocol == IPPROTO_TCP => {
            at.copy(offset + u32::from(start.version_and_length & 15) * 4)?
        }
        // The next header is the byte that holds an IPv4 header's fragment offset.
        6 if start.middle[2] == IPPROTO_TCP => at.copy(offset + 40)?,
        _ => return None,
    };
    sender(ports as u16, (ports >> 16) as u16).map(|_| ())
}

/// The entry of an interface on this CPU.
#[inline(always)]
fn device(device: Object) -> Option<*mut DeviceEntry> {
    let ifindex: u32 = device.field(config!(offsets.dev_ifindex));
    for probe in 0..PROBES {
        let slot = ifindex.wrapping_add(probe * 61) & (DEVICE_SLOTS as u32 - 1);
        let entry = DEVICES.get_ptr_mut(slot)?;
        // SAFETY: a value of this CPU.
        let seen = unsafe { &mut *entry };
        if seen.device == device.address() && seen.ifindex == ifindex {
            return Some(entry);
        }
        if seen.device == 0 && slot != DEVICE_SLOTS as u32 - 1 {
            seen.device = device.address();
            seen.ifindex = ifindex;
            seen.netns = device.object(config!(offsets.dev_net)).field(config!(offsets.net_inum));
            seen.name = device.copy(config!(offsets.dev_name)).unwrap_or_default();
            return Some(entry);
        }
    }
    DEVICES.get_ptr_mut(DEVICE_SLOTS as u32 - 1)
}

/// A packet comes up from an interface.
#[btf_tracepoint(function = "netif_receive_skb")]
pub(crate) fn packet_received(ctx: BtfTracePointContext) -> i32 {
    try_packet_received(Object::new(ctx.arg(0)));
    0
}

#[inline(always)]
fn try_packet_received(skb: Object) -> Option<()> {
    // The network header has not been set yet: it is where the data begin.
    of_the_port(skb.object(config!(offsets.skb_data)), 0)?;
    let entry = device(skb.object(config!(offsets.skb_dev)))?;
    let bytes: u32 = skb.field(config!(offsets.skb_len));
    // SAFETY: a value of this CPU, in a softirq that no other interrupts.
    unsafe {
        (*entry).rx_packets += 1;
        (*entry).rx_bytes += u64::from(bytes);
    }
    Some(())
}

/// A packet is handed to an interface's driver. Not `net_dev_xmit`: after that the packet is no
/// longer ours to look at.
#[btf_tracepoint(function = "net_dev_start_xmit")]
pub(crate) fn packet_sent(ctx: BtfTracePointContext) -> i32 {
    try_packet_sent(Object::new(ctx.arg(0)), Object::new(ctx.arg(1)));
    0
}

#[inline(always)]
fn try_packet_sent(skb: Object, to: Object) -> Option<()> {
    let socket = Socket(skb.object(config!(offsets.skb_sk)));
    if socket.0.is_null() || socket.own_port() == 0 {
        // Forwarded, or sent by nobody's socket: a reset, for instance.
        let network: u16 = skb.field(config!(offsets.skb_network_header));
        of_the_port(skb.object(config!(offsets.skb_head)), u32::from(network))?;
    } else {
        // Whoever's it is, as what is received: interfaces tell namespaces apart.
        if !socket.has_port() {
            return None;
        }
    }
    let entry = device(to)?;
    let bytes: u32 = skb.field(config!(offsets.skb_len));
    // SAFETY: a value of this CPU; transmission runs with softirqs off.
    unsafe {
        (*entry).tx_packets += 1;
        (*entry).tx_bytes += u64::from(bytes);
    }
    Some(())
}
