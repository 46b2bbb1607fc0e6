//! What the probes cost: CPU per request, probes off and on in turn, and the two compared.
//!
//! `cost [CONNECTIONS [REQUESTS_PER_SECOND [ROUNDS]]]`, as root. A server on CPU 0 and a client on
//! CPU 1, a thread each; a round is a second without and a second with the probes, neighbours in
//! time, so that a disturbed machine disturbs both. CPU is what the kernel's books have for the two
//! threads, their softirqs included. `ABSENT` in the environment names probes to leave out, and
//! `SOFTIRQS` asks for those that are left out of a run by default. At the
//! end, what each probe takes by the kernel's own account (`kernel.bpf_stats_enabled`, put back
//! afterwards): that account costs something itself, and leaves out the call of the probe.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, sleep},
    time::{Duration, Instant},
};

use attribution::FlowLayout;
use ebpf::{Options, Probes, Program};
use rustix::{
    event::epoll,
    thread::{CpuSet, gettid, sched_setaffinity},
};

const STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";
const PORT: u16 = 17_501;
const SIZE: usize = 24;
const BATCH: usize = 32;
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 1000;

/// A running load.
struct Load {
    /// Requests answered so far.
    answered: Arc<AtomicU64>,
    /// The two threads.
    threads: [i32; 2],
    connections: usize,
}

impl Load {
    fn start(connections: usize, rate: u64) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, PORT)).expect("the port");
        let (sender, receiver) = std::sync::mpsc::channel();
        let client_sender = sender.clone();
        thread::spawn(move || {
            pin(0);
            sender.send(gettid().as_raw_nonzero().get()).expect("main");
            serve(&listener, connections);
        });
        let server = receiver.recv().expect("the server");
        let answered = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&answered);
        thread::spawn(move || {
            pin(1);
            let streams = (0..connections).map(connect).collect::<Vec<_>>();
            client_sender.send(gettid().as_raw_nonzero().get()).expect("main");
            ask(streams, rate, &count);
        });
        let client = receiver.recv().expect("the client");
        Self { answered, threads: [server, client], connections }
    }

    /// Requests and CPU nanoseconds so far.
    fn books(&self) -> (u64, u64) {
        let cpu = self.threads.map(|tid| {
            let text = fs::read_to_string(format!("/proc/self/task/{tid}/schedstat"))
                .expect("the thread's books");
            let ran = text.split_whitespace().next().expect("a figure");
            ran.parse::<u64>().expect("a number")
        });
        (self.answered.load(Ordering::Relaxed), cpu.iter().sum())
    }

    /// CPU microseconds per request over a time, and the requests.
    fn measure(&self, time: Duration) -> (f64, f64) {
        let before = self.books();
        sleep(time);
        let after = self.books();
        let requests = (after.0 - before.0) as f64;
        ((after.1 - before.1) as f64 / 1000.0 / requests, requests)
    }

    fn attach(&self) -> Probes {
        let layout = FlowLayout::Dense {
            client_first: Ipv4Addr::new(127, 0, 1, 1),
            client_count: self.connections.div_ceil(usize::from(PORTS)) as u32,
            port_first: FIRST_PORT,
            port_last: FIRST_PORT + PORTS - 1,
        };
        let absent = std::env::var("ABSENT").unwrap_or_default();
        let absent = absent.split_whitespace().map(str::to_owned).collect();
        let softirqs = std::env::var_os("SOFTIRQS").is_some();
        let options = Options { absent, softirqs, ..Options::of_flows(PORT, layout) };
        let probes = Probes::attach(&options).expect("probes");
        probes.watch(std::process::id(), Program::Server);
        sleep(Duration::from_millis(100));
        probes
    }
}

fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).expect("a CPU");
}

fn connect(number: usize) -> TcpStream {
    let source = Ipv4Addr::from(0x7f00_0101 + (number / usize::from(PORTS)) as u32);
    let from = SocketAddrV4::new(source, FIRST_PORT + (number % usize::from(PORTS)) as u16);
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        None,
    )
    .expect("a socket");
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true).expect("reuse");
    rustix::net::bind(&socket, &from).expect("the client's address");
    rustix::net::connect(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, PORT)).expect("server");
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true).expect("no delay");
    stream
}

fn serve(listener: &TcpListener, connections: usize) {
    let readable: OwnedFd = epoll::create(epoll::CreateFlags::CLOEXEC).expect("epoll");
    let mut streams = Vec::new();
    for number in 0..connections {
        let (stream, _) = listener.accept().expect("a connection");
        stream.set_nodelay(true).expect("no delay");
        let data = epoll::EventData::new_u64(number as u64);
        epoll::add(&readable, &stream, data, epoll::EventFlags::IN).expect("a registration");
        streams.push(stream);
    }
    let mut events = Vec::with_capacity(BATCH);
    let mut request = [0; SIZE];
    loop {
        events.clear();
        let room = rustix::buffer::spare_capacity(&mut events);
        epoll::wait(&readable, room, None).expect("events");
        for event in &events {
            let stream = &mut streams[event.data.u64() as usize];
            if stream.read_exact(&mut request).is_err() || stream.write_all(&request).is_err() {
                return;
            }
        }
    }
}

fn ask(mut streams: Vec<TcpStream>, rate: u64, answered: &AtomicU64) {
    let mut buffer = [7; SIZE];
    let pause = Duration::from_nanos(1_000_000_000 * BATCH as u64 / rate);
    let mut due = Instant::now();
    loop {
        for batch in streams.chunks_mut(BATCH) {
            sleep(due.saturating_duration_since(Instant::now()));
            due += pause;
            if Instant::now() > due + Duration::from_millis(100) {
                // Far behind: what is lost is lost.
                due = Instant::now();
            }
            for stream in batch.iter_mut() {
                stream.write_all(&buffer).expect("the server");
            }
            for stream in batch.iter_mut() {
                stream.read_exact(&mut buffer).expect("an answer");
            }
            answered.fetch_add(batch.len() as u64, Ordering::Relaxed);
        }
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn main() {
    let numbers: Vec<u64> =
        std::env::args().skip(1).map(|text| text.parse().expect("a number")).collect();
    let number = |index: usize, otherwise| numbers.get(index).copied().unwrap_or(otherwise);
    let load = Load::start(number(0, 9000) as usize, number(1, 60_000));
    sleep(Duration::from_secs(1));
    let (mut off, mut on, mut more) = (Vec::new(), Vec::new(), Vec::new());
    let mut requests = 0.0;
    let second = Duration::from_secs(1);
    for _ in 0..number(2, 20) {
        let (without, _) = load.measure(second);
        let probes = load.attach();
        let (with, answered) = load.measure(second);
        drop(probes);
        sleep(Duration::from_millis(100));
        off.push(without);
        on.push(with);
        more.push(with - without);
        requests = answered;
    }
    println!("{requests:.0} requests/s on {} connections", load.connections);
    println!(
        "CPU per request, both ends, median: {:.2} us off, {:.2} us on; {:+.2} us (quartiles of \
         the rounds' differences: {:+.2} to {:+.2})",
        median(&mut off),
        median(&mut on),
        median(&mut more),
        more[more.len() / 4],
        more[more.len() * 3 / 4]
    );
    each(&load);
}

/// What each probe takes, by the kernel's own account.
fn each(load: &Load) {
    let stats = fs::read_to_string(STATS).unwrap_or_default();
    fs::write(STATS, "1").expect("permission to switch statistics on");
    let probes = load.attach();
    let before = probes.report();
    let (_, requests) = load.measure(Duration::from_secs(3));
    let after = probes.report();
    fs::write(STATS, stats.trim()).expect("permission to put statistics back");
    let (mut total, mut all) = (0.0, 0.0);
    for (before, after) in before.iter().zip(&after) {
        let runs = (after.runs.unwrap_or(0) - before.runs.unwrap_or(0)) as f64 / requests;
        let ns = (after.run_time_ns.unwrap_or(0) - before.run_time_ns.unwrap_or(0)) as f64;
        if runs > 0.0 {
            let per_request = ns / requests;
            (total, all) = (total + per_request, all + runs);
            let name = after.name;
            let each = per_request / runs;
            println!(
                "{name:>18}: {runs:5.2} runs a request, {each:4.0} ns each, \
                 {per_request:4.0} ns a request"
            );
        }
    }
    println!("{:>18}: {all:5.2} runs a request, {total:.0} ns a request, statistics on", "total");
    let lost = probes.read().lost;
    println!("lost: {}", serde_json::to_string(&lost).expect("JSON"));
}
