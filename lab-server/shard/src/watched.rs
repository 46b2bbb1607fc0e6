//! What becomes of a shard whose thread does not go on: it is told of, and not waited for.
//!
//! Must not know: what a shard does, and who is told.

use std::any::Any;
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;

thread_local! {
    /// What this thread tells of when it ends, whatever ends it.
    static LAST: RefCell<Option<Watch>> = const { RefCell::new(None) };
}

/// Tells when it is dropped.
struct Watch(Option<Box<dyn FnOnce(String)>>);

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(tell) = self.0.take() {
            tell("its thread has ended: its executor panicked".to_owned());
        }
    }
}

/// Runs a shard on its thread. Where it panics, or its executor does and the thread ends, `lost` is
/// called with why. `None` after a panic.
pub async fn watched<F: Future>(
    shard: F,
    lost: impl FnOnce(String) + 'static,
) -> Option<F::Output> {
    LAST.set(Some(Watch(Some(Box::new(lost)))));
    let mut shard = pin!(shard);
    // A shard that has panicked is not polled again, so nobody sees what it left half done.
    let ended =
        poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| shard.as_mut().poll(context))) {
            Ok(polled) => polled.map(Ok),
            Err(panic) => std::task::Poll::Ready(Err(panic)),
        })
        .await;
    let tell = LAST.take().and_then(|mut watch| watch.0.take());
    match ended {
        Ok(output) => Some(output),
        Err(panic) => {
            let why = format!("it panicked: {}", message(panic.as_ref()));
            tell.into_iter().for_each(|tell| tell(why.clone()));
            None
        }
    }
}

/// What a panic says.
fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or(panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a word")
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Duration;

    use platform::Placement;

    use super::*;
    use crate::executor::{ShardThreads, spawn};

    /// Nothing here takes longer.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// Two shards, each of which is watched, and what is told of them.
    fn two<F>(
        run: impl Fn(usize) -> F + Clone + Send + 'static,
    ) -> (ShardThreads<Option<usize>>, Receiver<(usize, String)>)
    where
        F: Future<Output = usize> + 'static,
    {
        let (tell, told) = channel();
        let threads = spawn("test", 2, &Placement::Free, move |context| {
            let (tell, shard) = (tell.clone(), context.shard);
            let ran = run(shard);
            watched(ran, move |why| tell.send((shard, why)).expect("the test listens"))
        });
        (threads.expect("two shards"), told)
    }

    #[test]
    fn a_shard_that_panics_is_told_of_and_the_others_go_on() {
        let (threads, told) = two(|shard| async move {
            glommio::yield_if_needed().await;
            assert_eq!(shard, 0, "the other one");
            shard
        });
        let (shard, why) = told.recv_timeout(PATIENCE).expect("it is told");
        assert!(shard == 1 && why.contains("panicked") && why.contains("the other one"), "{why}");
        assert_eq!(threads.join().expect("no executor has panicked"), [Some(0), None]);
        assert!(told.try_recv().is_err(), "once, and not of the one that ended in order");
    }

    #[test]
    fn a_thread_that_ends_for_any_other_reason_is_told_of_as_well() {
        let (threads, told) = two(|shard| async move {
            if shard == 1 {
                // As when the executor itself panics: the shard is not under way then, so it
                // cannot say a word.
                let beside = async {
                    glommio::timer::sleep(Duration::from_millis(1)).await;
                    panic!("beside the shard");
                };
                glommio::spawn_local(beside).detach();
                glommio::timer::sleep(PATIENCE).await;
            }
            shard
        });
        let (shard, why) = told.recv_timeout(PATIENCE).expect("it is told");
        assert!(shard == 1 && why.contains("its thread has ended"), "{why}");
        assert!(threads.join().is_err());
    }
}
