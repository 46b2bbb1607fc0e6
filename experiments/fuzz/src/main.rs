//! The targets for libFuzzer: `FUZZ_TARGET` names one, the arguments are libFuzzer's own.

#![no_main]

use std::sync::OnceLock;

use fuzz::{Bounded, Target, target};
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static MEMORY: Bounded = Bounded;

/// The target that this process is for.
fn chosen() -> Target {
    static CHOSEN: OnceLock<Target> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let name = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET names a target");
        target(&name).expect("FUZZ_TARGET names a target")
    })
}

fuzz_target!(|bytes: &[u8]| chosen()(bytes));
