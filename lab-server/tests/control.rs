//! The control interface of `lab-server` among strangers: who may command it, what one who asks and
//! goes away leaves behind, and what a program does whose words nobody reads.

use std::io::{self, BufRead, BufReader, PipeReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use service::{Line, Ready};

/// A test that waits longer for anything has failed.
const PATIENCE: Duration = Duration::from_secs(30);

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A running server, killed with the test.
struct Program {
    child: Child,
    /// What nobody reads, unless a test does.
    lines: BufReader<PipeReader>,
    control: String,
}

impl Drop for Program {
    fn drop(&mut self) {
        // It has ended by itself, mostly.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn server(more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab-server"));
    command.args(["--listen", "127.0.0.1:0", "--shards", "2", "--users", "1000"]).args(more);
    command
}

fn with_token() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    writeln!(file.as_file(), "{TOKEN}").expect("written");
    file
}

impl Program {
    /// With a pipe, and a free port for control.
    fn start(more: &[&str]) -> Self {
        Self::of(server(&["--pipe", "--control", "127.0.0.1:0"]).args(more))
    }

    fn of(command: &mut Command) -> Self {
        let (reads, writes) = std::io::pipe().expect("a pipe");
        let child = command.stdin(Stdio::piped()).stdout(writes).spawn().expect("the program");
        // Only the program may hold the other end, so that its end is seen.
        command.stdout(Stdio::null());
        let mut lines = BufReader::new(reads);
        let mut text = String::new();
        lines.read_line(&mut text).expect("a line");
        let Ok(Line::Ready(Ready { control, .. })) = serde_json::from_str(&text) else {
            panic!("{text}")
        };
        Self { child, lines, control }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    fn address(&self) -> SocketAddr {
        self.control.parse().expect("an address")
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address()).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream
    }

    /// The status and the body of an answer.
    fn ask(&self, method: &str, path: &str, head: &[(&str, &str)], body: &str) -> (u16, String) {
        self.try_to_ask(method, path, head, body).expect("an answer")
    }

    /// The same; where all connections are taken, an answer is cut off or says so.
    fn try_to_ask(
        &self,
        method: &str,
        path: &str,
        head: &[(&str, &str)],
        body: &str,
    ) -> io::Result<(u16, String)> {
        let mut stream = self.connect();
        let mut request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        if head.iter().all(|(name, _)| *name != "Host") {
            request += &format!("Host: {}\r\n", self.control);
        }
        for (name, value) in head {
            request += &format!("{name}: {value}\r\n");
        }
        let length = body.len();
        request += &format!("Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all((request + body).as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok((status.expect("a status"), body.to_owned()))
    }

    /// Cents that were created so far: what a stranger must not change.
    fn created(&self) -> u64 {
        let (status, body) = self.ask("GET", "/ledger", &[], "");
        assert_eq!(status, 200, "{body}");
        let ledger: Value = serde_json::from_str(&body).expect("JSON");
        ledger["total"]["created"]["count"].as_u64().expect("a number")
    }

    /// Waits for its end; its exit code.
    fn end(&mut self) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("it is a child") {
                return status.code();
            }
            assert!(start.elapsed() < PATIENCE, "it does not end");
            std::thread::yield_now();
        }
    }

    /// The lines that are left, when it has ended.
    fn rest(&mut self) -> Vec<Line> {
        let lines = self.lines.by_ref().lines().map(|line| line.expect("text"));
        lines.map(|line| serde_json::from_str(&line).expect("a line")).collect()
    }

    /// A figure of its `/proc/PID/status`, in KiB.
    fn memory(&self, what: &str) -> u64 {
        let status = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(status).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(what)).expect("a figure");
        line.trim_start_matches(':').split_whitespace().next().expect("one").parse().expect("KiB")
    }

    /// How many descriptors it has.
    fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("it runs").count()
    }

    /// Has it say more than a pipe holds, while nobody reads.
    fn fill_pipe(&mut self) {
        let input = self.child.stdin.as_mut().expect("piped");
        let nonsense = "x".repeat(10_000);
        (0..100).for_each(|_| writeln!(input, "{nonsense}").expect("it reads"));
    }
}

const STOP: &str = r#"{"stop":{}}"#;

#[test]
fn a_page_whose_name_was_pointed_here_and_one_from_elsewhere_get_nothing() {
    let file = with_token();
    let file = ["--control-token-file", file.path().to_str().expect("UTF-8")];
    let program = Program::start(&[&file[..], &["--control-host", "lab.example"]].concat());
    let token = format!("Bearer {TOKEN}");
    let token = ("Authorization", token.as_str());
    for stranger in [
        ("Host", "evil.example"),
        ("Host", "evil.example:8989"),
        ("Host", "127.0.0.1.evil.example"),
        ("Origin", "http://evil.example"),
        ("Origin", "http://127.0.0.1:1"),
        ("Origin", "null"),
    ] {
        for (method, path, body) in [
            ("GET", "/health", ""),
            ("GET", "/metrics", ""),
            ("GET", "/ledger", ""),
            ("GET", "/yaohongbao?qps=1000&sum=1000", ""),
            ("POST", "/command", STOP),
        ] {
            let (status, said) = program.ask(method, path, &[stranger, token], body);
            assert!(
                status == 403 && said.contains("error"),
                "{stranger:?} {path}: {status} {said}"
            );
        }
    }
    for host in ["lab.example", "localhost:8989", "[::1]:1", "10.9.8.7"] {
        assert_eq!(program.ask("GET", "/health", &[("Host", host)], "").0, 200, "{host}");
    }
    let own = format!("http://{}", program.control);
    assert_eq!(program.ask("GET", "/health", &[("Origin", &own)], "").0, 200);
    assert_eq!(program.created(), 0, "it goes on, and nobody has changed anything");
}

#[test]
fn what_changes_something_needs_the_token() {
    let file = with_token();
    let mut program =
        Program::start(&["--control-token-file", file.path().to_str().expect("UTF-8")]);
    let half = format!("Bearer {}", &TOKEN[..TOKEN.len() - 1]);
    let right = format!("Bearer {TOKEN}");
    let right = [("Authorization", right.as_str())];
    for (given, status) in [
        (&[][..], 401),
        (&[("Authorization", "Basic abc")], 401),
        (&[("Authorization", TOKEN)], 401),
        (&[("Authorization", half.as_str())], 403),
        (&[right[0], ("Sec-Fetch-Site", "cross-site")], 403),
    ] {
        for (method, path, body) in [
            ("GET", "/yaohongbao?qps=1000&sum=1000", ""),
            ("GET", "/fahongbao?qps=1000&sum=1000&min=0&max=99", ""),
            ("POST", "/command", STOP),
            ("POST", "/command", r#"{"start_generator":{"rate":1000}}"#),
        ] {
            let (got, said) = program.ask(method, path, given, body);
            assert!(got == status && said.contains("error"), "{given:?} {path}: {got} {said}");
            assert!(!said.contains(TOKEN), "{said}");
        }
    }
    assert_eq!(program.created(), 0, "it goes on, and nobody has changed anything");
    assert_eq!(program.ask("GET", "/metrics", &[], "").0, 200, "metrics need none");
    assert_eq!(program.ask("GET", "/health", &[], "").0, 200, "nor does health");
    assert_eq!(program.ask("GET", "/yaohongbao?qps=1000&sum=5", &right, "").0, 200);
    let start = Instant::now();
    while program.created() < 5 {
        assert!(start.elapsed() < PATIENCE, "who has the token may");
    }
    assert_eq!(program.ask("POST", "/command", &right, STOP).0, 200);
    assert_eq!(program.end(), Some(0));
}

#[test]
fn over_a_pipe_alone_nothing_is_changed_over_http() {
    let program = Program::start(&[]);
    let (status, said) = program.ask("POST", "/command", &[], STOP);
    assert!(status == 403 && said.contains("--control-token-file"), "{status} {said}");
    assert_eq!(program.created(), 0);
}

#[test]
fn an_open_interface_takes_the_prototypes_requests_but_not_from_other_pages() {
    let program = Program::start(&["--control-open"]);
    let path = "/yaohongbao?qps=1000&sum=5";
    for stranger in [("Host", "evil.example"), ("Origin", "null"), ("Sec-Fetch-Site", "cross-site")]
    {
        assert_eq!(program.ask("GET", path, &[stranger], "").0, 403, "{stranger:?}");
    }
    assert_eq!(program.created(), 0);
    assert_eq!(program.ask("GET", path, &[], "").0, 200);
    let start = Instant::now();
    while program.created() < 5 {
        assert!(start.elapsed() < PATIENCE, "no packets");
    }
}

#[test]
fn a_token_file_is_made_for_its_owner_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("token");
    let arguments = ["--control-token-file", file.to_str().expect("UTF-8")];
    let mut program = Program::start(&arguments);
    let mode = std::fs::metadata(&file).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let token = std::fs::read_to_string(&file).expect("its owner reads it");
    let token = format!("Bearer {}", token.trim());
    assert_eq!(program.ask("POST", "/command", &[("Authorization", &token)], STOP).0, 200);
    assert_eq!(program.end(), Some(0));
    // The next one has the same.
    let mut program = Program::start(&arguments);
    assert_eq!(program.ask("POST", "/command", &[("Authorization", &token)], STOP).0, 200);
    assert_eq!(program.end(), Some(0));
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).expect("set");
    let output = run(server(&["--control", "127.0.0.1:0"]).args(arguments));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("chmod 600"), "{said}");
}

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().expect("the program")
}

#[test]
fn from_other_machines_only_with_a_token() {
    for more in [&["--control-open"][..], &["--pipe"]] {
        let output = run(server(&["--control", "0.0.0.0:0"]).args(more));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{more:?}: {said}");
        assert!(said.contains("reached from other machines"), "{said}");
    }
    let file = with_token();
    let file = ["--control-token-file", file.path().to_str().expect("UTF-8")];
    let mut program = Program::of(server(&["--pipe", "--control", "0.0.0.0:0"]).args(file));
    program.control = program.control.replace("0.0.0.0", "127.0.0.1");
    let token = format!("Bearer {TOKEN}");
    for (path, without) in [("/health", 200), ("/metrics", 200), ("/counters", 401)] {
        assert_eq!(program.ask("GET", path, &[], "").0, without, "{path}");
        let with = program.ask("GET", path, &[("Authorization", &token)], "").0;
        assert_eq!(with, 200, "{path}");
    }
}

/// Each ledger is some 20 KB: 256 SETs.
#[test]
fn those_who_ask_and_hang_up_leave_nothing_behind() {
    const TIMES: u64 = 3_000;
    let program = Program::start(&["--sets", "256"]);
    let request = format!("GET /ledger HTTP/1.1\r\nHost: {}\r\n\r\n", program.control);
    let hang_up = |times: u64| {
        for _ in 0..times {
            let mut stream = program.connect();
            // One too many is closed already.
            let _ = stream.write_all(request.as_bytes());
        }
        // Until it has seen that they are gone.
        let start = Instant::now();
        while !program.try_to_ask("GET", "/ledger", &[], "").is_ok_and(|it| it.0 == 200) {
            assert!(start.elapsed() < PATIENCE, "their places are never free");
        }
        assert_eq!(program.created(), 0);
    };
    hang_up(300);
    let before = program.memory("RssAnon");
    hang_up(TIMES);
    let grown = program.memory("RssAnon").saturating_sub(before);
    assert!(grown < TIMES, "{grown} KiB more: a kilobyte for each that hung up");
}

#[test]
fn half_requests_hold_few_descriptors_and_not_for_long() {
    const HALF: usize = 500;
    let mut program = Program::start(&[]);
    let before = program.descriptors();
    let half: Vec<_> = (0..HALF)
        .map(|_| {
            let mut stream = program.connect();
            // One too many is closed already.
            let _ = stream.write_all(b"POST /command HTTP/1.1\r\nHost: ");
            stream
        })
        .collect();
    // Others that came since have taken their places, all but the last ones.
    for mut closed in &half[..HALF - 64] {
        let mut said = String::new();
        let ended = closed.read_to_string(&mut said);
        assert!(ended.is_err() || said.is_empty(), "{said}");
    }
    let held = program.descriptors() - before;
    assert!(held <= 64, "{held} of {HALF} are held");
    let start = Instant::now();
    while program.descriptors() > before {
        assert!(start.elapsed() < PATIENCE, "they are held for ever");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(program.ask("GET", "/health", &[], "").0, 200);
    program.signal(Signal::TERM);
    assert_eq!(program.end(), Some(0));
}

/// Connections that ask nothing give way to who asks: health is answered, and SIGTERM heeded.
#[test]
fn who_holds_connections_and_asks_nothing_keeps_nobody_out() {
    const HELD: usize = 200;
    let mut program = Program::start(&[]);
    let request = format!("GET /health HTTP/1.1\r\nHost: {}\r\n\r\n", program.control);
    let held: Vec<TcpStream> = (0..HELD)
        .map(|_| {
            let mut stream = program.connect();
            stream.write_all(request.as_bytes()).expect("sent");
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).expect("each of them is answered");
            assert_eq!(&answer, b"HTTP/1.1 200");
            stream
        })
        .collect();
    for _ in 0..10 {
        assert_eq!(program.ask("GET", "/health", &[], "").0, 200);
    }
    program.signal(Signal::TERM);
    assert_eq!(program.end(), Some(0));
    drop(held);
}

#[test]
fn a_program_whose_words_nobody_reads_answers_and_ends_and_they_arrive_when_they_are_read() {
    let mut program = Program::start(&[]);
    program.fill_pipe();
    // Not read for a while.
    (0..20).for_each(|_| assert_eq!(program.ask("GET", "/health", &[], "").0, 200));
    program.signal(Signal::TERM);
    let rest = program.rest();
    assert_eq!(program.end(), Some(0));
    let errors = rest.iter().filter(|line| matches!(line, Line::Error(_))).count();
    assert_eq!(errors, 100, "not one was lost");
    assert!(matches!(rest.last(), Some(Line::Ended(_))), "{:?}", rest.last());
}

#[test]
fn a_program_whose_words_are_never_read_ends_as_well() {
    let mut program = Program::start(&[]);
    program.fill_pipe();
    (0..20).for_each(|_| assert_eq!(program.ask("GET", "/health", &[], "").0, 200));
    // A second signal does not wait for a reader.
    let start = Instant::now();
    while program.child.try_wait().expect("it is a child").is_none() {
        assert!(start.elapsed() < PATIENCE, "it does not end");
        program.signal(Signal::TERM);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(program.end(), Some(0));
}

/// The terminal is closed.
#[test]
fn a_hangup_ends_it_in_order_unless_it_was_told_to_outlive_it() {
    let mut program = Program::start(&[]);
    program.signal(Signal::HUP);
    assert_eq!(program.end(), Some(0));
    assert!(matches!(program.rest().last(), Some(Line::Ended(_))));

    // As nohup does.
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"trap "" HUP; exec "$@""#, "sh", env!("CARGO_BIN_EXE_lab-server")]);
    shell.args(["--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--pipe", "--shards", "1"]);
    let mut program = Program::of(&mut shell);
    program.signal(Signal::HUP);
    (0..20).for_each(|_| assert_eq!(program.ask("GET", "/health", &[], "").0, 200));
    program.signal(Signal::TERM);
    assert_eq!(program.end(), Some(0));
}

/// A port that was free a moment ago.
fn free_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound").to_string()
}

#[test]
fn without_anybody_to_tell_it_works_and_fails_as_with_somebody() {
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").expect("it is there");
    let closed = || std::io::pipe().expect("a pipe").1;
    for nobody in [Stdio::from(full()), Stdio::from(closed())] {
        let control = free_port();
        let mut command = server(&["--control", &control]);
        let child = command.stdin(Stdio::null()).stdout(closed()).stderr(nobody);
        let child = child.spawn().expect("the program");
        let (reads, _) = std::io::pipe().expect("a pipe");
        let mut program = Program { child, lines: BufReader::new(reads), control };
        let start = Instant::now();
        while TcpStream::connect(program.address()).is_err() {
            assert!(start.elapsed() < PATIENCE, "it does not listen");
            std::thread::yield_now();
        }
        assert_eq!(program.ask("GET", "/health", &[], "").0, 200);
        program.signal(Signal::TERM);
        assert_eq!(program.end(), Some(0));
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = listener.local_addr().expect("bound").to_string();
    for nobody in [Stdio::from(full()), Stdio::from(closed())] {
        let mut command = server(&["--control", &taken]);
        let status = command.stdin(Stdio::null()).stderr(nobody).status().expect("the program");
        assert_eq!(status.code(), Some(1), "an error, and no panic");
    }
}
