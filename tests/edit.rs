//! Edits with the shipped model: what is kept stays, what is drawn is what `draw` would draw.

use std::path::Path;
use std::sync::LazyLock;

use calumma::data::Dataset;
use calumma::data::scenes::Scenes;
use calumma::generate::GenerationConfig;
use calumma::pipeline::{EditRequest, EditScore, Edited, Pipeline, PixelMask, Region};
use image::RgbImage;
use vq_tokenizer::Codes;

use crate::common::cpu;

const TEXT: &str = "a large blue circle on a white background";
/// Rows and columns of codes, and pixels of a side.
const GRID: usize = 8;
const SIDE: u32 = 64;

static PIPELINE: LazyLock<Pipeline> = LazyLock::new(|| {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("checkpoints/demo");
    Pipeline::open(&dir, &cpu()).unwrap()
});

static SCENE: LazyLock<RgbImage> = LazyLock::new(|| {
    let scenes = Scenes::new("scenes:val?count=1&seed=79&size=64".parse().unwrap()).unwrap();
    scenes.get(0).unwrap().images.remove(0)
});

fn codes(image: &RgbImage) -> Codes {
    PIPELINE.vq().unwrap().encode(std::slice::from_ref(image)).unwrap().remove(0)
}

fn decoded(codes: &Codes) -> RgbImage {
    PIPELINE.vq().unwrap().decode(std::slice::from_ref(codes)).unwrap().remove(0)
}

fn mask(marked: impl Fn(u32, u32) -> bool, dilate: usize) -> Region {
    let marked = (0..SIDE * SIDE).map(|at| marked(at % SIDE, at / SIDE)).collect();
    Region::Mask { mask: PixelMask::new(SIDE, SIDE, marked).unwrap(), dilate }
}

/// An edit of [`SCENE`] with one candidate and the seed 5.
fn request(region: Region) -> EditRequest {
    let config = GenerationConfig { candidates: 1, seed: 5, ..PIPELINE.generation().clone() };
    EditRequest { image: SCENE.clone(), text: TEXT.into(), region, count: 1, score: None, config }
}

fn edit(request: &EditRequest) -> Edited {
    let mut edits = PIPELINE.edit(request).unwrap();
    assert_eq!(edits.len(), request.count);
    edits.remove(0)
}

/// The codes of the image that `draw` gives with the settings of `request`.
fn drawn(request: &EditRequest) -> RgbImage {
    PIPELINE.draw_batch(&[&request.text], &request.config).unwrap().remove(0)
}

/// A square of two by two cells in the middle, drawn with a border of one cell.
fn middle() -> Region {
    mask(|x, y| (24..40).contains(&x) && (24..40).contains(&y), 1)
}

#[test]
fn an_empty_mask_returns_the_images_own_codes() {
    for region in [mask(|_, _| false, 1), Region::KeepRows(GRID)] {
        let edited = edit(&request(region));
        assert_eq!(edited.codes, codes(&SCENE));
        assert_eq!(edited.image, decoded(&codes(&SCENE)));
    }
}

#[test]
fn a_full_mask_equals_a_drawing_with_the_same_seed() {
    for candidates in [1, 3] {
        for region in [mask(|_, _| true, 0), Region::KeepRows(0)] {
            let mut request = request(region);
            request.config.candidates = candidates;
            let edited = edit(&request);
            assert_eq!(edited.image, drawn(&request));
            assert_ne!(edited.codes, codes(&SCENE));
        }
    }
}

#[test]
fn kept_codes_are_kept_and_the_rest_is_drawn() {
    let own = codes(&SCENE);
    for (region, kept) in [
        (middle(), 64 - 16),
        (mask(|x, y| (x, y) == (0, 0), 0), 63),
        (mask(|_, y| y == 63, 1), 48),
        (Region::KeepRows(5), 40),
    ] {
        let request = request(region);
        let plan = PIPELINE.plan_edit(&request).unwrap();
        assert_eq!(plan.known.iter().flatten().count(), kept);
        assert_eq!(plan.hole.count(), 64 - kept);
        let edited = edit(&request);
        let (mut equal, mut changed) = (0, 0);
        for (at, drawn) in plan.hole.marked().iter().enumerate() {
            match drawn {
                false => equal += usize::from(edited.codes.ids[at] == own.ids[at]),
                true => changed += usize::from(edited.codes.ids[at] != own.ids[at]),
            }
        }
        assert_eq!(equal, kept);
        assert!(changed > 0 || plan.hole.count() == 1, "nothing was drawn");
    }
}

#[test]
fn an_edit_depends_on_its_seed_alone() {
    let one = request(middle());
    let first = edit(&one);
    assert_eq!(first, edit(&one));
    let mut many = one.clone();
    many.count = 3;
    let edits = PIPELINE.edit(&many).unwrap();
    assert_eq!(edits[0], first);
    let mut second = one.clone();
    second.config.seed += 1;
    assert_eq!(edits[1], edit(&second));
    assert!(edits[1].codes != first.codes || edits[2].codes != first.codes);
}

#[test]
fn the_candidate_of_the_highest_score_is_chosen_and_scores_are_of_their_seeds() {
    let mut many = request(middle());
    many.config.candidates = 6;
    for score in [None, Some(EditScore::LookAhead), Some(EditScore::Caption), Some(EditScore::Sum)]
    {
        many.score = score;
        let edited = edit(&many);
        assert_eq!(edited.candidates.len(), 6);
        let best = edited.candidates[edited.best];
        assert!(
            edited.candidates.iter().all(|other| other.score <= best.score && best.score < 0.0)
        );
        // Alone, the chosen seed gives the same codes and the same score.
        let mut alone = many.clone();
        alone.config.candidates = 1;
        alone.config.seed = best.seed;
        let alone = edit(&alone);
        assert_eq!(alone.codes, edited.codes);
        assert!((alone.candidates[0].score - best.score).abs() < 1e-9, "{score:?}");
    }
    let scores = |score| {
        let edited = edit(&EditRequest { score, ..many.clone() });
        edited.candidates.iter().map(|candidate| candidate.score).collect::<Vec<_>>()
    };
    let (ahead, caption) = (scores(None), scores(Some(EditScore::Caption)));
    assert_eq!(ahead, scores(Some(EditScore::LookAhead)));
    assert_ne!(ahead, caption);
    for ((ahead, caption), sum) in ahead.iter().zip(&caption).zip(scores(Some(EditScore::Sum))) {
        assert!((ahead + caption - sum).abs() < 1e-9);
    }
}

#[test]
fn look_ahead_is_the_probability_of_the_kept_codes_by_the_models_logits() {
    let request = request(middle());
    let plan = PIPELINE.plan_edit(&request).unwrap();
    let edited = edit(&request);
    let vocabulary = PIPELINE.processor().vocabulary();
    let mut ids =
        PIPELINE.processor().encode(&[calumma::tokenize::CodedSegment::text(TEXT)]).unwrap();
    ids.push(vocabulary.special().begin_image.unwrap());
    let start = ids.len();
    ids.extend(edited.codes.ids.iter().map(|code| vocabulary.image_id(*code).unwrap()));
    let logits = PIPELINE.model().all_logits(&ids).unwrap();
    let first = plan.known.iter().position(Option::is_none).unwrap();
    let later = (first..64).filter(|at| plan.known[*at].is_some());
    let expected: f64 = later
        .map(|at| {
            let weight = |id: u32| f64::from(logits[start + at - 1][id as usize]).exp();
            let all: f64 = vocabulary.image_ids().iter().map(|id| weight(*id)).sum();
            (weight(ids[start + at]) / all).ln()
        })
        .sum();
    let found = edited.candidates[0].score;
    assert!((found - expected).abs() < 1e-3, "{found} {expected}");
}

#[test]
fn without_kept_codes_to_come_the_caption_decides() {
    let mut lower = request(Region::KeepRows(4));
    lower.config.candidates = 3;
    let by_default = edit(&lower);
    lower.score = Some(EditScore::Caption);
    assert_eq!(by_default, edit(&lower));
    assert!(by_default.candidates.iter().any(|candidate| candidate.score < 0.0));
    lower.score = Some(EditScore::LookAhead);
    let none = edit(&lower);
    assert!(none.candidates.iter().all(|candidate| candidate.score == 0.0) && none.best == 0);
}

#[test]
fn an_extension_keeps_the_lower_rows_and_the_taller_image_shows_all() {
    let own = codes(&SCENE);
    let request = request(Region::ExtendDown(3));
    let plan = PIPELINE.plan_edit(&request).unwrap();
    let edited = edit(&request);
    assert_eq!(edited.codes.ids[..5 * GRID], own.ids[3 * GRID..]);
    let tall = PIPELINE.extended(&plan, &edited, false).unwrap().unwrap();
    assert_eq!(tall.dimensions(), (SIDE, SIDE + 24));
    let ids = [&own.ids[..], &edited.codes.ids[5 * GRID..]].concat();
    assert_eq!(tall, decoded(&Codes { ids, height: GRID + 3, width: GRID }));
    let pasted = PIPELINE.extended(&plan, &edited, true).unwrap().unwrap();
    for (x, y, pixel) in pasted.enumerate_pixels() {
        match y {
            0..60 => assert_eq!(pixel, SCENE.get_pixel(x, y)),
            64.. => assert_eq!(pixel, tall.get_pixel(x, y)),
            _ => {}
        }
    }
    assert!(
        PIPELINE
            .extended(&PIPELINE.plan_edit(&self::request(middle())).unwrap(), &edited, false)
            .unwrap()
            .is_none()
    );
}

#[test]
fn pasting_restores_the_original_pixels_away_from_the_hole() {
    let request = request(middle());
    let plan = PIPELINE.plan_edit(&request).unwrap();
    let edited = edit(&request);
    let pasted = plan.paste(&edited.image);
    assert_ne!(pasted, edited.image);
    for (x, y, pixel) in pasted.enumerate_pixels() {
        let away = x.abs_diff(32).max(y.abs_diff(32));
        if plan.hole.covers(x as usize, y as usize, 8) {
            assert_eq!(pixel, edited.image.get_pixel(x, y));
        } else if away > 16 + 5 {
            assert_eq!(pixel, SCENE.get_pixel(x, y));
        }
    }
}

#[test]
fn an_image_of_another_size_is_masked_where_its_pixels_are_shown() {
    // Twice as wide as high: the outer quarters are cropped away.
    let wide = RgbImage::from_fn(256, 128, |x, y| *SCENE.get_pixel(x / 4, y / 2));
    let marked = (0..256 * 128).map(|at| at % 256 >= 176).collect();
    let region = Region::Mask { mask: PixelMask::new(256, 128, marked).unwrap(), dilate: 0 };
    let request = EditRequest { image: wide.clone(), ..request(region) };
    let plan = PIPELINE.plan_edit(&request).unwrap();
    // Columns 64 to 191 are 64 pixels, so column 176 is pixel 56.
    let expected: Vec<bool> = (0..64).map(|at| at % 8 == 7).collect();
    assert_eq!(plan.hole.marked(), expected);
    assert_eq!(plan.source, codes(&wide));
    assert_eq!(plan.pixels.dimensions(), (64, 64));
}

#[test]
fn an_empty_text_is_allowed() {
    let mut request = request(Region::KeepRows(6));
    request.text = String::new();
    request.config.candidates = 2;
    let edited = edit(&request);
    assert_eq!(edited.codes.ids[..48], codes(&SCENE).ids[..48]);
}

#[test]
fn what_cannot_work_is_refused_with_what_is_allowed() {
    let refused = |region| PIPELINE.edit(&request(region)).unwrap_err().to_string();
    let small = PixelMask::new(2, 2, vec![true; 4]).unwrap();
    for (region, parts) in [
        (Region::KeepRows(9), ["9 rows", "0 to 8"]),
        (Region::ExtendDown(0), ["0 rows", "1 to 7"]),
        (Region::ExtendDown(8), ["8 rows", "1 to 7"]),
        (Region::Mask { mask: small, dilate: 1 }, ["2x2", "64x64"]),
    ] {
        let error = refused(region);
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
    for candidates in [0, 65] {
        let mut request = request(middle());
        request.config.candidates = candidates;
        let error = PIPELINE.edit(&request).unwrap_err().to_string();
        assert!(error.contains("allowed: 1 to 64"), "{error}");
    }
}
