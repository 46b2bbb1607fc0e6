//! What the frames mean: commands, fields, result codes.

use crate::limits::{FIRST_EXTENSION, HEADER_LEN, MAX_CHAT_TEXT, MAX_PUSH_PAYLOAD, MAX_RECIPIENTS};

/// A command id as it stands in the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Command {
    /// Client to server: the first frame of a connection.
    LoginRequest = 0,
    /// Server to client: the answer to a login.
    LoginResponse = 1,
    /// Client to server: one shake.
    ShakeRequest = 2,
    /// Server to client: the answer to a shake.
    ShakeResponse = 3,
    /// Server to client: a packet was sent to three named users.
    SendPacket = 4,
    /// Client to server: the wish for a share of a sent packet.
    ClaimRequest = 5,
    /// Server to client: the share, or amount 0.
    ClaimResponse = 6,
    /// Client to server: a nanosecond timestamp to be echoed; also says that it speaks the
    /// extensions.
    Ping = 0x0100,
    /// Server to client: the timestamp of the ping.
    Pong = 0x0101,
    /// Client to server: text for another user.
    ChatRequest = 0x0102,
    /// Server to client: text from another user.
    ChatDelivery = 0x0103,
    /// Server to client: what became of a chat request.
    ChatReceipt = 0x0104,
    /// Client to server: a packet for named users.
    CreatePacket = 0x0105,
    /// Server to client: the id of the created packet, or why there is none.
    CreatePacketResponse = 0x0106,
    /// Server to client: a packet was sent whose recipients are not exactly three.
    PacketNotice = 0x0107,
    /// Server to client: unclaimed shares of a packet go back to its creator.
    PacketRefund = 0x0108,
    /// Server to client: payload on a schedule, no answer expected.
    Push = 0x0109,
    /// Server to client: the last frame before the server closes a connection for cause.
    Error = 0x010f,
}

/// The payload lengths that a command allows, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PayloadLen {
    pub(crate) min: usize,
    pub(crate) max: usize,
    /// Payloads have `min + n * step` bytes.
    pub(crate) step: usize,
}

impl PayloadLen {
    const fn exactly(len: usize) -> Self {
        Self { min: len, max: len, step: 1 }
    }

    pub(crate) const fn allows(self, len: usize) -> bool {
        len >= self.min && len <= self.max && (len - self.min).is_multiple_of(self.step)
    }
}

impl Command {
    /// All commands, for tables and tests.
    pub const ALL: [Command; 18] = [
        Command::LoginRequest,
        Command::LoginResponse,
        Command::ShakeRequest,
        Command::ShakeResponse,
        Command::SendPacket,
        Command::ClaimRequest,
        Command::ClaimResponse,
        Command::Ping,
        Command::Pong,
        Command::ChatRequest,
        Command::ChatDelivery,
        Command::ChatReceipt,
        Command::CreatePacket,
        Command::CreatePacketResponse,
        Command::PacketNotice,
        Command::PacketRefund,
        Command::Push,
        Command::Error,
    ];

    /// The command with this id, if there is one.
    pub fn from_id(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|command| command.id() == id)
    }

    /// The id as it stands in the header.
    pub const fn id(self) -> u16 {
        self as u16
    }

    /// Whether a prototype peer would not know this command.
    pub const fn is_extension(self) -> bool {
        self.id() >= FIRST_EXTENSION
    }

    pub(crate) const fn payload_len(self) -> PayloadLen {
        match self {
            Command::LoginRequest | Command::ShakeRequest => PayloadLen::exactly(4),
            Command::LoginResponse | Command::ClaimRequest | Command::ClaimResponse => {
                PayloadLen::exactly(8)
            }
            Command::ShakeResponse => PayloadLen::exactly(16),
            Command::SendPacket => PayloadLen::exactly(24),
            Command::Ping | Command::Pong => PayloadLen::exactly(8),
            Command::ChatRequest | Command::ChatDelivery => {
                PayloadLen { min: 8, max: 8 + MAX_CHAT_TEXT, step: 1 }
            }
            Command::ChatReceipt => PayloadLen::exactly(12),
            Command::CreatePacket => PayloadLen { min: 16, max: 12 + 4 * MAX_RECIPIENTS, step: 4 },
            Command::CreatePacketResponse => PayloadLen::exactly(12),
            Command::PacketNotice => PayloadLen::exactly(16),
            Command::PacketRefund => PayloadLen::exactly(12),
            Command::Push => PayloadLen { min: 12, max: 12 + MAX_PUSH_PAYLOAD, step: 1 },
            Command::Error => PayloadLen::exactly(8),
        }
    }
}

/// Users as they stand on the wire: four big-endian bytes each.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct UserList<'a>(pub(crate) &'a [u8]);

impl<'a> UserList<'a> {
    /// A list over bytes that hold four big-endian bytes a user; `None` for any other length.
    pub fn from_be_bytes(bytes: &'a [u8]) -> Option<Self> {
        bytes.len().is_multiple_of(4).then_some(Self(bytes))
    }

    /// How many users are named.
    pub fn len(self) -> usize {
        self.0.len() / 4
    }

    /// Whether no user is named.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The users in their order on the wire.
    pub fn iter(self) -> impl Iterator<Item = u32> + 'a {
        self.0.as_chunks::<4>().0.iter().map(|bytes| u32::from_be_bytes(*bytes))
    }
}

impl std::fmt::Debug for UserList<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// One frame. Amounts are in cents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// See [`Command::LoginRequest`].
    LoginRequest {
        /// Who logs in.
        user: u32,
    },
    /// See [`Command::LoginResponse`].
    LoginResponse {
        /// Who logged in.
        user: u32,
        /// A [`LoginResult`]; 0 is success.
        result: u32,
    },
    /// See [`Command::ShakeRequest`].
    ShakeRequest {
        /// Who shakes; a server takes the user from the login instead.
        user: u32,
    },
    /// See [`Command::ShakeResponse`].
    ShakeResponse {
        /// Who shook; the prototype leaves 0 in a granted answer.
        user: u32,
        /// A [`ShakeResult`].
        result: u32,
        /// The packet, 0 when none was granted.
        packet: u32,
        /// Its money in cents, 0 when none was granted.
        amount: u32,
    },
    /// See [`Command::SendPacket`].
    SendPacket {
        /// The packet to be claimed.
        packet: u32,
        /// Its money in cents.
        amount: u32,
        /// Into how many shares it is split.
        count: u32,
        /// Who may claim one.
        users: [u32; 3],
    },
    /// See [`Command::ClaimRequest`].
    ClaimRequest {
        /// Who claims; the prototype's client leaves 0, a server takes the user from the login.
        user: u32,
        /// The packet claimed.
        packet: u32,
    },
    /// See [`Command::ClaimResponse`].
    ClaimResponse {
        /// The packet claimed.
        packet: u32,
        /// The share in cents; 0 when there is none for this user.
        amount: u32,
    },
    /// See [`Command::Ping`].
    Ping {
        /// The client's clock in nanoseconds, meaningless to the server.
        client_ns: u64,
    },
    /// See [`Command::Pong`].
    Pong {
        /// The timestamp of the ping.
        client_ns: u64,
    },
    /// See [`Command::ChatRequest`].
    ChatRequest {
        /// The sender's own number for the text, repeated in the receipt.
        message: u32,
        /// Its recipient.
        to: u32,
        /// Any bytes.
        text: &'a [u8],
    },
    /// See [`Command::ChatDelivery`].
    ChatDelivery {
        /// The sender's number for the text.
        message: u32,
        /// Its sender.
        from: u32,
        /// Any bytes.
        text: &'a [u8],
    },
    /// See [`Command::ChatReceipt`].
    ChatReceipt {
        /// The sender's number for the text.
        message: u32,
        /// Its recipient.
        to: u32,
        /// A [`ChatOutcome`].
        outcome: u32,
    },
    /// See [`Command::CreatePacket`].
    CreatePacket {
        /// The creator's own number for the packet, repeated in the answer.
        request: u32,
        /// Its money in cents.
        amount: u32,
        /// Into how many shares it is split.
        count: u32,
        /// Who may claim one.
        recipients: UserList<'a>,
    },
    /// See [`Command::CreatePacketResponse`].
    CreatePacketResponse {
        /// The creator's number.
        request: u32,
        /// The packet, 0 when it was refused.
        packet: u32,
        /// A [`CreateResult`].
        result: u32,
    },
    /// See [`Command::PacketNotice`].
    PacketNotice {
        /// The packet to be claimed.
        packet: u32,
        /// Its money in cents.
        amount: u32,
        /// Into how many shares it is split.
        count: u32,
        /// Who sent it; [`u32::MAX`] when no user did.
        creator: u32,
    },
    /// See [`Command::PacketRefund`].
    PacketRefund {
        /// The packet that expired.
        packet: u32,
        /// The money that comes back, in cents.
        amount: u32,
        /// How many shares were not claimed.
        shares: u32,
    },
    /// See [`Command::Push`].
    Push {
        /// Which push of this connection it is, from 0.
        sequence: u32,
        /// When the schedule wanted it sent: the server's monotonic clock in nanoseconds.
        due_ns: u64,
        /// Any bytes.
        payload: &'a [u8],
    },
    /// See [`Command::Error`].
    Error {
        /// An [`ErrorCode`].
        code: u32,
        /// The command that caused it, [`u32::MAX`] when none did.
        command: u32,
    },
}

impl Frame<'_> {
    /// The command of the frame.
    pub const fn command(&self) -> Command {
        match self {
            Frame::LoginRequest { .. } => Command::LoginRequest,
            Frame::LoginResponse { .. } => Command::LoginResponse,
            Frame::ShakeRequest { .. } => Command::ShakeRequest,
            Frame::ShakeResponse { .. } => Command::ShakeResponse,
            Frame::SendPacket { .. } => Command::SendPacket,
            Frame::ClaimRequest { .. } => Command::ClaimRequest,
            Frame::ClaimResponse { .. } => Command::ClaimResponse,
            Frame::Ping { .. } => Command::Ping,
            Frame::Pong { .. } => Command::Pong,
            Frame::ChatRequest { .. } => Command::ChatRequest,
            Frame::ChatDelivery { .. } => Command::ChatDelivery,
            Frame::ChatReceipt { .. } => Command::ChatReceipt,
            Frame::CreatePacket { .. } => Command::CreatePacket,
            Frame::CreatePacketResponse { .. } => Command::CreatePacketResponse,
            Frame::PacketNotice { .. } => Command::PacketNotice,
            Frame::PacketRefund { .. } => Command::PacketRefund,
            Frame::Push { .. } => Command::Push,
            Frame::Error { .. } => Command::Error,
        }
    }

    /// Bytes of the frame on the wire, header included.
    pub const fn encoded_len(&self) -> usize {
        HEADER_LEN
            + match self {
                Frame::ChatRequest { text, .. } | Frame::ChatDelivery { text, .. } => {
                    8 + text.len()
                }
                Frame::CreatePacket { recipients, .. } => 12 + recipients.0.len(),
                Frame::Push { payload, .. } => 12 + payload.len(),
                fixed => fixed.command().payload_len().min,
            }
    }
}

/// Declares the codes of a field: an enum of 32 bits, and the way from a number to it and back.
macro_rules! codes {
    ($(#[doc = $about:literal])+ $name:ident {
        $($(#[doc = $doc:literal])+ $code:ident = $value:literal,)+
    }) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum $name {
            $($(#[doc = $doc])+ $code = $value,)+
        }

        impl $name {
            /// The number that stands for it on the wire.
            pub const fn code(self) -> u32 {
                self as u32
            }

            /// What a number on the wire stands for, if it is one of these.
            pub const fn from_code(code: u32) -> Option<Self> {
                match code {
                    $($value => Some(Self::$code),)+
                    _ => None,
                }
            }
        }
    };
}

codes! {
    /// The `result` of a login answer.
    LoginResult {
        /// Logged in.
        Ok = 0,
        /// The user is beyond the largest that this server was started for.
        UserOutOfRange = 1,
        /// The server has no room; try again later.
        Busy = 2,
    }
}

codes! {
    /// The `result` of a shake answer.
    ShakeResult {
        /// A packet was granted.
        Granted = 14,
        /// No packet just now.
        NoPacket = 15,
        /// All packets are taken and no more will come.
        AllTaken = 16,
        /// The server is over its limit of shakes per second.
        Overloaded = 17,
    }
}

codes! {
    /// The `outcome` of a chat receipt.
    ChatOutcome {
        /// Written to the recipient's connection.
        Delivered = 0,
        /// The recipient is not logged in, or does not speak the chat commands.
        Offline = 1,
        /// The server had no room to pass it on.
        Busy = 2,
    }
}

codes! {
    /// The `result` of a create-packet answer.
    CreateResult {
        /// Created; the recipients are told.
        Ok = 0,
        /// Less than a cent a share, no share, or more shares than recipients.
        ImpossibleSplit = 1,
        /// A recipient is beyond the largest user of this server.
        UnknownRecipient = 2,
        /// The server has no room for another packet.
        Busy = 3,
    }
}

codes! {
    /// Why the server closes a connection, the `code` of an error frame.
    ErrorCode {
        /// A length that the command does not allow.
        BadLength = 1,
        /// A command id that does not exist.
        UnknownCommand = 2,
        /// A command that only a server may send.
        WrongDirection = 3,
        /// A frame other than a login on a new connection.
        NotLoggedIn = 4,
        /// A login on a connection that is logged in.
        AlreadyLoggedIn = 5,
        /// The user logged in on another, newer connection.
        Replaced = 6,
        /// Silence before login.
        LoginTimeout = 7,
        /// A frame was begun and not finished.
        FrameTimeout = 8,
        /// The peer does not read what is sent to it.
        NotReading = 9,
    }
}
