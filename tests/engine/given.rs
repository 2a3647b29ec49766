//! Codes of an image that are given: kept as they are, almost for free.

use calumma::generate::{
    EngineConfig, Event, Generated, GenerationConfig, GenerationMode, Request, Window,
};

use super::{Run, plain};
use crate::scripted::{Scripted, code, text, vocabulary};

const GRID: (usize, usize) = (8, 8);
const CODES: usize = 64;

fn drawing(kept: Vec<Option<u32>>, mode: GenerationMode) -> Request {
    let config = GenerationConfig {
        mode,
        guidance_scale: 3.0,
        seed: 8,
        max_new_tokens: Some(CODES + 6),
        ..GenerationConfig::default()
    };
    Request { kept, ..Request::new(vec![0, text(1), text(4)], config) }
}

/// The result, and the number of passes that it took.
fn run(window: Window, request: Request) -> (Generated, usize) {
    let model = Scripted::random().with_context(160);
    let vocabulary = vocabulary();
    let mut run = Run::new(&model, vocabulary, GRID, EngineConfig { window, ..plain(64) });
    let id = run.admit(request).unwrap();
    run.finish();
    let (generated, events) = run.take(id);
    let progress = events.iter().filter(|event| matches!(event, Event::ImageProgress { .. }));
    assert_eq!(progress.count(), CODES * generated.images.len());
    let passes = model.seen.borrow().len();
    (generated, passes)
}

fn some_codes() -> Vec<Option<u32>> {
    (0..CODES as u32).map(|at| Some(code(at * at % 12))).collect()
}

/// Fails for an engine that draws where a code is given, runs one pass for each, or draws the others from
/// something else than the true row.
#[test]
fn kept_codes_are_kept_and_cost_no_pass_each() {
    let mut kept = some_codes();
    let holes = [3, 4, 20, 50, 63];
    holes.iter().for_each(|&at| kept[at] = None);
    let mut expected = None;
    for (window, most) in [(Window::Off, 7), (Window::Fixed(8), 7), (Window::Fixed(64), 7)] {
        let (generated, passes) = run(window, drawing(kept.clone(), GenerationMode::ImageOnly));
        let ids = &generated.ids[1..];
        for (at, (kept, &id)) in kept.iter().zip(ids).enumerate() {
            assert!(kept.is_none_or(|kept| kept == id), "code {at}");
        }
        assert!(passes <= most, "{passes} passes, {window:?}");
        assert_eq!(*expected.get_or_insert(generated.clone()), generated, "{window:?}");
    }
    // What is drawn in the holes depends on what is given before them.
    let mut other = kept.clone();
    other[0] = Some(code(7));
    let (changed, _) = run(Window::Fixed(8), drawing(other, GenerationMode::ImageOnly));
    let expected = expected.unwrap();
    assert!(holes.iter().any(|&at| changed.ids[at + 1] != expected.ids[at + 1]));
}

/// Fails for an engine that numbers noise by drawn codes instead of places: the code in a hole would then not
/// be the one that whole drawing puts there after the same codes.
#[test]
fn codes_of_a_drawn_image_given_again_leave_it_as_it_is() {
    let whole = run(Window::Off, drawing(Vec::new(), GenerationMode::ImageOnly)).0;
    for step in [2, 3, 7] {
        let given = |(at, &id): (usize, &u32)| (at % step != 0).then_some(id);
        let kept: Vec<_> = whole.ids[1..].iter().enumerate().map(given).collect();
        for window in [Window::Off, Window::Fixed(5)] {
            let request = drawing(kept.clone(), GenerationMode::ImageOnly);
            assert_eq!(run(window, request).0, whole, "every {step}th is drawn, {window:?}");
        }
    }
}

/// Fails for an engine that draws the last code whatever is given, or ends the image early.
#[test]
fn an_empty_hole_returns_the_given_codes() {
    let given: Vec<u32> = some_codes().into_iter().flatten().collect();
    for window in [Window::Off, Window::Fixed(8), Window::Auto] {
        let (generated, passes) = run(window, drawing(some_codes(), GenerationMode::ImageOnly));
        assert_eq!(generated.ids[1..], given);
        assert_eq!(generated.images.len(), 1);
        assert!(passes <= 2, "{passes} passes for an image that is known");
    }
}

/// Fails for an engine that takes an unknown code for a given one.
#[test]
fn a_hole_of_the_whole_image_is_generation() {
    for mode in [GenerationMode::ImageOnly, GenerationMode::Auto] {
        let whole = run(Window::Fixed(8), drawing(Vec::new(), mode)).0;
        assert_eq!(run(Window::Fixed(8), drawing(vec![None; CODES], mode)).0, whole);
    }
}

/// Fails for an engine that finds out in the middle of an image.
#[test]
fn kept_codes_of_another_size_or_kind_are_refused() {
    let (model, vocabulary) = (Scripted::random().with_context(160), vocabulary());
    let mut run = Run::new(&model, vocabulary, GRID, plain(64));
    let mut of_text = some_codes();
    of_text[9] = Some(text(0));
    let mut unknown = some_codes();
    unknown[9] = Some(3000);
    for kept in [some_codes()[1..].to_vec(), of_text, unknown] {
        assert!(run.admit(drawing(kept, GenerationMode::ImageOnly)).is_err());
    }
    assert!(run.engine.is_idle() && model.seen.borrow().is_empty());
}
