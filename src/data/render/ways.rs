//! The output that becomes a verdict: every choice is followed all ways at once.

use super::options::Loss;
use super::walk::{Output, Write, WriteNth};
use crate::error::Result;

/// Documents differ in whether an answer is being written, anything was written, the loss counts anything,
/// and a message is not learnt: one bit each.
const STATES: usize = 16;
const ANSWERING: usize = 1;
const WRITTEN: usize = 2;
const COUNTED: usize = 4;
const MUTED: usize = 8;

/// All documents that the choices so far may have led to.
#[derive(Clone)]
pub(super) struct Ways {
    /// For each state, the most images that a document in it has used; `None` if there is no such document.
    most_images: [Option<usize>; STATES],
    num_images: usize,
    loss: Loss,
}

impl Ways {
    /// The empty document of a sample with `num_images` images.
    pub(super) fn new(num_images: usize, loss: Loss) -> Self {
        let mut most_images = [None; STATES];
        most_images[0] = Some(0);
        Self { most_images, num_images, loss }
    }

    /// The most images that a document uses; or what [`Writer::finish`](super::writer::Writer::finish)
    /// returns of a document that cannot be used, if there is one.
    pub(super) fn finish(&self) -> std::result::Result<usize, Option<bool>> {
        for (state, _) in self.reached() {
            if state & WRITTEN == 0 {
                return Err(None);
            }
            if state & COUNTED == 0 {
                return Err(Some(state & ANSWERING != 0));
            }
        }
        Ok(self.reached().map(|(_, images)| images).max().unwrap_or(0))
    }

    /// The states with a document, and the most images that such a document has used.
    fn reached(&self) -> impl Iterator<Item = (usize, usize)> {
        self.most_images.iter().enumerate().filter_map(|(state, images)| Some((state, (*images)?)))
    }

    fn none(&self) -> Self {
        Self { most_images: [None; STATES], ..*self }
    }

    /// Adds the documents of `other`.
    fn add(&mut self, other: &Self) {
        for (state, images) in other.reached() {
            self.add_one(state, images);
        }
    }

    fn add_one(&mut self, state: usize, images: usize) {
        self.most_images[state] = self.most_images[state].max(Some(images));
    }

    /// Replaces each document by that of `step`, which gets and returns state and images.
    fn each(&mut self, step: impl Fn(usize, usize) -> (usize, usize)) {
        let mut next = self.none();
        for (state, images) in self.reached() {
            let (state, images) = step(state, images);
            next.add_one(state, images);
        }
        *self = next;
    }

    /// `state` after something that is a target if `counts`.
    fn after(state: usize, counts: bool) -> usize {
        state | WRITTEN | if counts { COUNTED } else { 0 }
    }

    fn counts(&self, state: usize) -> bool {
        state & MUTED == 0 && (self.loss == Loss::All || state & ANSWERING != 0)
    }

    /// `state` after a turn to the other side.
    fn switched(&self, state: usize) -> usize {
        let state = (state ^ ANSWERING) & !MUTED;
        // Only the last answer counts.
        let forgets = self.loss == Loss::LastAnswer && state & ANSWERING != 0;
        if forgets { state & !COUNTED } else { state }
    }
}

impl Output for Ways {
    fn text(&mut self, text: &str) {
        if !text.is_empty() {
            let of = self.none();
            self.each(|state, images| (Self::after(state, of.counts(state)), images));
        }
    }

    fn image(&mut self) -> std::result::Result<(), usize> {
        let of = self.none();
        let learns = |state| state & MUTED == 0 && of.loss == Loss::ImagesAndAnswers;
        let counts = |state| of.counts(state) || learns(state);
        self.each(|state, images| (Self::after(state, counts(state)), images + 1));
        match self.reached().all(|(_, images)| images <= self.num_images) {
            true => Ok(()),
            false => Err(self.num_images),
        }
    }

    fn separator(&mut self) {
        let of = self.none();
        self.each(|state, images| (of.switched(Self::after(state, of.counts(state))), images));
    }

    fn answer(&mut self) {
        let of = self.none();
        self.each(|state, images| match state & ANSWERING {
            0 => (of.switched(state), images),
            _ => (state, images),
        });
    }

    fn learn(&mut self, learnt: bool) {
        let muted = if learnt { 0 } else { MUTED };
        self.each(|state, images| (state & !MUTED | muted, images));
    }

    fn turn(&mut self, answers: bool, is_first: bool) {
        let (mut turning, mut staying) = (self.none(), self.none());
        for (state, images) in self.reached() {
            match (state & ANSWERING != 0) == answers {
                true => staying.add_one(state, images),
                false => turning.add_one(state, images),
            }
        }
        turning.separator();
        if !is_first {
            staying.text("\n");
        }
        staying.add(&turning);
        *self = staying;
    }

    fn is_next(&self, answers: bool) -> bool {
        self.reached().all(|(state, _)| (state & ANSWERING != 0) == answers)
    }

    fn one_of(&mut self, len: usize, write: Write<'_, Self>) -> Result<()> {
        let mut all = self.none();
        for alternative in 0..len {
            let mut way = self.clone();
            write(&mut way, alternative)?;
            all.add(&way);
        }
        *self = all;
        Ok(())
    }

    fn some_of(&mut self, len: usize, keep: usize, write: WriteNth<'_, Self>) -> Result<()> {
        // kept[n]: the documents with n of the entries so far
        let mut kept = vec![self.none(); keep + 1];
        kept[0] = self.clone();
        for entry in 0..len {
            // An entry is the last of all, or enough entries follow it.
            let fewest = keep.saturating_sub(len - entry);
            for n in (fewest..keep.min(entry + 1)).rev() {
                let mut way = kept[n].clone();
                write(&mut way, entry, n == 0)?;
                kept[n + 1].add(&way);
            }
        }
        *self = kept.swap_remove(keep);
        Ok(())
    }
}
