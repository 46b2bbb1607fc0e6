//! Reading the kernel's structures, and the settings.

use core::{ffi::c_void, mem::MaybeUninit, ptr};

use aya_ebpf::helpers::{bpf_probe_read_kernel, bpf_skc_to_tcp_sock};
use events::{ABSENT, Config, Side};

/// Written by the loader, frozen before the first program is verified.
#[unsafe(no_mangle)]
pub(crate) static CONFIG: Shared<Config> = Shared(MaybeUninit::new(Config::EMPTY));

/// Keeps the compiler from folding the value it sees here into the code.
#[repr(transparent)]
pub(crate) struct Shared<T>(pub(crate) MaybeUninit<T>);

// SAFETY: read-only for the programs.
unsafe impl<T> Sync for Shared<T> {}

/// A field of [`CONFIG`]. One load, whose value the verifier knows.
macro_rules! config {
    ($($field:ident).+ $([$index:literal])*) => {
        // SAFETY: the field lies within the global, which always holds a valid `Config`.
        unsafe {
            core::ptr::read_volatile(
                &raw const (*$crate::kernel::CONFIG.0.as_ptr()).$($field).+ $([$index])*
            )
        }
    };
}
pub(crate) use config;

/// A pointer the kernel handed over, with its type known to the verifier.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Object(*const c_void);

impl Object {
    pub(crate) const fn new(pointer: *const c_void) -> Self {
        Self(pointer)
    }

    pub(crate) fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// The pointer as a number, to tell objects apart.
    pub(crate) fn address(self) -> u64 {
        self.0 as u64
    }

    /// A field, by its offset from [`CONFIG`].
    #[inline(always)]
    pub(crate) fn field<T: Copy>(self, offset: u32) -> T {
        // SAFETY: the verifier checks offset and width against the type's BTF, and a load that
        // faults reads zero. Volatile, so that loads are neither merged nor widened.
        unsafe { ptr::read_volatile(self.0.cast::<u8>().add(offset as usize).cast::<T>()) }
    }

    /// A field that points to another object.
    #[inline(always)]
    pub(crate) fn object(self, offset: u32) -> Self {
        Self(self.field::<*const c_void>(offset))
    }

    /// A field that points to another object; null, and not read, when `wanted` is 0.
    #[inline(always)]
    pub(crate) fn object_or(self, offset: u32, wanted: u32) -> Self {
        if wanted == 0 { Self(ptr::null()) } else { self.object(offset) }
    }

    /// Bytes at an offset, where the verifier knows no type. `None` if they cannot be read.
    #[inline(always)]
    pub(crate) fn copy<T>(self, offset: u32) -> Option<T> {
        // SAFETY: the helper checks the address.
        unsafe { bpf_probe_read_kernel(self.0.cast::<u8>().add(offset as usize).cast::<T>()).ok() }
    }
}

/// Whether a network namespace is the one that is watched.
#[inline(always)]
pub(crate) fn in_namespace(namespace: Object) -> bool {
    let wanted = config!(netns);
    wanted == 0 || namespace.field::<u32>(config!(offsets.net_inum)) == wanted
}

/// A socket.
#[derive(Clone, Copy)]
pub(crate) struct Socket(pub(crate) Object);

impl Socket {
    /// Which end of a connection of the experiment's port this is.
    #[inline(always)]
    pub(crate) fn side(self) -> Option<Side> {
        let port = config!(port);
        let num: u16 = self.0.field(config!(offsets.skc_num));
        let side = if num == port {
            if config!(server_end) == 0 {
                return None;
            }
            Side::Server
        } else {
            let dport: u16 = self.0.field(config!(offsets.skc_dport));
            if dport != port.to_be() {
                return None;
            }
            Side::Client
        };
        if self.is_watched(side) { Some(side) } else { None }
    }

    /// Whether it is one of the port's, in whatever network namespace.
    #[inline(always)]
    pub(crate) fn has_port(self) -> bool {
        (config!(server_end) != 0 && self.own_port() == config!(port))
            || self.peer_port() == config!(port)
    }

    /// As [`Self::side`], also of a socket that has been closed and lost its number.
    #[inline(always)]
    pub(crate) fn side_of_closed(self) -> Option<Side> {
        if self.own_port() != 0 || config!(offsets.inet_sport) == ABSENT {
            return self.side();
        }
        let side = if self.port_before() == config!(port) {
            Side::Server
        } else if self.peer_port() == config!(port) {
            Side::Client
        } else {
            return None;
        };
        if self.is_watched(side) { Some(side) } else { None }
    }

    /// Its own port, host byte order, also after it has been closed.
    #[inline(always)]
    pub(crate) fn port_before(self) -> u16 {
        let port: u16 = self.0.copy(config!(offsets.inet_sport)).unwrap_or_default();
        u16::from_be(port)
    }

    /// Whether it is one of the network namespace and of the server's address that are watched.
    #[inline(always)]
    fn is_watched(self, side: Side) -> bool {
        if !in_namespace(self.0.object_or(config!(offsets.skc_net), config!(netns))) {
            return false;
        }
        let server = matches!(side, Side::Server);
        match config!(address_family) {
            4 => {
                let offset = if server {
                    config!(offsets.skc_rcv_saddr)
                } else {
                    config!(offsets.skc_daddr)
                };
                self.0.field::<u32>(offset) == config!(address[3])
            }
            6 => {
                let offset = if server {
                    config!(offsets.skc_v6_rcv_saddr)
                } else {
                    config!(offsets.skc_v6_daddr)
                };
                let own: [u32; 4] = self.0.copy(offset).unwrap_or_default();
                own[0] == config!(address[0])
                    && own[1] == config!(address[1])
                    && own[2] == config!(address[2])
                    && own[3] == config!(address[3])
            }
            _ => true,
        }
    }

    /// Whether it belongs to the network namespace that is watched.
    #[inline(always)]
    pub(crate) fn in_namespace(self) -> bool {
        in_namespace(self.0.object_or(config!(offsets.skc_net), config!(netns)))
    }

    /// The port of the other end, host byte order.
    #[inline(always)]
    pub(crate) fn peer_port(self) -> u16 {
        u16::from_be(self.0.field(config!(offsets.skc_dport)))
    }

    /// Its own port, host byte order.
    #[inline(always)]
    pub(crate) fn own_port(self) -> u16 {
        self.0.field(config!(offsets.skc_num))
    }

    /// The socket as a TCP socket; a null object if it is none.
    #[inline(always)]
    pub(crate) fn tcp(self) -> Object {
        // SAFETY: the helper checks state and protocol, and returns null for anything else.
        Object(unsafe { bpf_skc_to_tcp_sock(self.0.0.cast_mut()) }.cast_const().cast())
    }
}

/// `rcv_nxt`, `copied_seq` and the like: whether `later` is after `earlier` in the stream.
#[inline(always)]
pub(crate) fn after(later: u32, earlier: u32) -> bool {
    later.wrapping_sub(earlier).cast_signed() > 0
}
