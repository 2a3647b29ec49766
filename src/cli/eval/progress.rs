//! The progress bar of an evaluation.

use calumma::report::Reporter;

use crate::cli::session::Session;

/// A progress bar over items; removed from the terminal when dropped.
pub struct Bar {
    reporter: Reporter,
    done: usize,
}

impl Bar {
    /// A bar of `len` items; hidden if their number is unknown or the session is quiet.
    pub fn new(len: Option<usize>, session: &Session) -> Self {
        let reporter = match len {
            Some(len) => session.progress(len, "items"),
            None => Reporter::silent(),
        };
        Self { reporter, done: 0 }
    }

    /// Advances the bar by `items`.
    pub fn add(&mut self, items: usize) {
        self.done += items;
        self.reporter.step(self.done, items);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.reporter.finish();
    }
}
