//! Metrics against committed reference values and, if the originals are installed
//! (`tests/metrics.sh`), against these on random cases.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use burn::tensor::Device;
use calumma::eval::inception::Inception;
use calumma::eval::metrics::{
    AnswerNormalizer, AnswerRules, Features, PtbTokenizer, Segment, TextMatcher, TextNormalization,
    VqaAccuracy, VqaSummary, bleu, cider, frechet_distance, rouge_l,
};
use image::RgbImage;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::common::fixture;

/// Scores are sums of some hundreds of terms near 1, in another order than in the originals.
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

/// The scores of the corpus and of each segment, in the order of [`NAMES`].
fn scores(segments: &[Segment]) -> ([f64; 6], Vec<[f64; 6]>) {
    let (bleu, rouge, cider) = (bleu(segments), rouge_l(segments), cider(segments));
    let row = |[a, b, c, d]: [f64; 4], rouge, cider| [a, b, c, d, rouge, cider];
    let each = (0..segments.len())
        .map(|i| row(bleu.segments[i], rouge.segments[i], cider.segments[i]))
        .collect();
    (row(bleu.corpus, rouge.corpus, cider.corpus), each)
}

/// Compares with those scores that `expected` has, by name; returns their number.
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
fn vqa_accuracies_are_those_of_the_public_evaluator() {
    let official = VqaAccuracy::new(AnswerRules::Official);
    let cases = json("metrics/vqa_accuracy_cases.json");
    for case in list(&cases["cases"]) {
        let accuracy = official.accuracy(text(&case["prediction"]), &texts(&case["answers"]));
        assert!((accuracy - case["accuracy"].as_f64().unwrap()).abs() <= TOLERANCE, "{case}");
    }
    assert_eq!(list(&cases["cases"]).len(), 16);
}

/// The number of rows whose `text`, tokenised as a line of one file, differs from `tokens`.
fn differing_tokens(rows: &[Value]) -> usize {
    let lines: Vec<&str> = rows.iter().map(|row| text(&row["text"])).collect();
    let tokens = PtbTokenizer::new().tokenize_lines(&lines);
    let differ = rows.iter().zip(tokens).filter(|(row, tokens)| {
        let (given, right) = (tokens.join(" "), text(&row["tokens"]));
        if given != right {
            say(&format!("{:?}: {given:?}, not {right:?}", text(&row["text"])));
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

/// Writes to standard error, bypassing the test runner's capture.
fn say(message: &str) {
    std::io::stderr().write_all(format!("{message}\n").as_bytes()).unwrap();
}

/// The output of `tests/metrics_peer.py` on `topic`, made in `dir`; `None`, with a message, without
/// the originals.
fn peer(topic: &str, dir: &Path, files: &[&str]) -> Option<Value> {
    let Some(python) = std::env::var_os("CALUMMA_PEER_PYTHON") else {
        say(&format!(
            "SKIPPED metrics {topic}: CALUMMA_PEER_PYTHON is not set; see tests/metrics.sh"
        ));
        return None;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/metrics_peer.py");
    let run = Command::new(python).arg(script).arg(topic).arg(dir).args(files).output().unwrap();
    let errors = String::from_utf8_lossy(&run.stderr);
    if run.status.code() == Some(77) {
        say(&format!("SKIPPED metrics {topic}: {}", errors.trim()));
        return None;
    }
    assert!(run.status.success(), "{topic}: {errors}");
    let result = std::fs::read(dir.join(format!("{topic}.json"))).unwrap();
    Some(serde_json::from_slice(&result).unwrap())
}

/// The largest difference seen.
#[derive(Default)]
struct Worst(f64, usize);

impl Worst {
    fn see(&mut self, score: f64, right: &Value, what: &str) {
        let right = right.as_f64().unwrap_or_else(|| panic!("{what}: {right} is no number"));
        let difference = (score - right).abs();
        assert!(difference <= TOLERANCE, "{what}: {score}, not {right}");
        self.0 = self.0.max(difference);
        self.1 += 1;
    }
}

#[test]
fn random_captions_score_as_by_the_public_scorer() {
    let dir = tempfile::tempdir().unwrap();
    let Some(corpora) = peer("captions", dir.path(), &[]) else { return };
    let mut worst = Worst::default();
    for (index, corpus) in list(&corpora).iter().enumerate() {
        let pairs = list(&corpus["hypotheses"]).iter().zip(list(&corpus["references"]));
        let segments: Vec<Segment> =
            pairs.map(|(text_, refs)| Segment::new(text(text_), texts(refs)).unwrap()).collect();
        let (whole, each) = scores(&segments);
        for (at, name) in NAMES.iter().enumerate() {
            let what = format!("corpus {index}, {name}");
            worst.see(whole[at], &corpus["corpus"][at], &what);
            for (i, scores) in each.iter().enumerate() {
                worst.see(scores[at], &corpus["each"][i][at], &format!("{what} of {i}"));
            }
        }
    }
    let Worst(difference, scores) = worst;
    let corpora = list(&corpora).len();
    say(&format!(
        "captions: {corpora} corpora, {scores} scores, largest difference {difference:e}"
    ));
}

/// Compares normalised answers and accuracies by `rules` with those under the key `name`.
fn assert_answers(peer: &Value, rules: AnswerRules, name: &str) -> Vec<f64> {
    let normalizer = AnswerNormalizer::with_rules(rules);
    for row in list(&peer["texts"]) {
        let given = normalizer.normalize(text(&row["text"]));
        assert_eq!(given, text(&row[name]), "{name}: {row}");
    }
    let (measure, mut worst) = (VqaAccuracy::new(rules), Worst::default());
    let score = |question: &Value| {
        let people = texts(&question["people"]);
        let accuracy = measure.accuracy(text(&question["prediction"]), &people);
        worst.see(accuracy, &question[name], &question.to_string());
        accuracy
    };
    let accuracies = list(&peer["questions"]).iter().map(score).collect();
    let (texts, Worst(difference, questions)) = (list(&peer["texts"]).len(), worst);
    say(&format!(
        "{name}: {texts} answers normalised alike, {questions} accuracies, largest difference \
         {difference:e}"
    ));
    accuracies
}

#[test]
fn random_answers_are_scored_as_by_the_public_evaluator() {
    let dir = tempfile::tempdir().unwrap();
    let Some(peer) = peer("answers", dir.path(), &[]) else { return };
    let accuracies = assert_answers(&peer, AnswerRules::Official, "official");
    let questions = list(&peer["questions"]).iter().zip(accuracies);
    let summary = VqaSummary::of(questions.map(|(question, accuracy)| {
        (text(&question["answer_type"]), text(&question["question_type"]), accuracy)
    }));
    let right = &peer["summary"];
    let mut worst = Worst::default();
    worst.see(summary.overall * 100.0, &right["overall"], "overall");
    for (name, value) in &summary.by_answer_type {
        worst.see(value * 100.0, &right["perAnswerType"][name], name);
    }
    for (name, value) in &summary.by_question_type {
        worst.see(value * 100.0, &right["perQuestionType"][name], name);
    }
    assert_eq!(worst.1, 5);
}

#[test]
fn random_answers_are_scored_as_by_lmms_eval() {
    let dir = tempfile::tempdir().unwrap();
    let Some(peer) = peer("evalai", dir.path(), &[]) else { return };
    assert_answers(&peer, AnswerRules::LmmsVqa, "lmms_vqa");
    assert_answers(&peer, AnswerRules::EvalAi, "evalai");
}

#[test]
fn random_short_answers_match_as_by_squad() {
    let dir = tempfile::tempdir().unwrap();
    let Some(peer) = peer("squad", dir.path(), &[]) else { return };
    let matcher = TextMatcher::new(TextNormalization::Squad);
    for case in list(&peer) {
        let (prediction, references) = (text(&case["prediction"]), texts(&case["references"]));
        let exact = f64::from(u8::from(matcher.exact_match(prediction, &references)));
        assert_eq!(Some(exact), case["exact_match"].as_f64(), "{case}");
        // torchmetrics computes in f32.
        let f1 = matcher.token_f1(prediction, &references);
        assert!((f1 - case["f1"].as_f64().unwrap()).abs() < 1e-6, "{f1}: {case}");
    }
    say(&format!("squad: {} answers alike", list(&peer).len()));
}

/// `CALUMMA_PEER_TEXTS` lists files, one per line, with one text per line.
#[test]
fn texts_are_tokenised_as_by_the_public_scorer() {
    let dir = tempfile::tempdir().unwrap();
    let files = std::env::var("CALUMMA_PEER_TEXTS").unwrap_or_default();
    let files: Vec<&str> = files.lines().filter(|file| !file.is_empty()).collect();
    if files.is_empty() {
        say("SKIPPED metrics texts: CALUMMA_PEER_TEXTS names no file; see tests/metrics.sh");
        return;
    }
    let Some(rows) = peer("texts", dir.path(), &files) else { return };
    let (rows, differ) = (list(&rows), differing_tokens(list(&rows)));
    let alike = rows.len() - differ;
    say(&format!("texts: {alike} of {} tokenised alike", rows.len()));
    assert!(alike as f64 >= 0.995 * rows.len() as f64);
}

/// scikit-image drops the border of five pixels where its window would cross the edge, which is
/// where the window here does not fit: both means are over the same positions.
#[test]
fn random_images_compare_as_by_scikit_image() {
    let dir = tempfile::tempdir().unwrap();
    let Some(cases) = peer("images", dir.path(), &[]) else { return };
    let mut worst = [0.0_f64; 4];
    for (index, case) in list(&cases).iter().enumerate() {
        let size = |name: &str| u32::try_from(case[name].as_u64().unwrap()).unwrap();
        let read = |side: &str| {
            let bytes = std::fs::read(dir.path().join(format!("{index}{side}.rgb"))).unwrap();
            RgbImage::from_raw(size("width"), size("height"), bytes).unwrap()
        };
        let (a, b) = (read("a"), read("b"));
        let ms_ssim = vq_tokenizer::metrics::ms_ssim(&a, &b).unwrap();
        let values = [
            ("psnr", vq_tokenizer::metrics::psnr(&a, &b).unwrap()),
            ("ssim", vq_tokenizer::metrics::ssim(&a, &b).unwrap()),
            ("ms_ssim", ms_ssim),
            ("pytorch_msssim", ms_ssim),
        ];
        for (worst, (name, value)) in worst.iter_mut().zip(values) {
            let Some(right) = case[name].as_f64() else { continue };
            assert!((value - right).abs() <= 1e-6, "{name} of {index}: {value}, not {right}");
            *worst = worst.max((value - right).abs());
        }
    }
    let [psnr, ssim, ms_ssim, torch] = worst;
    say(&format!(
        "images: {} pairs, largest differences: PSNR {psnr:e} dB, SSIM {ssim:e}, MS-SSIM \
         {ms_ssim:e} (pytorch-msssim {torch:e})",
        list(&cases).len()
    ));
}

#[test]
fn fid_equals_pytorch_fid() {
    let dir = tempfile::tempdir().unwrap();
    let Some(peer) = peer("fid", dir.path(), &[]) else { return };
    let weights = dir.path().join("weights.pth");
    let digest = Sha256::digest(std::fs::read(&weights).unwrap());
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let network = Inception::open_with_digest(&weights, &digest, &Device::flex()).unwrap();
    let side = |value: &Value| u32::try_from(value.as_u64().unwrap()).unwrap();
    let image = |(index, size): (usize, &Value)| {
        let raw = std::fs::read(dir.path().join(format!("{index}.rgb"))).unwrap();
        RgbImage::from_raw(side(&size[0]), side(&size[1]), raw).unwrap()
    };
    let images: Vec<_> = list(&peer["sizes"]).iter().enumerate().map(image).collect();
    let found = network.features(&images).unwrap();
    let mut worst: f64 = 0.0;
    for (row, right) in found.rows().zip(list(&peer["features"])) {
        let right: Vec<f64> = list(right).iter().map(|value| value.as_f64().unwrap()).collect();
        let length = right.iter().map(|value| value * value).sum::<f64>().sqrt();
        let apart = row.iter().zip(&right).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum::<f64>();
        worst = worst.max(apart.sqrt() / length);
    }
    assert!(found.len() == images.len() && worst < 1e-5, "{worst:e}");
    let set = |rows: &Value| {
        let mut features = Features::new(list(&list(rows)[0]).len());
        for row in list(rows) {
            let row: Vec<f32> = list(row).iter().map(|v| v.as_f64().unwrap() as f32).collect();
            features.extend(&row).unwrap();
        }
        features
    };
    let mut furthest: f64 = 0.0;
    for pair in list(&peer["pairs"]) {
        let distance = frechet_distance(&set(&pair["a"]), &set(&pair["b"])).unwrap();
        let right = pair["distance"].as_f64().unwrap();
        furthest = furthest.max((distance - right).abs() / right);
    }
    assert!(furthest < 1e-9, "{furthest:e}");
    say(&format!(
        "fid: features of {} images within {worst:e} of their length, {} distances within {furthest:e}",
        images.len(),
        list(&peer["pairs"]).len()
    ));
}
