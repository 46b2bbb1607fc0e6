//! The `lab-server` program as people and scripts meet it: arguments, signals, the pipe, HTTP.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Instant;

use accounting::Ledger;
use accounting::server::Counters;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use service::{Line, Ready};
use wire::Frame;

use common::program::spawn;
use common::{PATIENCE, Peer, bytes_of};

/// A running server, killed with the test.
struct Program {
    child: Child,
    lines: BufReader<ChildStdout>,
    ready: Ready,
    /// The file with the token that commands need.
    token: tempfile::NamedTempFile,
}

impl Drop for Program {
    fn drop(&mut self) {
        // It has ended by itself, mostly.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab-server"));
    command.args(args);
    command
}

impl Program {
    fn start(more: &[&str]) -> Self {
        let token = tempfile::NamedTempFile::new().expect("a file");
        writeln!(token.as_file(), "0123456789abcdef0123456789abcdef").expect("written");
        let file = token.path().to_str().expect("UTF-8");
        let who = ["--control-token-file", file];
        let who = if more.contains(&"--control-open") { &[][..] } else { &who };
        let args = ["--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--pipe"];
        let small = ["--shards", "2", "--sets", "8", "--users", "10000", "--steering", "hash"];
        let (child, lines, ready) = spawn(&mut command(&[&args[..], &small, who, more].concat()));
        Self { child, lines, ready, token }
    }

    fn address(&self) -> SocketAddrV4 {
        self.ready.listen.parse().expect("an address")
    }

    fn write(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().expect("piped");
        writeln!(input, "{line}").expect("it reads");
    }

    /// Waits for its end: the exit code, what all seconds together counted, the errors it told of,
    /// and the books at the end.
    fn end(&mut self) -> (Option<i32>, Counters, Vec<String>, Option<Ledger>) {
        let (mut counters, mut errors, mut ledger) = (Counters::default(), Vec::new(), None);
        for line in self.lines.by_ref().lines() {
            let line = line.expect("text");
            match serde_json::from_str(&line).unwrap_or_else(|why| panic!("{line}: {why}")) {
                Line::Ready(_) => panic!("ready twice"),
                Line::Sample(sample) => counters.add(&sample.counters),
                Line::Spun { .. } => panic!("no fault was asked for"),
                Line::Error(error) => errors.push(error),
                Line::Ended(books) => ledger = Some(books),
            }
        }
        (self.child.wait().expect("it ends").code(), counters, errors, ledger)
    }

    /// An HTTP request: the status, the headers and the body of the answer.
    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String, String) {
        let control: SocketAddr = self.ready.control.parse().expect("an address");
        let mut stream = TcpStream::connect(control).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let len = body.len();
        let kind = "Content-Type: application/json";
        let token = std::fs::read_to_string(&self.token).expect("the token");
        let token = format!("Authorization: Bearer {}", token.trim());
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {control}\r\nConnection: close\r\n{kind}\r\n\
             {token}\r\nContent-Length: {len}\r\n\r\n{body}"
        )
        .expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.expect("a status"), head.to_lowercase(), body.to_owned())
    }

    fn get(&self, path: &str) -> Value {
        let (status, _, body) = self.ask("GET", path, "");
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|why| panic!("{body}: {why}"))
    }

    fn post(&self, command: &Value) -> Value {
        let (status, _, body) = self.ask("POST", "/command", &command.to_string());
        assert_eq!(status, 200, "{command}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|why| panic!("{body}: {why}"))
    }

    /// A request is refused, and the sentence says why.
    fn refused(&self, method: &str, path: &str, body: &str, words: &str) {
        let (status, _, answer) = self.ask(method, path, body);
        assert_eq!(status, 400, "{path} {body}: {answer}");
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        let why = answer["error"].as_str().expect("a sentence");
        assert!(why.contains(words), "{path} {body}: '{why}' has no '{words}'");
    }

    /// Asks until a value is as wanted.
    fn wait_for(&self, path: &str, pointer: &str, wanted: u64) {
        let start = Instant::now();
        loop {
            let value = self.get(path);
            if value.pointer(pointer) == Some(&json!(wanted)) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{pointer} of {path} is not {wanted}: {value}");
        }
    }
}

#[test]
fn sigterm_answers_what_was_read_and_writes_the_last_counters() {
    const SHAKES: usize = 5_000;
    let mut program = Program::start(&["--packets-per-second", "1000"]);
    let address = program.address();
    let mut peer = Peer::login(address, 7);
    peer.send_bytes(&bytes_of(&Frame::ShakeRequest { user: 7 }).repeat(SHAKES));
    peer.next().expect("the first answer");
    let pid = Pid::from_child(&program.child);
    kill_process(pid, Signal::TERM).expect("it runs");
    let answers = 1 + peer.rest().len();
    assert_eq!(answers, SHAKES, "what had arrived is answered");
    let (code, counters, errors, ledger) = program.end();
    assert_eq!((code, errors), (Some(0), Vec::new()));
    assert_eq!((counters.shakes, counters.logins), (SHAKES as u64, 1));
    let ledger = ledger.expect("the books at the end");
    assert!(ledger.is_balanced() && ledger.granted.count == counters.granted, "{ledger:?}");
    assert!(TcpStream::connect(address).is_err(), "no server listens");
}

/// An answer that another shard has to give is waited for like any other.
#[test]
fn sigterm_answers_what_other_shards_know() {
    const CLAIMS: u32 = 3_000;
    let mut program = Program::start(&[]);
    let mut peers: Vec<_> = (0..6).map(|user| Peer::login(program.address(), user)).collect();
    let packets = (0..CLAIMS).map(|number| lab_server::packets::FIRST_SENT + number);
    let claims: Vec<Vec<u8>> =
        packets.map(|packet| bytes_of(&Frame::ClaimRequest { user: 0, packet })).collect();
    peers.iter_mut().for_each(|peer| peer.send_bytes(&claims.concat()));
    let pid = Pid::from_child(&program.child);
    kill_process(pid, Signal::TERM).expect("it runs");
    for peer in &mut peers {
        assert_eq!(peer.rest().len(), CLAIMS as usize, "claims that were answered");
    }
    let (code, counters, ..) = program.end();
    assert_eq!((code, counters.claims_refused), (Some(0), 6 * u64::from(CLAIMS)));
}

#[test]
fn the_end_of_its_input_and_a_command_stop_it_too() {
    let mut program = Program::start(&[]);
    drop(program.child.stdin.take());
    assert_eq!(program.end().0, Some(0));

    let mut program = Program::start(&[]);
    program.write("nonsense");
    program.write(r#"{"start_generator":{"rate":0}}"#);
    program.write(r#"{"start_generator":{"rate":1000000,"from":1}}"#);
    program.write(r#"{"stop":{}}"#);
    let (code, _, errors, ledger) = program.end();
    assert_eq!((code, errors.len()), (Some(0), 3), "{errors:?}");
    assert!(errors[0].contains("nonsense") && errors[1].contains("rate 0"), "{errors:?}");
    assert!(errors[2].contains("from 1: a Unix second that is over"), "{errors:?}");
    assert!(ledger.is_some());
}

fn run(args: &[&str]) -> Output {
    command(args).stdin(Stdio::null()).output().expect("the program")
}

#[test]
fn bad_arguments_are_refused_in_a_sentence() {
    for (args, words) in [
        (&["--bogus"][..], "--bogus"),
        (&["--listen", "nowhere"], "--listen"),
        (&["--listen", "[::1]:1025"], "--listen"),
        (&["--shards", "many"], "--shards"),
        (&["--cpus", "3-1"], "no range of CPUs"),
        (&["--steering", "sideways"], "auto, hash, cpu"),
        (&["--packet-life", "-1"], "--packet-life"),
        (&["--packet-life=-1"], "--packet-life"),
        (&["--packet-life", "soon"], "--packet-life"),
        (&["--packets-per-second", "0"], "--packets-per-second"),
        (&["--packets-per-second", "9999999"], "--packets-per-second"),
        (&["--users", "0"], "--users 0"),
        (&["--users", "4294967295"], "--users 4294967295"),
        (&["--shards", "0"], "--shards 0"),
        (&["--sets", "0"], "--sets 0"),
        (&["--sets", "99999999"], "--sets 99999999"),
        (&["--queue", "0"], "--queue 0"),
        (&["--queue", "18446744073709551615"], "--queue 18446744073709551615"),
        (&["--packet-life", "1e18"], "(31 days)"),
        (&["--connections", "0"], "--connections 0"),
        (&["--cpus", "4000"], "--cpus 4000"),
        (&["--config", "{"], "--config"),
    ] {
        let anywhere = ["--control", "127.0.0.1:0"];
        let listen: &[&str] =
            if args[0] == "--listen" { &[] } else { &["--listen", "127.0.0.1:0"] };
        let output = run(&[args, listen, &anywhere].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(words), "{args:?}: '{said}' has no '{words}'");
        assert!(!said.contains("panicked"), "{said}");
    }
}

#[test]
fn a_second_server_on_the_port_says_so() {
    let first = Program::start(&[]);
    let Ready { listen, control, .. } = first.ready.clone();
    for (args, words) in [
        (
            ["--listen", listen.as_str(), "--control", "127.0.0.1:0"],
            format!("cannot listen on {listen}"),
        ),
        (
            ["--listen", "127.0.0.1:0", "--control", control.as_str()],
            format!("cannot listen on {control}"),
        ),
    ] {
        let output = run(&[&args[..], &["--shards", "2", "--users", "100"]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&words) && said.contains("in use"), "{said}");
    }
    // The first one has lost nothing by it.
    (0..8).for_each(|user| drop(Peer::login(first.address(), user)));
}

#[test]
fn what_can_be_asked_and_ordered_over_http() {
    let program = Program::start(&[]);
    let mut peer = Peer::login(program.address(), 3);
    let health = program.get("/health");
    assert_eq!(health, json!({"shards": 2, "connections": 1, "users_online": 1, "balanced": true}));

    assert_eq!(program.post(&json!({"start_generator": {"rate": 500}})), json!({"generator": 1}));
    let start = Instant::now();
    while peer.shake().0 != 14 {
        assert!(start.elapsed() < PATIENCE, "no packet came");
    }
    program.post(&json!({"stop_generator": {"id": 1}}));
    let running = |value: &Value| {
        let shards = value["shards"].as_array().expect("shards").iter();
        shards.map(|shard| shard["gauges"]["generators"].as_u64().expect("a level")).sum::<u64>()
    };
    assert_eq!(running(&program.get("/counters")), 0);

    let users = json!({"amount": 90, "recipients": [3, 4, 5]});
    program.post(&json!({ "send_packet": users }));
    let bytes = peer.next().expect("a notice");
    let Frame::SendPacket { packet, amount: 90, count: 3, users: [3, 4, 5] } =
        common::frame_of(&bytes)
    else {
        panic!("{:?}", common::frame_of(&bytes));
    };
    peer.send(&Frame::ClaimRequest { user: 0, packet });
    peer.next().expect("a share");
    program.wait_for("/ledger", "/total/claimed/count", 1);
    let ledger = program.get("/ledger");
    assert_eq!(ledger["balanced"], json!(true));
    assert_eq!(ledger["sets"].as_array().map(Vec::len), Some(8));
    let granted = ledger["total"]["granted"]["count"].as_u64().expect("a number");
    let counters = program.get("/counters");
    assert_eq!(counters["total"]["granted"].as_u64(), Some(granted));
    assert_eq!(counters["total"]["logins"], json!(1));

    program.post(&json!({"overload": {"limit": 0}}));
    let start = Instant::now();
    while peer.shake().0 != 17 {
        assert!(start.elapsed() < PATIENCE, "the limit counts from the next second");
    }
}

#[test]
fn bad_requests_are_refused_in_a_sentence() {
    let program = Program::start(&[]);
    for (body, words) in [
        ("", "EOF"),
        ("{", "EOF"),
        ("{\"dance\":{}}", "dance"),
        ("{\"start_generator\":{}}", "rate"),
        ("{\"start_generator\":{\"rate\":1,\"speed\":2}}", "speed"),
        ("{\"start_generator\":{\"rate\":0}}", "rate 0"),
        ("{\"start_generator\":{\"rate\":5,\"from\":99999999999999}}", "from 99999999999999"),
        ("{\"start_generator\":{\"rate\":5,\"until\":18446744073709551615}}", "a Unix second"),
        (
            "{\"start_generator\":{\"rate\":1000000,\"from\":1}}",
            "from 1: a Unix second that is over",
        ),
        ("{\"start_generator\":{\"rate\":1000001}}", "rate 1000001"),
        ("{\"start_generator\":{\"rate\":9,\"users\":[5,2]}}", "users 5..2"),
        ("{\"start_generator\":{\"rate\":9,\"users\":[0,10001]}}", "users 0..10001"),
        ("{\"start_generator\":{\"rate\":9,\"users\":[5,7]}}", "three different users"),
        ("{\"send_packet\":{\"amount\":9,\"recipients\":[]}}", "0 recipients"),
        ("{\"send_packet\":{\"amount\":9,\"recipients\":[10000]}}", "recipient 10000"),
        ("{\"send_packet\":{\"amount\":9,\"count\":3,\"recipients\":[1,1,2]}}", "count 3"),
        ("{\"send_packet\":{\"amount\":1,\"recipients\":[1,2]}}", "amount 1"),
        ("{\"start_pushes\":{\"bytes\":9999,\"every_s\":1}}", "bytes 9999"),
        ("{\"send_packet\":{\"amount\":100000001,\"recipients\":[1,2]}}", "amount 100000001"),
        ("{\"start_pushes\":{\"bytes\":9,\"every_s\":-1}}", "every_s -1"),
        ("{\"start_pushes\":{\"bytes\":9,\"every_s\":0.001,\"from\":1}}", "that is over"),
        ("{\"start_pushes\":{\"bytes\":9,\"every_s\":1,\"from\":9999999999}}", "from 9999999999"),
    ] {
        program.refused("POST", "/command", body, words);
    }
    for (path, words) in [
        ("/yaohongbao", "qps"),
        ("/yaohongbao?qps=5", "sum"),
        ("/yaohongbao?qps=many&sum=5", "qps"),
        ("/yaohongbao?qps=-5&sum=5", "qps"),
        ("/yaohongbao?qps=0&sum=5", "rate 0"),
        ("/fahongbao?qps=5&sum=5", "min"),
        ("/fahongbao?qps=5&sum=5&min=0&max=10001", "users 0..10001"),
        ("/fahongbao?qps=5&sum=5&min=7&max=7", "users 7..7"),
    ] {
        program.refused("GET", path, "", words);
    }
    assert_eq!(program.ask("GET", "/nowhere", "").0, 404);
    assert_eq!(program.get("/ledger")["total"]["created"]["count"], json!(0), "nothing was done");
}

/// A fault on purpose that a shard would never come back from.
#[test]
fn slow_orders_that_would_stop_a_shard_are_refused() {
    let program = Program::start(&[]);
    let mut peer = Peer::login(program.address(), 3);
    let order = |spin_ns: u64, per_billion: u32| {
        let (from_ns, until_ns) = (0, u64::MAX);
        json!({"slow": {
            "id": 1, "spin_ns": spin_ns, "per_billion": per_billion, "seed": 1,
            "from_ns": from_ns, "until_ns": until_ns,
        }})
    };
    for (spin_ns, per_billion, words) in
        [(u64::MAX, 1_000_000_000, "spin_ns 1844"), (5, u32::MAX, "per_billion 4294967295")]
    {
        program.refused("POST", "/command", &order(spin_ns, per_billion).to_string(), words);
    }
    peer.shake();
    for _ in 0..16 {
        program.post(&order(1, 1));
    }
    program.refused("POST", "/command", &order(1, 1).to_string(), "16 slow orders are in force");
    program.post(&json!({"end_slow": {"id": 1, "until_ns": 1}}));
    program.post(&order(1, 1));
}

/// Far more packets than this build can make: it goes on answering, and counts what it skips.
#[test]
fn generators_that_ask_for_too_much_stop_nobody() {
    let program = Program::start(&[]);
    let mut peer = Peer::login(program.address(), 3);
    let most = json!({"start_generator": {"rate": 1_000_000, "total": u64::MAX}});
    for id in 1..=4 {
        assert_eq!(program.post(&most), json!({ "generator": id }));
    }
    for _ in 5..=8 {
        program.refused("POST", "/command", &most.to_string(), "4000000 packets a second already");
    }
    let skipped = |program: &Program| {
        program.get("/counters")["total"]["packets_skipped"].as_u64().expect("a count")
    };
    let start = Instant::now();
    while skipped(&program) == 0 {
        peer.shake();
        assert!(start.elapsed() < PATIENCE, "four million a second were made");
    }
    assert_eq!(peer.shake().0, 14, "packets enough");
    program.post(&json!({"stop_generator": {}}));
    assert_eq!(program.get("/health")["balanced"], json!(true));
}

#[test]
fn the_requests_of_the_prototypes_scripts() {
    let program = Program::start(&["--control-open"]);
    program.get("/yaohongbao?qps=2000&sum=40");
    program.wait_for("/ledger", "/total/created/count", 40);
    // Three shares each; the range comes as people write it.
    program.get("/fahongbao?qps=2000&sum=10&min=99&max=-10");
    program.wait_for("/ledger", "/total/created/count", 40 + 3 * 10);
    let counters = program.get("/counters");
    assert_eq!(counters["total"]["packets_sent"], json!(10));
    // All there were to be shaken have been made: a user who finds none is told that none will
    // come.
    let mut peer = Peer::login(program.address(), 1);
    let start = Instant::now();
    while peer.shake().0 != 16 {
        assert!(start.elapsed() < PATIENCE, "packets without end");
    }
}

/// OpenMetrics: every sample belongs to a family that was declared before it, counters end in
/// `_total`, values are numbers, and the last line says that it is the last.
#[test]
fn metrics_are_open_metrics() {
    let program = Program::start(&["--packets-per-second", "100"]);
    let mut peer = Peer::login(program.address(), 1);
    (0..5).for_each(|_| assert!(peer.shake().0 > 0));
    let (status, head, text) = program.ask("GET", "/metrics", "");
    assert_eq!(status, 200);
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(text.ends_with("\n# EOF\n"), "{text}");
    let (mut family, mut kind) = ("", "");
    let (mut families, mut shakes) = (Vec::new(), 0.0);
    for line in text.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "HELP", name, help] => {
                assert!(!help.is_empty() && !families.contains(&name), "{line}");
                families.push(name);
                family = name;
            }
            ["#", "TYPE", name, what] => {
                let kinds = ["counter", "gauge", "histogram"];
                assert!(name == family && kinds.contains(&what), "{line}");
                kind = what;
            }
            ["#", "EOF"] => family = "",
            [sample, value] => {
                let (name, labels) = sample.split_once('{').expect("a label");
                let shard = labels.rsplit(',').next();
                assert!([Some("shard=\"0\"}"), Some("shard=\"1\"}")].contains(&shard), "{line}");
                let suffixes: &[&str] = match kind {
                    "counter" => &["_total"],
                    "histogram" => &["_bucket", "_sum", "_count"],
                    _ => &[""],
                };
                let belongs = |suffix: &&str| name.strip_suffix(suffix) == Some(family);
                assert!(suffixes.iter().any(belongs), "{line}");
                let value: f64 = value.parse().unwrap_or_else(|why| panic!("{line}: {why}"));
                shakes += if family == "lab_shakes" { value } else { 0.0 };
            }
            _ => panic!("{line}"),
        }
    }
    assert_eq!(shakes, 5.0);
    assert!(families.len() > 50 && families.contains(&"lab_ledger_granted_cents"), "{families:?}");
}
