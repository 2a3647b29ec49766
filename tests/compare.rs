//! Comparison of two evaluations with known differences.

use std::path::Path;

use calumma::eval::bootstrap::Resampling;
use calumma::eval::compare::{Comparison, Results, ScoreDifference, compare};
use calumma::eval::{Environment, Report, SampleRecord};
use serde_json::{Value, json};

/// An item with its type and scores.
pub fn item(
    doc_id: usize,
    id: &str,
    kind: Option<&str>,
    scores: &[(&'static str, f64)],
) -> SampleRecord {
    SampleRecord {
        doc_id,
        id: id.to_owned(),
        input: "what is it?".to_owned(),
        target: json!("a square"),
        response: json!("a circle"),
        kind: kind.map(str::to_owned),
        group: None,
        scores: scores.to_vec(),
    }
}

/// Writes the results of a task `vqa` on the data set `rows` to `dir`.
pub fn write(dir: &Path, samples: Vec<SampleRecord>) {
    let report = Report { task: "vqa", dataset: "rows".to_owned(), samples, ..Report::default() };
    report.write(dir, &Environment::default()).unwrap();
}

/// `samples` as written and read back.
fn evaluation(samples: Vec<SampleRecord>) -> Results {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), samples);
    Results::read(dir.path()).unwrap()
}

fn score<'a>(comparison: &'a Comparison, name: &str) -> &'a ScoreDifference {
    comparison.scores.iter().find(|score| score.name == name).unwrap()
}

/// 300 answers, of which `right` says whether they are right; every third is of type `color`.
fn answers(right: impl Fn(usize) -> bool) -> Vec<SampleRecord> {
    let kind = |i: usize| Some(if i.is_multiple_of(3) { "color" } else { "shape" });
    let score = |i| f64::from(u8::from(right(i)));
    (0..300).map(|i| item(i, &format!("rows#{i}"), kind(i), &[("exact_match", score(i))])).collect()
}

#[test]
fn a_known_difference_has_the_interval_of_the_normal_approximation() {
    let (a, b) = (evaluation(answers(|i| i % 2 == 0)), evaluation(answers(|i| i % 10 < 6)));
    let comparison = compare(&a, &b, Resampling::default()).unwrap();
    let found = score(&comparison, "exact_match");
    // Of ten items, A has the five even ones right, B the first six: 1, 3 and 5 are won, 6 and 8 lost.
    assert_eq!((found.n, found.wins, found.ties, found.losses), (300, 90, 150, 60));
    assert_eq!((found.mean_a, found.mean_b), (0.5, 0.6));
    assert!((found.difference - 0.1).abs() < 1e-12);
    let half = 1.96 * ((0.5 - 0.1_f64.powi(2)) / 300.0).sqrt();
    let [low, high] = found.interval.unwrap();
    eprintln!("[{low:.4}, {high:.4}] beside 0.1 +- {half:.4}, p = {:?}", found.p_value);
    assert!((low - (0.1 - half)).abs() < 0.006 && (high - (0.1 + half)).abs() < 0.006);
    // The normal approximation: z = 2.474, two-sided 0.0134.
    assert!((found.p_value.unwrap() - 0.0134).abs() < 0.006);
    assert_eq!(comparison, compare(&a, &b, Resampling::default()).unwrap());
    let names: Vec<_> = comparison.scores.iter().map(|score| score.name.as_str()).collect();
    assert_eq!(names, ["exact_match", "exact_match/color", "exact_match/shape"]);
    assert_eq!((score(&comparison, names[1]).n, score(&comparison, names[2]).n), (100, 200));
}

#[test]
fn equal_runs_have_p_of_one_and_clear_ones_the_smallest() {
    let a = evaluation(answers(|i| i % 2 == 0));
    let same = compare(&a, &a, Resampling::default()).unwrap();
    for score in &same.scores {
        assert_eq!((score.difference, score.p_value, score.ties), (0.0, Some(1.0), score.n));
        assert_eq!(score.interval, Some([0.0, 0.0]));
    }
    let clear = compare(&a, &evaluation(answers(|_| true)), Resampling::default()).unwrap();
    assert_eq!(score(&clear, "exact_match").p_value, Some(1.0 / 10_001.0));
    let [low, _] = score(&clear, "exact_match").interval.unwrap();
    assert!(low > 0.4);
}

#[test]
fn questions_of_one_image_are_resampled_together_and_losses_win_when_lower() {
    let of = |shift: f64| {
        let one = |i: usize| {
            let (image, question) = (i / 5, i % 5);
            let id = format!("val.parquet: row {image}, questions {question}");
            let loss = (image * 7 % 11) as f64 * shift;
            item(i, &id, None, &[("loss", loss), ("psnr", 20.0 + loss)])
        };
        evaluation((0..200).map(one).collect())
    };
    let comparison = compare(&of(0.2), &of(0.1), Resampling::default()).unwrap();
    let [loss, psnr] = [score(&comparison, "loss"), score(&comparison, "psnr")];
    assert_eq!((loss.n, loss.groups), (200, 40));
    assert!(loss.lower_is_better && !psnr.lower_is_better);
    assert!(loss.wins > 150 && loss.losses == 0);
    assert_eq!((psnr.wins, psnr.losses), (0, loss.wins));
    assert!(comparison.notes().iter().any(|note| note.contains("40 groups")));
}

#[test]
fn unpaired_items_are_counted_and_missing_scores_left_out() {
    let mut longer = answers(|i| i % 2 == 0);
    let mut shorter = answers(|i| i % 3 == 0);
    longer.truncate(200);
    shorter.drain(..50);
    shorter[0].scores = vec![("exact_match", f64::NAN)];
    shorter[1].scores.clear();
    let comparison =
        compare(&evaluation(longer), &evaluation(shorter), Resampling::default()).unwrap();
    let counts = (comparison.paired, comparison.only_in_a, comparison.only_in_b);
    assert_eq!(counts, (150, 50, 100));
    assert_eq!(score(&comparison, "exact_match").n, 148);
    assert_eq!(score(&comparison, "exact_match").unpaired, 2);
}

#[test]
fn several_images_of_a_sample_are_paired_in_order() {
    let of = |values: [f64; 4]| {
        let one = |(i, value): (usize, f64)| item(i / 2, "folder", None, &[("psnr", value)]);
        evaluation(values.into_iter().enumerate().map(one).collect())
    };
    let comparison =
        compare(&of([1.0, 2.0, 3.0, 4.0]), &of([1.0, 3.0, 3.0, 4.0]), Resampling::default())
            .unwrap();
    let psnr = score(&comparison, "psnr");
    assert_eq!((psnr.n, psnr.wins, psnr.ties, psnr.groups), (4, 1, 3, 1));
    assert_eq!((psnr.interval, psnr.p_value), (None, None));
}

#[test]
fn evaluations_of_different_items_are_refused_with_the_first_difference() {
    let good = evaluation(answers(|_| true));
    let refused =
        |other: &Results| compare(&good, other, Resampling::default()).unwrap_err().to_string();
    let mut other = good.clone();
    (other.items[7].target, other.items[9].input) = (json!("a star"), json!("why?"));
    let message = refused(&other);
    for part in ["target of doc_id 7", "a square", "a star", good.name.as_str()] {
        assert!(message.contains(part), "{part:?} is not in {message}");
    }
    let renamed = |id: &str| {
        let mut other = good.clone();
        other.items[3].id = id.to_owned();
        other
    };
    assert!(refused(&renamed("rows#4")).contains("id of doc_id 3"));
    assert!(refused(&Results { task: "loss".into(), ..good.clone() }).contains("the task"));
    let elsewhere = Results { dataset: "others".into(), ..good.clone() };
    assert!(refused(&elsewhere).contains("the data set is rows in the first"));
    let empty = Results { items: Vec::new(), ..good.clone() };
    assert!(refused(&empty).contains("no doc_id is in both"));
}

#[test]
fn damaged_files_are_named_with_the_line() {
    let dir = tempfile::tempdir().unwrap();
    let error = |dir: &Path| Results::read(dir).unwrap_err().to_string();
    assert!(error(dir.path()).contains("no results.json"));
    write(dir.path(), answers(|_| true));
    let path = dir.path().join("samples.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}{{\"doc_id\": 1}}\n")).unwrap();
    let message = error(dir.path());
    assert!(message.contains("samples.jsonl") && message.contains("line 301"), "{message}");
}

#[test]
fn a_comparison_is_written_as_json_and_as_a_table() {
    let dir = tempfile::tempdir().unwrap();
    let a = evaluation(answers(|i| i % 2 == 0));
    let comparison = compare(&a, &evaluation(answers(|_| true)), Resampling::default()).unwrap();
    let out = dir.path().join("new");
    comparison.write(&out).unwrap();
    let text = std::fs::read_to_string(out.join("compare.json")).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["scores"][0]["name"], "exact_match");
    assert_eq!(json["resampling"], json!({"resamples": 10_000, "seed": 0}));
    let table = std::fs::read_to_string(out.join("compare.md")).unwrap();
    assert!(table.contains("| exact_match/color | 100 | 0.5000 | 1.0000 | +0.5000 |"), "{table}");
}

#[test]
fn corpus_scores_are_compared_as_means_of_items_or_not_at_all() {
    let items = |count: u64, score: f64| {
        let scores = [("bleu_4", score), ("cider", score), ("word_f1", score)];
        let one = |n: u64| item(n as usize, &format!("rows#{n}"), None, &scores);
        evaluation((0..count).map(one).collect())
    };
    let names = |a: &Results, b: &Results| -> Vec<String> {
        let comparison = compare(a, b, Resampling::default()).unwrap();
        comparison.scores.into_iter().map(|score| score.name).collect()
    };
    assert_eq!(names(&items(9, 0.5), &items(9, 0.6)), ["mean bleu_4 of items", "cider", "word_f1"]);
    // The CIDEr of an item depends on the set.
    assert_eq!(names(&items(9, 0.5), &items(7, 0.6)), ["mean bleu_4 of items", "word_f1"]);
}
