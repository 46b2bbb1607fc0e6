//! What is made from the raw files of a run: summary, Parquet files and page. What of it cannot be
//! made or written keeps the rest from nothing. Must not know: how a run is carried out.

use std::path::Path;

use analysis::summary::{self, Summary};
use record::Problems;

/// What came of the files of a run.
pub(crate) struct Made {
    /// In figures, whether that could be written or not; `None` when the files say too little.
    pub(crate) summary: Option<Summary>,
    /// What is wrong with the files, and what could not be made of them.
    pub(crate) problems: Problems,
    /// Whether all of it was made and written.
    pub(crate) whole: bool,
    has_page: bool,
}

impl Made {
    /// Makes everything that can be made of the run in a directory.
    pub(crate) fn of(directory: &Path) -> Self {
        let (mut problems, mut whole) = (Problems::default(), true);
        let mut failed = |problems: &mut Problems, why: String| {
            problems.add(why);
            whole = false;
        };
        let summary = match summary::of(directory) {
            Ok((summary, damage)) => {
                problems = damage;
                if let Err(error) = summary::write(directory, &summary) {
                    failed(&mut problems, format!("{:#}", anyhow::Error::from(error)));
                }
                Some(summary)
            }
            Err(error) => {
                let error = anyhow::Error::from(error);
                failed(&mut problems, format!("{error:#}; no summary was made"));
                None
            }
        };
        if let Err(error) = record::convert(directory) {
            failed(&mut problems, format!("{:#}", anyhow::Error::from(error)));
        }
        let mut has_page = true;
        match report::write(directory, problems.clone()) {
            Ok(all) => problems = all,
            Err(error) => {
                has_page = false;
                failed(&mut problems, format!("{:#}", anyhow::Error::from(error)));
            }
        }
        Self { summary, problems, whole, has_page }
    }

    /// Tells a person what it came to; `further` are lines before the name of the page.
    pub(crate) fn tell(&self, directory: &Path, further: &[String]) {
        self.summary.iter().for_each(|it| text::tell_words!("{}", summary::table(it)));
        further.iter().for_each(|line| text::tell!("{line}"));
        self.tell_page(directory);
    }

    /// Tells a person where the page is, and what is wrong.
    pub(crate) fn tell_page(&self, directory: &Path) {
        if self.has_page {
            text::tell!("{}", directory.join(report::NAME).display());
        }
        self.problems.sentences().for_each(|sentence| text::say!("lab: {sentence}"));
    }
}
