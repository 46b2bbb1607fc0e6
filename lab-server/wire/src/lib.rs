//! Frames of the red-packet protocol, and nothing else.
//!
//! Owns: the byte layout of every frame, in both directions, and the decision whether bytes can
//! still become a frame. Must not know: sockets, clocks, users that are online, money.
//! The crate performs no I/O and never allocates: frames borrow from the bytes they were read from
//! and are written into a slice of the caller's.
//!
//! All integers are unsigned and big-endian. A frame is a 12-byte header (length of the whole
//! frame, command, Unix seconds at which the sender wrote it) and a payload that the command fixes.
//! Commands 0 to 6 are those of the Go prototype `xiaojiaqi/10billionhongbaos`, byte for byte;
//! commands from 0x0100 up are this project's.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod decode;
mod encode;
mod frame;

pub use decode::{Decoded, Malformed, decode};
pub use encode::EncodeError;
pub use frame::{Command, ErrorCode, Frame, LoginResult, ShakeResult, UserList, chat, create};

/// Bytes of the header: length, command, timestamp.
pub const HEADER_LEN: usize = 12;

/// The longest frame, in bytes, header included. Frames of the prototype end at 36.
pub const MAX_FRAME: usize = 4096;

/// The longest text of a chat frame in bytes: what a delivery leaves beside header, ids and users.
pub const MAX_CHAT_TEXT: usize = MAX_FRAME - HEADER_LEN - 8;

/// The largest number of recipients that a create-packet request can name.
pub const MAX_RECIPIENTS: usize = (MAX_FRAME - HEADER_LEN - 12) / 4;

/// The longest payload of a push in bytes.
pub const MAX_PUSH_PAYLOAD: usize = MAX_FRAME - HEADER_LEN - 12;

/// The first command id that is not the prototype's.
pub const FIRST_OWN_COMMAND: u16 = 0x0100;
