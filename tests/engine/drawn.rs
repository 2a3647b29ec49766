//! Models that return drawn ids instead of logits.

use std::cell::Cell;

use calumma::Result;
use calumma::generate::{
    Draw, Drawn, EngineConfig, Event, GenerationConfig, GenerationMode, LanguageModel, Request,
    Span, Window,
};

use super::mixed::mixed;
use super::{CONTEXT, GRID, Run, plain, run_all, run_alone};
use crate::scripted::{Ledger, Scripted, noise, text, vocabulary};

/// A scripted model that draws, and counts the passes with and without draws.
struct Drawing {
    model: Scripted,
    drawn: Cell<usize>,
    logits: Cell<usize>,
}

impl Drawing {
    fn new(model: Scripted) -> Self {
        let model = model.with_context(CONTEXT).unrecorded();
        Self { model, drawn: Cell::new(0), logits: Cell::new(0) }
    }
}

impl LanguageModel for Drawing {
    type Cache = Ledger;

    fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }

    fn context(&self) -> usize {
        self.model.context()
    }

    fn block_bytes(&self) -> usize {
        self.model.block_bytes()
    }

    fn new_cache(&self, blocks: usize) -> Ledger {
        self.model.new_cache(blocks)
    }

    fn pass(&self, spans: &[Span<'_>], cache: &mut Ledger) -> Result<Vec<Vec<Vec<f32>>>> {
        self.logits.set(self.logits.get() + 1);
        self.model.pass(spans, cache)
    }

    fn draws(&self) -> bool {
        true
    }

    fn pass_drawn(
        &self,
        spans: &[Span<'_>],
        draws: &[Draw],
        cache: &mut Ledger,
    ) -> Result<Vec<Vec<Drawn>>> {
        self.drawn.set(self.drawn.get() + 1);
        self.model.pass_drawn(spans, draws, cache)
    }

    fn poison(&self, blocks: &[u32], cache: &mut Ledger) {
        self.model.poison(blocks, cache);
    }
}

/// Fails for an engine whose draws lack something that its own draws have: guidance, a penalty for drafts, kept codes,
/// the ids that fit, the slack of guesses, the position of the noise.
#[test]
fn ids_that_the_model_draws_are_those_of_its_logits() {
    let (vocabulary, requests) = (vocabulary(), mixed(48));
    let plain_model = Scripted::random().with_context(CONTEXT).unrecorded();
    let expected = run_alone(&plain_model, vocabulary, GRID, &plain(1024), &requests);
    for window in [Window::Off, Window::Fixed(1), Window::Fixed(7), Window::Fixed(40), Window::Auto]
    {
        let model = Drawing::new(Scripted::random());
        let config = EngineConfig { window, ..plain(1024) };
        let alone = run_alone(&model, vocabulary, GRID, &config, &requests);
        let together = run_all(&model, vocabulary, GRID, &config, &requests);
        for (n, expected) in expected.iter().enumerate() {
            assert_eq!(alone[n], *expected, "request {n} alone, {window:?}");
            assert_eq!(together[n], *expected, "request {n} in a batch, {window:?}");
        }
        assert!(model.drawn.get() > 100, "{window:?}: {} passes", model.drawn.get());
        assert!(model.logits.get() > 0, "text under a constraint is drawn from logits");
    }
}

/// Fails if log-probabilities change what is drawn, come with anything but text ids, or are not those of the ids.
#[test]
fn log_probabilities_come_before_the_text_ids_that_they_are_of() {
    let (vocabulary, requests) = (vocabulary(), mixed(48));
    let model = Drawing::new(Scripted::random());
    let config = EngineConfig { window: Window::Fixed(7), ..plain(1024) };
    let expected = run_all(&model, vocabulary, GRID, &config, &requests);
    let told = |request: &Request| Request { logprobs: Some(2000), ..request.clone() };
    let asking: Vec<Request> = requests.iter().map(told).collect();
    let mut texts = 0;
    for (n, (generated, events)) in
        run_all(&model, vocabulary, GRID, &config, &asking).into_iter().enumerate()
    {
        assert_eq!(generated, expected[n].0, "request {n}");
        let mut rest = Vec::new();
        let mut events = events.into_iter();
        while let Some(event) = events.next() {
            let Event::Logprobs(logprobs) = event else {
                assert!(!matches!(event, Event::Text(_)), "request {n}: an id without any");
                rest.push(event);
                continue;
            };
            let Some(Event::Text(id)) = events.next() else { panic!("request {n}: not of text") };
            assert_eq!(logprobs.top.len(), vocabulary.len());
            assert!(logprobs.top.is_sorted_by(|a, b| a.1 >= b.1));
            assert!(logprobs.top.contains(&(id, logprobs.of_id)));
            let sum: f64 = logprobs.top.iter().map(|(_, log)| f64::from(*log).exp()).sum();
            assert!((sum - 1.0).abs() < 1e-4, "{sum}");
            texts += 1;
            rest.push(Event::Text(id));
        }
        assert_eq!(rest, expected[n].1, "request {n}");
    }
    assert!(texts > 100, "{texts}");
}

fn image(seed: u64, guess_slack: f32) -> Request {
    let mode = GenerationMode::ImageOnly;
    let config = GenerationConfig { mode, guess_slack, seed, ..GenerationConfig::default() };
    Request::new(vec![0, text(1)], config)
}

/// Fails for draws without ids for places ahead, or without the slack for guesses.
#[test]
fn drawn_ids_are_guessed_ahead_and_kept_with_slack() {
    let vocab = vocabulary().len() as u32;
    let smooth = || {
        Scripted::new(move |row| {
            let last = &row[row.len() - 1..];
            (0..vocab).map(|id| 0.2 * noise(last, id) + 1.5 * noise(&[], id)).collect()
        })
    };
    let passes = |window, slack| {
        let model = Drawing::new(smooth());
        let config = EngineConfig { window, ..plain(1024) };
        let mut run = Run::new(&model, vocabulary(), (8, 8), config);
        for seed in 0..20 {
            run.admit(image(seed, slack)).unwrap();
            run.finish();
        }
        assert_eq!(model.logits.get(), 0);
        run.engine.stats().image_passes as f64 / 20.0
    };
    assert_eq!(passes(Window::Off, 0.0), 63.0);
    let (exact, slack) = (passes(Window::Fixed(12), 0.0), passes(Window::Fixed(12), 0.5));
    assert!(exact < 25.0 && slack < 0.8 * exact, "{exact} and {slack} passes");
}
