//! Lumina-mGPT's layout: image blocks with their size, against its own rules step by step.

use std::path::Path;

use calumma::checkpoint::{Checkpoint, Conversion, Layout, Parts, weight_files, write_directory};
use calumma::generate::{
    EndReason, Event, GenerationConfig, GenerationMode, Generator, LanguageModel, Preset,
    ServingModel,
};
use calumma::model::ModelConfig;
use calumma::pipeline::{EditRequest, Pipeline, Region};
use calumma::tokenize::{
    BpeConfig, CodedSegment, EncodeOptions, Processor, TextTokenizer, train_bpe,
};
use image::RgbImage;
use tensor_files::{NamedTensors, StoredDtype, write_file};
use vq_tokenizer::preprocess::PreprocessorConfig;
use vq_tokenizer::{Codes, VqConfig, VqTokenizer};

use crate::common::cpu;

const CODES: usize = 24;
const CONTEXT: usize = 160;

fn text() -> TextTokenizer {
    let bpe =
        BpeConfig { vocab_size: 600, num_codes: CODES, num_reserved: 112, ..BpeConfig::default() };
    train_bpe(&bpe, ["describe the image in detail, a red square"]).unwrap()
}

fn processor() -> Processor {
    Processor::new(text(), (4, 4)).unwrap().sized().unwrap()
}

fn config() -> ModelConfig {
    ModelConfig {
        vocab_size: text().vocabulary().unwrap().len(),
        hidden_size: 32,
        intermediate_size: 48,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        max_position_embeddings: CONTEXT,
        initializer_range: 0.2,
        ..ModelConfig::default()
    }
}

fn model() -> ServingModel {
    let device = cpu();
    ServingModel::new(config(), config().init(&device).unwrap(), device)
}

fn named(processor: &Processor, name: &str) -> u32 {
    processor.vocabulary().control_id(name).unwrap()
}

fn codes(rows: usize, columns: usize) -> Codes {
    let ids = (0..rows * columns).map(|at| (at % CODES) as u32).collect();
    Codes { ids, height: rows, width: columns }
}

#[test]
fn an_image_block_begins_with_its_size_and_ends_every_row() {
    let processor = processor();
    let image = CodedSegment::Image(codes(2, 4));
    let document = [CodedSegment::text("a"), image, CodedSegment::text("red")];
    let ids = processor.encode(&document).unwrap();
    let start = ids
        .iter()
        .position(|id| *id == processor.vocabulary().special().begin_image.unwrap())
        .unwrap();
    let (high, wide) = (named(&processor, "<reserved08801>"), named(&processor, "<reserved08802>"));
    let line = named(&processor, "<reserved08799>");
    let code = |code: u32| processor.vocabulary().image_id(code).unwrap();
    let block: Vec<u32> = [high, wide]
        .into_iter()
        .chain((0..4).map(code))
        .chain([line])
        .chain((4..8).map(code))
        .chain([line])
        .collect();
    assert_eq!(ids[start + 1..start + 13], block[..]);
    assert_eq!(ids[start + 13], processor.vocabulary().special().end_image.unwrap());
    assert_eq!(processor.decode(&ids).unwrap(), document);
    for rows in [1, 2, 3, 6] {
        let ids = processor.encode(&[CodedSegment::Image(codes(rows * 2, 2))]).unwrap();
        assert_eq!(processor.decode(&ids).unwrap(), [CodedSegment::Image(codes(rows * 2, 2))]);
        for len in 2..ids.len() - 1 {
            assert!(processor.decode(&ids[..len]).is_err(), "cut to {len} of {rows} rows");
        }
    }
    for (rows, columns) in [(3, 2), (2, 1), (0, 2), (2, 300)] {
        let message = processor.encode(&[CodedSegment::Image(codes(rows, columns))]).unwrap_err();
        assert!(message.to_string().contains("even numbers to"), "{message}");
    }
}

fn argmax(logits: &[f32], allowed: impl Fn(u32) -> bool) -> u32 {
    let allowed = (0..logits.len() as u32).filter(|id| allowed(*id));
    allowed.max_by(|a, b| logits[*a as usize].total_cmp(&logits[*b as usize])).unwrap()
}

/// The rules of the reference's two logits processors, computed from whole rows at every step.
#[test]
fn an_image_is_drawn_by_the_rules_of_the_reference() {
    let (model, processor) = (model(), processor());
    let vocabulary = processor.vocabulary();
    let begin = vocabulary.special().begin_image.unwrap();
    let scale = 4.0;
    let generator = Generator::new(&model, vocabulary, processor.blocks().clone()).unwrap();
    for prompt in ["a red square", "describe", "the image in detail"] {
        let prompt = processor.encode(&[CodedSegment::text(prompt), CodedSegment::sep()]).unwrap();
        let settings =
            GenerationConfig { mode: GenerationMode::ImageOnly, ..Preset::Lumina.config() };
        let settings = GenerationConfig { guidance_scale: scale, ..settings.greedy() };
        let mut progress = Vec::new();
        let made = generator
            .generate(&prompt, &settings, |event| {
                if let Event::ImageProgress { done, total, .. } = event {
                    progress.push((done, total));
                }
                Ok(())
            })
            .unwrap();
        assert_eq!((made.ids[0], made.end), (begin, EndReason::ImageComplete));
        let side = |id: u32| processor.blocks().side(id);
        let (rows, columns) = (side(made.ids[1]).unwrap(), side(made.ids[2]).unwrap());
        assert_eq!((made.images[0].height, made.images[0].width), (rows, columns));
        assert_eq!(made.ids.len(), 3 + rows * (columns + 1));
        let total = rows * columns;
        assert!(progress.into_iter().eq((1..=total).map(|done| (done, total))));
        let start = prompt.len();
        let whole = [prompt, made.ids].concat();
        let smallest = |rows: usize| 1 + rows * 3;
        for (at, &id) in whole.iter().enumerate().skip(start + 1) {
            let full = model.all_logits(&whole[..at]).unwrap().pop().unwrap();
            let since = at - start - 1;
            let room = CONTEXT - at;
            let wanted = match since {
                0 => argmax(&full, |id| side(id).is_some_and(|rows| room > smallest(rows))),
                1 => {
                    argmax(&full, |id| side(id).is_some_and(|columns| room > rows * (columns + 1)))
                }
                _ if (since - 2) % (columns + 1) == columns => {
                    processor.blocks().new_line().unwrap()
                }
                _ => {
                    let none = model.all_logits(&whole[start..at]).unwrap().pop().unwrap();
                    let mixed: Vec<f32> = full
                        .iter()
                        .zip(&none)
                        .map(|(full, none)| scale * (full - none) + none)
                        .collect();
                    argmax(&mixed, |id| vocabulary.image_code(id).is_some())
                }
            };
            assert_eq!(id, wanted, "id {since} of the block of {rows}x{columns}");
        }
    }
}

#[test]
fn text_and_images_alternate_and_every_block_is_complete() {
    let (model, processor) = (model(), processor());
    let generator =
        Generator::new(&model, processor.vocabulary(), processor.blocks().clone()).unwrap();
    let open = EncodeOptions { open_image: true, ..EncodeOptions::default() };
    let prompt = processor.encode_with(&[CodedSegment::text("a")], open).unwrap();
    for seed in 0..20 {
        let settings =
            GenerationConfig { mode: GenerationMode::Auto, seed, ..Preset::Lumina.config() };
        let made = generator.generate(&prompt, &settings, |_| Ok(())).unwrap();
        let whole = [prompt.clone(), made.ids].concat();
        assert!(whole.len() <= model.context());
        // Decoding fails on incomplete blocks.
        let segments = processor.decode(&whole).unwrap();
        let drawn = segments.iter().filter(|s| matches!(s, CodedSegment::Image(_))).count();
        assert_eq!(drawn, made.images.len());
        assert!(drawn > 0, "an image was begun");
    }
}

#[test]
fn an_open_block_of_a_prompt_is_completed_and_a_malformed_one_refused() {
    let (model, processor) = (model(), processor());
    let generator =
        Generator::new(&model, processor.vocabulary(), processor.blocks().clone()).unwrap();
    let whole = processor.encode(&[CodedSegment::Image(codes(4, 2))]).unwrap();
    let settings = GenerationConfig {
        mode: GenerationMode::ImageOnly,
        max_new_tokens: Some(1),
        ..Preset::Lumina.config()
    };
    // Begin-of-text, begin-image, then two sizes and twelve ids.
    for len in 2..whole.len() - 2 {
        let made = generator.generate(&whole[..len], &settings, |_| Ok(())).unwrap();
        let image = &made.images[0];
        assert_eq!(image.ids.len(), image.height * image.width);
        if len >= 4 {
            assert_eq!((image.height, image.width), (4, 2));
        }
    }
    let refused = |row: &[u32], told: &str| {
        let message = generator.generate(row, &settings, |_| Ok(())).unwrap_err().to_string();
        assert!(message.contains(told), "{message}");
    };
    refused(&whole[..whole.len() - 1], "is a whole image already");
    let mut wrong = whole[..8].to_vec();
    wrong[6] = wrong[5]; // a code where the row ends
    refused(&wrong, "in an open image block");
    wrong[2] = wrong[5]; // a code for a height
    refused(&wrong, "in an open image block");
}

/// Writes a directory as Lumina-mGPT publishes them, without processor files and with one row of norms
/// per model-parallel part; returns the weights of the transformer.
fn published(dir: &Path) -> NamedTensors {
    let device = cpu();
    let vq_config: VqConfig = serde_json::from_value(serde_json::json!({
        "base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1, "attn_resolutions": [],
        "latent_channels": 8, "embed_dim": 8, "num_embeddings": CODES, "resolution": 16,
    }))
    .unwrap();
    let vq = VqTokenizer::new(
        vq_config.clone(),
        PreprocessorConfig::hugging_face(16),
        vq_config.init(&device),
        device,
    );
    let ours = dir.join("ours");
    let model = model();
    let tensors = tensor_files::collect(model.model());
    let processor = Processor::new(text(), (8, 8)).unwrap();
    let config = ModelConfig { model_parallel_size: 2, ..config() };
    let parts = Parts {
        config: &config,
        weights: Some(tensor_files::on_device(model.model())),
        dtype: StoredDtype::F32,
        processor: &processor,
        vq: Some(&vq),
        generation: &serde_json::Map::new(),
    };
    write_directory(&ours, |dir| parts.write(dir)).unwrap();
    let theirs = dir.join("theirs");
    Conversion::to(Layout::HuggingFace).run(&ours, &theirs).unwrap();
    for name in ["manifest.json", "processor_config.json", "preprocessor_config.json"] {
        std::fs::remove_file(theirs.join(name)).unwrap();
    }
    let path = theirs.join("config.json");
    let config = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, config.replace("ChameleonFor", "ChameleonXLLMXFor")).unwrap();
    let (path, files) = weight_files(&theirs).unwrap();
    let of_part = |(name, dtype, shape): (String, _, Vec<usize>)| match name.contains("_norm.") {
        // All heads are equal here, so any row is that of its part.
        true => (name, dtype, vec![2, shape[1]]),
        false => (name, dtype, shape),
    };
    let infos: Vec<_> = files.infos().into_iter().map(of_part).collect();
    let content = theirs.join("new.safetensors");
    write_file(&content, &infos, |name| {
        let (_, dtype, shape) = infos.iter().find(|info| info.0 == name).unwrap();
        let len = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        Ok::<_, calumma::Error>(files.stored(name)?.bytes[..len].to_vec())
    })
    .unwrap();
    std::fs::rename(content, path).unwrap();
    tensors
}

#[test]
fn a_published_directory_is_recognised_by_its_class_and_converted() {
    let scratch = tempfile::tempdir().unwrap();
    let tensors = published(scratch.path());
    let (theirs, taken_in) = (scratch.path().join("theirs"), scratch.path().join("taken"));
    Conversion::to(Layout::Calumma).run(&theirs, &taken_in).unwrap();
    for dir in [&theirs, &taken_in] {
        let checkpoint = Checkpoint::open(dir, &cpu()).unwrap();
        assert!(checkpoint.processor.blocks().are_sized(), "{}", dir.display());
        let special = *checkpoint.processor.vocabulary().special();
        let stops = &checkpoint.generation.stop_ids;
        assert!(stops.contains(&special.sep.unwrap()) && stops.contains(&special.eos));
        let settings = GenerationConfig { stop_ids: vec![], ..checkpoint.generation.clone() };
        assert_eq!(settings, Preset::Lumina.config());
        assert_eq!(checkpoint.prompts, Preset::Lumina.prompts());
        assert_eq!(checkpoint.vq.unwrap().preprocessor(), &PreprocessorConfig::flexible(768));
        assert!(tensor_files::collect(&checkpoint.model) == tensors, "{}", dir.display());
    }
    // Smaller images, which fit a context of 160.
    let path = taken_in.join("vq_tokenizer/preprocessor_config.json");
    let small = PreprocessorConfig { size_multiple: 4, ..PreprocessorConfig::flexible(16) };
    small.save(&path).unwrap();
    std::fs::remove_file(taken_in.join("manifest.json")).unwrap();
    let pipeline = Pipeline::open(&taken_in, &cpu()).unwrap();
    let wide = RgbImage::from_fn(64, 30, |x, y| image::Rgb([x as u8, y as u8, 99]));
    let codes = pipeline.vq().unwrap().encode(&[wide.clone(), wide.clone()]).unwrap();
    assert_eq!((codes[0].height, codes[0].width), (4, 10));
    pipeline.ask(&wide, "what colour?").unwrap();
    let drawn = pipeline.draw("a red square").unwrap();
    assert!(drawn.width().is_multiple_of(4) && drawn.height().is_multiple_of(4));
    let of_aspect = GenerationConfig { aspect: Some([4, 1]), ..pipeline.generation().clone() };
    let drawn = pipeline.draw_batch(&["a red square"], &of_aspect).unwrap().remove(0);
    assert!(drawn.width() > 2 * drawn.height(), "{:?}", drawn.dimensions());
    // The prompt says the size that is drawn.
    let prompt = pipeline.drawing_prompt("a red square", &of_aspect).unwrap();
    let prompt = pipeline.processor().text().decode(&prompt).unwrap();
    let size = format!("an image of {}x{} according to", drawn.width(), drawn.height());
    assert!(prompt.contains(&size), "{prompt}");

    let request = EditRequest {
        image: wide,
        text: "a red square".into(),
        region: Region::KeepRows(2),
        count: 1,
        score: None,
        config: pipeline.generation().clone(),
    };
    let edited = pipeline.edit(&request).unwrap().remove(0);
    assert_eq!((edited.codes.height, edited.codes.width), (4, 10));
    assert_eq!(edited.codes.ids[..20], codes[0].ids[..20]);
    assert_ne!(edited.codes, codes[0]);
}
