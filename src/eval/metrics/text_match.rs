//! Exact match and token F1 of short answers: Rajpurkar et al. 2016 (SQuAD, section 6.1) as in its
//! evaluation script (version 2.0: two empty answers are equal).

use std::collections::BTreeMap;

use super::vqa_accuracy::{AnswerNormalizer, AnswerRules};
use super::words;

/// A normalisation before texts are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TextNormalization {
    /// None.
    Verbatim,
    /// SQuAD's: lower case, no ASCII punctuation, no `a`, `an`, `the`, single blanks.
    Squad,
    /// A VQA evaluator's.
    Vqa(AnswerRules),
}

/// Compares texts after a normalisation. Construction compiles patterns: use one for many texts.
///
/// ```
/// use calumma::eval::metrics::{TextMatcher, TextNormalization};
///
/// let matcher = TextMatcher::new(TextNormalization::Squad);
/// assert!(matcher.exact_match("The red heart!", &["red heart"]));
/// assert_eq!(matcher.token_f1("red", &["red heart", "blue"]), 2.0 / 3.0);
/// ```
#[derive(Clone, Debug)]
pub struct TextMatcher {
    normalization: TextNormalization,
    vqa: AnswerNormalizer,
}

impl TextMatcher {
    /// A matcher with `normalization`.
    pub fn new(normalization: TextNormalization) -> Self {
        let rules = match normalization {
            TextNormalization::Vqa(rules) => rules,
            TextNormalization::Verbatim | TextNormalization::Squad => AnswerRules::Official,
        };
        Self { normalization, vqa: AnswerNormalizer::with_rules(rules) }
    }

    /// `text` in the form in which it is compared.
    pub fn normalize(&self, text: &str) -> String {
        match self.normalization {
            TextNormalization::Verbatim => text.to_owned(),
            TextNormalization::Squad => squad(text),
            TextNormalization::Vqa(_) => self.vqa.normalize(text),
        }
    }

    /// Whether `prediction` equals one of `references`.
    pub fn exact_match<T: AsRef<str>>(&self, prediction: &str, references: &[T]) -> bool {
        let prediction = self.normalize(prediction);
        references.iter().any(|reference| self.normalize(reference.as_ref()) == prediction)
    }

    /// Word F1, the harmonic mean of precision and recall of words with multiplicity, against the best of
    /// `references`; in `[0, 1]`. If a side has no words: 1 if both have none, else 0.
    pub fn token_f1<T: AsRef<str>>(&self, prediction: &str, references: &[T]) -> f64 {
        let prediction = self.normalize(prediction);
        let of = |reference: &T| word_f1(&prediction, &self.normalize(reference.as_ref()));
        references.iter().map(of).fold(0.0, f64::max)
    }
}

fn squad(text: &str) -> String {
    let lower = text.to_lowercase();
    let kept: String = lower.chars().filter(|c| !c.is_ascii_punctuation()).collect();
    // An article is removed wherever it is a whole run of word characters.
    let mut without = String::with_capacity(kept.len());
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut rest = &kept[..];
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c| is_word(c) != is_word(first)).unwrap_or(rest.len());
        let (run, after) = rest.split_at(end);
        without.push_str(if ["a", "an", "the"].contains(&run) { " " } else { run });
        rest = after;
    }
    words(&without).collect::<Vec<_>>().join(" ")
}

fn word_f1(prediction: &str, reference: &str) -> f64 {
    let mut left: BTreeMap<&str, usize> = BTreeMap::new();
    words(reference).for_each(|word| *left.entry(word).or_default() += 1);
    let (given, right) = (words(prediction).count(), words(reference).count());
    if given == 0 || right == 0 {
        return f64::from(u8::from(given == right));
    }
    let mut common = 0;
    for word in words(prediction) {
        if let Some(count) = left.get_mut(word).filter(|count| **count > 0) {
            *count -= 1;
            common += 1;
        }
    }
    2.0 * f64::from(common) / (given + right) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squad_ignores_articles_and_punctuation() {
        assert_eq!(squad("The  U.S.A., an -- 'A' list!"), "usa list");
        assert_eq!(squad("theatre a\u{2019}s"), "theatre \u{2019}s");
    }

    #[test]
    fn words_count_with_multiplicity() {
        let matcher = TextMatcher::new(TextNormalization::Squad);
        assert_eq!(matcher.token_f1("red red", &["red heart"]), 0.5);
        assert_eq!(matcher.token_f1("the", &["a"]), 1.0);
        assert_eq!(matcher.token_f1("", &["a dog"]), 0.0);
        assert_eq!(matcher.token_f1::<&str>("red", &[]), 0.0);
    }

    #[test]
    fn matches_depend_on_the_normalisation() {
        let same = |normalization| TextMatcher::new(normalization).exact_match("Two", &["2"]);
        assert!(same(TextNormalization::Vqa(AnswerRules::Official)));
        assert!(!same(TextNormalization::Squad));
        assert!(TextMatcher::new(TextNormalization::Verbatim).exact_match("Two", &["a", "Two"]));
    }
}
