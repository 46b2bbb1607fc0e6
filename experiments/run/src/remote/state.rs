//! What is known of a host of a run.

use std::collections::BTreeSet;

use host::program::Who;
use serde::{Deserialize, Serialize};

/// Whether a host works for the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Presence {
    /// It does.
    #[default]
    Present,
    /// Nothing is heard of it.
    Lost,
    /// It does not work for the run any more.
    Gone,
    /// It has finished the run, and said so.
    Finished,
}

/// A host of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HostState {
    presence: Presence,
    /// The number of its last batch that is merged.
    pub(super) merged: u64,
    /// Its programs that have ended.
    ended: BTreeSet<Who>,
    /// Something that it says is not whole yet: a later batch has the rest.
    #[serde(skip)]
    pub(super) open: bool,
    /// The number of its last batch, when it ended the run by itself and only keeps batches.
    #[serde(skip)]
    pub(super) kept: Option<u64>,
    /// The number of the last order that it carried out for an earlier coordinator.
    #[serde(skip)]
    pub(super) carried_out: u64,
}

impl HostState {
    /// Whether something may be expected of it.
    pub(super) fn is_present(&self) -> bool {
        self.presence == Presence::Present
    }

    /// Whether it does not work for the run any more, in order or not.
    pub(super) fn has_left(&self) -> bool {
        matches!(self.presence, Presence::Gone | Presence::Finished)
    }

    /// Whether it has finished the run.
    pub(super) fn has_finished(&self) -> bool {
        self.presence == Presence::Finished
    }

    /// Whether the rest of something that it has begun to say may be waited for.
    pub(super) fn is_within_a_line(&self) -> bool {
        self.open && self.is_present()
    }

    /// Whether all that it says of the run is merged, as far as that may be waited for.
    pub(super) fn is_merged(&self) -> bool {
        !self.is_present() && self.kept.is_none_or(|last| self.merged >= last)
    }

    /// Whether something may be expected of one of its programs.
    pub(super) fn is_expected(&self, who: Who) -> bool {
        self.is_present() && !self.ended.contains(&who)
    }

    /// One of its programs has ended.
    pub(super) fn on_program_ended(&mut self, who: Who) {
        self.ended.insert(who);
    }

    /// Nothing is heard of it. Returns whether that is news.
    pub(super) fn on_lost(&mut self) -> bool {
        let is_news = self.is_present();
        if is_news {
            self.presence = Presence::Lost;
        }
        is_news
    }

    /// It is heard of again. Returns whether that is news.
    pub(super) fn on_back(&mut self) -> bool {
        let is_news = self.presence == Presence::Lost;
        if is_news {
            self.presence = Presence::Present;
        }
        is_news
    }

    /// It does not work for the run any more. Returns whether that is news.
    pub(super) fn on_gone(&mut self) -> bool {
        let is_news = !self.has_left();
        if is_news {
            self.presence = Presence::Gone;
        }
        is_news
    }

    /// It has finished the run.
    pub(super) fn on_finished(&mut self) {
        self.presence = Presence::Finished;
    }

    /// Another coordinator asks for the host, and has yet to find out whether it is lost.
    pub(super) fn restore(self) -> Self {
        let presence = match self.presence {
            Presence::Lost => Presence::Present,
            presence => presence,
        };
        Self { presence, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_has_left_is_neither_lost_nor_back() {
        let mut host = HostState::default();
        assert!(host.on_lost());
        assert!(!host.on_lost(), "known");
        host.on_back();
        assert!(host.is_present());
        assert!(host.on_gone());
        assert!(!host.on_gone() && !host.on_lost());
        host.on_back();
        assert!(host.has_left() && !host.has_finished());
        // Its last batches may come later than the news that it is gone.
        host.on_finished();
        assert!(host.has_finished() && !host.on_gone());
    }

    #[test]
    fn nobody_waits_for_the_rest_of_a_line_of_a_host_that_is_lost() {
        let mut host = HostState { open: true, ..HostState::default() };
        assert!(host.is_within_a_line());
        host.on_lost();
        assert!(!host.is_within_a_line());
        host.on_back();
        assert!(host.is_within_a_line(), "it may come after all");
        host.on_gone();
        assert!(!host.is_within_a_line());
        host.on_finished();
        assert!(!host.is_within_a_line());
    }

    #[test]
    fn a_host_is_merged_when_its_kept_batches_are() {
        let mut host = HostState::default();
        assert!(!host.is_merged(), "it still speaks");
        host.on_gone();
        assert!(host.is_merged());
        host.kept = Some(3);
        assert!(!host.is_merged());
        host.merged = 3;
        assert!(host.is_merged());
    }

    #[test]
    fn a_lost_host_is_present_for_the_next_coordinator() {
        let mut host = HostState::default();
        host.on_program_ended(Who::Client(3));
        host.on_lost();
        let text = serde_json::to_string(&host).expect("JSON");
        let restored: HostState = serde_json::from_str(&text).expect("the same");
        let restored = restored.restore();
        assert!(restored.is_present());
        assert!(!restored.is_expected(Who::Client(3)) && restored.is_expected(Who::Client(4)));
    }
}
