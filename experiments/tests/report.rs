//! The page of a run: made of whatever is left of its files, read in a browser as a person does.

#[path = "common/browser.rs"]
mod browser;
mod common;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use browser::Browser;
use common::{assert_exit, json, lab, lines, said};
use needs::test;
use serde_json::Value;

needs::main!();

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// Slow requests in two of its seconds, for certain and for anybody who runs this.
const EXPERIMENT: &str = r#"(
    name: "page",
    about: "A run </script><b>for the tests of its page</b>.",
    users: 500,
    network: (namespace: Host),
    validity: (late_share: 1.0, client_busy_share: 1.0, because: "only its page matters"),
    phases: [
        (name: "connect", connect: (), until: Established, longest_s: 30),
        (name: "shake", seconds: 6, shake: Open(rate: Fixed(400)), packets: (rate: 50), faults: [
            SlowHandler(us: 4000, share: 0.05, from_s: 2, until_s: 4),
        ]),
    ],
)"#;

/// A run that all tests read and none changes.
fn a_run() -> &'static Path {
    static RUN: OnceLock<PathBuf> = OnceLock::new();
    RUN.get_or_init(|| {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report");
        // What an earlier run of the tests left.
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).expect("a directory");
        let (file, out) = (directory.join("page.ron"), directory.join("run"));
        std::fs::write(&file, EXPERIMENT).expect("written");
        let output = lab(&["run", path(&file), "--out", path(&out)]);
        assert_exit(&output, 0);
        assert!(said(&output).contains("report.html"), "{}", said(&output));
        out
    })
}

/// A copy of it, to be damaged.
fn a_copy() -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a directory");
    for entry in std::fs::read_dir(a_run()).expect("a directory").flatten() {
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("copied");
    }
    std::fs::remove_file(copy.path().join(report::NAME)).expect("it had a page");
    copy
}

/// What a page has to say, as its scripts read it.
fn content(directory: &Path) -> Value {
    let html = std::fs::read_to_string(directory.join(report::NAME)).expect("the page");
    let (_, rest) = html.split_once("id=\"content\">").expect("content");
    let (content, _) = rest.split_once("</script>").expect("an end");
    serde_json::from_str(content).expect("JSON")
}

fn address(directory: &Path) -> String {
    format!("file://{}", directory.join(report::NAME).display())
}

/// Changes the books of a run.
fn edit_books(run: &Path, change: impl Fn(&mut Value)) {
    let edited = lines(run, "events.jsonl").into_iter().map(|mut event| {
        if event["event"] == "books" {
            change(&mut event);
        }
        format!("{event}\n")
    });
    std::fs::write(run.join("events.jsonl"), edited.collect::<String>()).expect("written");
}

#[test]
fn a_run_of_which_the_books_alone_fail_is_not_a_good_one() {
    let copy = a_copy();
    let report = || {
        let output = lab(&["report", path(copy.path())]);
        let summary = json(copy.path(), "summary.json");
        let phases = summary["phases"].as_array().expect("phases");
        assert!(phases.iter().all(|phase| phase["valid"] == true), "{phases:?}");
        (output, summary["ledger"].clone())
    };
    let (output, ledger) = report();
    assert_exit(&output, 0);
    assert_eq!(ledger["balanced"], true, "{ledger}");
    // A user's receipt of one packet is gone. Then the same with a connection that was lost while a
    // request was under way: that explains a share, and one of so many cents, but this one was not
    // written to it.
    let take_cents = |money: &mut Value| {
        money["count"] = (money["count"].as_u64().expect("shares") - 1).into();
        money["amount"] = (money["amount"].as_u64().expect("cents") - 1).into();
    };
    edit_books(copy.path(), |books| {
        take_cents(&mut books["received_by_clients"]);
        take_cents(&mut books["clients"]["granted"]);
    });
    for (lost, because) in [
        (0, "missing shares: 1 that the server sent"),
        (1, "missing shares: 1 of 1 cents; what the server wrote to connections that did not read"),
    ] {
        edit_books(copy.path(), |books| books["clients"]["in_flight_lost"] = lost.into());
        let (output, ledger) = report();
        assert_exit(&output, 4);
        assert_eq!(ledger["balanced"], false, "{ledger}");
        assert!(ledger["because"].as_str().is_some_and(|why| why.starts_with(because)), "{ledger}");
        assert!(said(&output).contains("missing shares: 1"), "{}", said(&output));
    }
}

#[test]
fn a_page_says_what_the_files_say() {
    let out = a_run();
    let content = content(out);
    let summary = json(out, "summary.json");
    assert_eq!(content["summary"], summary);
    assert_eq!(content["problems"], serde_json::json!([]));
    let data = &content["data"];
    let first = data["first"].as_u64().expect("a second");
    let samples = lines(out, "samples.jsonl");
    for (column, source, name) in [
        ("client.answered", "client", "answered"),
        ("server.shakes", "server", "shakes"),
        ("client.online", "client", "online"),
    ] {
        for (at, value) in data["columns"][column].as_array().expect("a column").iter().enumerate()
        {
            let of_second = samples.iter().filter(|line| {
                line["source"] == source && line["t"].as_u64() == Some(first + at as u64)
            });
            let expected: Option<u64> =
                of_second.map(|line| line[name].as_u64()).reduce(|a, b| Some(a? + b?)).flatten();
            assert_eq!(value.as_u64(), expected, "{column} of second {at}");
        }
    }
    let created: u64 = data["columns"]["cents.created"]
        .as_array()
        .expect("a column")
        .iter()
        .filter_map(Value::as_u64)
        .sum();
    assert_eq!(Some(created), summary["ledger"]["created"]["amount"].as_u64());
    assert_eq!(data["bands"][0]["kind"], "slow_handler");
    let verdicts = content["verdicts"].as_array().expect("verdicts");
    let held = verdicts[1]["held"].as_str().expect("a sentence");
    assert!(held.starts_with("All 2,400 shakes were answered; "), "{held}");
    // The same page is made again from the raw files alone.
    let copy = a_copy();
    std::fs::remove_file(copy.path().join("summary.json")).expect("removed");
    assert_exit(&lab(&["report", path(copy.path())]), 0);
    assert_eq!(self::content(copy.path())["data"], *data);
}

#[test]
fn a_broken_line_is_named_and_the_rest_is_shown() {
    for (file, number, line) in [
        ("samples.jsonl", 7, "{\"t\": 12, \"source\": \"clie"),
        ("samples.jsonl", 3, "[1, 2]"),
        ("slow.jsonl", 1, "\u{0}\u{0}\u{0}"),
        ("events.jsonl", 2, "{}"),
        ("latency.hlog", 9, "Tag=shake:latency,1.000,1.000,0.1,HISTbroken"),
    ] {
        let copy = a_copy();
        let text = std::fs::read_to_string(copy.path().join(file)).expect("text");
        let mut all: Vec<&str> = text.lines().collect();
        all[number - 1] = line;
        std::fs::write(copy.path().join(file), all.join("\n") + "\n").expect("written");
        let output = lab(&["report", path(copy.path())]);
        assert_exit(&output, 1);
        let place = format!("{file}:{number}: ");
        assert!(said(&output).contains(&format!("lab: {place}")), "{}", said(&output));
        let content = content(copy.path());
        let problems = content["problems"].as_array().expect("problems");
        assert!(problems.iter().all(|it| it.as_str().unwrap_or("").starts_with(&place)));
        assert!(content["data"]["length"].as_u64() >= Some(6), "{file}");
        assert!(content["summary"]["phases"][1]["shake"]["answered"].as_u64() > Some(0));
        assert!(content["summary"]["missing"]["files.1"].is_string());
    }
}

#[test]
fn a_run_cut_off_anywhere_has_a_page() {
    for file in ["samples.jsonl", "events.jsonl", "slow.jsonl", "latency.hlog"] {
        for part in [0, 1, 17, 50, 83] {
            let copy = a_copy();
            let bytes = std::fs::read(copy.path().join(file)).expect("bytes");
            let kept = &bytes[..bytes.len() * part / 100];
            std::fs::write(copy.path().join(file), kept).expect("written");
            // What a kill leaves does not have what is made in the end either.
            let _ = std::fs::remove_file(copy.path().join("summary.json"));
            let output = lab(&["report", path(copy.path())]);
            let code = output.status.code();
            assert!(matches!(code, Some(0 | 4 | 5)), "{file} {part}%: {}", said(&output));
            assert_eq!(content(copy.path())["problems"], serde_json::json!([]), "{file} {part}%");
        }
        let copy = a_copy();
        std::fs::remove_file(copy.path().join(file)).expect("removed");
        let output = lab(&["report", path(copy.path())]);
        assert_exit(&output, 1);
        assert!(said(&output).contains(&format!("lab: {file}: ")), "{}", said(&output));
        assert!(copy.path().join(report::NAME).exists());
    }
}

#[test]
fn a_manifest_that_is_newer_broken_or_missing_does_not_hide_the_rest() {
    type Damage<'a> = (&'static str, &'a dyn Fn(&Path));
    let newer = |copy: &Path| {
        let mut manifest = json(copy, "manifest.json");
        manifest["format"] = 2.into();
        manifest["experiment"] = "a text now".into();
        std::fs::write(copy.join("manifest.json"), manifest.to_string()).expect("written");
    };
    let broken = |copy: &Path| {
        std::fs::write(copy.join("manifest.json"), "{\"format\": 1,").expect("written");
    };
    let missing = |copy: &Path| {
        std::fs::remove_file(copy.join("manifest.json")).expect("removed");
    };
    let cases: [Damage<'_>; 3] = [
        ("a newer lab wrote this run", &newer),
        ("manifest.json", &broken),
        ("manifest.json", &missing),
    ];
    for (sentence, damage) in cases {
        let copy = a_copy();
        let before = std::fs::read(copy.path().join("summary.json")).expect("a summary");
        damage(copy.path());
        let output = lab(&["report", path(copy.path())]);
        assert_exit(&output, 1);
        assert!(said(&output).contains(sentence), "{}", said(&output));
        let content = content(copy.path());
        assert!(content["data"]["length"].as_u64() >= Some(6));
        // A summary that cannot be made again stays as it was, and is shown.
        let after = std::fs::read(copy.path().join("summary.json")).expect("a summary");
        assert_eq!(before, after);
        assert!(content["verdicts"].is_array());
    }
}

#[test]
fn a_directory_that_is_no_run_gets_a_sentence_and_no_page() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("notes.txt"), "nothing").expect("written");
    for no_run in [directory.path().to_owned(), directory.path().join("not there")] {
        let output = lab(&["report", path(&no_run)]);
        assert_exit(&output, 2);
        assert!(said(&output).contains("is this the directory of one?"), "{}", said(&output));
        assert!(!no_run.join(report::NAME).exists());
    }
}

/// The run, `times` over, one after the other.
fn long_run(times: u64) -> tempfile::TempDir {
    let copy = a_copy();
    let span = 20;
    for file in ["samples.jsonl", "slow.jsonl"] {
        let all = lines(a_run(), file);
        let mut text = String::new();
        for k in 0..times {
            for line in &all {
                let mut line = line.clone();
                line["t"] = (line["t"].as_u64().expect("a second") + k * span).into();
                writeln!(text, "{line}").expect("a string");
            }
        }
        std::fs::write(copy.path().join(file), text).expect("written");
    }
    copy
}

#[test]
fn a_page_of_150_seconds_is_small() {
    let copy = long_run(8);
    let began = Instant::now();
    let problems = report::write(copy.path(), record::Problems::default()).expect("a page");
    println!("the page of 150 s was made in {:?}, with a test's build", began.elapsed());
    assert!(problems.is_empty());
    let size = std::fs::metadata(copy.path().join(report::NAME)).expect("the page").len();
    println!("it has {size} bytes");
    assert!(size < 3_000_000, "{size} bytes");
}

/// Of each canvas: how many of its pixels are not like its first one, and how many colours it has.
const PIXELS: &str = r"[...document.querySelectorAll('figure canvas')].map(it => {
    const copy = document.createElement('canvas');
    [copy.width, copy.height] = [it.width, it.height];
    const c = copy.getContext('2d', { willReadFrequently: true });
    c.drawImage(it, 0, 0);
    const { data } = c.getImageData(0, 0, it.width, it.height);
    const seen = new Uint32Array(data.buffer);
    let drawn = 0;
    const colours = new Set();
    for (const pixel of seen) {
        drawn += pixel !== seen[0];
        colours.add(pixel);
    }
    return [it.closest('figure').id, drawn / seen.length, colours.size];
})";

/// Whether the line of a series of the first chart goes where its values are: pixels of its colour
/// there, in every second.
const LINE: &str = r"(() => {
    const chart = charts[0];
    const u = chart.plot;
    const { canvas } = u.ctx;
    const copy = document.createElement('canvas');
    [copy.width, copy.height] = [canvas.width, canvas.height];
    const c = copy.getContext('2d', { willReadFrequently: true });
    c.drawImage(canvas, 0, 0);
    const it = chart.all.find(it => it.label === 'answers received by clients');
    const wanted = [1, 3, 5].map(at => parseInt(it.ink.slice(at, at + 2), 16));
    return it.values.every((value, at) => {
        if (value == null) return true;
        const x = u.valToPos(chart.run.times[at] + 0.5, 'x', true);
        const y = u.valToPos(value, 'y', true);
        const { data } = c.getImageData(Math.round(x) - 2, Math.round(y) - 3, 5, 7);
        for (let i = 0; i < data.length; i += 4) {
            if (wanted.every((part, k) => Math.abs(part - data[i + k]) < 40)) return true;
        }
        return false;
    });
})()";

/// No wider than the window, and every picture drawn.
fn assert_readable(browser: &mut Browser, width: u32) {
    let widest = browser.evaluate("document.documentElement.scrollWidth");
    let fits = widest.as_u64().is_some_and(|widest| widest <= u64::from(width));
    assert!(fits, "{widest} of {width} pixels");
    let pixels = browser.evaluate(PIXELS);
    let pixels = pixels.as_array().expect("a list");
    assert!(pixels.len() >= 11, "{pixels:?}");
    for canvas in pixels {
        let (drawn, colours) = (canvas[1].as_f64(), canvas[2].as_u64());
        assert!(drawn > Some(0.01) && colours > Some(5), "{canvas}");
    }
    assert_eq!(browser.evaluate(LINE), true, "the line is not where its values are");
}

/// Finds a second and its requests with the keyboard alone, from the top of the page.
fn read_with_keyboard(browser: &mut Browser, t: &serde_json::Value) {
    browser.reload();
    browser.press("Tab");
    assert_eq!(browser.evaluate("document.activeElement.className"), "skip");
    browser.press("Enter");
    let focused =
        "document.activeElement.closest('figure')?.id + ' ' + document.activeElement.className";
    for _ in 0..40 {
        browser.press("Tab");
        if browser.evaluate(focused) == "chart-latency plot" {
            break;
        }
    }
    assert_eq!(browser.evaluate(focused), "chart-latency plot");
    let steps = browser.evaluate(&format!("{t} - run.first + 1")).as_u64().expect("steps");
    for _ in 0..steps {
        browser.press("ArrowRight");
    }
    let heard = browser.evaluate("document.querySelector('#chart-latency-now').textContent");
    assert!(heard.as_str().is_some_and(|it| it.contains("phase shake: largest ")), "{heard}");
    browser.press("Enter");
    assert_eq!(
        browser.evaluate("[chosen, document.activeElement.id]"),
        serde_json::json!([t, "second"])
    );
    browser.press("Escape");
    assert_eq!(browser.evaluate(focused), "chart-latency plot");
    let shown = "charts[0].plot.scales.x.max - charts[0].plot.scales.x.min";
    let all = browser.evaluate(shown).as_f64();
    browser.press("+");
    browser.wait_for(&format!("{shown} < {}", all.expect("seconds") * 0.7));
    browser.press("Escape");
    browser.wait_for(&format!("{shown} > {}", all.expect("seconds") * 0.9));
}

#[test]
fn a_page_is_read_with_mouse_and_keyboard_in_both_themes_and_on_paper() {
    let Some(mut browser) = Browser::start() else { return };
    for (width, height) in [(1280, 900), (390, 844)] {
        for dark in [false, true] {
            browser.window(width, height, dark);
            browser.open(&address(a_run()));
            assert_readable(&mut browser, width);
            let paper = browser.evaluate("getComputedStyle(document.body).backgroundColor");
            assert_eq!(paper != "rgb(255, 255, 255)", dark, "{paper}");
        }
    }
    browser.window(1280, 900, false);
    browser.open(&address(a_run()));
    let about = browser.evaluate("document.querySelector('#top p').textContent");
    assert_eq!(about, "A run </script><b>for the tests of its page</b>.");
    // Two of the 6 seconds have slow requests for certain: the fault's.
    let t = browser.evaluate("run.bands[0].start + 1");
    let place = format!(
        "(() => {{ const u = charts[0].plot; \
         return u.valToPos({t} + 0.5, 'x') / u.over.clientWidth; }})()"
    );
    let place = browser.evaluate(&place).as_f64().expect("a place");
    browser.click("#chart-rate .u-over", place);
    browser.wait_for("!document.getElementById('second').hidden");
    assert_eq!(browser.evaluate("chosen"), t);
    let rows = "document.querySelectorAll('#second tbody tr').length";
    assert!(browser.evaluate(rows).as_u64() >= Some(3));
    let slowest = browser.evaluate("document.querySelector('#second tbody td').textContent");
    let expected = lines(a_run(), "slow.jsonl");
    let expected = expected.iter().filter(|line| line["t"] == t);
    let expected = expected.filter_map(|line| line["latency_us"].as_u64()).max().expect("some");
    let expected = browser.evaluate(&format!("us({expected})"));
    assert_eq!(slowest, expected);
    browser.press("Escape");
    browser.wait_for("document.getElementById('second').hidden");

    read_with_keyboard(&mut browser, &t);
    let pdf = browser.print();
    assert!(pdf.starts_with(b"%PDF") && pdf.len() > 50_000, "{} bytes", pdf.len());
    assert_eq!(browser.said(), Vec::<String>::new());
}

#[test]
fn a_page_with_nothing_says_so_without_an_error() {
    let Some(mut browser) = Browser::start() else { return };
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("samples.jsonl"), "").expect("written");
    assert_exit(&lab(&["report", path(directory.path())]), 1);
    browser.window(390, 844, false);
    browser.open(&address(directory.path()));
    let problems = "document.querySelector('#problems').textContent";
    let problems = browser.evaluate(problems);
    assert!(problems.as_str().is_some_and(|it| it.contains("manifest.json")), "{problems}");
    let absent = "document.querySelectorAll('figure .absent').length - charts.length";
    assert_eq!(browser.evaluate(absent), 0);
    assert_eq!(browser.said(), Vec::<String>::new());
}

#[test]
fn an_hour_opens_without_delay() {
    let Some(mut browser) = Browser::start() else { return };
    let copy = long_run(180);
    report::write(copy.path(), record::Problems::default()).expect("a page");
    let size = std::fs::metadata(copy.path().join(report::NAME)).expect("the page").len();
    browser.window(1280, 900, false);
    let before = browser.cpu_time();
    let took = browser.open(&address(copy.path()));
    let cpu = browser.cpu_time();
    println!("an hour, {size} bytes: drawn after {took:?}, {cpu:?} of CPU ({before:?} before)");
    assert!(browser.evaluate("run.length").as_u64() >= Some(3580));
    assert_readable(&mut browser, 1280);
    // A person takes a second for a delay. What else runs makes it take longer, but is not its
    // work: that is a quarter of a second here.
    assert!(cpu > before && cpu < Duration::from_secs(2), "{cpu:?}");
    assert_eq!(browser.said(), Vec::<String>::new());
}
