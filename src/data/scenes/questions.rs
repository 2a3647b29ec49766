//! Questions about a scene, each with exactly one correct answer.

use super::comparisons;
use super::context::Context;
use super::families;
use super::scene::Scene;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Subject of a question; scores are reported per family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Whether a described object exists: "yes" or "no".
    Exists,
    /// How many objects fit a description: "0" to "4".
    Count,
    /// The colour of an object, or whether it has a given colour.
    Color,
    /// The shape of an object, or whether it has a given shape.
    Shape,
    /// The size of an object, or whether it has a given size.
    Size,
    /// Where an object is: one of nine cells, or whether it is in a given region.
    Position,
    /// How two objects are placed relative to each other.
    Relation,
    /// Whether one of two kinds is more or less numerous, or one of two objects larger or smaller.
    Comparison,
    /// The colour of the background.
    Background,
}

impl Family {
    /// Every family.
    pub const ALL: [Self; 9] = [
        Self::Exists,
        Self::Count,
        Self::Color,
        Self::Shape,
        Self::Size,
        Self::Position,
        Self::Relation,
        Self::Comparison,
        Self::Background,
    ];

    /// The family's name in data fields and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exists => "exists",
            Self::Count => "count",
            Self::Color => "color",
            Self::Shape => "shape",
            Self::Size => "size",
            Self::Position => "position",
            Self::Relation => "relation",
            Self::Comparison => "comparison",
            Self::Background => "background",
        }
    }
}

/// A question with its answer and family.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Question {
    /// The question: lower case, with a question mark.
    #[serde(rename = "question")]
    pub text: String,
    /// The answer: lower case, numbers as digits.
    pub answer: String,
    /// The question's family.
    pub family: Family,
}

/// Returns `count` different questions about the scene from as many families as possible, in
/// random order, or fewer if no further question can be found.
///
/// Questions about absent objects use only (shape, colour) pairs of the scene's own split, so the
/// question alone never gives the answer away.
pub fn questions(scene: &Scene, rng: &mut ChaCha8Rng, count: usize) -> Vec<Question> {
    let mut order = Family::ALL;
    order.shuffle(rng);
    let context = Context::new(scene);
    let mut questions: Vec<Question> = Vec::with_capacity(count);
    let tries = 4 * count + order.len();
    for family in order.into_iter().cycle().take(tries) {
        if questions.len() == count {
            break;
        }
        let question = ask(&context, family, rng);
        questions.extend(question.filter(|new| questions.iter().all(|old| old.text != new.text)));
    }
    questions
}

/// A random question of `family`, if the scene allows one.
fn ask(context: &Context<'_>, family: Family, rng: &mut ChaCha8Rng) -> Option<Question> {
    let (text, answer) = match family {
        Family::Exists => families::exists(context, rng),
        Family::Count => families::count(context, rng),
        Family::Color => families::color(context, rng),
        Family::Shape => families::shape(context, rng),
        Family::Size => families::size(context, rng),
        Family::Position => families::position(context, rng),
        Family::Relation => comparisons::relation(context, rng),
        Family::Comparison => comparisons::comparison(context, rng),
        Family::Background => families::background(context, rng),
    }?;
    Some(Question { text, answer, family })
}

#[cfg(test)]
mod tests {
    use super::super::sample::{Split, Stream, item_rng, scene_at};
    use super::super::scene::{Color, Shape};
    use super::*;
    use std::collections::{HashMap, HashSet};

    fn all(split: Split, scenes: u64) -> Vec<Question> {
        let ask = |index| {
            let scene = scene_at(split, 9, index, 1..=4);
            questions(&scene, &mut item_rng(split, 9, index, Stream::Questions), 8)
        };
        (0..scenes).flat_map(ask).collect()
    }

    #[test]
    fn every_scene_gets_eight_different_questions() {
        for index in 0..500 {
            let scene = scene_at(Split::Train, 9, index, 1..=4);
            let asked =
                questions(&scene, &mut item_rng(Split::Train, 9, index, Stream::Questions), 8);
            assert_eq!(asked.iter().map(|q| &q.text).collect::<HashSet<_>>().len(), 8);
        }
    }

    #[test]
    fn yes_and_no_are_balanced_in_every_family() {
        for split in [Split::Train, Split::HeldOut] {
            let mut tally: HashMap<Family, [f64; 2]> = HashMap::new();
            for question in all(split, 3000) {
                let side = ["no", "yes"].iter().position(|answer| *answer == question.answer);
                if let Some(side) = side {
                    tally.entry(question.family).or_default()[side] += 1.0;
                }
            }
            for (family, [no, yes]) in tally {
                let share = yes / (yes + no);
                assert!((0.45..0.55).contains(&share), "{split:?} {family:?}: {share}");
            }
        }
    }

    #[test]
    fn counts_from_0_to_4_are_all_common() {
        let counts = all(Split::Train, 3000).into_iter().filter(|q| q.family == Family::Count);
        let mut tally: HashMap<String, usize> = HashMap::new();
        counts.for_each(|question| *tally.entry(question.answer).or_default() += 1);
        let total: usize = tally.values().sum();
        assert_eq!(tally.len(), 5, "{tally:?}");
        assert!(tally.values().all(|&n| n * 16 > total && n * 3 < total), "{tally:?}");
    }

    #[test]
    fn color_and_shape_answers_are_balanced() {
        let mut tally: HashMap<(Family, String), usize> = HashMap::new();
        for question in all(Split::Train, 3000) {
            *tally.entry((question.family, question.answer)).or_default() += 1;
        }
        for names in [Color::ALL.map(Color::name), Shape::ALL.map(Shape::name)] {
            let counts = names.map(|name| {
                [Family::Color, Family::Shape]
                    .iter()
                    .map(|&family| tally.get(&(family, name.to_owned())).copied().unwrap_or(0))
                    .sum::<usize>()
            });
            let (low, high) = (counts.iter().min(), counts.iter().max());
            assert!(high < low.map(|low| 2 * low).as_ref(), "{counts:?}");
        }
    }
}
