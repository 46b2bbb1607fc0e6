//! What is wrong with the files of a run. Must not know: who shows it.

/// Problems named; of more, the number.
const MOST_PROBLEMS: usize = 20;

/// What is wrong with the files of a run, in sentences; a bounded number of them.
#[derive(Clone, Debug, Default)]
pub struct Problems {
    sentences: Vec<String>,
    more: usize,
    /// Files of which something is left out.
    damaged: Vec<&'static str>,
}

impl Problems {
    /// Adds a sentence.
    pub fn add(&mut self, sentence: String) {
        if self.sentences.contains(&sentence) {
            return;
        }
        if self.sentences.len() < MOST_PROBLEMS {
            self.sentences.push(sentence);
        } else {
            self.more += 1;
        }
    }

    /// Adds a sentence about something that is left out of a file.
    pub(crate) fn add_of_file(&mut self, file: &'static str, sentence: String) {
        if !self.damaged.contains(&file) {
            self.damaged.push(file);
        }
        self.add(sentence);
    }

    /// Whether something is left out of a file.
    pub fn is_damaged(&self, file: &str) -> bool {
        self.damaged.contains(&file)
    }

    /// All of them.
    pub fn sentences(&self) -> impl Iterator<Item = String> + '_ {
        let more = (self.more > 0).then(|| format!("and {} more like these", self.more));
        self.sentences.iter().cloned().chain(more)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sentences.is_empty()
    }
}
