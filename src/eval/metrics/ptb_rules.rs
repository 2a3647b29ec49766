//! The rules of [`super::ptb`]; at every position of a text the longest match wins.

use regex::{Captures, Regex};

use super::ptb_lists::{
    ABBREVIATIONS, APOSTROPHE_WORDS, BEFORE_NUMBERS, CAPITALIZED_ABBREVIATIONS, MARKS,
};

/// The condition on the text after a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Follow {
    Anything,
    /// No ASCII letter.
    NoLetter,
    /// No ASCII letter or digit.
    NoAlphanumeric,
    /// A blank or the end.
    Blank,
    /// A digit, possibly after a blank.
    Number,
    Letter,
    /// A comma or a colon.
    Separator,
}

/// The tokens of a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One token, unchanged.
    Whole,
    /// A word, which may end in the `n` of `n't` or be split in two.
    Word,
    /// One token, unless a clitic starts at its apostrophe.
    Elided,
    /// A clitic such as `'s`, with a straight apostrophe.
    Clitic,
    /// `'tis` and `'twas`: `'t` and the rest.
    Tis,
    /// A letter with its full stop: an initial, unless a new sentence follows.
    Initial,
    /// An entity such as `&amp;`.
    Entity,
    /// A run of typographic quotation marks: one token of straight ones.
    Quotes,
    /// No token.
    Dropped,
}

/// A rule for one kind of token.
pub(super) struct Rule {
    /// The tokens of a match.
    pub form: Form,
    /// The condition on the text after it.
    pub follow: Follow,
    /// The pattern, anchored at the start.
    pub pattern: Regex,
}

/// Compiles one of the fixed patterns.
pub(super) fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the patterns are fixed and valid")
}

/// `pattern`, anchored, with its named character classes and parts filled in.
pub(super) fn expand(pattern: &str) -> String {
    let accented = "&(?i:[aeiou](?:acute|grave|uml));";
    let letter = format!(r"(?:[\p{{L}}{MARKS}]|{accented})");
    let alnum = format!(r"(?:[\p{{L}}\p{{Nd}}{MARKS}\u{{ad}}]|{accented})");
    let named = regex(r"\{([a-z]+)\}");
    let replaced = named.replace_all(pattern, |name: &Captures<'_>| match &name[1] {
        "letter" => letter.clone(),
        "alnum" => alnum.clone(),
        "digit" => r"\p{Nd}".to_owned(),
        "apostrophe" => "['\u{2019}]".to_owned(),
        "tick" => "['\u{2019}`]".to_owned(),
        "hyphen" => r"[-_\u{58a}\u{2010}\u{2011}]".to_owned(),
        "number" => r"(?:\p{Nd}*(?:[.,:]\p{Nd}+)+|\p{Nd}+)".to_owned(),
        other => unreachable!("no part of patterns is called {other}"),
    });
    format!("^(?:{replaced})")
}

/// A rule before its pattern is expanded.
type Row = (Form, Follow, String);

/// The rules for tokens of more than one character.
pub(super) fn rules() -> Vec<Rule> {
    let rows: Vec<Row> =
        [words(), elisions(), abbreviations(), clitics(), numbers(), web(), marks()]
            .into_iter()
            .flatten()
            .collect();
    // Before a comma or colon, a full stop after a word marks an abbreviation.
    let stopped = rows
        .iter()
        .filter(|(form, ..)| *form == Form::Word)
        .map(|(_, _, pattern)| (Form::Whole, Follow::Separator, format!(r"(?:{pattern})\.")));
    let rows: Vec<Row> = rows.iter().cloned().chain(stopped).collect();
    let rule =
        |(form, follow, pattern): Row| Rule { form, follow, pattern: regex(&expand(&pattern)) };
    rows.into_iter().map(rule).collect()
}

fn row(form: Form, follow: Follow, pattern: impl Into<String>) -> Row {
    (form, follow, pattern.into())
}

/// A pattern that matches any word of `list`.
fn any_of(list: &str) -> String {
    list.split_whitespace().collect::<Vec<_>>().join("|")
}

/// Plain, hyphenated and slashed words.
fn words() -> Vec<Row> {
    let word = |pattern: &str| row(Form::Word, Follow::Anything, pattern);
    let elided = "(?i:[dlno]){tick}{letter}{alnum}+";
    let part = format!(r"(?:{elided}|(?:{{letter}}\.){{2,}}|{{alnum}}+)");
    let first = format!(r"(?:{elided}|{{alnum}}+(?:[.,]{{alnum}}+)*)");
    let slashed = "[a-zA-Z0-9]+(?:-[a-zA-Z]+){0,2}";
    vec![
        word(r"{letter}{alnum}*(?:[.!?]{letter}{alnum}*)*"),
        word("{alnum}+"),
        word(&format!("{first}-{part}(?:{{hyphen}}{part})*")),
        word(r"{alnum}+(?:[.,]{alnum}+)*\.(?:-[a-zA-Z0-9]+)+"),
        word("{alnum}+(?:{hyphen}{alnum}+)+"),
        word(&format!(r"{slashed}(?:\\?/{slashed}){{1,2}}")),
        word("(?i:[dlno]){tick}{letter}{letter}+{alnum}*"),
        word("[A-Z]+(?:&(?:(?i:amp);)?[A-Z]+)+"),
        row(Form::Whole, Follow::NoAlphanumeric, r"[cC]\+\+|[cCfF]#"),
    ]
}

/// Words with an apostrophe inside or at their end.
fn elisions() -> Vec<Row> {
    let listed = any_of(APOSTROPHE_WORDS).replace('\'', "{apostrophe}");
    let vowels = "{letter}+[aeiouyAEIOUY]{apostrophe}[aeiouA-Z]{letter}*";
    vec![
        row(Form::Elided, Follow::NoLetter, vowels),
        row(Form::Elided, Follow::Letter, "[yY]{apostrophe}"),
        row(Form::Elided, Follow::Anything, "[dljDLJ]{apostrophe}"),
        row(Form::Whole, Follow::NoLetter, format!("(?i:{listed})")),
    ]
}

/// Words with a full stop.
fn abbreviations() -> Vec<Row> {
    let capitalized = any_of(CAPITALIZED_ABBREVIATIONS);
    let capitals = capitalized.to_uppercase();
    let whole = |follow, words: &str| row(Form::Whole, follow, format!(r"(?:{words})\."));
    vec![
        whole(Follow::Anything, &format!("(?i:{})", any_of(ABBREVIATIONS))),
        whole(Follow::Anything, &format!("{capitalized}|{capitals}")),
        whole(Follow::Number, &format!("(?i:{})", any_of(BEFORE_NUMBERS))),
        row(Form::Initial, Follow::Anything, r"(?:[a-zA-Z]\.)+"),
    ]
}

/// Tokens that start with an apostrophe, and `n't`.
fn clitics() -> Vec<Row> {
    vec![
        row(Form::Clitic, Follow::NoLetter, "{apostrophe}(?i:s|d|m|ll|re|ve)"),
        row(Form::Whole, Follow::NoLetter, "{apostrophe}(?i:em|cause|till?|n)"),
        row(Form::Whole, Follow::Anything, "{apostrophe}[nN]{apostrophe}"),
        // After a typographic apostrophe, further letters may follow.
        row(Form::Clitic, Follow::Anything, "\u{2019}(?i:s|d|m|ll|re|ve)"),
        row(Form::Whole, Follow::Anything, "\u{2019}(?i:em|n)"),
        row(Form::Whole, Follow::Anything, "{apostrophe}{digit}{digit}s"),
        row(Form::Whole, Follow::Blank, "{apostrophe}{digit}{digit}"),
        row(Form::Tis, Follow::NoLetter, "'(?i:tis|twas)"),
        row(Form::Tis, Follow::Anything, "'(?i:twas)n't"),
        row(Form::Clitic, Follow::NoLetter, "(?i:n{tick}t)"),
    ]
}

/// Numbers, dates, fractions, telephone numbers, currencies.
fn numbers() -> Vec<Row> {
    let whole = |pattern: &str| row(Form::Whole, Follow::Anything, pattern);
    let local = "{digit}{2,4}[- ]{digit}{3,4}[- ]";
    let area = r"\({digit}{2,3}\) ?{digit}{3,4}[- ]?";
    vec![
        whole("[-+]?{number}"),
        whole(r"(?:{digit}{1,4}[- ])?{digit}{1,4}(?:\\?/|\u{2044}){digit}{1,4}"),
        whole(&format!(r"(?:{area}|(?:\+{{digit}}{{2,3}} )?{local}){{digit}}{{3,5}}")),
        whole(r"[A-Z]+\$"),
    ]
}

/// Web addresses, mentions, markup and entities.
fn web() -> Vec<Row> {
    let whole = |pattern: &str| row(Form::Whole, Follow::Anything, pattern);
    let host = r"www\.(?:[a-zA-Z0-9-]+\.)+[a-zA-Z]{2,4}|(?:[a-zA-Z0-9]+\.)+(?:com|net|org|edu)";
    let mailbox = r#"(?:(?i:mailto):)?[a-zA-Z0-9][^\s"<>|(){}@]*"#;
    let attribute = r#"\s+[a-zA-Z-]+(?:=(?:"[^"]*"|'[^']*'|[^\s>]+))?"#;
    vec![
        whole(r#"(?i:https?)://[^\s"<>|(){}]+[^\s"<>|(){}.,!?-]"#),
        whole(r#"(?i:www\.)(?:[^\s"<>|(){}/.:,]+\.)*[^\s"<>|(){}/.:,]+"#),
        whole(&format!(r#"(?:{host})/[^\s"<>|()]+[^\s"<>|().,!?-]"#)),
        whole(&format!(r#"{mailbox}@(?:[^\s"<>|(){{}}@.]+\.)*[^\s"<>|(){{}}@.]+"#)),
        whole(r"@[a-zA-Z_][a-zA-Z0-9_]*|#{letter}+"),
        whole(&format!(r"<[/!?]?[a-zA-Z][a-zA-Z0-9@._:-]*(?:{attribute})*\s*[/?]?>")),
        whole("<!--.*?-->|&#{digit}+;"),
        row(Form::Entity, Follow::Anything, "&(?i:amp|lt|gt|quot|apos|[mn]dash);"),
        row(Form::Dropped, Follow::Anything, r"[\s\u{85}]+|&(?i:nbsp);"),
    ]
}

/// Smileys and runs of punctuation.
fn marks() -> Vec<Row> {
    let western = r"[<>]?[:;=][-'oO]?[DPp()\[\]O@\\|{]";
    let eastern = r"\(?(?:\^_\^|-_-|>_<|<_<|>_>|=_=|~_~)\)?";
    let runs = r"-{5,}|\\\*|[!?]{2,}|\*{2,}|_{2,}|@{2,}|#{2,}";
    vec![
        row(Form::Whole, Follow::NoAlphanumeric, format!("{western}|{eastern}")),
        row(Form::Quotes, Follow::Anything, "[\u{2018}\u{2019}\u{201c}\u{201d}]{2,}"),
        row(Form::Dropped, Follow::Anything, r"-{2,4}|\.{3,5}|\.(?: \.){2}|''|``"),
        row(Form::Whole, Follow::Anything, runs),
    ]
}
