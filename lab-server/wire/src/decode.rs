//! Bytes to frames.

use crate::frame::{Command, ErrorCode, Frame, UserList};
use crate::limits::{HEADER_LEN, MAX_FRAME};

/// What the first bytes of a stream are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// A whole frame.
    Frame {
        /// The frame, borrowed from the bytes given.
        frame: Frame<'a>,
        /// Unix seconds at which the sender says it wrote the frame.
        unix_seconds: u64,
        /// Bytes of the frame; the next one begins after them.
        length: usize,
    },
    /// The beginning of a frame, or nothing.
    Incomplete,
    /// Bytes that no continuation can make a frame.
    Malformed(Malformed),
}

/// Why bytes cannot be a frame. Said as early as the bytes show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The length is none that the command (or, before the command was read, any command) has.
    #[error("length {length} is impossible for command {command:?}")]
    Length {
        /// The length in the header.
        length: u16,
        /// The command, if its bytes were there.
        command: Option<u16>,
    },
    /// No such command.
    #[error("command {command} does not exist")]
    Command {
        /// The command in the header.
        command: u16,
    },
}

impl Malformed {
    /// The code that an error frame carries for it.
    pub const fn code(self) -> ErrorCode {
        match self {
            Malformed::Length { .. } => ErrorCode::BadLength,
            Malformed::Command { .. } => ErrorCode::UnknownCommand,
        }
    }

    /// The offending command as an error frame carries it: [`u32::MAX`] when it was not read.
    pub fn command(self) -> u32 {
        match self {
            Malformed::Length { command, .. } => command.map_or(u32::MAX, u32::from),
            Malformed::Command { command } => u32::from(command),
        }
    }
}

/// Reads fields one after the other from a payload whose length was checked.
/// A field beyond its end reads as zero rather than panicking.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk::<N>() {
            Some((bytes, rest)) => {
                self.0 = rest;
                *bytes
            }
            None => [0; N],
        }
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.take())
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

/// Reads the frame at the start of `bytes`.
pub fn decode(bytes: &[u8]) -> Decoded<'_> {
    let Some((length, behind_length)) = bytes.split_first_chunk::<2>() else {
        return Decoded::Incomplete;
    };
    let length = u16::from_be_bytes(*length);
    let whole = usize::from(length);
    if !(HEADER_LEN..=MAX_FRAME).contains(&whole) {
        return Decoded::Malformed(Malformed::Length { length, command: None });
    }
    let Some((id, behind_command)) = behind_length.split_first_chunk::<2>() else {
        return Decoded::Incomplete;
    };
    let id = u16::from_be_bytes(*id);
    let Some(command) = Command::from_id(id) else {
        return Decoded::Malformed(Malformed::Command { command: id });
    };
    if !command.payload_len().allows(whole - HEADER_LEN) {
        return Decoded::Malformed(Malformed::Length { length, command: Some(id) });
    }
    let Some(rest) = behind_command.get(..whole - 4) else {
        return Decoded::Incomplete;
    };
    let mut fields = Fields(rest);
    let unix_seconds = fields.u64();
    let frame = payload(command, &mut fields);
    Decoded::Frame { frame, unix_seconds, length: whole }
}

fn payload<'a>(command: Command, f: &mut Fields<'a>) -> Frame<'a> {
    match command {
        Command::LoginRequest => Frame::LoginRequest { user: f.u32() },
        Command::LoginResponse => Frame::LoginResponse { user: f.u32(), result: f.u32() },
        Command::ShakeRequest => Frame::ShakeRequest { user: f.u32() },
        Command::ShakeResponse => Frame::ShakeResponse {
            user: f.u32(),
            result: f.u32(),
            packet: f.u32(),
            amount: f.u32(),
        },
        Command::SendPacket => Frame::SendPacket {
            packet: f.u32(),
            amount: f.u32(),
            count: f.u32(),
            users: [f.u32(), f.u32(), f.u32()],
        },
        Command::ClaimRequest => Frame::ClaimRequest { user: f.u32(), packet: f.u32() },
        Command::ClaimResponse => Frame::ClaimResponse { packet: f.u32(), amount: f.u32() },
        Command::Ping => Frame::Ping { client_ns: f.u64() },
        Command::Pong => Frame::Pong { client_ns: f.u64() },
        Command::ChatRequest => {
            Frame::ChatRequest { message: f.u32(), to: f.u32(), text: f.rest() }
        }
        Command::ChatDelivery => {
            Frame::ChatDelivery { message: f.u32(), from: f.u32(), text: f.rest() }
        }
        Command::ChatReceipt => {
            Frame::ChatReceipt { message: f.u32(), to: f.u32(), outcome: f.u32() }
        }
        Command::CreatePacket => Frame::CreatePacket {
            request: f.u32(),
            amount: f.u32(),
            count: f.u32(),
            recipients: UserList(f.rest()),
        },
        Command::CreatePacketResponse => {
            Frame::CreatePacketResponse { request: f.u32(), packet: f.u32(), result: f.u32() }
        }
        Command::PacketNotice => Frame::PacketNotice {
            packet: f.u32(),
            amount: f.u32(),
            count: f.u32(),
            creator: f.u32(),
        },
        Command::PacketRefund => {
            Frame::PacketRefund { packet: f.u32(), amount: f.u32(), shares: f.u32() }
        }
        Command::Push => Frame::Push { sequence: f.u32(), due_ns: f.u64(), payload: f.rest() },
        Command::Error => Frame::Error { code: f.u32(), command: f.u32() },
    }
}
