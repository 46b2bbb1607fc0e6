//! Disks without room: that of an agent, and that of what records a run. The load goes on, what
//! comes waits in memory, and the books close.

mod common;
#[path = "common/lan.rs"]
mod lan;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Running, assert_adds_up, json, lines, number, output, wait_until};
use lan::Lan;
use needs::test;

needs::main!();

/// A disk of this size, in bytes: the files of these runs need a part of it.
const SIZE: u64 = 8 << 20;

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// Does something in a thread with mounts of its own, which its programs share.
fn with_own_mounts(what: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let there = scope.spawn(|| {
            // SAFETY: mounts are unshared alone; descriptors stay those of the process.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }
                .expect("mounts of its own");
            let private = output(Command::new("mount").args(["--make-rprivate", "/"]));
            assert!(private.status.success(), "{private:?}");
            what();
        });
        there.join().expect("no panic");
    });
}

/// A disk, which something else can fill.
struct Disk {
    directory: PathBuf,
}

impl Disk {
    fn mount(directory: PathBuf) -> Self {
        std::fs::create_dir_all(&directory).expect("made");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={SIZE}"), "tmpfs"]).arg(&directory);
        let mounted = output(&mut mount);
        assert!(mounted.status.success(), "{mounted:?}");
        Self { directory }
    }

    fn filler(&self) -> PathBuf {
        self.directory.join("filler")
    }

    /// Something else takes all the room that there is.
    fn fill(&self) {
        let mut filler = File::create(self.filler()).expect("made");
        let piece = [0; 4096];
        while filler.write_all(&piece).is_ok() {}
        assert!(filler.metadata().expect("there").len() > SIZE / 2);
    }

    /// It goes.
    fn free(&self) {
        std::fs::remove_file(self.filler()).expect("removed");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What still uses it keeps it.
        let _ = Command::new("umount").arg("-l").arg(&self.directory).status();
    }
}

/// A run that is whole: each second of its load once, the books closed, and nothing unreadable.
fn assert_whole(out: &Path, phase: usize, offered: u64) {
    let summary = json(out, "summary.json");
    assert_eq!(summary["outcome"], "completed", "{summary}");
    assert_adds_up(&summary);
    let load = &summary["phases"][phase];
    assert_eq!(number(load, "/shake/offered"), offered, "{load}");
    let raw = record::Raw::read(out).expect("the files of a run");
    assert!(raw.damage.is_empty(), "{:?}", raw.damage);
    assert!(raw.manifest.closed);
    let name = load["name"].as_str().expect("a name");
    let recorded: u64 = lines(out, "samples.jsonl")
        .iter()
        .filter(|row| row["source"] == "client" && row["phase"] == name)
        .map(|row| number(row, "/offered"))
        .sum();
    assert_eq!(recorded, offered, "every second is there once");
}

/// The warnings of a run about its files: that one cannot be written, and that it can be again.
fn assert_told(out: &Path) {
    let host = spec::machine::host_name();
    for words in ["No space left on device", "it can be written again"] {
        let told = lines(out, "events.jsonl").into_iter().any(|event| {
            let (from, what) = (event["from"].as_str(), event["what"].as_str());
            let of_file = what.is_some_and(|what| what.contains(path(out)) && what.contains(words));
            of_file && from.is_some_and(|from| from.contains(&host))
        });
        assert!(told, "{words}: {:#?}", lines(out, "events.jsonl"));
    }
}

const LOAD_S: u64 = 8;

fn text() -> String {
    format!(
        "(name: \"x\", users: 1000, probes: Off, network: (namespace: Host),
        server: (shards: 1), client: (shards: 1),
        validity: (late_share: 1.0, client_busy_share: 1.0, because: \"counts are looked at\"),
        phases: [
            (name: \"connect\", connect: (rate: 2000), until: Established, longest_s: 20),
            (name: \"load\", after: Terminated(\"connect\"), seconds: {LOAD_S},
             shake: Open(rate: Fixed(200)), packets: (rate: 10)),
            (name: \"next\", seconds: 3, shake: Open(rate: Fixed(200))),
        ])"
    )
}

#[test]
fn a_run_goes_on_while_its_disk_is_full() {
    if !needs::root() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("x.ron");
    std::fs::write(&file, text()).expect("written");
    with_own_mounts(|| {
        let disk = Disk::mount(directory.path().join("disk"));
        let out = disk.directory.join("out");
        let run = Running::start(&["run", path(&file), "--out", path(&out)]);
        run.wait_for("load 1/");
        disk.fill();
        let told = run.wait_for("lab on ");
        assert!(told.contains(path(&out)) && told.contains("No space left on device"), "{told}");
        run.wait_for("next 1/");
        disk.free();
        run.assert_completed();
        assert_whole(&out, 1, 200 * LOAD_S);
        assert_told(&out);
    });
}

/// The truth about faults waits for room as the rest does, also when that comes after all programs
/// have ended.
#[test]
fn the_truth_about_faults_waits_for_room_until_the_end() {
    if !needs::root() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("x.ron");
    let slow =
        "shake: Open(rate: Fixed(200)), faults: [SlowHandler(us: 100, share: 0.5)]),\n        ])";
    let text = text().replace("shake: Open(rate: Fixed(200))),\n        ])", slow);
    assert!(text.contains("SlowHandler"), "{text}");
    std::fs::write(&file, text).expect("written");
    with_own_mounts(|| {
        let disk = Disk::mount(directory.path().join("disk"));
        let out = disk.directory.join("out");
        let run = Running::start(&["run", path(&file), "--out", path(&out)]);
        run.wait_for("load 1/");
        disk.fill();
        run.wait_for("next 1/");
        let children = format!("/proc/{0}/task/{0}/children", run.id());
        wait_until("all programs have ended", || {
            std::fs::read_to_string(&children).is_ok_and(|it| it.trim().is_empty())
        });
        disk.free();
        run.assert_completed();
        let events = lines(&out, "events.jsonl");
        let ends = events.iter().find(|event| event["event"] == "fault_ends").expect("it ended");
        let spins = number(ends, "/truth/spins");
        assert!(spins > 100, "{ends}");
        let kept = lines(&out, "truth.jsonl").len() as u64;
        assert_eq!(kept + number(ends, "/truth/not_kept"), spins, "{ends}");
    });
}

/// A `lab run` whose words are kept, and which is killed when this is dropped.
struct Heard {
    child: std::process::Child,
    words: PathBuf,
}

impl Heard {
    fn start(file: &Path, out: &Path, words: PathBuf) -> Self {
        let log = File::create(&words).expect("made");
        let mut run = Command::new(env!("CARGO_BIN_EXE_lab"));
        run.args(["run", path(file), "--out", path(out)]).stdin(Stdio::null());
        run.stdout(log.try_clone().expect("a file")).stderr(log);
        Self { child: run.spawn().expect("lab starts"), words }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.words).expect("written")
    }

    fn wait_for(&self, words: &str) {
        wait_until(words, || self.said().contains(words));
    }

    fn interrupt(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it is there");
    }

    fn exit_code(&mut self) -> Option<i32> {
        wait_until("lab ends", || self.child.try_wait().expect("our child").is_some());
        self.child.wait().expect("our child").code()
    }
}

impl Drop for Heard {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What waits when the run is over.
const WAITS: &str = "; this waits up to ";

/// A run whose disk was full when it was interrupted, and which waits for room.
fn interrupted_without_room(within: &Path, name: &str, file: &Path) -> (Disk, PathBuf, Heard) {
    let disk = Disk::mount(within.join(name));
    let out = disk.directory.join("out");
    let run = Heard::start(file, &out, within.join(format!("{name}.log")));
    run.wait_for("load 1/");
    disk.fill();
    run.wait_for("No space left on device");
    run.interrupt();
    run.wait_for(WAITS);
    (disk, out, run)
}

#[test]
fn an_export_and_an_import_without_room_leave_nothing() {
    if !needs::root() {
        return;
    }
    with_own_mounts(|| {
        let place = tempfile::tempdir().expect("a directory");
        let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded/runs/first");
        let whole = place.path().join("whole.zip");
        let disk = Disk::mount(place.path().join("disk"));
        let full = disk.directory.join("away.zip");
        let there = disk.directory.join("run");
        let lab = |arguments: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
            output(command.args(arguments))
        };
        let packed = lab(&["export", path(&run), "--out", path(&whole)]);
        assert_eq!(packed.status.code(), Some(0), "{packed:?}");
        disk.fill();
        for (arguments, what) in [
            (&["export", path(&run), "--out", path(&full)][..], "away.zip: cannot write it"),
            (&["export", path(&run), "--out", path(&full), "--anonymous"], "cannot write it"),
            (&["import", path(&whole), "--out", path(&there)], "run: cannot write it"),
        ] {
            let failed = lab(arguments);
            let said = String::from_utf8_lossy(&failed.stderr).into_owned();
            assert_eq!(failed.status.code(), Some(1), "{said}");
            assert!(said.contains(what) && said.contains("No space left on device"), "{said}");
            let left: Vec<_> =
                std::fs::read_dir(&disk.directory).expect("there").flatten().collect();
            assert_eq!(left.len(), 1, "the filler alone: {left:?}");
        }
        disk.free();
        assert_eq!(lab(&["import", path(&whole), "--out", path(&there)]).status.code(), Some(0));
        assert!(there.join("report.html").is_file());
    });
}

#[test]
fn an_interrupt_while_the_disk_is_full_ends_a_run_as_any_other() {
    if !needs::root() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("x.ron");
    std::fs::write(&file, text()).expect("written");
    with_own_mounts(|| {
        // There is room again before its patience ends.
        let (disk, out, mut run) = interrupted_without_room(directory.path(), "room", &file);
        disk.free();
        assert_eq!(run.exit_code(), Some(5), "{}", run.said());
        assert_eq!(json(&out, "summary.json")["outcome"], "interrupted");
        assert_eq!(json(&out, "manifest.json")["closed"], true);
        assert!(out.join("report.html").is_file());
        // There is none to the end.
        let (disk, out, mut run) = interrupted_without_room(directory.path(), "none", &file);
        run.interrupt();
        assert_eq!(run.exit_code(), Some(5), "{}", run.said());
        assert_says_what_is_where(&run.said(), &out);
        disk.free();
        // What is there is a run that was cut off.
        common::assert_exit(&common::lab(&["report", path(&out)]), 5);
        assert_eq!(json(&out, "summary.json")["outcome"], "incomplete");
    });
}

/// The same for one that is over, and whose record waits for room.
#[test]
fn a_run_that_waits_for_room_alone_can_be_given_up() {
    if !needs::root() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("x.ron");
    std::fs::write(&file, text()).expect("written");
    with_own_mounts(|| {
        let disk = Disk::mount(directory.path().join("disk"));
        let out = disk.directory.join("out");
        let mut run = Heard::start(&file, &out, directory.path().join("log"));
        run.wait_for("next 1/");
        disk.fill();
        run.wait_for(WAITS);
        run.interrupt();
        assert_eq!(run.exit_code(), Some(5), "{}", run.said());
        assert_says_what_is_where(&run.said(), &out);
        let parts = |it: std::fs::DirEntry| it.file_name().to_string_lossy().ends_with(".part");
        let mut files = std::fs::read_dir(&out).expect("there").flatten();
        assert!(!files.any(parts), "nothing half made takes room");
    });
}

/// The table of what there is, and a sentence about what there is not.
fn assert_says_what_is_where(said: &str, out: &Path) {
    assert!(said.contains("phase") && said.contains("connect"), "a table: {said}");
    let about = |line: &&str| line.starts_with("lab: ") && line.contains("missing is");
    let sentence = said.lines().find(about).unwrap_or_else(|| panic!("{said}"));
    let again = format!("lab report {}", out.display());
    for words in ["No space left on device", "how it ended, in manifest.json", &again] {
        assert!(sentence.contains(words), "{words}: {sentence}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_coordinator_goes_on_while_its_disk_is_full() {
    if !lan::can_be() {
        return;
    }
    with_own_mounts(|| {
        let lan = Lan::new(2);
        let _agents = lan.fleet(&[]);
        let disk = Disk::mount(lan.path("disk"));
        let (file, out) = (lan.path("x.ron"), disk.directory.join("out"));
        std::fs::write(&file, text()).expect("written");
        let mut run = lan.run(&[path(&file), "--out", path(&out)]);
        lan.wait_for_phase(&out, "load");
        disk.fill();
        wait_until("it is told", || lan.said("run.log").contains("No space left on device"));
        wait_until("the next phase", || lan.said("run.log").contains("next 1/"));
        // What is not on the coordinator's disk stays with the agents.
        let kept = |it: &serde_json::Value| it["kept"].as_array().is_some_and(|it| it.len() == 1);
        lan.wait_for_hosts(2, "agents keep it", kept);
        disk.free();
        run.assert_completed();
        assert_whole(&out, 1, 200 * LOAD_S);
        assert_told(&out);
        lan.wait_for_hosts(2, "nothing is kept any more", |it| it["kept"] == serde_json::json!([]));
    });
}

#[test]
fn an_agent_goes_on_while_its_disk_is_full() {
    if !lan::can_be() {
        return;
    }
    with_own_mounts(|| {
        let lan = Lan::new(2);
        let disk = Disk::mount(lan.path("state-c1"));
        let mut agents = lan.fleet(&[]);
        let (mut run, out) = lan.run_text(&text());
        lan.wait_for_phase(&out, "load");
        disk.fill();
        lan.wait_for_event(&out, "it is told", |it| {
            let what = it["what"].as_str().unwrap_or_default();
            let words = ["state-c1", ".spool: No space left on device"];
            it["from"] == "c1" && words.iter().all(|words| what.contains(words))
        });
        // To the end, and beyond it.
        run.assert_completed();
        assert_whole(&out, 1, 200 * LOAD_S);
        assert!(lan.said("c1.log").contains("No space left on device"));
        // What it had there is gone, and so is the room that it gave back.
        disk.fill();
        // Nothing is lost with it: the agent is there, and another run finds it once there is room.
        assert!(agents[1].0.try_wait().expect("our child").is_none());
        let again =
            output(&mut lan.lab(None, &["run", path(&lan.path("x.ron")), "--nats", lan::URL]));
        let said = common::said(&again);
        assert!(again.status.code() == Some(2) && said.contains("No space left"), "{said}");
        disk.free();
        let again =
            output(&mut lan.lab(None, &["run", path(&lan.path("x.ron")), "--nats", lan::URL]));
        common::assert_exit(&again, 0);
        agents.clear();
    });
}
