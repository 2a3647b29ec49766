//! Questions about images.

use calumma::eval::metrics::AnswerNormalizer;
use calumma::eval::{Environment, Extent, Majority, Score, vqa};
use image::RgbImage;
use serde_json::{Value, json};

use super::{Rows, extent, questions};
use crate::common::fixture;

/// `vqa_normalization.jsonl` was made by the public evaluator (GT-Vision-Lab/VQA at
/// a013f0043c1e2cdc995922dfe257f7149aa9af06), both of its steps.
#[test]
fn answers_are_normalised_as_by_the_public_evaluator() {
    let text = std::fs::read_to_string(fixture("metrics/vqa_normalization.jsonl")).unwrap();
    let normalizer = AnswerNormalizer::new();
    let mut cases = 0;
    for line in text.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let input = case["input"].as_str().unwrap();
        assert_eq!(normalizer.normalize(input), case["normalized"], "{input:?}");
        cases += 1;
    }
    assert_eq!(cases, 89);
}

#[test]
fn majority_answers_are_the_most_frequent_ones_of_each_group() {
    let majority = Majority::learn(&questions()).unwrap();
    // "no" and "red" occur twice; equals go by the alphabet.
    assert_eq!(majority.overall(), "no");
    assert_eq!(majority.of_type("color"), "red");
    assert_eq!(majority.of_type("shape"), "circle");
    assert_eq!(majority.of_type("never seen"), "no");
    assert_eq!(majority.of_question("is it red?"), "no");
    assert_eq!(majority.of_question("how many?"), "2");
    assert_eq!(majority.of_question("why?"), "no");
    let nothing = Majority::learn(&Rows(vec![json!({"caption": "x"})])).unwrap_err();
    assert!(nothing.to_string().contains("column question"), "{nothing}");
}

#[test]
fn answers_are_scored_by_type_beside_the_majority() {
    let rows = questions();
    let majority = Majority::learn(&rows).unwrap();
    let mut batches = Vec::new();
    let scores = vqa::evaluate(&rows, extent(4), &majority, |images, questions| {
        assert_eq!(images.len(), questions.len());
        batches.push(questions.len());
        // Always "red", but the two "no" images are seen.
        let answer = |image: &RgbImage| match image.get_pixel(0, 0)[0] {
            1 | 2 => "No!".to_owned(),
            _ => " a RED".to_owned(),
        };
        Ok(images.iter().map(answer).collect())
    })
    .unwrap();
    assert_eq!(batches, [4, 4, 1]);
    assert_eq!((scores.overall.accuracy.value, scores.overall.accuracy.n), (4.0 / 9.0, 9));
    assert_eq!(scores.overall.majority.value, 2.0 / 9.0);
    assert_eq!(scores.overall.question_majority.value, 7.0 / 9.0);
    let names: Vec<_> = scores.types.iter().map(|group| group.name.as_str()).collect();
    assert_eq!(names, ["color", "number", "other", "shape", "yes/no"]);
    let yes_no = &scores.types[4];
    assert_eq!((yes_no.accuracy.value, yes_no.accuracy.n), (2.0 / 3.0, 3));
    assert_eq!((yes_no.majority_answer.as_str(), yes_no.majority.value), ("no", 2.0 / 3.0));
    let report = scores.report("rows");
    assert_eq!(report.scores[0].0, "exact_match");
    assert_eq!(report.score("exact_match/color").unwrap().value, 2.0 / 3.0);
    assert_eq!(report.samples[3].target, json!("red"));
}

#[test]
fn scenes_have_one_item_per_question_with_its_family_as_type() {
    let spec = "scenes:val?count=12&seed=3";
    let dataset = vqa::open(spec).unwrap();
    assert!(dataset.len() > 12 * 4);
    let majority = Majority::learn(dataset.as_ref()).unwrap();
    let mut asked = 0;
    let limit = Extent { limit: Some(40), batch: 16 };
    let scores = vqa::evaluate(dataset.as_ref(), limit, &majority, |_, questions| {
        let right =
            |i: usize| dataset.get(i).unwrap().fields["answer"].as_str().unwrap().to_owned();
        let answers = (asked..asked + questions.len()).map(right).collect();
        asked += questions.len();
        Ok(answers)
    })
    .unwrap();
    assert_eq!((scores.overall.accuracy.value, scores.overall.accuracy.n), (1.0, 40));
    assert!(scores.types.iter().any(|group| group.name == "relation"));
    assert!(scores.overall.majority.value < 0.6);
}

#[test]
fn too_few_answers_and_many_bad_samples_are_refused() {
    let majority = Majority::learn(&questions()).unwrap();
    let none = |_: &[RgbImage], _: &[String]| Ok(vec![]);
    let refused = vqa::evaluate(&questions(), extent(4), &majority, none).unwrap_err();
    assert!(refused.to_string().contains("0 results for a batch of 4"), "{refused}");
    let mut rows = questions().0;
    rows.extend([json!(null), json!(null)]);
    let all = |_: &[RgbImage], questions: &[String]| Ok(vec![String::new(); questions.len()]);
    let refused = vqa::evaluate(&Rows(rows.clone()), extent(4), &majority, all).unwrap_err();
    assert!(refused.to_string().contains("2 of 11 samples are bad"), "{refused}");
    let many: Vec<Value> = questions().0.into_iter().cycle().take(300).collect();
    rows.extend(many);
    let scores = vqa::evaluate(&Rows(rows), extent(64), &majority, all).unwrap();
    assert_eq!((scores.overall.accuracy.n, scores.bad.len()), (309, 2));
    assert!(scores.bad[0].reason.contains("row 9"));
    // One bad sample never stops a small set, unless it is all there is.
    let one = |rows: Vec<Value>| vqa::evaluate(&Rows(rows), extent(4), &majority, all);
    let found = one(vec![json!({"question": "why?", "answer": "so"}), json!(null)]).unwrap();
    assert_eq!((found.overall.accuracy.n, found.bad.len()), (1, 1));
    assert!(one(vec![json!(null)]).unwrap_err().to_string().contains("1 of 1"));
}

#[test]
fn annotators_answers_may_be_objects_and_their_majority_is_right() {
    let answers: Vec<Value> =
        ["red", "blue", "red"].iter().map(|a| json!({"answer": a, "answer_id": 1})).collect();
    let rows = Rows(vec![
        json!({"question": "which?", "answers": answers, "answer_type": "other", "question_type": "which"}),
        json!({"question": "is it?", "answers": ["no", "no"], "answer_type": "yes/no", "question_type": "is it"}),
    ]);
    let majority = Majority::learn(&rows).unwrap();
    let given = ["Red", "yes"].map(str::to_owned);
    let scores = vqa::evaluate(&rows, extent(2), &majority, |_, _| Ok(given.to_vec())).unwrap();
    assert_eq!(scores.samples[0].target, json!("red"));
    let report = scores.report("rows");
    let value = |name: &str| report.score(name).unwrap().value;
    assert_eq!(value("exact_match"), 0.5);
    assert_eq!(
        (value("vqa_evalai/other"), value("vqa_evalai/which")),
        (value("vqa_official/which"), value("vqa_official/other"))
    );
    assert!(value("vqa_official/other") > 0.0 && value("vqa_official/yes/no") == 0.0);
}

#[test]
fn questions_about_one_image_widen_the_interval() {
    let row = |image: u32| json!({"question": "is it?", "answer": "yes", "image_id": image});
    let width = |images: fn(u32) -> u32, answer: fn(u32) -> bool| {
        let rows = Rows((0..200).map(|n| row(images(n))).collect());
        let majority = Majority::learn(&rows).unwrap();
        let mut asked = 0..200;
        let scores = vqa::evaluate(&rows, extent(50), &majority, |_, questions| {
            let said = |n: u32| if answer(n) { "yes" } else { "no" };
            Ok(asked.by_ref().take(questions.len()).map(|n| said(n).to_owned()).collect())
        })
        .unwrap();
        let Score { interval, n, .. } = scores.overall.accuracy;
        let [low, high] = interval.unwrap();
        assert_eq!(n, 200);
        high - low
    };
    // Ten questions about each of twenty images, answered alike.
    let alone = width(|n| n, |n| n / 10 % 2 == 0);
    let together = width(|n| n / 10, |n| n / 10 % 2 == 0);
    assert!(together > 2.0 * alone, "{together} {alone}");
    // Where all are right the interval is that of as many images.
    assert!(width(|n| n / 10, |_| true) > 5.0 * width(|n| n, |_| true));
}

#[test]
fn answers_of_ten_annotators_are_scored_as_by_the_challenges_and_submitted() {
    let row = |answers: [&str; 10], id: u32| json!({"question": "which?", "answer": answers[0], "answers": answers, "question_id": id});
    let split = ["red", "red", "red", "Red", "blue", "blue", "blue", "blue", "blue", "blue"];
    let rows = Rows(vec![row(split, 11), row(["yes"; 10], 12), row(split, 13)]);
    let given = ["the red", "Yes", "green"];
    let majority = Majority::learn(&rows).unwrap();
    let scores = vqa::evaluate(&rows, extent(3), &majority, |_: &[RgbImage], _: &[String]| {
        Ok(given.map(str::to_owned).to_vec())
    })
    .unwrap();
    // Unanimous answers are compared as they are by the official rules: "Yes" is wrong there.
    let annotators: Vec<_> =
        scores.annotators.iter().map(|one| (one.official, one.evalai)).collect();
    assert_eq!(annotators, [(1.0, 1.0), (0.0, 1.0), (0.0, 0.0)]);
    let report = scores.report("rows");
    assert!((report.score("vqa_official").unwrap().value - 1.0 / 3.0).abs() < 1e-12);
    let dir = tempfile::tempdir().unwrap();
    report.write(dir.path(), &Environment::default()).unwrap();
    let text = std::fs::read_to_string(dir.path().join("vqa_submission.json")).unwrap();
    let submission: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(submission[0], json!({"question_id": 11, "answer": "the red"}));
    assert_eq!(submission.as_array().unwrap().len(), 3);
}

#[test]
fn results_are_written_atomically_and_replace_older_ones() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("new/results");
    let rows = questions();
    let majority = Majority::learn(&rows).unwrap();
    let environment = Environment { version: "0.1.0".into(), seed: 7, ..Environment::default() };
    let write = |extent| {
        let answer = |_: &[RgbImage], q: &[String]| Ok(vec!["red".to_owned(); q.len()]);
        let scores = vqa::evaluate(&rows, extent, &majority, answer).unwrap();
        scores.report("rows").write(&out, &environment).unwrap();
    };
    write(extent(4));
    write(Extent { limit: Some(5), batch: 4 });
    let text = std::fs::read_to_string(out.join("results.json")).unwrap();
    let results: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&results["task"], &results["n"]), (&json!("vqa"), &json!(5)));
    assert_eq!(results["scores"]["exact_match"]["value"], json!(0.2));
    assert_eq!(results["interval"], results["scores"]["exact_match"]["interval"]);
    assert_eq!(results["environment"]["seed"], json!(7));
    // In the order in which people read them, not the alphabet's.
    assert!(text.find("\"exact_match\"").unwrap() < text.find("\"majority_answer\"").unwrap());
    let lines = std::fs::read_to_string(out.join("samples.jsonl")).unwrap();
    let samples: Vec<Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(samples.len(), 5);
    assert_eq!(samples[3]["id"], json!("rows#3"));
    assert_eq!(samples[3]["target"], json!("red"));
    assert_eq!(samples[3]["response"], json!("red"));
    assert_eq!(samples[3]["scores"], json!({"exact_match": 1.0}));
    assert!(image::open(out.join("sheet.png")).unwrap().width() > 8 * 128);
    let files = std::fs::read_dir(&out).unwrap().count();
    assert_eq!(files, 3, "nothing half-written stays behind");
}
