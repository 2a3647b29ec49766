//! From shards to samples on a few documents: packing, training, checkpoint, generation. Memorised documents
//! are generated again, id by id.

use std::path::Path;

use calumma::checkpoint::{Checkpoint, Manifest};
use calumma::data::shards::{ShardContent, tokenizer_digest};
use calumma::device::Precision;
use calumma::generate::{
    GenerationConfig, GenerationMode, Generator, SamplingConfig, ServingModel,
};
use calumma::report::Reporter;
use calumma::tokenize::{CodedSegment, Processor, TokenSequence};
use calumma::train::{Better, LanguageRecipe, LanguageTask, StopFlag, Task, run};
use vq_tokenizer::Codes;

use crate::common::{cpu, tiny_checkpoint};
use crate::train::recipe;

pub const RECIPE: &str = r#"
[run]
name = "overfit"
seed = 4
steps = 360
checkpoint_every = 1000
shown = 2
[model]
hidden_size = 64
intermediate_size = 128
num_hidden_layers = 2
num_attention_heads = 4
max_position_embeddings = 96
initializer_range = 0.05
[optimizer]
lr = 6e-3
weight_decay = 0.0
eps = 1e-8
[schedule]
warmup = 20
[loss]
z_loss = 0.0
[batch]
sequences = 8
seq_len = 96
"#;

/// Text, image, text, image; no two documents start with the same word.
fn document(number: usize, processor: &Processor) -> TokenSequence {
    let image = |salt: usize| Codes {
        ids: (0..16).map(|at| ((number * 131 + salt * 977 + at * at * 37) % 24) as u32).collect(),
        height: 4,
        width: 4,
    };
    let names = ["square", "circle", "colour", "blue", "red", "what", "is it", "a"];
    processor
        .document(&[
            CodedSegment::text(format!("{} one", names[number])),
            CodedSegment::Image(image(1)),
            CodedSegment::text(format!("then {}", names[7 - number])),
            CodedSegment::Image(image(2)),
        ])
        .unwrap()
}

/// Writes a tokenizer and a shard of `documents` to `dir`; returns what makes a recipe train and validate on
/// them.
pub fn prepare(
    dir: &Path,
    documents: impl FnOnce(&Processor) -> Vec<TokenSequence>,
) -> Vec<String> {
    let tokenizer = dir.join("tokenizer");
    tiny_checkpoint(&tokenizer);
    let processor = Checkpoint::open(&tokenizer, &cpu()).unwrap().processor;
    let image_digest = Manifest::of(&tokenizer.join("vq_tokenizer")).unwrap().digest();
    let shard = ShardContent {
        tokenizer: tokenizer_digest(&processor, &image_digest).unwrap(),
        made_of: "a test".to_owned(),
        sources: vec!["by heart".to_owned()],
        documents: documents(&processor).into_iter().map(|tokens| (tokens, 0)).collect(),
    };
    let path = dir.join("documents.safetensors");
    std::fs::write(&path, shard.to_bytes().unwrap()).unwrap();
    vec![
        format!("run.directory={:?}", dir.to_str().unwrap()),
        format!("tokenizer.checkpoint={:?}", tokenizer.to_str().unwrap()),
        format!("data=[{{ path = {path:?} }}]"),
        format!("validation=[{{ path = {path:?}, name = \"held out\" }}]"),
    ]
}

/// What was read for a step that failed is read again.
#[test]
fn an_undone_step_leaves_the_state_before_it() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    let overrides =
        prepare(dir, |processor| (0..8).map(|number| document(number, processor)).collect());
    let recipe: LanguageRecipe = recipe(dir, RECIPE, &overrides);
    let mut task = LanguageTask::new(recipe, &cpu(), Precision::F32, true).unwrap();
    task.step(0, 1e-3).unwrap();
    let saved = |task: &LanguageTask, name: &str| {
        let to = dir.join(name);
        std::fs::create_dir(&to).unwrap();
        task.save(&to).unwrap();
        std::fs::read(to.join("trainer").join("state.json")).unwrap()
    };
    let before = saved(&task, "before");
    task.preview().unwrap();
    assert!(task.undo());
    assert_eq!(saved(&task, "undone"), before);
    task.step(1, 1e-3).unwrap();
    assert!(saved(&task, "after") != before);
}

#[test]
fn eight_interleaved_documents_are_memorised_and_generated_again() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    let eight = |processor: &Processor| -> Vec<TokenSequence> {
        (0..8).map(|number| document(number, processor)).collect()
    };
    let overrides = prepare(dir, eight);
    let recipe: LanguageRecipe = recipe(dir, RECIPE, &overrides);
    let mut task = LanguageTask::new(recipe.clone(), &cpu(), Precision::F32, true).unwrap();
    let metrics = task.eval_metrics();
    assert!(metrics.iter().any(|(name, _)| name == "loss/held out"), "{metrics:?}");
    assert!(metrics.iter().all(|(_, better)| *better == Better::Lower), "{metrics:?}");
    let summary = run(&mut task, &recipe.plan(), Reporter::silent(), &StopFlag::default()).unwrap();
    let metric = |name: &str| {
        summary.evaluation.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
    };
    assert!(metric("image_loss").unwrap() < 0.02, "{:?}", summary.evaluation);
    // The first word cannot be predicted: each of eight, in some ten words of text.
    assert!(metric("text_loss").unwrap() < 0.5, "{:?}", summary.evaluation);
    // The only source has the loss of all.
    let (of_source, of_all) = (metric("loss/held out").unwrap(), metric("loss").unwrap());
    assert!((of_source - of_all).abs() < 1e-9 * of_all, "{of_source} {of_all}");

    let Checkpoint { config, model, processor, .. } =
        Checkpoint::open(&summary.checkpoint, &cpu()).unwrap();
    let model = ServingModel::new(config, model, cpu());
    let generator = Generator::new(&model, processor.vocabulary(), processor.grid()).unwrap();
    let greedy = SamplingConfig { greedy: true, repetition_penalty: 1.0, ..SamplingConfig::TEXT };
    let config = GenerationConfig {
        mode: GenerationMode::Auto,
        max_new_tokens: Some(96),
        text: greedy,
        image: greedy,
        guidance_scale: 1.0,
        ..GenerationConfig::default()
    };
    for (number, document) in eight(&processor).iter().enumerate() {
        let begin_image = processor.vocabulary().special().begin_image.unwrap();
        let cut = document.ids.iter().position(|id| *id == begin_image).unwrap();
        let generated = generator.generate(&document.ids[..cut], &config, |_| Ok(())).unwrap();
        assert_eq!(generated.ids, document.ids[cut..], "document {number}");
        assert_eq!(generated.images.len(), 2);
    }
}
