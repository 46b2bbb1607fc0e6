//! Tuning profiles that can be trusted: what a kernel is set to, why, and the way back.
//!
//! Read it in the order of the data: [`profile`] (what is wanted), `formula` (values over memory
//! and cores), `resolve` (what that comes to on this machine), `system` (reading and writing one
//! setting), [`check`](check()) (now and then), `journal` (what was there, on disk before the first
//! change), [`apply`](apply()), [`revert`](revert()), [`script`](script()) (the same without this
//! program).

mod apply;
mod at_boot;
mod check;
mod facts;
mod formula;
mod journal;
mod known;
pub mod leftovers;
mod limits;
mod namespace;
pub mod profile;
mod resolve;
mod revert;
mod script;
mod status;
mod system;
mod value;
mod why;

pub use apply::{Applied, ApplyError, Change, Failure, Manner, apply, apply_to_own_namespace};
pub use at_boot::{AtBoot, at_boot};
pub use check::{Finding, State, check};
pub use facts::Facts;
pub use formula::Text;
pub use journal::{DEFAULT_DIRECTORY, Directory, JournalError, Lock, Owner};
pub use known::{known, socket_table};
pub use limits::{Limit, limits, limits_d, raise_limits, systemd};
pub use profile::{Profile, ProfileError};
pub use revert::{Outcome, Reverted, Setback, Which, forget, revert};
pub use script::script;
pub use status::{Standing, status};
pub use value::{Format, Relation, Rounding};
pub use why::Why;
