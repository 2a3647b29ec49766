//! Texts that end a request, wherever they begin in an id.

/// The stop strings of a request, and how far the text has matched them.
#[derive(Clone, Debug)]
pub struct StopStrings {}

impl StopStrings {
    pub(super) fn push(&mut self, _id: u32) -> Option<usize> {
        None
    }
    pub(super) fn flush(&mut self) {}
}
