//! The probes by name: where they attach, what they need, and since which Linux there is such a
//! place. One line each; what they do is in `ebpf/probes`.

/// A probe.
pub(crate) struct Spec {
    /// Its name, which is that of its program.
    pub(crate) name: &'static str,
    /// Its tracepoint.
    pub(crate) tracepoint: &'static str,
    /// The tracepoint's group in tracefs, for messages.
    pub(crate) group: &'static str,
    /// The first Linux with the tracepoint in the form needed.
    pub(crate) since: &'static str,
    /// Arguments of the tracepoint that the program reads.
    pub(crate) arguments: u32,
    /// Fields that the program reads.
    pub(crate) needs: &'static [&'static [&'static str]],
    /// Loaded only when this other one could not be attached.
    pub(crate) instead_of: Option<&'static str>,
}

impl Spec {
    /// Its tracepoint as tracefs has it: `group:tracepoint`.
    pub(crate) fn place(&self) -> String {
        format!("{}:{}", self.group, self.tracepoint)
    }
}

const PORTS: &[&str] = &[
    "sock_common.skc_dport",
    "sock_common.skc_num",
    "sock_common.skc_daddr",
    "sock_common.skc_rcv_saddr",
    "sock_common.skc_family",
];
const STREAM: &[&str] = &["tcp_sock.write_seq", "tcp_sock.rcv_nxt", "tcp_sock.copied_seq"];
const MESSAGE: &[&str] = &["msghdr.msg_iter.count"];
const TASK: &[&str] = &[
    "task_struct.pid",
    "task_struct.tgid",
    "task_struct.comm",
    "task_struct.nvcsw",
    "task_struct.nivcsw",
];
const HEADERS: &[&str] = &["sk_buff.head", "sk_buff.network_header", "sk_buff.protocol"];
const PACKET: &[&str] = &["sk_buff.len", "sk_buff.data", "sk_buff.dev", "sk_buff.sk"];
const DEVICE: &[&str] =
    &["net_device.ifindex", "net_device.name", "net_device.nd_net.net", "net.ns.inum"];
const CONGESTION: &[&str] = &[
    "inet_connection_sock.icsk_ca_state",
    "inet_connection_sock.icsk_pending",
    "sock_common.skc_state",
    "tcp_skb_cb.tcp_gso_segs",
];

/// A line of the table.
const fn probe(
    name: &'static str,
    (group, tracepoint): (&'static str, &'static str),
    since: &'static str,
    arguments: u32,
    needs: &'static [&'static [&'static str]],
) -> Spec {
    Spec { name, tracepoint, group, since, arguments, needs, instead_of: None }
}

/// All probes, in the order they are attached. Those of the scheduler come first: the others ask
/// for its threads.
pub(crate) const PROBES: &[Spec] = &[
    probe("switched", ("sched", "sched_switch"), "5.18", 4, &[TASK]),
    probe("woken", ("sched", "sched_wakeup"), "5.5", 1, &[TASK]),
    probe("waking", ("sched", "sched_waking"), "5.5", 1, &[TASK]),
    probe("migrated", ("sched", "sched_migrate_task"), "5.5", 2, &[TASK]),
    probe("forked", ("sched", "sched_process_fork"), "5.5", 2, &[TASK]),
    probe("exited", ("sched", "sched_process_exit"), "5.5", 1, &[TASK]),
    probe("send_begins", ("tcp", "tcp_sendmsg_locked"), "6.16", 2, &[PORTS, STREAM, MESSAGE]),
    Spec {
        instead_of: Some("send_begins"),
        ..probe(
            "send_queued",
            ("net", "net_dev_queue"),
            "5.5",
            1,
            &[PORTS, STREAM, HEADERS, PACKET],
        )
    },
    probe("data_ready", ("sock", "sk_data_ready"), "6.3", 1, &[PORTS, STREAM]),
    probe("data_read", ("sock", "sock_recv_length"), "6.3", 3, &[PORTS, STREAM]),
    probe("packet_received", ("net", "netif_receive_skb"), "5.5", 1, &[HEADERS, PACKET, DEVICE]),
    probe(
        "packet_sent",
        ("net", "net_dev_start_xmit"),
        "5.5",
        2,
        &[PORTS, HEADERS, PACKET, DEVICE],
    ),
    probe("packet_dropped", ("skb", "kfree_skb"), "5.17", 3, &[HEADERS]),
    probe("retransmitted", ("tcp", "tcp_retransmit_skb"), "5.5", 2, &[PORTS, CONGESTION]),
    probe("synack_retransmitted", ("tcp", "tcp_retransmit_synack"), "5.5", 2, &[PORTS]),
    probe("reset_sent", ("tcp", "tcp_send_reset"), "5.5", 2, &[PORTS, HEADERS]),
    probe("reset_received", ("tcp", "tcp_receive_reset"), "5.5", 1, &[PORTS]),
    probe("receive_queue_full", ("sock", "sock_rcvqueue_full"), "5.5", 1, &[]),
    probe("buffer_limit", ("sock", "sock_exceed_buf_limit"), "5.5", 1, &[PORTS]),
    probe("signalled", ("signal", "signal_generate"), "5.5", 3, &[TASK]),
    probe("softirq_begins", ("irq", "softirq_entry"), "5.5", 1, &[]),
    probe("softirq_ends", ("irq", "softirq_exit"), "5.5", 1, &[]),
    probe("napi_polled", ("napi", "napi_poll"), "5.5", 3, &[]),
];

/// Those that [`crate::Options::softirqs`] asks for.
pub(crate) const SOFTIRQ_PROBES: &[&str] = &["napi_polled"];

/// Those that [`crate::Options::packets`] asks for.
pub(crate) const PACKET_PROBES: &[&str] = &["packet_received", "packet_sent"];

/// The program of the profile, attached on demand.
pub(crate) const PROFILE: &str = "sample";
