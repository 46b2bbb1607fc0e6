//! Chromium without a window, driven over the DevTools protocol: what a reader of a page sees, does
//! and is told.

#![allow(dead_code)]

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::stream::MaybeTlsStream;
use tungstenite::{Message, WebSocket};

use crate::common::{PATIENCE, wait_until};

/// The names under which systems have it.
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

fn find() -> Option<&'static str> {
    let paths = std::env::var("PATH").unwrap_or_default();
    NAMES.into_iter().find(|name| paths.split(':').any(|path| Path::new(path).join(name).exists()))
}

/// Names the file of axe-core, which looks for what keeps people out of a page.
const AXE: &str = "LAB_TEST_AXE";

/// The source of axe-core; `None` when this machine has none and none is required. Without
/// `LAB_TEST_AXE` it is where `.ci/run` puts it.
pub(crate) fn axe() -> Option<String> {
    let named = std::env::var_os(AXE).map(PathBuf::from);
    let file = named.or_else(|| {
        let lib = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/python/lib");
        let versions = std::fs::read_dir(lib).ok()?.flatten();
        let files =
            versions.map(|it| it.path().join("site-packages/axe_playwright_python/axe.min.js"));
        files.into_iter().find(|file| file.exists())
    });
    let source = file.and_then(|file| std::fs::read_to_string(file).ok());
    needs::can("axe", source.is_some()).then_some(source?)
}

/// A browser with one page. It ends when this is dropped.
pub(crate) struct Browser {
    child: Child,
    socket: WebSocket<MaybeTlsStream<TcpStream>>,
    session: Option<String>,
    last_id: u64,
    /// Errors and everything else that a page wrote to the console.
    said: Vec<String>,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts one; `None` when this machine has none and none is required.
    pub(crate) fn start() -> Option<Self> {
        let name = find();
        if !needs::can("chromium", name.is_some()) {
            return None;
        }
        let profile = tempfile::tempdir().expect("a directory");
        let mut child = Command::new(name?)
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"])
            .args(["--no-first-run", "--disable-dev-shm-usage", "--disable-background-networking"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("chromium starts");
        let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let (tell, addresses) = channel();
        // What it writes behind its address must go somewhere, or it waits for that.
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some(address) = line.strip_prefix("DevTools listening on ") {
                    // The test may have given up.
                    let _ = tell.send(address.to_owned());
                }
            }
        });
        let Ok(address) = addresses.recv_timeout(PATIENCE) else {
            let _ = child.kill().and_then(|()| child.wait());
            panic!("{name:?} does not say where it listens");
        };
        let (socket, _) = tungstenite::connect(&address).expect("it listens");
        if let MaybeTlsStream::Plain(stream) = socket.get_ref() {
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        }
        let (session, said) = (None, Vec::new());
        let mut it = Self { child, socket, session, last_id: 0, said, _profile: profile };
        let target = it.call("Target.createTarget", &json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = it.call("Target.attachToTarget", &attach);
        it.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page.enable", "Runtime.enable", "Log.enable"] {
            it.call(domain, &json!({}));
        }
        // Durations of the CPU rather than of the clock on the wall.
        it.call("Performance.enable", &json!({ "timeDomain": "threadTicks" }));
        Some(it)
    }

    fn call(&mut self, method: &str, parameters: &Value) -> Value {
        self.try_call(method, parameters).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// The answer, or the error.
    fn try_call(&mut self, method: &str, parameters: &Value) -> Result<Value, Value> {
        self.last_id += 1;
        let mut request = json!({ "id": self.last_id, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            request["sessionId"] = session.as_str().into();
        }
        self.socket.send(Message::text(request.to_string())).expect("it listens");
        loop {
            let answer = self.socket.read().expect("it answers");
            let Message::Text(text) = answer else { continue };
            let mut answer: Value = serde_json::from_str(&text).expect("JSON");
            if answer["id"] == self.last_id {
                return match answer["error"].take() {
                    Value::Null => Ok(answer["result"].take()),
                    error => Err(error),
                };
            }
            self.heard(&answer);
        }
    }

    fn heard(&mut self, event: &Value) {
        let kinds = ["Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"];
        if event["method"].as_str().is_some_and(|method| kinds.contains(&method)) {
            self.said.push(event["params"].to_string());
        }
    }

    /// What pages wrote to the console since the last time.
    pub(crate) fn said(&mut self) -> Vec<String> {
        self.evaluate("0");
        std::mem::take(&mut self.said)
    }

    /// The value of an expression in the page; promises are waited for.
    pub(crate) fn evaluate(&mut self, expression: &str) -> Value {
        self.try_evaluate(expression).unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    /// The same, or the error when the page went away meanwhile.
    fn try_evaluate(&mut self, expression: &str) -> Result<Value, Value> {
        let parameters =
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let mut answer = self.try_call("Runtime.evaluate", &parameters)?;
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        Ok(answer["result"]["value"].take())
    }

    /// Waits until an expression is true. One that a page could not answer because another takes
    /// its place is not true yet.
    pub(crate) fn wait_for(&mut self, expression: &str) {
        wait_until(expression, || match self.try_evaluate(expression) {
            Ok(value) => value == true,
            Err(error) => {
                let why = error["message"].as_str().unwrap_or_default();
                let on_the_way = ["navigated or closed", "context was destroyed", "find context"];
                assert!(on_the_way.iter().any(|it| why.contains(it)), "{expression}: {error}");
                false
            }
        });
    }

    /// CPU time of the page's main thread since it was opened.
    pub(crate) fn cpu_time(&mut self) -> Duration {
        let all = self.call("Performance.getMetrics", &json!({}));
        let mut metrics = all["metrics"].as_array().into_iter().flatten();
        let tasks = metrics.find(|it| it["name"] == "TaskDuration");
        let seconds = tasks.and_then(|it| it["value"].as_f64());
        Duration::from_secs_f64(seconds.unwrap_or_else(|| panic!("no TaskDuration in {all}")))
    }

    /// A window of this size, in the theme that the reader likes.
    pub(crate) fn window(&mut self, width: u32, height: u32, dark: bool) {
        let metrics = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600,
        });
        self.call("Emulation.setDeviceMetricsOverride", &metrics);
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", &media);
    }

    /// The same window, as it goes to paper.
    pub(crate) fn as_on_paper(&mut self, on: bool) {
        let media = if on { "print" } else { "" };
        self.call("Emulation.setEmulatedMedia", &json!({ "media": media }));
    }

    /// What axe-core finds wrong with the page as it is: each rule with its elements.
    pub(crate) fn findings(&mut self, axe: &str) -> Vec<String> {
        self.evaluate(&format!("{axe}; typeof axe.run"));
        let found = self.evaluate(
            "axe.run(document, { resultTypes: ['violations'] }).then(r => ({ \
             passed: r.passes.length, \
             found: r.violations.map(v => `${v.id}: ${v.help}: ` + v.nodes.slice(0, 3).map(n => \
             n.html.slice(0, 200) + ' ' + n.any.map(a => a.message).join('; ')).join(' | ')) }))",
        );
        let passed = found["passed"].as_u64();
        assert!(passed > Some(20), "axe looked at little: {found}");
        let found = found["found"].as_array().expect("a list");
        found.iter().map(|it| it.as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Opens a page and returns how long it took until it was drawn.
    pub(crate) fn open(&mut self, address: &str) -> Duration {
        let began = Instant::now();
        // So that the page before is not taken for this one.
        self.evaluate("window.before = true");
        self.call("Page.navigate", &json!({ "url": address }));
        self.drawn();
        began.elapsed()
    }

    /// The same page again.
    pub(crate) fn reload(&mut self) {
        self.evaluate("window.before = true");
        self.call("Page.reload", &json!({}));
        self.drawn();
    }

    fn drawn(&mut self) {
        self.wait_for("!window.before && document.readyState === 'complete'");
        self.painted();
    }

    /// Waits until what has changed is on the screen.
    pub(crate) fn painted(&mut self) {
        self.evaluate("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))");
    }

    /// Clicks into the middle of an element, `right` of its width from its left edge.
    pub(crate) fn click(&mut self, selector: &str, right: f64) {
        // A page that grows may move what was about to be clicked: then it is clicked where it is.
        wait_until(&format!("a click reaches {selector}"), || {
            let place = self.evaluate(&format!(
                "(() => {{ window.clicked = false; \
                 const it = document.querySelector({selector:?}); \
                 it.addEventListener('click', () => window.clicked = true, {{ capture: true }}); \
                 it.scrollIntoView({{ block: 'start' }}); const r = it.getBoundingClientRect(); \
                 return [r.left + r.width * {right}, r.top + r.height / 2]; }})()"
            ));
            for kind in ["mouseMoved", "mousePressed", "mouseReleased"] {
                let event = json!({
                    "type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1,
                });
                self.call("Input.dispatchMouseEvent", &event);
            }
            self.evaluate("window.clicked") == true
        });
    }

    /// Presses a key.
    pub(crate) fn press(&mut self, key: &str) {
        let code = match key {
            "Tab" => 9,
            "Enter" => 13,
            "Escape" => 27,
            "ArrowLeft" => 37,
            "ArrowRight" => 39,
            _ => 0,
        };
        for kind in ["keyDown", "keyUp"] {
            let event =
                json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code });
            self.call("Input.dispatchKeyEvent", &event);
        }
    }

    /// Prints the page; the bytes of the PDF.
    pub(crate) fn print(&mut self) -> Vec<u8> {
        let printed = self.call("Page.printToPDF", &json!({ "printBackground": true }));
        let data = printed["data"].as_str().expect("base64");
        base64::Engine::decode(&base64::engine::general_purpose::STANDARD, data).expect("base64")
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
