//! Guesses that are run together and kept while they are right: fewer passes, equal ids.

use calumma::generate::{EngineConfig, GenerationConfig, GenerationMode, Request, Window};

use super::mixed::{Pattern, mixed, texts};
use super::{CODES, CONTEXT, GRID, Run, plain, run_all, run_alone};
use crate::scripted::{Scripted, code, noise, text, vocabulary};

/// Fails for an engine that keeps a guess without a test, drops the id that replaces a wrong one, leaves wrong
/// guesses in the cache or in what a penalty counts, or shifts the noise by the guesses of a pass.
#[test]
fn window_size_changes_no_id() {
    let (vocabulary, requests) = (vocabulary(), mixed(48));
    let model = Scripted::random().with_context(CONTEXT).unrecorded();
    let expected = run_alone(&model, vocabulary, GRID, &plain(1024), &requests);
    let fixed = [1, 2, 3, 7, 16, 64].map(Window::Fixed);
    for window in fixed.into_iter().chain([Window::Auto]) {
        let config = EngineConfig { window, ..plain(1024) };
        let alone = run_alone(&model, vocabulary, GRID, &config, &requests);
        let together = run_all(&model, vocabulary, GRID, &config, &requests);
        for (n, expected) in expected.iter().enumerate() {
            assert_eq!(alone[n], *expected, "request {n} alone, {window:?}");
            assert_eq!(together[n], *expected, "request {n} in a batch, {window:?}");
        }
    }
}

/// Fails for an engine that runs what a constraint forces id by id, or by the window of guesses, or beyond the rows
/// of a pass.
#[test]
fn what_a_constraint_forces_is_run_ahead_as_far_as_a_pass_has_rows() {
    let vocabulary = vocabulary();
    let forced = || {
        let config = GenerationConfig {
            mode: GenerationMode::TextOnly,
            max_new_tokens: Some(200),
            ..GenerationConfig::default()
        };
        let mut request = Request::new(vec![0, text(1)], config);
        let places = (0..150_u32).map(|at| vec![text(at % 10)]).collect();
        request.constraint = Some(Pattern::boxed(places));
        request
    };
    let run = |requests: &[Request], window| {
        let model = Scripted::random().with_context(CONTEXT);
        let config = EngineConfig { window, rows: 64, ..plain(1024) };
        let made = run_all(&model, vocabulary, GRID, &config, requests);
        (made, model.rows_per_pass())
    };
    let alone = [forced()];
    let (expected, singly) = run(&alone, Window::Off);
    assert_eq!(expected[0].0.ids, (0..150).map(|at| text(at % 10)).collect::<Vec<_>>());
    assert!(singly.len() >= 150, "{} passes", singly.len());
    for window in [Window::Fixed(1), Window::Auto] {
        let (made, rows) = run(&alone, window);
        assert_eq!(made, expected, "{window:?}");
        assert!(rows.len() <= 5 && rows.iter().all(|&rows| rows <= 64), "{window:?}: {rows:?}");
    }
    let mut many = mixed(12);
    many.extend([forced(), forced()]);
    let (expected, _) = run(&many, Window::Off);
    let (made, rows) = run(&many, Window::Fixed(2));
    assert_eq!(made, expected);
    // A prompt gets a chunk in any pass.
    assert!(rows.iter().all(|&rows| rows <= 128), "{rows:?}");
}

/// A model of images in which a code depends on the one before it, but not much.
fn smooth() -> Scripted {
    let vocab = vocabulary().len() as u32;
    Scripted::new(move |row| {
        let last = &row[row.len() - 1..];
        (0..vocab).map(|id| 0.2 * noise(last, id) + 1.5 * noise(&[], id)).collect()
    })
}

fn drawing(seed: u64, scale: f32) -> Request {
    let config = GenerationConfig {
        mode: GenerationMode::ImageOnly,
        guidance_scale: scale,
        seed,
        ..GenerationConfig::default()
    };
    Request::new(vec![0, text(1)], config)
}

/// Fails for an engine that drops the guesses behind a wrong one, or guesses without the noise of the place.
#[test]
fn right_guesses_save_passes() {
    let vocabulary = vocabulary();
    let grid = (8, 8);
    let requests: Vec<Request> = (0..20).map(|seed| drawing(seed, 3.0)).collect();
    let passes = |window| {
        let model = smooth().with_context(CONTEXT).unrecorded();
        let mut run = Run::new(&model, vocabulary, grid, EngineConfig { window, ..plain(1024) });
        for request in &requests {
            run.admit(request.clone()).unwrap();
            run.finish();
        }
        let stats = run.engine.stats();
        assert_eq!(stats.image_ids, 20 * 64);
        stats.image_passes as f64 / 20.0
    };
    // The first code comes with the prompt.
    let off = passes(Window::Off);
    assert_eq!(off, 63.0);
    let (four, sixteen) = (passes(Window::Fixed(4)), passes(Window::Fixed(16)));
    assert!(four < 0.5 * off && sixteen < 0.3 * off, "{four} and {sixteen} passes");
}

/// With a model that is indifferent to the row, every guess is right: about codes / (window + 1) passes, greedy
/// or not, guided or not. Fails for an engine that tests one guess less, has no bonus row, or guesses
/// codes at random.
#[test]
fn a_predictable_image_takes_its_codes_by_window_plus_one_passes() {
    let vocabulary = vocabulary();
    let grid = (8, 8);
    for window in [1, 3, 7, 15, 64] {
        for (greedy, scale) in [(true, 1.0), (false, 1.0), (true, 3.0), (false, 3.0)] {
            let model = Scripted::preferring(&[code(5), code(2)]).with_context(CONTEXT);
            let mut request = drawing(4, scale);
            request.config.image.greedy = greedy;
            let config = EngineConfig { window: Window::Fixed(window), ..plain(1024) };
            let mut run = Run::new(&model, vocabulary, grid, config);
            run.admit(request).unwrap();
            run.finish();
            let passes = run.engine.stats().image_passes;
            // The first code comes with the prompt.
            let least = 63_usize.div_ceil(window + 1);
            assert_eq!(passes, least, "window {window}, greedy {greedy}, scale {scale}");
        }
    }
}

/// Fails for an engine whose window is larger than asked for, or that runs codes behind the image's end.
#[test]
fn a_pass_has_no_more_rows_than_the_window_allows() {
    let vocabulary = vocabulary();
    for (window, scale) in [(1, 1.0), (3, 3.0), (7, 3.0), (40, 1.0)] {
        let model = Scripted::random().with_context(CONTEXT);
        let config = EngineConfig { window: Window::Fixed(window), ..plain(1024) };
        run_all(&model, vocabulary, GRID, &config, &[drawing(1, scale)]);
        let seen = model.seen.borrow();
        for span in seen.iter().skip(1).flatten() {
            assert!(span.ids().len() <= window + 1, "{span:?}");
            let codes = span.row.iter().filter(|id| (4..16).contains(*id)).count();
            assert!(codes < CODES, "the last code of an image is not fed: {span:?}");
        }
    }
}

/// A model that goes on as the row did after the last id's first occurrence.
fn repeating() -> Scripted {
    let vocab = vocabulary().len();
    Scripted::new(move |row| {
        let mut logits = vec![0.0; vocab];
        let (last, before) = row.split_last().unwrap();
        let first = before.iter().position(|id| id == last);
        logits[first.map_or(text(0), |at| row[at + 1]) as usize] = 20.0;
        logits
    })
}

/// Fails for an engine that has no drafts for text, or takes them from what follows the wrong occurrence.
#[test]
fn repeated_text_takes_fewer_passes_and_is_equal() {
    let vocabulary = vocabulary();
    let phrase: Vec<u32> = (0..9).map(text).collect();
    let config = GenerationConfig {
        mode: GenerationMode::TextOnly,
        max_new_tokens: Some(60),
        ..GenerationConfig::default()
    };
    let mut request = Request::new([vec![0], phrase.clone(), phrase].concat(), config.greedy());
    request.config.text.repetition_penalty = 1.0;
    let passes = |window| {
        let model = repeating().with_context(CONTEXT);
        let config = EngineConfig { window, ..plain(64) };
        let made = run_all(&model, vocabulary, GRID, &config, std::slice::from_ref(&request));
        (made, model.seen.borrow().len())
    };
    let (expected, off) = passes(Window::Off);
    assert_eq!(off, 60);
    for (window, most) in [(Window::Fixed(4), 14), (Window::Fixed(9), 8)] {
        let (made, passes) = passes(window);
        assert_eq!(made, expected, "{window:?}");
        assert!(passes <= most, "{passes} passes, {window:?}");
    }
}

/// Fails for an engine that drafts across the end of what a request may have.
#[test]
fn limits_hold_inside_a_window() {
    let vocabulary = vocabulary();
    let model = repeating().with_context(CONTEXT).unrecorded();
    let prompt = [vec![0], texts(0, 12), texts(0, 12)].concat();
    for limit in 1..20 {
        for stop_ids in [vec![], vec![text(4)]] {
            let config = GenerationConfig {
                mode: GenerationMode::TextOnly,
                max_new_tokens: Some(limit),
                stop_ids,
                ..GenerationConfig::default()
            };
            let request = [Request::new(prompt.clone(), config.greedy())];
            let one = run_all(&model, vocabulary, GRID, &plain(64), &request);
            let config = EngineConfig { window: Window::Fixed(8), ..plain(64) };
            assert_eq!(run_all(&model, vocabulary, GRID, &config, &request), one, "{limit} ids");
            assert!(one[0].0.ids.len() <= limit);
        }
    }
}
