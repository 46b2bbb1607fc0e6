//! Faults on purpose: started and ended on the seconds that the experiment names, and written down
//! as they really were.
//!
//! Owns: which injector brings a fault about, and the truth that injectors tell. Must not know:
//! what probes or attribution make of it.

mod hold;
pub(crate) mod inject;
mod injectors;
pub(crate) mod state;
mod truth;
