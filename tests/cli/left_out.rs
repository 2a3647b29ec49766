//! A tolerable fault never ends a run and never passes in silence: verbs by faults.

use std::path::Path;

use serde_json::{Value, json};

use super::training::VQ;
use super::{Outcome, calumma_in, image, text, tiny};

/// Samples of a data set.
const SAMPLES: usize = 10;

/// What is wrong with a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    NullEntry,
    MissingTurn,
    EmptyAnswer,
    TooLong,
    BrokenImage,
    NoImage,
    LongQuestion,
}

use Fault::{BrokenImage, EmptyAnswer, LongQuestion, MissingTurn, NoImage, NullEntry, TooLong};

impl Fault {
    /// Part of the sentence about it.
    fn words(self) -> &'static str {
        match self {
            NullEntry => "null",
            MissingTurn => "question",
            EmptyAnswer => "the answer is empty",
            TooLong => "longer than",
            BrokenImage => "broken.png",
            NoImage => "none.png",
            LongQuestion => "does not fit the context",
        }
    }

    fn apply(self, sample: &mut Value) {
        match self {
            NullEntry => sample["caption"] = json!(["a red circle", null]),
            MissingTurn => {
                sample["turns"] = json!([{ "answer": "red" }]);
                sample["question"] = json!(null);
            }
            EmptyAnswer => sample["turns"] = json!([{ "question": "what?", "answer": "" }]),
            TooLong => sample["caption"] = json!("red ".repeat(400)),
            BrokenImage => sample["image"] = json!("broken.png"),
            NoImage => sample["image"] = json!("none.png"),
            LongQuestion => sample["question"] = json!("what? ".repeat(400)),
        }
    }
}

/// Writes `d.jsonl` with `fault` in lines 3, 5, 7, as many as `bad`.
fn write(dir: &Path, fault: Fault, bad: usize) {
    let whole = image(dir, "p.png");
    let bytes = std::fs::read(&whole).unwrap();
    std::fs::write(dir.join("broken.png"), &bytes[..bytes.len() / 2]).unwrap();
    let line = |index: usize| {
        let mut sample = json!({
            "image": "p.png",
            "caption": format!("a red circle {index}"),
            "turns": [{ "question": "what?", "answer": "red" }],
            "question": "what?",
            "answer": "red",
        });
        if [2, 4, 6][..bad].contains(&index) {
            fault.apply(&mut sample);
        }
        format!("{sample}\n")
    };
    std::fs::write(dir.join("d.jsonl"), (0..SAMPLES).map(line).collect::<String>()).unwrap();
}

const DATA: &str = r#"
[[data]]
path = "d.jsonl"
max_bad = 0.2
"#;

const TEMPLATES: &str = r#"
templates = ["<image><sep>{caption}", "<image>{#turns|<sep>}{question}<sep>{answer}{/turns}"]
loss = "answers"
"#;

/// The recipe of a verb.
fn recipe(verb: &str) -> String {
    let tokenizer = format!("[tokenizer]\ncheckpoint = {:?}\n", tiny());
    match verb {
        "bpe" => format!(
            "[run]\nname = \"r\"\n[bpe]\nvocab_size = 512\nnum_codes = 24\n{DATA}{}",
            "templates = [\"{caption}\", \"{#turns}{question} {answer} {/turns}\"]\n"
        ),
        "tokenize" => format!("[run]\nname = \"r\"\n{tokenizer}{DATA}{TEMPLATES}"),
        "vq" => {
            let scenes = "path = \"scenes:train?count=16&size=32\"\n";
            let recipe = VQ.replace("steps = 3", "steps = 4").replace("images = 2", "images = 5");
            recipe.replacen(scenes, "path = \"d.jsonl\"\nmax_bad = 0.2\n", 1)
        }
        _ => format!(
            "[run]\nname = \"r\"\nsteps = 2\nlog_every = 1\n[model]\nhidden_size = 32\n\
             intermediate_size = 48\nnum_hidden_layers = 1\nnum_attention_heads = 2\n\
             max_position_embeddings = 128\n{tokenizer}{DATA}{TEMPLATES}\
             [batch]\nsequences = 2\nseq_len = 64\n"
        ),
    }
}

/// Runs `verb` on `d.jsonl`.
fn run(verb: &str, dir: &Path) -> Outcome {
    std::fs::write(dir.join("r.toml"), recipe(verb)).unwrap();
    let eval = |measure: &'static str, more: &[&'static str]| {
        [&["eval", measure, tiny(), "d.jsonl", "--out", "out"], more].concat()
    };
    let args = match verb {
        "bpe" => vec!["bpe", "train", "r.toml"],
        "tokenize" => vec!["tokenize", "r.toml"],
        "dry run" => vec!["train", "r.toml", "--dry-run"],
        "train" => vec!["train", "r.toml"],
        "vq" => vec!["vq", "train", "r.toml"],
        "validate" => vec!["data", "validate", "d.jsonl", "--max-bad", "0.2"],
        "loss" => eval("loss", &["--template", "<image>{caption}"]),
        measure => eval(if measure == "vqa" { "vqa" } else { "captioning" }, &[]),
    };
    calumma_in(dir, &args)
}

/// Verbs, each with the faults that concern it.
const TABLE: [(&str, &[Fault]); 9] = [
    ("bpe", &[NullEntry, MissingTurn]),
    ("tokenize", &[NullEntry, MissingTurn, EmptyAnswer, BrokenImage, NoImage]),
    ("dry run", &[NullEntry, MissingTurn, EmptyAnswer, TooLong, BrokenImage, NoImage]),
    ("train", &[NullEntry, MissingTurn, EmptyAnswer, TooLong, BrokenImage, NoImage]),
    ("captioning", &[BrokenImage, NoImage]),
    ("vqa", &[MissingTurn, BrokenImage, NoImage, LongQuestion]),
    ("loss", &[NullEntry, TooLong, BrokenImage, NoImage]),
    ("vq", &[BrokenImage, NoImage]),
    ("validate", &[BrokenImage, NoImage]),
];

#[test]
fn a_fault_within_the_share_is_said_and_the_work_is_done() {
    for (verb, faults) in TABLE {
        for &fault in faults {
            let dir = tempfile::tempdir().unwrap();
            write(dir.path(), fault, 1);
            let Outcome { code, stdout, stderr } = run(verb, dir.path());
            assert_eq!(code, 0, "{verb}, {fault:?}: {stderr}");
            let count = match (verb, fault) {
                ("validate", _) => "10 samples, 1 bad",
                (_, TooLong) => "documents ",
                _ => "1 of 10 samples is bad",
            };
            for words in [count, "line 3", fault.words()] {
                assert!(stdout.contains(words), "{verb}, {fault:?}: {words} is not in {stdout}");
            }
            assert!(verb == "validate" || stdout.contains("left out: "), "{stdout}");
            if ["train", "vq"].contains(&verb) {
                for file in ["metrics.jsonl", "report.html"] {
                    let run = dir.path().join("runs").join(if verb == "vq" { "vq" } else { "r" });
                    let text = std::fs::read_to_string(run.join(file)).unwrap();
                    assert!(text.contains("line 3"), "{verb}, {fault:?}: {file}");
                }
            }
            if ["captioning", "vqa", "loss"].contains(&verb) {
                let path = dir.path().join("out/results.json");
                let results: Value =
                    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
                assert_eq!(results["left_out"][0]["count"], 1, "{verb}, {fault:?}: {results}");
            }
        }
    }
}

#[test]
fn faults_over_the_share_exit_with_3_and_the_list() {
    for (verb, faults) in TABLE {
        for &fault in faults.iter().filter(|fault| **fault != TooLong) {
            let dir = tempfile::tempdir().unwrap();
            write(dir.path(), fault, 3);
            let outcome = run(verb, dir.path());
            assert_eq!(outcome.code, 3, "{verb}, {fault:?}: {}", outcome.stderr);
            let count =
                if verb == "vq" { "of 10 samples are bad" } else { "3 of 10 samples are bad" };
            let lines = if verb == "vq" { [""; 3] } else { ["line 3", "line 5", "line 7"] };
            for words in [count, fault.words()].into_iter().chain(lines) {
                let stderr = &outcome.stderr;
                assert!(stderr.contains(words), "{verb}, {fault:?}: {words} is not in {stderr}");
            }
        }
    }
}

#[test]
fn a_training_on_documents_that_are_all_too_long_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let lines = format!("{{\"caption\": {:?}}}\n", "red ".repeat(400)).repeat(3);
    std::fs::write(dir.path().join("d.jsonl"), lines).unwrap();
    let text = recipe("train").replace(TEMPLATES, "templates = [\"{caption}\"]\n");
    std::fs::write(dir.path().join("r.toml"), text).unwrap();
    let outcome = calumma_in(dir.path(), &["train", "r.toml"]);
    outcome.fails(3, &["do not fit a row of 64 tokens", "d.jsonl: line", "raise batch.seq_len"]);
    let args = ["eval", "loss", tiny(), "d.jsonl", "--out", "out", "--template", "{caption}"];
    let outcome = calumma_in(dir.path(), &args);
    outcome.fails(3, &["no document is left", "3 of 3 documents are longer", "d.jsonl: line 1"]);
}

#[test]
fn lists_of_prompts_and_answers_in_turn_are_trained_on() {
    for loss in ["all", "answers"] {
        let dir = tempfile::tempdir().unwrap();
        let line = json!({ "turns": ["what color?", "red", "and now?", "blue"] });
        std::fs::write(dir.path().join("d.jsonl"), format!("{line}\n")).unwrap();
        let templates =
            format!("templates = [\"{{#turns|<sep>}}{{.}}{{/turns}}\"]\nloss = \"{loss}\"\n");
        let text = recipe("train").replace(TEMPLATES, &templates);
        std::fs::write(dir.path().join("r.toml"), text).unwrap();
        let dry = &calumma_in(dir.path(), &["train", "r.toml", "--dry-run", "--json"]).json()[0];
        let first = dry["first_batch"][0].as_str().unwrap();
        assert!(first.contains("what color?") && first.contains("blue"), "{dry}");
        assert_eq!(dry["left_out"], json!([]));
    }
}

#[test]
fn shards_kept_from_an_earlier_call_still_say_what_they_lack() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), NullEntry, 1);
    let first = run("tokenize", dir.path());
    assert!(first.stdout.contains("entry 2 of field caption is null"), "{}", first.stdout);
    let again = run("tokenize", dir.path());
    assert!(again.stdout.contains("0 of 1 shards made, 1 kept"), "{}", again.stdout);
    assert!(again.stdout.contains("1 of 10 samples is bad"), "{}", again.stdout);
}

#[test]
fn a_bad_document_among_many_is_scored_around() {
    let dir = tempfile::tempdir().unwrap();
    let lines = |bad: usize| -> String {
        let line = |n: usize| if n < bad { "{\"ids\": [1, \n" } else { "{\"ids\": [0, 5]}\n" };
        (0..200).map(line).collect()
    };
    std::fs::write(dir.path().join("d.jsonl"), lines(1)).unwrap();
    let scored = calumma_in(dir.path(), &["score", tiny(), "d.jsonl", "--json"]).json();
    assert_eq!((scored.len(), &scored[0]["line"]), (201, &json!(1)));
    assert_eq!(scored[200]["left_out"][0]["count"], 1);
    std::fs::write(dir.path().join("d.jsonl"), lines(3)).unwrap();
    let outcome = calumma_in(dir.path(), &["score", tiny(), "d.jsonl"]);
    assert_eq!(outcome.code, 3);
    assert!(outcome.stderr.contains("3 of 200 samples are bad"), "{}", outcome.stderr);
}

#[test]
fn reasons_survive_in_the_run_that_is_repeated() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), BrokenImage, 1);
    for steps in ["2", "4"] {
        std::fs::write(dir.path().join("r.toml"), recipe("train")).unwrap();
        let set = format!("run.steps={steps}");
        let outcome = calumma_in(dir.path(), &["train", "r.toml", "--set", &set]);
        assert!(outcome.stdout.contains("1 of 10 samples is bad"), "{}", outcome.stdout);
        assert!(outcome.stdout.contains(text(Path::new("broken.png"))), "{}", outcome.stdout);
    }
}
