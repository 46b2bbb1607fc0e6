//! What is kept over the end of a process and read by the next one: where a run on a fleet stands,
//! and journals of what was set.

use tuning::Directory;

use crate::results::place;

/// The checkpoint of a run on a fleet.
pub(crate) fn checkpoint(bytes: &[u8]) {
    let run = place().join("fleet");
    std::fs::create_dir_all(&run).expect("a directory");
    std::fs::write(run.join("checkpoint.json"), bytes).expect("written");
    drop(run::check_checkpoint(&run).map_err(|error| format!("{error:#}")));
}

/// A journal of a tuning profile; its log behind a NUL.
pub(crate) fn journal(bytes: &[u8]) {
    let directory = place().join("journals");
    std::fs::create_dir_all(&directory).expect("a directory");
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let (record, log) = (&bytes[..end], bytes.get(end + 1..).unwrap_or_default());
    std::fs::write(directory.join("0001.json"), record).expect("written");
    std::fs::write(directory.join("0001.log"), log).expect("written");
    match Directory::new(&directory).profiles() {
        Ok(profiles) => assert_eq!(profiles.len(), 1),
        Err(error) => drop(error.to_string()),
    }
}
