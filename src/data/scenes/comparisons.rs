//! Question families about two objects or two kinds of objects: relations and comparisons.

use super::context::Context;
use super::describe::{CLEAR_DISPLACEMENT, Kind, Relation};
use super::sample::pick;
use super::scene::{Color, Object, Shape, Size};
use super::wording::{QuestionAnswer, choose, unique, yes_no};
use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// Comparison of two sizes.
type Compare = fn(Size, Size) -> bool;

/// Asks how two objects are placed relative to each other, or for an attribute of a neighbour.
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

/// Compares the sizes of two objects or the counts of two kinds.
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

/// Asks whether one kind is more or less numerous than another.
fn more(context: &Context<'_>, wanted: bool, rng: &mut ChaCha8Rng) -> QuestionAnswer {
    let more = rng.random_bool(0.5);
    let fits = |a, b| (if more { a > b } else { a < b }) == wanted;
    let (first, second) = two_kinds(context, fits, rng)?;
    let word = if more { "more" } else { "fewer" };
    let text = format!("are there {word} {} than {}?", first.plural(), second.plural());
    Some((text, yes_no(wanted)))
}

/// Asks whether two kinds are equally numerous.
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
