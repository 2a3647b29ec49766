//! Each measure over an open checkpoint.

use std::path::Path;

use calumma::checkpoint::Manifest;
use calumma::data::pack::Packer;
use calumma::data::scenes::ScenesConfig;
use calumma::data::{self, DataConfig, Encoding};
use calumma::eval::loss::BatchLoss;
use calumma::eval::{self, Majority};
use calumma::generate::GenerationConfig;
use calumma::pipeline::Pipeline;
use calumma::train::objective::{LossConfig, NextToken};
use calumma::train::{LanguageRecipe, read_recipe, validation_batches};
use calumma::{Error, Result};
use serde_json::{Value, json};

use super::{Bar, EvalArgs, GenerationArgs, LossArgs, Measured, VqaArgs, extent};
use crate::cli::open;
use crate::cli::sampling::SamplingArgs;
use crate::cli::session::Session;

/// Ids that an answer or a caption may have where nothing else sets a limit: one that goes on would
/// hold up its whole batch.
const LONGEST_ANSWER: usize = 48;

/// Settings for text.
fn for_answers(
    sampling: &SamplingArgs,
    pipeline: &Pipeline,
    session: &Session,
) -> GenerationConfig {
    let mut config = sampling.for_answers(pipeline, session);
    config.max_new_tokens.get_or_insert(LONGEST_ANSWER);
    config
}

/// Questions about pictures.
///
/// # Errors
/// Those of checkpoint, data set and device.
pub fn vqa(args: &VqaArgs, session: &Session) -> Result<Measured> {
    let common = &args.common;
    let dataset = eval::vqa::open(&common.dataset)?;
    let majority = match &args.train {
        Some(train) => Majority::learn(eval::vqa::open(train)?.as_ref())?,
        None => Majority::learn(dataset.as_ref())?,
    };
    let pipeline = open::pipeline(&common.checkpoint, session)?;
    let config = for_answers(&args.sampling, &pipeline, session);
    let mut bar = Bar::new(extent(common).of(dataset.len()), "questions", session);
    let answer = |images: &[_], questions: &[String]| -> Result<Vec<String>> {
        let answers = pipeline.ask_batch(images, questions, &config)?;
        bar.add(answers.len());
        Ok(answers)
    };
    let scores = eval::vqa::evaluate(dataset.as_ref(), extent(common), &majority, answer)?;
    let answers = scores.types.iter().map(|g| (g.name.clone(), json!(g.majority_answer)));
    let answers = Value::Object(answers.collect());
    let mut report = scores.report(dataset.name());
    let learnt_on = args.train.as_deref().unwrap_or(&common.dataset);
    report.config.insert("majority_learnt_on".to_owned(), json!(learnt_on));
    report.config.insert("majority_answers".to_owned(), answers);
    Ok(Measured::by(report, &pipeline, &config))
}

/// Captions of pictures.
///
/// # Errors
/// Those of checkpoint, data set and device.
pub fn captioning(args: &GenerationArgs, session: &Session) -> Result<Measured> {
    let common = &args.common;
    let dataset = data::open(&common.dataset)?;
    let pipeline = open::pipeline(&common.checkpoint, session)?;
    let config = for_answers(&args.sampling, &pipeline, session);
    let mut bar = Bar::new(extent(common).of(dataset.len()), "captions", session);
    let scores = eval::captioning::evaluate(dataset.as_ref(), extent(common), |images| {
        let captions = pipeline.caption_batch(images, &config)?;
        bar.add(captions.len());
        Ok(captions)
    })?;
    Ok(Measured::by(scores.report(dataset.name()), &pipeline, &config))
}

/// Pictures of captions.
///
/// # Errors
/// Those of checkpoint, data set and device.
pub fn text_to_image(args: &GenerationArgs, session: &Session) -> Result<Measured> {
    let common = &args.common;
    let scenes: ScenesConfig = common.dataset.parse()?;
    let prompts = eval::text_to_image::prompts(&scenes, common.limit)?;
    let pipeline = open::pipeline(&common.checkpoint, session)?;
    let config = args.sampling.over_checkpoint(&pipeline, session);
    let mut bar = Bar::new(prompts.len(), "pictures", session);
    let scores = eval::text_to_image::evaluate(prompts, common.batch, |texts, first| {
        let seed = config.seed.wrapping_add(first as u64);
        let config = GenerationConfig { seed, ..config.clone() };
        let pictures = pipeline.draw_batch(texts, &config)?;
        bar.add(pictures.len());
        Ok(pictures)
    })?;
    Ok(Measured::by(scores.report(&scenes.to_string()), &pipeline, &config))
}

/// Pictures through the image tokenizer and back.
///
/// # Errors
/// Those of checkpoint, data set and device.
pub fn reconstruction(args: &EvalArgs, session: &Session) -> Result<Measured> {
    let dataset = eval::reconstruction::open(&args.dataset)?;
    let device = session.device_in_f32("an image tokenizer")?;
    let vq = open::image_tokenizer(&args.checkpoint, &device)?;
    let mut bar = Bar::new(extent(args).of(dataset.len()), "pictures", session);
    let codes = vq.config().num_embeddings;
    let scores = eval::reconstruction::evaluate(dataset.as_ref(), extent(args), codes, |images| {
        bar.add(images.len());
        eval::reconstruction::reconstruct(&vq, images)
    })?;
    let mut report = scores.report(dataset.name());
    report.config.insert("preprocessor".to_owned(), json!(vq.preprocessor()));
    let digest = Manifest::read(&args.checkpoint)?.map(|manifest| manifest.digest());
    Ok(Measured { report, seed: session.seed().unwrap_or(0), digest })
}

/// The loss on held-out documents; `--batch` counts rows of the model's context.
///
/// # Errors
/// Those of checkpoint, data set and device.
pub fn loss(args: &LossArgs, session: &Session) -> Result<Measured> {
    let common = &args.common;
    let sources = sources(args)?;
    let pipeline = open::pipeline(&common.checkpoint, session)?;
    let packed = sources.iter().map(|source| packed(source, &pipeline, common, session));
    let packed = packed.collect::<Result<Vec<_>>>()?;
    let batches = packed.iter().map(|(_, batches)| batches.len()).sum();
    let mut bar = Bar::new(batches, "batches", session);
    let objective = NextToken { config: LossConfig::default() };
    let scores = eval::loss::evaluate(&packed, |batch| {
        let found = objective.loss(pipeline.model().model(), batch);
        bar.add(1);
        BatchLoss { image: found.image, text: found.text }
    })?;
    let mut report = scores.report(&common.dataset);
    report.config.insert("sources".to_owned(), json!(sources));
    let digest = pipeline.digest().map(str::to_owned);
    Ok(Measured { report, seed: session.seed().unwrap_or(0), digest })
}

/// The documents of `source` in rows; their codes are kept in the folder `codes` of `--out`.
fn packed(
    source: &DataConfig,
    pipeline: &Pipeline,
    args: &EvalArgs,
    session: &Session,
) -> Result<(String, Vec<calumma::train::objective::NextTokenBatch>)> {
    let processor = pipeline.processor();
    let seq_len = pipeline.model().config().max_position_embeddings;
    let pad = processor.vocabulary().special().pad;
    // Another checkpoint's codes must not be taken for this one's.
    let tokenizer = Manifest::of(&args.checkpoint.join("vq_tokenizer"))?;
    let encoding = Encoding {
        vq: pipeline.vq()?,
        digest: &tokenizer.digest(),
        cache_dir: &args.out.join("codes"),
        quiet: session.quiet(),
    };
    let count = args.limit.or(source.limit).unwrap_or(usize::MAX);
    let new_packer = || Packer::new(args.batch, seq_len, pad);
    let one = std::slice::from_ref(source);
    let batches = validation_batches(one, encoding, count, processor, new_packer)?;
    Ok((source.path.clone(), batches))
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
