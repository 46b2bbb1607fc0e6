//! A run as one file that can be given away, and a directory again.
//!
//! Owns: which files of a run belong together (`contents`), how they are packed (`pack`), what an
//! archive of a stranger must be to be unpacked (`unpack`), and what names a machine (`anonymous`).
//! Must not know: what figures are made of these files, and what a page looks like.

#![warn(clippy::print_stderr, clippy::print_stdout)]

mod anonymous;
mod contents;
mod pack;
mod refused;
mod unpack;

pub use anonymous::{AnonymousError, anonymise};
pub use pack::{PackError, Packed, pack};
pub use refused::Refused;
pub use unpack::{UnpackError, Unpacked, unpack};
