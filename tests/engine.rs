//! The engine: what a request draws is a matter of its own ids, settings and seed, whatever runs beside it.

mod cached;
mod drawn;
mod equal;
mod failures;
mod given;
mod law;
mod limits;
mod memory;
mod mixed;
mod plain;
mod secrets;
mod serving;
mod windows;

use std::collections::BTreeMap;

use calumma::Result;
use calumma::generate::{
    Engine, EngineConfig, Event, Generated, LanguageModel, Request, RequestId, Window,
};
use calumma::tokenize::Vocabulary;

use crate::scripted::BLOCK_BYTES;

/// Rows and columns of most images here.
const GRID: (usize, usize) = (4, 5);
const CODES: usize = GRID.0 * GRID.1;
/// Most ids of a lane here: four blocks and a half.
const CONTEXT: usize = 288;
/// More steps than any test needs.
const STEPS: usize = 100_000;

/// A cache of `blocks` blocks of the scripted model; one id per pass, nothing shared, freed blocks
/// poisoned.
fn plain(blocks: usize) -> EngineConfig {
    EngineConfig {
        cache_bytes: blocks * BLOCK_BYTES,
        rows: 512,
        window: Window::Off,
        prefix_cache: false,
        poison_freed: true,
        ..EngineConfig::default()
    }
}

/// An engine and the events of each of its requests.
struct Run<'a, M: LanguageModel> {
    engine: Engine<'a, M>,
    events: BTreeMap<RequestId, Vec<Event>>,
    steps: usize,
}

impl<'a, M: LanguageModel> Run<'a, M> {
    fn new(
        model: &'a M,
        vocabulary: &'a Vocabulary,
        grid: (usize, usize),
        config: EngineConfig,
    ) -> Self {
        let engine = Engine::new(model, vocabulary, grid, config).unwrap();
        Self { engine, events: BTreeMap::new(), steps: 0 }
    }

    fn admit(&mut self, request: Request) -> Result<RequestId> {
        let id = self.engine.admit(request)?;
        assert_eq!(self.events.insert(id, Vec::new()), None, "{id:?} was given twice");
        Ok(id)
    }

    /// One step; returns its events.
    fn step(&mut self) -> Vec<(RequestId, Event)> {
        let events = self.engine.step().unwrap();
        for (id, event) in &events {
            let before = self.events.get_mut(id).unwrap();
            assert!(
                !matches!(before.last(), Some(Event::End(_) | Event::Failed)),
                "{id:?}: {event:?} after its end"
            );
            before.push(event.clone());
        }
        let stats = self.engine.stats();
        assert!(stats.blocks_used <= stats.blocks_total, "{stats:?}");
        self.steps += 1;
        assert!(self.steps < STEPS, "no end in sight");
        events
    }

    /// Steps until every request has ended.
    fn finish(&mut self) {
        while !self.engine.is_idle() {
            self.step();
        }
    }

    /// What an ended request made, with its events.
    fn take(&mut self, id: RequestId) -> (Generated, Vec<Event>) {
        let generated = self.engine.take(id).unwrap().unwrap();
        assert!(self.engine.take(id).is_none(), "a result is taken twice");
        (generated, self.events.remove(&id).unwrap())
    }
}

/// Runs each of `requests`, which arrives before the step of its number; returns results and events in the
/// order of `requests`.
fn run_arriving<M: LanguageModel>(
    model: &M,
    vocabulary: &Vocabulary,
    grid: (usize, usize),
    config: &EngineConfig,
    mut requests: Vec<(usize, Request)>,
) -> Vec<(Generated, Vec<Event>)> {
    let mut run = Run::new(model, vocabulary, grid, config.clone());
    let mut ids: Vec<Option<RequestId>> = vec![None; requests.len()];
    while ids.contains(&None) || !run.engine.is_idle() {
        for (id, (arrival, request)) in ids.iter_mut().zip(&mut requests) {
            if id.is_none() && *arrival <= run.steps {
                *id = Some(run.admit(std::mem::take(request)).unwrap());
            }
        }
        run.step();
    }
    ids.into_iter().map(|id| run.take(id.unwrap())).collect()
}

/// Runs all of `requests`, which are there from the beginning.
fn run_all<M: LanguageModel>(
    model: &M,
    vocabulary: &Vocabulary,
    grid: (usize, usize),
    config: &EngineConfig,
    requests: &[Request],
) -> Vec<(Generated, Vec<Event>)> {
    let at_once = requests.iter().map(|request| (0, request.clone())).collect();
    run_arriving(model, vocabulary, grid, config, at_once)
}

/// Runs each of `requests` in an engine of its own.
fn run_alone<M: LanguageModel>(
    model: &M,
    vocabulary: &Vocabulary,
    grid: (usize, usize),
    config: &EngineConfig,
    requests: &[Request],
) -> Vec<(Generated, Vec<Event>)> {
    let alone = |request: &Request| {
        run_all(model, vocabulary, grid, config, std::slice::from_ref(request)).remove(0)
    };
    requests.iter().map(alone).collect()
}
