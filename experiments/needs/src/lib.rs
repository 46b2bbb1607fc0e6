//! What a test needs of the machine: root, a program, a device. A test without it is skipped, and
//! `cargo test` shows that as `ignored`, with the reason, and counts it. Must not know what is
//! tested.
//!
//! libtest cannot ignore a test that runs already. So a file with such tests has `harness = false`
//! in its crate's manifest, and:
//!
//! ```ignore
//! use needs::test;
//!
//! needs::main!();
//!
//! #[test]
//! fn probes_count() {
//!     if !needs::root() {
//!         return;
//!     }
//!     // …
//! }
//! ```

use std::cell::RefCell;
use std::io::Write;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

#[doc(hidden)]
pub use inventory;
pub use needs_macros::test;

/// Names needs, with commas between them: where one of these is missing, a test fails.
const REQUIRE: &str = "LAB_TEST_REQUIRE";

thread_local! {
    /// What the test of this thread was found to need; none outside of [`run`] and [`alone`].
    static MISSING: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// A test that registered itself.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Test {
    /// The module that it stands in.
    pub module: &'static str,
    /// Its name there.
    pub name: &'static str,
    /// Carries it out.
    pub run: fn(),
}

inventory::collect!(Test);

/// The `main` of a file whose tests may be skipped.
#[macro_export]
macro_rules! main {
    () => {
        fn main() -> ::std::process::ExitCode {
            $crate::run()
        }
    };
}

/// Whether a test can be made here: `has` says whether the machine has what it needs. Without it
/// the test is skipped, which is shown and counted when it returns.
///
/// # Panics
/// Where `LAB_TEST_REQUIRE` names the need: then its absence is a failure.
#[track_caller]
#[must_use]
pub fn can(need: &str, has: bool) -> bool {
    if has {
        return true;
    }
    let required = std::env::var(REQUIRE).unwrap_or_default();
    let required = required.split([',', ' ']).any(|name| name == need);
    assert!(!required, "needs {need}, which {REQUIRE} names");
    let counted = MISSING.with_borrow_mut(|missing| match missing {
        Some(missing) => {
            missing.push(need.to_owned());
            true
        }
        None => false,
    });
    if !counted {
        // libtest counts this test as passed. It does not capture what is written past `eprint!`.
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("a test");
        let _ = writeln!(std::io::stderr(), "skipped: {test}: needs {need}");
    }
    false
}

/// Whether a test that needs root can be made.
#[track_caller]
#[must_use]
pub fn root() -> bool {
    can("root", rustix::process::geteuid().is_root())
}

/// Whether a test that needs a program can be made; `need` is its name in `LAB_TEST_REQUIRE`.
#[track_caller]
#[must_use]
pub fn program(need: &str, program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    can(need, std::env::split_paths(&path).any(|directory| directory.join(program).exists()))
}

/// Runs the tests of this program as libtest would, each on a thread of its own.
#[must_use]
pub fn run() -> ExitCode {
    let mut tests: Vec<Trial> = inventory::iter::<Test>
        .into_iter()
        .map(|test| {
            let module = test.module.split_once("::").map_or("", |(_, module)| module);
            let name = [module, test.name].join(if module.is_empty() { "" } else { "::" });
            let thread = std::thread::Builder::new().name(name.clone());
            Trial::ignorable_test(name, || match thread.spawn(|| ended(test.run)) {
                Ok(running) => {
                    running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                }
                Err(error) => Err(format!("no thread for it: {error}").into()),
            })
        })
        .collect();
    tests.sort_by(|one, other| one.name().cmp(other.name()));
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}

/// Runs one test on the calling thread: for a program whose process must have no other, or which
/// is a benchmark, too.
#[must_use]
pub fn alone(name: &str, test: impl FnOnce() + Send + 'static) -> ExitCode {
    let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    let test = Trial::ignorable_test(name, || ended(test));
    libtest_mimic::run(&arguments, vec![test]).exit_code()
}

/// Carries out a test of this thread, and says whether it was skipped.
fn ended(test: impl FnOnce()) -> Result<Completion, Failed> {
    MISSING.set(Some(Vec::new()));
    test();
    let missing = MISSING.take().unwrap_or_default();
    if missing.is_empty() {
        return Ok(Completion::Completed);
    }
    Ok(Completion::ignored_with(format!("needs {}", missing.join(", "))))
}
