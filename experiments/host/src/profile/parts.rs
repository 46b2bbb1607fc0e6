//! Which part of a program's work a sample of CPU time belongs to, by the functions of the kernel
//! that it was in.
//!
//! Owns: the parts, and the one table of rules. Must not know: where stacks come from, which
//! process they are of, what a request is.
//!
//! A stack is read from its innermost function outwards, and the first function that a rule knows
//! decides. What works for whoever calls it (locks, lists, clocks, tables) has no rule: its caller
//! decides. So a lock that a sender takes counts to sending, and one of a wakeup to the wakeup.
//! Names are those of Linux 6.0 to 6.18 on x86-64 and arm64; what another kernel calls otherwise
//! is [`Part::Other`], with its name.

use std::collections::HashMap;

use serde::Serialize;

/// A part of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The program's own code and its libraries.
    User,
    /// The way into a system call and out of it.
    Syscall,
    /// Requests and completions of io_uring, up to the socket.
    IoUring,
    /// Sets of epoll, and asking sockets whether they are ready.
    Epoll,
    /// From the socket to the device.
    TcpOut,
    /// From the device to the socket, acknowledgements included.
    TcpIn,
    /// From the socket to the program, without the copy.
    TcpRead,
    /// Buffers of packets, objects and pages of the kernel.
    Memory,
    /// Bytes from the program and to it.
    Copy,
    /// Waking threads: callbacks of sockets, run queues, interrupts of another CPU.
    Wakeup,
    /// Choosing another thread and changing to it.
    Switch,
    /// Timers armed, cancelled and run.
    Timer,
    /// What the idle task does beside halting its CPU.
    IdleExit,
    /// Pages that were not there.
    PageFaults,
    /// Probes, and counters of this lab.
    Measuring,
    /// What no rule knows.
    Other,
    /// The CPU stands still and waits for an interrupt: this is no work.
    Halted,
}

impl Part {
    /// All parts that are work, in the order of a table.
    pub const WORK: [Self; 16] = [
        Self::User,
        Self::Syscall,
        Self::IoUring,
        Self::Epoll,
        Self::TcpOut,
        Self::TcpIn,
        Self::TcpRead,
        Self::Memory,
        Self::Copy,
        Self::Wakeup,
        Self::Switch,
        Self::Timer,
        Self::IdleExit,
        Self::PageFaults,
        Self::Measuring,
        Self::Other,
    ];

    /// What a person calls it.
    pub fn words(self) -> &'static str {
        match self {
            Self::User => "own code (user)",
            Self::Syscall => "system call entry, exit",
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
            Self::TcpOut => "TCP out",
            Self::TcpIn => "TCP in (softirq)",
            Self::TcpRead => "TCP read",
            Self::Memory => "memory (skb, slab)",
            Self::Copy => "copy",
            Self::Wakeup => "wakeup",
            Self::Switch => "switch",
            Self::Timer => "timer",
            Self::IdleExit => "idle exit",
            Self::PageFaults => "page faults",
            Self::Measuring => "probes, counters",
            Self::Other => "other",
            Self::Halted => "halted",
        }
    }
}

/// What stands for a kernel stack that there was no room for.
pub(crate) const LOST: &str = "[kernel stack lost]";

/// Functions that claim all that they call. In a name `*` stands for any characters.
const WHOLE: [(Part, &str); 2] = [
    (
        Part::Measuring,
        "bpf_prog_* __bpf_trace_* bpf_trace_run* trace_call_bpf __perf_event_* perf_event_* \
         perf_swevent_* perf_tp_event ctx_sched_*",
    ),
    (Part::PageFaults, "asm_exc_page_fault exc_page_fault do_page_fault do_mem_abort"),
];

/// Where a CPU stands still, as the innermost function. Some kernels spin there for a while.
const HALTED: &str = "pv_native_safe_halt native_safe_halt default_idle default_idle_call \
     acpi_idle_do_entry acpi_safe_halt mwait_idle mwait_idle_with_hints intel_idle* poll_idle \
     cpu_do_idle";

/// What decides, function by function. The first line that knows a function counts, so exceptions
/// stand above what they are exceptions of.
const RULES: [(Part, &str); 16] = [
    (
        Part::Wakeup,
        "sock_def_readable sock_def_write_space* sock_def_wakeup __wake_up* wake_up_* \
         try_to_wake_up ttwu_* sched_ttwu_pending default_wake_function \
         autoremove_wake_function ep_autoremove_wake_function ep_poll_callback \
         ep_poll_safewake pollwake io_poll_wake io_cqring_wake io_wake_function \
         eventfd_signal* futex_wake* wake_q_* wakeup_preempt* resched_curr* select_task_rq* \
         select_idle_* kick_process native_smp_send_reschedule native_send_call_func* \
         *_reschedule_ipi *_call_function_single *_call_function \
         flush_smp_call_function_queue __flush_smp_call_function_queue \
         generic_smp_call_function_* smp_call_function_* scheduler_ipi try_invoke_*",
    ),
    (
        Part::Switch,
        "schedule __schedule schedule_idle preempt_schedule* schedule_preempt_* \
         finish_task_switch prepare_task_switch context_switch __switch_to* switch_mm* \
         switch_fpu* restore_fpregs* pick_next_* pick_task* pick_eevdf put_prev_* set_next_* \
         dequeue_* sched_balance_* newidle_balance load_balance do_sched_yield yield_task* \
         psi_task_switch io_schedule* wait_woken __x64_sys_sched_yield \
         rcu_note_context_switch",
    ),
    (
        Part::IdleExit,
        "do_idle cpu_startup_entry cpuidle_* call_cpuidle cpu_idle_* arch_cpu_idle* \
         tick_nohz_* menu_* teo_* haltpoll_* ladder_* get_typical_interval ct_idle_* \
         ct_cpuidle_* sched_idle_* hrtimer_next_event_* hrtimer_get_next_event \
         __get_next_timer_interrupt get_next_timer_interrupt tmigr_cpu_*activate nohz_* \
         rcu_needs_cpu quiet_vmstat",
    ),
    (
        Part::Timer,
        "__mod_timer mod_timer* add_timer* timer_delete* del_timer* detach_*timer \
         sk_reset_timer sk_stop_timer* hrtimer_* __hrtimer_* run_timer_* __run_timer* \
         __run_timers expire_timers call_timer_fn tcp_write_timer* tcp_delack_timer* \
         tcp_keepalive_timer tcp_retransmit_timer tcp_pace_kick tmigr_* timerfd_* \
         do_timerfd_* __x64_sys_timerfd_* get_itimerspec64 put_itimerspec64 itimerspec64_* \
         tick_* sched_tick scheduler_tick update_process_times clockevents_* lapic_* \
         *_apic_timer_interrupt arch_timer_* task_tick_* do_nanosleep hrtimer_nanosleep \
         timekeeping_* io_timeout* __io_timeout* io_link_timeout* calc_wheel_index \
         enqueue_timer trigger_dyntick_cpu",
    ),
    (
        Part::Memory,
        "kmem_cache_* kmalloc* __kmalloc* kfree kvfree* kvmalloc* __slab_* ___slab_* slab_* \
         allocate_slab new_slab alloc_from_pcs free_to_pcs refill_* put_cpu_partial \
         __put_partials __unfreeze_partials deactivate_slab discard_slab __free_slab \
         get_partial_node memcg_* __memcg_* alloc_pages* __alloc_pages* __alloc_frozen_* \
         get_page_from_* rmqueue* free_unref_* free_frozen_* __free_*page* free_pcp* \
         put_page* __folio_* folio_* prep_new_page post_alloc_hook __alloc_skb alloc_skb* \
         __build_skb* build_skb* napi_alloc_* __napi_alloc_* napi_skb_* skb_clone __skb_clone \
         __copy_skb_header __kfree_skb* kfree_skb* sk_skb_reason_drop consume_skb __consume_* \
         skb_release_* skb_free_* napi_consume_skb skb_attempt_defer_free \
         skb_defer_free_flush skb_page_frag_refill sk_page_frag_refill page_frag_* \
         __page_frag_* tcp_stream_alloc_skb tcp_skb_entail sk_forced_mem_* __sk_mem_* \
         sk_mem_* sock_rfree sock_wfree tcp_wfree tcp_rtx_queue_unlink* rcu_do_batch \
         rcu_core* rcu_free_* do_mmap vm_mmap* do_vmi_* do_brk* do_mremap __x64_sys_brk \
         __do_sys_brk __do_sys_mremap do_madvise zap_* unmap_* tlb_* flush_tlb_*",
    ),
    (
        Part::Copy,
        "_copy_to_iter _copy_from_iter copy_page_*iter simple_copy_to_iter \
         skb_copy_datagram_iter __skb_datagram_iter skb_do_copy_* copy_user_* rep_movs_* \
         copy_from_user* copy_to_user* _copy_from_user _copy_to_user copyin copyout \
         csum_and_copy_* __check_object_size check_heap_object check_stack_object \
         __check_heap_object copy_folio_*",
    ),
    (
        Part::Epoll,
        "ep_* do_epoll_* __do_sys_epoll_* __x64_sys_epoll_* __ep_* epoll_* sock_poll tcp_poll \
         do_poll* do_sys_poll vfs_poll datagram_poll eventfd_poll timerfd_poll io_uring_poll \
         __io_arm_poll_handler io_poll_* __io_poll_* io_arm_*poll*",
    ),
    (
        Part::TcpIn,
        "handle_softirqs __do_softirq do_softirq* __irq_exit_rcu irq_exit_rcu run_ksoftirqd \
         net_rx_action __napi_poll napi_* process_backlog __netif_receive_skb* \
         netif_receive_skb* gro_* dev_gro_* ip_rcv* ip_local_deliver* ip_protocol_deliver_rcu \
         raw_local_deliver ip_sublist_* ip_list_rcv* tcp_v4_rcv tcp_v4_do_rcv tcp_rcv_* \
         tcp_ack* tcp_in_ack_event tcp_clean_rtx_queue* tcp_data_queue* tcp_queue_rcv \
         tcp_try_rmem_schedule tcp_event_data_recv tcp_data_ready tcp_check_space \
         tcp_new_space tcp_data_ecn_check tcp_v4_fill_cb tcp_add_backlog tcp_inbound_hash \
         tcp_newly_delivered tcp_rate_skb_delivered tcp_rate_gen tcp_rack_* tcp_grow_window \
         tcp_ofo_queue tcp_parse_* tcp_validate_incoming tcp_update_rtt* tcp_cong_control \
         tcp_child_process tcp_conn_request tcp_check_req cubictcp_cong_avoid cubictcp_acked \
         bbr_main bbr_* __inet_lookup* inet_ehashfn sk_filter_trim_cap __release_sock \
         sk_backlog_rcv veth_poll veth_xdp_* *_poll_napi __tcp_ack_snd_check \
         tcp_send_delayed_ack __xfrm_policy_check2 security_sock_rcv_skb",
    ),
    (
        Part::TcpOut,
        "tcp_sendmsg* tcp_send_mss tcp_current_mss tcp_push* __tcp_push_* tcp_write_* \
         __tcp_transmit_skb __tcp_send_ack* tcp_send_ack* tcp_tso_* tcp_tsq_* \
         tcp_tasklet_func tcp_event_new_data_sent tcp_schedule_loss_probe tcp_cwnd_restart \
         tcp_rate_check_app_limited tcp_rate_skb_sent tcp_small_queue_check tcp_v4_send_check \
         tcp_options_write tcp_update_skb_after_send tcp_established_options tcp_release_cb \
         sock_sendmsg* __sock_sendmsg sock_write_iter inet_sendmsg inet_send_prepare \
         __sys_send* __x64_sys_send* ____sys_sendmsg ___sys_sendmsg ip_queue_xmit \
         __ip_queue_xmit ip_local_out __ip_local_out ip_output ip_finish_output* \
         __ip_finish_output ip_build_and_send_pkt ip_skb_dst_mtu __dev_queue_xmit \
         __dev_xmit_skb sch_direct_xmit __qdisc_run qdisc_* validate_xmit_* \
         netif_skb_features skb_csum_hwoffload_help dev_hard_start_xmit loopback_xmit \
         __netif_rx* netif_rx* enqueue_to_backlog get_rps_cpu veth_xmit *_start_xmit \
         eth_type_trans net_tx_action lock_sock_nested release_sock skb_clone_tx_timestamp \
         __sk_dst_check sk_dst_check ipv4_dst_check",
    ),
    (
        Part::TcpRead,
        "tcp_recvmsg* tcp_inq_hint tcp_rcv_space_adjust tcp_cleanup_rbuf __tcp_cleanup_rbuf \
         tcp_eat_recv_skb tcp_read_* sock_recvmsg inet_recvmsg __sys_recv* __x64_sys_recv* \
         ___sys_recvmsg ____sys_recvmsg sock_read_iter sock_common_recvmsg",
    ),
    (
        Part::TcpOut,
        "tcp_close* __tcp_close tcp_shutdown tcp_connect* tcp_v4_connect \
         __inet_stream_connect inet_accept inet_csk_* __sys_accept* __sys_connect* \
         inet_hash_connect __inet_hash_connect sock_alloc* sock_close __sock_release \
         inet_release",
    ),
    (
        Part::IoUring,
        "io_* __io_* __do_sys_io_uring_* __x64_sys_io_uring_* sock_from_file import_ubuf",
    ),
    (
        Part::Wakeup,
        "futex_* do_futex __x64_sys_futex eventfd_* __do_sys_membarrier __x64_sys_membarrier \
         membarrier_*",
    ),
    (Part::Timer, "__x64_sys_clock_nanosleep common_nsleep* __x64_sys_nanosleep"),
    (
        Part::Syscall,
        "entry_SYSCALL_* do_syscall_64 x64_sys_call syscall_* exit_to_user_mode* irqentry_* \
         __rseq_* rseq_* ret_from_intr el0*_svc* invoke_syscall* do_el0_svc el0t_* \
         task_work_run entry_SYSRETQ_* fpregs_* switch_fpu_return mem_cgroup_handle_over_high",
    ),
    // A system call that nothing above knows.
    (
        Part::Other,
        "__x64_sys_* __arm64_sys_* __se_sys_* __do_sys_* __sys_* ksys_* do_sys_* vfs_* kthread",
    ),
];

/// Whether a function has a name.
fn is(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(place) = name.find(part) else { return false };
        name = &name[place + part.len()..];
    }
    name.ends_with(last)
}

fn any(patterns: &str, name: &str) -> bool {
    patterns.split_ascii_whitespace().any(|pattern| is(pattern, name))
}

/// The part that the first line with this function gives it.
fn find(table: &[(Part, &str)], name: &str) -> Option<Part> {
    table.iter().find(|(_, patterns)| any(patterns, name)).map(|(part, _)| *part)
}

/// What a function says of a stack that it is in.
#[derive(Clone, Copy)]
struct Rule {
    whole: Option<Part>,
    halted: bool,
    part: Option<Part>,
}

/// The rules, and what they say of the functions that were met.
#[derive(Default)]
pub(crate) struct Rules {
    known: HashMap<String, Rule>,
}

impl Rules {
    fn of(&mut self, name: &str) -> Rule {
        if let Some(known) = self.known.get(name) {
            return *known;
        }
        // A compiler's copy of a function works for the same.
        let plain = name.split('.').next().unwrap_or(name);
        let rule = Rule {
            whole: find(&WHOLE, plain),
            halted: any(HALTED, plain),
            part: find(&RULES, plain),
        };
        self.known.insert(name.to_owned(), rule);
        rule
    }

    /// The part of a stack in the kernel, outermost function first.
    pub(crate) fn part(&mut self, stack: &[String]) -> Part {
        let Some(innermost) = stack.last() else { return Part::User };
        let rules: Vec<Rule> = stack.iter().map(|name| self.of(name)).collect();
        if let Some(part) = rules.iter().find_map(|rule| rule.whole) {
            return part;
        }
        if self.of(innermost).halted {
            return Part::Halted;
        }
        let decides = rules.iter().rev().find_map(|rule| rule.part);
        match decides.unwrap_or(Part::Other) {
            // The idle task chooses whoever was woken.
            Part::Switch if rules.iter().any(|rule| rule.part == Some(Part::IdleExit)) => {
                Part::IdleExit
            }
            part => part,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stacks as they were recorded, each behind its part: of the three regimes of
    /// `cost-of-a-request.ron` and a connect phase, Linux 6.18 on two virtual cores.
    const RECORDED: &str = include_str!("recorded_stacks.txt");

    fn part_of(stack: &str) -> Part {
        let stack: Vec<String> =
            stack.split(';').filter(|it| !it.is_empty()).map(str::to_owned).collect();
        Rules::default().part(&stack)
    }

    #[test]
    fn recorded_stacks_belong_to_their_parts() {
        let mut met = Vec::new();
        for line in RECORDED.lines().filter(|line| !line.starts_with('#')) {
            let (part, stack) = line.split_once(' ').expect("a part and a stack");
            let found = part_of(stack);
            let name = serde_json::to_value(found).expect("a name");
            assert_eq!(name, part, "{stack}");
            met.push(found);
        }
        let all = Part::WORK.into_iter().chain([Part::Halted]);
        let missing: Vec<Part> = all.filter(|it| *it != Part::User && !met.contains(it)).collect();
        assert_eq!(missing, [], "parts without a recorded stack");
    }

    #[test]
    fn the_innermost_function_that_a_rule_knows_decides() {
        for (stack, part) in [
            ("", Part::User),
            ("do_syscall_64", Part::Syscall),
            // A lock belongs to who takes it.
            ("do_syscall_64;tcp_sendmsg;_raw_spin_lock", Part::TcpOut),
            ("tcp_v4_rcv;sock_def_readable;_raw_spin_unlock_irqrestore", Part::Wakeup),
            // An acknowledgement that leaves while one comes in.
            ("net_rx_action;tcp_rcv_established;__tcp_transmit_skb", Part::TcpOut),
            // A system call without a rule is none of the entry's.
            ("do_syscall_64;__x64_sys_bind;inet_bind2_bucket_find", Part::Other),
            ("[kernel stack lost]", Part::Other),
            // Copies of a compiler.
            ("do_idle;schedule_idle;__schedule;finish_task_switch.isra.0", Part::IdleExit),
            ("schedule;__schedule;finish_task_switch.isra.0", Part::Switch),
            // A CPU that was woken for a softirq works.
            ("do_idle;default_idle;pv_native_safe_halt", Part::Halted),
            ("do_idle;default_idle;handle_softirqs;net_rx_action", Part::TcpIn),
            // What a fault and a probe call belongs to them.
            ("asm_exc_page_fault;alloc_pages_noprof;clear_page_erms", Part::PageFaults),
            ("tcp_sendmsg;bpf_trace_run2;bpf_prog_0123_send;kfree", Part::Measuring),
        ] {
            assert_eq!(part_of(stack), part, "{stack}");
        }
    }

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, name, fits) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "ab", true),
            ("a*", "a", true),
            ("*_ipi", "sysvec_reschedule_ipi", true),
            ("*_ipi", "ipi", false),
            ("el0*_svc*", "el0t_64_svc_handler", true),
            ("a*b", "a", false),
            // The two may not share a character.
            ("ab*bc", "abc", false),
        ] {
            assert_eq!(is(pattern, name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn every_part_of_a_table_has_a_rule_or_a_reason() {
        let by_rule = RULES.iter().chain(&WHOLE).map(|(part, _)| *part).chain([Part::User]);
        let by_rule: Vec<Part> = by_rule.collect();
        assert!(Part::WORK.iter().all(|part| by_rule.contains(part)));
        let names: Vec<&str> = Part::WORK.iter().map(|part| part.words()).collect();
        let mut once = names.clone();
        once.dedup();
        assert_eq!(names, once);
    }
}
