//! Descriptions of objects, places and spatial relations: their wording and when they apply.

use super::scene::{Color, Object, Shape, Size};
use serde::{Deserialize, Serialize};

/// Smallest displacement, in units, at which captions and questions state a relation.
pub const CLEAR_DISPLACEMENT: i16 = 12;

/// Description of objects by size, colour and shape; absent attributes match anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Kind {
    /// Required size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// Required colour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub color: Option<Color>,
    /// Required shape.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Shape>,
}

impl Kind {
    /// Describes `object` by colour and shape.
    pub fn pair(object: &Object) -> Self {
        Self { size: None, color: Some(object.color), shape: Some(object.shape) }
    }

    /// Describes all objects of one shape.
    pub fn shape(shape: Shape) -> Self {
        Self { shape: Some(shape), ..Self::default() }
    }

    /// Describes all objects of one colour.
    pub fn color(color: Color) -> Self {
        Self { color: Some(color), ..Self::default() }
    }

    /// This description with a required size.
    pub fn sized(self, size: Size) -> Self {
        Self { size: Some(size), ..self }
    }

    /// Whether `object` has all required attributes.
    pub fn matches(&self, object: &Object) -> bool {
        self.size.is_none_or(|size| size == object.size)
            && self.color.is_none_or(|color| color == object.color)
            && self.shape.is_none_or(|shape| shape == object.shape)
    }

    /// The number of required attributes.
    pub fn num_attributes(&self) -> usize {
        [self.size.is_some(), self.color.is_some(), self.shape.is_some()]
            .iter()
            .filter(|is_required| **is_required)
            .count()
    }

    /// How many of the required attributes `object` has, and how many there are.
    pub fn agreement(&self, object: &Object) -> (usize, usize) {
        let attributes = [
            self.size.map(|size| size == object.size),
            self.color.map(|color| color == object.color),
            self.shape.map(|shape| shape == object.shape),
        ];
        (attributes.iter().filter(|holds| **holds == Some(true)).count(), self.num_attributes())
    }

    /// The number of `objects` that match.
    pub fn count(&self, objects: &[Object]) -> usize {
        objects.iter().filter(|object| self.matches(object)).count()
    }

    /// The noun phrase without an article: "large red circle", "blue object".
    pub fn singular(&self) -> String {
        self.phrase(self.shape.map_or("object", Shape::name))
    }

    /// The plural noun phrase: "large red circles", "blue objects".
    pub fn plural(&self) -> String {
        self.phrase(self.shape.map_or("objects", Shape::plural))
    }

    /// The singular noun phrase with "a" or "an".
    pub fn indefinite(&self) -> String {
        let phrase = self.singular();
        let article = if phrase.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
        format!("{article} {phrase}")
    }

    fn phrase(&self, noun: &str) -> String {
        let adjectives = [self.size.map(Size::name), self.color.map(Color::name)];
        let words: Vec<_> = adjectives.into_iter().flatten().chain([noun]).collect();
        words.join(" ")
    }
}

/// The left, middle or right third of the image, which contains an object's centre.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are self-explanatory")]
pub enum Column {
    Left,
    Center,
    Right,
}

impl Column {
    /// Every column, left to right.
    pub const ALL: [Self; 3] = [Self::Left, Self::Center, Self::Right];

    /// The column of a centre `x` units from the left: below 24, 24 to 40, above 40. Sampled
    /// centres never lie on these boundaries.
    pub fn of(x: u8) -> Self {
        match x {
            0..24 => Self::Left,
            24..=40 => Self::Center,
            _ => Self::Right,
        }
    }

    /// "left", "center" or "right".
    pub fn name(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Center => "center",
            Self::Right => "right",
        }
    }
}

/// The top, middle or bottom third of the image, which contains an object's centre.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are self-explanatory")]
pub enum Row {
    Top,
    Center,
    Bottom,
}

impl Row {
    /// Every row, top to bottom.
    pub const ALL: [Self; 3] = [Self::Top, Self::Center, Self::Bottom];

    /// The row of a centre `y` units from the top, with the same boundaries as [`Column::of`].
    pub fn of(y: u8) -> Self {
        match y {
            0..24 => Self::Top,
            24..=40 => Self::Center,
            _ => Self::Bottom,
        }
    }

    /// "top", "center" or "bottom".
    pub fn name(self) -> &'static str {
        match self {
            Self::Top => "top",
            Self::Center => "center",
            Self::Bottom => "bottom",
        }
    }
}

/// Region of the image: one of nine cells, a whole column or a whole row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The column; any if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<Column>,
    /// The row; any if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row: Option<Row>,
}

impl Place {
    /// The cell that contains the centre of `object`.
    pub fn cell(object: &Object) -> Self {
        Self { column: Some(Column::of(object.x)), row: Some(Row::of(object.y)) }
    }

    /// Whether the centre of `object` lies in this region.
    pub fn holds(&self, object: &Object) -> bool {
        self.column.is_none_or(|column| column == Column::of(object.x))
            && self.row.is_none_or(|row| row == Row::of(object.y))
    }

    /// The name, such as "top left", "top center", "center", "center right", "left", "bottom".
    pub fn name(&self) -> String {
        match (self.row, self.column) {
            (Some(Row::Center), Some(Column::Center)) => "center".to_owned(),
            (Some(row), Some(column)) => format!("{} {}", row.name(), column.name()),
            (Some(row), None) => row.name().to_owned(),
            (None, Some(column)) => column.name().to_owned(),
            (None, None) => "picture".to_owned(),
        }
    }

    /// The name with its preposition, such as "in the top left", "on the left", "at the bottom".
    pub fn phrase(&self) -> String {
        let preposition = match (self.row, self.column) {
            (Some(Row::Top | Row::Bottom), None) => "at",
            (None, Some(Column::Left | Column::Right)) => "on",
            _ => "in",
        };
        format!("{preposition} the {}", self.name())
    }
}

/// Direction of one object's centre from another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names are self-explanatory")]
pub enum Relation {
    LeftOf,
    RightOf,
    Above,
    Below,
}

impl Relation {
    /// Every relation.
    pub const ALL: [Self; 4] = [Self::LeftOf, Self::RightOf, Self::Above, Self::Below];

    /// The same relation with the objects exchanged.
    pub fn converse(self) -> Self {
        match self {
            Self::LeftOf => Self::RightOf,
            Self::RightOf => Self::LeftOf,
            Self::Above => Self::Below,
            Self::Below => Self::Above,
        }
    }

    /// How far `first` lies from `second` in the relation's direction, in units; negative in the
    /// opposite direction.
    pub fn displacement(self, first: &Object, second: &Object) -> i16 {
        let right = i16::from(first.x) - i16::from(second.x);
        let down = i16::from(first.y) - i16::from(second.y);
        match self {
            Self::LeftOf => -right,
            Self::RightOf => right,
            Self::Above => -down,
            Self::Below => down,
        }
    }

    /// The relation of `first` to `second` that a viewer would name, along the axis with the larger
    /// displacement. `None` unless that is at least [`CLEAR_DISPLACEMENT`] and 1.5 times the other.
    pub fn dominant(first: &Object, second: &Object) -> Option<Self> {
        let along = |relation: Self| relation.displacement(first, second);
        let best = Self::ALL.into_iter().max_by_key(|&relation| along(relation))?;
        let across = match best {
            Self::LeftOf | Self::RightOf => along(Self::Above).abs(),
            Self::Above | Self::Below => along(Self::LeftOf).abs(),
        };
        (along(best) >= CLEAR_DISPLACEMENT && 2 * along(best) >= 3 * across).then_some(best)
    }

    /// "left of", "right of", "above" or "below".
    pub fn phrase(self) -> &'static str {
        match self {
            Self::LeftOf => "left of",
            Self::RightOf => "right of",
            Self::Above => "above",
            Self::Below => "below",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECT: Object =
        Object { shape: Shape::Cross, color: Color::Orange, size: Size::Small, x: 20, y: 32 };

    #[test]
    fn phrases_read_as_english() {
        let kind = Kind::pair(&OBJECT);
        assert_eq!(kind.indefinite(), "an orange cross");
        assert_eq!(kind.sized(Size::Small).indefinite(), "a small orange cross");
        assert_eq!(Kind::color(Color::Red).plural(), "red objects");
        assert_eq!(Kind::default().indefinite(), "an object");
        assert_eq!(Place::cell(&OBJECT).phrase(), "in the center left");
        assert_eq!(Place { column: Some(Column::Left), row: None }.phrase(), "on the left");
        assert_eq!(Place { column: None, row: Some(Row::Bottom) }.phrase(), "at the bottom");
    }

    #[test]
    fn relations_hold_one_way_only() {
        let other = Object { x: 44, y: 44, ..OBJECT };
        assert_eq!(Relation::dominant(&OBJECT, &other), Some(Relation::LeftOf));
        assert_eq!(Relation::dominant(&other, &OBJECT), Some(Relation::RightOf));
        assert_eq!(Relation::dominant(&OBJECT, &Object { x: 36, y: 44, ..OBJECT }), None);
        for relation in Relation::ALL {
            let there = relation.displacement(&OBJECT, &other);
            assert_eq!(there, relation.converse().displacement(&other, &OBJECT));
            assert_eq!(there, -relation.displacement(&other, &OBJECT));
        }
    }
}
