//! The output that becomes a document: every choice is drawn.

use rand_chacha::ChaCha8Rng;
use vq_tokenizer::Codes;

use super::options::{Loss, Rendered};
use super::walk::{Output, Write, WriteNth};
use crate::data::mixture::below;
use crate::error::Result;
use crate::tokenize::CodedSegment;

/// The coded images of a sample.
#[derive(Clone, Copy)]
pub(super) enum Images<'a> {
    /// In order.
    Coded(&'a [Codes]),
    /// As many as are marked, without codes: only the text matters.
    Blank,
}

impl Images<'_> {
    /// Image `index`, or their number.
    fn get(&self, index: usize) -> std::result::Result<Codes, usize> {
        match self {
            Self::Coded(images) => images.get(index).cloned().ok_or(images.len()),
            Self::Blank => Ok(Codes { ids: Vec::new(), height: 0, width: 0 }),
        }
    }
}

/// A document while it is written.
pub(super) struct Writer<'a> {
    out: Rendered,
    images: Images<'a>,
    num_used: usize,
    answering: bool,
    /// Whether a message says that it is not learnt.
    muted: bool,
    /// Where the last answer begins.
    last_answer: usize,
    loss: Loss,
    rng: &'a mut ChaCha8Rng,
}

impl<'a> Writer<'a> {
    pub(super) fn new(images: Images<'a>, loss: Loss, rng: &'a mut ChaCha8Rng) -> Self {
        Self {
            out: Rendered::default(),
            images,
            num_used: 0,
            answering: false,
            muted: false,
            last_answer: 0,
            loss,
            rng,
        }
    }

    /// The document; or whether an answer was begun, if nothing counts for the loss.
    pub(super) fn finish(mut self) -> std::result::Result<Rendered, Option<bool>> {
        if self.loss == Loss::LastAnswer {
            self.out.supervised[..self.last_answer].fill(false);
        }
        match self.out.segments.is_empty() {
            true => Err(None),
            false if !self.out.supervised.contains(&true) => Err(Some(self.answering)),
            false => Ok(self.out),
        }
    }

    fn supervised(&self) -> bool {
        !self.muted && (self.loss == Loss::All || self.answering)
    }

    /// Turns to the other side.
    fn switch(&mut self) {
        self.answering = !self.answering;
        if self.answering {
            self.last_answer = self.out.segments.len();
        }
        self.muted = false;
    }

    fn push(&mut self, segment: CodedSegment, supervised: bool) {
        self.out.segments.push(segment);
        self.out.supervised.push(supervised);
    }

    /// The indices of `keep` of `len` entries, in order.
    fn choose(&mut self, len: usize, keep: usize) -> Vec<usize> {
        let mut indices: Vec<usize> = (0..len).collect();
        if keep < len {
            for n in 0..keep {
                let other = n + below(self.rng, len - n);
                indices.swap(n, other);
            }
            indices.truncate(keep);
            indices.sort_unstable();
        }
        indices
    }
}

impl Output for Writer<'_> {
    fn text(&mut self, text: &str) {
        let supervised = self.supervised();
        if text.is_empty() {
            return;
        }
        if let (Some(CodedSegment::Text(last)), Some(&same)) =
            (self.out.segments.last_mut(), self.out.supervised.last())
            && same == supervised
        {
            last.push_str(text);
            return;
        }
        self.push(CodedSegment::Text(text.to_owned()), supervised);
    }

    fn image(&mut self) -> std::result::Result<(), usize> {
        let codes = self.images.get(self.num_used)?;
        self.num_used += 1;
        let supervised = self.supervised() || (!self.muted && self.loss == Loss::ImagesAndAnswers);
        self.push(CodedSegment::Image(codes), supervised);
        Ok(())
    }

    /// The separator is a target where it ends an answer, not where it ends a prompt.
    fn separator(&mut self) {
        self.push(CodedSegment::sep(), self.supervised());
        self.switch();
    }

    fn answer(&mut self) {
        if !self.answering {
            self.switch();
        }
    }

    fn learn(&mut self, learnt: bool) {
        self.muted = !learnt;
    }

    fn turn(&mut self, answers: bool, is_first: bool) {
        match answers != self.answering {
            true => self.separator(),
            false if !is_first => self.text("\n"),
            false => {}
        }
    }

    fn is_next(&self, answers: bool) -> bool {
        self.answering == answers
    }

    fn one_of(&mut self, len: usize, write: Write<'_, Self>) -> Result<()> {
        let chosen = below(self.rng, len);
        write(self, chosen)
    }

    fn some_of(&mut self, len: usize, keep: usize, write: WriteNth<'_, Self>) -> Result<()> {
        let chosen = self.choose(len, keep);
        chosen.into_iter().enumerate().try_for_each(|(n, entry)| write(self, entry, n == 0))
    }
}
