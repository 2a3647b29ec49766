//! Constraints driven without a model: texts drawn at random from what is allowed.
#![allow(clippy::unwrap_used, reason = "tests")]

mod faults;

use std::path::Path;

use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use super::*;
use crate::generate::Constraint;
use crate::tokenize::{BpeConfig, Processor, TextTokenizer, TokenBytes, TokenClass, train_bpe};

/// The vocabulary of the shipped model.
fn shipped() -> Processor {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = TextTokenizer::load(&dir.join("checkpoints/demo/tokenizer.json")).unwrap();
    Processor::new(text, (8, 8)).unwrap()
}

/// All bytes and a few dozen merges.
fn small() -> Processor {
    let config = BpeConfig { num_codes: 16, vocab_size: 340, ..BpeConfig::default() };
    let texts = ["{\"color\": \"red\", \"size\": 12}", "red, green, greenish, café, naïve"];
    Processor::new(train_bpe(&config, texts).unwrap(), (4, 4)).unwrap()
}

struct Driver {
    processor: Processor,
    tokens: TokenBytes,
    compiler: GrammarCompiler,
}

impl Driver {
    fn new(processor: Processor) -> Self {
        let tokens = TokenBytes::new(processor.text()).unwrap();
        let compiler = GrammarCompiler::new(&processor).unwrap();
        Self { processor, tokens, compiler }
    }

    fn constraint(&self, grammar: Result<Grammar>) -> Box<dyn Constraint> {
        self.compiler.constraint(&grammar.unwrap()).unwrap()
    }

    /// The allowed ids, none of which is of an image or a control token.
    fn allowed(&self, constraint: &mut dyn Constraint) -> Vec<u32> {
        let vocabulary = self.processor.vocabulary();
        let allowed = constraint.allowed().unwrap();
        assert_eq!(allowed.len(), vocabulary.len());
        let ids: Vec<u32> = (0..).zip(allowed).filter_map(|(id, on)| on.then_some(id)).collect();
        for id in &ids {
            assert_eq!(vocabulary.class(*id), TokenClass::Text, "{:?}", vocabulary.name(*id));
        }
        ids
    }

    /// A text of the grammar, drawn at random; ends as soon as it may if `eager`, else at random.
    fn draw(&self, mut constraint: Box<dyn Constraint>, seed: u64, eager: bool) -> String {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut ids = Vec::new();
        for _ in 0..2000 {
            let forced = constraint.forced();
            let allowed = self.allowed(&mut *constraint);
            if constraint.may_end() && (allowed.is_empty() || eager || rng.random_bool(0.3)) {
                return self.processor.text().decode(&ids).unwrap();
            }
            assert!(!allowed.is_empty(), "nothing is allowed, and the text may not end");
            if let Some(first) = forced.first() {
                assert_eq!(&allowed, &[*first], "a forced id is the only one");
            }
            let id = allowed[rng.random_range(0..allowed.len())];
            constraint.accept(id).unwrap();
            ids.push(id);
        }
        panic!("no end: {}", self.processor.text().decode(&ids).unwrap());
    }
}

fn schema(value: &Value) -> Result<Grammar> {
    Grammar::json_schema(&value.to_string())
}

type Rule = fn(&Value) -> bool;

/// Schemas, each with what it says.
fn schemas() -> Vec<(Value, Rule)> {
    let name = json!({ "type": "string", "maxLength": 6 });
    vec![
        (
            json!({
                "type": "object",
                "properties": {
                    "name": name,
                    "age": { "type": "integer", "minimum": 0, "maximum": 130 },
                    "tags": { "type": "array", "items": { "enum": ["a", "ab", "é"] }, "maxItems": 3 },
                },
                "required": ["name", "age"],
                "additionalProperties": false,
            }),
            |value| {
                let tags = value["tags"].as_array().cloned().unwrap_or_default();
                value["name"].as_str().unwrap().chars().count() <= 6
                    && value["age"].as_u64().unwrap() <= 130
                    && tags.len() <= 3
                    && tags.iter().all(|tag| [json!("a"), json!("ab"), json!("é")].contains(tag))
                    && value.as_object().unwrap().len()
                        == 2 + usize::from(value.get("tags").is_some())
            },
        ),
        (
            json!({ "anyOf": [{ "type": "boolean" }, { "const": "no one 🦎" }, { "type": "null" }] }),
            |value| value.is_boolean() || value.is_null() || value == "no one 🦎",
        ),
        (json!({ "type": "string", "pattern": "^[a-c]{2,4}-[0-9]{2}$" }), |value| {
            regex::Regex::new("^[a-c]{2,4}-[0-9]{2}$").unwrap().is_match(value.as_str().unwrap())
        }),
        (
            json!({
                "$defs": { "point": {
                    "type": "object",
                    "properties": { "x": { "type": "number", "minimum": -1, "maximum": 1 } },
                    "required": ["x"], "additionalProperties": false,
                } },
                "type": "array", "items": { "$ref": "#/$defs/point" }, "minItems": 1, "maxItems": 2,
            }),
            |value| {
                let points = value.as_array().unwrap();
                (1..=2).contains(&points.len())
                    && points
                        .iter()
                        .all(|point| (-1.0..=1.0).contains(&point["x"].as_f64().unwrap()))
            },
        ),
    ]
}

#[test]
fn every_text_under_a_schema_is_json_that_fits_it() {
    for driver in [Driver::new(shipped()), Driver::new(small())] {
        for (form, fits) in schemas() {
            let constraint = driver.constraint(schema(&form));
            for seed in 0..12 {
                let text = driver.draw(constraint.clone(), seed, true);
                let value: Value = serde_json::from_str(&text).unwrap();
                assert!(fits(&value), "{form}\n{text}");
            }
        }
    }
}

#[test]
fn the_order_of_properties_is_the_schemas_and_white_space_is_bounded() {
    let driver = Driver::new(small());
    let form = r#"{"type": "object", "properties": {"z": {"const": 1}, "a": {"const": 2}},
        "required": ["z", "a"], "additionalProperties": false}"#;
    let constraint = driver.constraint(Grammar::json_schema(form));
    for seed in 0..20 {
        let text = driver.draw(constraint.clone(), seed, false);
        assert_eq!(text.replace(' ', ""), r#"{"z":1,"a":2}"#);
        assert!(!text.contains("  "));
    }
}

#[test]
fn choices_are_drawn_whole_also_if_one_begins_another() {
    let driver = Driver::new(small());
    let choices = ["green", "greenish", "red", "café (au) l/ait", "🦎", "a\"b\\", "line\nbreak"];
    let constraint = driver.constraint(Grammar::choices(&choices));
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..300 {
        let text = driver.draw(constraint.clone(), seed, false);
        assert!(choices.contains(&text.as_str()), "{text:?}");
        seen.insert(text);
    }
    assert_eq!(seen.len(), choices.len(), "{seen:?}");
}

#[test]
fn what_one_text_goes_through_changes_no_clone() {
    let driver = Driver::new(small());
    let mut first = driver.constraint(Grammar::regex("(red|green)( café)?"));
    let before = driver.allowed(&mut *first);
    let mut other = first.clone();
    let ids = driver.processor.text().encode_plain("green").unwrap();
    for id in &ids {
        other.accept(*id).unwrap();
    }
    assert_ne!(driver.allowed(&mut *other), before);
    assert!(other.may_end() && !first.may_end());
    assert_eq!(driver.allowed(&mut *first), before);
}

#[test]
fn an_id_that_is_not_allowed_is_refused_and_changes_nothing() {
    let driver = Driver::new(small());
    let mut constraint = driver.constraint(Grammar::regex("[ab]{2}"));
    let allowed = driver.allowed(&mut *constraint);
    let special = driver.processor.vocabulary().special();
    let wrong = driver.processor.text().encode_plain("z").unwrap()[0];
    for id in [special.eos, special.begin_image.unwrap(), wrong, u32::MAX] {
        let error = constraint.accept(id).unwrap_err().to_string();
        assert_eq!(error, format!("id {id} is not allowed by the grammar here"));
        assert_eq!(driver.allowed(&mut *constraint), allowed);
    }
    for _ in 0..2 {
        let a = driver.processor.text().encode_plain("a").unwrap()[0];
        assert!(!constraint.may_end());
        constraint.accept(a).unwrap();
    }
    assert!(constraint.may_end() && driver.allowed(&mut *constraint).is_empty());
    assert!(constraint.accept(wrong).is_err());
}

/// Texts that may go on: what they begin with, and whether they are whole.
struct Language {
    grammar: String,
    texts: Vec<String>,
}

impl Language {
    /// All texts of `[ab]{0,3}(c|é)d?`.
    fn new() -> Self {
        let mut heads = vec![String::new()];
        for _ in 0..3 {
            let longer =
                heads.iter().flat_map(|head| ["a", "b"].map(|next| format!("{head}{next}")));
            heads = heads.iter().cloned().chain(longer.collect::<Vec<_>>()).collect();
        }
        let tails = ["c", "é", "cd", "éd"];
        let texts = heads.iter().flat_map(|head| tails.map(|tail| format!("{head}{tail}")));
        let grammar = r#"%llguidance {"no_forcing": true}
start: /[ab]{0,3}(c|é)d?/"#;
        Self { grammar: grammar.to_owned(), texts: texts.collect() }
    }

    fn continues(&self, text: &[u8]) -> bool {
        self.texts.iter().any(|whole| whole.as_bytes().starts_with(text))
    }

    fn is_whole(&self, text: &[u8]) -> bool {
        self.texts.iter().any(|whole| whole.as_bytes() == text)
    }
}

#[test]
fn masks_equal_a_trial_of_every_id() {
    let driver = Driver::new(small());
    let language = Language::new();
    let start = driver.constraint(Grammar::lark(&language.grammar));
    let mut waiting = vec![(start, Vec::new())];
    let mut seen = 0;
    while let Some((mut constraint, text)) = waiting.pop() {
        seen += 1;
        let longer = |id: u32| {
            let bytes = driver.tokens.get(id).filter(|bytes| !bytes.is_empty())?;
            let longer = [text.as_slice(), bytes].concat();
            language.continues(&longer).then_some(longer)
        };
        let all = 0..driver.processor.vocabulary().len() as u32;
        let expected: Vec<u32> = all.filter(|id| longer(*id).is_some()).collect();
        assert_eq!(driver.allowed(&mut *constraint), expected, "after {text:?}");
        assert_eq!(constraint.may_end(), language.is_whole(&text), "after {text:?}");
        for id in expected {
            let mut next = constraint.clone();
            next.accept(id).unwrap();
            waiting.push((next, longer(id).unwrap()));
        }
    }
    assert!(seen > 60, "{seen}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn asking_for_forced_ids_and_masks_changes_no_later_mask(seed in any::<u64>()) {
        let driver = Driver::new(small());
        let (form, _) = schemas().swap_remove((seed % 4) as usize);
        let mut asked = driver.constraint(schema(&form));
        let mut silent = asked.clone();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for _ in 0..40 {
            let forced = asked.forced();
            prop_assert_eq!(&asked.forced(), &forced);
            let allowed = driver.allowed(&mut *asked);
            prop_assert_eq!(driver.allowed(&mut *asked.clone()), allowed.clone());
            prop_assert_eq!(driver.allowed(&mut *silent.clone()), allowed.clone());
            if asked.may_end() || allowed.is_empty() {
                prop_assert_eq!(silent.may_end(), asked.may_end());
                break;
            }
            let id = allowed[rng.random_range(0..allowed.len())];
            asked.accept(id).unwrap();
            silent.accept(id).unwrap();
        }
    }

    #[test]
    fn forced_ids_may_follow_one_after_another(seed in any::<u64>()) {
        let driver = Driver::new(shipped());
        let (form, _) = schemas().swap_remove((seed % 4) as usize);
        let mut constraint = driver.constraint(schema(&form));
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for _ in 0..20 {
            for id in constraint.forced() {
                prop_assert_eq!(driver.allowed(&mut *constraint), vec![id]);
                constraint.accept(id).unwrap();
            }
            let allowed = driver.allowed(&mut *constraint);
            if allowed.is_empty() {
                prop_assert!(constraint.may_end());
                break;
            }
            constraint.accept(allowed[rng.random_range(0..allowed.len())]).unwrap();
        }
    }

    #[test]
    fn every_text_under_a_regex_matches_it_as_a_whole(
        regex in "[a-cé]{1,3}(\\|[ab]{1,2}){0,2}(\\[x-z\\]\\{1,3\\})?",
        seed in any::<u64>(),
    ) {
        let driver = Driver::new(small());
        let text = driver.draw(driver.constraint(Grammar::regex(&regex)), seed, false);
        let whole = regex::Regex::new(&format!("^(?:{regex})$")).unwrap();
        prop_assert!(whole.is_match(&text), "{} {}", regex, text);
    }
}
