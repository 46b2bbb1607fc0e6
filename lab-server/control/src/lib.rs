//! What the control threads of server and client have in common.
//!
//! Owns: reading what shards report, signals, lines of JSON over a pipe, and HTTP: who may use it,
//! within what bounds, error answers. Must not know: what is reported or commanded. Nothing on the
//! data path waits for it, and it waits for nobody who reads what it says.

mod access;
mod args;
mod cpus;
pub mod http;
mod listen;
pub mod metrics;
mod output;
mod scrape;
mod serve;
mod shards;
mod token;
mod visitors;

pub use access::{Access, Routes};
pub use args::{AccessArgs, AccessError, BadConfig, is_usage};
pub use cpus::CpuList;
pub use listen::{converse, listen};
pub use output::{Output, last_words};
pub use scrape::serve_metrics;
pub use serve::{Interface, Lines, Program, serve};
pub use shards::{InboxFull, Shards, locked};
pub use token::{Token, TokenError};
