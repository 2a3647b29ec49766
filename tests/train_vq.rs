//! Every way of training an image tokenizer: it runs, it shows what it did, and it resumes exactly.

use std::path::Path;

use calumma::train::{ImageTask, Recipe, VqRecipe};
use image::GenericImageView;
use vq_tokenizer::VqTokenizer;

use crate::common::cpu;
use crate::train::{VQ, assert_same_bits, in_dir, newest, recipe, train};

/// Changes to the recipe, one run each.
const WAYS: [(&str, &[&str]); 8] = [
    ("vq", &["model.quantizer={kind=\"vq\",gradient=\"rotation\"}", "warmup.codebook=\"k-means\""]),
    ("ema", &["model.quantizer={kind=\"ema\",decay=0.9}"]),
    ("l2", &["model.quantizer={kind=\"l2\"}"]),
    ("simvq", &["model.quantizer={kind=\"simvq\"}"]),
    ("ibq", &["model.quantizer={kind=\"ibq\"}", "loss.entropy=0.05"]),
    ("fsq", &["model.quantizer={kind=\"fsq\",levels=[8,3]}", "model.embed_dim=2"]),
    (
        "lfq",
        &[
            "model.quantizer={kind=\"lfq\"}",
            "model.embed_dim=5",
            "model.num_embeddings=32",
            "loss.entropy=0.1",
        ],
    ),
    (
        "everything",
        &[
            "adversarial={weight=0.1,start_step=4,lecam=0.01,channels=8,layers=1}",
            "semantic={weight=0.1,words=32,hidden=8}",
            "average={decay=0.9}",
            "batch={images=2,accumulate=2}",
            "loss.ms_ssim=0.5",
            "data=[{path=\"scenes:train?count=64&seed=1&size=32&objects=1-1\",words=[\"captions\"],\
             augment={flip=true,scale=0.2,colour=0.1}}]",
        ],
    ),
];

fn way(dir: &Path, name: &str, changes: &[&str]) -> VqRecipe {
    let mut overrides = in_dir(dir, name);
    overrides.extend(["run.steps=8".to_owned(), "codebook.after_steps=2".to_owned()]);
    overrides.extend(changes.iter().map(|change| (*change).to_owned()));
    recipe(dir, VQ, &overrides)
}

#[test]
fn every_way_of_training_resumes_exactly() {
    // In a process of its own, as in `train`.
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["train_vq::every_way_alone_in_its_process", "--exact", "--ignored"])
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
#[ignore = "every_way_of_training_resumes_exactly runs it"]
fn every_way_alone_in_its_process() {
    for (name, changes) in WAYS {
        let scratch = tempfile::tempdir().unwrap();
        let run = |folder: &str, stops: &[Option<usize>]| {
            let recipe = way(scratch.path(), folder, changes);
            for stop in stops {
                train(ImageTask::new(recipe.clone(), &cpu()).unwrap(), &recipe.run, *stop);
            }
            newest(&recipe.run)
        };
        let straight = run("straight", &[None]);
        assert_same_bits(&straight, &run("stopped", &[Some(6), None]));
        // The result is a tokenizer like any other, and there is something to look at.
        let tokenizer = VqTokenizer::load(&straight, &cpu()).unwrap();
        let picture = image::RgbImage::from_fn(16, 16, |x, y| image::Rgb([x as u8, y as u8, 9]));
        let codes = tokenizer.encode(&[picture]).unwrap();
        assert_eq!(tokenizer.decode(&codes).unwrap()[0].dimensions(), (16, 16), "{name}");
        let shown = straight.parent().unwrap().join("samples/step-0000008.png");
        assert!(image::open(shown).unwrap().dimensions().0 > 100, "{name}");
    }
}

#[test]
fn what_cannot_be_trained_is_refused_with_the_key() {
    let scratch = tempfile::tempdir().unwrap();
    let refused = |changes: &[&str], told: &str| {
        let mut recipe = way(scratch.path(), "r", &[]);
        match changes {
            ["levels"] => {
                recipe.model.quantizer =
                    serde_json::from_str(r#"{"kind": "fsq", "levels": [4, 4]}"#).unwrap();
            }
            ["bits"] => {
                recipe.model.quantizer = serde_json::from_str(r#"{"kind": "lfq"}"#).unwrap()
            }
            ["critic"] => recipe.adversarial.layers = 9,
            ["words"] => recipe.semantic.weight = 1.0,
            ["perceptual"] => recipe.perceptual.weight = 1.0,
            _ => recipe.average.decay = 1.0,
        }
        let message = recipe.validate().unwrap_err().to_string();
        assert!(message.contains(told), "{message}");
    };
    refused(&["levels"], "quantizer.levels is [4, 4]; allowed: embed_dim (8) numbers");
    refused(&["bits"], "lfq has a bit for each channel");
    refused(&["critic"], "adversarial.layers is 9; allowed: 1 to 5");
    refused(&["words"], "semantic.weight needs a source with words");
    refused(&["perceptual"], "perceptual.weight needs perceptual.weights");
    refused(&[], "average.decay is 1; allowed: [0, 1)");
}
