//! Penn Treebank tokenizer for captions, equal to that of the public caption scorers.
//!
//! The scorers (pycocoevalcap, `tokenizer/ptbtokenizer.py`) run Stanford CoreNLP 3.4.1's
//! `PTBTokenizer -preserveLines -lowerCase` and drop the tokens [`DROPPED`]. This is an independent
//! implementation, derived from that program's output on probes, not from its grammar. The two
//! agree on every text of `tests/fixtures/metrics/ptb_tokens.jsonl`; `tests/metrics.sh` compares
//! them on other texts.

use regex::Regex;

use super::ptb_lists::{ASSIMILATIONS, SENTENCE_STARTERS, SYMBOLS};
use super::ptb_rules::{Follow, Form, Rule, expand, regex, rules};

/// Punctuation tokens that do not count. The scorers' own list also has brackets, but in capitals,
/// which lower-case tokens never equal, so `-lrb-` counts as a token.
pub const DROPPED: [&str; 13] =
    ["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"];

/// The blank inside a token, as in the mixed number `1 1/2`.
const INNER_BLANK: &str = "\u{a0}";

/// Splits texts into tokens. Construction compiles patterns: use one for many texts.
///
/// ```
/// let tokenizer = calumma::eval::metrics::PtbTokenizer::new();
/// let tokens = tokenizer.tokenize("There's a play-fighting dog (it isn't his), 3.5 m tall.");
/// assert_eq!(
///     tokens.join(" "),
///     "there 's a play-fighting dog -lrb- it is n't his -rrb- 3.5 m tall"
/// );
/// ```
pub struct PtbTokenizer {
    rules: Vec<Rule>,
    symbol: Regex,
    /// Blanks and a capitalised word that starts sentences.
    sentence: Regex,
    /// Words that are split in two; a group captures the second part.
    assimilated: Regex,
    /// The rest of `n't` after its `n`.
    negation: Regex,
    clitic: Regex,
    number: Regex,
}

impl Default for PtbTokenizer {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for PtbTokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PtbTokenizer").field("rules", &self.rules.len()).finish_non_exhaustive()
    }
}

impl PtbTokenizer {
    /// The tokenizer.
    pub fn new() -> Self {
        let starters = SENTENCE_STARTERS.split_whitespace().collect::<Vec<_>>().join("|");
        let pairs = ASSIMILATIONS.split_whitespace().map(|pair| {
            let (first, second) = pair.split_once('+').expect("every entry has two parts");
            format!("(?:{first})(?P<s{first}{second}>{second})")
        });
        let pairs = pairs.collect::<Vec<_>>().join("|");
        Self {
            rules: rules(),
            symbol: regex(&format!("^[{SYMBOLS}]")),
            sentence: regex(&format!(r"^\s+(?:{starters})(?:\s|$)")),
            assimilated: regex(&format!("^(?i:{pairs})$")),
            negation: regex(&expand("(?i){tick}t")),
            clitic: regex(&expand("{apostrophe}(?i:s|d|m|ll|re|ve)")),
            number: regex(&expand(r"\s?{digit}")),
        }
    }

    /// The tokens of `text`, in lower case, without punctuation.
    ///
    /// A blank inside a token (`1 1/2`) becomes U+00A0, as in the original.
    pub fn tokenize(&self, text: &str) -> Vec<String> {
        self.tokenize_lines(&[text]).pop().unwrap_or_default()
    }

    /// The tokens of each of `texts`, as the scorers obtain them: the original reads all texts as
    /// the lines of one file, and looks beyond the end of a line to tell an initial from the end of
    /// a sentence ("plan b" before "The dog") and the abbreviation of "number" from a word ("no").
    pub fn tokenize_lines<T: AsRef<str>>(&self, texts: &[T]) -> Vec<Vec<String>> {
        let lines: Vec<String> =
            texts.iter().map(|text| text.as_ref().replace('\n', " ")).collect();
        let file = lines.join("\n");
        let mut start = 0;
        let tokens_of = |line: &String| {
            let end = start + line.len();
            let tokens = self.line(&file[start..], line.len());
            start = end + 1;
            tokens
        };
        lines.iter().map(tokens_of).collect()
    }

    /// The tokens of the first `len` bytes of `rest`.
    fn line(&self, rest: &str, len: usize) -> Vec<String> {
        let (mut tokens, mut at) = (Vec::new(), 0);
        while let Some(first) = rest[at..len].chars().next() {
            at += match self.longest(&rest[at..], len - at) {
                Some((form, len)) => self.push(form, &rest[at..], len, &mut tokens),
                None => {
                    self.push_symbol(first, &mut tokens);
                    first.len_utf8()
                }
            };
        }
        tokens.retain(|token| !DROPPED.contains(&token.as_str()));
        tokens
    }

    /// The longest match of a rule at the start of the line, which is the first `len` bytes of
    /// `rest`; the first rule wins ties.
    fn longest(&self, rest: &str, len: usize) -> Option<(Form, usize)> {
        let mut best: Option<(Form, usize)> = None;
        for rule in &self.rules {
            let Some(found) = rule.pattern.find(&rest[..len]) else { continue };
            let longer = best.is_none_or(|(_, len)| found.len() > len);
            let clitic = rule.form == Form::Elided && self.has_clitic(rest);
            if longer && !clitic && self.follows(rule.follow, &rest[found.len()..]) {
                best = Some((rule.form, found.len()));
            }
        }
        best
    }

    /// Whether `after` satisfies the condition `follow`.
    fn follows(&self, follow: Follow, after: &str) -> bool {
        let next = after.chars().next();
        match follow {
            Follow::Anything => true,
            Follow::NoLetter => !next.is_some_and(|next| next.is_ascii_alphabetic()),
            Follow::NoAlphanumeric => !next.is_some_and(|next| next.is_ascii_alphanumeric()),
            Follow::Blank => next.is_none_or(char::is_whitespace),
            Follow::Letter => next.is_some_and(char::is_alphabetic),
            Follow::Separator => next.is_some_and(|next| ",:;".contains(next)),
            Follow::Number => self.number.is_match(after),
        }
    }

    /// Adds the tokens of a match of `len` bytes; returns the number of bytes consumed.
    fn push(&self, form: Form, rest: &str, len: usize, tokens: &mut Vec<String>) -> usize {
        let (text, after) = rest.split_at(len);
        match form {
            Form::Dropped => {}
            Form::Whole | Form::Elided => tokens.push(written(text)),
            Form::Clitic => tokens.push(written(&text.replace('\u{2019}', "'"))),
            Form::Quotes => tokens.push(straight(text)),
            Form::Tis => {
                let (t, verb) = text.split_at(2);
                tokens.extend([t.to_lowercase(), verb[..verb.len().min(3)].to_lowercase()]);
                // The rest of 'twasn't is its negation.
                return text.len().min(5);
            }
            Form::Entity => tokens.extend(entity(text).map(str::to_owned)),
            Form::Initial if text.chars().count() == 2 && self.sentence.is_match(after) => {
                tokens.push(written(text.trim_end_matches('.')));
            }
            Form::Initial => tokens.push(written(text)),
            Form::Word => return self.push_word(text, after, tokens),
        }
        len
    }

    /// Adds the tokens of a word; returns the number of bytes consumed.
    fn push_word(&self, text: &str, after: &str, tokens: &mut Vec<String>) -> usize {
        let negated = text.strip_suffix(['n', 'N']).filter(|verb| {
            let letters = verb.chars().all(|c| c.is_ascii_alphabetic());
            let ends_in_n = verb.ends_with(['n', 'N']);
            letters && !verb.is_empty() && !ends_in_n && self.negates(after)
        });
        if let Some(verb) = negated {
            tokens.push(written(verb));
            return verb.len();
        }
        let pair = self.assimilated.captures(text).filter(|_| !self.clitic.is_match(after));
        let second = pair.and_then(|pair| pair.iter().skip(1).flatten().next().map(|m| m.start()));
        let (first, second) = text.split_at(second.unwrap_or(0));
        tokens.extend([first, second].into_iter().filter(|word| !word.is_empty()).map(written));
        text.len()
    }

    /// Whether a clitic starts at the first apostrophe of `rest`.
    fn has_clitic(&self, rest: &str) -> bool {
        let from = rest.find(['\'', '\u{2019}']).map_or("", |at| &rest[at..]);
        let found = self.clitic.find(from);
        found.is_some_and(|found| self.follows(Follow::NoLetter, &from[found.len()..]))
    }

    /// Whether the `n` before `after` belongs to `n't`.
    fn negates(&self, after: &str) -> bool {
        self.negation.is_match(after)
    }

    /// Adds the token of a character that no rule matches, if it has one.
    fn push_symbol(&self, symbol: char, tokens: &mut Vec<String>) {
        let text = symbol.to_string();
        let token = match symbol {
            '(' => "-lrb-",
            ')' => "-rrb-",
            '[' => "-lsb-",
            ']' => "-rsb-",
            '{' => "-lcb-",
            '}' => "-rcb-",
            '½' => "1/2",
            '¼' => "1/4",
            '¾' => "3/4",
            '⅓' => "1/3",
            '⅔' => "2/3",
            '£' => "#",
            '¢' => "cents",
            '€' | '¤' | '\u{80}' | '\u{20a0}' => "$",
            _ if self.symbol.is_match(&text) => &text,
            _ => return,
        };
        tokens.push(written(token));
    }
}

/// A token in the original's spelling.
fn written(text: &str) -> String {
    let text = text.replace('\u{ad}', "").replace(' ', INNER_BLANK).to_lowercase();
    let text = if text.contains('&') { text.replace("&amp;", "&") } else { text };
    // Brackets inside a token: those of telephone numbers and smileys.
    if text.starts_with('<') || !text.contains(['(', ')']) {
        return text;
    }
    text.replace('(', "-lrb-").replace(')', "-rrb-")
}

/// Typographic quotation marks as straight ones.
fn straight(quotes: &str) -> String {
    let quotes = quotes.replace('\u{2018}', "`").replace('\u{2019}', "'");
    quotes.replace('\u{201c}', "``").replace('\u{201d}', "''")
}

/// The character of an entity; `None` for those that are dropped.
fn entity(text: &str) -> Option<&'static str> {
    match text.to_lowercase().as_str() {
        "&amp;" => Some("&"),
        "&lt;" => Some("<"),
        "&gt;" => Some(">"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> String {
        PtbTokenizer::new().tokenize(text).join(" ")
    }

    #[test]
    fn clitics_are_tokens_and_their_quotes_are_not() {
        assert_eq!(tokens("I can't, 'he' won\u{2019}t"), "i ca n't he wo n't");
        assert_eq!(tokens("rock'n'roll 'tis gonna"), "rock 'n' roll 't is gon na");
    }

    #[test]
    fn full_stops_stay_with_abbreviations_and_numbers() {
        assert_eq!(
            tokens("Mr. X. paid 3.5 in the U.S. No. 5, no."),
            "mr. x. paid 3.5 in the u.s. no. 5 no"
        );
    }

    #[test]
    fn blanks_inside_a_token_become_no_break_spaces() {
        assert_eq!(PtbTokenizer::new().tokenize("1 1/2"), ["1\u{a0}1/2"]);
    }

    #[test]
    fn the_next_line_tells_an_initial_from_the_end_of_a_sentence() {
        let tokenizer = PtbTokenizer::new();
        let of = |lines: [&str; 2]| tokenizer.tokenize_lines(&lines)[0].join(" ");
        assert_eq!(of(["plan b.", "The dog"]), "plan b");
        assert_eq!(of(["plan b.", "a dog"]), "plan b.");
        assert_eq!(of(["line\nend", ""]), "line end");
    }
}
