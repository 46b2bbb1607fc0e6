//! Waiting for a CPU: which thread held it, and for how long, compared with the kernel's own
//! figures.

mod common;

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    os::unix::process::CommandExt,
    process::Command,
    thread,
    time::Duration,
};

use attribution::{Doing, Turn};
use common::{Reaped, ask, connect, listen, needs, pin, port, serve, wait_until};
use ebpf::{Options, Probes, Profiler, Program, Stack, Thread};
use needs::test;

needs::main!();

const SIZE: usize = 24;

/// Only this process is watched, whatever else uses such a port.
fn options(port: u16) -> Options {
    Options { learn_server: false, learn_clients: false, ..Options::of_port(port) }
}

/// The kernel's own account of a thread.
#[derive(Clone, Copy, Debug)]
struct SchedulerTimes {
    ran_ns: u64,
    waited_ns: u64,
    switches_voluntary: u64,
    switches_involuntary: u64,
}

impl SchedulerTimes {
    fn of(tid: u32) -> Self {
        let read = |name| {
            let path = format!("/proc/self/task/{tid}/{name}");
            std::fs::read_to_string(path).expect(name)
        };
        let schedstat = read("schedstat");
        let mut times = schedstat.split_whitespace().map(|it| it.parse().expect("a number"));
        let status = read("status");
        let count = |name| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect(name);
            line.trim().parse().expect("a number")
        };
        Self {
            ran_ns: times.next().expect("ran"),
            waited_ns: times.next().expect("waited"),
            switches_voluntary: count("voluntary_ctxt_switches:"),
            switches_involuntary: count("nonvoluntary_ctxt_switches:"),
        }
    }

    fn since(self, before: Self) -> Self {
        Self {
            ran_ns: self.ran_ns - before.ran_ns,
            waited_ns: self.waited_ns - before.waited_ns,
            switches_voluntary: self.switches_voluntary - before.switches_voluntary,
            switches_involuntary: self.switches_involuntary - before.switches_involuntary,
        }
    }
}

fn tid() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned()
}

fn monotonic_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// CPU time of this thread.
fn cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// A process that takes CPU 0 for itself as far as it is let.
fn hog() -> Reaped {
    let mut command = Command::new("sh");
    command.args(["-c", "while :; do :; done"]);
    // SAFETY: only a system call between fork and exec.
    unsafe {
        command.pre_exec(|| {
            pin(0);
            Ok(())
        });
    }
    Reaped(command.spawn().expect("a hog"))
}

/// Works and sleeps on CPU 0 for a while; returns the thread's two accounts of it.
fn worked(probes: &Probes, milliseconds: u64) -> (Thread, SchedulerTimes, Vec<Turn>) {
    pin(0);
    let tid = tid();
    // The first switches make the thread known.
    thread::sleep(Duration::from_millis(20));
    let slot = probes.threads().slot_of(tid).expect("a watched thread");
    let books = || {
        thread::yield_now();
        (probes.threads().thread(slot, monotonic_ns()).expect("an entry"), SchedulerTimes::of(tid))
    };
    let (before, kernel_before) = books();
    let end = monotonic_ns() + milliseconds * 1_000_000;
    // Longer than any slice: a thread that waits for the CPU gets it anyway.
    let cpu_end = cpu_ns() + 100_000_000;
    while cpu_ns() < cpu_end {
        std::hint::spin_loop();
    }
    while monotonic_ns() < end {
        let busy_until = monotonic_ns() + 1_000_000;
        while monotonic_ns() < busy_until {
            std::hint::spin_loop();
        }
        thread::sleep(Duration::from_micros(200));
    }
    let (after, kernel) = books();
    let turns = probes.timelines().turns(slot, end - milliseconds * 1_000_000, end);
    (after.since(&before), kernel.since(kernel_before), turns)
}

/// What the hypervisor and interrupts took of all CPUs so far, to a tick of the clock.
fn taken_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/stat").expect("stat");
    let all = stat.lines().next().expect("all CPUs").split_whitespace().skip(1);
    // user nice system idle iowait irq softirq steal
    let ticks: u64 = all.skip(5).take(3).map(|it| it.parse::<u64>().expect("a number")).sum();
    ticks * (1_000_000_000 / rustix::param::clock_ticks_per_second())
}

fn assert_close(what: &str, ours: u64, kernels: u64, share: f64) {
    let off = (ours as f64 - kernels as f64).abs() / kernels as f64;
    println!("{what}: {ours} here, {kernels} in the kernel's books, {:.2}% off", off * 100.0);
    assert!(off < share, "{what}: {ours} against {kernels}");
}

#[test]
fn a_hog_on_the_same_cpu_is_foreign_waiting() {
    let Some(_turn) = needs(&["root"]) else { return };
    let probes = Probes::attach(&options(port(1))).expect("probes");
    probes.watch(std::process::id(), Program::Server);
    let hog = hog();
    let worker = |probes: &Probes| {
        thread::scope(|scope| scope.spawn(|| worked(probes, 2000)).join().expect("the worker"))
    };
    let before = taken_ns();
    let (thread, books, turns) = worker(&probes);
    let taken_ns = taken_ns() - before;
    let ours = thread.wait_foreign_ns + thread.wait_own_ns;
    assert_close("waited", ours, books.waited_ns, 0.05);
    // Time that the hypervisor steals is running time here, and none in the kernel's books; time
    // of interrupts is neither, where the kernel counts it apart.
    let without = thread.ran_ns.saturating_sub(taken_ns).max(thread.ran_ns.min(books.ran_ns));
    assert_close("ran", without, books.ran_ns, 0.25);
    assert!(books.waited_ns > 300_000_000, "the hog took nothing: {books:?}");
    assert!(thread.wait_own_ns * 20 < thread.wait_foreign_ns, "{thread:?}");
    assert!(thread.runqueue_delay.count() > 0, "{thread:?}");
    // How often a thread is made to go is the scheduler's affair, but both must know of it.
    assert!(books.switches_voluntary > 0 && books.switches_involuntary > 0, "{books:?}");
    assert_close("let go", thread.switches_voluntary, books.switches_voluntary, 0.05);
    assert_close("made to go", thread.switches_involuntary, books.switches_involuntary, 0.25);
    // Others may hog the CPU too, when the machine has other work.
    println!("turns: {turns:?}");
    let by_hog = turns.iter().find(|turn| turn.pid == hog.0.id()).expect("the hog's turns");
    assert!(by_hog.ns > 50_000_000 && by_hog.of.is_none(), "{turns:?}");
}

#[test]
fn another_thread_of_the_same_program_is_own_waiting() {
    let Some(_turn) = needs(&["root"]) else { return };
    let probes = Probes::attach(&options(port(2))).expect("probes");
    probes.watch(std::process::id(), Program::Server);
    let end = monotonic_ns() + 2_500_000_000;
    let cpu = || probes.read().cpus.expect("who held the CPUs")[0];
    let before = cpu();
    let (thread, books, _) = thread::scope(|scope| {
        scope.spawn(move || {
            pin(0);
            while monotonic_ns() < end {
                std::hint::spin_loop();
            }
        });
        scope.spawn(|| worked(&probes, 2000)).join().expect("the worker")
    });
    let waited = books.waited_ns;
    assert_close("waited", thread.wait_foreign_ns + thread.wait_own_ns, waited, 0.05);
    assert!(waited > 300_000_000, "the other thread took nothing: {waited} ns");
    // Whatever else runs on this machine has its part; the rest is the other thread's.
    let held = cpu().since(&before);
    let others = held.other_ns + held.clients_ns + held.idle_ns;
    assert!(thread.wait_foreign_ns <= others, "{held:?} {thread:?}");
    assert!(thread.wait_own_ns + others >= waited / 20 * 19, "{held:?} {thread:?}");
    assert!(thread.wait_own_ns <= held.server_ns, "{held:?} {thread:?}");
}

#[test]
fn a_request_that_waited_for_a_cpu_says_so() {
    let Some(_turn) = needs(&["root"]) else { return };
    let port = port(3);
    let probes = Probes::attach(&options(port)).expect("probes");
    probes.watch(std::process::id(), Program::Server);
    let (listener, address) = listen(Ipv4Addr::LOCALHOST, port);
    let server = thread::spawn(move || {
        // The threads of its connections inherit the CPU.
        pin(0);
        serve(&listener, 1, SIZE);
    });
    pin(1);
    let from = SocketAddrV4::new(Ipv4Addr::new(127, 0, 1, 9), 20_300);
    let mut stream = connect(from, address);
    let _hogs = [hog(), hog()];
    let (mut slow, mut explained) = (0, 0);
    let end = monotonic_ns() + 4_000_000_000;
    while monotonic_ns() < end {
        ask(&mut stream, SIZE).expect("an answer");
        let request = probes.flows().request(from).expect("a request");
        let segments = request.segments().expect("all instants");
        if segments.server_wait_ns > 500_000 {
            slow += 1;
            let (ready, read) = (request.server_ready_ns, request.server_read_ns);
            let (ready_ns, read_ns) = (ready.expect("T2"), read.expect("T3"));
            let spent = probes.timelines().spent(request.server_slot, ready_ns, read_ns);
            let part = spent[Doing::WaitOther] as f64 / segments.server_wait_ns as f64;
            explained += i32::from(part > 0.9);
        }
        thread::sleep(Duration::from_micros(300));
    }
    drop(stream);
    server.join().expect("the server");
    println!("{explained} of {slow} slow requests waited for the hogs' CPU");
    assert!(slow > 5, "the hogs made only {slow} requests slow");
    // Not all: a switch away from a task that the kernel hides from probes is not seen, and what
    // the hypervisor takes belongs to no thread.
    assert!(explained * 100 >= slow * 75, "{explained} of {slow}");
}

/// A process that asks `from` again and again, for as long as it lives.
fn asking_child(from: SocketAddrV4, to: SocketAddrV4) -> Reaped {
    let script = format!(
        "import socket,time\ns=socket.socket()\ns.setsockopt(1,2,1)\ns.bind(('{}',{}))\n\
         s.connect(('{}',{}))\nwhile 1:\n s.sendall(b'x'*{SIZE})\n n=0\n \
         while n<{SIZE}: n+=len(s.recv({SIZE}-n))\n time.sleep(.001)",
        from.ip(),
        from.port(),
        to.ip(),
        to.port()
    );
    Reaped(Command::new("python3").args(["-c", &script]).spawn().expect("a client"))
}

#[test]
fn a_stopped_thread_says_how_long_and_who_stopped_it() {
    let Some(_turn) = needs(&["root", "python3"]) else { return };
    let port = port(4);
    let probes = Probes::attach(&options(port)).expect("probes");
    let (listener, address) = listen(Ipv4Addr::LOCALHOST, port);
    let server = thread::spawn(move || serve(&listener, 1, SIZE));
    let from = SocketAddrV4::new(Ipv4Addr::new(127, 0, 1, 9), 20_400);
    let child = asking_child(from, address);
    let pid = child.0.id();
    probes.watch(pid, Program::Client(0));
    let slot = || probes.flows().request(from).map_or(0, |request| request.client_slot);
    wait_until("the client's thread is known", || slot() != 0);
    // A timeline begins with its first checkpoint.
    let known = || probes.timelines().spent(slot(), monotonic_ns() - 1, monotonic_ns());
    wait_until("its timeline has begun", || known()[Doing::Unknown] == 0);
    thread::sleep(Duration::from_millis(20));
    let process = rustix::process::Pid::from_raw(pid.cast_signed()).expect("a process");
    let from_ns = monotonic_ns();
    let kill = |signal| rustix::process::kill_process(process, signal).expect("a signal");
    kill(rustix::process::Signal::STOP);
    thread::sleep(Duration::from_millis(200));
    kill(rustix::process::Signal::CONT);
    let to_ns = monotonic_ns();
    wait_until("it runs again", || {
        probes.flows().request(from).is_some_and(|request| request.sent_ns > to_ns)
    });
    let spent = probes.timelines().spent(slot(), from_ns, to_ns);
    println!("{spent:?}");
    assert_eq!(spent.total_ns(), to_ns - from_ns);
    assert!(spent[Doing::Stopped] * 10 > spent.total_ns() * 9, "{spent:?}");
    let stops = probes.read().stops.expect("stops");
    let stop = stops.iter().find(|stop| stop.pid == pid).expect("the signal");
    assert_eq!((stop.sender_pid, stop.signal), (std::process::id(), 19));
    drop(child);
    server.join().expect("the server");
}

#[test]
fn the_profile_finds_the_function_that_spins() {
    let Some(_turn) = needs(&["root"]) else { return };
    let profiler = Profiler::start(99).expect("a profile");
    profiler.watch(std::process::id());
    let before = taken_ns();
    // A second of CPU, however long that takes on a machine with other work.
    let end = cpu_ns() + 1_000_000_000;
    while cpu_ns() < end {
        std::hint::spin_loop();
    }
    // The hypervisor's part of the second has no samples; or it is not of the second, and has.
    let taken = (taken_ns() - before) as f64 / 1e9;
    let profile = profiler.read().expect("samples");
    let own = profile.samples.iter().filter(|sample| sample.tid == tid());
    let counts: Vec<_> = own.clone().map(|sample| sample.count).collect();
    let total: u64 = counts.iter().sum();
    println!("{total} samples at 99 Hz, {taken} s were taken");
    let (least, most) = (70.0 * (1.0 - taken), 130.0 * (1.0 + taken));
    assert!((least..=most).contains(&(total as f64)), "{total} samples, {taken} s were taken");
    let mut user = own.map(|sample| &sample.user);
    assert!(user.any(|it| matches!(it, Stack::Known(it) if !it.is_empty())), "{profile:?}");
    assert!(profile.samples.iter().all(|sample| sample.pid == std::process::id()));
}

#[test]
fn a_family_of_short_processes_is_followed_and_its_slots_come_back() {
    let Some(_turn) = needs(&["root", "sh"]) else { return };
    // More than there are slots, in parts: no part takes long, whatever else the machine does.
    const PARTS: usize = 15;
    const PROCESSES: usize = 100;
    let mut probes = Probes::attach(&Options { follow: true, ..options(port(6)) }).expect("probes");
    let script = format!(
        "while read go; do i=0; while [ $i -lt {PROCESSES} ]; do (exit 0); i=$((i+1)); done; done"
    );
    let mut shell = Command::new("sh");
    let shell = shell.args(["-c", &script]).stdin(std::process::Stdio::piped());
    let mut shell = Reaped(shell.spawn().expect("a shell"));
    let pid = shell.0.id();
    probes.watch(pid, Program::Server);
    let mut said = shell.0.stdin.take().expect("piped");
    let mut seen = std::collections::HashSet::new();
    for part in 1..=PARTS {
        std::io::Write::write_all(&mut said, b"go\n").expect("the shell");
        wait_until(&format!("all of part {part} have been seen to end"), || {
            let reading = probes.read();
            let threads = reading.threads.as_ref().expect("threads");
            seen.extend(threads.iter().filter(|it| it.ended).map(|it| it.pid));
            probes.reuse_slots(&reading).expect("slots");
            assert_eq!(reading.lost.threads, 0, "{} have been seen", seen.len());
            seen.len() == part * PROCESSES
        });
    }
    // The dead are gone, and their numbers are nobody's.
    let threads = probes.read().threads.expect("threads");
    assert!(threads.iter().all(|it| it.pid == pid), "{threads:?}");
    assert!(!seen.contains(&pid));
}
