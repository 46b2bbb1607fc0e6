//! Spools: batches survive the process, a full disk and its end; what is merged leaves the disk.

use super::*;
use host::program::Who;

fn run(name: &str) -> RunName {
    name.to_owned().try_into().expect("a name")
}

fn line(text: &str) -> Vec<Said> {
    vec![Said::Line { who: Who::Server, line: text.to_owned() }]
}

fn text(spool: &Spool, number: u64) -> Option<String> {
    let batch: Batch = serde_json::from_slice(&spool.read(number)?).expect("a batch");
    assert_eq!(batch.number, number);
    match batch.said.into_iter().next() {
        Some(Said::Line { line, .. }) => Some(line),
        other => panic!("{other:?}"),
    }
}

#[test]
fn batches_are_kept_until_they_are_merged_and_found_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let name = run("run");
    let mut spool = Spool::create(directory.path(), &name).expect("new");
    assert_eq!((spool.written(), spool.read(1)), (0, None));
    for text in ["a", "b\n", "c"] {
        assert_eq!(spool.push(line(text)), None);
    }
    assert_eq!(text(&spool, 2).as_deref(), Some("b\n"));
    spool.merged(2);
    assert_eq!((text(&spool, 2), text(&spool, 3).as_deref()), (None, Some("c")));
    assert!(Spool::create(directory.path(), &name).is_err());
    assert_eq!(spool.push(line("d")), None);
    assert_eq!(spool.written(), 4);
    drop(spool);

    // Killed in the middle of a line.
    let path = path(directory.path(), &name);
    let mut file = OpenOptions::new().append(true).open(&path).expect("there");
    file.write_all(b"{\"number\":5,\"sa").expect("written");
    assert_eq!(Spool::kept(directory.path()), std::slice::from_ref(&name));
    let mut opened = Spool::open(directory.path(), &name, 0).expect("there");
    assert_eq!((opened.written(), text(&opened, 1).as_deref()), (4, Some("a")));
    assert_eq!(opened.push(line("e")), None);
    assert_eq!(text(&opened, 5).as_deref(), Some("e"));
    opened.remove().expect("removed");
    assert!(Spool::kept(directory.path()).is_empty());
}

#[test]
fn what_is_merged_leaves_the_disk() {
    let directory = tempfile::tempdir().expect("a directory");
    let name = run("run");
    let mut spool = Spool::create(directory.path(), &name).expect("new");
    let size = || path(directory.path(), &name).metadata().expect("there").blocks() * BLOCK;
    let long = "x".repeat(100 << 10);
    for number in 1..=40_u64 {
        assert_eq!(spool.push(line(&long)), None);
        // Never all of it at once.
        spool.merged(number - 1);
        assert!(size() < 2 * CUT + (200 << 10), "{} bytes after {number}", size());
    }
    assert_eq!(text(&spool, 40), Some(long.clone()));
    // Found again behind the hole, with what comes after.
    assert_eq!(spool.push(line("41")), None);
    drop(spool);
    let mut spool = Spool::open(directory.path(), &name, 0).expect("there");
    assert!(spool.first() > 1 && spool.begin > 0, "{} is the first", spool.first());
    assert_eq!((spool.written(), text(&spool, 40)), (41, Some(long)));
    assert_eq!(text(&spool, 41).as_deref(), Some("41"));
    spool.merged(39);
    assert!(size() < 2 * CUT, "{} bytes", size());
    spool.merged(41);
    assert_eq!(size(), 0);
    assert_eq!(spool.push(line("next")), None);
    drop(spool);
    let opened = Spool::open(directory.path(), &name, 41).expect("there");
    assert_eq!((opened.first(), opened.written()), (42, 42));
    drop(opened);

    // Where nothing is left, numbers go on from what is merged.
    let mut opened = Spool::open(directory.path(), &name, 42).expect("there");
    assert!(opened.is_empty());
    assert_eq!(opened.push(line("after")), None);
    assert_eq!(opened.written(), 43);
    // A coordinator that has merged what was never said changes nothing.
    opened.merged(u64::MAX);
    assert_eq!(opened.written(), 43);
}

#[test]
fn what_is_merged_is_given_back_without_copying_the_rest() {
    let directory = tempfile::tempdir().expect("a directory");
    let name = run("run");
    let mut spool = Spool::create(directory.path(), &name).expect("new");
    let long = "x".repeat(1 << 20);
    (0..8).for_each(|_| assert_eq!(spool.push(line(&long)), None));
    let file = || path(directory.path(), &name).metadata().expect("there");
    let (inode, length) = (file().ino(), file().len());
    spool.merged(5);
    assert_eq!((file().ino(), file().len()), (inode, length), "the same file, with a hole");
    assert!(file().blocks() * BLOCK < 4 << 20, "{} blocks", file().blocks());
    assert_eq!(std::fs::read_dir(directory.path()).expect("there").count(), 1, "and no copy");
    // What is counted against its bound is what it takes.
    assert!(spool.end - spool.begin < 4 << 20);
    assert_eq!(files(directory.path())[0].1, file().blocks() * BLOCK);
    assert_eq!(text(&spool, 6), Some(long));
}

/// A spool whose file cannot be written to, as on a full disk.
fn without_room(directory: &Path, most_in_memory: usize) -> Spool {
    let mut spool = Spool::create(directory, &run("run")).expect("new");
    // Reads come from the real file, writes go where there is never room.
    spool.file = OpenOptions::new().append(true).open("/dev/full").expect("there");
    spool.most_in_memory = most_in_memory;
    spool
}

/// There is room again.
fn with_room(spool: &mut Spool) {
    let mut options = OpenOptions::new();
    spool.file = options.read(true).append(true).open(&spool.path).expect("there");
    spool.torn = false;
}

#[test]
fn without_room_batches_wait_in_memory_and_are_written_when_there_is_some() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut spool = without_room(directory.path(), 1 << 20);
    let news = spool.push(line("a")).expect("said once");
    assert!(news.contains("run.spool: No space left on device"), "{news}");
    assert_eq!(spool.push(line("b")), None);
    assert_eq!((text(&spool, 1).as_deref(), text(&spool, 2).as_deref()), (Some("a"), Some("b")));
    // Sent and merged from memory: nothing of it is ever on disk.
    spool.merged(1);
    assert_eq!(spool.push(line("c")), None);
    with_room(&mut spool);
    let news = spool.write_waiting().expect("said once");
    assert!(news.ends_with("run.spool: there is room again"), "{news}");
    assert_eq!(spool.write_waiting(), None);
    assert_eq!(spool.in_memory, 0);
    assert_eq!(text(&spool, 3).as_deref(), Some("c"));
    drop(spool);
    let opened = Spool::open(directory.path(), &run("run"), 0).expect("there");
    assert_eq!((opened.first(), opened.written()), (2, 3), "a gap says that the first was merged");
    assert_eq!(text(&opened, 2).as_deref(), Some("b"));
}

#[test]
fn what_has_no_room_in_memory_either_is_counted() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut spool = without_room(directory.path(), 400);
    assert!(spool.push(line(&"x".repeat(200))).is_some());
    let news = spool.push(line(&"y".repeat(200))).expect("said once");
    assert!(news.contains("what comes now is lost"), "{news}");
    assert_eq!(spool.push(line(&"z".repeat(200))), None);
    assert_eq!(spool.written(), 1, "numbers have no gap");
    with_room(&mut spool);
    let news = spool.push(line("c")).expect("said once");
    assert!(news.contains("room again; 2 items had no room"), "{news}");
    assert_eq!((spool.written(), text(&spool, 2).as_deref()), (2, Some("c")));
}

#[test]
fn what_an_interrupted_write_left_is_cut_off() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut spool = Spool::create(directory.path(), &run("run")).expect("new");
    assert_eq!(spool.push(line("a")), None);
    spool.file.write_all(b"{\"number\":2,\"sa").expect("as a write that was cut short");
    spool.torn = true;
    assert_eq!(spool.push(line("b")), None);
    drop(spool);
    let opened = Spool::open(directory.path(), &run("run"), 0).expect("there");
    assert_eq!(text(&opened, 2).as_deref(), Some("b"));
}

#[test]
fn what_nobody_asks_for_goes_after_a_week() {
    let directory = tempfile::tempdir().expect("a directory");
    for name in ["old", "used"] {
        Spool::create(directory.path(), &run(name)).expect("new").push(line("a"));
    }
    std::fs::write(directory.path().join("not a run.spool"), "x").expect("written");
    let in_use = |it: &RunName| *it == run("used");
    let now = SystemTime::now();
    assert!(Spool::expire(directory.path(), in_use, now).is_empty());
    let gone = Spool::expire(directory.path(), in_use, now + KEEP + Duration::from_secs(60));
    let [(name, what)] = &gone[..] else { panic!("{gone:?}") };
    assert_eq!(*name, run("old"));
    assert!(what.contains("old.spool") && what.contains("168 h"), "{what}");
    assert_eq!(Spool::kept(directory.path()), [run("used")]);
    assert!(directory.path().join("not a run.spool").exists());
}
