//! Tuning profiles that can be trusted: what a kernel is set to, why, and the way back.
//!
//! Read it in the order of the data: [`profile`] (the values that are wanted), `formula` (values
//! computed from memory and cores), `resolve` (the targets on this machine), `system` (reading and
//! writing one setting), `along` (what else a write changes), [`check`](check()) (present values
//! compared with wanted ones), `journal` (the original values, on disk before the first change),
//! [`apply`](apply()), [`revert`](revert()) with `originals`, [`recover`](recover()) (after a
//! process was killed) and [`script`](script()) (the same without this program). Must not know:
//! runs, phases, clients.

mod along;
mod apply;
mod at_boot;
mod check;
mod facts;
mod formula;
mod import;
mod journal;
mod leftovers;
mod limits;
mod namespace;
mod originals;
mod present;
pub mod profile;
mod resolve;
mod revert;
mod script;
mod setting_error;
mod signals;
mod status;
mod sysctl_file;
mod system;
mod value;

pub use apply::{
    Applied, ApplyError, ApplyOptions, Change, Failure, apply, apply_to_own_namespace,
};
pub use at_boot::{AtBoot, at_boot};
pub use check::{Finding, State, check};
pub use facts::Facts;
pub use formula::Template;
pub use import::{Imported, import};
pub use journal::{DEFAULT_DIRECTORY, Directory, JournalError, Lock, Owner};
pub use leftovers::recover;
pub use limits::{Limit, limits, limits_d, raise_limits, systemd};
pub use originals::Outcome;
pub use present::{present_values, socket_table};
pub use profile::{Profile, ProfileError};
pub use revert::{RevertedProfile, RevertedSetting, Selection, forget, revert};
pub use script::script;
pub use setting_error::SettingError;
pub use status::{AppliedProfile, AppliedSetting, status};
pub use value::Rounding;
