//! The `lab-client` program on its own against a live server: what it prints, how its rate is
//! changed while it runs, how it ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use lab_server::server::Server;
use rustix::process::{Pid, Signal, kill_process};
use service::Config;
use wire::{Decoded, Frame, decode};

/// Nothing here takes longer, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A shard takes a copy of the table of descriptors along. One taken while a child is being started
/// would hold the child's pipes open for good, and who reads them would wait for ever.
static TABLES: Mutex<()> = Mutex::new(());

/// A small server on a free port. Its shards end with the process of the test.
fn server() -> String {
    let listen = "127.0.0.1:0".parse().expect("an address");
    let config = Config { listen, users: 1000, shards: Some(1), ..Config::default() };
    let _alone = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
    let server = Server::start(&config).expect("a server");
    server.address().to_string()
}

fn client(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab-client"));
    command.args(arguments);
    command
}

/// Starts it with pipes for what it says.
fn spawn(command: &mut Command) -> Child {
    let _alone = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
}

/// Runs it to its end.
fn run(command: &mut Command) -> Output {
    spawn(command).wait_with_output().expect("it ran")
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

/// A client under way; it is killed when this is dropped.
struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let mut child = spawn(&mut client(arguments));
        let (tell, lines) = channel();
        let streams: [Box<dyn Read + Send>; 2] = [
            Box::new(child.stdout.take().expect("piped")),
            Box::new(child.stderr.take().expect("piped")),
        ];
        for stream in streams {
            let tell = tell.clone();
            // Ends with the program, or with the test that does not listen any more.
            std::thread::spawn(move || {
                let lines = BufReader::new(stream).lines().map_while(Result::ok);
                let _ = lines.map(|line| tell.send(line)).take_while(Result::is_ok).count();
            });
        }
        Self { child, lines }
    }

    /// The first line that something is found in.
    fn find<T>(&self, mut find: impl FnMut(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("never said, among {seen:#?}");
            };
            if let Some(found) = find(&line) {
                return found;
            }
            seen.push(line);
        }
    }
}

impl Running {
    /// As Ctrl-C does.
    fn interrupt(&self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).expect("it runs");
    }

    /// Waits for its end: the exit code, and everything that it said since.
    fn end(mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + PATIENCE;
        let mut said = String::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => said += &format!("{line}\n"),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("does not end: {said}"),
            }
        }
        (self.child.wait().expect("it ends").code(), said)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The status line and the body of an answer.
fn get(address: &str, path: &str) -> (String, String) {
    ask(address, address, path, "")
}

/// The same of a request to a host of this name, with more lines in its head.
fn ask(address: &str, host: &str, path: &str, more: &str) -> (String, String) {
    let address: SocketAddr = address.parse().expect("an address");
    let mut stream = TcpStream::connect(address).expect("connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
}

/// A server that answers logins and nothing else. Its threads end with the process of the test.
fn silent_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || answer_logins(stream));
        }
    });
    address
}

fn answer_logins(mut stream: TcpStream) {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut chunk) {
        bytes.extend_from_slice(&chunk[..read]);
        while let Decoded::Frame { frame, length, .. } = decode(&bytes) {
            if let Frame::LoginRequest { user } = frame {
                let answer = Frame::LoginResponse { user, result: 0 };
                let mut out = vec![0; answer.encoded_len()];
                answer.encode(0, &mut out).expect("fits");
                stream.write_all(&out).expect("the client reads");
            }
            bytes.drain(..length);
        }
    }
}

/// A number behind a word of a line.
fn number(line: &str, word: &str) -> Option<u64> {
    line.split_whitespace().skip_while(|it| *it != word).nth(1)?.parse().ok()
}

#[test]
fn a_load_is_carried_out_and_summed_up() {
    let server = server();
    // No user is due twice: one who waits for an answer skips no shake.
    let load = ["--users", "0..1000", "--rate", "400", "--seconds", "2", "--chat", "20"];
    let output = run(client(&["--server", &server]).args(load));
    let text = said(&output);
    // On a busy machine the load may have been late, which the exit code says.
    assert!(matches!(output.status.code(), Some(0 | 4)), "{text}");
    assert_eq!(output.status.code() == Some(4), text.contains("INVALID"), "{text}");
    for (word, count) in [("offered", 800), ("sent", 800), ("answered", 800)] {
        let mut lines = text.lines().filter(|line| line.trim_start().starts_with(word));
        assert_eq!(lines.find_map(|line| number(line, word)), Some(count), "{text}");
    }
}

#[test]
fn the_rate_changes_while_it_runs_and_metrics_are_served() {
    let server = server();
    let load = ["--server", &server, "--users", "0..500", "--rate", "100", "--control-open"];
    let running = Running::start(&load);
    let control = running.find(|line| Some(line.split_once("http://")?.1.to_owned()));
    running.find(|line| (number(line, "offered")? == 100).then_some(()));
    let (status, _) = get(&control, "/qps?qps=700");
    assert!(status.contains("200"), "{status}");
    running.find(|line| (number(line, "offered")? == 700).then_some(()));
    let beyond = format!("/qps?qps={}", u64::MAX);
    let wrong = ["/qps?qps=many", "/qps", "/qps?qps=", "/qps?qps=-1", "/qps?qps=4294967295"];
    let others = [beyond.as_str(), "/qps?qps=1e3", "/qps?qps=0.5", "/qps?qps=1&qps=2"];
    for wrong in wrong.into_iter().chain(others) {
        let (status, body) = get(&control, wrong);
        assert!(status.contains("400") && !body.is_empty(), "{wrong}: {status} {body}");
    }
    // None at all is a rate: the load pauses.
    let (status, _) = get(&control, "/qps?qps=0");
    assert!(status.contains("200"), "{status}");
    running.find(|line| (number(line, "offered")? == 0).then_some(()));
    let (status, body) = get(&control, "/metrics");
    assert!(status.contains("200") && body.ends_with("# EOF\n"), "{status} {body}");
    assert!(body.contains("lab_client_answered"), "{body}");
}

#[test]
fn a_client_without_a_rate_gets_one_over_its_control_interface() {
    let server = server();
    let running = Running::start(&["--server", &server, "--users", "0..500", "--control-open"]);
    let control = running.find(|line| Some(line.split_once("http://")?.1.to_owned()));
    running.find(|line| line.contains("all users logged in").then_some(()));
    let (status, _) = get(&control, "/qps?qps=300");
    assert!(status.contains("200"), "{status}");
    running.find(|line| (number(line, "offered")? == 300).then_some(()));
}

#[test]
fn a_rate_asked_for_while_users_connect_is_that_of_the_load() {
    // Three seconds of connecting.
    let load = ["--users", "0..30", "--rate", "100", "--connect-rate", "10", "--control-open"];
    let server = server();
    let running = Running::start(&[&["--server", &server], &load[..]].concat());
    let control = running.find(|line| Some(line.split_once("http://")?.1.to_owned()));
    let (status, _) = get(&control, "/qps?qps=700");
    assert!(status.contains("200"), "{status}");
    running.find(|line| line.contains("all users logged in").then_some(()));
    let first = running.find(|line| number(line, "offered").filter(|offered| *offered > 0));
    assert_eq!(first, 700);
}

#[test]
fn a_closed_load_has_no_rate_to_change() {
    let server = server();
    let load = ["--users", "0..50", "--in-flight", "3", "--control-open"];
    let running = Running::start(&[&["--server", &server], &load[..]].concat());
    let control = running.find(|line| Some(line.split_once("http://")?.1.to_owned()));
    let refused = || {
        let (status, body) = get(&control, "/qps?qps=700");
        assert!(status.contains("409") && body.contains("no open load"), "{status} {body}");
    };
    refused();
    running.find(|line| (number(line, "answered")? > 0).then_some(()));
    refused();
}

#[test]
fn an_interrupt_ends_the_load_and_sums_it_up() {
    let server = server();
    let load = ["--server", &server, "--users", "0..200", "--rate", "100"];
    let running = Running::start(&load);
    running.find(|line| (number(line, "offered")? == 100).then_some(()));
    running.interrupt();
    let (code, said) = running.end();
    // On a busy machine the load may have been late, which the exit code says.
    assert!(matches!(code, Some(0 | 4)), "{code:?} {said}");
    assert_eq!(code == Some(4), said.contains("INVALID"), "{said}");
    assert_eq!(code == Some(0), said.contains("the load was what was asked for"), "{said}");
    let count = |what: &str| {
        let row = |line: &str| number(line, what).filter(|_| line.trim_start().starts_with(what));
        said.lines().find_map(row).unwrap_or_else(|| panic!("no {what}: {said}"))
    };
    assert_eq!((count("sent"), count("lost")), (count("answered"), 0), "{said}");
    assert!(count("answered") >= 100 && said.contains("latency"), "{said}");
}

/// The terminal is closed.
#[test]
fn a_hangup_ends_the_load_as_an_interrupt_does() {
    let server = server();
    let load = ["--server", &server, "--users", "0..20", "--rate", "10"];
    let running = Running::start(&load);
    running.find(|line| (number(line, "offered")? == 10).then_some(()));
    kill_process(Pid::from_child(&running.child), Signal::HUP).expect("it runs");
    let (code, said) = running.end();
    assert!(matches!(code, Some(0 | 4)), "{code:?} {said}");
    assert!(said.contains("answered"), "it sums up: {said}");
}

#[test]
fn without_the_token_nobody_changes_the_rate() {
    let server = server();
    let running = Running::start(&["--server", &server, "--users", "0..500", "--rate", "100"]);
    let token = running.find(|line| {
        let token = line.split_once("Authorization: Bearer ")?.1;
        Some(token.trim_end_matches('\'').to_owned())
    });
    let control = running.find(|line| Some(line.split_once("http://")?.1.to_owned()));
    running.find(|line| (number(line, "offered")? == 100).then_some(()));
    for (more, status) in [
        ("", "401"),
        ("Authorization: Bearer 0123\r\n", "403"),
        ("Authorization: Bearer TOKEN\r\nOrigin: http://evil.example\r\n", "403"),
        ("Authorization: Bearer TOKEN\r\nSec-Fetch-Site: cross-site\r\n", "403"),
    ] {
        let more = more.replace("TOKEN", &token);
        let (said, body) = ask(&control, &control, "/qps?qps=700", &more);
        assert!(said.contains(status) && body.contains("error"), "{more}: {said} {body}");
    }
    let right = format!("Authorization: Bearer {token}\r\n");
    let (said, _) = ask(&control, "evil.example", "/qps?qps=700", &right);
    assert!(said.contains("403"), "{said}");
    let (said, _) = ask(&control, &control, "/qps?qps=300", &right);
    assert!(said.contains("200"), "{said}");
    // The first rate that changed is that of the one who had the token.
    let offered = |line: &str| number(line, "offered").filter(|offered| *offered != 100);
    assert_eq!(running.find(offered), 300);
    let (said, body) = get(&control, "/metrics");
    assert!(said.contains("200") && body.ends_with("# EOF\n"), "{said}");
}

/// As with `lab-client 2>&1 | head -1`.
#[test]
fn a_reader_that_goes_away_does_not_end_the_load() {
    let server = server();
    let load = ["--server", &server, "--users", "0..20", "--rate", "10", "--seconds", "2"];
    let (reads, writes) = std::io::pipe().expect("a pipe");
    let mut child = {
        let _alone = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
        let again = writes.try_clone().expect("a descriptor");
        client(&load).stdout(writes).stderr(again).spawn().expect("it starts")
    };
    let mut line = String::new();
    BufReader::new(reads).read_line(&mut line).expect("a line");
    assert!(line.contains("lab-client"), "{line}");
    let code = child.wait().expect("it ends").code();
    assert!(matches!(code, Some(0 | 4)), "as if it had been read: {code:?}");
}

#[test]
fn an_interrupt_before_the_time_is_over_is_told() {
    let server = server();
    let load = ["--server", &server, "--users", "0..20", "--rate", "10", "--seconds", "999"];
    let running = Running::start(&load);
    running.find(|line| (number(line, "offered")? == 10).then_some(()));
    running.interrupt();
    let (code, said) = running.end();
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("INVALID: the load was ended before its time"), "{said}");
}

#[test]
fn a_second_interrupt_does_not_wait_for_answers() {
    let server = silent_server();
    let load = ["--users", "0..9", "--rate", "5", "--timeout", "3600000"];
    let running = Running::start(&[&["--server", &server], &load[..]].concat());
    running.find(|line| (number(line, "offered")? > 0).then_some(()));
    running.interrupt();
    running.find(|line| line.contains("interrupt again").then_some(()));
    running.interrupt();
    let (code, said) = running.end();
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("INVALID: the client was stopped before the load had ended"), "{said}");
}

#[test]
fn an_interrupt_while_users_connect_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let server = listener.local_addr().expect("bound").to_string();
    let running = Running::start(&["--server", &server, "--users", "0..9", "--rate", "5"]);
    running.find(|line| line.contains("online 0").then_some(()));
    running.interrupt();
    let (code, said) = running.end();
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("stopped before all users were logged in"), "{said}");
}

#[test]
fn users_that_the_server_does_not_have_are_told_of() {
    // Of 1,000 users.
    let server = server();
    let load = ["--server", &server, "--users", "990..1020", "--rate", "5"];
    let (code, said) = Running::start(&load).end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("20 users are not logged in"), "{said}");
}

#[test]
fn bad_input_is_told_in_a_sentence() {
    for (arguments, words) in [
        (["--users", "9..3"], "9..3"),
        (["--rate", "fast"], "fast"),
        (["--server", "nowhere"], "nowhere"),
        (["--pacing", "odd"], "odd"),
        (["--chat", "1e9"], "between 0 and 10000000 a second"),
        (["--chat", "-1"], "--chat"),
        (["--creates", "nan"], "rate NaN"),
        (["--seconds", "18446744073709551615"], "--seconds"),
        (["--seconds", "0"], "--seconds"),
        (["--connect-rate", "0"], "nobody would connect"),
        (["--connect-rate", "nan"], "rate NaN"),
        (["--config", "{}"], "--config"),
    ] {
        let output = run(&mut client(&arguments));
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains(words), "{}", said(&output));
    }
    for (arguments, words) in [
        (["--users", "0..10", "--shards", "0"], "--shards 0"),
        (["--users", "0..10", "--rate", "4294967295"], "rate 4294967295: between 0 and 10000000"),
        (["--users", "0..4294967295", "--rate", "5"], "more than one client can have"),
        (["--control", "0.0.0.0:0", "--rate", "5"], "reached from other machines"),
    ] {
        let mut command = client(&arguments);
        if arguments[0] == "--control" {
            command.arg("--control-open");
        }
        let output = run(&mut command);
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains(words), "{}", said(&output));
    }
}
