//! Question families about single objects and the background, one function each.
//!
//! A function returns a question and its answer, or `None` if the scene allows no unambiguous
//! question of the family.

use super::context::Context;
use super::describe::{Column, Kind, Place, Row};
use super::sample::{pairs, pick};
use super::scene::{Color, Object, Shape, Size};
use super::wording::{QuestionAnswer, choose, phrase, unique, yes_no};
use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

/// A (shape, colour) pair that the split allows and the scene lacks. Half of the time it shares
/// its shape or colour with an object of the scene.
fn absent_pair(context: &Context<'_>, rng: &mut ChaCha8Rng) -> Kind {
    let mut absent = pairs(context.split);
    absent.retain(|&(shape, color)| !context.shows(shape, color));
    let near = |&(shape, color): &(Shape, Color)| {
        context.objects().iter().any(|object| object.shape == shape || object.color == color)
    };
    let close: Vec<_> = absent.iter().copied().filter(near).collect();
    let from = if rng.random_bool(0.5) && !close.is_empty() { &close } else { &absent };
    let (shape, color) = pick(from, rng);
    Kind { size: None, color: Some(color), shape: Some(shape) }
}

/// A shape or colour that no object has.
fn absent_attribute(context: &Context<'_>, rng: &mut ChaCha8Rng) -> Kind {
    let kinds = if rng.random_bool(0.5) {
        Shape::ALL.map(Kind::shape)
    } else {
        Color::ALL.map(Kind::color)
    };
    let absent: Vec<_> =
        kinds.into_iter().filter(|kind| kind.count(context.objects()) == 0).collect();
    pick(&absent, rng)
}

/// Asks whether an object exists.
pub(super) fn exists(context: &Context<'_>, rng: &mut ChaCha8Rng) -> QuestionAnswer {
    let wanted = rng.random_bool(0.5);
    let object = pick(context.objects(), rng);
    let pair = Kind::pair(&object);
    let kind = match (rng.random_range(0..10), wanted) {
        (0..5, true) => pair,
        (0..5, false) => absent_pair(context, rng),
        (5..8, true) => pick(&[Kind::shape(object.shape), Kind::color(object.color)], rng),
        (5..8, false) => absent_attribute(context, rng),
        (_, true) => pair.sized(object.size),
        (_, false) => {
            let sizes = Size::ALL.map(|size| pair.sized(size));
            let absent: Vec<_> =
                sizes.into_iter().filter(|kind| kind.count(context.objects()) == 0).collect();
            choose(&absent, rng).unwrap_or_else(|| absent_pair(context, rng))
        }
    };
    let phrasings = [
        "is there {}?",
        "is there {} in the picture?",
        "does the picture show {}?",
        "can you see {}?",
    ];
    Some((phrase(&phrasings, &kind.indefinite(), rng), yes_no(wanted)))
}

/// Asks for a number of objects.
pub(super) fn count(context: &Context<'_>, rng: &mut ChaCha8Rng) -> QuestionAnswer {
    let mut kinds =
        vec![Kind::default(), absent_pair(context, rng), absent_attribute(context, rng)];
    for object in context.objects() {
        kinds.extend([Kind::pair(object), Kind::shape(object.shape), Kind::color(object.color)]);
    }
    let counted = |kind: &Kind| kind.count(context.objects());
    let mut counts: Vec<usize> = kinds.iter().map(counted).collect();
    counts.sort_unstable();
    counts.dedup();
    // High counts are rare because they need many objects, so they are weighted up.
    let target = *counts.choose_weighted(rng, |&count| count.max(1)).ok()?;
    kinds.retain(|kind| counted(kind) == target);
    let kind = pick(&kinds, rng);
    let phrasings = [
        "how many {} are there?",
        "how many {} are in the picture?",
        "how many {} can you see?",
        "what is the number of {}?",
    ];
    Some((phrase(&phrasings, &kind.plural(), rng), target.to_string()))
}

/// A random object with one of its descriptions from `without`, which omit the requested attribute
/// and must fit that object alone.
fn subject(
    context: &Context<'_>,
    without: impl Fn(&Object) -> Vec<Kind>,
    rng: &mut ChaCha8Rng,
) -> Option<(Object, Kind)> {
    let mut subjects = Vec::new();
    for object in context.objects() {
        let kinds = without(object).into_iter();
        let alone = kinds.filter(|kind| kind.count(context.objects()) == 1);
        subjects.extend(alone.map(|kind| (*object, kind)));
    }
    choose(&subjects, rng)
}

/// Asks for the colour of an object, or whether it has a given colour.
pub(super) fn color(context: &Context<'_>, rng: &mut ChaCha8Rng) -> QuestionAnswer {
    let without = |object: &Object| {
        let kind = Kind::shape(object.shape);
        vec![kind, kind, kind.sized(object.size)]
    };
    let (object, kind) = subject(context, without, rng)?;
    let what = kind.singular();
    let mut others = Color::ALL.to_vec();
    others.retain(|&c| c != object.color && context.split.allows(object.shape, c));
    if rng.random_bool(0.3) && !others.is_empty() {
        let wanted = rng.random_bool(0.5);
        let color = if wanted { object.color } else { pick(&others, rng) };
        return Some((format!("is the {what} {}?", color.name()), yes_no(wanted)));
    }
    let phrasings =
        ["what color is the {}?", "what is the color of the {}?", "which color does the {} have?"];
    Some((phrase(&phrasings, &what, rng), object.color.name().to_owned()))
}

/// Asks for the shape of an object, or whether it has a given shape.
pub(super) fn shape(context: &Context<'_>, rng: &mut ChaCha8Rng) -> QuestionAnswer {
    let without = |object: &Object| {
        let kind = Kind::color(object.color);
        vec![kind, kind, kind.sized(object.size)]
    };
    let (object, kind) = subject(context, without, rng)?;
    let what = kind.singular();
    let mut others = Shape::ALL.to_vec();
    others.retain(|&s| s != object.shape && context.split.allows(s, object.color));
    if rng.random_bool(0.3) && !others.is_empty() {
        let wanted = rng.random_bool(0.5);
        let shape = if wanted { object.shape } else { pick(&others, rng) };
        return Some((format!("is the {what} a {}?", shape.name()), yes_no(wanted)));
    }
    let phrasings =
        ["what shape is the {}?", "what is the shape of the {}?", "which shape does the {} have?"];
    Some((phrase(&phrasings, &what, rng), object.shape.name().to_owned()))
}

/// Asks for the size of an object, or whether it has a given size.
pub(super) fn size(context: &Context<'_>, rng: &mut ChaCha8Rng) -> QuestionAnswer {
    let without = |object: &Object| {
        vec![Kind::pair(object), Kind::shape(object.shape), Kind::color(object.color)]
    };
    let (object, kind) = subject(context, without, rng)?;
    let what = kind.singular();
    if rng.random_bool(0.3) {
        let wanted = rng.random_bool(0.5);
        let others = Size::ALL.map(|size| (size, (size == object.size) == wanted));
        let fitting: Vec<_> = others.iter().filter(|other| other.1).map(|other| other.0).collect();
        return Some((format!("is the {what} {}?", pick(&fitting, rng).name()), yes_no(wanted)));
    }
    let phrasings = [
        "what size is the {}?",
        "how large is the {}?",
        "is the {} small, medium or large?",
        "what is the size of the {}?",
    ];
    Some((phrase(&phrasings, &what, rng), object.size.name().to_owned()))
}

/// Asks where an object is, or whether it is in a given region.
pub(super) fn position(context: &Context<'_>, rng: &mut ChaCha8Rng) -> QuestionAnswer {
    let object = pick(context.objects(), rng);
    let what = unique(context, &object, rng)?.singular();
    let cell = Place::cell(&object);
    if rng.random_bool(0.5) {
        let phrasings = [
            "where is the {}?",
            "where in the picture is the {}?",
            "in which part of the picture is the {}?",
        ];
        return Some((phrase(&phrasings, &what, rng), cell.name()));
    }
    let wanted = rng.random_bool(0.5);
    let mut places = match rng.random_range(0..3) {
        0 => [Column::Left, Column::Right].map(|c| Place { column: Some(c), row: None }).to_vec(),
        1 => [Row::Top, Row::Bottom].map(|r| Place { column: None, row: Some(r) }).to_vec(),
        _ => cells(),
    };
    if !places.iter().any(|place| place.holds(&object) == wanted) {
        places = cells();
    }
    places.retain(|place| place.holds(&object) == wanted);
    let place = pick(&places, rng);
    Some((format!("is the {what} {}?", place.phrase()), yes_no(wanted)))
}

/// The nine cells.
fn cells() -> Vec<Place> {
    let cell = |column, row| Place { column: Some(column), row: Some(row) };
    Row::ALL.into_iter().flat_map(|row| Column::ALL.map(|column| cell(column, row))).collect()
}

/// Asks for the colour of the background.
pub(super) fn background(context: &Context<'_>, rng: &mut ChaCha8Rng) -> QuestionAnswer {
    let phrasings = [
        "what color is the background?",
        "what is the color of the background?",
        "which color does the background have?",
    ];
    Some((pick(&phrasings, rng).to_owned(), context.scene.background.name().to_owned()))
}
