//! Archives that somebody sends: unpacked into a directory that has nothing but files of a run, or
//! refused with nothing left.

use crate::results::place;

/// An archive.
pub(crate) fn archive(bytes: &[u8]) {
    let top = place().join("archive");
    let (file, into) = (top.join("x.zip"), top.join("run"));
    // What an input before has left.
    let _ = std::fs::remove_dir_all(&top);
    std::fs::create_dir_all(&top).expect("a directory");
    std::fs::write(&file, bytes).expect("written");
    let unpacked = share::unpack(&file, &into);
    match &unpacked {
        Ok(unpacked) => drop(unpacked.left_out.join("\n")),
        Err(error) => drop(error.to_string()),
    }
    let there = std::fs::read_dir(&top).expect("there").count();
    assert_eq!(there, if unpacked.is_ok() { 2 } else { 1 }, "nothing beside it is written");
    if unpacked.is_ok() {
        assert!(into.join("manifest.json").is_file(), "it is a run");
        for entry in std::fs::read_dir(&into).expect("there").flatten() {
            assert!(entry.file_type().is_ok_and(|it| it.is_file()), "{entry:?} is a file");
        }
    }
}
