//! Numbers do not depend on how the work is cut into batches.

use serde_json::Value;

use super::{calumma_in, text, tiny};

#[test]
fn losses_and_their_intervals_do_not_depend_on_the_batch() {
    let dir = tempfile::tempdir().unwrap();
    let scores = |batch: &str| -> Value {
        let out = dir.path().join(batch);
        let args = [
            &["eval", "loss", tiny(), "scenes:val?count=14&size=32&objects=1-2", "--json"][..],
            &["--template", "{caption}<image>", "--template", "a{question}<sep>{answer}"],
            &["--out", text(&out), "--batch", batch],
        ];
        calumma_in(dir.path(), &args.concat()).json()[0]["scores"].clone()
    };
    let alone = scores("1");
    for batch in ["3", "4", "32"] {
        let together = scores(batch);
        for name in ["loss", "image_loss", "text_loss"] {
            let numbers = |scores: &Value| -> Vec<f64> {
                let score = &scores[name];
                let interval = score["interval"].as_array().unwrap().clone();
                [vec![score["value"].clone(), score["n"].clone()], interval]
                    .concat()
                    .iter()
                    .map(|number| number.as_f64().unwrap())
                    .collect()
            };
            let (alone, together) = (numbers(&alone), numbers(&together));
            assert!(alone[3] - alone[2] > 1e-3, "{name} has an interval: {alone:?}");
            for (a, b) in alone.iter().zip(&together) {
                assert!((a - b).abs() < 1e-6, "{name}, batch {batch}: {together:?}, not {alone:?}");
            }
        }
    }
}
