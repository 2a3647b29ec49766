//! The rules of generation as one loop, one id at a time, whole rows at every step: what the engine must equal.

use calumma::generate::{
    Branch, EngineConfig, GenerationMode, Guidance, ModalityRules, ModalityState, Request,
    StopStrings, Window,
};
use calumma::generate::{Logits, sampling::choose};

use super::mixed::mixed;
use super::{CODES, CONTEXT, GRID, plain, run_all};
use crate::scripted::{Scripted, vocabulary};

/// A row that grows.
struct Loop<'a> {
    model: &'a Scripted,
    request: Request,
    rules: ModalityRules,
    row: Vec<u32>,
    state: ModalityState,
    block_start: usize,
    images: usize,
}

impl Loop<'_> {
    /// How many codes of the open image are there, if its next id is a code.
    fn place(&self) -> Option<usize> {
        match self.state {
            ModalityState::Image { remaining, .. } if remaining > 0 => Some(CODES - remaining),
            _ => None,
        }
    }

    /// The mixed logits of the next id.
    fn logits(&self) -> Vec<f32> {
        let mut schedule = self.request.config.guidance();
        // In place of no prompt, so that a row without images has one other branch as without it.
        if !self.request.negative.is_empty() {
            schedule = schedule.after(&self.row[..self.block_start], &self.rules);
        }
        let guidance = match self.place() {
            Some(done) => schedule.at(done, CODES),
            None => Guidance::Off,
        };
        let of_branch = |branch: &Branch| {
            let joins = if *branch == Branch::Full { 0 } else { self.block_start };
            let head = branch.head(&self.row, joins, &self.rules, &self.request.negative);
            (self.model.logits)(&[&head, &self.row[joins..]].concat())
        };
        let branches: Vec<Vec<f32>> = guidance.branches().iter().map(of_branch).collect();
        let mut full = branches[0].clone();
        let others: Vec<&[f32]> = branches[1..].iter().map(Vec::as_slice).collect();
        guidance.mix(&mut full, &others);
        full
    }

    /// The next id, if there is one; at most `available` more may follow.
    fn next(&mut self, available: usize) -> Option<u32> {
        if let Some(id) = self.rules.forced(self.state) {
            return Some(id);
        }
        let kept = self.place().filter(|_| self.images == 0);
        if let Some(id) = kept.and_then(|at| self.request.kept.get(at).copied().flatten()) {
            return Some(id);
        }
        if self.state == ModalityState::Text && available == 0 {
            return None;
        }
        let mut logits = Logits::new(0, self.logits());
        let (rules, state) = (&self.rules, self.state);
        logits.allow_only(|id| rules.allows(state, id, available));
        if let (ModalityState::Text, Some(constraint)) = (state, &mut self.request.constraint) {
            let (allowed, may_end) = (constraint.allowed().unwrap(), constraint.may_end());
            if may_end && !allowed.contains(&true) {
                return None;
            }
            let fits = |id: u32| if rules.is_stop(id) { may_end } else { allowed[id as usize] };
            logits.allow_only(fits);
        }
        let config = &self.request.config;
        let sampling = if state == ModalityState::Text { &config.text } else { &config.image };
        let position = self.row.len() - self.request.prompt.len();
        Some(choose(&logits, &self.row, sampling, config.seed, position).unwrap())
    }

    /// The new ids of the request.
    fn run(mut self, limit: usize) -> Vec<u32> {
        let mut found = None;
        while self.state != ModalityState::Done && found.is_none() {
            let Some(id) = self.next(limit - self.row.len()) else { break };
            let before = self.state;
            self.state = self.rules.advance(before, id);
            self.row.push(id);
            match before {
                ModalityState::Text if matches!(self.state, ModalityState::Image { .. }) => {
                    self.block_start = self.row.len() - 1;
                }
                ModalityState::Text if !self.rules.is_stop(id) => {
                    let constraint = self.request.constraint.as_mut();
                    constraint.map_or(Ok(()), |constraint| constraint.accept(id)).unwrap();
                    found = self.request.stop.as_mut().and_then(|stop| stop.push(id));
                }
                ModalityState::Image { remaining: 1, .. } => {
                    self.images += 1;
                    self.request.stop.as_mut().map(StopStrings::flush);
                }
                _ => {}
            }
        }
        self.row.split_off(self.request.prompt.len())
    }
}

fn by_the_loop(model: &Scripted, request: &Request) -> Vec<u32> {
    let (vocabulary, config) = (vocabulary(), &request.config);
    let mode = match request.constraint {
        Some(_) => GenerationMode::TextOnly,
        None => config.mode,
    };
    let rules = ModalityRules::new(vocabulary, GRID.into(), mode, &config.stop_ids).unwrap();
    let row = request.prompt.clone();
    let state = rules.state_after(&row).unwrap();
    let needed = match state {
        ModalityState::Text if mode != GenerationMode::ImageOnly => 1,
        _ => rules.least_to_complete(state),
    };
    let limit = (row.len() + config.max_new_tokens.unwrap_or(CONTEXT).max(needed)).min(CONTEXT);
    let block_start = row.iter().rposition(|&id| id == rules.begin_image().unwrap()).unwrap_or(0);
    let request = request.clone();
    Loop { model, request, rules, row, state, block_start, images: 0 }.run(limit)
}

/// Fails for an engine that is wrong alone: a guidance lane with other ids, a mask of the wrong state, a
/// penalty over the wrong row, noise of another place, a limit that is off by one.
#[test]
fn the_engine_equals_a_plain_loop() {
    let vocabulary = vocabulary();
    let model = Scripted::random().with_context(CONTEXT).unrecorded();
    let mut requests = mixed(60);
    requests[0].config.max_new_tokens = None;
    for window in [Window::Off, Window::Fixed(4)] {
        let config = EngineConfig { window, ..plain(1024) };
        let found = run_all(&model, vocabulary, GRID, &config, &requests);
        for (n, (request, (found, _))) in requests.iter().zip(found).enumerate() {
            assert_eq!(found.ids, by_the_loop(&model, request), "request {n}, {window:?}");
        }
    }
}
