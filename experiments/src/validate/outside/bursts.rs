//! A fault in bursts, and the account of what was done. Must not know: what a burst holds.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Bursts of a fault in a run.
pub(super) const BURSTS: u32 = 4;

/// How long each is.
pub(super) const BURST: Duration = Duration::from_millis(250);

/// From the end of one to the beginning of the next.
pub(super) const PAUSE: Duration = Duration::from_millis(1_000);

/// How long a fault is that is not made in bursts.
pub(super) const LONG: Duration = Duration::from_secs(5);

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(in crate::validate) struct Account {
    /// Bursts that were carried out.
    pub(in crate::validate) bursts: u32,
    /// How long they held the end up in all, in milliseconds: by the kernel's own account where it
    /// keeps one.
    pub(in crate::validate) held_ms: u64,
}

/// What keeps a fault from being made.
pub(in crate::validate) type Made = anyhow::Result<Account>;

/// Carries out bursts: `begin`, a while, `end`. A burst that began is ended.
pub(super) fn bursts(
    over: &AtomicBool,
    mut begin: impl FnMut() -> anyhow::Result<()>,
    mut end: impl FnMut() -> anyhow::Result<()>,
) -> Made {
    let mut account = Account::default();
    for _ in 0..BURSTS {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let began = Instant::now();
        let begun = begin();
        if begun.is_ok() {
            std::thread::sleep(BURST);
        }
        end()?;
        begun?;
        account.bursts += 1;
        account.held_ms += began.elapsed().as_millis() as u64;
        std::thread::sleep(PAUSE);
    }
    Ok(account)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_begun_is_ended_also_when_it_fails() {
        let (over, mut ended) = (AtomicBool::new(false), 0);
        let failed = bursts(
            &over,
            || anyhow::bail!("no"),
            || {
                ended += 1;
                Ok(())
            },
        );
        assert_eq!((failed.is_err(), ended), (true, 1));
        let none = bursts(&AtomicBool::new(true), || Ok(()), || Ok(())).expect("none");
        assert_eq!(none, Account::default());
    }
}
