//! A measure done with an open checkpoint.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{Answering, Measure, TaskConfig};
use crate::checkpoint::{Manifest, VQ_DIR};
use crate::data::pack::Packer;
use crate::data::{
    self, Dataset, DocumentData, Encoding, SourceConfig, TemplateConfig, Validation,
    validation_batches,
};
use crate::error::{Error, Result};
use crate::eval::loss::BatchLoss;
use crate::eval::responses::key;
use crate::eval::{Majority, Official, Report, Responses, captioning, loss, vqa};
use crate::files::hex;
use crate::generate::GenerationConfig;
use crate::pipeline::{Choices, Pipeline, Shot};
use crate::train::objective::{LossConfig, NextToken};

/// A measure with what it is done with.
pub struct Evaluation<'a> {
    /// What to measure.
    pub task: &'a TaskConfig,
    /// The checkpoint's directory.
    pub checkpoint: &'a Path,
    /// The checkpoint, opened.
    pub pipeline: &'a Pipeline,
    /// How it answers and draws.
    pub generation: GenerationConfig,
    /// Where responses are kept on the way, and codes.
    pub out: PathBuf,
    /// Whether the data sets' encoding shows no progress.
    pub quiet: bool,
}

impl Evaluation<'_> {
    /// Items that will be measured, where that is known before.
    ///
    /// # Errors
    /// Those of the data set.
    pub fn items(&self) -> Result<Option<usize>> {
        match self.task.measure {
            Measure::Loss => Ok(None),
            _ => self.task.items().map(Some),
        }
    }

    /// Measures; `progress` hears of items done.
    ///
    /// # Errors
    /// Those of data and model.
    pub fn run(&self, progress: &mut dyn FnMut(usize)) -> Result<Report> {
        self.task.validate()?;
        let mut report = match self.task.measure {
            Measure::Vqa => self.vqa(progress),
            Measure::Captioning => self.captioning(progress),
            Measure::TextToImage if self.task.prompt.is_some() => self.drawing(progress),
            Measure::TextToImage => self.text_to_image(progress),
            Measure::Reconstruction => self.reconstruction(progress),
            Measure::Loss => self.loss(progress),
            Measure::Geneval => self.geneval(progress),
        }?;
        let writes = !matches!(self.task.measure, Measure::Reconstruction | Measure::Loss);
        if writes {
            report.config.insert("generation".to_owned(), json!(self.generation));
        }
        report.config.insert("task".to_owned(), json!(self.task));
        report.config.insert("identity".to_owned(), json!(self.digest()?));
        Ok(report)
    }

    /// Everything that decides a response: model, data, settings.
    ///
    /// # Errors
    /// When a file of the data cannot be found.
    pub fn identity(&self) -> Result<String> {
        let chooses_all = self.task.answer != Answering::Generate && self.task.choices.is_empty();
        let reads_train = self.task.shots > 0 || chooses_all;
        let task = TaskConfig {
            name: None,
            batch: 0,
            limit: None,
            inception: None,
            official: None,
            train: self.task.train.clone().filter(|_| reads_train),
            ..self.task.clone()
        };
        let files = |spec: &String| data::fingerprint(spec);
        let data = [Some(&task.data), task.train.as_ref()].map(|spec| spec.map(files).transpose());
        let [data, train] = data;
        // What was opened: a link such as `latest` may point elsewhere by now.
        let checkpoint = match self.pipeline.digest() {
            Some(digest) => json!(digest),
            None => json!(data::fingerprint(&self.checkpoint.to_string_lossy())?),
        };
        Ok(json!([
            checkpoint,
            self.pipeline.model().model().dtype().name(),
            self.pipeline.prompts(),
            task,
            self.generation,
            data?,
            train?,
        ])
        .to_string())
    }

    /// A short form of [`identity`](Self::identity) and of what else scores the responses; the results hold it.
    ///
    /// # Errors
    /// As there.
    pub fn digest(&self) -> Result<String> {
        let TaskConfig { limit, inception, official, train, .. } = self.task;
        let train = train.as_ref().map(|spec| data::fingerprint(spec)).transpose()?;
        let all = json!([self.identity()?, limit, inception, official, train]).to_string();
        Ok(hex(&Sha256::digest(all.as_bytes())[..8]))
    }

    /// The responses that an earlier call left.
    pub(super) fn responses(&self) -> Result<Responses> {
        Responses::open(&self.out, &self.identity()?)
    }

    /// The settings for the items from place `first` on: their seeds do not depend on the batch.
    pub(super) fn generation_from(&self, first: usize) -> GenerationConfig {
        let seed = self.generation.seed.wrapping_add(first as u64);
        GenerationConfig { seed, ..self.generation.clone() }
    }

    /// The first `shots` samples of `train` with a single image each, all different.
    fn shots(
        &self,
        train: Option<&dyn Dataset>,
        answer: impl Fn(&data::Fields) -> Result<(String, String)>,
    ) -> Result<Vec<Shot>> {
        let Some(train) = train.filter(|_| self.task.shots > 0) else { return Ok(Vec::new()) };
        let mut shots: Vec<Shot> = Vec::with_capacity(self.task.shots);
        for index in 0..train.len() {
            if shots.len() == self.task.shots {
                break;
            }
            // Examples that cannot be read or have no answer are passed over.
            let Ok(sample) = train.get(index) else { continue };
            let Ok((question, answer)) = answer(&sample.fields) else { continue };
            // Each about another image.
            if let Ok([image]) = <[_; 1]>::try_from(sample.images)
                && shots.iter().all(|shot| shot.image != image)
            {
                shots.push(Shot { image, question, answer });
            }
        }
        if shots.len() < self.task.shots {
            let (found, wanted) = (shots.len(), self.task.shots);
            let name = train.name();
            return Err(Error::invalid(format!("{name}: {found} examples of the {wanted} wanted")));
        }
        Ok(shots)
    }

    /// What to choose from, where answers are chosen: the task's choices, else `all`.
    fn choices(&self, all: impl FnOnce() -> Result<Vec<String>>) -> Result<Option<Choices>> {
        if self.task.answer == Answering::Generate {
            return Ok(None);
        }
        let texts = match self.task.choices.is_empty() {
            true => all()?,
            false => self.task.choices.clone(),
        };
        let by_length = self.task.answer == Answering::ChooseByLength;
        Choices::new(self.pipeline, texts, by_length).map(Some)
    }

    fn vqa(&self, progress: &mut dyn FnMut(usize)) -> Result<Report> {
        let task = self.task;
        let dataset = task.named(vqa::open(&task.data)?);
        let train = task.train.as_deref().map(vqa::open).transpose()?;
        let train = train.map(|train| task.named(train));
        let majority = Majority::learn(train.as_deref().unwrap_or(dataset.as_ref()))?;
        let shots = self.shots(train.as_deref(), vqa::question_and_answer)?;
        let choices = self.choices(|| Ok(majority.answers()))?;
        let form = task.prompt.as_deref().unwrap_or(&self.pipeline.prompts().ask);
        let asking = self.pipeline.asking(form, &shots)?;
        let mut responses = self.responses()?;
        let scores =
            vqa::evaluate(dataset.as_ref(), task.extent(), &majority, |images, questions| {
                let first = responses.position();
                let keys: Vec<String> =
                    images.iter().zip(questions).map(|(image, text)| key(image, text)).collect();
                let answers = responses.texts(&keys, |known| {
                    let (images, questions) = (&images[known..], &questions[known..]);
                    match &choices {
                        None => {
                            asking.answer(images, questions, &self.generation_from(first + known))
                        }
                        Some(choices) => asking.choose(images, questions, choices),
                    }
                })?;
                progress(answers.len());
                Ok(answers)
            })?;
        let answers = scores.types.iter().map(|g| (g.name.clone(), json!(g.majority_answer)));
        let answers = Value::Object(answers.collect());
        let mut report = scores.report(dataset.name());
        let learnt_on = task.train.as_deref().unwrap_or(&task.data);
        report.config.insert("majority_learnt_on".to_owned(), json!(learnt_on));
        report.config.insert("majority_answers".to_owned(), answers);
        Ok(report)
    }

    fn captioning(&self, progress: &mut dyn FnMut(usize)) -> Result<Report> {
        let task = self.task;
        let dataset = task.named(data::open(&task.data)?);
        let train = task.train.as_deref().map(data::open).transpose()?;
        let train = train.map(|train| task.named(train));
        let shots = self.shots(train.as_deref(), |fields| {
            Ok((String::new(), captioning::first_target(fields)?))
        })?;
        let form = task.prompt.as_deref().unwrap_or(&self.pipeline.prompts().caption);
        let asking = self.pipeline.asking(form, &shots)?;
        let mut responses = self.responses()?;
        let official = task.official.as_deref().map(Official::find).transpose()?;
        let all = || captioning::all_targets(dataset.as_ref());
        let choices = self.choices(all)?;
        let mut scores = captioning::evaluate(dataset.as_ref(), task.extent(), |images| {
            let first = responses.position();
            let keys: Vec<String> = images.iter().map(|image| key(image, "")).collect();
            let captions = responses.texts(&keys, |known| {
                let images = &images[known..];
                let nothing = vec![""; images.len()];
                match &choices {
                    Some(choices) => asking.choose(images, &nothing, choices),
                    None => asking.answer(images, &nothing, &self.generation_from(first + known)),
                }
            })?;
            progress(captions.len());
            Ok(captions)
        })?;
        if let Some(official) = &official {
            scores.score_officially(official)?;
        }
        let chance = choices.as_ref().map(|choices| scores.chance(choices.texts()));
        let mut report = scores.report(dataset.name());
        if let Some(chance) = chance.filter(|_| !report.scores.is_empty()) {
            report.scores.insert(1, ("chance".to_owned(), chance));
        }
        Ok(report)
    }

    fn loss(&self, progress: &mut dyn FnMut(usize)) -> Result<Report> {
        let task = self.task;
        let samples =
            SourceConfig { explode: task.explode.clone(), ..SourceConfig::new(&task.data) };
        let template =
            TemplateConfig { loss: task.loss, ..TemplateConfig::new(task.templates.clone()) };
        let source =
            DocumentData { name: task.name.clone(), ..DocumentData::samples(samples, template) };
        self.loss_of(std::slice::from_ref(&source), progress)
    }

    /// The mean loss on the documents of `sources`; `batch` counts rows of the model's context.
    ///
    /// # Errors
    /// Those of the data; when there is nothing to predict.
    pub fn loss_of(
        &self,
        sources: &[DocumentData],
        progress: &mut dyn FnMut(usize),
    ) -> Result<Report> {
        let packed = sources.iter().map(|source| self.packed(source));
        let packed = packed.collect::<Result<Vec<_>>>()?;
        let left_out: Map<String, Value> =
            packed.iter().map(|(name, found)| (name.clone(), json!(found.left_out))).collect();
        let packed: Vec<_> =
            packed.into_iter().map(|(name, found)| (name, found.batches)).collect();
        let objective = NextToken { config: LossConfig::default() };
        let scores = loss::evaluate(&packed, |batch| {
            let found = objective.loss(self.pipeline.model().model(), batch);
            progress(1);
            BatchLoss { image: found.image, text: found.text }
        })?;
        let mut report = scores.report(&self.task.data);
        report.config.insert("left_out".to_owned(), Value::Object(left_out));
        report.config.insert("sources".to_owned(), json!(sources));
        Ok(report)
    }

    /// The documents of `source` in rows; their codes are kept in the folder `codes` of the results.
    fn packed(&self, source: &DocumentData) -> Result<(String, Validation)> {
        let processor = self.pipeline.processor();
        let seq_len = self.pipeline.model().config().max_position_embeddings;
        let pad = processor.vocabulary().special().pad;
        // The image tokenizer's own digest, as token shards name it; another's codes must not be taken for its.
        let vq_dir = self.checkpoint.join(VQ_DIR);
        let digest = match vq_dir.is_dir() {
            true => Manifest::of(&vq_dir)?.digest(),
            false => json!(data::fingerprint(&self.checkpoint.to_string_lossy())?).to_string(),
        };
        let cache_dir = self.out.join("codes");
        let encoding = Encoding {
            vq: self.pipeline.vq()?,
            digest: &digest,
            cache_dir: &cache_dir,
            quiet: self.quiet,
        };
        let count = self.task.limit.or(source.limit()).unwrap_or(usize::MAX);
        let new_packer = || Packer::new(self.task.batch, seq_len, pad);
        let one = std::slice::from_ref(source);
        let batches = validation_batches(one, encoding, count, processor, new_packer)?;
        Ok((source.label().to_owned(), batches))
    }
}
