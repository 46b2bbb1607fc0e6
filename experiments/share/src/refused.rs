//! Why an archive is not unpacked: it is none, or it would do what no export of a run does.

/// Why an archive is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Not the format.
    #[error("it is no zip archive that can be read: {0}")]
    NoZip(String),
    /// More files than a run has.
    #[error("it has {has} files, and no run has more than {most}")]
    TooMany {
        /// Those that it has, or more.
        has: u64,
        /// The bound.
        most: u64,
    },
    /// Larger than a run.
    #[error("unpacked it has {has} bytes, and no more than {most} are unpacked")]
    TooLarge {
        /// What it says that it has.
        has: u64,
        /// The bound.
        most: u64,
    },
    /// What no file of a run compresses to.
    #[error(
        "{name}: {size} bytes from {compressed} are more than {most} to one, and no file of a run \
         is so"
    )]
    TooDense {
        /// The file.
        name: String,
        /// Its bytes, as the archive says.
        size: u64,
        /// Those it has in the archive.
        compressed: u64,
        /// The bound.
        most: u64,
    },
    /// Other bytes than it says.
    #[error("{name}: it is not what the archive says of it: {why}")]
    Other {
        /// The file.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// A name that is no file's in the directory.
    #[error("{0:?}: the name leads out of the directory, or is none")]
    Outside(String),
    /// A link, a device or the like.
    #[error("{0}: it is no file (a link or a device)")]
    NoFile(String),
    /// Two of a name.
    #[error("{0}: it is there twice")]
    Twice(String),
    /// With a password.
    #[error("{0}: it is encrypted")]
    Encrypted(String),
    /// Compressed in another way.
    #[error("{name}: it is compressed by {method}, and an export by deflate")]
    Method {
        /// The file.
        name: String,
        /// How.
        method: String,
    },
    /// Parts of it are in each other.
    #[error("its files overlap each other")]
    Overlap,
    /// Several directories.
    #[error("it has files of runs in {0} and {1}, and an export has one run")]
    Several(String, String),
    /// Without a manifest.
    #[error("it has no manifest.json, so it is no export of a run")]
    NoRun,
}
