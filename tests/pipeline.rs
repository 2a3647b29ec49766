//! A pipeline with random weights: properties that hold whatever the model has learned.

use std::path::Path;

use burn::module::Module;
use burn::tensor::TensorData;
use calumma::Error;
use calumma::checkpoint::Checkpoint;
use calumma::generate::sampling::log_probability;
use calumma::generate::{EndReason, GenerationConfig, GenerationMode};
use calumma::model::ModelConfig;
use calumma::pipeline::{Choices, Pipeline, PipelineEvent};
use calumma::tokenize::{
    BpeConfig, CodedSegment, EncodeOptions, Processor, PromptTemplates, Segment, train_bpe,
};
use image::{Rgb, RgbImage};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vq_tokenizer::preprocess::PreprocessorConfig;
use vq_tokenizer::{VqConfig, VqTokenizer};

use crate::common::cpu;

const SIDE: u32 = 16;
const CODES: usize = 24;
const CONTEXT: usize = 96;

/// `model` with matrices drawn from a fixed seed: other tests share the device's random stream.
fn redrawn<M: Module>(model: M, scale: f32) -> M {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut tensors = tensor_files::collect(&model);
    for tensor in tensors.values_mut().filter(|tensor| tensor.shape().len() > 1) {
        let shape = tensor.shape().to_vec();
        let values = (0..shape.iter().product()).map(|_| scale * rng.random_range(-1.0_f32..1.0));
        *tensor = TensorData::new(values.collect(), shape);
    }
    tensor_files::load(model, tensors, Path::new("redrawn")).unwrap()
}

fn checkpoint() -> Checkpoint {
    let device = cpu();
    let vq_config: VqConfig = serde_json::from_value(serde_json::json!({
        "base_channels": 32, "channel_multiplier": [1, 1, 1], "num_res_blocks": 1,
        "attn_resolutions": [], "latent_channels": 8, "embed_dim": 8,
        "num_embeddings": CODES, "resolution": SIDE,
    }))
    .unwrap();
    let side = SIDE as usize / vq_config.downsampling();
    let vq = redrawn(vq_config.init(&device), 0.1);
    let preprocessor = PreprocessorConfig::original(SIDE as usize);
    let bpe = BpeConfig { vocab_size: 400, num_codes: CODES, ..BpeConfig::default() };
    let text = train_bpe(&bpe, ["what colour is it? a red square, a blue circle"]).unwrap();
    let processor = Processor::new(text, (side, side)).unwrap();
    let config = ModelConfig {
        vocab_size: processor.vocabulary().len(),
        hidden_size: 32,
        intermediate_size: 64,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        max_position_embeddings: CONTEXT,
        ..ModelConfig::default()
    };
    Checkpoint {
        model: redrawn(config.init(&device).unwrap(), 0.4),
        config,
        processor,
        vq: Some(VqTokenizer::new(vq_config, preprocessor, vq, device)),
        generation: GenerationConfig { guidance_scale: 2.0, ..GenerationConfig::default() },
        prompts: PromptTemplates::default(),
        digest: None,
    }
}

fn pipeline() -> Pipeline {
    Pipeline::new(checkpoint(), &cpu()).unwrap()
}

fn image(shade: u8) -> RgbImage {
    RgbImage::from_fn(SIDE + 9, SIDE, |x, y| Rgb([shade, (9 * x) as u8, (13 * y) as u8]))
}

/// Continues `prompt` and asserts that the events add up to the segments returned.
fn generate_and_compare(pipeline: &Pipeline, prompt: &[u32], seed: u64) -> Vec<Segment> {
    let config = GenerationConfig { seed, ..pipeline.generation().clone() };
    let (mut told, mut begun, mut ends) = (Vec::new(), 0, Vec::new());
    let on_event = |event| {
        match (event, told.last_mut()) {
            (PipelineEvent::Text(chunk), Some(Segment::Text(text))) => text.push_str(&chunk),
            (PipelineEvent::Text(chunk), _) => told.push(Segment::Text(chunk)),
            (PipelineEvent::Image(image), _) => told.push(Segment::Image(image)),
            (PipelineEvent::ImageStart, _) => begun += 1,
            (PipelineEvent::End(reason), _) => ends.push(reason),
            (PipelineEvent::ImageProgress { .. }, _) => {}
        }
        Ok(())
    };
    let segments = pipeline.generate_from_ids(prompt, &config, on_event).unwrap();
    assert_eq!(segments, told);
    assert!(matches!(ends[..], [EndReason::Stop(_) | EndReason::Context]));
    let images = segments.iter().filter(|segment| matches!(segment, Segment::Image(_))).count();
    assert_eq!(images, begun);
    segments
}

#[test]
fn events_add_up_to_the_segments_returned() {
    let pipeline = pipeline();
    let processor = pipeline.processor();
    let text = [CodedSegment::text("a red")];
    let open = EncodeOptions { open_image: true, ..EncodeOptions::default() };
    for seed in 0..6 {
        generate_and_compare(&pipeline, &processor.encode(&text).unwrap(), seed);
        let drawing = processor.encode_with(&text, open).unwrap();
        let segments = generate_and_compare(&pipeline, &drawing, seed);
        assert!(matches!(segments[0], Segment::Image(_)));
    }
}

#[test]
fn images_of_a_prompt_are_encoded_as_their_codes() {
    let pipeline = pipeline();
    let (first, second) = (image(90), image(30));
    let text = |text: &str| Segment::Text(text.into());
    let prompt = [text("a"), Segment::Image(first.clone()), Segment::Image(second.clone())];
    let codes = pipeline.vq().unwrap().encode(&[first, second]).unwrap();
    let [one, two] = <[_; 2]>::try_from(codes).unwrap();
    assert_ne!(one, two);
    let coded = [CodedSegment::text("a"), CodedSegment::Image(one), CodedSegment::Image(two)];
    let ids = pipeline.processor().encode(&coded).unwrap();
    let config = pipeline.generation().clone();
    let from_segments = pipeline.generate(&prompt, &config, |_| Ok(())).unwrap();
    let from_ids = pipeline.generate_from_ids(&ids, &config, |_| Ok(())).unwrap();
    assert_eq!(from_segments, from_ids);
}

#[test]
fn an_image_has_the_trained_size_and_depends_on_the_seed_alone() {
    let pipeline = pipeline();
    let one = pipeline.draw("a red square").unwrap();
    assert_eq!(one.dimensions(), (SIDE, SIDE));
    assert_eq!(one, pipeline.draw("a red square").unwrap());
    let config = pipeline.generation().clone();
    let batch = pipeline.draw_batch(&["a red square", "a red square", "it"], &config).unwrap();
    assert_eq!(batch[0], one);
    let second = GenerationConfig { seed: 1, ..config };
    assert_eq!(batch[1], pipeline.draw_batch(&["a red square"], &second).unwrap()[0]);
    assert_ne!(batch[0], batch[1]);
}

#[test]
fn the_candidate_kept_does_not_depend_on_the_other_texts() {
    let pipeline = pipeline();
    let config =
        |candidates, seed| GenerationConfig { candidates, seed, ..pipeline.generation().clone() };
    let texts = ["a red square", "it", "a blue circle"];
    let kept = pipeline.draw_batch(&texts, &config(3, 7)).unwrap();
    let round = |k: u64| pipeline.draw_batch(&texts, &config(1, 7 + (k << 32))).unwrap();
    let rounds: Vec<Vec<RgbImage>> = (0..3).map(round).collect();
    for (index, image) in kept.iter().enumerate() {
        assert!(rounds.iter().any(|round| round[index] == *image));
    }
    assert!(kept != rounds[0], "the first candidate always wins");
    let alone = pipeline.draw_batch(&texts[1..2], &config(3, 8)).unwrap();
    assert_eq!(alone[0], kept[1]);
}

#[test]
fn questions_and_captions_are_answered_the_same_in_a_batch() {
    let pipeline = pipeline();
    let config = pipeline.generation().clone().for_answers();
    let images = [image(10), image(200), image(90)];
    let questions = ["what colour is it?", "it?", "a square or a circle, what is it?"];
    let answers = pipeline.ask_batch(&images, &questions, &config).unwrap();
    let captions = pipeline.caption_batch(&images, &config).unwrap();
    for (index, image) in images.iter().enumerate() {
        assert_eq!(pipeline.ask(image, questions[index]).unwrap(), answers[index]);
        assert_eq!(pipeline.caption(image).unwrap(), captions[index]);
    }
    assert!(pipeline.ask_batch(&images, &questions[..1], &config).is_err());
    assert!(pipeline.caption_batch(&[], &config).unwrap().is_empty());
}

#[test]
fn a_prompt_longer_than_the_context_is_an_error_with_both_numbers() {
    let pipeline = pipeline();
    let error = pipeline.draw(&"what colour? ".repeat(CONTEXT)).unwrap_err();
    assert!(error.to_string().contains("does not fit the context of 96 ids"), "{error}");
    assert!(matches!(error, Error::PromptTooLong { context: CONTEXT, prompt: 97.., .. }));
    assert_eq!(error.exit_code(), 3);
}

#[test]
fn without_an_image_tokenizer_there_is_text_only() {
    let pipeline = Pipeline::new(Checkpoint { vq: None, ..checkpoint() }, &cpu()).unwrap();
    let prompt = [Segment::Text("a red".into())];
    for seed in 0..6 {
        let config = GenerationConfig { seed, ..GenerationConfig::default() };
        let segments = pipeline.generate(&prompt, &config, |_| Ok(())).unwrap();
        assert!(segments.iter().all(|segment| matches!(segment, Segment::Text(_))));
    }
    let config =
        GenerationConfig { mode: GenerationMode::ImageOnly, ..GenerationConfig::default() };
    for error in [
        pipeline.generate(&prompt, &config, |_| Ok(())).unwrap_err(),
        pipeline.draw("a red square").unwrap_err(),
        pipeline.caption(&image(3)).unwrap_err(),
    ] {
        assert!(matches!(error, Error::NoImageTokenizer), "{error}");
        assert_eq!(error.exit_code(), 3);
    }
}

#[test]
fn a_template_needs_exactly_one_image_for_each_given() {
    let pipeline = pipeline();
    for (template, found) in [("{question}<sep>", 0), ("<image><image>{question}", 2)] {
        let asking = pipeline.asking(template, &[]).unwrap();
        let error = asking.prompts(&[image(1)], &["it?"]).unwrap_err();
        let Error::ImageCount { marks, images, .. } = error else { panic!("{error}") };
        assert_eq!((marks, images), (found, 1));
    }
    assert!(pipeline.asking("<image>{question", &[]).is_err());
}

#[test]
fn prompt_templates_are_checked_when_a_checkpoint_is_opened() {
    let prompts = PromptTemplates { ask: "{question}".into(), ..PromptTemplates::default() };
    let device = cpu();
    let error = Pipeline::new(Checkpoint { prompts, ..checkpoint() }, &device).unwrap_err();
    assert!(error.to_string().contains("prompts.ask"), "{error}");
}

#[test]
fn the_most_likely_choice_is_taken_by_sum_or_by_length() {
    let pipeline = pipeline();
    let texts: Vec<String> =
        ["red", "a red", "a red square", "blue", "circle"].map(str::to_owned).into();
    let asking = pipeline.asking("<image><sep>", &[]).unwrap();
    let images: Vec<RgbImage> = (0..6).map(|n| image(40 * n)).collect();
    let nothing = vec![""; images.len()];
    let prompts = asking.prompts(&images, &nothing).unwrap();
    for by_length in [false, true] {
        let choices = Choices::new(&pipeline, texts.clone(), by_length).unwrap();
        let chosen = asking.choose(&images, &nothing, &choices).unwrap();
        for (prompt, chosen) in prompts.iter().zip(chosen) {
            // "a red" begins "a red square", so the end of each counts.
            let end = pipeline.processor().vocabulary().special().sep.unwrap();
            let fit = |text: &String| {
                let ids = pipeline.processor().text().encode_plain(text).unwrap();
                let ids = [&ids[..], &[end]].concat();
                let logits = pipeline.model().all_logits(&[&prompt[..], &ids].concat()).unwrap();
                let of_choice = logits[prompt.len() - 1..].iter().zip(&ids);
                let sum: f64 = of_choice.map(|(logits, &id)| log_probability(logits, id)).sum();
                if by_length { sum / text.len() as f64 } else { sum }
            };
            let best = texts.iter().map(fit).fold(f64::NEG_INFINITY, f64::max);
            assert!((fit(&chosen) - best).abs() < 1e-4, "{chosen}");
        }
    }
    assert!(Choices::new(&pipeline, vec![], false).is_err());
    assert!(Choices::new(&pipeline, vec![String::new()], false).is_err());
}
