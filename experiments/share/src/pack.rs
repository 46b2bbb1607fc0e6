//! Packs the directory of a run. The archive appears at once or not at all, and says nothing of who
//! made it when: no owner, no time of a file. Must not know: what a stranger may do to one.

use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use crate::contents::{self, Kind, PAGE, WHOLE, WITH_FAULTS};
use record::{MANIFEST_FILE, SUMMARY_FILE};

/// From this size on an entry has lengths of 64 bits. What deflate cannot compress grows a little.
const LARGE: u64 = 4_000_000_000;

/// Why there is no archive.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// No run.
    #[error("{}: no run: it has no manifest.json", .0.display())]
    NoRun(PathBuf),
    /// The archive is there.
    #[error("{}: it is there already: name another file, or remove it", .0.display())]
    Exists(PathBuf),
    /// A file that cannot be read.
    #[error("{}: cannot read it", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The archive cannot be written.
    #[error("{}: cannot write it, and nothing is left of it", file.display())]
    Write {
        /// The archive.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// What is in an archive, and what is not.
#[derive(Debug)]
pub struct Packed {
    /// The files.
    pub files: Vec<String>,
    /// What a whole run has and this one has not, and what of the directory was left out.
    pub lacks: Vec<String>,
    /// The size of the archive, in bytes.
    pub bytes: u64,
}

/// Packs the run in a directory into a new file, its files under the name of that.
///
/// # Errors
/// [`PackError`]; then nothing is written.
pub fn pack(directory: &Path, out: &Path) -> Result<Packed, PackError> {
    if !directory.join(MANIFEST_FILE).is_file() {
        return Err(PackError::NoRun(directory.to_owned()));
    }
    if out.exists() {
        return Err(PackError::Exists(out.to_owned()));
    }
    let unwritten = |source| PackError::Write { file: out.to_owned(), source };
    let (files, lacks) = choose(directory)
        .map_err(|source| PackError::Read { file: directory.to_owned(), source })?;
    let parent = out.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let top = out.file_stem().map_or_else(|| "run".into(), |stem| stem.to_string_lossy());
    let mut part = tempfile::Builder::new();
    // As any file that is made: what the mask of the process leaves of it.
    let part = part.prefix(".lab-export-").permissions(Permissions::from_mode(0o666));
    let part = part.tempfile_in(parent).map_err(unwritten)?;
    let mut zip = ZipWriter::new(BufWriter::new(part.as_file()));
    for name in &files {
        add(&mut zip, directory, &top, name).map_err(|error| match error {
            Failed::Read(source) => PackError::Read { file: directory.join(name), source },
            Failed::Write(source) => unwritten(source),
        })?;
    }
    zip.finish()
        .map_err(io::Error::from)
        .and_then(|mut written| written.flush())
        .and_then(|()| part.as_file().sync_all())
        .map_err(unwritten)?;
    let bytes = part.as_file().metadata().map_err(unwritten)?.len();
    part.persist_noclobber(out).map_err(|error| match error.error.kind() {
        io::ErrorKind::AlreadyExists => PackError::Exists(out.to_owned()),
        _ => unwritten(error.error),
    })?;
    Ok(Packed { files, lacks, bytes })
}

/// The files to pack, in order, and what is missing or left out.
fn choose(directory: &Path) -> io::Result<(Vec<String>, Vec<String>)> {
    let (mut further, mut lacks) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_file = entry.path().is_file();
        match contents::kind(&name) {
            Kind::OfRun | Kind::Picture | Kind::Page if is_file => further.push(name),
            Kind::OfProcess => {}
            _ => lacks.push(format!("{name} is left out: no run writes it")),
        }
    }
    further.sort();
    lacks.sort();
    let mut files: Vec<String> = Vec::new();
    for name in WHOLE.iter().chain(&WITH_FAULTS) {
        match further.iter().position(|it| it == name) {
            Some(at) => files.push(further.remove(at)),
            None if WITH_FAULTS.contains(name) => {}
            None => lacks.push(format!("{name} is missing: {}", without(name))),
        }
    }
    files.append(&mut further);
    Ok((files, lacks))
}

/// What to do without a file.
fn without(name: &str) -> &'static str {
    let made = name == PAGE || name == SUMMARY_FILE || name.ends_with(".parquet");
    if made { "lab report makes it again" } else { "what it says is in no report of this" }
}

enum Failed {
    Read(io::Error),
    Write(io::Error),
}

fn add(
    zip: &mut ZipWriter<impl Write + io::Seek>,
    directory: &Path,
    top: &str,
    name: &str,
) -> Result<(), Failed> {
    let mut file = platform::open_file(&directory.join(name)).map_err(Failed::Read)?;
    let len = file.metadata().map_err(Failed::Read)?.len();
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .last_modified_time(DateTime::default())
        .unix_permissions(0o644)
        .large_file(len >= LARGE);
    zip.start_file(format!("{top}/{name}"), options)
        .map_err(|error| Failed::Write(error.into()))?;
    copy(&mut file, zip)
}

/// Copies a file, and tells reading from writing.
fn copy(from: &mut File, to: &mut impl Write) -> Result<(), Failed> {
    let mut from = io::BufReader::with_capacity(1 << 16, from);
    loop {
        let piece = io::BufRead::fill_buf(&mut from).map_err(Failed::Read)?;
        if piece.is_empty() {
            return Ok(());
        }
        to.write_all(piece).map_err(Failed::Write)?;
        let len = piece.len();
        io::BufRead::consume(&mut from, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_whole_or_not_there() {
        let place = tempfile::tempdir().expect("a directory");
        let run = place.path().join("run");
        let out = place.path().join("out.zip");
        std::fs::create_dir(&run).expect("made");
        assert!(matches!(pack(&run, &out), Err(PackError::NoRun(_))));
        std::fs::write(run.join(MANIFEST_FILE), "{}").expect("written");
        std::fs::write(run.join("notes.txt"), "mine").expect("written");
        std::fs::create_dir(run.join("summary.json")).expect("in the way");
        std::fs::create_dir(run.join("profile-x.svg")).expect("in the way");
        let packed = pack(&run, &out).expect("packed");
        assert_eq!(packed.files, [MANIFEST_FILE]);
        for name in ["notes.txt is left out", "summary.json is missing", "samples.jsonl is missing"]
        {
            assert!(packed.lacks.iter().any(|it| it.starts_with(name)), "{:?}", packed.lacks);
        }
        assert_eq!(packed.bytes, out.metadata().expect("there").len());
        let before = std::fs::read(&out).expect("there");
        assert!(matches!(pack(&run, &out), Err(PackError::Exists(_))));
        assert_eq!(std::fs::read(&out).expect("there"), before);
        // The same run, the same bytes, whenever it is packed.
        let again = place.path().join("again").join("out.zip");
        assert!(matches!(pack(&run, &again), Err(PackError::Write { .. })));
        std::fs::create_dir(place.path().join("again")).expect("made");
        pack(&run, &again).expect("packed");
        assert_eq!(std::fs::read(&again).expect("there"), before);
        let left = std::fs::read_dir(place.path()).expect("there").count();
        assert_eq!(left, 3, "no file for the time being is left");
    }
}
