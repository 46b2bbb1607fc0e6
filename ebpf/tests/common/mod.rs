//! What the tests of the probes share: what they need of the machine, and tiny servers.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{
    fs::File,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command},
    sync::{Mutex, MutexGuard},
    thread,
    time::{Duration, Instant},
};

use rustix::thread::{CpuSet, LinkNameSpaceType, move_into_link_name_space, sched_setaffinity};

/// One test at a time: they count what the whole machine does.
static TURN: Mutex<()> = Mutex::new(());

/// Waits for the tests before it; `None` where the test is skipped.
pub(crate) fn needs(what: &[&str]) -> Option<MutexGuard<'static, ()>> {
    let there = what.iter().all(|need| match *need {
        "root" => needs::root(),
        program => needs::program(program, program),
    });
    if !there {
        return None;
    }
    Some(TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
}

/// A socket bound to an address and port of our choice, connected to the server.
pub(crate) fn connect(from: SocketAddrV4, to: SocketAddrV4) -> TcpStream {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .expect("a socket");
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true).expect("reuse of the address");
    rustix::net::bind(&socket, &from).expect("the client's address");
    rustix::net::connect(&socket, &to).expect("the server");
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true).expect("no delay");
    stream
}

/// Answers each request of `size` bytes with the same, on as many connections as there will be;
/// ends with them.
pub(crate) fn serve(listener: &TcpListener, connections: usize, size: usize) {
    let mut threads = Vec::new();
    for _ in 0..connections {
        let (mut stream, _) = listener.accept().expect("a connection");
        stream.set_nodelay(true).expect("no delay");
        threads.push(thread::spawn(move || {
            let mut request = vec![0; size];
            while stream.read_exact(&mut request).is_ok() {
                if stream.write_all(&request).is_err() {
                    return;
                }
            }
        }));
    }
    for thread in threads {
        thread.join().expect("a connection's thread");
    }
}

/// A request and its answer.
pub(crate) fn ask(stream: &mut TcpStream, size: usize) -> io::Result<()> {
    let mut buffer = vec![7; size];
    stream.write_all(&buffer)?;
    stream.read_exact(&mut buffer)
}

/// Where a test's server listens, on loopback.
pub(crate) fn listen(address: Ipv4Addr, port: u16) -> (TcpListener, SocketAddrV4) {
    let address = SocketAddrV4::new(address, port);
    (TcpListener::bind(address).expect("the server's port"), address)
}

/// A port of this process's own for each of its tests: the same tests may run in another tree.
pub(crate) fn port(number: u16) -> u16 {
    let own = std::process::id() % 1000;
    12_000 + own as u16 * 8 + number
}

/// Keeps this thread on one CPU.
pub(crate) fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).expect("a CPU of this machine");
}

/// Nothing that these tests wait for takes longer, also on a machine that does something else, too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until something is so.
pub(crate) fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "it never came that {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until a thread of this process is gone: one that was joined may still be in `/proc`.
pub(crate) fn wait_for_end_of(tid: u32) {
    let task = PathBuf::from(format!("/proc/self/task/{tid}"));
    wait_until("the thread is gone", || !task.exists());
}

/// A child process that ends with this value.
pub(crate) struct Reaped(pub(crate) Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a command that must succeed.
pub(crate) fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program)
        .args(arguments.split_whitespace())
        .output()
        .unwrap_or_else(|error| panic!("{program} {arguments}: {error}"));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments}: {message}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Two network namespaces of this test's own, joined by veth; gone when dropped.
pub(crate) struct Pair {
    /// The server's.
    pub(crate) server: String,
    /// The client's.
    pub(crate) client: String,
}

/// The server's address in a pair of namespaces.
pub(crate) const SERVER_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 253, 0, 1);
/// The client's address there.
pub(crate) const CLIENT_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 253, 0, 2);

impl Pair {
    pub(crate) fn new(name: &str) -> Self {
        let own = std::process::id();
        let pair = Self { server: format!("{name}-{own}-s"), client: format!("{name}-{own}-c") };
        run("ip", &format!("netns add {}", pair.server));
        run("ip", &format!("netns add {}", pair.client));
        let link = "link add veth0 netns";
        run(
            "ip",
            &format!("{link} {} type veth peer name veth0 netns {}", pair.server, pair.client),
        );
        for (netns, address) in [(&pair.server, SERVER_ADDRESS), (&pair.client, CLIENT_ADDRESS)] {
            run("ip", &format!("-n {netns} address add {address}/24 dev veth0"));
            run("ip", &format!("-n {netns} link set veth0 up"));
            run("ip", &format!("-n {netns} link set lo up"));
        }
        pair
    }

    /// Moves this thread into a namespace.
    pub(crate) fn enter(netns: &str) {
        let file = File::open(format!("/run/netns/{netns}")).expect("the namespace");
        move_into_link_name_space(
            std::os::fd::AsFd::as_fd(&file),
            Some(LinkNameSpaceType::Network),
        )
        .expect("permission to enter a namespace");
    }

    /// A counter of `/proc/net/snmp` or `/proc/net/netstat` in this thread's namespace.
    pub(crate) fn counter(protocol: &str, name: &str) -> u64 {
        let mut text = std::fs::read_to_string("/proc/thread-self/net/snmp").expect("snmp");
        text += &std::fs::read_to_string("/proc/thread-self/net/netstat").expect("netstat");
        let mut lines = text.lines().filter(|line| line.starts_with(&format!("{protocol}:")));
        let names = lines.next().expect("names").split_whitespace();
        let values = lines.next().expect("values").split_whitespace();
        let mut pairs = names.zip(values);
        let (_, value) = pairs.find(|(own, _)| *own == name).expect("the counter");
        value.parse().expect("a number")
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for netns in [&self.server, &self.client] {
            let _ = Command::new("ip").args(["netns", "delete", netns]).status();
        }
    }
}
