//! The whole way on a few documents: shards, packing, training, checkpoint, sampling. What was learnt by
//! heart is written and drawn again, id by id.

use calumma::checkpoint::{Checkpoint, Manifest};
use calumma::data::shards::{ShardContent, tokenizer_digest};
use calumma::device::Precision;
use calumma::generate::{
    GenerationConfig, GenerationMode, Generator, SamplingConfig, ServingModel,
};
use calumma::report::Reporter;
use calumma::tokenize::{CodedSegment, Processor, TokenSequence};
use calumma::train::{LanguageRecipe, LanguageTask, StopFlag, run};
use vq_tokenizer::Codes;

use crate::common::{cpu, tiny_checkpoint};
use crate::train::recipe;

const RECIPE: &str = r#"
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

/// Text, image, text, image; every one different from its first word on.
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

#[test]
fn eight_interleaved_documents_are_learnt_by_heart_and_given_back() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    let tokenizer = dir.join("tokenizer");
    tiny_checkpoint(&tokenizer);
    let processor = Checkpoint::open(&tokenizer, &cpu()).unwrap().processor;
    let documents: Vec<TokenSequence> = (0..8).map(|n| document(n, &processor)).collect();

    let image_digest = Manifest::of(&tokenizer.join("vq_tokenizer")).unwrap().digest();
    let shard = ShardContent {
        tokenizer: tokenizer_digest(&processor, &image_digest).unwrap(),
        made_of: "eight documents".to_owned(),
        sources: vec!["by heart".to_owned()],
        documents: documents.iter().map(|tokens| (tokens.clone(), 0)).collect(),
    };
    let path = dir.join("eight.safetensors");
    std::fs::write(&path, shard.to_bytes().unwrap()).unwrap();

    let overrides = [
        format!("run.directory={:?}", dir.to_str().unwrap()),
        format!("tokenizer.checkpoint={:?}", tokenizer.to_str().unwrap()),
        format!("data=[{{ path = {path:?} }}]"),
        format!("validation=[{{ path = {path:?} }}]"),
    ];
    let recipe: LanguageRecipe = recipe(dir, RECIPE, &overrides);
    let mut task = LanguageTask::new(recipe.clone(), &cpu(), Precision::F32, true).unwrap();
    let summary = run(&mut task, &recipe.plan(), Reporter::silent(), &StopFlag::default()).unwrap();
    let metric = |name: &str| {
        summary.evaluation.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
    };
    assert!(metric("image_loss").unwrap() < 0.02, "{:?}", summary.evaluation);
    // The first word cannot be foreseen: an eighth each, over some ten words of text.
    assert!(metric("text_loss").unwrap() < 0.5, "{:?}", summary.evaluation);
    assert!(metric("loss/eight.safetensors").is_none());

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
    for (number, document) in documents.iter().enumerate() {
        let begin_image = processor.vocabulary().special().begin_image;
        let cut = document.ids.iter().position(|id| *id == begin_image).unwrap();
        let generated = generator.generate(&document.ids[..cut], &config, |_| Ok(())).unwrap();
        assert_eq!(generated.ids, document.ids[cut..], "document {number}");
        assert_eq!(generated.images.len(), 2);
    }
}
