//! The server under test: users in SETs with queues of red packets, one glommio shard a core.
//!
//! Read it from the inside out: `split`, [`sets`], [`generator`], [`directory`], [`packets`],
//! [`under_way`] and [`overload`] are pure; [`logic`] makes a shard of them, still without a
//! socket; `shard_loop` puts that on sockets; [`server`] runs the shards and [`panel`] is its
//! control interface.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod cli;
pub mod directory;
pub mod generator;
pub mod holding;
pub mod io;
mod keeping;
pub mod logic;
pub mod message;
mod opened;
mod outbox;
pub mod overload;
mod packet_ids;
pub mod packets;
pub mod panel;
mod quiescence;
pub mod report;
pub mod restart;
mod seats;
pub mod server;
pub mod sets;
mod shaken_ids;
mod shard_loop;
mod split;
pub mod under_way;
