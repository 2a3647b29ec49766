//! Training the image tokenizer with every quantizer and loss: samples are shown and a resumed run is exact;
//! images of several sizes, and activations in bfloat16.

use std::path::{Path, PathBuf};

use burn::tensor::DType;
use calumma::data::{BpeRecipe, corpus};
use calumma::device::Precision;
use calumma::pipeline::Pipeline;
use calumma::recipe::{Recipe, read_recipe};
use calumma::tokenize::train_bpe;
use calumma::train::{ImageShape, ImageTask, LanguageRecipe, LanguageTask, Task, VqRecipe};
use image::{GenericImageView, RgbImage};
use vq_tokenizer::VqTokenizer;
use vq_tokenizer::preprocess::PreprocessorConfig;

use crate::common::cpu;
use crate::train::{BPE, LM, VQ, assert_same_bits, in_dir, newest, recipe, train};

/// Variants of the recipe: a name and the changes.
const VARIANTS: [(&str, &[&str]); 8] = [
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

fn variant(dir: &Path, name: &str, changes: &[&str]) -> VqRecipe {
    let mut overrides = in_dir(dir, name);
    overrides.extend(["run.steps=8".to_owned(), "codebook.after_steps=2".to_owned()]);
    overrides.extend(changes.iter().map(|change| (*change).to_owned()));
    recipe(dir, VQ, &overrides)
}

#[test]
fn every_variant_resumes_exactly() {
    // In a separate process, as in `train`.
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["train_vq::every_variant_in_a_separate_process", "--exact", "--ignored"])
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
#[ignore = "every_variant_resumes_exactly runs it"]
fn every_variant_in_a_separate_process() {
    for (name, changes) in VARIANTS {
        let scratch = tempfile::tempdir().unwrap();
        let straight = resumes_exactly(scratch.path(), changes, Precision::F32);
        // The result opens as a tokenizer, and there are samples.
        let tokenizer = VqTokenizer::load(&straight, &cpu()).unwrap();
        let codes = tokenizer.encode(&[image(16, 16)]).unwrap();
        assert_eq!(tokenizer.decode(&codes).unwrap()[0].dimensions(), (16, 16), "{name}");
        let shown = straight.parent().unwrap().join("samples/step-0000008.png");
        assert!(image::open(shown).unwrap().dimensions().0 > 100, "{name}");
    }
    images_of_several_sizes();
    activations_in_bfloat16();
}

/// Trains without and with a stop, to the same bits. Returns the checkpoint.
fn resumes_exactly(dir: &Path, changes: &[&str], precision: Precision) -> PathBuf {
    let run = |folder: &str, stops: &[Option<usize>]| {
        let recipe = variant(dir, folder, changes);
        for stop in stops {
            let task = ImageTask::new(recipe.clone(), &cpu(), precision).unwrap();
            train(task, &recipe.run, *stop);
        }
        newest(&recipe.run)
    };
    let straight = run("straight", &[None]);
    assert_same_bits(&straight, &run("stopped", &[Some(6), None]));
    straight
}

fn image(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        image::Rgb([(x * 7 % 256) as u8, (y * 5 % 256) as u8, (x * y % 90) as u8])
    })
}

/// A directory of images with several aspect ratios.
fn folder(dir: &Path) -> String {
    let lines = [(90, 30), (40, 40), (30, 70), (96, 32), (64, 48)].map(|(width, height)| {
        let name = format!("{width}x{height}.png");
        image(width, height).save(dir.join(&name)).unwrap();
        format!("{{\"file_name\": {name:?}, \"caption\": \"{width} by {height}\"}}")
    });
    std::fs::write(dir.join("metadata.jsonl"), lines.join("\n")).unwrap();
    dir.to_str().unwrap().to_owned()
}

fn images_of_several_sizes() {
    let (scratch, images) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = folder(images.path());
    let changes = [
        "model.resolution=32".to_owned(),
        "images.shape=\"flexible\"".to_owned(),
        format!("data=[{{path={path:?},augment={{flip=true,shift=2,scale=0.2}}}}]"),
        format!("validation=[{{path={path:?}}}]"),
        "batch={images=3,accumulate=2}".to_owned(),
        "model.quantizer={kind=\"ema\",decay=0.9}".to_owned(),
        "warmup={autoencoder_steps=2,codebook=\"k-means\"}".to_owned(),
        "adversarial={weight=0.1,start_step=4,lecam=0.01,channels=8,layers=1}".to_owned(),
        "loss.ms_ssim=0.5".to_owned(),
    ];
    let changes: Vec<&str> = changes.iter().map(String::as_str).collect();
    let straight = resumes_exactly(scratch.path(), &changes, Precision::F32);
    let tokenizer = VqTokenizer::load(&straight, &cpu()).unwrap();
    // A code is two pixels wide; sizes are multiples of two codes.
    assert_eq!(tokenizer.preprocessor(), &PreprocessorConfig::flexible_original(32, 4));
    let codes = tokenizer.encode(&[image(120, 40), image(40, 40)]).unwrap();
    let grids: Vec<_> = codes.iter().map(|codes| (codes.height, codes.width)).collect();
    assert_eq!(grids, [(8, 24), (16, 16)]);
    assert_eq!(tokenizer.decode(&codes).unwrap()[0].dimensions(), (48, 16));
    let shown = straight.parent().unwrap().join("samples/step-0000008.png");
    assert!(image::open(shown).unwrap().dimensions().0 > 100);
}

fn activations_in_bfloat16() {
    let scratch = tempfile::tempdir().unwrap();
    let changes = [
        "adversarial={weight=0.1,start_step=4,channels=8,layers=1}",
        "semantic={weight=0.1,words=32,hidden=8}",
        "average={decay=0.9}",
        "data=[{path=\"scenes:train?count=64&seed=1&size=32&objects=1-1\",words=[\"captions\"]}]",
    ];
    let trained = resumes_exactly(scratch.path(), &changes, Precision::Bf16);
    // The weights stay in f32: hardly any is exact in bfloat16.
    let (mut short, mut count) = (0, 0);
    for (name, weights) in tensor_files::read(&trained.join("model.safetensors")).unwrap() {
        assert_eq!(weights.dtype(), DType::F32, "{name}");
        short += weights.iter::<f32>().filter(|w| w.to_bits() & 0xffff == 0 && *w != 0.0).count();
        count += weights.num_elements();
    }
    assert!(100 * short < count, "{short} of {count}");
    // The first steps train a plain autoencoder, in which rounding changes no code.
    let losses = |precision| -> Vec<f64> {
        let recipe = variant(scratch.path(), "losses", &changes);
        let mut task = ImageTask::new(recipe, &cpu(), precision).unwrap();
        let loss = |step| task.step(step, 1e-3).unwrap().metrics[0].1;
        (0..4).map(loss).collect()
    };
    let (rounded, full) = (losses(Precision::Bf16), losses(Precision::F32));
    for (rounded, full) in rounded.iter().zip(&full) {
        assert!(rounded != full && (rounded - full).abs() < 0.03 * full, "{rounded} {full}");
    }
}

#[test]
fn skipped_steps_take_their_batches() {
    let scratch = tempfile::tempdir().unwrap();
    let run = |name: &str, lr: f64| {
        let recipe = variant(scratch.path(), name, &["batch={images=2,accumulate=2}"]);
        let mut task = ImageTask::new(recipe, &cpu(), Precision::F32).unwrap();
        let skipped: Vec<bool> =
            (0..3).map(|step| task.step(step, lr).unwrap().skipped.is_some()).collect();
        let dir = scratch.path().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        task.save(&dir).unwrap();
        let state = std::fs::read(dir.join("trainer/state.json")).unwrap();
        let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
        (skipped, state["cursor"].clone())
    };
    let (good, bad) = (run("good", 1e-3), run("bad", 1e38));
    assert_eq!((good.0, bad.0), (vec![false; 3], vec![false, true, true]));
    assert!(good.1.is_object());
    assert_eq!(good.1, bad.1);
}

#[test]
fn a_language_model_trains_on_images_of_any_aspect_ratio() {
    let scratch = tempfile::tempdir().unwrap();
    let (dir, images) = (scratch.path(), tempfile::tempdir().unwrap());
    let path = folder(images.path());
    let vq = variant(
        dir,
        "vq",
        &[
            "run.steps=3",
            "warmup.autoencoder_steps=1",
            "model.resolution=32",
            "images.shape=\"flexible\"",
            &format!("data=[{{path={path:?}}}]"),
            &format!("validation=[{{path={path:?}}}]"),
        ],
    );
    train(ImageTask::new(vq.clone(), &cpu(), Precision::F32).unwrap(), &vq.run, None);
    let bpe = |reserved: usize| {
        let size = format!("bpe.num_reserved={reserved}");
        let bpe: BpeRecipe = recipe(dir, BPE, &[size]);
        let texts = corpus(&bpe.data, bpe.run.documents, 1).unwrap().texts;
        let text = dir.join("tokenizer.json");
        train_bpe(&bpe.bpe, texts).unwrap().save(&text).unwrap();
        text
    };
    let lm = |text: &Path| -> LanguageRecipe {
        let mut changes = in_dir(dir, "lm");
        changes.extend([
            format!("tokenizer.checkpoint={:?}", newest(&vq.run).to_str().unwrap()),
            format!("tokenizer.text={:?}", text.to_str().unwrap()),
            format!(
                "data=[{{path={path:?},templates=[\"{{caption}}<image>\",\"<image><sep>{{caption}}\"]}}]"
            ),
            format!("validation=[{{path={path:?},templates=[\"{{caption}}<image>\"]}}]"),
            "model.max_position_embeddings=1200".to_owned(),
            "batch={sequences=2,seq_len=400}".to_owned(),
            "run.steps=3".to_owned(),
        ]);
        recipe(dir, LM, &changes)
    };
    // 64 pixels are 32 codes or 16 units of sizes.
    let few = lm(&bpe(112));
    let refused = few.tokenizer.open(&cpu()).unwrap_err().to_string();
    assert!(refused.contains("up to 30 codes") && refused.contains("at least 113"), "{refused}");
    let lm = lm(&bpe(113));
    train(LanguageTask::new(lm.clone(), &cpu(), Precision::F32, true).unwrap(), &lm.run, None);

    let pipeline = Pipeline::open(&newest(&lm.run), &cpu()).unwrap();
    assert!(pipeline.processor().blocks().are_sized());
    let wide = pipeline.vq().unwrap().encode(&[image(120, 40)]).unwrap();
    assert_eq!((wide[0].height, wide[0].width), (8, 24));
    pipeline.caption(&image(120, 40)).unwrap();
    let (width, height) = pipeline.draw("96 by 32").unwrap().dimensions();
    assert!(width.is_multiple_of(4) && height.is_multiple_of(4) && width.min(height) >= 4);
}

#[test]
fn unusable_image_shapes_are_refused_with_the_allowed_ones() {
    let scratch = tempfile::tempdir().unwrap();
    let refused = |changes: &[&str], told: &str| {
        let path = scratch.path().join("recipe.toml");
        std::fs::write(&path, VQ).unwrap();
        let changes: Vec<String> = changes.iter().map(|change| (*change).to_owned()).collect();
        let message = read_recipe::<VqRecipe>(&path, &changes).unwrap_err().to_string();
        assert!(message.contains(told), "{message}");
    };
    let flexible = "images.shape=\"flexible\"";
    refused(&["images.shape=\"round\""], "expected `square` or `flexible`");
    refused(&["images.shapes=\"square\""], "the nearest known key is `shape`");
    refused(&[flexible, "model.resolution=18"], "a multiple of 4, the pixels of 2 codes; it is 18");
    let small = "sides of at least 11 pixels; the shortest that images.shape flexible gives at a \
                 model.resolution of 16 is 8";
    refused(&[flexible], small);
    refused(&[flexible, "validation=[]", "loss.ms_ssim=0.5"], small);
    let critic = "adversarial={weight=0.1,layers=2}";
    refused(&[flexible, "model.resolution=20", critic], "which needs sides of at least 12 pixels");
    refused(
        &["model.resolution=8", "validation=[]", critic],
        "which needs a model.resolution of at least 12; it is 8",
    );
    let square = variant(scratch.path(), "r", &[]);
    assert_eq!(square.images.shape, ImageShape::Square);
    assert_eq!(square.preprocessor(), PreprocessorConfig::original(16));
}

#[test]
fn untrainable_recipes_are_refused_with_the_key() {
    let scratch = tempfile::tempdir().unwrap();
    let refused = |changes: &[&str], told: &str| {
        let mut recipe = variant(scratch.path(), "r", &[]);
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
