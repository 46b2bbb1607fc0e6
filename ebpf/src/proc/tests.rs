//! The readers against this machine's `/proc`, and against one that lacks everything.

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::*;

#[test]
fn this_machine_is_read() {
    let reader = ProcReader::default();
    let before = reader.machine();
    let softnet = before.softnet.as_ref().expect("softnet_stat");
    let cpus = before.cpus.as_ref().expect("stat");
    assert_eq!(softnet.len(), cpus.len());
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.send_to(b"one", socket.local_addr().expect("its address")).expect("a datagram");
    let grown = reader.machine().since(&before);
    let processed: u64 = grown.softnet.iter().flatten().map(|cpu| cpu.processed).sum();
    assert!((1..1 << 31).contains(&processed), "{grown:?}");
    let json = serde_json::to_value(&grown).expect("JSON");
    assert!(json["softnet"][0]["time_squeeze"].is_u64(), "{json}");
    assert!(before.available_bytes > before.slab_bytes, "{before:?}");
    assert_eq!(before.pressure_cpu.is_none(), before.missing.contains_key("pressure_cpu"));
}

#[test]
fn protocols_of_this_thread_and_of_a_process() {
    let reader = ProcReader::default();
    let before = reader.network(None);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    drop(TcpStream::connect(listener.local_addr().expect("its address")).expect("a connection"));
    let grown = reader.network(None).since(&before);
    assert!(grown.counter("Tcp", "ActiveOpens") >= Some(1), "{grown:?}");
    for name in ["ListenOverflows", "TCPTimeouts", "TCPLostRetransmit", "TCPBacklogDrop"] {
        assert!(grown.counter("TcpExt", name).is_some(), "{name} in {grown:?}");
    }
    assert!(grown.counter("IpExt", "InOctets").is_some());
    assert_eq!(grown.counter("TcpExt", "NoSuchCounter"), None);
    let own = reader.network(Some(std::process::id()));
    assert!(own.counter("Tcp", "ActiveOpens").is_some(), "{own:?}");
}

#[test]
fn threads_run_wait_and_end() {
    let reader = ProcReader::default();
    let pid = std::process::id();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let (tid, tids) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new().name("lab-worker".to_owned()).spawn(move || {
        tid.send(rustix::thread::gettid().as_raw_nonzero().get() as u32).expect("the test");
        let _ = stopped.recv();
    });
    let thread = thread.expect("a thread");
    let tid = tids.recv().expect("the thread");
    let before = reader.threads(pid);
    let first = &before.threads.as_ref().expect("threads")[&tid];
    assert_eq!(first.name, "lab-worker");
    assert!(before.rss_anon_bytes > Some(4096), "{before:?}");
    drop(stop);
    thread.join().expect("the thread");
    // A thread that was joined may still be here.
    let task = PathBuf::from(format!("/proc/self/task/{tid}"));
    let deadline = Instant::now() + Duration::from_secs(60);
    while task.exists() {
        assert!(Instant::now() < deadline, "it is never gone");
        std::thread::sleep(Duration::from_millis(1));
    }
    let now = reader.threads(pid).since(&before);
    assert!(!now.threads.as_ref().expect("threads").contains_key(&tid));
    assert!(now.ended >= Some(1), "{now:?}");
}

#[test]
fn what_is_absent_has_a_reason() {
    let empty = ProcReader::at("/nowhere");
    let machine = empty.machine();
    assert_eq!(
        machine,
        MachineReading {
            at_ns: machine.at_ns,
            missing: machine.missing.clone(),
            ..MachineReading::default()
        }
    );
    assert_eq!(machine.missing.len(), 7, "{:?}", machine.missing);
    assert!(machine.missing["pressure_io"].contains("psi=1"), "{:?}", machine.missing);
    assert!(empty.network(None).missing["protocols"].contains("/nowhere/thread-self/net/snmp"));
    let gone = ProcReader::default().threads(u32::MAX);
    assert_eq!(gone.threads, None);
    assert_eq!(gone.missing["threads"], format!("there is no process {}", u32::MAX));
    let gone = ProcReader::default().network(Some(u32::MAX));
    assert_eq!(gone.counter("Tcp", "InSegs"), None);
    // A difference to something absent is absent.
    assert_eq!(ProcReader::default().machine().since(&machine).softnet, None);
    assert!(empty.interrupts(&["eth0"]).is_err());
}

#[test]
fn counters_of_32_bits_go_round() {
    let at = |processed| SoftnetCpu { processed, ..SoftnetCpu::default() };
    assert_eq!(at(5).since(at(0xffff_fffe)).processed, 7);
    assert_eq!(at(9).since(at(4)).processed, 5);
}

#[test]
fn a_number_given_to_another_thread_is_another_thread() {
    let reading = |ran_ns, turns| ThreadsReading {
        threads: Some(BTreeMap::from([(
            7,
            ThreadTimes { name: "x".to_owned(), ran_ns, wait_ns: 10, turns },
        )])),
        ..ThreadsReading::default()
    };
    let since = |now: ThreadsReading, then| now.since(&then).threads.expect("threads")[&7].clone();
    assert_eq!(since(reading(150, 3), reading(100, 1)).ran_ns, 50);
    assert_eq!(since(reading(150, 3), reading(1000, 90)).ran_ns, 150);
}
