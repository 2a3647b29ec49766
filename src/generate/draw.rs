//! Draws where the logits are: a model on a GPU gets what it needs to draw, and returns ids instead of logits.

use std::ops::Range;
use std::sync::Arc;

use super::distribution::{Distribution, Logits};
use super::gang::Gang;
use super::guidance::Guidance;
use super::modality::ModalityState;
use super::pass::Feed;
use super::sampling_config::SamplingConfig;
use crate::error::Error;

pub use crate::model::{Drawn, NoDraw};

/// How many places after its last row a request's image is guessed for the next pass.
const AHEAD: usize = 15;

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

/// All draws of a pass.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) draws: Vec<Draw>,
    /// Of each draw: its request's place among the running ones, and the place of its first id in the request.
    places: Vec<(usize, usize)>,
}

impl Plan {
    /// The draws of the requests among `gangs` that `feeds` completes, with places ahead if the next pass may guess;
    /// `None` if one of them must see logits, as text under a constraint does.
    pub(super) fn new(gangs: &[Gang], feeds: &[Feed], guesses: bool) -> Option<Self> {
        let mut plan = Self::default();
        let mut span = 0;
        for lanes in feeds.chunk_by(|a, b| a.gang == b.gang) {
            let gang = &gangs[lanes[0].gang];
            if lanes[0].wanted > 0 {
                if gang.state == ModalityState::Text && gang.request.constraint.is_some() {
                    return None;
                }
                plan.add(gang, &lanes[0], span, guesses);
            }
            span += lanes.len();
        }
        Some(plan)
    }

    /// Adds a draw for each wanted row whose id is not known or that has places ahead; `span` is that of the first lane.
    fn add(&mut self, gang: &Gang, feed: &Feed, span: usize, guesses: bool) {
        let (rules, config) = (&gang.rules, &gang.request.config);
        let mut state = gang.state;
        for row in 0..=gang.drafts.len() {
            let draft = gang.drafts.get(row).copied();
            let ahead = match state {
                ModalityState::Image { remaining, .. } if draft.is_none() && guesses => {
                    AHEAD.min(remaining.saturating_sub(1))
                }
                _ => 0,
            };
            // Places ahead are drawn from the last row even if its own id is known.
            let known = usize::from(gang.known(state).is_some());
            if known <= ahead {
                let is_text = state == ModalityState::Text;
                let sampling = if is_text { config.text } else { config.image };
                let guidance = gang.guidance_in(state);
                let position = gang.position() + row;
                let seen = match sampling.repetition_penalty {
                    1.0 => Vec::new(),
                    _ => [&gang.ids, &gang.drafts[..row]].concat(),
                };
                self.places.push((feed.gang, gang.ids.len() + row + known));
                self.draws.push(Draw {
                    spans: (span..span + guidance.branches().len()).collect(),
                    row,
                    guidance,
                    allowed: match known {
                        0 => rules.allowed(state, gang.available() - row, &feed.columns),
                        _ => rules.codes(&feed.columns),
                    },
                    seen,
                    sampling,
                    seed: config.seed,
                    positions: position + known..position + 1 + ahead,
                    guess: draft
                        .filter(|_| !is_text && !sampling.greedy && config.guess_slack > 0.0)
                        .map(|id| (id, config.guess_slack)),
                });
            }
            if let Some(id) = draft {
                state = rules.advance(state, id);
            }
        }
    }

    /// The ids of `drawn` of each of `gangs` requests, with their places.
    pub(super) fn by_gang(&self, gangs: usize, drawn: Vec<Vec<Drawn>>) -> Vec<Vec<(usize, Drawn)>> {
        let mut found = vec![Vec::new(); gangs];
        for (&(gang, place), ids) in self.places.iter().zip(drawn) {
            found[gang].extend((place..).zip(ids));
        }
        found
    }
}
