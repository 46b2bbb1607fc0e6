//! The server under test: users in SETs with queues of red packets, one glommio shard a core.
//!
//! Read it from the inside out: [`ledger`], [`split`], [`sets`], [`generator`], [`directory`],
//! [`packets`] and [`overload`] are pure; [`logic`] makes a shard of them, still without a socket;
//! `shard_loop` puts that on sockets; [`server`] runs the shards and [`panel`] listens to people.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod cli;
pub mod config;
pub mod counters;
pub mod directory;
pub mod generator;
pub mod io;
pub mod ledger;
pub mod logic;
pub mod message;
pub mod overload;
pub mod packets;
pub mod panel;
mod postbox;
mod quiet;
pub mod report;
pub mod server;
pub mod sets;
mod shard_loop;
pub mod split;
