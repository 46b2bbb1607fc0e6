//! From the kernel's BTF to the offsets that the probes read through.
//!
//! An offset that is missing stays [`ABSENT`], and the probes that need it are not loaded.

use std::collections::BTreeMap;

use events::{ABSENT, Offsets};

use crate::btf::{Btf, BtfError, Field};

/// The offsets that were found, and why others are missing.
pub(crate) struct Resolved {
    pub(crate) offsets: Offsets,
    /// Why a field is absent, by `struct.field`.
    pub(crate) missing: BTreeMap<String, String>,
}

/// A plain field: struct, path, and where its offset goes.
type Plain = (&'static str, &'static str, fn(&mut Offsets) -> &mut u32);

const PLAIN: &[Plain] = &[
    ("sock_common", "skc_daddr", |to| &mut to.skc_daddr),
    ("sock_common", "skc_rcv_saddr", |to| &mut to.skc_rcv_saddr),
    ("sock_common", "skc_dport", |to| &mut to.skc_dport),
    ("sock_common", "skc_num", |to| &mut to.skc_num),
    ("sock_common", "skc_family", |to| &mut to.skc_family),
    ("sock_common", "skc_state", |to| &mut to.skc_state),
    ("sock_common", "skc_v6_daddr", |to| &mut to.skc_v6_daddr),
    ("sock_common", "skc_v6_rcv_saddr", |to| &mut to.skc_v6_rcv_saddr),
    ("sock_common", "skc_net.net", |to| &mut to.skc_net),
    ("inet_sock", "inet_sport", |to| &mut to.inet_sport),
    ("tcp_sock", "write_seq", |to| &mut to.write_seq),
    ("tcp_sock", "rcv_nxt", |to| &mut to.rcv_nxt),
    ("tcp_sock", "copied_seq", |to| &mut to.copied_seq),
    ("msghdr", "msg_iter.count", |to| &mut to.msg_count),
    ("inet_connection_sock", "icsk_pending", |to| &mut to.icsk_pending),
    ("task_struct", "pid", |to| &mut to.task_pid),
    ("task_struct", "tgid", |to| &mut to.task_tgid),
    ("task_struct", "comm", |to| &mut to.task_comm),
    ("task_struct", "mm", |to| &mut to.task_mm),
    ("mm_struct", "start_stack", |to| &mut to.mm_start_stack),
    ("task_struct", "jobctl", |to| &mut to.task_jobctl),
    ("task_struct", "nvcsw", |to| &mut to.task_nvcsw),
    ("task_struct", "nivcsw", |to| &mut to.task_nivcsw),
    ("task_struct", "throttled", |to| &mut to.task_throttled),
    ("task_struct", "se.cfs_rq", |to| &mut to.task_cfs_rq),
    ("cfs_rq", "throttle_count", |to| &mut to.throttle_count),
    ("tcp_sock", "rx_opt.rcv_tsval", |to| &mut to.rcv_tsval),
    ("tcp_sock", "rx_opt.rcv_tsecr", |to| &mut to.rcv_tsecr),
    ("tcp_sock", "tsoffset", |to| &mut to.tsoffset),
    ("sk_buff", "len", |to| &mut to.skb_len),
    ("sk_buff", "head", |to| &mut to.skb_head),
    ("sk_buff", "data", |to| &mut to.skb_data),
    ("sk_buff", "dev", |to| &mut to.skb_dev),
    ("sk_buff", "sk", |to| &mut to.skb_sk),
    ("sk_buff", "_skb_refdst", |to| &mut to.skb_refdst),
    ("dst_entry", "dev", |to| &mut to.dst_dev),
    ("sk_buff", "network_header", |to| &mut to.skb_network_header),
    ("sk_buff", "protocol", |to| &mut to.skb_protocol),
    ("net_device", "ifindex", |to| &mut to.dev_ifindex),
    ("net_device", "name", |to| &mut to.dev_name),
    ("net_device", "nd_net.net", |to| &mut to.dev_net),
    ("net", "ns.inum", |to| &mut to.net_inum),
];

/// Finds every offset.
pub(crate) fn resolve(btf: &Btf) -> Resolved {
    let mut resolved = Resolved { offsets: Offsets::UNKNOWN, missing: BTreeMap::new() };
    for (name, path, place) in PLAIN {
        if let Some(field) = resolved.record(name, path, btf.field(name, path)) {
            *place(&mut resolved.offsets) = field.byte();
        }
    }
    congestion_state(btf, &mut resolved);
    control_block(btf, &mut resolved);
    resolved
}

/// `icsk_ca_state` is a bit field.
fn congestion_state(btf: &Btf, resolved: &mut Resolved) {
    let (name, path) = ("inet_connection_sock", "icsk_ca_state");
    let Some(field) = resolved.record(name, path, btf.field(name, path)) else { return };
    let bits = if field.bits == 0 { 8 } else { field.bits };
    resolved.offsets.ca_state_byte = field.byte();
    resolved.offsets.ca_state_shift = field.bit_offset % 8;
    resolved.offsets.ca_state_mask = (1 << bits) - 1;
}

/// TCP keeps its own struct in a packet's control block.
fn control_block(btf: &Btf, resolved: &mut Resolved) {
    let Some(block) = resolved.record("sk_buff", "cb", btf.field("sk_buff", "cb")) else { return };
    let name = "tcp_skb_cb";
    let path = "tcp_gso_segs";
    if let Some(field) = resolved.record(name, path, btf.field(name, path)) {
        resolved.offsets.skb_tcp_segments = block.byte() + field.byte();
    }
}

impl Resolved {
    fn record(&mut self, name: &str, path: &str, found: Result<Field, BtfError>) -> Option<Field> {
        found.map_err(|error| self.missing.insert(format!("{name}.{path}"), error.to_string())).ok()
    }

    /// Why one of these offsets is absent, if one is.
    pub(crate) fn lacking(&self, needs: &[&str]) -> Option<&str> {
        needs.iter().find_map(|need| self.missing.get(*need)).map(String::as_str)
    }
}

const _: () = assert!(ABSENT == u32::MAX);
