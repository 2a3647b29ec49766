//! The metrics over texts against committed reference values.

use calumma::eval::metrics::PtbTokenizer;
use serde_json::Value;

use crate::common::fixture;

fn json_lines(path: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(fixture(path)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// Compares the tokens of rows of `text` and `tokens`, one file together; returns how many differ.
fn differing_tokens(rows: &[Value]) -> usize {
    let lines: Vec<&str> = rows.iter().map(|row| text(&row["text"])).collect();
    let tokens = PtbTokenizer::new().tokenize_lines(&lines);
    let differ = rows.iter().zip(tokens).filter(|(row, tokens)| {
        let (given, right) = (tokens.join(" "), text(&row["tokens"]));
        if given != right {
            eprintln!("{:?}: {given:?}, not {right:?}", text(&row["text"]));
        }
        given != right
    });
    differ.count()
}

#[test]
fn captions_are_tokenised_as_by_the_public_scorer() {
    let rows = json_lines("metrics/ptb_tokens.jsonl");
    assert!(rows.len() > 1000);
    assert_eq!(differing_tokens(&rows), 0);
}
