//! What a shard does: a state machine that is told what happened and acts through
//! [`Io`](crate::io::Io).
//!
//! Owns: sessions, SETs, the shard's part of the directory and of the sent packets, generators,
//! pushes, deadlines. Must not know: sockets, threads, the real clock.

mod connection;
mod generating;
mod generators;
mod inbox;
mod local;
mod pushes;
mod pushing;
mod rules;
mod session;
mod state;
mod tick;

pub use rules::Rules;
pub use state::Logic;
