//! Captions, and submissions of captions and answers.

use calumma::data::scenes::Scenes;
use calumma::eval::metrics::Segment;
use calumma::eval::{Majority, Official, captioning, vqa};
use image::RgbImage;
use serde_json::{Value, json};

use super::{Rows, extent};
use crate::common::fixture;

#[test]
fn captions_match_references_or_mention_the_objects_of_scenes() {
    let rows = Rows(vec![
        json!({"name": "red heart"}),
        json!({"caption": "x", "captions": ["a star", "one star"]}),
    ]);
    let given = ["The red heart.", "blue star"];
    let scores =
        captioning::evaluate(&rows, extent(2), |_| Ok(given.map(str::to_owned).into())).unwrap();
    assert_eq!((scores.exact_match.value, scores.exact_match.n), (0.5, 2));
    assert!((scores.word_f1.value - (1.0 + 2.0 / 3.0) / 2.0).abs() < 1e-9);
    assert_eq!(scores.true_mentions, None);

    let scenes = Scenes::new("scenes:val?count=60&seed=2".parse().unwrap()).unwrap();
    let mut index = 0;
    let own = captioning::evaluate(&scenes, extent(20), |images| {
        let start = index;
        index += images.len();
        let text = |i: usize| scenes.columns(i)["caption"].as_str().unwrap().to_owned();
        Ok((start..index).map(text).collect())
    })
    .unwrap();
    assert_eq!(own.exact_match.value, 1.0);
    assert_eq!(own.true_mentions.unwrap().value, 1.0);
    assert_eq!(own.all_mentioned.unwrap().value, 1.0);
    let same = captioning::evaluate(&scenes, extent(20), |images| {
        Ok(vec!["a red circle".to_owned(); images.len()])
    })
    .unwrap();
    assert!(same.true_mentions.unwrap().value < 0.2);
}

#[test]
fn captions_get_the_public_metrics_and_are_submitted() {
    let rows = Rows(vec![
        json!({"captions": ["a red bird sits on a branch", "a small bird"], "image_id": 7}),
        json!({"captions": ["two dogs run over the grass", "dogs on grass"], "image_id": 8}),
    ]);
    let caption = |given: [&str; 2]| {
        let given = given.map(str::to_owned).to_vec();
        captioning::evaluate(&rows, extent(2), move |_: &[RgbImage]| Ok(given.clone())).unwrap()
    };
    let right = caption(["A red bird sits on a branch.", "Two dogs run over the grass!"]);
    let value = |scores: &captioning::CaptioningScores, name: &str| {
        scores.public.iter().find(|(known, _)| *known == name).unwrap().1.value
    };
    assert!((value(&right, "bleu_4") - 1.0).abs() < 1e-9);
    assert!((value(&right, "rouge_l") - 1.0).abs() < 1e-9);
    assert!(value(&right, "cider") > 4.0);
    let swapped = caption(["two dogs run over the grass", "a red bird sits on a branch"]);
    assert!(value(&swapped, "bleu_4") < 0.01 && value(&swapped, "cider") < 0.5);
    let report = right.report("rows");
    assert_eq!(report.samples[0].scores.iter().filter(|(name, _)| *name == "cider").count(), 1);
    let submission = report.submission.unwrap();
    assert_eq!(submission.0, "captions_submission.json");
    assert_eq!(submission.1[1]["image_id"], json!(8));
}

#[test]
fn items_without_a_right_answer_are_submitted_and_not_scored() {
    let row = |id: u32| json!({"question": "which?", "question_id": id, "image_id": id});
    let mut rows = vec![row(1), row(2), row(3)];
    rows[1]["answers"] = json!({"not": "a list"});
    let rows = Rows(rows);
    let majority = Majority::learn(&rows).unwrap();
    let scores = vqa::evaluate(&rows, extent(2), &majority, |_, questions| {
        Ok(vec!["this".to_owned(); questions.len()])
    })
    .unwrap();
    assert_eq!(scores.bad[0].index, 1);
    let mut handed_in = scores.submission.clone();
    handed_in.sort_by_key(|entry| entry["question_id"].as_u64());
    let answers: Vec<_> = handed_in.iter().map(|entry| entry["answer"].as_str()).collect();
    assert_eq!(answers, [Some("this"), Some(""), Some("this")]);
    let report = scores.report("rows");
    assert!(report.scores.is_empty(), "{:?}", report.scores);

    let rows = Rows(vec![json!({"image_id": 5}), json!({"image_id": 6, "captions": 7})]);
    let captions = captioning::evaluate(&rows, extent(2), |images| {
        Ok(vec!["a bird".to_owned(); images.len()])
    })
    .unwrap();
    assert_eq!(captions.bad[0].index, 1);
    assert_eq!(captions.submission[0], json!({"image_id": 5, "caption": "a bird"}));
    assert_eq!(captions.submission[1], json!({"image_id": 6, "caption": ""}));
    assert!(captions.report("rows").scores.is_empty());
}

/// Compares with the published values in `nlg_eval_cases.json`. The program is not part of this project:
/// `CALUMMA_OFFICIAL` names its directory, for instance that of pycocoevalcap.
#[test]
fn meteor_by_its_authors_program_has_the_published_values() {
    let Some(dir) = std::env::var_os("CALUMMA_OFFICIAL") else {
        eprintln!("SKIPPED: CALUMMA_OFFICIAL names no directory with meteor-1.5.jar");
        return;
    };
    let official = Official::find(dir.as_ref()).unwrap();
    let text = std::fs::read_to_string(fixture("metrics/nlg_eval_cases.json")).unwrap();
    let cases: Value = serde_json::from_str(&text).unwrap();
    let mut compared = 0;
    for case in cases["cases"].as_array().unwrap() {
        let texts = |key: &str| -> Vec<Value> { case[key].as_array().unwrap().clone() };
        let captions: Vec<String> =
            texts("hypotheses").iter().map(|v| v.as_str().unwrap().to_owned()).collect();
        let references: Vec<Vec<String>> = texts("references")
            .iter()
            .map(|list| {
                list.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect()
            })
            .collect();
        let segments: Vec<_> = captions
            .iter()
            .zip(&references)
            .map(|(caption, references)| Segment::new(caption.clone(), references.clone()).unwrap())
            .collect();
        let Some(published) = case["expected"]["METEOR"].as_f64() else { continue };
        let (found, each) = official.meteor(&segments).unwrap().unwrap();
        assert!((found - published).abs() < 1e-5, "{found}, not {published}");
        assert_eq!(each.len(), captions.len());
        compared += 1;
    }
    assert!(compared > 0);
}
