//! The law of what is drawn: 20,000 draws against the exact distribution, by Pearson's chi-square.
//!
//! Seeds are fixed, so a test that passes always passes; the threshold is passed by one right engine in a
//! thousand choices of seeds.

use std::collections::BTreeMap;

use calumma::generate::{
    EngineConfig, GenerationConfig, GenerationMode, Request, SamplingConfig, Window,
};

use super::mixed::Pattern;
use super::{Run, plain};
use crate::scripted::{Scripted, code, noise, text, vocabulary};

const DRAWS: u64 = 20_000;
const TEMPERATURE: f32 = 0.8;
/// The logit of ids that are not meant to be drawn.
const LOW: f32 = -60.0;
/// Images of three codes.
const GRID: (usize, usize) = (1, 3);

/// The probability of each next id after those so far.
type Next<'a> = dyn Fn(&[u32]) -> Vec<(u32, f64)> + 'a;

/// The probability of each sequence of ids.
type Law = BTreeMap<Vec<u32>, f64>;

/// A few ids that may be drawn; how likely each is depends on the last ids and on whether the row has a prompt.
fn model() -> Scripted {
    let vocab = vocabulary().len();
    let (texts, codes) = ([text(0), text(1), vocabulary().special().eos], [2, 3, 9].map(code));
    let model = Scripted::new(move |row| {
        let mut logits = vec![LOW; vocab];
        let tail = &row[row.len().saturating_sub(3)..];
        let seen = [&[row.contains(&text(5)) as u32], tail].concat();
        for id in texts.into_iter().chain(codes) {
            logits[id as usize] = 0.7 * noise(&seen, id);
        }
        logits
    });
    model.unrecorded()
}

fn prompt() -> Vec<u32> {
    vec![0, text(5), text(3)]
}

fn config(mode: GenerationMode) -> GenerationConfig {
    let sampling = SamplingConfig {
        temperature: TEMPERATURE,
        top_p: 1.0,
        top_k: None,
        repetition_penalty: 1.0,
        ..SamplingConfig::TEXT
    };
    GenerationConfig {
        text: sampling,
        image: sampling,
        mode,
        max_new_tokens: Some(3),
        ..GenerationConfig::default()
    }
}

/// How often each sequence is drawn from `request` with the seeds 0, 1, ...
fn drawn(window: Window, request: &Request) -> BTreeMap<Vec<u32>, f64> {
    let (model, vocabulary) = (model(), vocabulary());
    let config = EngineConfig { window, ..plain(2048) };
    let mut run = Run::new(&model, vocabulary, GRID, config);
    let mut counts = BTreeMap::new();
    for first in (0..DRAWS).step_by(400) {
        let with_seed = |seed| {
            let mut request = request.clone();
            request.config.seed = seed;
            request
        };
        let ids: Vec<_> =
            (first..first + 400).map(|seed| run.admit(with_seed(seed)).unwrap()).collect();
        run.finish();
        for id in ids {
            *counts.entry(run.take(id).0.ids).or_default() += 1.0;
        }
    }
    counts
}

/// The softmax of `logits` at the temperature over `ids`.
fn softmax(logits: &[f32], ids: &[u32]) -> Vec<(u32, f64)> {
    let weight = |&id: &u32| f64::from(logits[id as usize] / TEMPERATURE).exp();
    let total: f64 = ids.iter().map(weight).sum();
    ids.iter().map(|id| (*id, weight(id) / total)).collect()
}

/// The law of up to `len` ids after `so_far`, each distributed by `next`; one without a next id ends.
fn law(len: usize, so_far: &[u32], next: &Next<'_>) -> Law {
    let following = if so_far.len() < len { next(so_far) } else { Vec::new() };
    if following.is_empty() {
        return [(so_far.to_vec(), 1.0)].into();
    }
    let mut all = Law::new();
    for (id, p) in following {
        let longer = [so_far, &[id]].concat();
        all.extend(law(len, &longer, next).into_iter().map(|(ids, rest)| (ids, p * rest)));
    }
    all
}

/// The statistic by its threshold at one in a thousand (Wilson and Hilferty's cube root).
fn excess(counts: &BTreeMap<Vec<u32>, f64>, law: &Law) -> f64 {
    let total: f64 = law.values().sum();
    assert!((total - 1.0).abs() < 1e-9, "{total}");
    let (mut statistic, mut cells) = (0.0, 0);
    let (mut rare, mut rare_found) = (0.0, 0.0);
    for (ids, p) in law {
        let (expected, found) = (p * DRAWS as f64, counts.get(ids).copied().unwrap_or(0.0));
        if expected < 5.0 {
            (rare, rare_found) = (rare + expected, rare_found + found);
            continue;
        }
        statistic += (found - expected).powi(2) / expected;
        cells += 1;
    }
    if rare > 0.0 {
        statistic += (rare_found - rare).powi(2) / rare;
        cells += 1;
    }
    let unknown: f64 =
        counts.iter().filter(|(ids, _)| !law.contains_key(*ids)).map(|(_, count)| count).sum();
    assert_eq!(unknown, 0.0, "what the law does not have was drawn");
    let degrees = f64::from(cells - 1);
    let spread = 2.0 / (9.0 * degrees);
    statistic / (degrees * (1.0 - spread + 3.09 * spread.sqrt()).powi(3))
}

const WINDOWS: [Window; 3] = [Window::Off, Window::Fixed(2), Window::Fixed(8)];

fn text_law() -> Law {
    let (model, eos) = (model(), vocabulary().special().eos);
    law(3, &[], &|so_far| {
        if so_far.last() == Some(&eos) {
            return Vec::new();
        }
        softmax(&(model.logits)(&[&prompt()[..], so_far].concat()), &[text(0), text(1), eos])
    })
}

/// Three codes after begin-image, with guidance of `scale`.
fn image_law(scale: f32) -> Law {
    let (model, begin_image) = (model(), vocabulary().special().begin_image.unwrap());
    law(3, &[], &|so_far| {
        let full = (model.logits)(&[&prompt()[..], &[begin_image], so_far].concat());
        let nothing = (model.logits)(&[&[0, begin_image][..], so_far].concat());
        let mixed =
            full.iter().zip(&nothing).map(|(full, nothing)| nothing + scale * (full - nothing));
        softmax(&mixed.collect::<Vec<f32>>(), &[2, 3, 9].map(code))
    })
}

/// Draws of images as they are drawn, without begin-image.
fn drawn_images(window: Window, scale: f32, kept: Vec<Option<u32>>) -> BTreeMap<Vec<u32>, f64> {
    let mut request = Request::new(prompt(), config(GenerationMode::ImageOnly));
    request.config.guidance_scale = scale;
    request.kept = kept;
    let counts = drawn(window, &request).into_iter();
    counts.map(|(ids, count)| (ids[1..].to_vec(), count)).collect()
}

/// Fails for an engine that draws with the noise of another place or of another row, or keeps a guess by its
/// probability without a test.
#[test]
fn text_follows_its_law() {
    let (request, law) = (Request::new(prompt(), config(GenerationMode::TextOnly)), text_law());
    for window in WINDOWS {
        let excess = excess(&drawn(window, &request), &law);
        assert!(excess < 1.0, "{window:?}: {excess} times the threshold");
    }
}

/// Fails for an engine whose windows prefer guesses, or whose noise repeats from place to place.
#[test]
fn images_follow_their_joint_law() {
    let law = image_law(1.0);
    for window in WINDOWS {
        let excess = excess(&drawn_images(window, 1.0, Vec::new()), &law);
        assert!(excess < 1.0, "{window:?}: {excess} times the threshold");
    }
}

/// Fails for an engine that mixes after the temperature, drops a lane, or guides codes by another row.
#[test]
fn guided_images_follow_the_mixed_law() {
    let (law, unguided) = (image_law(2.5), image_law(1.0));
    for window in WINDOWS {
        let counts = drawn_images(window, 2.5, Vec::new());
        let ratio = excess(&counts, &law);
        assert!(ratio < 1.0, "{window:?}: {ratio} times the threshold");
        assert!(excess(&counts, &unguided) > 5.0, "the test can tell the laws apart");
    }
}

/// Fails for an engine that draws from the law of all ids and refuses until one fits, or gives what the
/// pattern hides to the likeliest id.
#[test]
fn constrained_text_follows_the_law_among_what_is_allowed() {
    let places = [vec![text(0), text(1)], vec![text(1)], vec![text(0), text(1)]];
    let law = law(3, &[], &|so_far| {
        let logits = (model().logits)(&[&prompt()[..], so_far].concat());
        softmax(&logits, &places[so_far.len()])
    });
    let mut request = Request::new(prompt(), config(GenerationMode::TextOnly));
    request.config.max_new_tokens = Some(9);
    request.constraint = Some(Pattern::boxed(places.to_vec()));
    for window in WINDOWS {
        let excess = excess(&drawn(window, &request), &law);
        assert!(excess < 1.0, "{window:?}: {excess} times the threshold");
    }
}

/// What follows a kept code is drawn by the law after it. Fails for an engine that takes the noise of the kept
/// code for the next one.
#[test]
fn codes_after_a_kept_one_follow_the_law_after_it() {
    let kept = code(9);
    let of_all: Law = image_law(2.5);
    let given: Law = of_all.into_iter().filter(|(ids, _)| ids[1] == kept).collect();
    // The first code is drawn by its own law, whatever is known of the second.
    let first = |ids: &[u32]| -> f64 {
        image_law(2.5).iter().filter(|(all, _)| all[0] == ids[0]).map(|(_, p)| p).sum()
    };
    let after = |ids: &[u32]| -> f64 {
        given.iter().filter(|(all, _)| all[0] == ids[0]).map(|(_, p)| p).sum()
    };
    let law: Law =
        given.iter().map(|(ids, p)| (ids.clone(), first(ids) * p / after(ids))).collect();
    for window in [Window::Off, Window::Fixed(2)] {
        let counts = drawn_images(window, 2.5, vec![None, Some(kept), None]);
        let excess = excess(&counts, &law);
        assert!(excess < 1.0, "{window:?}: {excess} times the threshold");
    }
}

/// Requests with neighbouring seeds are independent, as candidates and batches take them. Fails for noise that
/// is shifted from seed to seed.
#[test]
fn neighbouring_seeds_are_independent() {
    let (model, vocabulary, law) = (model(), vocabulary(), image_law(1.0));
    let request = Request::new(prompt(), config(GenerationMode::ImageOnly));
    let mut run = Run::new(&model, vocabulary, GRID, plain(2048));
    let mut pairs = BTreeMap::new();
    let mut before: Option<Vec<u32>> = None;
    for seed in 0..DRAWS + 1 {
        let mut request = request.clone();
        request.config.seed = seed;
        let id = run.admit(request).unwrap();
        run.finish();
        let ids = run.take(id).0.ids;
        // The last code of one, the first of the next: the places are shifted as well.
        if let Some(before) = before.replace(ids.clone()) {
            *pairs.entry(vec![before[3], ids[1]]).or_default() += 1.0;
        }
    }
    let share = |place: usize, code: u32| -> f64 {
        law.iter().filter(|(ids, _)| ids[place] == code).map(|(_, p)| p).sum()
    };
    let codes = [2, 3, 9].map(code);
    let both = codes.into_iter().flat_map(|last| codes.map(|first| vec![last, first]));
    let law: Law = both.map(|pair| (pair.clone(), share(2, pair[0]) * share(0, pair[1]))).collect();
    let excess = excess(&pairs, &law);
    assert!(excess < 1.0, "{excess} times the threshold");
}
