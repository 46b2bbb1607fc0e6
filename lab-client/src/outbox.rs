//! The way of a shard's reports to the control thread: what finds its inbox full waits here, in
//! order, and the shard goes on.

use std::collections::VecDeque;

use shard::Inboxes;

use crate::report::Report;

/// Reports on their way. Bounded by who posts: no further second is reported while one waits.
pub(crate) struct Outbox {
    reports: Inboxes<Report>,
    /// What found no room, oldest first.
    waiting: VecDeque<Report>,
}

impl Outbox {
    pub(crate) fn new(reports: Inboxes<Report>) -> Self {
        Self { reports, waiting: VecDeque::new() }
    }

    /// Puts a report on its way, after those that wait.
    pub(crate) fn post(&mut self, report: Report) {
        self.waiting.push_back(report);
        self.retry();
    }

    /// Hands on what there is room for. Returns whether nothing waits any more.
    pub(crate) fn retry(&mut self) -> bool {
        while let Some(report) = self.waiting.pop_front() {
            if let Err(back) = self.reports.post(0, report) {
                self.waiting.push_front(back);
                return false;
            }
        }
        true
    }

    /// Waits until everything is handed on: for a shard's last reports only.
    pub(crate) fn wait(&mut self) {
        while !self.retry() {
            std::thread::yield_now();
        }
    }
}
