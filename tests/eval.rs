//! Measures on doubles whose right scores are known beforehand.

use calumma::data::scenes::{Category, Scenes, render};
use calumma::data::{Dataset, Fields, Sample};
use calumma::error::{Error, Result};
use calumma::eval::loss::BatchLoss;
use calumma::eval::metrics::AnswerNormalizer;
use calumma::eval::reconstruction::Reconstruction;
use calumma::eval::text_to_image::prompts;
use calumma::eval::{
    Environment, Extent, Majority, Score, captioning, drawing, loss, reconstruction, text_to_image,
    vqa,
};
use image::RgbImage;
use serde_json::{Value, json};
use vq_tokenizer::Codes;

use crate::common::fixture;

/// Rows in memory, a grey image each; a row that is no object cannot be read.
struct Rows(Vec<Value>);

impl Dataset for Rows {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        let fields: Fields = match &self.0[index] {
            Value::Object(fields) => fields.clone(),
            _ => return Err(Error::invalid(format!("row {index} is damaged"))),
        };
        let image = RgbImage::from_pixel(16, 16, image::Rgb([index as u8; 3]));
        Ok(Sample { fields, images: vec![image], source: format!("rows#{index}") })
    }

    fn name(&self) -> &str {
        "rows"
    }
}

fn questions() -> Rows {
    let row = |(question, answer): (&str, &str)| json!({"question": question, "answer": answer});
    Rows(
        [
            ("is it red?", "yes"),
            ("is it red?", "no"),
            ("is it red?", "No."),
            ("what colour?", "red"),
            ("what colour?", "blue"),
            ("what colour?", "Red"),
            ("what shape?", "circle"),
            ("how many?", "two"),
            ("where?", "top left"),
        ]
        .map(row)
        .into(),
    )
}

fn extent(batch: usize) -> Extent {
    Extent { limit: None, batch }
}

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
fn scenes_are_asked_question_by_question_with_their_families() {
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
fn questions_without_answers_are_asked_for_the_server_and_not_scored() {
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

#[test]
fn people_s_answers_may_be_objects_and_give_the_right_one() {
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
fn rendered_ground_truth_scores_full_marks_and_other_images_near_none() {
    let config = "scenes:val?count=240&seed=5".parse().unwrap();
    let prompts = prompts(&config, None).unwrap();
    let of = |category| prompts.iter().filter(|p| p.caption.category == category).count();
    assert!(Category::ALL.into_iter().all(|category| of(category) >= 20));

    let mut firsts = Vec::new();
    let truth = text_to_image::evaluate(prompts.clone(), 100, |texts, first| {
        firsts.push(first);
        let scenes = prompts[first..first + texts.len()].iter();
        Ok(scenes.map(|prompt| render(&prompt.scene, 64)).collect())
    })
    .unwrap();
    assert_eq!(firsts, [0, 100, 200]);
    for (name, score) in truth.scores() {
        assert_eq!(score.value, 1.0, "{name}");
    }

    let shifted = |at: usize| &prompts[(at + 97) % prompts.len()];
    let chance = text_to_image::evaluate(prompts.clone(), 100, |texts, first| {
        Ok((first..first + texts.len()).map(|at| render(&shifted(at).scene, 64)).collect())
    })
    .unwrap();
    let score = |name: &str| {
        let scores = chance.scores();
        scores.iter().find(|(known, _)| known == name).unwrap().1.value
    };
    assert!(score("accuracy") < 0.08 && score("single_object") < 0.15);
    assert!(score("several/color_binding") < 0.08);
}

/// Draws the grey of the row that a text names, or of the next one.
struct Copyist {
    off: u8,
}

impl drawing::Artist for Copyist {
    fn draw(&mut self, texts: &[String]) -> Result<Vec<RgbImage>> {
        let grey = |text: &String| text.strip_prefix("row ").unwrap().parse::<u8>().unwrap();
        let of = |text| RgbImage::from_pixel(32, 32, image::Rgb([grey(text) + self.off; 3]));
        Ok(texts.iter().map(of).collect())
    }

    fn reconstruct(&mut self, images: &[RgbImage]) -> Result<Vec<(RgbImage, RgbImage)>> {
        Ok(images.iter().map(|image| (image.clone(), image.clone())).collect())
    }
}

#[test]
fn drawn_images_are_found_among_the_data_set_s_own() {
    let rows = Rows((0..40).map(|n| json!({"n": n, "kind": "row"})).collect());
    let scores = |off| {
        drawing::evaluate(&rows, extent(16), "{kind} {n}", &mut Copyist { off }, None).unwrap()
    };
    let right = scores(0);
    assert_eq!((right.retrieval.value, right.reconstructed.value), (1.0, 1.0));
    assert_eq!(right.sheet.len(), 64);
    // The next row's grey: only the last row, which has no next one, is still nearest.
    let near = scores(1);
    assert_eq!(near.retrieval.value, 1.0 / 40.0);
    assert_eq!(near.retrieval_at_5.value, 1.0);
    assert_eq!(near.samples[3].response, json!("row 4"));
    let report = scores(20).report("rows");
    assert_eq!(report.score("retrieval_at_5").unwrap().value, 5.0 / 40.0);
    assert!((report.score("retrieval_chance").unwrap().value - 1.0 / 40.0).abs() < 1e-12);
    let unknown =
        drawing::evaluate(&rows, extent(16), "{name}", &mut Copyist { off: 0 }, None).unwrap_err();
    assert!(unknown.to_string().contains("rows#0"), "{unknown}");
}

#[test]
fn swapped_colours_keep_shapes_and_colours_but_not_the_binding() {
    let config = "scenes:val?count=200&seed=9&objects=2".parse().unwrap();
    let mut prompts = prompts(&config, None).unwrap();
    prompts.retain(|p| {
        let [a, b] = &p.scene.objects[..] else { return false };
        a.color != b.color && a.shape != b.shape
    });
    let swapped = text_to_image::evaluate(prompts.clone(), 64, |texts, first| {
        let image = |at: usize| {
            let mut scene = prompts[at].scene.clone();
            let (a, b) = (scene.objects[0].color, scene.objects[1].color);
            (scene.objects[0].color, scene.objects[1].color) = (b, a);
            render(&scene, 64)
        };
        Ok((first..first + texts.len()).map(image).collect())
    })
    .unwrap();
    let share = |measure: fn(&text_to_image::Judgement) -> bool| swapped.share(|_| true, measure);
    assert_eq!(share(|one| one.shapes).value, 1.0);
    assert_eq!(share(|one| one.colors).value, 1.0);
    assert_eq!(share(|one| one.count).value, 1.0);
    assert_eq!(share(|one| one.pairs).value, 0.0);
    assert_eq!(share(|one| one.satisfied).value, 0.0);
}

#[test]
fn prompts_of_the_held_out_split_name_pairs_that_training_never_shows() {
    let config = "scenes:held-out?count=50&objects=1".parse().unwrap();
    for prompt in prompts(&config, Some(30)).unwrap() {
        let object = prompt.scene.objects[0];
        assert!(calumma::data::scenes::is_held_out(object.shape, object.color));
    }
    assert!(prompts(&config, Some(0)).unwrap_err().to_string().contains("limit"));
}

#[test]
fn captions_count_when_they_equal_a_right_one_or_name_what_is_there() {
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
fn reconstructions_are_scored_with_the_use_of_the_codebook() {
    let rows = Rows(vec![json!({}), json!({}), json!({})]);
    let scores = reconstruction::evaluate(&rows, extent(2), 8, |images| {
        let one = |original: &RgbImage| {
            let mut decoded = original.clone();
            decoded.pixels_mut().for_each(|pixel| pixel.0 = pixel.0.map(|v| v + 1));
            let code = u32::from(original.get_pixel(0, 0)[0]);
            let codes = Codes { ids: vec![code; 4], height: 2, width: 2 };
            Reconstruction { original: original.clone(), codes, decoded }
        };
        Ok(images.iter().map(one).collect())
    })
    .unwrap();
    assert!((scores.psnr.value - 48.130_803_608_679_1).abs() < 1e-9);
    assert_eq!(scores.psnr.n, 3);
    let report = scores.report("rows");
    assert_eq!(report.score("codebook_usage").unwrap().value, 3.0 / 8.0);
    assert!((report.score("codebook_perplexity").unwrap().value - 3.0).abs() < 1e-9);
    assert_eq!(report.score("dead_codes").unwrap().value, 5.0);
}

#[test]
fn objects_are_read_in_the_decoded_image_and_nowhere_else() {
    let scenes = calumma::data::open("scenes:val?count=24&seed=9&objects=1-2").unwrap();
    let objects = |swap: bool| {
        let scores = reconstruction::evaluate(scenes.as_ref(), extent(24), 8, |images| {
            let mut decoded = images.to_vec();
            decoded.rotate_left(usize::from(swap));
            let codes = Codes { ids: vec![0; 4], height: 2, width: 2 };
            let one = |(original, decoded): (&RgbImage, _)| {
                let original = original.clone();
                Reconstruction { original, codes: codes.clone(), decoded }
            };
            Ok(images.iter().zip(decoded).map(one).collect())
        });
        scores.unwrap().report("scenes").score("objects").unwrap()
    };
    assert_eq!((objects(false).value, objects(false).n), (1.0, 24));
    assert!(objects(true).value < 0.2, "images of other scenes pass as these");
}

#[test]
fn losses_are_means_over_tokens_by_modality() {
    let sources = [("a".to_owned(), vec![batch(), batch()]), ("b".to_owned(), vec![batch()])];
    let mut losses = [(6.0, 2, 1.0, 1), (2.0, 2, 3.0, 1), (0.0, 0, 8.0, 4)].into_iter();
    let scores = loss::evaluate(&sources, |_| {
        let (image, images, text, texts) = losses.next().unwrap();
        BatchLoss { image: (image, images), text: (text, texts) }
    })
    .unwrap();
    let report = scores.report("recipe");
    let value = |name: &str| report.score(name).map(|score| (score.value, score.n));
    assert_eq!(value("loss"), Some((2.0, 10)));
    assert_eq!(value("image_loss"), Some((2.0, 4)));
    assert_eq!(value("text_loss"), Some((2.0, 6)));
    assert_eq!(value("image_loss/a"), Some((2.0, 4)));
    assert_eq!(value("image_loss/b"), None);
    let broken =
        loss::evaluate(&sources, |_| BatchLoss { text: (f64::NAN, 3), ..BatchLoss::default() });
    assert!(broken.unwrap_err().to_string().contains("a: the sum"));
}

fn batch() -> calumma::train::objective::NextTokenBatch {
    let packed = calumma::data::pack::PackedBatch {
        ids: vec![],
        document_ids: vec![],
        positions: vec![],
        loss_mask: vec![],
        sources: vec![],
        rows: 0,
        seq_len: 0,
    };
    calumma::train::objective::NextTokenBatch { packed, is_image: vec![] }
}

#[test]
fn results_are_written_whole_and_replace_older_ones() {
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

#[test]
fn answers_of_ten_people_are_scored_as_the_challenges_do_and_handed_in() {
    let people = |answers: [&str; 10], id: u32| json!({"question": "which?", "answer": answers[0], "answers": answers, "question_id": id});
    let split = ["red", "red", "red", "Red", "blue", "blue", "blue", "blue", "blue", "blue"];
    let rows = Rows(vec![people(split, 11), people(["yes"; 10], 12), people(split, 13)]);
    let given = ["the red", "Yes", "green"];
    let majority = Majority::learn(&rows).unwrap();
    let scores = vqa::evaluate(&rows, extent(3), &majority, |_: &[RgbImage], _: &[String]| {
        Ok(given.map(str::to_owned).to_vec())
    })
    .unwrap();
    // Unanimous answers are compared as they are by the official rules: "Yes" is wrong there.
    let people: Vec<_> = scores.people.iter().map(|one| (one.official, one.evalai)).collect();
    assert_eq!(people, [(1.0, 1.0), (0.0, 1.0), (0.0, 0.0)]);
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
fn captions_get_the_public_metrics_and_are_handed_in() {
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
fn geneval_gets_its_folder_and_finished_prompts_are_not_drawn_again() {
    let rows = Rows(vec![
        json!({"prompt": "a photo of a bench", "tag": "single_object", "metadata": {"tag": "single_object", "prompt": "a photo of a bench"}}),
        json!({"prompt": "two cups"}),
    ]);
    let dir = tempfile::tempdir().unwrap();
    let mut drawn = Vec::new();
    let mut go = || {
        calumma::eval::geneval::draw(&rows, extent(4), dir.path(), |prompt, first| {
            drawn.push((prompt.to_owned(), first));
            Ok(vec![RgbImage::from_pixel(8, 8, image::Rgb([9; 3])); 4])
        })
        .unwrap()
    };
    let report = go();
    assert_eq!(report.score("pictures_written").unwrap().value, 8.0);
    std::fs::remove_file(dir.path().join("00001/samples/0002.png")).unwrap();
    go();
    let told: Vec<usize> = drawn.iter().map(|(_, first)| *first).collect();
    assert_eq!(told, [0, 4, 4]);
    let line = std::fs::read_to_string(dir.path().join("00000/metadata.jsonl")).unwrap();
    let metadata: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(metadata["tag"], json!("single_object"));
    assert!(dir.path().join("00000/samples/0003.png").is_file());
}

/// `nlg_eval_cases.json` has METEOR's values as published; the program is not part of this project, so this
/// needs `CALUMMA_OFFICIAL`, the folder of pycocoevalcap for instance.
#[test]
fn meteor_by_its_authors_program_has_the_published_values() {
    let Some(dir) = std::env::var_os("CALUMMA_OFFICIAL") else {
        eprintln!("SKIPPED: CALUMMA_OFFICIAL names no folder with meteor-1.5.jar");
        return;
    };
    let official = calumma::eval::Official::find(dir.as_ref()).unwrap();
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
            .map(|(caption, references)| {
                calumma::eval::metrics::Segment::new(caption.clone(), references.clone()).unwrap()
            })
            .collect();
        let Some(published) = case["expected"]["METEOR"].as_f64() else { continue };
        let (found, each) = official.meteor(&segments).unwrap().unwrap();
        assert!((found - published).abs() < 1e-5, "{found}, not {published}");
        assert_eq!(each.len(), captions.len());
        compared += 1;
    }
    assert!(compared > 0);
}
