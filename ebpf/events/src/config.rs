//! What the loader tells the probes before they run, as one read-only global.

use crate::layout;

/// An offset that the running kernel's BTF does not have. Programs that need it are not loaded.
pub const ABSENT: u32 = u32::MAX;

/// [`Config::flow_mode`]: the index is computed from the client's address and port.
pub const FLOW_DENSE: u16 = 0;
/// [`Config::flow_mode`]: the index is a hash, and the entry's key says whose it is.
pub const FLOW_HASHED: u16 = 1;

/// Bits of [`Config::learn`].
pub struct Learn;

impl Learn {
    /// A process that reads a socket of the server's port is the server.
    pub const SERVER: u32 = 1;
    /// A process that reads a socket connected to the port is the (first) client.
    pub const CLIENT: u32 = 2;
}

/// Settings and the offsets of the running kernel.
///
/// One frozen read-only global: the verifier sees its fields as constants, so an offset costs one
/// instruction and the loads through it need no helper call.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The server's port, host byte order.
    pub port: u16,
    /// [`FLOW_DENSE`] or [`FLOW_HASHED`].
    pub flow_mode: u16,
    /// The first client address, host byte order.
    pub client_first: u32,
    /// How many client addresses follow one another.
    pub client_count: u32,
    /// The first client port.
    pub port_first: u32,
    /// How many client ports an address has.
    pub port_span: u32,
    /// Entries of the flow array; a power of two when hashed.
    pub flow_capacity: u32,
    /// Bits of [`Learn`].
    pub learn: u32,
    /// Whether `tcp_retransmit_skb` tells of an error in its third argument (Linux 6.17), and also
    /// comes when nothing was sent.
    pub retransmit_tells_error: u32,
    /// Whether the server's waits and services are counted in the kernel; 0 where the client does.
    pub server_histograms: u32,
    /// Whether T6 is stamped in the kernel; 0 where the client says itself when it read.
    pub stamp_reads: u32,
    /// Whether the server's ends of connections are stamped; 0 where the server is another host's.
    pub server_end: u32,
    /// How many of the server's ends of requests are kept for a join with the clients' (a power of
    /// two); 0 for none.
    pub kept_answers: u32,
    /// Whether softirqs are counted by vector and timed.
    pub softirqs: u32,
    /// The inode of the network namespace whose sockets are watched; 0 for those of all.
    pub netns: u32,
    /// Whether only what the server's own processes read counts as its requests; else whatever is
    /// read on the port.
    pub owned: u32,
    /// Whether a watched process's children are watched, too.
    pub follow: u32,
    /// Whether `sched_process_exit` tells in its second argument that the process is gone with the
    /// thread (Linux 6.16).
    pub exit_tells_process: u32,
    /// Which address of the server's is watched: 0 for all, else 4 or 6.
    pub address_family: u32,
    /// That address in network byte order: an IPv4 one in the last word.
    pub address: [u32; 4],
    /// Ranges of the kernel's code (first address, one behind the last) that let go of
    /// acknowledgements whose content was taken: packets without data are not lost there.
    pub takes: [u64; 2],
    /// Ranges that turn away a connection for want of room in the accept queue.
    pub turns_away: [[u64; 2]; 2],
    /// Drop reasons that lose nothing (data received twice, for instance), one bit each.
    pub harmless_reasons: [u32; 8],
    /// Field offsets.
    pub offsets: Offsets,
}

/// Byte offsets of kernel fields, from BTF.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Offsets {
    /// `sock_common.skc_daddr`
    pub skc_daddr: u32,
    /// `sock_common.skc_rcv_saddr`
    pub skc_rcv_saddr: u32,
    /// `sock_common.skc_dport`, network byte order
    pub skc_dport: u32,
    /// `sock_common.skc_num`, host byte order
    pub skc_num: u32,
    /// `sock_common.skc_family`
    pub skc_family: u32,
    /// `sock_common.skc_state`
    pub skc_state: u32,
    /// `sock_common.skc_v6_daddr`
    pub skc_v6_daddr: u32,
    /// `sock_common.skc_v6_rcv_saddr`
    pub skc_v6_rcv_saddr: u32,
    /// `sock_common.skc_net.net`
    pub skc_net: u32,
    /// `inet_sock.inet_sport`, network byte order: left when a closed socket has lost its number
    pub inet_sport: u32,
    /// `tcp_sock.write_seq`
    pub write_seq: u32,
    /// `tcp_sock.rcv_nxt`
    pub rcv_nxt: u32,
    /// `tcp_sock.copied_seq`
    pub copied_seq: u32,
    /// `msghdr.msg_iter.count`, 64 bits
    pub msg_count: u32,
    /// The byte of `inet_connection_sock` that holds `icsk_ca_state`
    pub ca_state_byte: u32,
    /// How far `icsk_ca_state` is shifted in its byte
    pub ca_state_shift: u32,
    /// The mask of `icsk_ca_state` after the shift
    pub ca_state_mask: u32,
    /// `inet_connection_sock.icsk_pending`, 8 bits
    pub icsk_pending: u32,
    /// `task_struct.pid`
    pub task_pid: u32,
    /// `task_struct.tgid`
    pub task_tgid: u32,
    /// `task_struct.comm`
    pub task_comm: u32,
    /// `task_struct.mm`
    pub task_mm: u32,
    /// `mm_struct.start_stack`
    pub mm_start_stack: u32,
    /// `task_struct.jobctl`, 64 bits
    pub task_jobctl: u32,
    /// `task_struct.nvcsw`, 64 bits
    pub task_nvcsw: u32,
    /// `task_struct.nivcsw`, 64 bits
    pub task_nivcsw: u32,
    /// `task_struct.throttled`, 8 bits: where tasks are throttled one by one (Linux 6.18)
    pub task_throttled: u32,
    /// `task_struct.se.cfs_rq`
    pub task_cfs_rq: u32,
    /// `cfs_rq.throttle_count`
    pub throttle_count: u32,
    /// `tcp_sock.rx_opt.rcv_tsval`
    pub rcv_tsval: u32,
    /// `tcp_sock.rx_opt.rcv_tsecr`
    pub rcv_tsecr: u32,
    /// `tcp_sock.tsoffset`
    pub tsoffset: u32,
    /// `sk_buff.len`
    pub skb_len: u32,
    /// `sk_buff.head`
    pub skb_head: u32,
    /// `sk_buff.data`
    pub skb_data: u32,
    /// `sk_buff.dev`
    pub skb_dev: u32,
    /// `sk_buff.sk`
    pub skb_sk: u32,
    /// `sk_buff._skb_refdst`, 64 bits
    pub skb_refdst: u32,
    /// `dst_entry.dev`
    pub dst_dev: u32,
    /// `sk_buff.network_header`
    pub skb_network_header: u32,
    /// `sk_buff.protocol`, network byte order
    pub skb_protocol: u32,
    /// `sk_buff.cb[tcp_skb_cb.tcp_gso_segs]`
    pub skb_tcp_segments: u32,
    /// `net_device.ifindex`
    pub dev_ifindex: u32,
    /// `net_device.name`
    pub dev_name: u32,
    /// `net_device.nd_net.net`
    pub dev_net: u32,
    /// `net.ns.inum`
    pub net_inum: u32,
}

impl Offsets {
    /// Nothing known.
    pub const UNKNOWN: Self = Self {
        skc_daddr: ABSENT,
        skc_rcv_saddr: ABSENT,
        skc_dport: ABSENT,
        skc_num: ABSENT,
        skc_family: ABSENT,
        skc_state: ABSENT,
        skc_v6_daddr: ABSENT,
        skc_v6_rcv_saddr: ABSENT,
        skc_net: ABSENT,
        inet_sport: ABSENT,
        write_seq: ABSENT,
        rcv_nxt: ABSENT,
        copied_seq: ABSENT,
        msg_count: ABSENT,
        ca_state_byte: ABSENT,
        ca_state_shift: ABSENT,
        ca_state_mask: ABSENT,
        icsk_pending: ABSENT,
        task_pid: ABSENT,
        task_tgid: ABSENT,
        task_comm: ABSENT,
        task_mm: ABSENT,
        mm_start_stack: ABSENT,
        task_jobctl: ABSENT,
        task_nvcsw: ABSENT,
        task_nivcsw: ABSENT,
        task_throttled: ABSENT,
        task_cfs_rq: ABSENT,
        throttle_count: ABSENT,
        rcv_tsval: ABSENT,
        rcv_tsecr: ABSENT,
        tsoffset: ABSENT,
        skb_len: ABSENT,
        skb_head: ABSENT,
        skb_data: ABSENT,
        skb_dev: ABSENT,
        skb_sk: ABSENT,
        skb_refdst: ABSENT,
        dst_dev: ABSENT,
        skb_network_header: ABSENT,
        skb_protocol: ABSENT,
        skb_tcp_segments: ABSENT,
        dev_ifindex: ABSENT,
        dev_name: ABSENT,
        dev_net: ABSENT,
        net_inum: ABSENT,
    };
}

impl Config {
    /// A configuration that matches no port.
    pub const EMPTY: Self = Self {
        port: 0,
        flow_mode: FLOW_DENSE,
        client_first: 0,
        client_count: 0,
        port_first: 0,
        port_span: 0,
        flow_capacity: 0,
        learn: 0,
        retransmit_tells_error: 0,
        server_histograms: 0,
        stamp_reads: 0,
        server_end: 1,
        kept_answers: 0,
        softirqs: 0,
        netns: 0,
        owned: 0,
        follow: 0,
        exit_tells_process: 0,
        address_family: 0,
        address: [0; 4],
        takes: [0; 2],
        turns_away: [[0; 2]; 2],
        harmless_reasons: [0; 8],
        offsets: Offsets::UNKNOWN,
    };
}

/// The flow of a client's address and port (host byte order) in dense mode:
/// (number of the client's address) × port span + (number of the port).
#[inline(always)]
#[must_use]
pub const fn dense_index(
    (client_first, client_count): (u32, u32),
    (port_first, port_span): (u32, u32),
    (address, port): (u32, u16),
) -> Option<u32> {
    let host = address.wrapping_sub(client_first);
    let port = (port as u32).wrapping_sub(port_first);
    if host >= client_count || port >= port_span {
        return None;
    }
    Some(host.wrapping_mul(port_span).wrapping_add(port))
}

layout!(Offsets, 184, skc_daddr at 0, write_seq at 40, task_pid at 72, skb_len at 128,
    net_inum at 180);
layout!(Config, 352, client_first at 4, learn at 24, netns at 52, address at 72, takes at 88,
    harmless_reasons at 136, offsets at 168);
