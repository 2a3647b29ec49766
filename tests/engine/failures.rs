//! What goes wrong, and for whom.

use std::cell::Cell;

use calumma::generate::{
    BLOCK, EngineConfig, Event, GenerationConfig, GenerationMode, LanguageModel, Request, Span,
    Window,
};
use calumma::{Error, Result};

use super::mixed::mixed;
use super::{CONTEXT, GRID, Run, plain, run_alone};
use crate::scripted::{Ledger, Scripted, noise, text, vocabulary};

/// Fails for an engine that lets bad logits of one request end the others, or goes on drawing from them.
#[test]
fn logits_that_are_not_finite_fail_their_request_alone() {
    let vocabulary = vocabulary();
    let (bad, vocab) = (text(9), vocabulary.len());
    let model = Scripted::new(move |row| match row.contains(&bad) {
        true => vec![f32::NAN; vocab],
        // Never the bad one.
        false => {
            (0..vocab as u32).map(|id| if id == bad { -90.0 } else { noise(row, id) }).collect()
        }
    });
    let model = model.with_context(CONTEXT);
    let mut requests: Vec<Request> = mixed(60);
    let names_bad = |request: &Request| {
        [&request.prompt, &request.negative].into_iter().flatten().any(|id| *id == bad)
    };
    requests.retain(|request| !names_bad(request) && request.constraint.is_none());
    assert!(requests.len() > 3);
    let expected = run_alone(&model, vocabulary, GRID, &plain(64), &requests);
    for window in [Window::Off, Window::Fixed(3)] {
        let mut run = Run::new(&model, vocabulary, GRID, EngineConfig { window, ..plain(64) });
        let mut ids = Vec::new();
        for request in &requests {
            let mut broken = request.clone();
            broken.prompt.insert(1, bad);
            ids.push((run.admit(request.clone()).unwrap(), run.admit(broken).unwrap()));
        }
        run.finish();
        for (n, (whole, broken)) in ids.into_iter().enumerate() {
            assert_eq!(run.take(whole), expected[n], "request {n}, {window:?}");
            let error = run.engine.take(broken).unwrap().unwrap_err();
            assert!(error.to_string().contains("not finite"), "{error}");
            assert_eq!(run.events[&broken].last(), Some(&Event::Failed));
        }
        assert_eq!(run.engine.stats().blocks_used, 0);
    }
}

/// A model that fails in one pass.
struct Failing {
    inner: Scripted,
    /// Passes before it.
    left: Cell<usize>,
}

impl LanguageModel for Failing {
    type Cache = Ledger;

    fn vocab_size(&self) -> usize {
        self.inner.vocab_size()
    }

    fn context(&self) -> usize {
        self.inner.context()
    }

    fn block_bytes(&self) -> usize {
        self.inner.block_bytes()
    }

    fn new_cache(&self, blocks: usize) -> Ledger {
        self.inner.new_cache(blocks)
    }

    fn pass(&self, spans: &[Span<'_>], cache: &mut Ledger) -> Result<Vec<Vec<Vec<f32>>>> {
        match self.left.replace(self.left.get().wrapping_sub(1)) {
            0 => Err(Error::invalid("the device is gone")),
            _ => self.inner.pass(spans, cache),
        }
    }

    fn poison(&self, blocks: &[u32], cache: &mut Ledger) {
        self.inner.poison(blocks, cache);
    }
}

/// Fails for an engine that goes on with a cache in an unknown state, or leaves requests that never end.
#[test]
fn a_failed_pass_fails_every_request() {
    let vocabulary = vocabulary();
    let inner = Scripted::random().with_context(CONTEXT);
    let model = Failing { inner, left: Cell::new(4) };
    let mut run = Run::new(&model, vocabulary, GRID, plain(20));
    let mut requests = mixed(24);
    requests.iter_mut().for_each(|request| request.config.max_new_tokens = Some(60));
    let ids: Vec<_> = requests.into_iter().map(|request| run.admit(request).unwrap()).collect();
    for _ in 0..4 {
        run.step();
    }
    let error = run.engine.step().unwrap_err();
    assert!(error.to_string().contains("the device is gone"), "{error}");
    let stats = run.engine.stats();
    assert_eq!((stats.running, stats.waiting), (0, 0));
    for id in ids {
        // Some had ended before.
        let ended = matches!(run.events[&id].last(), Some(Event::End(_)));
        let result = run.engine.take(id);
        assert!(result.is_some_and(|result| result.is_ok() == ended), "{id:?}");
    }
}

/// Text that repeats and images that hardly depend on the row: guesses are many.
fn guessable() -> Scripted {
    let vocab = vocabulary().len() as u32;
    let begin_image = vocabulary().special().begin_image.unwrap();
    Scripted::new(move |row| {
        let last = row[row.len() - 1];
        if last == begin_image || (4..16).contains(&last) {
            return (0..vocab).map(|id| 2.0 * noise(&[], id)).collect();
        }
        let next = text((last.saturating_sub(text(0)) + 1) % 10);
        (0..vocab).map(|id| if id == next { 30.0 } else { 0.0 }).collect()
    })
}

/// Fails for an engine in which guesses of text and of images each take what is left of a pass.
#[test]
fn guesses_stay_within_the_rows_of_a_pass() {
    let vocabulary = vocabulary();
    let model = guessable().with_context(CONTEXT);
    let rows = 64;
    let config = EngineConfig { window: Window::Fixed(64), rows, ..plain(1024) };
    let mut run = Run::new(&model, vocabulary, (8, 8), config);
    for n in 0..6 {
        let mode = [GenerationMode::TextOnly, GenerationMode::ImageOnly][n % 2];
        let generation = GenerationConfig {
            mode,
            guidance_scale: 3.0,
            max_new_tokens: Some(80),
            ..GenerationConfig::default()
        };
        let phrase: Vec<u32> = (0..10).map(text).collect();
        let mut request = Request::new([&[0], &phrase[..], &phrase].concat(), generation);
        request.config.text.repetition_penalty = 1.0;
        run.admit(request).unwrap();
    }
    run.finish();
    let given = model.rows_per_pass();
    assert!(given.len() < 60, "{} passes: guesses are right", given.len());
    // While prompts are read, a pass may have one chunk of them more.
    assert!(given.iter().all(|&given| given <= rows + BLOCK), "{given:?}");
    assert!(given[8..].iter().all(|&given| given <= rows), "{given:?}");
}
