//! The lengths of frames and of their parts, in bytes.

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

/// The first command id that the prototype does not know.
pub(crate) const FIRST_EXTENSION: u16 = 0x0100;
