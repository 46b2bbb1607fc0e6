//! Frames in both directions: what was decoded is encoded to the same bytes, and the beginning of a
//! frame is never anything else.

use wire::{Decoded, Frame, MAX_FRAME, decode};

/// A stream of frames.
pub(crate) fn wire(bytes: &[u8]) {
    let mut rest = bytes;
    loop {
        match decode(rest) {
            Decoded::Frame { frame, unix_seconds, length } => {
                assert_same(frame, unix_seconds, &rest[..length]);
                rest = &rest[length..];
            }
            Decoded::Incomplete => return,
            Decoded::Malformed(malformed) => {
                let _ = (malformed.code(), malformed.command(), malformed.to_string());
                // What no continuation can make a frame, none does.
                let longer = [rest, &[0; MAX_FRAME]].concat();
                let refused = match decode(&longer) {
                    Decoded::Malformed(_) => true,
                    Decoded::Frame { .. } | Decoded::Incomplete => false,
                };
                assert!(refused, "{malformed}, and then a frame");
                return;
            }
        }
    }
}

fn assert_same(frame: Frame<'_>, unix_seconds: u64, bytes: &[u8]) {
    let mut again = [0; MAX_FRAME];
    assert_eq!(frame.encode(unix_seconds, &mut again), Ok(bytes.len()), "{frame:?}");
    assert_eq!(&again[..bytes.len()], bytes, "{frame:?}");
    let decoded = decode(&again[..bytes.len()]);
    assert_eq!(decoded, Decoded::Frame { frame, unix_seconds, length: bytes.len() });
    for cut in [0, 1, 2, 3, 4, 11, bytes.len() - 1] {
        if cut < bytes.len() {
            assert_eq!(decode(&bytes[..cut]), Decoded::Incomplete, "{cut} bytes of {frame:?}");
        }
    }
    let short = frame.encode(unix_seconds, &mut again[..bytes.len() - 1]);
    assert!(short.is_err(), "{frame:?} in too little room");
}
