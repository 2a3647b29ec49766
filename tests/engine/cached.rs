//! Prompts that begin alike share what is computed of them.

use calumma::generate::{BLOCK, EngineConfig, GenerationConfig, GenerationMode, Request};

use super::mixed::{mixed, texts};
use super::{CONTEXT, GRID, Run, plain, run_alone};
use crate::scripted::{Scripted, text, vocabulary};

fn request(common: usize, salt: u32, own: usize) -> Request {
    let prompt = [vec![0], texts(3, common - 1), texts(salt, own)].concat();
    let config = GenerationConfig {
        seed: u64::from(salt),
        max_new_tokens: Some(20),
        mode: GenerationMode::TextOnly,
        ..GenerationConfig::default()
    };
    Request::new(prompt, config)
}

/// Fails for an engine that takes a block of another prompt, counts positions from the end of what is shared,
/// or leaves out an id.
#[test]
fn cached_prefix_equals_cold() {
    let (vocabulary, requests) = (vocabulary(), mixed(48));
    let model = Scripted::random().with_context(CONTEXT).unrecorded();
    let cold = run_alone(&model, vocabulary, GRID, &plain(1024), &requests);
    for blocks in [16, 30, 1024] {
        let config = EngineConfig { prefix_cache: true, ..plain(blocks) };
        let mut run = Run::new(&model, vocabulary, GRID, config);
        // Twice each, one after another, and then all at once.
        for (n, request) in requests.iter().chain(&requests).enumerate() {
            let id = run.admit(request.clone()).unwrap();
            run.finish();
            assert_eq!(run.take(id), cold[n % 48], "request {} of {blocks} blocks", n % 48);
        }
        let ids: Vec<_> = requests.iter().map(|r| run.admit(r.clone()).unwrap()).collect();
        run.finish();
        for (n, id) in ids.into_iter().enumerate() {
            assert_eq!(run.take(id), cold[n], "request {n} of {blocks} blocks");
        }
        assert!(run.engine.stats().prefix_hits > 0, "{blocks} blocks");
    }
}

/// Fails for an engine that computes a shared beginning again, or counts hits that it does not have.
#[test]
fn what_prompts_share_is_computed_once() {
    let vocabulary = vocabulary();
    // The blocks that are shared: whole ones, and never the last id, whose logits are wanted.
    for (common, own, shared) in [(150, 30, 2), (128, 1, 2), (128, 0, 1), (129, 0, 2), (63, 9, 0)] {
        let model = Scripted::random().with_context(CONTEXT);
        let config = EngineConfig { prefix_cache: true, ..plain(64) };
        let mut run = Run::new(&model, vocabulary, GRID, config);
        run.admit(request(common, 1, own)).unwrap();
        run.finish();
        let (rows, hits) = (run.engine.stats().rows, run.engine.stats().prefix_hits);
        assert_eq!((hits, rows), (0, model.rows_per_pass().iter().sum()));
        let id = run.admit(request(common, 2, own)).unwrap();
        run.finish();
        let stats = run.engine.stats();
        assert_eq!(stats.prefix_hits, shared * BLOCK, "{common} + {own}");
        let drawn = run.take(id).0.ids.len();
        // The last id that is drawn is not fed.
        let fed = common + own - shared * BLOCK + drawn - 1;
        assert_eq!(stats.rows - rows, fed, "{common} + {own}");
    }
}

/// Fails for an engine that keeps blocks for later prompts although requests wait for room, or drops what
/// was used last.
#[test]
fn kept_prefixes_give_way_to_requests() {
    let vocabulary = vocabulary();
    let model = Scripted::random().with_context(CONTEXT);
    let config = EngineConfig { prefix_cache: true, ..plain(5) };
    let mut run = Run::new(&model, vocabulary, GRID, config);
    for salt in 0..20 {
        let mut other = request(40, salt, 200);
        other.prompt[1] = text(salt % 10);
        other.prompt[2] = text(salt / 10);
        let before = run.engine.stats().prefix_hits;
        for seed in 0..2 {
            other.config.seed = seed;
            run.admit(other.clone()).unwrap();
            run.finish();
        }
        assert!(run.engine.stats().prefix_hits > before, "prompt {salt} is still known");
    }
}

/// Fails for an engine that shares across salts, so that one user can time what another one asked, or that takes
/// the salt for part of the row.
#[test]
fn salt_separates_prefixes() {
    let vocabulary = vocabulary();
    let model = Scripted::random().with_context(CONTEXT);
    let config = EngineConfig { prefix_cache: true, ..plain(64) };
    let mut run = Run::new(&model, vocabulary, GRID, config);
    let mut hits = Vec::new();
    let mut results = Vec::new();
    for salt in [1, 2, 0, 1, 2, 0] {
        let request = Request { salt, ..request(150, 4, 20) };
        let id = run.admit(request).unwrap();
        run.finish();
        hits.push(run.engine.stats().prefix_hits);
        results.push(run.take(id));
    }
    assert_eq!(hits, [0, 0, 0, 128, 256, 384]);
    assert!(results.iter().all(|result| *result == results[0]), "a salt changes no id");
    // At the same time as well.
    let at_once =
        [3, 4, 3, 4].map(|salt| run.admit(Request { salt, ..request(150, 4, 20) }).unwrap());
    run.finish();
    assert_eq!(run.engine.stats().prefix_hits, 384 + 2 * 128);
    assert!(at_once.into_iter().all(|id| run.take(id) == results[0]));
}
