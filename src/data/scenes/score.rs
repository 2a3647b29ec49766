//! Checkable claims of captions, which score generated images.

use super::describe::{CLEAR_DISPLACEMENT, Kind, Place, Relation};
use super::detector::Detected;
use super::scene::Object;
use serde::{Deserialize, Serialize};

/// Checkable claim of a caption.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "claim", rename_all = "kebab-case")]
pub enum Claim {
    /// Some object matches `kind` and, if a place is given, has its centre there.
    HasObject {
        /// Description of the object.
        kind: Kind,
        /// Where its centre is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        place: Option<Place>,
    },
    /// Exactly `count` objects match `kind`.
    Count {
        /// Description of the objects.
        kind: Kind,
        /// Their number.
        count: usize,
    },
    /// Some object that matches `first` is in this relation to one that matches `second`.
    Relation {
        /// Description of the first object.
        first: Kind,
        /// Direction of the first object from the second.
        relation: Relation,
        /// Description of the second object.
        second: Kind,
    },
}

impl Claim {
    /// Whether the claim holds for an image with these objects. A relation requires half the
    /// displacement at which captions state it: the centres of generated objects are inexact, but
    /// the direction must be clear.
    pub fn holds(&self, objects: &[Object]) -> bool {
        match self {
            Self::HasObject { kind, place } => objects.iter().any(|object| {
                kind.matches(object) && place.is_none_or(|place| place.holds(object))
            }),
            Self::Count { kind, count } => kind.count(objects) == *count,
            Self::Relation { first, relation, second } => objects.iter().any(|a| {
                let clear = |b| relation.displacement(a, b) >= CLEAR_DISPLACEMENT / 2;
                first.matches(a) && objects.iter().any(|b| second.matches(b) && clear(b))
            }),
        }
    }

    /// How far the claim holds for an image with these objects, 0 to 1; 1 only if it [holds](Self::holds). Of objects and
    /// relations the share of size, colour, shape, place and direction that the best objects have; of a count the
    /// smaller number divided by the larger one.
    pub fn share(&self, objects: &[Object]) -> f64 {
        let share = |(held, all): (usize, usize)| held as f64 / all.max(1) as f64;
        match self {
            _ if self.holds(objects) => 1.0,
            Self::HasObject { kind, place } => {
                let of = |object: &Object| {
                    let (held, all) = kind.agreement(object);
                    let in_place = place.is_some_and(|place| place.holds(object));
                    share((held + usize::from(in_place), all + usize::from(place.is_some())))
                };
                objects.iter().map(of).fold(0.0, f64::max)
            }
            Self::Count { kind, count } => {
                let found = kind.count(objects);
                share((found.min(*count), found.max(*count)))
            }
            Self::Relation { first, relation, second } => {
                let clear = |a, b| relation.displacement(a, b) >= CLEAR_DISPLACEMENT / 2;
                let all = first.num_attributes() + second.num_attributes() + 1;
                let pairs = objects.iter().flat_map(|a| objects.iter().map(move |b| (a, b)));
                let both = pairs.filter(|(a, b)| !std::ptr::eq(*a, *b)).map(|(a, b)| {
                    first.agreement(a).0 + second.agreement(b).0 + usize::from(clear(a, b))
                });
                let alone = objects.iter().map(|a| first.agreement(a).0.max(second.agreement(a).0));
                share((both.chain(alone).max().unwrap_or(0), all))
            }
        }
    }

    /// As [`share`](Self::share), for the detected objects.
    pub fn satisfied_share(&self, found: &[Detected]) -> f64 {
        let objects: Vec<_> = found.iter().map(|found| found.object).collect();
        self.share(&objects)
    }

    /// Whether the claim holds for the detected objects.
    pub fn satisfied(&self, found: &[Detected]) -> bool {
        let objects: Vec<_> = found.iter().map(|found| found.object).collect();
        self.holds(&objects)
    }
}

#[cfg(test)]
mod tests {
    use super::super::describe::{Column, Row};
    use super::super::scene::{Color, Shape, Size};
    use super::*;

    const CIRCLE: Object =
        Object { shape: Shape::Circle, color: Color::Red, size: Size::Small, x: 12, y: 20 };
    const STAR: Object =
        Object { shape: Shape::Star, color: Color::Blue, size: Size::Large, x: 44, y: 32 };

    #[test]
    fn claims_with_a_place_hold_only_there() {
        let at = |row| Claim::HasObject {
            kind: Kind::pair(&CIRCLE),
            place: Some(Place { column: Some(Column::Left), row: Some(row) }),
        };
        assert!(at(Row::Top).holds(&[STAR, CIRCLE]));
        assert!(!at(Row::Bottom).holds(&[STAR, CIRCLE]));
        assert!(!at(Row::Top).holds(&[STAR]));
        let large = Kind::pair(&CIRCLE).sized(Size::Large);
        assert!(!Claim::HasObject { kind: large, place: None }.holds(&[CIRCLE]));
    }

    #[test]
    fn counts_are_exact() {
        let claim = Claim::Count { kind: Kind::shape(Shape::Star), count: 1 };
        assert!(claim.holds(&[STAR, CIRCLE]));
        assert!(!claim.holds(&[STAR, CIRCLE, STAR]));
        assert!(!claim.holds(&[CIRCLE]));
    }

    #[test]
    fn a_claim_holds_as_far_as_attributes_do() {
        let of = |object: &Object, objects: &[Object]| {
            Claim::HasObject { kind: Kind::pair(object).sized(object.size), place: None }
                .share(objects)
        };
        let large = Object { size: Size::Large, ..CIRCLE };
        assert_eq!(of(&CIRCLE, &[STAR, CIRCLE]), 1.0);
        assert_eq!(of(&CIRCLE, &[STAR, large]), 2.0 / 3.0);
        assert_eq!((of(&CIRCLE, &[STAR]), of(&CIRCLE, &[])), (0.0, 0.0));
        let count = Claim::Count { kind: Kind::shape(Shape::Star), count: 2 };
        assert_eq!((count.share(&[STAR]), count.share(&[STAR; 4])), (0.5, 0.5));
        let (first, second) = (Kind::pair(&CIRCLE), Kind::pair(&STAR));
        let left = Claim::Relation { first, relation: Relation::LeftOf, second };
        let right = Claim::Relation { first, relation: Relation::RightOf, second };
        assert_eq!(left.share(&[STAR, CIRCLE]), 1.0);
        assert_eq!(right.share(&[STAR, CIRCLE]), 0.8);
        assert_eq!(left.share(&[CIRCLE]), 0.4);
        // It is 1 where the claim holds and nowhere else.
        for objects in [&[STAR, CIRCLE][..], &[CIRCLE], &[STAR, large], &[]] {
            for claim in [left, right, count] {
                assert_eq!(
                    claim.share(objects) == 1.0,
                    claim.holds(objects),
                    "{claim:?} {objects:?}"
                );
            }
        }
    }

    #[test]
    fn relations_need_both_objects_and_the_right_direction() {
        let (first, second) = (Kind::pair(&CIRCLE), Kind::pair(&STAR));
        let claim = |relation| Claim::Relation { first, relation, second };
        assert!(claim(Relation::LeftOf).holds(&[STAR, CIRCLE]));
        assert!(!claim(Relation::RightOf).holds(&[STAR, CIRCLE]));
        assert!(!claim(Relation::LeftOf).holds(&[CIRCLE]));
    }
}
