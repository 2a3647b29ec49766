//! Question families, one function each.
//!
//! A function returns a question and its answer, or `None` if the scene allows no unambiguous
//! question of the family.

use super::context::Context;
use super::describe::{CLEAR_DISPLACEMENT, Column, Kind, Place, Relation, Row};
use super::sample::{pairs, pick};
use super::scene::{Color, Object, Shape, Size};
use rand::RngExt;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;

/// A question and its answer, if the scene allows one.
type QuestionAnswer = Option<(String, String)>;

/// Comparison of two sizes.
type Compare = fn(Size, Size) -> bool;

fn yes_no(answer: bool) -> String {
    if answer { "yes" } else { "no" }.to_owned()
}

/// A random phrasing with `{}` replaced by `what`.
fn phrase(phrasings: &[&str], what: &str, rng: &mut ChaCha8Rng) -> String {
    pick(phrasings, rng).replacen("{}", what, 1)
}

fn choose<T: Copy>(from: &[T], rng: &mut ChaCha8Rng) -> Option<T> {
    from.choose(rng).copied()
}

/// A random description that fits `object` alone; the size is mentioned only if necessary.
fn unique(context: &Context<'_>, object: &Object, rng: &mut ChaCha8Rng) -> Option<Kind> {
    let pair = Kind::pair(object);
    let mut kinds = vec![pair, pair, Kind::shape(object.shape), Kind::color(object.color)];
    kinds.retain(|kind| kind.count(context.objects()) == 1);
    let sized = pair.sized(object.size);
    choose(&kinds, rng).or_else(|| (sized.count(context.objects()) == 1).then_some(sized))
}

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

/// A random object with one of its descriptions from `without`, which omit the attribute asked for
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

fn cells() -> Vec<Place> {
    let cell = |column, row| Place { column: Some(column), row: Some(row) };
    Row::ALL.into_iter().flat_map(|row| Column::ALL.map(|column| cell(column, row))).collect()
}

pub(super) fn relation(context: &Context<'_>, rng: &mut ChaCha8Rng) -> QuestionAnswer {
    let mut objects = context.objects().to_vec();
    objects.shuffle(rng);
    let [a, b, ..] = objects[..] else { return None };
    if rng.random_bool(0.25) {
        return neighbor(context, &b, rng);
    }
    let (first, second) = (unique(context, &a, rng)?, unique(context, &b, rng)?);
    let wanted = rng.random_bool(0.5);
    let mut relations = Relation::ALL.to_vec();
    relations.retain(|relation| relation.displacement(&a, &b) >= CLEAR_DISPLACEMENT);
    let holding = choose(&relations, rng)?;
    let (what, other) = (first.singular(), second.singular());
    if rng.random_bool(0.3) {
        let (choice, answer) = match holding {
            Relation::LeftOf => ("left of or right of", "left"),
            Relation::RightOf => ("left of or right of", "right"),
            Relation::Above => ("above or below", "above"),
            Relation::Below => ("above or below", "below"),
        };
        return Some((format!("is the {what} {choice} the {other}?"), answer.to_owned()));
    }
    let said = if wanted { holding } else { holding.converse() };
    Some((format!("is the {what} {} the {other}?", said.phrase()), yes_no(wanted)))
}

/// Asks for an attribute of the only object on one side of `anchor`.
fn neighbor(context: &Context<'_>, anchor: &Object, rng: &mut ChaCha8Rng) -> QuestionAnswer {
    let name = unique(context, anchor, rng)?.singular();
    let mut found = Vec::new();
    for relation in Relation::ALL {
        let side =
            context.objects().iter().filter(|other| relation.displacement(other, anchor) > 0);
        if let [only] = side.collect::<Vec<_>>()[..]
            && relation.displacement(only, anchor) >= CLEAR_DISPLACEMENT
        {
            found.push((relation, *only));
        }
    }
    let (relation, other) = choose(&found, rng)?;
    let (attribute, answer) = if rng.random_bool(0.5) {
        ("shape", other.shape.name())
    } else {
        ("color", other.color.name())
    };
    let said = relation.phrase();
    Some((format!("what {attribute} is the object {said} the {name}?"), answer.to_owned()))
}

pub(super) fn comparison(context: &Context<'_>, rng: &mut ChaCha8Rng) -> QuestionAnswer {
    let wanted = rng.random_bool(0.5);
    match rng.random_range(0..10) {
        0..3 => larger(context, wanted, rng).or_else(|| more(context, wanted, rng)),
        3..5 => same_number(context, wanted, rng).or_else(|| more(context, wanted, rng)),
        _ => more(context, wanted, rng),
    }
}

/// Two different shapes or two different colours, at least one of them present, whose counts
/// satisfy `fits`.
fn two_kinds(
    context: &Context<'_>,
    fits: impl Fn(usize, usize) -> bool,
    rng: &mut ChaCha8Rng,
) -> Option<(Kind, Kind)> {
    let by_shape = rng.random_bool(0.5);
    let kinds = if by_shape { Shape::ALL.map(Kind::shape) } else { Color::ALL.map(Kind::color) };
    let counts = kinds.map(|kind| kind.count(context.objects()));
    let mut fitting = Vec::new();
    for (a, &first) in kinds.iter().enumerate() {
        for (b, &second) in kinds.iter().enumerate() {
            if a != b && counts[a] + counts[b] > 0 && fits(counts[a], counts[b]) {
                fitting.push((first, second));
                // Two present kinds make a harder question, so they are preferred.
                let weight = if counts[a].min(counts[b]) > 0 { 6 } else { 0 };
                fitting.extend(std::iter::repeat_n((first, second), weight));
            }
        }
    }
    choose(&fitting, rng)
}

fn more(context: &Context<'_>, wanted: bool, rng: &mut ChaCha8Rng) -> QuestionAnswer {
    let more = rng.random_bool(0.5);
    let fits = |a, b| (if more { a > b } else { a < b }) == wanted;
    let (first, second) = two_kinds(context, fits, rng)?;
    let word = if more { "more" } else { "fewer" };
    let text = format!("are there {word} {} than {}?", first.plural(), second.plural());
    Some((text, yes_no(wanted)))
}

fn same_number(context: &Context<'_>, wanted: bool, rng: &mut ChaCha8Rng) -> QuestionAnswer {
    let (first, second) = two_kinds(context, |a, b| (a == b) == wanted, rng)?;
    let (a, b) = (first.plural(), second.plural());
    let text = if rng.random_bool(0.5) {
        format!("are there as many {a} as {b}?")
    } else {
        format!("is the number of {a} the same as the number of {b}?")
    };
    Some((text, yes_no(wanted)))
}

/// Compares the sizes of two objects that are unique by shape and colour.
fn larger(context: &Context<'_>, wanted: bool, rng: &mut ChaCha8Rng) -> QuestionAnswer {
    let mut objects = context.objects().to_vec();
    objects.shuffle(rng);
    let mut pairs = Vec::new();
    let words: [(&str, Compare); 3] = [
        ("larger than", |a, b| a > b),
        ("smaller than", |a, b| a < b),
        ("the same size as", |a, b| a == b),
    ];
    let (word, holds) = pick(&words, rng);
    for (i, a) in objects.iter().enumerate() {
        let others = objects.iter().enumerate().filter(|&(j, _)| i != j);
        let fitting = others.filter(|(_, b)| holds(a.size, b.size) == wanted);
        pairs.extend(fitting.map(|(_, b)| (*a, *b)));
    }
    let (a, b) = choose(&pairs, rng)?;
    let (first, second) = (unsized_name(context, &a)?, unsized_name(context, &b)?);
    Some((format!("is the {first} {word} the {second}?"), yes_no(wanted)))
}

/// The object by shape and colour, if that is unambiguous.
fn unsized_name(context: &Context<'_>, object: &Object) -> Option<String> {
    let kind = Kind::pair(object);
    (kind.count(context.objects()) == 1).then(|| kind.singular())
}

pub(super) fn background(context: &Context<'_>, rng: &mut ChaCha8Rng) -> QuestionAnswer {
    let phrasings = [
        "what color is the background?",
        "what is the color of the background?",
        "which color does the background have?",
    ];
    Some((pick(&phrasings, rng).to_owned(), context.scene.background.name().to_owned()))
}
