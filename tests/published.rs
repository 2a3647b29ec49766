//! Settings of published models, which have no prompts of their own.

use calumma::checkpoint::{Checkpoint, Conversion, Layout};
use calumma::generate::Preset;

use crate::checkpoint::copied;
use crate::common::{cpu, fixture};

#[test]
fn settings_beside_a_published_model_count_one_by_one() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("hf");
    copied(&fixture("models/prenorm-gqa"), &dir);
    let settings = r#"{"temperature": 0.5, "guidance_scale": 2.0, "modality": null, "eos_token_id": 2,
        "image": {"top_k": 7}, "pad_token_id": 1}"#;
    std::fs::write(dir.join("generation_config.json"), settings).unwrap();
    let found = Checkpoint::open(&dir, &cpu()).unwrap().generation;
    let mut expected = Preset::Chameleon.config();
    (expected.text.temperature, expected.guidance_scale) = (0.5, 2.0);
    (expected.image.top_k, expected.stop_ids) = (Some(7), vec![2]);
    assert_eq!(found, expected);
    let converted = scratch.path().join("converted");
    Conversion::to(Layout::Calumma).run(&dir, &converted).unwrap();
    assert_eq!(Checkpoint::open(&converted, &cpu()).unwrap().generation, expected);
    let settings = r#"{"temperature": -1}"#;
    std::fs::write(dir.join("generation_config.json"), settings).unwrap();
    let error = Checkpoint::open(&dir, &cpu()).unwrap_err().to_string();
    assert!(error.contains("generation_config.json: ") && error.contains("-1"), "{error}");
}
