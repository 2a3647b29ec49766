//! Equal ids whatever the batch, the order of arrival, the chunks of prompts.

use calumma::generate::{EngineConfig, GenerationConfig, GenerationMode, Request, Window};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::mixed::mixed;
use super::{CODES, CONTEXT, GRID, plain, run_all, run_alone, run_arriving};
use crate::scripted::{Scripted, text, vocabulary};

fn model() -> Scripted {
    Scripted::random().with_context(CONTEXT).unrecorded()
}

/// Engines that share passes, caches and windows in different ways.
fn engines() -> Vec<EngineConfig> {
    let small = 16;
    vec![
        plain(1024),
        EngineConfig { prefix_cache: true, ..plain(1024) },
        EngineConfig { rows: 64, window: Window::Fixed(3), ..plain(1024) },
        EngineConfig { rows: 65, ..plain(64) },
        EngineConfig { window: Window::Fixed(5), ..plain(small) },
        EngineConfig { prefix_cache: true, rows: 70, window: Window::Auto, ..plain(small) },
        EngineConfig { prefix_cache: true, window: Window::Fixed(16), rows: 80, ..plain(40) },
    ]
}

/// Fails for an engine in which anything of a request depends on its batch: one noise stream for all, rows
/// mixed up in a pass, guidance lanes of another gang, the smallest number of kept guesses for all.
#[test]
fn batch_of_many_equals_each_alone_bit_for_bit() {
    let (vocabulary, requests) = (vocabulary(), mixed(48));
    let alone = run_alone(&model(), vocabulary, GRID, &plain(1024), &requests);
    let images: usize = alone.iter().map(|(generated, _)| generated.images.len()).sum();
    assert!(images > 20, "{images} images are too few to show anything");
    for (number, config) in engines().iter().enumerate() {
        let together = run_all(&model(), vocabulary, GRID, config, &requests);
        for ((n, alone), together) in alone.iter().enumerate().zip(&together) {
            assert_eq!(alone, together, "request {n} in engine {number}");
        }
    }
}

/// Fails for an engine whose ids depend on who came first: noise by request id or by step.
#[test]
fn order_of_arrival_changes_nothing() {
    let (vocabulary, requests) = (vocabulary(), mixed(30));
    let expected = run_all(&model(), vocabulary, GRID, &plain(1024), &requests);
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for (number, config) in engines().iter().enumerate() {
        let mut order: Vec<usize> = (0..requests.len()).collect();
        order.shuffle(&mut rng);
        let arrivals =
            order.iter().map(|&n| (rng.random_range(0..60), requests[n].clone())).collect();
        let found = run_arriving(&model(), vocabulary, GRID, config, arrivals);
        for (n, found) in order.into_iter().zip(found) {
            assert_eq!(expected[n], found, "request {n} in engine {number}");
        }
    }
}

/// Fails for an engine that loses, repeats or misplaces ids between the chunks of a prompt, or draws from
/// the logits of an inner chunk.
#[test]
fn prefill_in_chunks_of_any_budget_equals_one_piece() {
    let (vocabulary, requests) = (vocabulary(), mixed(30));
    let whole = run_alone(&model(), vocabulary, GRID, &plain(1024), &requests);
    for rows in [64, 65, 100, 127, 128, 191, 1000] {
        for prefix_cache in [false, true] {
            let config = EngineConfig { rows, prefix_cache, ..plain(256) };
            let chunked = run_alone(&model(), vocabulary, GRID, &config, &requests);
            assert!(chunked == whole, "chunks of {rows}");
            let together = run_all(&model(), vocabulary, GRID, &config, &requests);
            assert!(together == whole, "chunks of {rows} in a batch");
        }
    }
}

/// Fails for an engine that ignores its budget, asks for logits inside a prompt, or cuts prompts inside blocks
/// although whole ones fit.
#[test]
fn a_prompt_is_fed_in_chunks_of_whole_blocks_and_once() {
    let (vocabulary, requests) = (vocabulary(), mixed(30));
    let longest = requests.into_iter().max_by_key(|request| request.prompt.len()).unwrap();
    let (mode, max_new_tokens) = (GenerationMode::TextOnly, Some(9));
    let config = GenerationConfig { mode, max_new_tokens, ..GenerationConfig::default() };
    let request = Request::new(longest.prompt, config);
    let prompt = &request.prompt;
    let len = prompt.len();
    for (rows, chunks) in [(64, len.div_ceil(64)), (130, len.div_ceil(128)), (1000, 1)] {
        let model = Scripted::random().with_context(CONTEXT);
        let config = EngineConfig { rows, ..plain(64) };
        run_all(&model, vocabulary, GRID, &config, std::slice::from_ref(&request));
        let seen = model.seen.borrow();
        let spans: Vec<_> = seen.iter().flatten().filter(|span| span.row.len() <= len).collect();
        assert_eq!(spans.len(), chunks, "{rows} rows");
        let fed: Vec<u32> = spans.iter().flat_map(|span| span.ids().to_vec()).collect();
        assert_eq!(fed, *prompt);
        for span in &spans[..chunks - 1] {
            assert!(span.row.len().is_multiple_of(64) && span.wanted == 0, "{span:?}");
        }
        assert!(model.rows_per_pass().iter().all(|&given| given <= rows), "{rows} rows");
    }
}

/// Fails for an engine that runs the lanes of guidance at scale 1, or mixes their logits.
#[test]
fn guidance_one_is_off() {
    let vocabulary = vocabulary();
    for (n, mut request) in mixed(30).into_iter().enumerate() {
        request.config.guidance_scale = 1.0;
        request.config.image_guidance_scale = None;
        let mut one = request.clone();
        one.config.image_guidance_scale = Some(1.0);
        let models = [request, one].map(|request| {
            let model = Scripted::random().with_context(CONTEXT);
            let made = run_all(&model, vocabulary, GRID, &plain(64), &[request]);
            (made, model)
        });
        let [(off, without), (one, with)] = models;
        assert_eq!(off, one, "request {n}");
        assert_eq!(*without.seen.borrow(), *with.seen.borrow(), "request {n}");
        assert!(with.seen.borrow().iter().all(|pass| pass.len() == 1), "request {n}");
    }
}

/// Fails for an engine that runs guidance lanes outside images: they cost as much as a request each.
#[test]
fn guidance_lanes_run_in_images_only() {
    let (vocabulary, special) = (vocabulary(), *vocabulary().special());
    let model =
        Scripted::preferring(&[special.begin_image.unwrap(), text(0)]).with_context(CONTEXT);
    let config = GenerationConfig {
        guidance_scale: 3.0,
        image_guidance_scale: Some(1.2),
        max_new_tokens: Some(2 * (CODES + 2) + 10),
        ..GenerationConfig::default()
    };
    let request = Request::new(vec![special.bos.unwrap()], config.greedy());
    let (generated, _) = run_all(&model, vocabulary, GRID, &plain(64), &[request]).remove(0);
    assert_eq!(generated.images.len(), 2);
    let lanes: Vec<usize> = model.seen.borrow().iter().map(Vec::len).collect();
    assert_eq!(lanes.iter().filter(|&&lanes| lanes > 1).count(), 2 * CODES);
    // Before the first image the branch of images would be that of nothing once more.
    let in_images: Vec<usize> = lanes.into_iter().filter(|&lanes| lanes > 1).collect();
    assert_eq!(in_images, [[2; CODES], [3; CODES]].concat());
}

/// Fails for an engine that asks for all columns where only codes may follow, or draws from shifted columns.
#[test]
fn rows_of_codes_ask_for_the_columns_of_codes_alone() {
    let vocabulary = vocabulary();
    let model = Scripted::random().with_context(CONTEXT);
    let mut requests = mixed(48);
    requests.retain(|request| request.config.mode == GenerationMode::ImageOnly);
    run_all(&model, vocabulary, GRID, &plain(1024), &requests);
    let seen = model.seen.borrow();
    let wanted = seen.iter().flatten().filter(|span| span.wanted > 0);
    assert!(wanted.clone().count() > 100);
    for span in wanted {
        assert_eq!(span.columns, 4..16, "after {:?}", span.row);
    }
}
