//! Archives of strangers: each is refused with its sentence, and nothing is written.

use std::io::Write;

use zip::write::SimpleFileOptions;
use zip::{DateTime, ZipWriter};

use super::*;

/// An archive of these files.
fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(io::Cursor::new(Vec::new()));
    for (name, bytes) in files {
        let options = SimpleFileOptions::default().last_modified_time(DateTime::default());
        zip.start_file(*name, options).expect("begun");
        zip.write_all(bytes).expect("written");
    }
    zip.finish().expect("whole").into_inner()
}

/// Replaces all of some bytes by as many others.
fn patched(mut bytes: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let places: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(from)).collect();
    assert!(!places.is_empty(), "{from:?}");
    for at in places {
        bytes[at..at + to.len()].copy_from_slice(to);
    }
    bytes
}

/// Unpacks bytes. Returns what is said, and whether anything is left in the directory.
fn unpacked(bytes: &[u8]) -> (Result<Vec<String>, String>, usize) {
    let place = tempfile::tempdir().expect("a directory");
    let file = place.path().join("x.zip");
    std::fs::write(&file, bytes).expect("written");
    let into = place.path().join("deep").join("run");
    let result = unpack(&file, &into).map(|it| it.left_out);
    let result = result.map_err(|error| {
        assert!(!into.exists());
        error.to_string()
    });
    (result, std::fs::read_dir(place.path()).expect("there").count() - 1)
}

const MANIFEST: (&str, &[u8]) = ("r/manifest.json", b"{}");

fn check(what: &str, bytes: &[u8], expected: &str) {
    let (result, left) = unpacked(bytes);
    let said = result.expect_err(what);
    assert!(said.contains(expected), "{what}: {said}");
    assert_eq!(left, 0, "{what}: nothing is written");
}

#[test]
fn what_is_packed_is_unpacked() {
    let place = tempfile::tempdir().expect("a directory");
    let (run, file) = (place.path().join("run"), place.path().join("x.zip"));
    std::fs::create_dir(&run).expect("made");
    for name in ["manifest.json", "samples.jsonl", "profile-a.folded", "profile-a.svg"] {
        std::fs::write(run.join(name), format!("{name}\n").repeat(9)).expect("written");
    }
    std::fs::write(run.join("report.html"), "<script>").expect("written");
    crate::pack(&run, &file).expect("packed");
    let into = place.path().join("deep").join("again");
    let left_out = unpack(&file, &into).expect("unpacked").left_out;
    assert_eq!(left_out.len(), 1, "{left_out:?}");
    assert!(left_out[0].contains("profile-a.svg is left out"), "{left_out:?}");
    let mut names: Vec<_> = std::fs::read_dir(&into).expect("there").flatten().collect();
    names.sort_by_key(std::fs::DirEntry::file_name);
    let names: Vec<_> = names.iter().map(|it| it.file_name()).collect();
    assert_eq!(names, ["manifest.json", "profile-a.folded", "samples.jsonl"], "no page");
    for name in names {
        let read = |at: &Path| std::fs::read(at.join(&name)).expect("there");
        assert_eq!(read(&into), read(&run));
    }
    assert!(matches!(unpack(&file, &into), Err(UnpackError::Exists(_))));
    let flat = archive(&[("manifest.json", b"{}"), ("__MACOSX/._manifest.json", b"x")]);
    let (result, left) = unpacked(&flat);
    assert_eq!((result.expect("unpacked").len(), left), (1, 1));
}

#[test]
fn names_that_lead_out_are_refused() {
    for name in [
        "../manifest.json",
        "r/../../manifest.json",
        "/etc/manifest.json",
        "r//manifest.json",
        "r\\..\\manifest.json",
        "C:/manifest.json",
        "./manifest.json",
        "r/manifest.json\0.txt",
    ] {
        // The writer changes some of these, so they are put in afterwards.
        let stand_in = "x".repeat(name.len());
        let bytes = archive(&[MANIFEST, (&stand_in, b"{}")]);
        let bytes = patched(bytes, stand_in.as_bytes(), name.as_bytes());
        check(name, &bytes, "leads out of the directory");
    }
}

#[test]
fn what_is_no_file_is_refused() {
    let mut zip = ZipWriter::new(io::Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().last_modified_time(DateTime::default());
    zip.start_file("r/manifest.json", options).expect("begun");
    zip.add_symlink("r/samples.jsonl", "/etc/passwd", options).expect("a link");
    let link = zip.finish().expect("whole").into_inner();
    check("a link", &link, "r/samples.jsonl: it is no file");
    let twice = archive(&[MANIFEST, ("r/manifest.jsoN", b"{}")]);
    check("by case alone", &twice, "it is there twice");
    let twice = archive(&[MANIFEST, ("r/manifesu.json", b"{}")]);
    let twice = patched(twice, b"r/manifesu.json", b"r/manifest.json");
    check("a name twice", &twice, "it is there twice");
    let two = archive(&[MANIFEST, ("s/samples.jsonl", b"")]);
    check("two directories", &two, "files of runs in r/ and s/");
    check("no run", &archive(&[("r/samples.jsonl", b"")]), "it has no manifest.json");
    check("no archive", b"{}", "it is no zip archive");
    check("nothing", b"", "it is no zip archive");
    // The flag of encryption, in both headers.
    let secret = patched(archive(&[MANIFEST]), b"PK\x03\x04\x14\0\0\0", b"PK\x03\x04\x14\0\x01\0");
    let at = secret.windows(4).position(|it| it == b"PK\x01\x02").expect("a central header");
    let mut secret = secret;
    secret[at + 8] |= 1;
    check("encrypted", &secret, "it is encrypted");
}

#[test]
fn bombs_are_refused() {
    let zeros = vec![0; 20 << 20];
    check("dense", &archive(&[MANIFEST, ("r/samples.jsonl", &zeros)]), "to one");
    let names: Vec<String> = (0..MOST_FILES + 1).map(|it| format!("r/{it}")).collect();
    let many: Vec<(&str, &[u8])> = names.iter().map(|it| (it.as_str(), &b""[..])).collect();
    check("many", &archive(&many), "it has 1001 files");
    // Sizes that are lies: in the list 4 GiB each, of which no byte is there.
    let names: Vec<String> = (0..9).map(|it| format!("r/profile-{it}.folded")).collect();
    let mut lies: Vec<(&str, &[u8])> = names.iter().map(|it| (it.as_str(), &b"a"[..])).collect();
    lies.push(MANIFEST);
    let mut large = archive(&lies);
    let headers: Vec<usize> =
        (0..large.len()).filter(|at| large[*at..].starts_with(b"PK\x01\x02")).collect();
    for at in headers {
        large[at + 20..at + 28].copy_from_slice(&[0xfe, 0xff, 0xff, 0xff, 0xfe, 0xff, 0xff, 0xff]);
    }
    check("large", &large, "no more than 17179869184 are unpacked");
    // A file that is longer than it says.
    let mut longer = archive(&[MANIFEST, ("r/samples.jsonl", &[b'a'; 5000])]);
    let headers: Vec<usize> =
        (0..longer.len()).filter(|at| longer[*at..].starts_with(b"PK\x01\x02")).collect();
    longer[headers[1] + 24..headers[1] + 28].copy_from_slice(&100_u32.to_le_bytes());
    check("longer than it says", &longer, "samples.jsonl: it is not what the archive says of it");
    // A file whose bytes are others.
    let mut damaged = archive(&[MANIFEST]);
    let at = damaged.windows(4).position(|it| it == b"PK\x01\x02").expect("a central header");
    damaged[at + 16] ^= 1;
    check("another checksum", &damaged, "manifest.json: it is not what the archive says of it");
    let whole = archive(&[MANIFEST, ("r/samples.jsonl", &[b'a'; 500])]);
    for cut in (0..whole.len()).step_by(7) {
        let (result, left) = unpacked(&whole[..cut]);
        assert!(result.is_err() && left == 0, "cut at {cut}");
    }
}
