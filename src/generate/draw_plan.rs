//! What the requests of a pass draw.

use super::draw::{Draw, Drawn};
use super::gang::Gang;
use super::modality::ModalityState;
use super::pass::Feed;
use super::request::Request;

/// How many places after its last row a request's image is guessed for the next pass.
const AHEAD: usize = 15;

/// All draws of a pass.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) draws: Vec<Draw>,
    /// Of each draw: its request's place among the running ones, and the place of its first id in the request.
    places: Vec<(usize, usize)>,
}

impl Plan {
    /// The draws of the requests among `gangs` that `feeds` completes, with places ahead if the next pass may guess;
    /// `None` if one of them must see logits, as text under a constraint or with log-probabilities does.
    pub(super) fn new(gangs: &[Gang], feeds: &[Feed], guesses: bool) -> Option<Self> {
        let mut plan = Self::default();
        let mut span = 0;
        for lanes in feeds.chunk_by(|a, b| a.gang == b.gang) {
            let gang = &gangs[lanes[0].gang];
            if lanes[0].wanted > 0 {
                let Request { constraint, logprobs, .. } = &gang.request;
                if gang.state == ModalityState::Text && (constraint.is_some() || logprobs.is_some())
                {
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
