//! Each measure over an open checkpoint.

use std::path::Path;

use calumma::checkpoint::Manifest;
use calumma::data::pack::Packer;
use calumma::data::scenes::ScenesConfig;
use calumma::data::{self, Encoding};
use calumma::eval::loss::BatchLoss;
use calumma::eval::{self, Majority};
use calumma::generate::GenerationConfig;
use calumma::train::objective::{LossConfig, NextToken};
use calumma::train::{DataConfig, LanguageRecipe, read_recipe, validation_batches};
use calumma::{Error, Result};
use serde_json::{Value, json};
use vq_tokenizer::VqTokenizer;

use super::{Bar, DrawArgs, EvalArgs, LossArgs, Measured, Opened, VqaArgs, extent, tokenizer_dir};
use crate::cli::session::Session;

/// Questions about pictures.
///
/// # Errors
/// Those of checkpoint, data set and device.
pub fn vqa(args: &VqaArgs, session: &Session) -> Result<Measured> {
    let common = &args.common;
    let opened = Opened::new(common, session)?;
    let dataset = eval::vqa::open(&common.dataset)?;
    let majority = match &args.train {
        Some(train) => Majority::learn(eval::vqa::open(train)?.as_ref())?,
        None => Majority::learn(dataset.as_ref())?,
    };
    let config = opened.for_answers();
    let mut bar = Bar::new(extent(common).of(dataset.len()), "questions", session);
    let scores =
        eval::vqa::evaluate(dataset.as_ref(), extent(common), &majority, |images, questions| {
            let answers = opened.pipeline.ask_batch(images, questions, &config)?;
            bar.add(answers.len());
            Ok(answers)
        })?;
    drop(bar);
    let answers: Vec<Value> = scores
        .types
        .iter()
        .map(|group| json!({"type": group.name, "answer": group.majority_answer}))
        .collect();
    let mut report = scores.report(dataset.name());
    let learnt_on = args.train.as_deref().unwrap_or(&common.dataset);
    report.config.insert("majority_learnt_on".to_owned(), json!(learnt_on));
    report.config.insert("majority_answers".to_owned(), json!(answers));
    Ok(opened.measured(report, Some(&config)))
}

/// Captions of pictures.
///
/// # Errors
/// Those of checkpoint, data set and device.
pub fn captioning(args: &EvalArgs, session: &Session) -> Result<Measured> {
    let opened = Opened::new(args, session)?;
    let dataset = data::open(&args.dataset)?;
    let config = opened.for_answers();
    let mut bar = Bar::new(extent(args).of(dataset.len()), "captions", session);
    let scores = eval::captioning::evaluate(dataset.as_ref(), extent(args), |images| {
        let captions = opened.pipeline.caption_batch(images, &config)?;
        bar.add(captions.len());
        Ok(captions)
    })?;
    drop(bar);
    let report = scores.report(dataset.name());
    Ok(opened.measured(report, Some(&config)))
}

/// Pictures of captions.
///
/// # Errors
/// Those of checkpoint, data set and device.
pub fn text_to_image(args: &DrawArgs, session: &Session) -> Result<Measured> {
    let common = &args.common;
    let scenes: ScenesConfig = common.dataset.parse()?;
    let prompts = eval::text_to_image::prompts(&scenes, common.limit)?;
    let mut opened = Opened::new(common, session)?;
    let config = &mut opened.config;
    config.guidance_scale = args.guidance_scale.unwrap_or(config.guidance_scale);
    config.image.temperature = args.temperature.unwrap_or(config.image.temperature);
    config.image.top_p = args.top_p.unwrap_or(config.image.top_p);
    config.image.top_k = args.top_k.or(config.image.top_k);
    config.validate()?;
    let mut bar = Bar::new(prompts.len(), "pictures", session);
    let scores = eval::text_to_image::evaluate(prompts, common.batch, |texts, first| {
        let seed = opened.config.seed.wrapping_add(first as u64);
        let config = GenerationConfig { seed, ..opened.config.clone() };
        let pictures = opened.pipeline.draw_batch(texts, &config)?;
        bar.add(pictures.len());
        Ok(pictures)
    })?;
    drop(bar);
    let config = opened.config.clone();
    Ok(opened.measured(scores.report(&scenes.to_string()), Some(&config)))
}

/// Pictures through the image tokenizer and back.
///
/// # Errors
/// Those of checkpoint, data set and device.
pub fn reconstruction(args: &EvalArgs, session: &Session) -> Result<Measured> {
    let device = session.device_in_f32("evaluation")?;
    let vq = VqTokenizer::load(&tokenizer_dir(&args.checkpoint), &device)?;
    let dataset = eval::reconstruction::open(&args.dataset)?;
    let mut bar = Bar::new(extent(args).of(dataset.len()), "pictures", session);
    let codes = vq.config().num_embeddings;
    let scores = eval::reconstruction::evaluate(dataset.as_ref(), extent(args), codes, |images| {
        bar.add(images.len());
        eval::reconstruction::reconstruct(&vq, images)
    })?;
    drop(bar);
    let mut report = scores.report(dataset.name());
    report.config.insert("preprocessor".to_owned(), json!(vq.preprocessor()));
    let digest = Manifest::read(&args.checkpoint)?.map(|manifest| manifest.digest());
    Ok(Measured { report, device, seed: session.seed().unwrap_or(0), digest })
}

/// The loss on held-out documents.
///
/// # Errors
/// Those of checkpoint, data set and device.
pub fn loss(args: &LossArgs, session: &Session) -> Result<Measured> {
    let common = &args.common;
    let opened = Opened::new(common, session)?;
    let sources = sources(args)?;
    let processor = opened.pipeline.processor();
    let seq_len = opened.pipeline.model().config().max_position_embeddings;
    let pad = processor.vocabulary().special().pad;
    let tokenizer = Manifest::of(&tokenizer_dir(&common.checkpoint))?;
    let encoding = Encoding {
        vq: opened.pipeline.vq()?,
        digest: &tokenizer.digest(),
        cache_dir: &common.out.join("codes"),
        quiet: session.quiet(),
    };
    let count = common.limit.unwrap_or(usize::MAX);
    let packed = |source: &DataConfig| {
        let new_packer = || Packer::new(common.batch, seq_len, pad);
        let one = std::slice::from_ref(source);
        let batches = validation_batches(one, encoding, count, processor, new_packer)?;
        Ok((source.path.clone(), batches))
    };
    let packed = sources.iter().map(packed).collect::<Result<Vec<_>>>()?;
    let batches = packed.iter().map(|(_, batches)| batches.len()).sum();
    let mut bar = Bar::new(batches, "batches", session);
    let objective = NextToken { config: LossConfig::default() };
    let scores = eval::loss::evaluate(&packed, |batch| {
        let found = objective.loss(opened.pipeline.model().model(), batch);
        bar.add(1);
        BatchLoss { image: found.image, text: found.text }
    })?;
    drop(bar);
    let mut report = scores.report(&common.dataset);
    report.config.insert("sources".to_owned(), json!(sources));
    Ok(opened.measured(report, None))
}

/// The validation data of a recipe, or the one data set with its templates.
fn sources(args: &LossArgs) -> Result<Vec<DataConfig>> {
    let dataset = &args.common.dataset;
    if Path::new(dataset).extension().is_some_and(|extension| extension == "toml") {
        let recipe: LanguageRecipe = read_recipe(Path::new(dataset), &[])?;
        return match recipe.validation.is_empty() {
            true => {
                Err(Error::file(Path::new(dataset), "the recipe has no [[validation]] section"))
            }
            false => Ok(recipe.validation),
        };
    }
    if args.template.is_empty() {
        let message = "give at least one --template, such as \"<image>{name}\", or a recipe";
        return Err(Error::Invalid(format!("data {dataset}: {message}")));
    }
    let source = json!({"path": dataset, "templates": args.template, "explode": args.explode});
    let source = serde_json::from_value(source);
    Ok(vec![source.expect("a path, texts and a name make a source")])
}
