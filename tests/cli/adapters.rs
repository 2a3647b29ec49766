//! The verbs with `--adapter` and `--merge`.

use super::{calumma_in, image, text, tiny};

const RECIPE: &str = r#"
[run]
name = "lora"
steps = 2
log_every = 1
shown = 0
[[data]]
path = "scenes:train?count=8&size=32"
templates = ["{caption}<image>"]
[adapter]
r = 2
[optimizer]
lr = 0.1
[batch]
sequences = 1
seq_len = 96
"#;

#[test]
fn every_verb_that_opens_a_checkpoint_takes_adapters() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    std::fs::write(at.join("lora.toml"), RECIPE).unwrap();
    std::fs::write(at.join("d.jsonl"), "{\"ids\": [0, 5, 6, 9, 30]}\n").unwrap();
    let init = format!("run.init={:?}", tiny());
    let run = |args: &[&str]| calumma_in(at, &[args, &["--json"]].concat()).json();
    let dry = &run(&["train", "lora.toml", "--set", &init, "--dry-run"])[0];
    let (all, some) = (&dry["total_parameters"], &dry["trained_parameters"]);
    assert!(some.as_u64().unwrap() * 4 < all.as_u64().unwrap(), "{dry}");
    run(&["train", "lora.toml", "--set", &init]);
    let adapter = "runs/lora/latest";

    let inspected = &run(&["inspect", adapter])[0];
    assert_eq!((&inspected["kind"], &inspected["r"]), (&"adapter".into(), &2.into()));

    let score = |more: &[&str]| {
        let lines = run(&[&["score", tiny(), "d.jsonl"], more].concat());
        lines[0]["logprobs"].clone()
    };
    let (none, one) = (score(&[]), score(&["--adapter", adapter]));
    assert!(none != one);
    let out_again = score(&["--adapter", adapter, "--adapter", &format!("{adapter}=-1")]);
    let values = |json: &serde_json::Value| -> Vec<f64> {
        json.as_array().unwrap().iter().filter_map(serde_json::Value::as_f64).collect()
    };
    assert!(values(&none).iter().zip(values(&out_again)).all(|(a, b)| (a - b).abs() < 1e-4));

    run(&["export", tiny(), "merged", "--merge", adapter]);
    let merged = run(&["score", "merged", "d.jsonl"])[0]["logprobs"].clone();
    assert!(values(&one).iter().zip(values(&merged)).all(|(a, b)| (a - b).abs() < 1e-4));
    run(&["export", "merged", "back", "--merge", &format!("{adapter}=-1")]);
    let back = run(&["score", "back", "d.jsonl"])[0]["logprobs"].clone();
    assert!(values(&none).iter().zip(values(&back)).all(|(a, b)| (a - b).abs() < 1e-4));

    let image = image(at, "p.png");
    for args in [
        &["generate", tiny(), "--prompt", "a red"][..],
        &["caption", tiny(), text(&image)],
        &["ask", tiny(), text(&image), "what?", "--choices", "a,b"],
        &["draw", tiny(), "a red square", "--out", "drawn"],
        &["edit", tiny(), text(&image), "a red square", "--keep-rows", "2"],
        &[
            "eval",
            "loss",
            tiny(),
            "scenes:val?count=2&size=32",
            "--template",
            "{caption}<image>",
            "--out",
            "l",
        ],
        &["eval", "vqa", tiny(), "scenes:val?count=2&size=32", "--out", "v"],
        &["bench", tiny(), "--prompt", "5", "--seconds", "0"],
        &["demo", "--checkpoint", tiny()],
    ] {
        let outcome = calumma_in(at, &[args, &["--adapter", adapter]].concat());
        assert_eq!(outcome.code, 0, "{args:?}: {}", outcome.stderr);
        let missing = calumma_in(at, &[args, &["--adapter", "nowhere"]].concat());
        assert_eq!(missing.code, 3, "{args:?}");
        assert!(missing.stderr.contains("nowhere: is no adapter"), "{}", missing.stderr);
    }
    let meta = calumma_in(at, &["export", tiny(), "m", "--layout", "meta", "--merge", adapter]);
    assert!(meta.code != 0 && meta.stderr.contains("--merge"), "{}", meta.stderr);
}
