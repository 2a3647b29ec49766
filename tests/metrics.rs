//! The metrics over texts against committed reference values.

use calumma::eval::metrics::{
    AnswerRules, PtbTokenizer, Segment, VqaAccuracy, bleu, cider, rouge_l,
};
use serde_json::Value;

use crate::common::fixture;

/// Scores are sums of some hundreds of terms near 1 in another order than the originals'.
const TOLERANCE: f64 = 1e-9;

const NAMES: [&str; 6] = ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr"];

fn json(path: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixture(path)).unwrap()).unwrap()
}

fn json_lines(path: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(fixture(path)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn texts(value: &Value) -> Vec<String> {
    list(value).iter().map(|value| text(value).to_owned()).collect()
}

/// The scores in the order of [`NAMES`]: of the corpus, and of each segment.
fn scores(segments: &[Segment]) -> ([f64; 6], Vec<[f64; 6]>) {
    let (bleu, rouge, cider) = (bleu(segments), rouge_l(segments), cider(segments));
    let row = |[a, b, c, d]: [f64; 4], rouge, cider| [a, b, c, d, rouge, cider];
    let each = (0..segments.len())
        .map(|i| row(bleu.segments[i], rouge.segments[i], cider.segments[i]))
        .collect();
    (row(bleu.corpus, rouge.corpus, cider.corpus), each)
}

/// Compares with the scores that `expected` has, by name; returns how many.
fn assert_scores(scores: &[f64; 6], expected: &Value, tolerance: f64, what: &str) -> usize {
    let known = NAMES.iter().zip(scores).filter_map(|(name, score)| {
        let right = expected[*name].as_f64()?;
        assert!((score - right).abs() <= tolerance, "{what}: {name} is {score}, not {right}");
        Some(())
    });
    known.count()
}

#[test]
fn published_scores_of_captions_are_reproduced() {
    let cases = json("metrics/nlg_eval_cases.json");
    let mut compared = 0;
    for case in list(&cases["cases"]) {
        let pairs = list(&case["hypotheses"]).iter().zip(list(&case["references"]));
        let segments: Vec<Segment> =
            pairs.map(|(text_, refs)| Segment::new(text(text_), texts(refs)).unwrap()).collect();
        let tolerance = case["tolerance"].as_f64().unwrap();
        compared +=
            assert_scores(&scores(&segments).0, &case["expected"], tolerance, text(&case["id"]));
    }
    assert_eq!(compared, 18);
}

#[test]
fn captions_with_fifty_references_score_as_by_the_public_scorer() {
    let shapes = json_lines("metrics/kilogram_multiref.jsonl");
    let expected = &json("metrics/kilogram_expected.json")["expected"];
    let mut compared = 0;
    for setting in ["all-references", "first-5-references", "long-hypothesis"] {
        let segment = |shape: &Value| {
            let mut texts = texts(&shape["annotations"]);
            let longest = usize::try_from(shape["longest"].as_u64().unwrap()).unwrap();
            let hypothesis = texts.remove(if setting == "long-hypothesis" { longest } else { 0 });
            texts.truncate(if setting == "first-5-references" { 5 } else { usize::MAX });
            Segment::new(hypothesis, texts).unwrap()
        };
        let (corpus, each) = scores(&shapes.iter().map(segment).collect::<Vec<_>>());
        let expected = &expected[setting];
        compared += assert_scores(&corpus, &expected["corpus"], TOLERANCE, setting);
        for (shape, scores) in shapes.iter().zip(each) {
            let id = text(&shape["id"]);
            compared += assert_scores(&scores, &expected["per_item"][id], TOLERANCE, id);
        }
    }
    assert_eq!(compared, 3 * (6 + 74 * 2));
}

#[test]
fn answers_are_scored_as_by_the_public_evaluator() {
    let official = VqaAccuracy::new(AnswerRules::Official);
    let cases = json("metrics/vqa_accuracy_cases.json");
    for case in list(&cases["cases"]) {
        let accuracy = official.accuracy(text(&case["prediction"]), &texts(&case["answers"]));
        assert!((accuracy - case["accuracy"].as_f64().unwrap()).abs() <= TOLERANCE, "{case}");
    }
    assert_eq!(list(&cases["cases"]).len(), 16);
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
