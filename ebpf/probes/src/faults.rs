//! Packets dropped or diverted on purpose, where they arrive at an interface.
//!
//! Owns: which packets, and the exact truth about them. An object of its own, because the probes
//! never influence a run and this does nothing else. It is loaded only by an experiment that asks
//! for it, onto interfaces that the experiment itself has made.

#![feature(core_intrinsics)]
#![allow(internal_features, reason = "atomic additions, see `count::atomic_add`")]
#![no_std]
#![no_main]

use core::{
    ffi::c_void,
    intrinsics::{AtomicOrdering, atomic_xadd},
    mem::MaybeUninit,
    ptr,
};

use aya_ebpf::{
    helpers::{bpf_ktime_get_ns, bpf_redirect},
    macros::map,
    maps::{Array, RingBuf},
    programs::TcContext,
};
use events::{FaultConfig, FaultCounts, FaultRecord, FaultSpan, TO_SERVER};

/// On to the next program, or up the stack.
const TC_ACT_UNSPEC: i32 = -1;
const TC_ACT_SHOT: i32 = 2;

const ETH_P_IP: u16 = 0x0800;
const ETH_LEN: usize = 14;
const IPPROTO_TCP: u8 = 6;

/// Written by the loader, frozen before the program is verified.
#[unsafe(no_mangle)]
static FAULT: Shared = Shared(MaybeUninit::new(FaultConfig::EMPTY));

/// Keeps the compiler from folding the value it sees here into the code.
#[repr(transparent)]
struct Shared(MaybeUninit<FaultConfig>);

// SAFETY: read-only for the program.
unsafe impl Sync for Shared {}

/// When. An array, since it changes while the program runs.
#[map]
static SPAN: Array<FaultSpan> = Array::with_max_entries(1, 0);

/// What was done. Shared between CPUs: the count decides which packet is next, and there must be
/// one order.
#[map]
static COUNTS: Array<FaultCounts> = Array::with_max_entries(1, 0);

/// The packets chosen. At 5% of 60,000 packets a second 1 MiB holds ten seconds.
#[map]
static HITS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// The helpers demand a licence compatible with the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// An IPv4 header without options; all in network byte order.
#[derive(Clone, Copy)]
#[repr(C)]
struct Ip {
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
}

/// The part of a TCP header that matters.
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
}

/// One of the loader's settings.
macro_rules! fault {
    ($field:ident) => {
        // SAFETY: the field lies within the global, which always holds a valid value.
        unsafe { ptr::read_volatile(&raw const (*FAULT.0.as_ptr()).$field) }
    };
}

/// A packet has arrived at an interface.
///
/// What aya's macro `classifier` would write, but for the argument's type: LLVM orders the types
/// that `__sk_buff` only points to by their addresses in its own memory, so that the object would
/// differ from one directory to the next.
#[unsafe(no_mangle)]
#[unsafe(link_section = "classifier")]
extern "C" fn meddle(packet: *mut c_void) -> i32 {
    try_meddle(&TcContext::new(packet.cast())).unwrap_or(TC_ACT_UNSPEC)
}

#[inline(always)]
fn try_meddle(ctx: &TcContext) -> Option<i32> {
    let mut record = wanted(ctx)?;
    let span = SPAN.get(0)?;
    // SAFETY: a value of the map; user space writes each half at once.
    let (from_ns, until_ns) = unsafe {
        (ptr::read_volatile(&raw const span.from_ns), ptr::read_volatile(&raw const span.until_ns))
    };
    // SAFETY: no arguments.
    record.at_ns = unsafe { bpf_ktime_get_ns() };
    if record.at_ns < from_ns || record.at_ns >= until_ns {
        return None;
    }
    let counts = COUNTS.get_ptr_mut(0)?;
    // SAFETY: an aligned field of a map's value.
    let number = unsafe { fetch_add(&raw mut (*counts).seen) };
    if mix(fault!(seed) ^ number) % 1_000_000_000 >= u64::from(fault!(per_billion)) {
        return None;
    }
    // SAFETY: as above.
    unsafe { fetch_add(&raw mut (*counts).hit) };
    let divert_to = fault!(divert_to);
    if divert_to != 0 {
        // SAFETY: a number and no flags.
        return Some(unsafe { bpf_redirect(divert_to, 0) } as i32);
    }
    if HITS.output::<FaultRecord>(record, 0).is_err() {
        // SAFETY: as above.
        unsafe { fetch_add(&raw mut (*counts).not_kept) };
    }
    Some(TC_ACT_SHOT)
}

/// What is to be known of a packet that this is about.
#[inline(always)]
fn wanted(ctx: &TcContext) -> Option<FaultRecord> {
    let ether_type: u16 = ctx.load(ETH_LEN - 2).ok()?;
    if u16::from_be(ether_type) != ETH_P_IP {
        return None;
    }
    let ip: Ip = ctx.load(ETH_LEN).ok()?;
    if ip.version_and_length >> 4 != 4 || ip.protocol != IPPROTO_TCP {
        return None;
    }
    let header = u32::from(ip.version_and_length & 15) * 4;
    let tcp: Tcp = ctx.load(ETH_LEN + header as usize).ok()?;
    let port = fault!(port).to_be();
    let (mine, address, client_port) = if fault!(direction) == TO_SERVER {
        (tcp.destination, ip.source, tcp.source)
    } else {
        (tcp.source, ip.destination, tcp.destination)
    };
    let length = u32::from(u16::from_be(ip.total_length));
    let payload = length.saturating_sub(header + u32::from(tcp.offset >> 4) * 4);
    if mine != port || (payload == 0 && fault!(all) == 0) {
        return None;
    }
    Some(FaultRecord {
        at_ns: 0,
        sequence: u32::from_be(tcp.sequence),
        payload,
        client_address: u32::from_be(address),
        client_port: u16::from_be(client_port),
        flags: u16::from(tcp.flags),
    })
}

/// SplitMix64's last step (Steele, Lea, Flood 2014).
#[inline(always)]
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Adds one, and returns what was there before. Not relaxed: see `count::fetch_add` of the probes.
///
/// # Safety
/// The counter is a field of a map's value, aligned as such.
#[inline(always)]
unsafe fn fetch_add(counter: *mut u64) -> u64 {
    // SAFETY: the caller vouches for the pointer.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(counter, 1) }
}

/// Nothing here panics: the verifier would refuse a program that could get here.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
