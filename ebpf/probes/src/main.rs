//! The lab's programs for the kernel, one file per family.
//!
//! Owns: what is stamped and counted at each tracepoint. Must not know: what a request means, what
//! is slow, what is to blame; user space computes that from the instants.
//!
//! All programs are `tp_btf`: the kernel hands over typed pointers, and fields are plain loads at
//! offsets that the loader found in the kernel's BTF ([`events::Config`]). On the hot path a
//! program compares ports first, then finds its flow, and reads the clock last of all.

#![feature(core_intrinsics)]
#![allow(internal_features, reason = "atomic additions, see `count::atomic_add`")]
#![no_std]
#![no_main]

mod count;
mod drops;
mod family;
mod flow;
mod kernel;
mod packets;
mod peers;
mod profile;
mod requests;
mod resets;
mod retransmits;
mod scheduling;
mod softirq;
mod stops;
mod threads;
mod ticks;

/// The helpers for tracing demand a licence compatible with the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Nothing here panics: the verifier would refuse a program that could get here.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
