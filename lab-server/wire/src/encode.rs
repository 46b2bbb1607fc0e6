//! Frames to bytes.

use crate::frame::Frame;
use crate::limits::{HEADER_LEN, MAX_FRAME};

/// Why a frame was not written. Nothing was written then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The slice is too short.
    #[error("frame of {need} bytes does not fit the {have} bytes given")]
    NoRoom {
        /// Bytes of the frame.
        need: usize,
        /// Bytes given.
        have: usize,
    },
    /// A text, payload or list of users is longer than a frame may be.
    #[error("frame of {len} bytes is longer than the {MAX_FRAME} bytes allowed")]
    TooLong {
        /// Bytes of the frame.
        len: usize,
    },
}

/// Writes fields one after the other; the caller has checked that they fit.
struct Cursor<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl Cursor<'_> {
    fn bytes(&mut self, bytes: &[u8]) {
        let end = self.at + bytes.len();
        self.out[self.at..end].copy_from_slice(bytes);
        self.at = end;
    }

    fn u16(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }

    fn u32s(&mut self, values: &[u32]) {
        for value in values {
            self.bytes(&value.to_be_bytes());
        }
    }

    fn u64(&mut self, value: u64) {
        self.bytes(&value.to_be_bytes());
    }
}

impl Frame<'_> {
    /// Writes the frame to the start of `out` and returns its length in bytes.
    /// `unix_seconds` is the time that the header carries.
    ///
    /// # Errors
    /// [`EncodeError`] when `out` is too short or a variable part too long; `out` is then
    /// as it was.
    pub fn encode(&self, unix_seconds: u64, out: &mut [u8]) -> Result<usize, EncodeError> {
        let len = self.encoded_len();
        let Some(length) = u16::try_from(len).ok().filter(|_| self.is_allowed_len(len)) else {
            return Err(EncodeError::TooLong { len });
        };
        if out.len() < len {
            return Err(EncodeError::NoRoom { need: len, have: out.len() });
        }
        let mut to = Cursor { out, at: 0 };
        to.u16(length);
        to.u16(self.command().id());
        to.u64(unix_seconds);
        self.encode_payload(&mut to);
        debug_assert_eq!(to.at, len);
        Ok(len)
    }

    fn is_allowed_len(&self, len: usize) -> bool {
        self.command().payload_len().allows(len - HEADER_LEN)
    }

    fn encode_payload(&self, to: &mut Cursor<'_>) {
        match *self {
            Frame::LoginRequest { user } | Frame::ShakeRequest { user } => to.u32s(&[user]),
            Frame::LoginResponse { user, result } => to.u32s(&[user, result]),
            Frame::ShakeResponse { user, result, packet, amount } => {
                to.u32s(&[user, result, packet, amount]);
            }
            Frame::SendPacket { packet, amount, count, users } => {
                to.u32s(&[packet, amount, count]);
                to.u32s(&users);
            }
            Frame::ClaimRequest { user, packet } => to.u32s(&[user, packet]),
            Frame::ClaimResponse { packet, amount } => to.u32s(&[packet, amount]),
            Frame::Ping { client_ns } | Frame::Pong { client_ns } => to.u64(client_ns),
            Frame::ChatRequest { message, to: user, text }
            | Frame::ChatDelivery { message, from: user, text } => {
                to.u32s(&[message, user]);
                to.bytes(text);
            }
            Frame::ChatReceipt { message, to: user, outcome } => {
                to.u32s(&[message, user, outcome]);
            }
            Frame::CreatePacket { request, amount, count, recipients } => {
                to.u32s(&[request, amount, count]);
                to.bytes(recipients.0);
            }
            Frame::CreatePacketResponse { request, packet, result } => {
                to.u32s(&[request, packet, result]);
            }
            Frame::PacketNotice { packet, amount, count, creator } => {
                to.u32s(&[packet, amount, count, creator]);
            }
            Frame::PacketRefund { packet, amount, shares } => to.u32s(&[packet, amount, shares]),
            Frame::Push { sequence, due_ns, payload } => {
                to.u32s(&[sequence]);
                to.u64(due_ns);
                to.bytes(payload);
            }
            Frame::Error { code, command } => to.u32s(&[code, command]),
        }
    }
}
