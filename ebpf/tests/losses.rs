//! Losses: what nftables drops at the receiving end is what the probes count, and what the kernel
//! says it sent again is what the probes saw.

mod common;

use std::{
    net::{SocketAddrV4, TcpListener},
    thread,
};

use attribution::FlowLayout;
use common::{CLIENT_ADDRESS, Pair, SERVER_ADDRESS, ask, connect, needs, port, run, serve};
use ebpf::{BySide, Counters, LossKind, Options, Probes, RetransmitKinds};
use needs::test;

needs::main!();

const SIZE: usize = 24;
fn server_port() -> u16 {
    port(1)
}

const CLIENTS: u16 = 8;
const REQUESTS: u32 = 300;

/// Drops every 37th segment that comes to the server, and every 41st that comes to the client, and
/// counts what each sends.
fn inject(pair: &Pair) {
    let ends = [(&pair.server, "dport", "sport", 37), (&pair.client, "sport", "dport", 41)];
    for (netns, port, of_sent, every) in ends {
        let nft = |rest: &str| run("ip", &format!("netns exec {netns} nft {rest}"));
        nft("add table ip lab");
        nft("add chain ip lab in { type filter hook input priority 0 ; }");
        nft(&format!(
            "add rule ip lab in tcp {port} {} numgen inc mod {every} == 3 counter drop",
            server_port()
        ));
        nft("add chain ip lab out { type filter hook output priority 0 ; }");
        nft(&format!("add rule ip lab out tcp {of_sent} {} counter", server_port()));
    }
}

/// What the rule of a chain has counted.
fn by_rule(netns: &str, chain: &str) -> u64 {
    let rules = run("ip", &format!("netns exec {netns} nft list chain ip lab {chain}"));
    let mut words = rules.split_whitespace().skip_while(|word| *word != "packets");
    words.nth(1).and_then(|count| count.parse().ok()).expect("a counter")
}

/// Requests over the pair, and what the kernel says each end sent again, SYN-ACKs included.
fn traffic(pair: &Pair, probes: &Probes) -> BySide<u64> {
    let server_netns = pair.server.clone();
    let (listening, listens) = std::sync::mpsc::channel();
    let server = thread::spawn(move || {
        Pair::enter(&server_netns);
        let listener =
            TcpListener::bind((SERVER_ADDRESS, server_port())).expect("the server's port");
        listening.send(()).expect("the test");
        serve(&listener, usize::from(CLIENTS), SIZE);
    });
    listens.recv().expect("the server");
    let seen_lossy: usize = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                scope.spawn(move || {
                    Pair::enter(&pair.client);
                    client(probes, 21_000 + number)
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().expect("a client")).sum()
    });
    server.join().expect("the server");
    assert!(seen_lossy > 20, "{seen_lossy} requests knew of a loss");
    let sent_again = |netns: &str| {
        let netns = netns.to_owned();
        let count = thread::spawn(move || {
            Pair::enter(&netns);
            Pair::counter("Tcp", "RetransSegs")
        });
        count.join().expect("the counter")
    };
    // The last segments may be sent again yet: the count must stand still.
    loop {
        let before = (sent_again(&pair.server), sent_again(&pair.client));
        thread::sleep(std::time::Duration::from_secs(1));
        if before == (sent_again(&pair.server), sent_again(&pair.client)) {
            return BySide { server: before.0, client: before.1 };
        }
    }
}

/// Asks, and counts requests that took longer than a retransmission and knew of their loss.
fn client(probes: &Probes, port: u16) -> usize {
    let from = SocketAddrV4::new(CLIENT_ADDRESS, port);
    let mut stream = connect(from, SocketAddrV4::new(SERVER_ADDRESS, server_port()));
    let mut lossy = 0;
    for _ in 0..REQUESTS {
        ask(&mut stream, SIZE).expect("an answer");
        let request = probes.flows().request(from).expect("a request");
        let took_ns = request.read_ns.map_or(0, |read_ns| read_ns - request.sent_ns);
        if took_ns > 150_000_000 {
            assert!(request.losses > 0, "late for another reason: {request:?}");
        }
        lossy += usize::from(request.losses > 0);
    }
    lossy
}

fn totals(retransmits: BySide<RetransmitKinds>) -> BySide<u64> {
    BySide {
        server: retransmits.server.total().expect("counted"),
        client: retransmits.client.total().expect("counted"),
    }
}

/// Runs that may be repeated because the kernel kept events from the probes.
const TRIES: usize = 6;

/// Kernels may be built not to run tracing programs while certain tasks are current, and some are
/// (the virtual machines that this was written on). A timer that interrupts such a task sends
/// unseen, about one segment in a thousand here. What then is not exact is known by it: a packet
/// that an end sent by nftables' account was not seen to enter the pair, or not to come out of it.
fn hidden(pair: &Pair, counters: &Counters) -> bool {
    let packets = counters.packets.as_ref().expect("counted");
    let [one, other] = packets.as_slice() else { panic!("two ends: {packets:?}") };
    let mut sent = [&pair.server, &pair.client].map(|netns| Some(by_rule(netns, "out")));
    let (mut left, mut came) =
        ([one.tx_packets, other.tx_packets], [other.rx_packets, one.rx_packets]);
    // Which end is which does not matter.
    [&mut sent, &mut left, &mut came].into_iter().for_each(|it| it.sort_unstable());
    println!("sent {sent:?}, seen to leave {left:?} and to come {came:?}");
    sent != left || left != came
}

#[test]
fn drops_and_retransmissions_are_counted_exactly() {
    let Some(_turn) = needs(&["root", "ip", "nft"]) else { return };
    for _ in 0..TRIES {
        if count_losses() {
            return;
        }
        println!("the kernel kept events from the probes: once more");
    }
    panic!("the kernel kept events from the probes {TRIES} times");
}

/// Whether all could be seen, and was counted exactly.
fn count_losses() -> bool {
    let pair = Pair::new("labloss");
    inject(&pair);
    let options = Options::of_flows(server_port(), FlowLayout::all_ports(CLIENT_ADDRESS, 1));
    let mut probes = Probes::attach(&options).expect("probes");
    let before = probes.read();
    let kernel = traffic(&pair, &probes);
    let counters = probes.read().since(&before);
    let records = probes.take_losses();
    let filtered = by_nft(&counters);
    let truth = by_rule(&pair.server, "in") + by_rule(&pair.client, "in");
    println!(
        "dropped {filtered} of {truth}; sent again {kernel:?}, seen {:?}",
        counters.retransmits
    );
    if hidden(&pair, &counters) {
        return false;
    }
    assert_eq!(filtered, truth, "{counters:?}");
    assert_eq!(totals(counters.retransmits.expect("counted")), kernel, "{counters:?}");
    let of_client = counters.losses_by_client.expect("counted")[&CLIENT_ADDRESS.into()];
    let of_client = of_client.retransmits.expect("counted");
    assert_eq!(of_client.total(), Some(kernel.server + kernel.client));
    assert_eq!(counters.lost, Counters::default().lost);
    let dropped = records.iter().filter(
        |loss| matches!(&loss.what, LossKind::Drop { reason, .. } if reason == "NETFILTER_DROP"),
    );
    assert_eq!(dropped.count() as u64, filtered);
    true
}

fn by_nft(counters: &Counters) -> u64 {
    let places = counters.drops_by_place.as_ref().expect("counted");
    places.iter().filter(|row| row.reason == "NETFILTER_DROP").map(|row| row.port).sum()
}

#[test]
fn a_port_that_nobody_listens_on_answers_with_resets() {
    let Some(_turn) = needs(&["root"]) else { return };
    let port = port(2);
    let probes = Probes::attach(&Options::of_port(port)).expect("probes");
    for _ in 0..5 {
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
    }
    let counters = probes.read();
    let resets = BySide { server: 5, client: 0 };
    assert_eq!(counters.resets_sent, Some(resets));
    // A SYN answered with a reset does not pass where resets on connections are noticed.
    assert!(counters.resets_received.is_some());
}

#[test]
fn a_full_accept_queue_is_counted_as_the_kernel_counts_it() {
    let Some(_turn) = needs(&["root", "ip"]) else { return };
    let pair = Pair::new("labqueue");
    let probes = Probes::attach(&Options::of_port(server_port())).expect("probes");
    thread::scope(|scope| {
        let netns = &pair.server;
        let own = || {
            Pair::enter(netns);
            // The books are those of the process's first thread: ours is asked for by its number.
            let tid = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
            probes.watch(tid, ebpf::Program::Server);
            assert_eq!(probes.read().listen_overflows, Some(0));
            let address = SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, server_port());
            let listener = rustix::net::socket(
                rustix::net::AddressFamily::INET,
                rustix::net::SocketType::STREAM,
                None,
            )
            .expect("a socket");
            rustix::net::bind(&listener, &address).expect("the port");
            rustix::net::listen(&listener, 1).expect("a short queue");
            let wait = std::time::Duration::from_millis(300);
            let streams: Vec<_> = (0..6)
                .map(|_| std::net::TcpStream::connect_timeout(&address.into(), wait))
                .collect();
            assert!(streams.iter().any(Result::is_err), "the queue took all of them");
            let kernels = Pair::counter("TcpExt", "ListenOverflows");
            assert!(kernels > 0);
            assert_eq!(probes.read().listen_overflows, Some(kernels));
        };
        scope.spawn(own).join().expect("the server");
    });
}

#[test]
fn resets_are_counted_as_the_kernel_counts_them() {
    let Some(_turn) = needs(&["root", "ip"]) else { return };
    const CLOSES: u64 = 200;
    let pair = Pair::new("labreset");
    let inode = std::fs::metadata(format!("/run/netns/{}", pair.server)).expect("a namespace");
    let netns = std::os::unix::fs::MetadataExt::ino(&inode) as u32;
    let options = Options { netns: Some(netns), ..Options::of_port(server_port()) };
    let probes = Probes::attach(&options).expect("probes");
    let netns = pair.server.clone();
    let server = thread::spawn(move || {
        Pair::enter(&netns);
        let address = (std::net::Ipv4Addr::LOCALHOST, server_port());
        let listener = TcpListener::bind(address).expect("the port");
        let before = Pair::counter("Tcp", "OutRsts");
        for close in 0..CLOSES {
            let mut client = std::net::TcpStream::connect(address).expect("connects");
            let (mut server, _) = listener.accept().expect("a client");
            std::io::Write::write_all(&mut client, b"more than is read").expect("sent");
            let mut byte = [0];
            std::io::Read::read_exact(&mut server, &mut byte).expect("read");
            // Whoever closes with bytes unread resets: one end, then the other.
            if close % 2 == 0 {
                drop(server);
            } else {
                std::io::Write::write_all(&mut server, b"unread").expect("sent");
                rustix::net::recv(&client, &mut byte, rustix::net::RecvFlags::PEEK).expect("came");
                drop(client);
            }
        }
        Pair::counter("Tcp", "OutRsts") - before
    });
    let kernels = server.join().expect("the server");
    let sent = probes.read().resets_sent.expect("counted");
    assert_eq!(sent.server + sent.client, kernels, "{sent:?}");
    assert_eq!(sent, BySide { server: CLOSES / 2, client: CLOSES / 2 });
    let received = probes.read().resets_received.expect("counted");
    assert_eq!(received, BySide { server: CLOSES / 2, client: CLOSES / 2 });
}

/// Lets through what comes to the server at so many bits a second, and drops nothing of it.
fn narrow(pair: &Pair, rate: &str) {
    let netns = &pair.server;
    run("ip", &format!("-n {netns} link add ifb0 type ifb"));
    run("ip", &format!("-n {netns} link set ifb0 up"));
    for rest in [
        &format!("qdisc add dev ifb0 root tbf rate {rate} burst 2000 limit 1000000"),
        "qdisc add dev veth0 ingress",
        "filter add dev veth0 parent ffff: protocol ip u32 match u32 0 0 action mirred egress \
         redirect dev ifb0",
    ] {
        run("ip", &format!("netns exec {netns} tc {rest}"));
    }
}

#[test]
fn what_is_sent_again_behind_a_long_queue_is_no_loss() {
    let Some(_turn) = needs(&["root", "ip", "tc"]) else { return };
    const CLIENTS: u16 = 40;
    let pair = Pair::new("queue");
    let layout = FlowLayout::all_ports(CLIENT_ADDRESS, 1);
    let options = Options { stamp_reads: true, ..Options::of_flows(server_port(), layout) };
    let probes = Probes::attach(&options).expect("probes");
    let server_netns = pair.server.clone();
    let (listening, listens) = std::sync::mpsc::channel();
    let server = thread::spawn(move || {
        Pair::enter(&server_netns);
        let address = (SERVER_ADDRESS, server_port());
        let listener = TcpListener::bind(address).expect("the server's port");
        listening.send(()).expect("the test");
        serve(&listener, usize::from(CLIENTS), SIZE);
    });
    listens.recv().expect("the server");
    let all_connected = std::sync::Barrier::new(usize::from(CLIENTS) + 1);
    let narrowed = std::sync::Barrier::new(usize::from(CLIENTS) + 1);
    let losses: Vec<u32> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let (pair, probes) = (&pair, &probes);
                let (all_connected, narrowed) = (&all_connected, &narrowed);
                scope.spawn(move || {
                    Pair::enter(&pair.client);
                    let from = SocketAddrV4::new(CLIENT_ADDRESS, 22_000 + number);
                    let mut stream =
                        connect(from, SocketAddrV4::new(SERVER_ADDRESS, server_port()));
                    // The first answer tells the kernel how soon to expect the next.
                    ask(&mut stream, SIZE).expect("an answer");
                    all_connected.wait();
                    narrowed.wait();
                    // Forty segments of 90 bytes take 900 ms at 32 kbit/s, less what may burst.
                    ask(&mut stream, SIZE).expect("an answer");
                    println!("{:?}", probes.flows().entry(from));
                    probes.flows().request(from).expect("a request").losses
                })
            })
            .collect();
        all_connected.wait();
        narrow(&pair, "32kbit");
        narrowed.wait();
        clients.into_iter().map(|client| client.join().expect("a client")).collect()
    });
    server.join().expect("the server");
    let resent = totals(probes.read().retransmits.expect("retransmissions")).client;
    println!("{resent} were sent again, losses {losses:?}");
    assert!(resent > 5, "the queue was too short: {resent}");
    assert_eq!(losses.iter().sum::<u32>(), 0, "{losses:?}");
}
