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
//! commands from 0x0100 up are extensions of this
//! project.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod decode;
mod encode;
mod frame;
mod limits;

pub use decode::{Decoded, Malformed, decode};
pub use encode::EncodeError;
pub use frame::{
    ChatOutcome, Command, CreateResult, ErrorCode, Frame, LoginResult, ShakeResult, UserList,
};
pub use limits::{HEADER_LEN, MAX_CHAT_TEXT, MAX_FRAME, MAX_PUSH_PAYLOAD, MAX_RECIPIENTS};
