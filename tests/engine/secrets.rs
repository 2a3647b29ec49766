//! No request sees what is another's: not in a freed block, not in a draft, not in a shared prefix.

use calumma::generate::{EngineConfig, GenerationConfig, GenerationMode, Request, Window};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::mixed::mixed;
use super::{CONTEXT, GRID, Run, plain, run_all};
use crate::scripted::{Scripted, text, vocabulary};

/// Fails for an engine that reads a block after its lane has ended, or a place before it is written.
#[test]
fn freed_cache_is_never_read() {
    let (vocabulary, requests) = (vocabulary(), mixed(48));
    for (blocks, prefix_cache) in [(16, false), (16, true), (40, true)] {
        let config = EngineConfig { prefix_cache, window: Window::Fixed(4), ..plain(blocks) };
        let model = Scripted::random().with_context(CONTEXT).unrecorded();
        let mut run = Run::new(&model, vocabulary, GRID, config.clone());
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let ids: Vec<_> = requests.iter().map(|r| run.admit(r.clone()).unwrap()).collect();
        let mut cancelled = Vec::new();
        while !run.engine.is_idle() {
            run.step();
            let id = ids[rng.random_range(0..ids.len())];
            if rng.random_range(0..4) == 0 && run.engine.cancel(id) {
                cancelled.push(id);
            }
        }
        assert!(model.poisoned.get() > blocks, "{} blocks were freed", model.poisoned.get());
        assert!(cancelled.len() > 1, "{} were cancelled", cancelled.len());
        let clean = EngineConfig { poison_freed: false, ..config };
        let expected = run_all(&model, vocabulary, GRID, &clean, &requests);
        for (id, expected) in ids.into_iter().zip(expected) {
            let found = run.take(id);
            let all = cancelled.contains(&id) || found == expected;
            assert!(all && expected.0.ids.starts_with(&found.0.ids));
        }
    }
}

/// A model that writes letters of the row only, by preference what followed the last two before.
fn closed() -> Scripted {
    let vocab = vocabulary().len();
    let model = Scripted::new(move |row| {
        let mut logits = vec![0.0; vocab];
        row.iter().for_each(|&id| logits[id as usize] = 15.0);
        if let Some(pair) = row.len().checked_sub(2).map(|at| &row[at..])
            && let Some(at) = row.windows(2).position(|two| two == pair)
            && let Some(&next) = row.get(at + 2)
        {
            logits[next as usize] = 20.0;
        }
        logits
    });
    model.with_context(CONTEXT)
}

/// `common`, `own` ids and again `common`'s end: what follows it is known in this row, and in the other one.
fn request(common: &[u32], own: &[u32]) -> Request {
    let config = GenerationConfig {
        mode: GenerationMode::TextOnly,
        max_new_tokens: Some(40),
        ..GenerationConfig::default()
    };
    let end = &common[common.len() - 4..];
    let mut request = Request::new([common, own, end].concat(), config.greedy());
    request.config.text.repetition_penalty = 1.0;
    request
}

/// Two prompts that begin alike and hold secrets in letters of their own. Fails for an engine whose drafts come
/// from what others wrote, or whose prefix cache knows blocks by their own ids only.
#[test]
fn no_request_sees_anothers_ids() {
    let vocabulary = vocabulary();
    // The letters a and b are everybody's.
    let common: Vec<u32> =
        std::iter::once(0).chain((0..130).map(|at| text((at * at / 3) % 2))).collect();
    let secrets = [[2, 3, 4, 2, 2, 4, 3, 3], [5, 6, 7, 5, 5, 7, 6, 6]].map(|ids| ids.map(text));
    // The second block of these two is the same, the first is not.
    let blocks = [2, 5].map(|letter| {
        let mut ids = common.clone();
        ids[5] = text(letter);
        ids
    });
    let prompts = [
        request(&common, &secrets[0]),
        request(&common, &secrets[1]),
        request(&blocks[0], &secrets[0]),
        request(&blocks[1], &secrets[1]),
    ];
    for blocks in [8, 64] {
        let model = closed();
        let config = EngineConfig { prefix_cache: true, window: Window::Fixed(6), ..plain(blocks) };
        let mut run = Run::new(&model, vocabulary, GRID, config);
        let requests: Vec<Request> = prompts.iter().cycle().take(16).cloned().collect();
        let ids: Vec<_> = requests.iter().map(|r| run.admit(r.clone()).unwrap()).collect();
        run.finish();
        assert!(run.engine.stats().prefix_hits > 0);
        for (n, id) in ids.into_iter().enumerate() {
            let others = &secrets[1 - n % 2];
            let found = run.take(id).0;
            assert_eq!(found.ids.len(), 40);
            assert!(!found.ids.iter().any(|id| others.contains(id)), "request {n}: {found:?}");
        }
        for span in model.seen.borrow().iter().flatten() {
            let of = |secret: &[u32; 8]| span.row.iter().any(|id| secret.contains(id));
            assert!(!(of(&secrets[0]) && of(&secrets[1])), "both secrets in one lane: {span:?}");
        }
    }
}
