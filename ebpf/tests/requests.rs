//! The instants of requests: all there, in order, each with its own request.

mod common;

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use attribution::{Doing, FlowLayout};
use common::{ask, connect, listen, needs, port, serve};
use ebpf::{Absence, Options, Probes, Program};
use needs::test;

needs::main!();

const SIZE: usize = 24;

/// Several clients, each asking and then reading its entry, as the lab's client does.
fn ask_and_check(options: &Options, clients: u16, requests: u32) -> Probes {
    let probes = Probes::attach(options).expect("probes");
    probes.watch(std::process::id(), Program::Server);
    let (listener, address) = listen(Ipv4Addr::LOCALHOST, options.port);
    let server = thread::spawn(move || serve(&listener, usize::from(clients), SIZE));
    let unsplit = AtomicU32::new(0);
    thread::scope(|scope| {
        for number in 0..clients {
            let (probes, unsplit) = (&probes, &unsplit);
            scope.spawn(move || {
                let source = Ipv4Addr::new(127, 0, 1, 1 + (number % 3) as u8);
                let from = SocketAddrV4::new(source, 20_000 + number);
                unsplit.fetch_add(check_client(probes, from, address, requests), Ordering::Relaxed);
            });
        }
    });
    server.join().expect("the server");
    let (unsplit, all) = (unsplit.into_inner(), u32::from(clients) * requests);
    assert!(unsplit * 100 <= all, "no thread is known for {unsplit} parts of {all} requests");
    probes
}

/// Returns how many parts of requests could not be split by what the thread did. That may happen:
/// the scheduler was writing the thread's entry on another CPU, and was interrupted there.
fn check_client(probes: &Probes, from: SocketAddrV4, to: SocketAddrV4, requests: u32) -> u32 {
    let mut unsplit = 0;
    let mut stream = connect(from, to);
    let mut sequence = None;
    for number in 0..requests {
        ask(&mut stream, SIZE).expect("an answer");
        let request = probes.flows().request(from).expect("a request");
        let context = format!("request {number} of {from}: {request:?}");
        assert!(!request.mixed && request.losses == 0, "{context}");
        if let Some(before) = sequence.replace(request.sequence) {
            assert_eq!(request.sequence.wrapping_sub(before), SIZE as u32, "{context}");
        }
        let instants: Vec<u64> =
            request.instants_ns().iter().map(|ns| ns.expect(&context)).collect();
        assert!(instants.is_sorted(), "{context}");
        // The first request finds a server's thread that has read nothing yet.
        if number > 0 {
            let (client, server) = (request.client_slot, request.server_slot);
            for (slot, from) in [(server, 1), (server, 2), (client, 4)] {
                let (from_ns, to_ns) = (instants[from], instants[from + 1]);
                let spent = probes.timelines().spent(slot, from_ns, to_ns);
                assert_eq!(spent.total_ns(), to_ns - from_ns, "{context}");
                unsplit += u32::from(spent[Doing::Unknown] > 0);
            }
        }
    }
    unsplit
}

#[test]
fn every_instant_of_every_request_is_there_and_in_order() {
    let Some(_turn) = needs(&["root"]) else { return };
    let layout = FlowLayout::Dense {
        client_first: Ipv4Addr::new(127, 0, 1, 1),
        client_count: 3,
        port_first: 20_000,
        port_last: 20_099,
    };
    let options = Options {
        server_histograms: true,
        stamp_reads: true,
        packets: true,
        ..Options::of_flows(port(1), layout)
    };
    let probes = ask_and_check(&options, 8, 1000);
    let counters = probes.read();
    assert_eq!(counters.server_wait.expect("waits").count(), 8000);
    assert_eq!(counters.server_service.expect("services").count(), 8000);
    assert_eq!(counters.lost, ebpf::Counters::default().lost);
    assert!(counters.threads.expect("threads").len() >= 16);
    // Each request is a packet, and so is each answer; handshakes and acknowledgements come on top.
    let packets = counters.packets.expect("packets");
    let of_loopback = packets.iter().find(|row| row.name == "lo").expect("loopback");
    assert!(of_loopback.rx_packets >= Some(16_000), "{of_loopback:?}");
    assert!(of_loopback.tx_packets >= of_loopback.rx_packets, "{of_loopback:?}");
}

/// A server that takes its time, as long as each request says, in milliseconds.
fn serve_slowly(listener: &TcpListener) {
    let (mut stream, _) = listener.accept().expect("a connection");
    let mut request = [0];
    while stream.read_exact(&mut request).is_ok() {
        thread::sleep(Duration::from_millis(request[0].into()));
        stream.write_all(&request).expect("an answer");
    }
}

#[test]
fn the_longest_of_each_reading_is_exact() {
    const SLOW: Duration = Duration::from_millis(120);
    let Some(_turn) = needs(&["root"]) else { return };
    let options = Options { server_histograms: true, ..Options::of_port(port(7)) };
    let probes = Probes::attach(&options).expect("probes");
    probes.watch(std::process::id(), Program::Server);
    let (listener, address) = listen(Ipv4Addr::LOCALHOST, options.port);
    let server = thread::spawn(move || serve_slowly(&listener));
    let mut stream = connect(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0), address);
    let mut ask = |ms: u8| {
        let began = Instant::now();
        stream.write_all(&[ms]).expect("asked");
        stream.read_exact(&mut [0]).expect("an answer");
        began.elapsed().as_nanos() as u64
    };
    // The first request finds a server's thread that has read nothing yet.
    ask(1);
    let first = probes.read();
    let took = ask(SLOW.as_millis() as u8);
    let second = probes.read();
    let quick = (0..3).map(|_| ask(1)).max().expect("three");
    let third = probes.read();
    let of = |now: &ebpf::Counters, then: &ebpf::Counters| {
        let service = now.since(then).server_service.expect("services");
        (service.count(), service.max_ns().expect("counted"), service.quantile_ns(0.5))
    };
    let (count, longest, median) = of(&second, &first);
    let slow = SLOW.as_nanos() as u64;
    assert_eq!((count, median), (1, Some(longest)));
    assert!((slow..=took).contains(&longest), "{longest} of {slow} to {took}");
    // The longest of the second before is not this one's.
    let (count, longest, _) = of(&third, &second);
    assert_eq!(count, 3);
    assert!(longest <= quick && longest >= 1_000_000, "{longest} of 1 ms to {quick}");
    drop(stream);
    server.join().expect("the server");
}

#[test]
fn clients_need_not_be_known_beforehand() {
    let Some(_turn) = needs(&["root"]) else { return };
    let probes = ask_and_check(&Options::of_port(port(2)), 8, 500);
    assert_eq!(probes.read().lost.flows_collided, 0);
}

#[test]
fn without_the_newest_tracepoint_sends_are_stamped_when_they_leave_tcp() {
    let Some(_turn) = needs(&["root"]) else { return };
    let mut options = Options::of_port(port(3));
    options.absent = vec!["send_begins".to_owned()];
    let probes = ask_and_check(&options, 4, 500);
    let states = probes.report();
    let state = |name: &str| states.iter().find(|state| state.name == name).expect("a probe");
    assert!(state("send_queued").attached, "{:?}", state("send_queued"));
    assert_eq!(state("send_begins").reason, Some(Absence::OnRequest));
}

#[test]
fn an_absent_probe_leaves_its_figures_null_and_the_rest_working() {
    let Some(_turn) = needs(&["root"]) else { return };
    let mut options = Options::of_port(port(4));
    let absent = ["send_begins", "send_queued", "woken", "packet_dropped", "napi_polled"];
    options.absent = absent.map(str::to_owned).to_vec();
    let probes = Probes::attach(&options).expect("the rest");
    let (listener, address) = listen(Ipv4Addr::LOCALHOST, options.port);
    let server = thread::spawn(move || serve(&listener, 1, SIZE));
    let from = SocketAddrV4::new(Ipv4Addr::new(127, 0, 1, 1), 20_200);
    let mut stream = connect(from, address);
    for _ in 0..50 {
        ask(&mut stream, SIZE).expect("an answer");
    }
    drop(stream);
    server.join().expect("the server");
    let counters = probes.read();
    assert_eq!(counters.server_wait.map(|durations| durations.count()), Some(50));
    assert_eq!(counters.server_service, None);
    assert_eq!((counters.threads, counters.drops), (None, None));
    assert_eq!((counters.drops_by_place, counters.qdisc_drops), (None, None));
    assert_eq!(counters.napi, None);
    assert!(counters.cpus.is_some() && counters.softirq.is_some());
    assert!(counters.retransmits.is_some() && counters.packets.is_some());
    let json = serde_json::to_value(probes.read()).expect("JSON");
    assert!(json["server_service_us"].is_null() && json["server_wait_us"]["count"] == 50);
}

#[test]
fn two_kernels_that_see_one_end_each_are_joined() {
    let Some(_turn) = needs(&["root"]) else { return };
    const REQUESTS: usize = 4000;
    let layout = FlowLayout::all_ports(Ipv4Addr::new(127, 0, 1, 1), 1);
    let of_client =
        Options { server_end: false, stamp_reads: true, ..Options::of_flows(port(5), layout) };
    let of_server = Options { keep_answers: true, ..Options::of_flows(port(5), layout) };
    let client_side = Probes::attach(&of_client).expect("probes of the client's host");
    let server_side = Probes::attach(&of_server).expect("probes of the server's host");
    client_side.watch(std::process::id(), Program::Client(0));
    server_side.watch(std::process::id(), Program::Server);
    let (listener, address) = listen(Ipv4Addr::LOCALHOST, of_client.port);
    let server = thread::spawn(move || serve(&listener, 1, SIZE));
    let from = SocketAddrV4::new(Ipv4Addr::new(127, 0, 1, 1), 20_400);
    let mut stream = connect(from, address);
    let mut halves = Vec::new();
    for number in 0..REQUESTS {
        ask(&mut stream, SIZE).expect("an answer");
        let request = client_side.flows().request(from).expect("a request");
        assert!(request.is_half() && request.segments().is_none(), "{number}: {request:?}");
        // The first request finds a server's thread that has read nothing yet.
        if number > 0 && request.is_joined(from) {
            halves.push(request);
        }
    }
    drop(stream);
    server.join().expect("the server");
    let expected = REQUESTS / ebpf::JOINED_ONE_IN as usize;
    assert!(halves.len().abs_diff(expected) < expected, "{} of {REQUESTS}", halves.len());
    // Long after later requests have taken the connection's entry.
    for half in &halves {
        let side = server_side.server_side(from, half.sequence).expect("its other end");
        let whole = half.with_server_side(&side);
        assert!(!whole.mixed && !whole.is_half(), "{half:?} {side:?}");
        let segments = whole.segments().expect("all instants");
        let of_client = whole.read_ns.expect("T6") - whole.sent_ns;
        let parts = segments.network_ns
            + segments.server_wait_ns
            + segments.server_service_ns
            + segments.client_receive_lag_ns;
        assert_eq!(parts, of_client.cast_signed(), "{half:?} {side:?}");
        assert!(segments.server_wait_ns >= 0 && segments.server_service_ns >= 0, "{side:?}");
    }
    let split = |half: &attribution::Request| {
        server_side.server_side(from, half.sequence).is_some_and(|it| it.wait[Doing::Unknown] == 0)
    };
    let unsplit = halves.iter().filter(|half| !split(half)).count();
    assert!(unsplit * 10 <= halves.len(), "{unsplit} of {} without a thread", halves.len());
    assert_eq!(server_side.server_side(from, halves[0].sequence.wrapping_add(1)), None);
}

/// What is sent beside a request, and what a server does with it.
#[derive(Clone, Copy, Debug)]
enum Beside {
    /// A text before it: read with it.
    TextBefore,
    /// A notice of the server's, on its way before the request is read.
    Notice,
    /// A text after it: read with it.
    TextAfter,
}

const BESIDE: [Beside; 3] = [Beside::TextBefore, Beside::Notice, Beside::TextAfter];

/// Reads so many bytes at once, when all of them are there.
fn read_at_once(stream: &mut TcpStream, bytes: usize) {
    let mut buffer = [0; 4 * SIZE];
    while stream.peek(&mut buffer).expect("data") < bytes {
        thread::yield_now();
    }
    assert_eq!(stream.read(&mut buffer).expect("data"), bytes);
}

fn serve_beside(listener: &TcpListener, rounds: usize) {
    let (mut stream, _) = listener.accept().expect("a connection");
    stream.set_nodelay(true).expect("no delay");
    for beside in BESIDE.into_iter().cycle().take(rounds * BESIDE.len()) {
        let bytes = if matches!(beside, Beside::Notice) {
            stream.peek(&mut [0]).expect("a request");
            stream.write_all(&[9; 10]).expect("a notice");
            SIZE
        } else {
            2 * SIZE
        };
        read_at_once(&mut stream, bytes);
        stream.write_all(&[7; SIZE]).expect("an answer");
    }
}

#[test]
fn frames_that_share_a_stretch_of_the_stream_are_told_apart() {
    let Some(_turn) = needs(&["root"]) else { return };
    const ROUNDS: usize = 100;
    let layout = FlowLayout::all_ports(Ipv4Addr::new(127, 0, 1, 1), 1);
    let options = Options { stamp_reads: true, ..Options::of_flows(port(6), layout) };
    let probes = Probes::attach(&options).expect("probes");
    let (listener, address) = listen(Ipv4Addr::LOCALHOST, options.port);
    let server = thread::spawn(move || serve_beside(&listener, ROUNDS));
    let from = SocketAddrV4::new(Ipv4Addr::new(127, 0, 1, 1), 20_600);
    let mut stream = connect(from, address);
    let latest = || probes.flows().request(from).expect("a request");
    let mut hidden = 0;
    for (number, beside) in BESIDE.into_iter().cycle().take(ROUNDS * BESIDE.len()).enumerate() {
        let mut send = || stream.write_all(&[7; SIZE]).expect("sent");
        let request = match beside {
            Beside::TextBefore => {
                send();
                send();
                stream.read_exact(&mut [0; SIZE]).expect("an answer");
                latest()
            }
            Beside::Notice => {
                send();
                stream.read_exact(&mut [0; 10 + SIZE]).expect("a notice and an answer");
                latest()
            }
            Beside::TextAfter => {
                send();
                let sent = latest();
                send();
                stream.read_exact(&mut [0; SIZE]).expect("an answer");
                let entry = probes.flows().entry(from).expect("an entry");
                assert_eq!(entry.client.sequence, sent.end, "the text is the latest");
                sent.behind(&entry)
            }
        };
        let context = format!("{beside:?} {number}: {request:?}");
        // What the kernel hides from probes leaves an instant out.
        let instants = request.instants_ns();
        hidden += usize::from(request.mixed || instants.contains(&None));
        let seen: Vec<u64> = instants.into_iter().flatten().collect();
        assert!(request.mixed || seen.is_sorted(), "{context}");
        assert_eq!(request.end.wrapping_sub(request.sequence), SIZE as u32, "{context}");
    }
    server.join().expect("the server");
    assert!(hidden * 100 <= ROUNDS * BESIDE.len(), "{hidden} of {}", ROUNDS * BESIDE.len());
}
