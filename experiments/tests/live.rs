//! The live page: watched in a browser while a run goes on, and told what a person tells it.

#[path = "common/browser.rs"]
mod browser;
mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;

use browser::Browser;
use common::{PATIENCE, Running, assert_adds_up, json, lab, lines, said, wait_until};
use needs::test;
use serde_json::Value;

needs::main!();

/// Long enough for everything that is done to it; it is ended by an order.
const EXPERIMENT: &str = r#"(
    name: "live",
    users: 300,
    network: (namespace: Host),
    validity: (late_share: 1.0, client_busy_share: 1.0, because: "only its page matters"),
    phases: [
        (name: "connect", connect: (), until: Established, longest_s: 30),
        (name: "shake", seconds: 600, shake: Open(rate: Fixed(400)), packets: (rate: 20), faults: [
            SlowHandler(us: 3000, share: 0.05),
        ]),
    ],
)"#;

/// The address of a page, and its token.
fn page_of(line: &str) -> (String, String) {
    let address = line.strip_prefix("live page: http://").expect("an address");
    let (host, token) = address.split_once("/#token=").expect("a token");
    (host.to_owned(), token.to_owned())
}

fn start(directory: &Path) -> (Running, String, String) {
    let file = directory.join("live.ron");
    std::fs::write(&file, EXPERIMENT).expect("written");
    let out = directory.join("run");
    let [file, out] = [&file, &out].map(|it| it.to_str().expect("UTF-8"));
    let running = Running::start(&["run", file, "--out", out, "--live", "127.0.0.1:0"]);
    let (host, token) = page_of(&running.wait_for("live page: "));
    (running, host, token)
}

/// An answer: its status and its text, of which a stream has no end.
struct Answer {
    status: u16,
    text: BufReader<TcpStream>,
}

impl Answer {
    fn whole(mut self) -> String {
        let mut text = String::new();
        self.text.read_to_string(&mut text).expect("text");
        text
    }

    /// The data of the next event of a kind in a stream.
    fn event(&mut self, kind: &str) -> (Option<u64>, Value) {
        let (mut event, mut id) = (String::new(), None);
        loop {
            let mut line = String::new();
            assert!(self.text.read_line(&mut line).expect("a stream") > 0, "it has ended");
            if let Some(name) = line.strip_prefix("event: ") {
                event = name.trim().to_owned();
            } else if let Some(number) = line.strip_prefix("id: ") {
                id = number.trim().parse().ok();
            } else if let Some(data) = line.strip_prefix("data: ").filter(|_| event == kind) {
                return (id, serde_json::from_str(data).expect("JSON"));
            }
        }
    }
}

fn ask(host: &str, head: &str, body: &str) -> Answer {
    let mut stream = TcpStream::connect(host).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let length = body.len();
    // HTTP/1.0: the answer ends with the connection, and comes without chunks.
    let (first, rest) = head.split_once('\n').unwrap_or((head, ""));
    let request =
        format!("{first} HTTP/1.0\r\nhost: {host}\r\ncontent-length: {length}\r\n{rest}\r\n{body}");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut text = BufReader::new(stream);
    let mut line = String::new();
    text.read_line(&mut line).expect("a status");
    let status = line.split(' ').nth(1).and_then(|it| it.parse().ok()).expect("a status");
    while line.trim() != "" {
        line.clear();
        text.read_line(&mut line).expect("a head");
    }
    Answer { status, text }
}

fn order(host: &str, token: Option<&str>, body: &str) -> (u16, String) {
    let token = token.map_or_else(String::new, |it| format!("authorization: Bearer {it}\r\n"));
    let head = format!("POST /order\ncontent-type: application/json\r\n{token}");
    let answer = ask(host, &head, body);
    (answer.status, answer.whole())
}

#[test]
fn orders_need_the_token_and_sense() {
    let directory = tempfile::tempdir().expect("a directory");
    let (running, host, token) = start(directory.path());
    running.wait_for("shake 2/600 s");
    let rate = r#"{"rate": {"qps": 700}}"#;
    for (given, status) in [(None, 401), (Some(""), 401), (Some("00"), 403)] {
        let (said, text) = order(&host, given, rate);
        assert_eq!(said, status, "{text}");
        assert!(text.contains("the token that was printed"), "{text}");
    }
    for (body, status) in [
        ("{", 400),
        (r#"{"stop": {}}"#, 422),
        (r#"{"rate": {"qps": 0}}"#, 400),
        (r#"{"send_packet": {"amount": 5, "recipients": [300]}}"#, 400),
    ] {
        let (said, text) = order(&host, Some(&token), body);
        assert!(said == status || (status == 422 && said == 400), "{body}: {said} {text}");
        let text: Value = serde_json::from_str(&text).expect("JSON");
        assert!(text["error"].is_string(), "{text}");
    }
    // Nothing of that has reached the run.
    let out = directory.path().join("run");
    assert!(lines(&out, "events.jsonl").iter().all(|it| it["event"] != "ordered"));
    // The order of somebody who watches from another process does, with that one's token.
    let watching =
        Running::start(&["live", out.to_str().expect("UTF-8"), "--listen", "127.0.0.1:0"]);
    let (other, other_token) = page_of(&watching.wait_for("live page: "));
    assert_eq!(order(&other, Some(&token), rate).0, 403);
    let (status, text) = order(&other, Some(&other_token), rate);
    assert_eq!(status, 200, "{text}");
    wait_until("the rate is another", || {
        let samples = lines(&out, "samples.jsonl");
        let second = |t: u64| -> u64 {
            let of = samples.iter().filter(|it| it["source"] == "client" && it["t"] == t);
            of.filter_map(|it| it["offered"].as_u64()).sum()
        };
        samples.iter().filter_map(|it| it["t"].as_u64()).any(|t| second(t) == 700)
    });

    // Metrics have what the samples have.
    let answer = ask(&host, "GET /metrics", "");
    assert_eq!(answer.status, 200);
    let metrics = answer.whole();
    let answered: f64 = metrics
        .lines()
        .find_map(|line| line.strip_prefix("lab_run_client_answered_total "))
        .expect("a counter")
        .parse()
        .expect("a number");
    let all: u64 = lines(&out, "samples.jsonl")
        .iter()
        .filter(|it| it["source"] == "client")
        .filter_map(|it| it["answered"].as_u64())
        .sum();
    assert!(answered > 0.0 && answered <= all as f64, "{answered} of {all}");

    assert_eq!(order(&host, Some(&token), r#"{"end_phase": {}}"#).0, 200);
    // The phase was cut short: it is not what the file asked for.
    assert_eq!(running.exit_code(), Some(4));
    wait_until("the socket is gone", || !out.join("orders.sock").exists());
    let (status, text) = order(&other, Some(&other_token), rate);
    assert_eq!(status, 409, "{text}");
    assert!(text.contains("the run does not go on"), "{text}");
    let events = lines(&out, "events.jsonl");
    let ordered: Vec<&Value> = events.iter().filter(|it| it["event"] == "ordered").collect();
    assert_eq!(ordered.len(), 2, "{ordered:?}");
    watching.signal(rustix::process::Signal::INT);
    assert_eq!(watching.exit_code(), Some(0));
}

#[test]
fn a_stream_resumes_where_it_was_left() {
    let directory = tempfile::tempdir().expect("a directory");
    let (running, host, token) = start(directory.path());
    running.wait_for("shake 8/600 s");
    let mut stream = ask(&host, "GET /events", "");
    assert_eq!(stream.status, 200);
    let (_, about) = stream.event("run");
    assert_eq!(about["experiment"]["name"], "live");
    let (id, all) = stream.event("data");
    let first = all["first"].as_u64().expect("a second");
    let id = id.expect("an id");
    assert_eq!(all["length"].as_u64(), Some(id + 1 - first));
    let (_, news) = stream.event("data");
    assert_eq!(news["first"].as_u64(), Some(id - 5), "only what may have changed");
    drop(stream);
    let mut stream = ask(&host, &format!("GET /events\nlast-event-id: {id}\r\n"), "");
    let (next, news) = stream.event("data");
    assert_eq!(news["first"].as_u64(), Some(id - 5));
    assert!(next >= Some(id));
    assert_eq!(order(&host, Some(&token), r#"{"end_phase": {}}"#).0, 200);
    assert_eq!(running.exit_code(), Some(4));
}

/// How long a thread has run, in seconds.
fn ran(pid: u32, name: &str) -> Option<f64> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let task = tasks.flatten().map(|it| it.path()).find(|task| {
        std::fs::read_to_string(task.join("comm")).is_ok_and(|it| it.trim() == name)
    })?;
    let stat = std::fs::read_to_string(task.join("schedstat")).ok()?;
    Some(stat.split(' ').next()?.parse::<f64>().ok()? / 1e9)
}

/// A run that is over, read from the repository.
fn recorded(directory: &Path) -> std::path::PathBuf {
    copied(directory, "first")
}

fn copied(directory: &Path, name: &str) -> std::path::PathBuf {
    let runs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded/runs");
    let from = runs.join(name);
    let run = directory.join("recorded");
    std::fs::create_dir(&run).expect("a directory");
    for file in std::fs::read_dir(from).expect("a run").flatten() {
        std::fs::copy(file.path(), run.join(file.file_name())).expect("copied");
    }
    run
}

/// A page of it, and its port and token.
fn watch(run: &Path, listen: &str) -> (Running, String, String) {
    let watching = Running::start(&["live", run.to_str().expect("UTF-8"), "--listen", listen]);
    let line = watching.wait_for("live page: http://");
    let (address, token) = line.split_once("token=").expect("a token");
    let port = address.rsplit_once(':').expect("a port").1;
    let port: String = port.chars().take_while(char::is_ascii_digit).collect();
    (watching, format!("127.0.0.1:{port}"), token.to_owned())
}

/// An answer to a GET with its head.
fn head_of(host: &str, path: &str, head: &str) -> String {
    let mut stream = TcpStream::connect(host).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let request = format!("GET {path} HTTP/1.0\r\nhost: {host}\r\n{head}\r\n");
    stream.write_all(request.as_bytes()).expect("it reads");
    let (mut text, mut line) = (String::new(), String::new());
    let mut stream = BufReader::new(stream);
    while line != "\r\n" {
        line.clear();
        assert!(stream.read_line(&mut line).expect("a head") > 0, "{text}");
        text += &line;
    }
    text
}

/// Where other machines reach it, the page shows itself to nobody without the token; a browser that
/// has it is let in, and sees everything.
#[test]
fn a_page_that_other_machines_reach_needs_the_token() {
    let directory = tempfile::tempdir().expect("a directory");
    let (watching, host, token) = watch(&recorded(directory.path()), "0.0.0.0:0");
    for path in ["/", "/events", "/report.html"] {
        let answer = ask(&host, &format!("GET {path}"), "");
        assert_eq!(answer.status, 401, "{path}");
        assert!(answer.whole().contains("the token that was printed"), "{path}");
        assert_eq!(ask(&host, &format!("GET {path}?token=00"), "").status, 403, "{path}");
    }
    assert_eq!(ask(&host, "GET /metrics", "").status, 200, "for everybody");
    assert_eq!(order(&host, None, r#"{"end_phase": {}}"#).0, 401);

    let welcome = head_of(&host, &format!("/?token={token}"), "");
    let field = |name: &str| {
        let line = welcome.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name} is not in {welcome}")).trim().to_owned()
    };
    assert!(welcome.starts_with("HTTP/1.0 303"), "{welcome}");
    assert_eq!(field("location:"), format!("/#token={token}"));
    let cookie = field("set-cookie:");
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let cookie = cookie.split(';').next().expect("a pair");
    let with = format!("cookie: {cookie}\r\n");
    assert_eq!(ask(&host, &format!("GET /\n{with}"), "").status, 200);
    let mut stream = ask(&host, &format!("GET /events\n{with}"), "");
    assert_eq!(stream.status, 200);
    assert!(stream.event("data").1["length"].as_u64() > Some(0), "seconds of the run");
    watching.signal(rustix::process::Signal::HUP);
    assert_eq!(watching.exit_code(), Some(0), "a closed terminal is an end in order");
}

/// Readers of the stream have a number of their own: one too many is told so, and whoever asks for
/// the page or for metrics is answered.
#[test]
fn many_readers_of_the_stream_keep_nobody_from_the_page() {
    let directory = tempfile::tempdir().expect("a directory");
    let (watching, host, _) = watch(&recorded(directory.path()), "127.0.0.1:0");
    let mut readers: Vec<Answer> = (0..32).map(|_| ask(&host, "GET /events", "")).collect();
    assert!(readers.iter().all(|reader| reader.status == 200));
    for _ in 0..64 {
        let refused = ask(&host, "GET /events", "");
        assert_eq!(refused.status, 503);
        let said = refused.whole();
        assert!(said.contains("32 pages follow this run already"), "{said}");
    }
    for path in ["/", "/metrics"] {
        assert_eq!(ask(&host, &format!("GET {path}"), "").status, 200, "{path}");
    }
    // Those that were there are told of the run, and one that goes makes room.
    for reader in &mut readers {
        reader.event("run");
    }
    drop(readers.pop());
    wait_until("there is room again", || ask(&host, "GET /events", "").status == 200);
    watching.signal(rustix::process::Signal::TERM);
    assert_eq!(watching.exit_code(), Some(0));
}

#[test]
fn a_run_is_watched_and_steered_in_a_browser() {
    let Some(mut browser) = Browser::start() else { return };
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path().join("run");
    let (running, host, token) = start(directory.path());
    browser.window(1280, 900, false);
    browser.open(&format!("http://{host}/#token={token}"));
    browser.wait_for("run.length > 8 && !!run.phaseAt(run.first + run.length - 3)");
    assert_eq!(browser.evaluate("location.hash"), "", "the token stays nobody's business");
    let shown = "document.getElementById('token-form').getClientRects().length";
    assert_eq!(browser.evaluate(shown), 0, "it is known, and not asked for");
    browser.wait_for(
        "(() => { const u = charts[0].plot; if (!u) return false; \
         const { width, height } = u.ctx.canvas; const copy = document.createElement('canvas'); \
         [copy.width, copy.height] = [width, height]; \
         const c = copy.getContext('2d', { willReadFrequently: true }); \
         c.drawImage(u.ctx.canvas, 0, 0); const { data } = c.getImageData(0, 0, width, height); \
         return new Set(new Uint32Array(data.buffer)).size > 20; })()",
    );
    browser.click("#chart-rate .u-over", 0.9);
    browser.wait_for("document.querySelectorAll('#second tbody tr').length > 2");
    browser.press("Escape");

    // A reload brings everything back.
    let before = browser.evaluate("[run.first, run.length]");
    browser.reload();
    browser.wait_for(&format!("run.length >= {}", before[1]));
    assert_eq!(browser.evaluate("run.first"), before[0]);
    let length = browser.evaluate("run.length").as_u64().expect("seconds");
    let (began, time) = (ran(running.id(), "lab-live"), std::time::Instant::now());
    browser.wait_for(&format!("run.length >= {}", length + 5));
    let used = ran(running.id(), "lab-live").zip(began).map(|(now, began)| now - began);
    let share = used.expect("the thread is there") / time.elapsed().as_secs_f64();
    println!("the live page took {:.2}% of a core, with a test's build", share * 100.0);
    assert!(share < 0.1, "{share}");

    // Every order has its button.
    browser.evaluate("document.getElementById('rate-qps').value = '650'");
    browser.click("#rate button", 0.5);
    browser.wait_for("document.getElementById('said').textContent.startsWith('650 shakes')");
    browser.wait_for("run.at('client.offered', run.first + run.length - 3) === 650");
    browser.evaluate("document.getElementById('generator-rate').value = '100'");
    browser.evaluate("document.getElementById('generator-total').value = '200'");
    browser.click("#generator button", 0.5);
    browser.wait_for("run.column('shares.created').some(value => value >= 100)");
    browser.click("#send button", 0.5);
    browser.wait_for("run.notes.filter(it => it[1] === 'ordered').length === 3");
    browser.click("#stop-generators", 0.5);
    browser.wait_for("run.notes.filter(it => it[1] === 'ordered').length === 4");
    for (width, dark) in [(390, true), (1280, false)] {
        browser.window(width, 844, dark);
        browser.wait_for(&format!("document.documentElement.scrollWidth <= {width}"));
    }
    assert_eq!(browser.said(), Vec::<String>::new());
    browser.click("#end-phase", 0.5);
    browser.wait_for("document.getElementById('now').textContent.includes('carried out')");
    browser.wait_for("document.getElementById('end-phase').disabled");
    browser.wait_for("document.querySelectorAll('#verdicts .verdict').length >= 2");
    assert_eq!(running.exit_code(), Some(4));
    // The stream has ended with it, and the page knows why.
    browser.wait_for("document.getElementById('link').textContent.startsWith('The run is over')");
    // A browser writes it down when a stream ends before the page has closed it.
    let stream = format!("http://{host}/events");
    let said: Vec<String> =
        browser.said().into_iter().filter(|line| !line.contains(&stream)).collect();
    assert_eq!(said, Vec::<String>::new());
    assert_adds_up(&json(&out, "summary.json"));
    assert!(out.join("report.html").exists());
}

#[test]
fn axe_finds_nothing_wrong_with_a_live_page() {
    let Some(mut browser) = Browser::start() else { return };
    let Some(axe) = browser::axe() else { return };
    let directory = tempfile::tempdir().expect("a directory");
    // One that was killed still looks as if it went on: its buttons can be pressed.
    let (watching, host, _) = watch(&copied(directory.path(), "killed"), "127.0.0.1:0");
    for (width, dark) in [(360, false), (1280, true)] {
        browser.window(width, 900, dark);
        browser.open(&format!("http://{host}/"));
        browser.wait_for("run.length > 5 && !document.getElementById('end-phase').disabled");
        browser.wait_for("document.getElementById('link').textContent === ''");
        assert_eq!(browser.findings(&axe), [""; 0], "at {width}");
    }
    watching.signal(rustix::process::Signal::TERM);
    assert_eq!(watching.exit_code(), Some(0));
}

#[test]
fn an_address_that_is_taken_is_said_before_anything_begins() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("live.ron");
    std::fs::write(&file, EXPERIMENT).expect("written");
    let out = directory.path().join("run");
    let [file, out_text] = [&file, &out].map(|it| it.to_str().expect("UTF-8"));
    let output = lab(&["run", file, "--out", out_text, "--live", &address]);
    common::assert_exit(&output, 1);
    assert!(said(&output).contains(&format!("cannot listen on {address}")), "{}", said(&output));
    assert!(!out.exists());
    let output = lab(&["live", directory.path().to_str().expect("UTF-8")]);
    common::assert_exit(&output, 2);
}
