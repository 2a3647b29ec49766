//! The scores of a single caption: against its references, and against the ground truth of a scene.

use crate::data::Fields;
use crate::data::scenes::{Color, Kind, Scene, Shape, Size};
use crate::eval::metrics::TextMatcher;
use crate::eval::report::indicator;

/// The scores of one caption; none without references.
pub(super) fn judge(
    given: &str,
    targets: &[String],
    fields: &Fields,
    matcher: &TextMatcher,
) -> Vec<(&'static str, f64)> {
    if targets.is_empty() {
        return Vec::new();
    }
    let mut scores = vec![
        ("exact_match", indicator(matcher.exact_match(given, targets))),
        ("word_f1", matcher.token_f1(given, targets)),
    ];
    let scene = fields.get("scene").and_then(|v| serde_json::from_value::<Scene>(v.clone()).ok());
    if let Some(scene) = scene {
        let mentions = mentions(given);
        let is_there = |kind: &Kind| scene.objects.iter().any(|object| kind.matches(object));
        let truthful = !mentions.is_empty() && mentions.iter().all(is_there);
        let all = scene.objects.iter().all(|o| mentions.iter().any(|kind| kind.matches(o)));
        scores.push(("true_mentions", indicator(truthful)));
        scores.push(("all_mentioned", indicator(truthful && all)));
    }
    scores
}

/// The kinds of objects that `text` mentions: every noun with the adjectives directly before it.
fn mentions(text: &str) -> Vec<Kind> {
    let mut mentions = Vec::new();
    let mut kind = Kind::default();
    for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        if let Some(size) = Size::ALL.into_iter().find(|size| size.name() == word) {
            kind.size = Some(size);
        } else if let Some(color) = Color::ALL.into_iter().find(|color| color.name() == word) {
            kind.color = Some(color);
        } else {
            let shape =
                Shape::ALL.into_iter().find(|shape| [shape.name(), shape.plural()].contains(&word));
            if shape.is_some() || ["object", "objects"].contains(&word) {
                mentions.push(Kind { shape, ..kind });
            }
            kind = Kind::default();
        }
    }
    mentions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_mentioned_by_nouns_with_their_adjectives() {
        let red =
            Kind { size: Some(Size::Large), color: Some(Color::Red), shape: Some(Shape::Star) };
        assert_eq!(mentions("a large red star"), [red]);
        let crosses = Kind { color: Some(Color::Blue), ..Kind::shape(Shape::Cross) };
        assert_eq!(mentions("two blue crosses, on light blue"), [crosses]);
        assert_eq!(mentions("three pink objects"), [Kind::color(Color::Pink)]);
        assert_eq!(mentions("red on a circle")[0], Kind::shape(Shape::Circle));
        assert!(mentions("nothing to see").is_empty());
    }
}
