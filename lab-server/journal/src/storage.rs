//! What the ledger needs of a disk.

use std::io;

/// A directory of files that are only ever appended to. A clone is another handle to the same.
///
/// Nothing is durable before it is synced: bytes by [`Self::sync`], names by
/// [`Self::sync_directory`].
pub trait Storage: Clone {
    /// An open file.
    type File;

    /// The names of all files.
    ///
    /// # Errors
    /// What the disk says.
    fn list(&self) -> io::Result<Vec<String>>;

    /// All bytes of a file.
    ///
    /// # Errors
    /// What the disk says.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;

    /// Makes a new, empty file.
    ///
    /// # Errors
    /// What the disk says; also when there is one with this name.
    fn create(&self, name: &str) -> io::Result<Self::File>;

    /// Appends to a file.
    ///
    /// # Errors
    /// What the disk says; some of the bytes may be there then.
    fn append(&self, file: &mut Self::File, bytes: &[u8]) -> io::Result<()>;

    /// Makes the bytes of a file durable.
    ///
    /// # Errors
    /// What the disk says. What was not durable before may be lost then, whatever a second try
    /// says.
    fn sync(&self, file: &mut Self::File) -> io::Result<()>;

    /// Gives a file another name, at once or not at all; one that had that name is gone.
    ///
    /// # Errors
    /// What the disk says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// What the disk says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes names durable.
    ///
    /// # Errors
    /// What the disk says.
    fn sync_directory(&self) -> io::Result<()>;
}
