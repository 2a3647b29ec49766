//! transformers opens an extended text model and computes the same; `tests/post_training_peers.sh` runs this.
#![allow(clippy::print_stdout, reason = "figures are what `--nocapture` shows")]

use std::path::Path;
use std::process::Command;

use burn::tensor::{Int, Tensor, TensorData};
use calumma::checkpoint::{Checkpoint, Conversion, Extension, Layout};
use calumma::model::{ModelInput, mask};
use serde_json::{Value, json};

use crate::common::{cpu, fixture};

/// What transformers finds in `extended`, made of `text_model`, with the packages of `python`.
fn peer(python: &str, text_model: &Path, extended: &Path, out: &Path) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/extend_peer.py");
    let done = Command::new(python).arg(script).args([text_model, extended, out]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&std::fs::read(out).unwrap()).unwrap()
}

fn logits(dir: &Path, ids: &Value) -> Vec<f32> {
    let device = cpu();
    let ids: Vec<i32> = serde_json::from_value(ids.clone()).unwrap();
    let len = ids.len();
    let tensor =
        |values: Vec<i32>| Tensor::<2, Int>::from_data(TensorData::new(values, [1, len]), &device);
    let input = ModelInput {
        ids: tensor(ids),
        positions: tensor((0..len as i32).collect()),
        mask: mask::causal(len, &device),
    };
    Checkpoint::open(dir, &device).unwrap().model.forward(input).into_data().iter().collect()
}

#[test]
fn extend_peers_open_the_export_and_compute_the_same() {
    // Without it nothing is compared, which the script says.
    let Ok(python) = std::env::var("CALUMMA_POST_TRAINING_PYTHON") else { return };
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("checkpoints/demo");
    for name in ["llama-gqa", "qwen3-tied"] {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        let text_model = fixture("architectures").join(name);
        Extension::default().run(&text_model, &demo, &at("new")).unwrap();
        Conversion::to(Layout::HuggingFace).run(&at("new"), &at("hf")).unwrap();
        let found = peer(&python, &text_model, &at("hf"), &at("out.json"));
        let ours = logits(&at("new"), &found["ids"]);
        let theirs: Vec<f32> = serde_json::from_value(found["logits"].clone()).unwrap();
        assert_eq!(ours.len(), theirs.len());
        let worst = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let (old, difference) = (ours.len() / 40 - 1044, found["difference"].as_f64().unwrap());
        println!(
            "{name}: {worst:.1e} from transformers; there {difference:.1e} from before on {old} ids"
        );
        assert!(worst < 1e-4 && difference < 1e-6, "{worst} {difference}");
        assert_eq!(found["block"], json!([298, 320, 1343, 299]));
        assert_eq!(found["roles"], json!(["<|vision_start|>", "<|vision_end|>", "<|image|>"]));
        assert_eq!(found["names"][20], json!("<|visual token 000000|>"));
        assert_eq!(found["names"][1], json!("<|hole 000301|>"));
    }
}
