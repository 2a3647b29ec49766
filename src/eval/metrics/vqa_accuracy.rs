//! Answers in the form in which they are compared.
//!
//! The rules are those of the public VQA evaluator (GT-Vision-Lab/VQA,
//! `PythonEvaluationTools/vqaEvaluation/vqaEval.py`), oddities included, because published scores
//! depend on them. Here both sides are always normalised and compared whole: the measure for data
//! sets with one right answer.

use regex::Regex;

/// Deleted where one stands beside a blank anywhere in the answer, else replaced by a blank.
const PUNCTUATION: [char; 21] = [
    ';', '/', '[', ']', '"', '{', '}', '(', ')', '=', '+', '\\', '_', '-', '>', '<', '@', '`', ',',
    '?', '!',
];

/// How many full stops are removed at most: the evaluator passes the flag `re.UNICODE` where the
/// number of substitutions belongs.
const MOST_FULL_STOPS: usize = 32;

const NUMBERS: [(&str, &str); 12] = [
    ("none", "0"),
    ("zero", "0"),
    ("one", "1"),
    ("two", "2"),
    ("three", "3"),
    ("four", "4"),
    ("five", "5"),
    ("six", "6"),
    ("seven", "7"),
    ("eight", "8"),
    ("nine", "9"),
    ("ten", "10"),
];

const ARTICLES: [&str; 3] = ["a", "an", "the"];

/// Contractions in their right form; a word that lacks exactly one of the apostrophes becomes it.
const CONTRACTIONS: &str = "ain't aren't can't could've couldn't couldn't've didn't doesn't don't \
    hadn't hadn't've hasn't haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll \
    ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock oughtn't 'ow's'at \
    shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's \
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's \
    there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't \
    we'd've we've weren't what'll what're what's what've when's where'd where's where've who'd \
    who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all \
    y'all'll y'all'd've you'd you'd've you'll you're you've";

/// Puts answers into the form in which they are compared. Make one for many answers.
///
/// ```
/// let normalizer = calumma::eval::metrics::AnswerNormalizer::new();
/// assert_eq!(normalizer.normalize("The two Dogs."), "2 dogs");
/// assert!(normalizer.same("Yes!", "yes"));
/// ```
#[derive(Clone, Debug)]
pub struct AnswerNormalizer {
    /// A comma between digits; digits are Unicode's decimal ones, as in the evaluator.
    thousands: Regex,
    full_stop: Regex,
}

impl Default for AnswerNormalizer {
    fn default() -> Self {
        Self::new()
    }
}

impl AnswerNormalizer {
    /// A normaliser by the evaluator's rules.
    pub fn new() -> Self {
        let regex = |pattern| Regex::new(pattern).expect("the patterns are fixed and valid");
        Self { thousands: regex(r"\d,\d"), full_stop: regex(r"\.(\d?)") }
    }

    /// `answer` in lower case with single blanks, without punctuation and articles, numbers up to
    /// ten as digits, contractions with their apostrophes.
    pub fn normalize(&self, answer: &str) -> String {
        let answer = answer.replace(['\n', '\t'], " ");
        words(&self.without_punctuation(answer.trim()))
    }

    /// Whether two answers are the same once normalised.
    pub fn same(&self, a: &str, b: &str) -> bool {
        self.normalize(a) == self.normalize(b)
    }

    fn without_punctuation(&self, answer: &str) -> String {
        let thousands = self.thousands.is_match(answer);
        let mut text = answer.to_owned();
        for mark in PUNCTUATION {
            let beside_blank =
                answer.contains(&format!("{mark} ")) || answer.contains(&format!(" {mark}"));
            text = text.replace(mark, if beside_blank || thousands { "" } else { " " });
        }
        self.without_full_stops(&text)
    }

    /// Removes full stops that no digit follows.
    fn without_full_stops(&self, text: &str) -> String {
        let mut removed = 0;
        let kept = self.full_stop.replace_all(text, |found: &regex::Captures<'_>| {
            let removes = found[1].is_empty() && removed < MOST_FULL_STOPS;
            removed += usize::from(removes);
            if removes { String::new() } else { found[0].to_owned() }
        });
        kept.into_owned()
    }
}

fn words(text: &str) -> String {
    // Python also splits at the four information separators.
    let blank = |c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c);
    let lower = text.to_lowercase();
    let words = lower.split(blank).filter(|word| !word.is_empty());
    let words = words.map(digits).filter(|word| !ARTICLES.contains(word)).map(contraction);
    words.collect::<Vec<_>>().join(" ")
}

fn digits(word: &str) -> &str {
    NUMBERS.iter().find(|(name, _)| *name == word).map_or(word, |(_, digits)| digits)
}

fn contraction(word: &str) -> &str {
    // The one entry of the evaluator's table that removes an apostrophe.
    if word == "somebody'd" {
        return "somebodyd";
    }
    let lacks_one = |right: &&str| {
        right.len() == word.len() + 1
            && right.match_indices('\'').any(|(at, _)| {
                word.is_char_boundary(at)
                    && right[..at] == word[..at]
                    && right[at + 1..] == word[at..]
            })
    };
    CONTRACTIONS.split(' ').filter(|right| !right.is_empty()).find(lacks_one).unwrap_or(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_stops_go_up_to_the_thirty_third() {
        let normalizer = AnswerNormalizer::new();
        assert_eq!(normalizer.normalize(&".".repeat(40)), ".".repeat(8));
        assert_eq!(normalizer.normalize("..5."), ".5");
    }

    #[test]
    fn only_decimal_digits_make_a_thousands_comma() {
        let normalizer = AnswerNormalizer::new();
        assert_eq!(normalizer.normalize("1,000"), "1000");
        assert_eq!(normalizer.normalize("٣,٤"), "٣٤");
        assert_eq!(normalizer.normalize("x²,³"), "x² ³");
    }

    #[test]
    fn words_that_lack_one_apostrophe_are_completed() {
        for (given, right) in [
            ("couldntve", "couldntve"),
            ("couldn'tve", "couldn't've"),
            ("'ows'at", "'ow's'at"),
            ("twas", "'twas"),
            ("shed", "shed"),
            ("somebody'd", "somebodyd"),
            ("naïve", "naïve"),
        ] {
            assert_eq!(contraction(given), right);
        }
    }
}
