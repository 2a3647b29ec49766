//! Normalisation of answers, and accuracy against the answers of ten annotators.
//!
//! The rules are those of the public VQA evaluator (GT-Vision-Lab/VQA,
//! `PythonEvaluationTools/vqaEvaluation/vqaEval.py`), including its oddities, because published
//! scores depend on them; and those of its descendant on EvalAI (in MMF and lmms-eval,
//! `tasks/_task_utils/vqa_eval_metric.py`), which differ. [`VqaAccuracy`] compares with several
//! answers; for a single right answer use [`AnswerNormalizer::same`].

use std::collections::BTreeMap;

use regex::Regex;

use super::{is_blank, mean, words as split};

/// Marks that are deleted if they stand next to a blank anywhere in the answer, else replaced by a
/// blank.
const PUNCTUATION: [char; 21] = [
    ';', '/', '[', ']', '"', '{', '}', '(', ')', '=', '+', '\\', '_', '-', '>', '<', '@', '`', ',',
    '?', '!',
];

/// The maximum number of full stops removed: the evaluator passes the flag `re.UNICODE` (32) as the number of
/// substitutions.
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

/// Correct contractions; a word that lacks exactly one of the apostrophes is replaced by it.
const CONTRACTIONS: &str = "ain't aren't can't could've couldn't couldn't've didn't doesn't don't \
    hadn't hadn't've hasn't haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll \
    ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock oughtn't 'ow's'at \
    shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's \
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's \
    there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't \
    we'd've we've weren't what'll what're what's what've when's where'd where's where've who'd \
    who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all \
    y'all'll y'all'd've you'd you'd've you'll you're you've";

/// The evaluator whose rules apply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AnswerRules {
    /// The VQA challenge's own. Its accuracy normalises only if the annotators' answers differ.
    #[default]
    Official,
    /// lmms-eval's for VQAv2: always the two steps of the official one, and several commas between
    /// digits count as one.
    LmmsVqa,
    /// EvalAI's processor for TextVQA, VizWiz and OK-VQA: as [`AnswerRules::LmmsVqa`] after
    /// conversion to lower case, removal of commas and question marks, and a blank before `'s`.
    EvalAi,
}

/// Normalises answers for comparison. Construction compiles patterns: use one for many answers.
///
/// ```
/// let normalizer = calumma::eval::metrics::AnswerNormalizer::new();
/// assert_eq!(normalizer.normalize("The two Dogs."), "2 dogs");
/// assert!(normalizer.same("Yes!", "yes"));
/// ```
#[derive(Clone, Debug)]
pub struct AnswerNormalizer {
    /// A comma between digits (Unicode's decimal digits, as in the evaluator).
    thousands: Regex,
    full_stop: Regex,
    rules: AnswerRules,
}

impl Default for AnswerNormalizer {
    fn default() -> Self {
        Self::new()
    }
}

impl AnswerNormalizer {
    /// A normaliser with the official evaluator's rules.
    pub fn new() -> Self {
        Self::with_rules(AnswerRules::Official)
    }

    /// A normaliser with `rules`.
    pub fn with_rules(rules: AnswerRules) -> Self {
        let regex = |pattern| Regex::new(pattern).expect("the patterns are fixed and valid");
        let thousands = match rules {
            AnswerRules::Official => r"\d,\d",
            AnswerRules::LmmsVqa | AnswerRules::EvalAi => r"\d,+\d",
        };
        Self { thousands: regex(thousands), full_stop: regex(r"\.(\d?)"), rules }
    }

    /// `answer` in lower case with single blanks, without punctuation and articles, with numbers up
    /// to ten as digits and apostrophes in contractions.
    pub fn normalize(&self, answer: &str) -> String {
        let answer = match self.rules {
            AnswerRules::EvalAi => stripped(&possessives(answer)),
            AnswerRules::Official | AnswerRules::LmmsVqa => stripped(answer),
        };
        words(&self.without_punctuation(&answer))
    }

    /// Whether two answers are equal after normalisation.
    pub fn same(&self, a: &str, b: &str) -> bool {
        self.normalize(a) == self.normalize(b)
    }

    /// The evaluator's first step.
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

    /// `text` without full stops that no digit follows.
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

/// `answer` with line ends and tabs as blanks, trimmed.
fn stripped(answer: &str) -> String {
    answer.replace(['\n', '\t'], " ").trim_matches(is_blank).to_owned()
}

/// The first step of EvalAI's processor.
fn possessives(answer: &str) -> String {
    let answer = answer.to_lowercase().replace([',', '?'], "").replace("'s", " 's");
    answer.trim_matches(is_blank).to_owned()
}

/// The evaluator's second step: lower case, digits, articles, contractions.
fn words(text: &str) -> String {
    let lower = text.to_lowercase();
    let words = split(&lower).map(digits).filter(|word| !ARTICLES.contains(word)).map(contraction);
    words.collect::<Vec<_>>().join(" ")
}

fn digits(word: &str) -> &str {
    NUMBERS.iter().find(|(name, _)| *name == word).map_or(word, |(_, digits)| digits)
}

fn contraction(word: &str) -> &str {
    // The only entry of the evaluator's table that removes an apostrophe.
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

/// Accuracy against several annotators' answers: Antol et al. 2015 (VQA, section 3.4), by the rules
/// of an evaluator. Construction compiles patterns: use one for many answers.
///
/// ```
/// use calumma::eval::metrics::{AnswerRules, VqaAccuracy};
///
/// let annotators = ["red", "red", "red", "Red", "blue", "blue", "blue", "blue", "blue", "blue"];
/// let official = VqaAccuracy::new(AnswerRules::Official);
/// assert_eq!(official.accuracy("the red", &annotators), 1.0);
/// assert!((official.accuracy("green", &annotators)).abs() < 1e-12);
/// ```
#[derive(Clone, Debug)]
pub struct VqaAccuracy {
    normalizer: AnswerNormalizer,
}

impl VqaAccuracy {
    /// The accuracy with `rules`.
    pub fn new(rules: AnswerRules) -> Self {
        Self { normalizer: AnswerNormalizer::with_rules(rules) }
    }

    /// The accuracy of `prediction` in `[0, 1]`: the mean over annotators of `min(1, m / 3)`, where
    /// m is the number of *other* annotators' answers that equal the prediction. 0 without answers.
    ///
    /// With [`AnswerRules::Official`], unanimous answers are compared without normalisation: a
    /// prediction "Yes" is wrong for ten times "yes".
    pub fn accuracy<T: AsRef<str>>(&self, prediction: &str, answers: &[T]) -> f64 {
        let official = self.normalizer.rules == AnswerRules::Official;
        let plain: Vec<String> = answers.iter().map(|answer| stripped(answer.as_ref())).collect();
        let unanimous = plain.windows(2).all(|pair| pair[0] == pair[1]);
        let right: Vec<bool> = if official && unanimous {
            let prediction = stripped(prediction);
            plain.iter().map(|answer| *answer == prediction).collect()
        } else {
            let prediction = self.normalizer.normalize(prediction);
            let normalized =
                answers.iter().map(|answer| self.normalizer.normalize(answer.as_ref()));
            normalized.map(|answer| answer == prediction).collect()
        };
        let matches = right.iter().filter(|right| **right).count();
        let others = |right: &bool| matches - usize::from(*right);
        let shares: Vec<f64> =
            right.iter().map(|right| (others(right) as f64 / 3.0).min(1.0)).collect();
        mean(&shares)
    }
}

/// Mean accuracies over questions as the evaluator reports them, but in `[0, 1]` and not rounded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VqaSummary {
    /// Over all questions; 0 without questions.
    pub overall: f64,
    /// By type of answer: `yes/no`, `number`, `other`.
    pub by_answer_type: BTreeMap<String, f64>,
    /// By type of question, its first words.
    pub by_question_type: BTreeMap<String, f64>,
}

impl VqaSummary {
    /// The summary of questions given as answer type, question type and accuracy.
    pub fn of<'a>(questions: impl IntoIterator<Item = (&'a str, &'a str, f64)>) -> Self {
        let mut all = Vec::new();
        let (mut answers, mut kinds) = (BTreeMap::new(), BTreeMap::new());
        for (answer_type, question_type, accuracy) in questions {
            all.push(accuracy);
            answers.entry(answer_type).or_insert_with(Vec::new).push(accuracy);
            kinds.entry(question_type).or_insert_with(Vec::new).push(accuracy);
        }
        let means = |groups: BTreeMap<&str, Vec<f64>>| {
            groups.into_iter().map(|(name, values)| (name.to_owned(), mean(&values))).collect()
        };
        let (by_answer_type, by_question_type) = (means(answers), means(kinds));
        Self { overall: mean(&all), by_answer_type, by_question_type }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_thirty_two_full_stops_are_removed() {
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
    fn contractions_that_lack_one_apostrophe_are_completed() {
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

    #[test]
    fn evaluators_differ_in_commas_and_possessives() {
        let of = |rules, answer| AnswerNormalizer::with_rules(rules).normalize(answer);
        assert_eq!(of(AnswerRules::Official, "1,,000-a"), "1 000");
        assert_eq!(of(AnswerRules::LmmsVqa, "1,,000-a"), "1000a");
        assert_eq!(of(AnswerRules::EvalAi, "It's 1,000?"), "it 's 1000");
        assert_eq!(of(AnswerRules::LmmsVqa, "It's 1,000?"), "it's 1000");
    }

    #[test]
    fn only_the_official_rules_skip_normalisation_of_unanimous_answers() {
        let of = |rules, annotators: &[&str]| VqaAccuracy::new(rules).accuracy("Yes", annotators);
        assert_eq!(of(AnswerRules::Official, &["yes"; 10]), 0.0);
        assert_eq!(of(AnswerRules::EvalAi, &["yes"; 10]), 1.0);
        assert_eq!(of(AnswerRules::Official, &["\tYes", "Yes\n"]), 1.0 / 3.0);
        assert_eq!(of(AnswerRules::Official, &[]), 0.0);
    }

    #[test]
    fn summaries_are_means_of_questions_not_of_groups() {
        let questions = [("yes/no", "is", 1.0), ("other", "what", 0.0), ("other", "is", 0.5)];
        let summary = VqaSummary::of(questions);
        assert_eq!(summary.overall, 0.5);
        assert_eq!(summary.by_answer_type["other"], 0.25);
        assert_eq!(summary.by_question_type["is"], 0.75);
    }
}
