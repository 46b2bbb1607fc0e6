//! A bound on what waits to be taken in: who brings more waits for room, and nothing is lost.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What may wait of one origin, in bytes.
#[derive(Clone, Debug)]
pub struct Backlog {
    bytes: u32,
    free: Arc<Semaphore>,
}

/// A part of a backlog, until it is dropped.
#[derive(Debug)]
pub struct Room {
    _bytes: OwnedSemaphorePermit,
}

impl Backlog {
    /// An empty one.
    pub fn new(bytes: u32) -> Self {
        Self { bytes, free: Arc::new(Semaphore::new(bytes as usize)) }
    }

    /// Waits for room. What is longer than the whole backlog waits alone in it.
    pub async fn room(&self, bytes: usize) -> Option<Room> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.bytes);
        // It is never closed.
        let room = Arc::clone(&self.free).acquire_many_owned(bytes).await.ok()?;
        Some(Room { _bytes: room })
    }
}
