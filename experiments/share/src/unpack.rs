//! Unpacks an archive that a stranger may have made: everything is looked at before anything is
//! written, and the directory appears at once or not at all. Must not know: what is done with it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use zip::{CompressionMethod, ZipArchive};

use crate::contents::{self, Kind};
use crate::refused::Refused;
use record::MANIFEST_FILE;

/// The most entries: a run has 12 files and two for each phase that was profiled, and an experiment
/// has fewer than 500 phases.
const MOST_FILES: u64 = 1_000;

/// The most bytes, unpacked: an hour of a million users on a fleet of 17 clients has a tenth.
const MOST_BYTES: u64 = 16 << 30;

/// The most bytes from one: deflate reaches 1,032. Lines of a second in which nothing happened come
/// to 60 (by the recorded runs).
const MOST_DENSE: u64 = 300;

/// What is small is no bomb, however dense.
const SMALL: u64 = 1 << 20;

/// The end of a zip archive without its comment, and the longest comment.
const END: u64 = 22;
const LONGEST_COMMENT: u64 = 65_535;

/// The type of a file in the mode that Unix has of it, and that of a file and of a directory.
const TYPE: u32 = 0o170_000;
const FILE: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;

/// Why nothing is unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It cannot be read.
    #[error("{}: cannot read it", archive.display())]
    Read {
        /// The archive.
        archive: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// What it is.
    #[error("{}: not unpacked: {why}", archive.display())]
    Refused {
        /// The archive.
        archive: PathBuf,
        /// Why.
        why: Refused,
    },
    /// The directory is there.
    #[error("{}: it is there already: name another directory", .0.display())]
    Exists(PathBuf),
    /// The directory cannot be written.
    #[error("{}: cannot write it, and nothing is left of it", directory.display())]
    Write {
        /// The directory.
        directory: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// What was unpacked.
#[derive(Debug)]
pub struct Unpacked {
    /// What of the archive was left out, in sentences.
    pub left_out: Vec<String>,
}

/// An entry to unpack.
struct Entry {
    at: usize,
    name: String,
    size: u64,
}

/// Unpacks the run of an archive into a directory that is not there yet. The page is not taken.
///
/// # Errors
/// [`UnpackError`]; then nothing is written.
pub fn unpack(archive: &Path, into: &Path) -> Result<Unpacked, UnpackError> {
    let unreadable = |source| UnpackError::Read { archive: archive.to_owned(), source };
    let refused = |why| UnpackError::Refused { archive: archive.to_owned(), why };
    if into.symlink_metadata().is_ok() {
        return Err(UnpackError::Exists(into.to_owned()));
    }
    let mut file = platform::open_file(archive).map_err(unreadable)?;
    let said = number_of_entries(&mut file).map_err(unreadable)?;
    if let Some(has) = said.filter(|has| *has > MOST_FILES) {
        return Err(refused(Refused::TooMany { has, most: MOST_FILES }));
    }
    let mut zip = ZipArchive::new(BufReader::new(file))
        .map_err(|error| refused(Refused::NoZip(error.to_string())))?;
    let (entries, left_out) = look(&mut zip).map_err(refused)?;
    write(&mut zip, &entries, into).map_err(|error| match error {
        Failed::Refused(why) => refused(why),
        Failed::Write(source) => UnpackError::Write { directory: into.to_owned(), source },
    })?;
    Ok(Unpacked { left_out })
}

/// How many entries the end of an archive says that there are, so that no list of millions is read.
fn number_of_entries(file: &mut File) -> io::Result<Option<u64>> {
    let len = file.metadata()?.len();
    let tail = len.min(END + LONGEST_COMMENT);
    file.seek(SeekFrom::Start(len - tail))?;
    let mut bytes = Vec::new();
    file.by_ref().take(tail).read_to_end(&mut bytes)?;
    file.rewind()?;
    let ends = bytes.windows(END as usize).filter(|it| it.starts_with(b"PK\x05\x06"));
    // The most that any of them says: which one counts is the reader's to find. 65,535 stands for
    // more.
    Ok(ends.map(|end| u64::from(u16::from_le_bytes([end[10], end[11]]))).max())
}

/// Looks at all entries. Returns those to unpack, and what is left out.
fn look<R: Read + Seek>(zip: &mut ZipArchive<R>) -> Result<(Vec<Entry>, Vec<String>), Refused> {
    if zip.len() as u64 > MOST_FILES {
        return Err(Refused::TooMany { has: zip.len() as u64, most: MOST_FILES });
    }
    let (mut entries, mut left_out): (Vec<Entry>, Vec<String>) = (Vec::new(), Vec::new());
    let (mut names, mut top, mut total) = (BTreeSet::new(), None::<String>, 0_u64);
    for at in 0..zip.len() {
        let entry = zip.by_index_raw(at).map_err(|error| Refused::NoZip(error.to_string()))?;
        let path = String::from_utf8_lossy(entry.name_raw()).into_owned();
        let place = place(&path)?;
        let mode = entry.unix_mode().unwrap_or(0) & TYPE;
        if !matches!(mode, 0 | FILE | DIRECTORY) {
            return Err(Refused::NoFile(path));
        }
        if entry.encrypted() {
            return Err(Refused::Encrypted(path));
        }
        if !names.insert(path.to_lowercase()) {
            return Err(Refused::Twice(path));
        }
        let (size, compressed) = (entry.size(), entry.compressed_size());
        total = total.saturating_add(size);
        if total > MOST_BYTES {
            return Err(Refused::TooLarge { has: total, most: MOST_BYTES });
        }
        if size > SMALL && size / MOST_DENSE > compressed {
            return Err(Refused::TooDense { name: path, size, compressed, most: MOST_DENSE });
        }
        if path.ends_with('/') || mode == DIRECTORY {
            continue;
        }
        let known = place.filter(|(_, name)| contents::kind(name) != Kind::Other);
        let Some((directory, name)) = known else {
            left_out.push(format!("{path} is left out: no run writes it"));
            continue;
        };
        match &top {
            Some(top) if top != directory => {
                return Err(Refused::Several(in_words(top), in_words(directory)));
            }
            Some(_) => {}
            None => top = Some(directory.to_owned()),
        }
        match contents::kind(name) {
            Kind::Picture => left_out.push(format!(
                "{path} is left out: a picture may hold a program; its .folded file has the stacks"
            )),
            // It is made again from the rest.
            Kind::Page => {}
            Kind::OfProcess => left_out.push(format!("{path} is left out: it is of a process")),
            _ => match entry.compression() {
                CompressionMethod::Stored | CompressionMethod::Deflated => {
                    entries.push(Entry { at, name: name.to_owned(), size });
                }
                other => return Err(Refused::Method { name: path, method: other.to_string() }),
            },
        }
    }
    if zip.has_duplicate_names() {
        return Err(Refused::Twice("a file".to_owned()));
    }
    if zip.has_overlapping_entries().map_err(|error| Refused::NoZip(error.to_string()))? {
        return Err(Refused::Overlap);
    }
    if entries.iter().all(|entry| entry.name != MANIFEST_FILE) {
        return Err(Refused::NoRun);
    }
    Ok((entries, left_out))
}

fn in_words(directory: &str) -> String {
    if directory.is_empty() { "its top".to_owned() } else { format!("{directory}/") }
}

/// The directory of an entry and its name in it; `None` where it lies deeper than a run's files.
///
/// # Errors
/// A name that is no place within a directory, on any system.
fn place(path: &str) -> Result<Option<(&str, &str)>, Refused> {
    let wrong = || Refused::Outside(path.to_owned());
    if path.contains(['\0', '\\', ':', '\u{fffd}']) || path.starts_with('/') {
        return Err(wrong());
    }
    let parts: Vec<&str> = path.strip_suffix('/').unwrap_or(path).split('/').collect();
    if parts.iter().any(|part| matches!(*part, "" | "." | "..")) {
        return Err(wrong());
    }
    Ok(match parts[..] {
        [name] => Some(("", name)),
        [directory, name] => Some((directory, name)),
        _ => None,
    })
}

enum Failed {
    Refused(Refused),
    Write(io::Error),
}

/// Writes the entries into a directory beside the place, which then becomes it.
fn write<R: Read + Seek>(
    zip: &mut ZipArchive<R>,
    entries: &[Entry],
    into: &Path,
) -> Result<(), Failed> {
    let there = into.ancestors().skip(1).find(|it| it.is_dir());
    let there = there.filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let stage = tempfile::Builder::new().prefix(".lab-import-").tempdir_in(there);
    let stage = stage.map_err(Failed::Write)?;
    // With the rights that any new directory has.
    let run = stage.path().join("run");
    std::fs::create_dir(&run).map_err(Failed::Write)?;
    for entry in entries {
        extract(zip, entry, &run)?;
    }
    let parent = into.parent().filter(|it| !it.as_os_str().is_empty());
    parent.map_or(Ok(()), std::fs::create_dir_all).map_err(Failed::Write)?;
    std::fs::rename(&run, into).map_err(Failed::Write)
}

/// Writes an entry: so many bytes as the archive says, and with its checksum.
fn extract<R: Read + Seek>(
    zip: &mut ZipArchive<R>,
    entry: &Entry,
    run: &Path,
) -> Result<(), Failed> {
    let other = |why: String| Failed::Refused(Refused::Other { name: entry.name.clone(), why });
    let reader = zip.by_index(entry.at).map_err(|error| other(error.to_string()))?;
    let mut reader = BufReader::with_capacity(1 << 16, reader.take(entry.size.saturating_add(1)));
    let file = File::create_new(run.join(&entry.name)).map_err(Failed::Write)?;
    let mut file = io::BufWriter::with_capacity(1 << 16, file);
    let mut written = 0;
    loop {
        let piece = io::BufRead::fill_buf(&mut reader).map_err(|error| other(error.to_string()))?;
        if piece.is_empty() {
            break;
        }
        written += piece.len() as u64;
        if written > entry.size {
            return Err(other(format!("it has more than its {} bytes", entry.size)));
        }
        io::Write::write_all(&mut file, piece).map_err(Failed::Write)?;
        let len = piece.len();
        io::BufRead::consume(&mut reader, len);
    }
    if written < entry.size {
        return Err(other(format!("it has {written} of its {} bytes", entry.size)));
    }
    io::Write::flush(&mut file).map_err(Failed::Write)
}

#[cfg(test)]
mod tests;
