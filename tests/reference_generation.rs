//! The generator on the reference's tiny model, against the rules of the original release.
//!
//! The cases are `interleaved`, `image_only` and `image_edit` of `make_hf_fixtures.py`: greedy, with
//! three-way guidance. No choice there is close, so the ids are equal.

use calumma::checkpoint::Checkpoint;
use calumma::generate::{
    EndReason, GenerationConfig, GenerationMode, Generator, Request, ServingModel,
};
use calumma::model::ModelConfig;
use calumma::tokenize::{TextTokenizer, Vocabulary};

use crate::common::{Expected, cpu, fixture};

const MODEL: &str = "models/prenorm-gqa";
const GRID: (usize, usize) = (8, 8);

fn reference() -> (ServingModel, Vocabulary, Expected) {
    let json = std::fs::read_to_string(fixture(MODEL).join("config.json")).unwrap();
    let config: ModelConfig = serde_json::from_str(&json).unwrap();
    let model = config.init(&cpu()).unwrap();
    let model = Checkpoint::load_weights(&fixture(MODEL), &config, model).unwrap();
    let tokenizer = TextTokenizer::load(&fixture(MODEL).join("tokenizer.json")).unwrap();
    let expected = Expected::open(&format!("{MODEL}/expected.safetensors"));
    (ServingModel::new(config, model, cpu()), tokenizer.vocabulary().unwrap(), expected)
}

/// The original release's scales, greedy.
fn config(mode: GenerationMode) -> GenerationConfig {
    let release = GenerationConfig {
        guidance_scale: 3.0,
        image_guidance_scale: Some(1.2),
        mode,
        ..GenerationConfig::default()
    };
    release.greedy()
}

fn requests(prompts: &[Vec<u32>], config: &GenerationConfig) -> Vec<Request> {
    prompts.iter().map(|prompt| Request::new(prompt.clone(), config.clone())).collect()
}

#[test]
fn text_and_images_alternate_as_in_the_reference() {
    let (model, vocabulary, expected) = reference();
    let generator = Generator::new(&model, &vocabulary, GRID).unwrap();
    let (prompt, new) =
        (expected.ids("interleaved.prompt_ids"), expected.ids("interleaved.new_ids"));
    let config =
        GenerationConfig { max_new_tokens: Some(new.len()), ..config(GenerationMode::Auto) };
    let alone = generator.generate(&prompt, &config, |_| Ok(())).unwrap();
    assert_eq!(alone.ids, new);
    assert_eq!((alone.images.len(), alone.end), (1, EndReason::MaxNewTokens));

    // In a batch with rows of other lengths, which wait, draw and end at other times.
    let others = [prompt[..3].to_vec(), [&prompt[..], &prompt[1..]].concat()];
    let batch = requests(&[others[0].clone(), prompt, others[1].clone()], &config);
    let together = generator.run(batch, &mut |_, _| Ok(())).unwrap();
    assert_eq!(together[1], alone);
}

#[test]
fn images_are_drawn_as_in_the_reference_alone_and_in_one_batch() {
    let (model, vocabulary, expected) = reference();
    let generator = Generator::new(&model, &vocabulary, GRID).unwrap();
    let cases = ["image_only", "image_edit"];
    let prompts = cases.map(|case| expected.ids(&format!("{case}.prompt_ids")));
    let new = cases.map(|case| expected.ids(&format!("{case}.new_ids")));
    let mut config = config(GenerationMode::ImageOnly);
    config.image.temperature = 1.0;
    let batch = generator.run(requests(&prompts, &config), &mut |_, _| Ok(())).unwrap();
    for (case, prompt) in prompts.iter().enumerate() {
        let alone = generator.generate(prompt, &config, |_| Ok(())).unwrap();
        assert_eq!(alone.ids, new[case], "{}", cases[case]);
        assert_eq!(alone, batch[case]);
        assert_eq!(alone.images[0].ids.len(), GRID.0 * GRID.1);
    }
}
