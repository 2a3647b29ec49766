//! Draws where the logits are: a model on a GPU gets what it needs to draw, and returns ids instead of logits.

use std::ops::Range;
use std::sync::Arc;

use super::distribution::{Distribution, Logits};
use super::guidance::Guidance;
use super::sampling_config::SamplingConfig;
use crate::error::Error;

pub use crate::model::{Drawn, NoDraw};

/// A draw from the logits after one id of a pass.
#[derive(Clone, Debug)]
pub struct Draw {
    /// The spans whose logits guidance mixes, in the order of [`Guidance::branches`].
    pub spans: Vec<usize>,
    /// The place among the wanted rows of each of them.
    pub row: usize,
    /// How they are mixed.
    pub guidance: Guidance,
    /// The ids that may be drawn: bit `i % 32` of word `i / 32` stands for column `i` of the spans.
    pub allowed: Arc<[u32]>,
    /// The ids so far, if there is a repetition penalty.
    pub seen: Vec<u32>,
    /// How an id is drawn.
    pub sampling: SamplingConfig,
    /// The seed of the noise.
    pub seed: u64,
    /// An id is drawn with the noise of each of these positions: that of the place, and places behind it that are guessed.
    pub positions: Range<usize>,
    /// An id that is taken for the first position if its sum of logit and noise is at most this much lower than the
    /// highest.
    pub guess: Option<(u32, f32)>,
}

impl Draw {
    /// The ids as [`super::sampling`] draws them from logits on the host.
    ///
    /// # Shapes
    /// `rows` `[spans][columns]`, the first column being id `first`; returns an id for each of the positions.
    ///
    /// # Panics
    /// If there are not as many rows as guidance has branches, or their lengths differ.
    pub fn on_host(&self, first: u32, rows: &[&[f32]]) -> Vec<Drawn> {
        let mut values = rows[0].to_vec();
        self.guidance.mix(&mut values, &rows[1..]);
        let mut logits = Logits::new(first, values);
        logits.allow_only(|id| {
            let at = (id - first) as usize;
            self.allowed[at / 32] >> (at % 32) & 1 == 1
        });
        let distribution = match Distribution::new(&logits, &self.seen, &self.sampling) {
            Ok(distribution) => distribution,
            Err(reason) => return vec![Err(reason); self.positions.len()],
        };
        let draw = |position| match self.guess {
            Some((guess, slack)) if position == self.positions.start => {
                distribution.draw_near(guess, slack, self.seed, position)
            }
            _ => distribution.draw(self.seed, position),
        };
        self.positions.clone().map(|position| Ok(draw(position))).collect()
    }
}

impl From<NoDraw> for Error {
    fn from(reason: NoDraw) -> Self {
        Self::invalid(match reason {
            NoDraw::NotFinite => "the model returned logits that are not finite",
            NoDraw::Empty => "the model's logits leave no id to choose from",
        })
    }
}
