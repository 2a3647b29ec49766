//! Pairs of the best and the worst answers.

use std::path::Path;

use calumma::device::Precision;
use calumma::train::LanguageRecipe;
use calumma::train::preference::PreferenceTask;

use super::{TEXT, base, checksum, recipe_in};
use crate::common::cpu;

#[test]
fn the_best_and_the_worst_answers_become_pairs_that_can_be_trained_on() {
    let dir = base();
    let judge = checksum(dir.path());
    let init = format!("run.init={:?}", dir.path().join("base"));
    let pairs = |out: &Path, mode: &[&str]| {
        let settings = [mode, &[&judge, "validation=[]"]].concat();
        recipe_in(dir.path(), "pairs", &settings).unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_calumma"));
        command.args(["--device", "cpu", "data", "pairs"]).arg(dir.path().join("recipe.toml"));
        command.args(["--count", "4", "--json", "--out"]).arg(out);
        for set in settings.iter().copied().chain([&init[..]]) {
            command.args(["--set", set]);
        }
        let output = command.output().unwrap();
        let [text, errors] =
            [output.stdout, output.stderr].map(|b| String::from_utf8_lossy(&b).into_owned());
        (output.status.code(), text, errors)
    };
    let out = dir.path().join("images");
    let (code, text, errors) = pairs(&out, &[]);
    assert_eq!(code, Some(0), "{errors}");
    let told: serde_json::Value = serde_json::from_str(&text).unwrap();
    let lines = std::fs::read_to_string(out.join("pairs.jsonl")).unwrap();
    let rows: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(told["pairs"].as_u64().unwrap() + told["ties"].as_u64().unwrap(), 4, "{told}");
    assert!(!rows.is_empty() && rows.len() as u64 == told["pairs"] && !out.join("work").exists());
    for row in &rows {
        let rewards: Vec<f64> = serde_json::from_value(row["rewards"].clone()).unwrap();
        assert!(rewards[0] > rewards[1], "{row}");
        for side in ["chosen", "rejected"] {
            assert!(out.join(row[side][0]["path"].as_str().unwrap()).is_file(), "{row}");
        }
    }
    assert_eq!(told["template"], "{prompt}<answer>{answer}");
    // They can be read as they are.
    let data = format!(
        "data=[{{ path='{}', templates=['{{prompt}}<answer>{{answer}}'] }}]",
        out.join("pairs.jsonl").display()
    );
    let recipe = recipe_in(dir.path(), "read", &[&data, "validation=[]"]).unwrap();
    let recipe = LanguageRecipe { rl: None, preference: Some(Default::default()), ..recipe };
    let read = PreferenceTask::new(recipe, &cpu(), Precision::F32, true).unwrap();
    assert_eq!(read.num_pairs(), rows.len());
    // Answers that are all cut off make none, and nothing is left behind.
    let (code, _, errors) = pairs(&dir.path().join("texts"), &TEXT);
    assert_eq!(code, Some(3), "{errors}");
    assert!(errors.contains("4 with less than two complete answers"), "{errors}");
    assert!(!dir.path().join("texts").exists());
}
