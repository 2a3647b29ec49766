//! True captions of a scene.
//!
//! A caption mentions every object of the scene, so it also serves as a prompt: an image drawn
//! from it need not show anything else.

use super::describe::{Kind, Place, Relation};
use super::detector::Detected;
use super::sample::pick;
use super::scene::{Background, MAX_OBJECTS, Object, Scene};
use super::score::Claim;
use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;

/// Maximum number of words in a caption.
pub const MAX_WORDS: usize = 18;

/// Kind of sentence of a caption; scores are reported per category.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Category {
    /// One object: "a large red circle".
    Single,
    /// One or two objects with their positions: "a blue star in the top left".
    Position,
    /// Two different objects: "a red circle and a blue square".
    Two,
    /// Several objects of one kind: "two green squares".
    Count,
    /// Two objects and their spatial relation: "a red circle above a blue square".
    Relation,
    /// Three or four different objects: "a red circle, a blue star and a green heart".
    List,
}

impl Category {
    /// Every category.
    pub const ALL: [Self; 6] =
        [Self::Single, Self::Position, Self::Two, Self::Count, Self::Relation, Self::List];

    /// The category's name in data fields and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Position => "position",
            Self::Two => "two",
            Self::Count => "count",
            Self::Relation => "relation",
            Self::List => "list",
        }
    }

    /// How many objects a scene with such a caption has.
    pub fn objects(self) -> RangeInclusive<usize> {
        match self {
            Self::Single => 1..=1,
            Self::Position => 1..=2,
            Self::Two | Self::Relation => 2..=2,
            Self::Count => 2..=MAX_OBJECTS,
            Self::List => 3..=MAX_OBJECTS,
        }
    }
}

/// A caption and the claims it makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caption {
    /// The text: lower case, no full stop, at most [`MAX_WORDS`] words.
    pub text: String,
    /// Its kind of sentence.
    pub category: Category,
    /// Its statements about objects; a background named in the text is not included.
    pub claims: Vec<Claim>,
    /// The number of objects in the scene.
    pub objects: usize,
}

impl Caption {
    /// Whether every claim holds for the detected objects. Additional objects are ignored unless
    /// the caption states a count.
    pub fn satisfied(&self, found: &[Detected]) -> bool {
        self.claims.iter().all(|claim| claim.satisfied(found))
    }

    /// Whether every claim holds and no additional object was detected; captions mention every
    /// object of their scene.
    pub fn satisfied_exactly(&self, found: &[Detected]) -> bool {
        found.len() == self.objects && self.satisfied(found)
    }
}

/// A noun phrase with its claims, before it is embedded in a sentence.
struct Statement {
    text: String,
    plural: bool,
    claims: Vec<Claim>,
}

impl Statement {
    fn new(text: String, plural: bool, claims: Vec<Claim>) -> Self {
        Self { text, plural, claims }
    }
}

/// Returns one caption per category that applies to the scene (at least one), in the order of
/// [`Category::ALL`].
pub fn captions(scene: &Scene, rng: &mut ChaCha8Rng) -> Vec<Caption> {
    let mut captions = Vec::new();
    for category in Category::ALL {
        let statement = match category {
            Category::Single => single(scene, rng),
            Category::Position => position(scene, rng),
            Category::Two => two(scene, rng),
            Category::Count => count(scene, rng),
            Category::Relation => relation(scene, rng),
            Category::List => list(scene, rng),
        };
        if let Some(statement) = statement {
            let text = frame(&statement, scene.background, rng);
            let (claims, objects) = (statement.claims, scene.objects.len());
            captions.push(Caption { text, category, claims, objects });
        }
    }
    captions
}

/// Embeds the statement in a sentence or, half of the time, returns it as it is.
fn frame(statement: &Statement, background: Background, rng: &mut ChaCha8Rng) -> String {
    let text = &statement.text;
    let framed = match rng.random_range(0..12) {
        0..2 => format!("{text} on a {} background", background.name()),
        2 => format!("a picture of {text}"),
        3 => format!("an image with {text}"),
        4 => format!("{text} on {}", background.name()),
        5 if statement.plural => format!("there are {text}"),
        5 => format!("there is {text}"),
        _ => return text.clone(),
    };
    if framed.split(' ').count() <= MAX_WORDS { framed } else { text.clone() }
}

fn has(kind: Kind) -> Claim {
    Claim::HasObject { kind, place: None }
}

/// Describes the object by colour, shape and, with probability `size`, its size.
fn mention(object: &Object, size: f64, rng: &mut ChaCha8Rng) -> Kind {
    let kind = Kind::pair(object);
    if rng.random_bool(size) { kind.sized(object.size) } else { kind }
}

fn single(scene: &Scene, rng: &mut ChaCha8Rng) -> Option<Statement> {
    let [object] = &scene.objects[..] else { return None };
    let kind = mention(object, 0.5, rng);
    Some(Statement::new(kind.indefinite(), false, vec![has(kind)]))
}

/// The object's cell or, sometimes, only its column or row unless that is the centre.
fn place(object: &Object, rng: &mut ChaCha8Rng) -> Place {
    let cell = Place::cell(object);
    let coarse = [Place { row: None, ..cell }, Place { column: None, ..cell }];
    let coarse = pick(&coarse, rng);
    if rng.random_bool(0.25) && coarse.name() != "center" { coarse } else { cell }
}

fn position(scene: &Scene, rng: &mut ChaCha8Rng) -> Option<Statement> {
    let mut objects = scene.objects.clone();
    objects.shuffle(rng);
    if objects.len() > 2 || same_pair(&objects) {
        return None;
    }
    let (mut texts, mut claims) = (Vec::new(), Vec::new());
    for object in &objects {
        let kind = mention(object, 0.3, rng);
        let place = place(object, rng);
        texts.push(format!("{} {}", kind.indefinite(), place.phrase()));
        claims.push(Claim::HasObject { kind, place: Some(place) });
    }
    Some(Statement::new(texts.join(" and "), false, claims))
}

/// Whether there are two objects and they share colour and shape.
fn same_pair(objects: &[Object]) -> bool {
    matches!(objects, [a, b] if Kind::pair(a) == Kind::pair(b))
}

fn two(scene: &Scene, rng: &mut ChaCha8Rng) -> Option<Statement> {
    let [mut first, mut second] = scene.objects[..] else { return None };
    if rng.random_bool(0.5) {
        (first, second) = (second, first);
    }
    let sized = if same_pair(&scene.objects) { 1.0 } else { 0.25 };
    let (a, b) = (mention(&first, sized, rng), mention(&second, sized, rng));
    if a == b {
        return None;
    }
    let text = format!("{} and {}", a.indefinite(), b.indefinite());
    Some(Statement::new(text, false, vec![has(a), has(b)]))
}

/// `count` as a word.
///
/// # Panics
/// If `count` is above four.
fn number(count: usize) -> &'static str {
    ["no", "one", "two", "three", "four"][count]
}

fn counted(kind: Kind, count: usize) -> String {
    match count {
        1 => kind.indefinite(),
        _ => format!("{} {}", number(count), kind.plural()),
    }
}

/// The distinct (colour, shape) kinds of the scene with their counts, in random order.
fn groups(scene: &Scene, rng: &mut ChaCha8Rng) -> Vec<(Kind, usize)> {
    let mut kinds: Vec<Kind> = Vec::new();
    for object in &scene.objects {
        if !kinds.contains(&Kind::pair(object)) {
            kinds.push(Kind::pair(object));
        }
    }
    kinds.shuffle(rng);
    kinds.into_iter().map(|kind| (kind, kind.count(&scene.objects))).collect()
}

fn count(scene: &Scene, rng: &mut ChaCha8Rng) -> Option<Statement> {
    let objects = &scene.objects;
    let first = objects.first().filter(|_| objects.len() > 1)?;
    let groups = groups(scene, rng);
    let mut options = Vec::new();
    if groups.len() < objects.len() {
        options.push(groups);
    }
    let shared = [Kind::shape(first.shape), Kind::color(first.color)];
    for kind in shared.into_iter().filter(|kind| kind.count(objects) == objects.len()) {
        options.push(vec![(kind, objects.len())]);
    }
    let chosen =
        (!options.is_empty()).then(|| options.swap_remove(rng.random_range(0..options.len())))?;
    let texts: Vec<_> = chosen.iter().map(|&(kind, count)| counted(kind, count)).collect();
    let claims = chosen.iter().map(|&(kind, count)| Claim::Count { kind, count }).collect();
    Some(Statement::new(enumerate(&texts), chosen[0].1 > 1, claims))
}

fn relation(scene: &Scene, rng: &mut ChaCha8Rng) -> Option<Statement> {
    let [mut a, mut b] = scene.objects[..] else { return None };
    if rng.random_bool(0.5) {
        (a, b) = (b, a);
    }
    let relation = Relation::dominant(&a, &b).filter(|_| !same_pair(&scene.objects))?;
    let (first, second) = (mention(&a, 0.2, rng), mention(&b, 0.2, rng));
    let words = match relation {
        Relation::LeftOf => pick(&["left of", "to the left of"], rng),
        Relation::RightOf => pick(&["right of", "to the right of"], rng),
        Relation::Above => pick(&["above", "over"], rng),
        Relation::Below => pick(&["below", "under"], rng),
    };
    let text = format!("{} {words} {}", first.indefinite(), second.indefinite());
    let claims = vec![has(first), has(second), Claim::Relation { first, relation, second }];
    Some(Statement::new(text, false, claims))
}

fn list(scene: &Scene, rng: &mut ChaCha8Rng) -> Option<Statement> {
    if scene.objects.len() < 3 || groups(scene, rng).len() < scene.objects.len() {
        return None;
    }
    let mut objects = scene.objects.clone();
    objects.shuffle(rng);
    let sized = if rng.random_bool(0.2) { 1.0 } else { 0.0 };
    let kinds: Vec<_> = objects.iter().map(|object| mention(object, sized, rng)).collect();
    let texts: Vec<_> = kinds.iter().map(Kind::indefinite).collect();
    Some(Statement::new(enumerate(&texts), false, kinds.into_iter().map(has).collect()))
}

/// Joins texts as in "a", "a and b" or "a, b and c".
fn enumerate(texts: &[String]) -> String {
    match texts {
        [rest @ .., last] if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => texts.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{Split, Stream, item_rng, scene_at};
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn every_scene_has_a_caption_whose_claims_hold() {
        let mut seen: HashMap<Category, usize> = HashMap::new();
        for index in 0..2000 {
            let scene = scene_at(Split::Train, 1, index, 1..=4);
            let mut rng = item_rng(Split::Train, 1, index, Stream::Captions);
            let captions = captions(&scene, &mut rng);
            assert!(!captions.is_empty(), "{scene:?}");
            for caption in captions {
                *seen.entry(caption.category).or_default() += 1;
                assert!(caption.claims.iter().all(|claim| claim.holds(&scene.objects)));
                assert!(caption.text.split(' ').count() <= MAX_WORDS, "{}", caption.text);
                assert_eq!(caption.text, caption.text.to_lowercase());
            }
        }
        assert!(Category::ALL.iter().all(|category| seen[category] >= 100), "{seen:?}");
    }

    #[test]
    fn items_are_joined_by_commas_and_a_final_and() {
        let texts = ["a".to_owned(), "b".to_owned(), "c".to_owned()];
        assert_eq!(enumerate(&texts[..1]), "a");
        assert_eq!(enumerate(&texts[..2]), "a and b");
        assert_eq!(enumerate(&texts), "a, b and c");
    }
}
