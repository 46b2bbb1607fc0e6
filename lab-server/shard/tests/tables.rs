//! Shards that run side by side. A program of its own: what other tests open at the same time would
//! be in the tables, too.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

use platform::Placement;
use rustix::fd::AsRawFd;
use shard::spawn;

#[test]
fn each_shard_has_a_table_of_its_own() {
    let all_open = Arc::new(Barrier::new(4));
    let opened = Arc::new(AtomicUsize::new(0));
    let shards = spawn("test", 4, &Placement::Free, move |context| {
        let (all_open, opened) = (Arc::clone(&all_open), Arc::clone(&opened));
        async move {
            // In one table the numbers would differ, since all are open at the same time.
            let flags = rustix::event::EventfdFlags::CLOEXEC;
            let mine = rustix::event::eventfd(0, flags).expect("room");
            opened.fetch_add(1, Ordering::SeqCst);
            all_open.wait();
            assert_eq!(opened.load(Ordering::SeqCst), 4);
            (context.shard, mine.as_raw_fd())
        }
    })
    .expect("four shards");
    assert_eq!(shards.threads().len(), 4);
    let mut results = shards.join().expect("no panic");
    results.sort_unstable();
    let numbers: Vec<i32> = results.iter().map(|(_, fd)| *fd).collect();
    assert_eq!(results.iter().map(|(shard, _)| *shard).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert!(numbers.iter().all(|fd| *fd == numbers[0]), "{numbers:?}");
}
