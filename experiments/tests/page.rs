//! The pages of recorded runs, read in a browser: at every width, in both themes, on paper, and as
//! a screen reader does.

#[path = "common/browser.rs"]
mod browser;
mod common;

use std::path::{Path, PathBuf};

use browser::Browser;
use common::lab;
use needs::test;
use serde_json::{Value, json};

needs::main!();

/// A phone, an upright tablet, a small notebook, a usual one, a wide screen; and the widths on both
/// sides of where tables become cards.
const WIDTHS: [u32; 7] = [360, 768, 1180, 1181, 1280, 1440, 1920];

/// What an upright A4 page has between its margins, in pixels.
const PAPER: u32 = 703;

/// Pages of all recorded runs.
fn pages() -> (tempfile::TempDir, Vec<PathBuf>) {
    let place = tempfile::tempdir().expect("a directory");
    let runs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded/runs");
    let mut pages = Vec::new();
    for run in std::fs::read_dir(runs).expect("recorded runs").flatten() {
        let copy = place.path().join(run.file_name());
        std::fs::create_dir(&copy).expect("a directory");
        for file in std::fs::read_dir(run.path()).expect("a run").flatten() {
            std::fs::copy(file.path(), copy.join(file.file_name())).expect("copied");
        }
        lab(&["report", copy.to_str().expect("UTF-8")]);
        pages.push(copy.join(report::NAME));
    }
    pages.sort();
    assert_eq!(pages.len(), 7, "{pages:?}");
    (place, pages)
}

fn address(page: &Path) -> String {
    format!("file://{}", page.display())
}

/// The same page with other content.
fn changed(page: &Path, change: impl Fn(&mut Value)) {
    let html = std::fs::read_to_string(page).expect("the page");
    let (before, rest) = html.split_once("id=\"content\">").expect("content");
    let (content, after) = rest.split_once("</script>").expect("an end");
    let mut content: Value = serde_json::from_str(content).expect("JSON");
    change(&mut content);
    let content = content.to_string().replace('<', "\\u003c");
    let html = format!("{before}id=\"content\">{content}</script>{after}");
    std::fs::write(page, html).expect("written");
}

/// Figures as large as those of a long run at full size, each percentile with everything that may
/// stand beside it.
fn enlarge(content: &mut Value) {
    let each = |value: Value| json!({ "p50": value, "p90": value, "p99": value, "p999": value });
    for phase in content["summary"]["phases"].as_array_mut().expect("phases") {
        phase["name"] = format!("phase-{}", phase["name"].as_str().expect("a name")).into();
        phase["seconds"] = 3600.0.into();
        phase["connections"]["established"] = 1_000_000.into();
        for (name, value) in [("answered", 36_000_000), ("skipped", 1_225_130)] {
            phase["shake"][name] = value.into();
        }
        phase["shake"]["offered_rate"] = 60_000.0.into();
        phase["latency_us"] = each(Value::Null);
        phase["latency_at_least_us"] = each(12_345_678.into());
        phase["percentiles_valid"] = each(false.into());
        phase["kernel"]["retransmits"] = 1_234_567.into();
        phase["cpu_us_per_request"] = json!({ "server": 123.4, "client": 234.5 });
    }
}

/// What is wider than its place: the page itself, and what is scrolled in it but for the text of
/// the experiment, whose lines are as long as they are.
const CUT_OFF: &str = r"(() => {
    const cut = [];
    const page = document.documentElement;
    if (page.scrollWidth > innerWidth) cut.push(`the page: ${page.scrollWidth} of ${innerWidth}`);
    for (const it of document.querySelectorAll('div.scroll')) {
        if (it.scrollWidth > it.clientWidth) {
            cut.push(`${it.ariaLabel}: ${it.scrollWidth} of ${it.clientWidth}`);
        }
    }
    for (const cell of document.querySelectorAll('[data-label=valid]')) {
        const { left, right, width } = cell.getBoundingClientRect();
        if (!width || left < 0 || right > innerWidth) cut.push(`valid: ${left} to ${right}`);
    }
    return cut;
})()";

fn assert_nothing_is_cut_off(browser: &mut Browser, place: &str) {
    assert_eq!(browser.evaluate(CUT_OFF), json!([]), "{place}");
}

#[test]
fn no_width_cuts_anything_off_nor_does_paper() {
    let Some(mut browser) = Browser::start() else { return };
    let (_place, pages) = pages();
    let large = pages.iter().find(|page| page.to_string_lossy().contains("first")).expect("a run");
    changed(large, enlarge);
    for page in &pages {
        browser.open(&address(page));
        for (at, width) in WIDTHS.into_iter().enumerate() {
            browser.window(width, 900, at % 2 == 1);
            browser.painted();
            let place = format!("{} at {width}", page.display());
            assert_nothing_is_cut_off(&mut browser, &place);
        }
        browser.window(PAPER, 900, false);
        browser.as_on_paper(true);
        browser.painted();
        assert_nothing_is_cut_off(&mut browser, &format!("{} on paper", page.display()));
        browser.as_on_paper(false);
    }
    browser.window(1280, 900, false);
    browser.open(&address(large));
    let valid = "[...document.querySelectorAll('[data-label=valid]')].map(it => it.cellIndex)";
    assert_eq!(browser.evaluate(valid), json!([1, 1, 1, 1]), "beside the phase's name");
    let shown = "document.querySelector('[data-label=p99]').textContent";
    assert_eq!(browser.evaluate(shown), "≥ 12.3 s (not valid)");
    assert_eq!(browser.said(), Vec::<String>::new());
}

/// Question, answer in a word, and how far down the page the answer ends.
const ANSWERS: &str = "[...document.querySelectorAll('#answers .answer')].map(it => \
    [it.children[0].textContent, it.children[1].textContent, it.children[2].textContent, \
    it.getBoundingClientRect().bottom])";

#[test]
fn the_first_screen_answers_four_questions_in_words() {
    let Some(mut browser) = Browser::start() else { return };
    let (_place, pages) = pages();
    for page in &pages {
        browser.open(&address(page));
        for (width, height) in [(1280, 720), (360, 780)] {
            browser.window(width, height, false);
            browser.painted();
            let answers = browser.evaluate(ANSWERS);
            let asked: Vec<&str> = answers
                .as_array()
                .expect("a list")
                .iter()
                .map(|it| it[0].as_str().expect("a question"))
                .collect();
            let questions = ["Did it hold?", "Why not?", "Was it sound?", "Was the money right?"];
            assert_eq!(asked, questions, "{}", page.display());
            for answer in answers.as_array().expect("a list") {
                let said = [&answer[1], &answer[2]].map(|it| it.as_str().unwrap_or_default().len());
                assert!(said[0] > 1 && said[1] > 10, "{answer}");
                let bottom = answer[3].as_f64().expect("a place");
                // On a phone the longest of them may go on below.
                let most = if width == 360 { 1.25 } else { 1.0 } * f64::from(height);
                assert!(bottom <= most, "{} at {width}: {answer}", page.display());
            }
        }
    }
}

/// Opens whatever can be opened on a page, the box of a second with slow requests included.
const OPEN: &str = "document.querySelectorAll('details').forEach(it => it.open = true); \
    const slow = [...run.slow.keys()][0]; \
    if (slow != null) openSecond(slow, null, true); 0";

#[test]
fn axe_finds_nothing_wrong_with_any_page() {
    let Some(mut browser) = Browser::start() else { return };
    let Some(axe) = browser::axe() else { return };
    let (_place, pages) = pages();
    for (at, page) in pages.iter().enumerate() {
        let dark = at % 2 == 0;
        browser.window(360, 900, dark);
        browser.open(&address(page));
        assert_eq!(browser.findings(&axe), [""; 0], "{} on a phone", page.display());
        browser.window(1280, 900, !dark);
        browser.evaluate(OPEN);
        browser.painted();
        assert_eq!(browser.findings(&axe), [""; 0], "{} with all of it open", page.display());
    }
}

#[test]
fn axe_sees_what_is_wrong() {
    let Some(mut browser) = Browser::start() else { return };
    let Some(axe) = browser::axe() else { return };
    let (_place, pages) = pages();
    browser.window(1280, 900, false);
    browser.open(&address(&pages[0]));
    browser.evaluate("document.querySelector('#answers p').style.color = '#ddd'; 0");
    let findings = browser.findings(&axe);
    assert!(findings.iter().any(|it| it.starts_with("color-contrast")), "{findings:?}");
}
