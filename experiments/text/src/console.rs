//! What a command says to a person: on standard error what happens, on standard output what it was
//! asked for. The one way to both, for every command.
//!
//! Nobody has to listen. What standard error does not take is gone. When standard output takes no
//! more, nothing more is written to it, nothing is interrupted, and the command learns of it at its
//! end.

use std::fmt::Arguments;
use std::io::{self, Write};
use std::sync::OnceLock;

/// Why standard output takes no more.
static FAILED: OnceLock<io::Error> = OnceLock::new();

/// Says a line on standard error.
#[macro_export]
macro_rules! say {
    ($($words:tt)*) => { $crate::say_line(::std::format_args!($($words)*)) };
}

/// Prints a line on standard output.
#[macro_export]
macro_rules! tell {
    ($($words:tt)*) => { $crate::tell_words!("{}\n", ::std::format_args!($($words)*)) };
}

/// Prints words on standard output.
#[macro_export]
macro_rules! tell_words {
    ($($words:tt)*) => {{
        $crate::tell(::std::format_args!($($words)*));
    }};
}

/// Says a line on standard error; nothing happens when that is closed or full.
pub fn say_line(words: Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{words}");
}

/// Says words on standard error without ending the line.
pub fn say_words(words: &str) {
    let mut out = io::stderr();
    let _ = out.write_all(words.as_bytes()).and_then(|()| out.flush());
}

/// Prints words on standard output. Returns whether they, and all before them, were taken.
pub fn tell(words: Arguments<'_>) -> bool {
    if FAILED.get().is_some() {
        return false;
    }
    let mut out = io::stdout();
    match out.write_fmt(words).and_then(|()| out.flush()) {
        Ok(()) => true,
        Err(error) => {
            // The first error is the one that matters.
            let _ = FAILED.set(error);
            false
        }
    }
}

/// Why standard output did not take everything; `None` when it did, or when its reader has seen
/// enough and closed the pipe.
pub fn output_error() -> Option<&'static io::Error> {
    FAILED.get().filter(|error| error.kind() != io::ErrorKind::BrokenPipe)
}
