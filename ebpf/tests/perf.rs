//! Perf counters of threads, and the files of `/proc` of a namespace, against the real kernel.

mod common;

use std::{
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use common::{Pair, Reaped, needs, pin, wait_for_end_of, wait_until};
use ebpf::{
    perf::{ProcessCounters, ThreadCounters},
    proc::ProcReader,
};
use needs::test;

needs::main!();

fn own_tid() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned()
}

/// CPU time of this thread.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec.cast_unsigned() as u32)
}

/// Uses so much CPU time, however long that takes on a machine with other work.
fn spin(time: Duration) {
    let end = cpu_time() + time;
    while cpu_time() < end {
        std::hint::spin_loop();
    }
}

#[test]
fn a_threads_counters_count_what_it_does() {
    let Some(_turn) = needs(&["root"]) else { return };
    const SLEEPS: u64 = 25;
    const PAGES: usize = 500;
    let mut counters = ThreadCounters::open(own_tid()).expect("own thread");
    let before = counters.read();
    spin(Duration::from_millis(30));
    for _ in 0..SLEEPS {
        thread::sleep(Duration::from_micros(200));
    }
    let mut memory = vec![0_u8; PAGES * 4096];
    for page in memory.chunks_mut(4096) {
        page[0] = 1;
    }
    std::hint::black_box(&memory);
    let cpus = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if cpus > 1 {
        for cpu in [0, 1, 0, 1] {
            pin(cpu);
        }
    }
    let grown = counters.read().since(&before);
    println!("{}", serde_json::to_string(&grown).expect("JSON"));
    // The 30 ms are of another clock of the kernel, which may leave out what interrupts took.
    assert!(grown.task_clock_ns >= Some(20_000_000), "{grown:?}");
    assert!(grown.context_switches >= Some(SLEEPS), "{grown:?}");
    // Large pages may serve many at once.
    assert!(grown.page_faults >= Some(1), "{grown:?}");
    if cpus > 1 {
        assert!(grown.migrations >= Some(3), "{grown:?}");
    }
    match grown.cycles {
        Some(cycles) => {
            assert!(cycles > 0 && grown.instructions > Some(0), "{grown:?}");
            assert!(grown.hardware_share.is_some());
        }
        None => {
            assert!(grown.missing["cycles"].starts_with("not supported"), "{grown:?}");
            assert_eq!(grown.hardware_share, None);
        }
    }
}

#[test]
fn time_on_a_cpu_is_what_the_scheduler_accounts() {
    let Some(_turn) = needs(&["root"]) else { return };
    let reader = ProcReader::default();
    let (pid, tid) = (std::process::id(), own_tid());
    let mut counters = ThreadCounters::open(tid).expect("own thread");
    // A switch brings the scheduler's account up to date.
    let mut both = || {
        thread::sleep(Duration::from_millis(2));
        (counters.read(), reader.threads(pid))
    };
    let before = both();
    // In programs and in the kernel.
    spin(Duration::from_millis(40));
    let end = cpu_time() + Duration::from_millis(80);
    let mut zeros = std::fs::File::open("/dev/zero").expect("zeros");
    let mut buffer = vec![0; 1 << 20];
    while cpu_time() < end {
        std::io::Read::read_exact(&mut zeros, &mut buffer).expect("zeros");
    }
    let after = both();
    let counted_ns = after.0.since(&before.0).task_clock_ns.expect("counted");
    let threads = after.1.since(&before.1).threads.expect("threads");
    let accounted_ns = threads[&tid].ran_ns;
    println!("{counted_ns} ns counted, {accounted_ns} ns accounted");
    // The account leaves out interrupts and stolen time; the two are read one after the other.
    assert!(accounted_ns < counted_ns + 3_000_000, "{counted_ns} {accounted_ns}");
    assert!(accounted_ns > counted_ns / 2, "{counted_ns} {accounted_ns}");
    assert!(counted_ns > 100_000_000, "{counted_ns}");
}

#[test]
fn threads_come_and_go() {
    let Some(_turn) = needs(&["root"]) else { return };
    let pid = std::process::id();
    let mut process = ProcessCounters::open(pid).expect("this process");
    let before = process.read().expect("this process");
    assert!(before.threads.contains_key(&own_tid()), "{before:?}");
    let (tid, tids) = mpsc::channel();
    let (go, gone) = mpsc::channel::<()>();
    let worker = thread::spawn(move || {
        tid.send(own_tid()).expect("the test");
        gone.recv().expect("the test");
        spin(Duration::from_millis(20));
    });
    let tid = tids.recv().expect("the worker");
    let found = process.read().expect("this process");
    assert!(found.threads.contains_key(&tid), "{found:?}");
    go.send(()).expect("the worker");
    worker.join().expect("the worker");
    wait_for_end_of(tid);
    let last = process.read().expect("this process").since(&found);
    assert!(last.threads[&tid].task_clock_ns >= Some(10_000_000), "{last:?}");
    assert_eq!(last.not_counted, 0);
    let after = process.read().expect("this process");
    assert!(!after.threads.contains_key(&tid), "{after:?}");
}

#[test]
fn a_process_that_ends_is_an_error() {
    let Some(_turn) = needs(&["root"]) else { return };
    let mut child = Reaped(Command::new("sleep").arg("60").spawn().expect("sleep"));
    let mut process = ProcessCounters::open(child.0.id()).expect("a child");
    assert_eq!(process.read().expect("a child").threads.len(), 1);
    child.0.kill().expect("killed");
    child.0.wait().expect("reaped");
    let error = process.read().expect_err("it is gone");
    assert_eq!(error, format!("there is no process {}", child.0.id()));
}

#[test]
fn protocols_are_those_of_the_processs_namespace() {
    let Some(_turn) = needs(&["root", "ip"]) else { return };
    let pair = Pair::new("labproc");
    let child = Command::new("ip")
        .args(["netns", "exec", &pair.client, "sleep", "60"])
        .stdout(Stdio::null())
        .spawn();
    let child = Reaped(child.expect("ip"));
    let reader = ProcReader::default();
    // It enters its namespace before it becomes `sleep`.
    let name = format!("/proc/{}/comm", child.0.id());
    wait_until("the child is `sleep`", || {
        std::fs::read_to_string(&name).expect("the child").trim() == "sleep"
    });
    let before = reader.network(Some(child.0.id()));
    assert_eq!(before.counter("Tcp", "ActiveOpens"), Some(0), "{before:?}");
    thread::scope(|scope| {
        scope.spawn(|| {
            Pair::enter(&pair.client);
            for _ in 0..5 {
                assert!(std::net::TcpStream::connect(("127.0.0.1", 1)).is_err());
            }
            let own = reader.network(None).since(&before);
            assert_eq!(own.counter("Tcp", "ActiveOpens"), Some(5), "{own:?}");
        });
    });
    let grown = reader.network(Some(child.0.id())).since(&before);
    assert_eq!(grown.counter("Tcp", "ActiveOpens"), Some(5), "{grown:?}");
    assert_eq!(grown.counter("Tcp", "AttemptFails"), Some(5), "{grown:?}");
}
