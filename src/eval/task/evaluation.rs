//! A measure done with an open checkpoint.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use image::RgbImage;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Answering, Measure, TaskConfig};
use crate::checkpoint::{Manifest, VQ_DIR};
use crate::data::pack::Packer;
use crate::data::scenes::{Scenes, ScenesConfig};
use crate::data::{self, DataConfig, Dataset, Encoding};
use crate::error::{Error, Result};
use crate::eval::loss::BatchLoss;
use crate::eval::{
    Fid, Majority, Official, Report, Responses, Score, captioning, drawing, geneval, loss,
    reconstruction, text_to_image, vqa,
};
use crate::files::{hex, write_whole};
use crate::generate::GenerationConfig;
use crate::pipeline::{Pipeline, Shot};
use crate::train::objective::{LossConfig, NextToken};
use crate::train::validation_batches;

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
        let task = self.task;
        let len = match task.measure {
            Measure::Vqa => vqa::open(&task.data)?.len(),
            Measure::Captioning => data::open(&task.data)?.len(),
            Measure::TextToImage if task.prompt.is_some() => data::open(&task.data)?.len(),
            Measure::TextToImage => task.data.parse::<ScenesConfig>()?.count,
            Measure::Reconstruction => reconstruction::open(&task.data)?.len(),
            Measure::Geneval => geneval::IMAGES * data::open(&task.data)?.len(),
            Measure::Loss => return Ok(None),
        };
        Ok(Some(task.extent().of(len)))
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
        let task = TaskConfig { batch: 0, ..self.task.clone() };
        let files = |spec: &String| data::fingerprint(spec);
        let data = [Some(&self.task.data), self.task.train.as_ref()]
            .map(|spec| spec.map(files).transpose());
        let [data, train] = data;
        Ok(json!([
            data::fingerprint(&self.checkpoint.to_string_lossy())?,
            self.pipeline.model().model().dtype().name(),
            self.pipeline.prompts(),
            task,
            self.generation,
            data?,
            train?,
        ])
        .to_string())
    }

    /// A short form of [`identity`](Self::identity), which the results hold.
    ///
    /// # Errors
    /// As there.
    pub fn digest(&self) -> Result<String> {
        Ok(hex(&Sha256::digest(self.identity()?.as_bytes())[..8]))
    }

    /// The responses that an earlier call left.
    fn responses(&self) -> Result<Responses> {
        Responses::open(&self.out, &self.identity()?)
    }

    /// The settings for the items from place `first` on: their seeds do not depend on the batch.
    fn generation_from(&self, first: usize) -> GenerationConfig {
        let seed = self.generation.seed.wrapping_add(first as u64);
        GenerationConfig { seed, ..self.generation.clone() }
    }

    /// The first `shots` samples of `train` with a single picture.
    fn shots(
        &self,
        train: Option<&dyn Dataset>,
        answer: impl Fn(&data::Fields) -> Result<(String, String)>,
    ) -> Result<Vec<Shot>> {
        let Some(train) = train.filter(|_| self.task.shots > 0) else { return Ok(Vec::new()) };
        let mut shots = Vec::with_capacity(self.task.shots);
        for index in 0..train.len() {
            if shots.len() == self.task.shots {
                break;
            }
            // Examples that cannot be read or have no answer are passed over.
            let Ok(sample) = train.get(index) else { continue };
            let Ok((question, answer)) = answer(&sample.fields) else { continue };
            if let Ok([image]) = <[_; 1]>::try_from(sample.images) {
                shots.push(Shot { image, question, answer });
            }
        }
        if shots.len() < self.task.shots {
            let (found, wanted) = (shots.len(), self.task.shots);
            let name = train.name();
            return Err(Error::Invalid(format!("{name}: {found} examples of the {wanted} wanted")));
        }
        Ok(shots)
    }

    fn vqa(&self, progress: &mut dyn FnMut(usize)) -> Result<Report> {
        let task = self.task;
        let dataset = task.named(vqa::open(&task.data)?);
        let train = task.train.as_deref().map(vqa::open).transpose()?;
        let train = train.map(|train| task.named(train));
        let majority = Majority::learn(train.as_deref().unwrap_or(dataset.as_ref()))?;
        let shots = self.shots(train.as_deref(), vqa::question_and_answer)?;
        let choices = match (task.answer, task.choices.is_empty()) {
            (Answering::Generate, _) => Vec::new(),
            (Answering::Choose, false) => task.choices.clone(),
            (Answering::Choose, true) => majority.answers(),
        };
        let form = task.prompt.as_deref().unwrap_or(&self.pipeline.prompts().ask);
        let asking = self.pipeline.asking(form, &shots)?;
        let mut responses = self.responses()?;
        let scores =
            vqa::evaluate(dataset.as_ref(), task.extent(), &majority, |images, questions| {
                let first = responses.position();
                let answers = responses.texts(questions.len(), |known| {
                    let (images, questions) = (&images[known..], &questions[known..]);
                    match task.answer {
                        Answering::Generate => {
                            asking.answer(images, questions, &self.generation_from(first + known))
                        }
                        Answering::Choose => asking.choose(images, questions, &choices),
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
        let choices = match (task.answer, task.choices.is_empty()) {
            (Answering::Generate, _) => Vec::new(),
            (Answering::Choose, false) => task.choices.clone(),
            (Answering::Choose, true) => captioning::all_targets(dataset.as_ref())?,
        };
        let mut scores = captioning::evaluate(dataset.as_ref(), task.extent(), |images| {
            let first = responses.position();
            let captions = responses.texts(images.len(), |known| {
                let images = &images[known..];
                let nothing = vec![""; images.len()];
                match task.answer {
                    Answering::Choose => asking.choose(images, &nothing, &choices),
                    Answering::Generate => {
                        asking.answer(images, &nothing, &self.generation_from(first + known))
                    }
                }
            })?;
            progress(captions.len());
            Ok(captions)
        })?;
        if let Some(official) = &official {
            scores.score_officially(official)?;
        }
        let mut report = scores.report(dataset.name());
        if task.answer == Answering::Choose {
            let chance = Score::whole(1.0 / choices.len() as f64, report.samples.len());
            report.scores.insert(1, ("chance".to_owned(), chance));
        }
        Ok(report)
    }

    fn text_to_image(&self, progress: &mut dyn FnMut(usize)) -> Result<Report> {
        let scenes: ScenesConfig = self.task.data.parse()?;
        let prompts = text_to_image::prompts(&scenes, self.task.limit)?;
        let mut fid = open_fid(self.task, self.pipeline.model().device())?;
        let truth = Scenes::new(scenes.clone())?;
        let places: Vec<usize> = prompts.iter().map(|prompt| prompt.index).collect();
        let mut responses = self.responses()?;
        let scores = text_to_image::evaluate(prompts, self.task.batch, |texts, first| {
            let pictures = responses.pictures(texts.len(), |known| {
                self.pipeline.draw_batch(&texts[known..], &self.generation_from(first + known))
            })?;
            if let Some(fid) = &mut fid {
                let places = &places[first..first + texts.len()];
                let real = places.iter().map(|&place| Ok(truth.get(place)?.images.remove(0)));
                fid.add_real(&real.collect::<Result<Vec<_>>>()?)?;
                fid.add_made(&pictures)?;
            }
            progress(pictures.len());
            Ok(pictures)
        })?;
        let mut report = scores.report(&scenes.to_string());
        add_fid(&mut report, "fid", fid)?;
        Ok(report)
    }

    fn drawing(&self, progress: &mut dyn FnMut(usize)) -> Result<Report> {
        let dataset = self.task.named(data::open(&self.task.data)?);
        let form = self.task.prompt.as_deref().unwrap_or_default();
        let mut fid = open_fid(self.task, self.pipeline.model().device())?;
        let mut artist = Model { evaluation: self, responses: self.responses()?, progress };
        let extent = self.task.extent();
        let scores = drawing::evaluate(dataset.as_ref(), extent, form, &mut artist, fid.as_mut())?;
        let mut report = scores.report(dataset.name());
        add_fid(&mut report, "fid", fid)?;
        Ok(report)
    }

    fn geneval(&self, progress: &mut dyn FnMut(usize)) -> Result<Report> {
        let dataset = data::open(&self.task.data)?;
        let dir = self.out.join("geneval");
        let (id, identity) = (self.out.join("geneval.json"), self.identity()?);
        if dir.exists() && std::fs::read_to_string(&id).ok().as_ref() != Some(&identity) {
            return Err(Error::file(
                &dir,
                "holds pictures of another evaluation; choose another --out",
            ));
        }
        write_whole(&id, identity.as_bytes())?;
        geneval::draw(dataset.as_ref(), self.task.extent(), &dir, |prompt, first| {
            let prompts = [prompt; geneval::IMAGES];
            let pictures = self.pipeline.draw_batch(&prompts, &self.generation_from(first))?;
            progress(pictures.len());
            Ok(pictures)
        })
    }

    fn reconstruction(&self, progress: &mut dyn FnMut(usize)) -> Result<Report> {
        reconstruct(self.task, self.pipeline.vq()?, progress)
    }

    fn loss(&self, progress: &mut dyn FnMut(usize)) -> Result<Report> {
        let task = self.task;
        let source = json!({
            "path": task.data, "name": task.name, "templates": task.templates, "explode": task.explode,
        });
        let source: DataConfig =
            serde_json::from_value(source).expect("a path, texts and a name make a source");
        self.loss_of(std::slice::from_ref(&source), progress)
    }

    /// The mean loss on the documents of `sources`; `batch` counts rows of the model's context.
    ///
    /// # Errors
    /// Those of the data; when there is nothing to predict.
    pub fn loss_of(
        &self,
        sources: &[DataConfig],
        progress: &mut dyn FnMut(usize),
    ) -> Result<Report> {
        let packed = sources.iter().map(|source| self.packed(source));
        let packed = packed.collect::<Result<Vec<_>>>()?;
        let objective = NextToken { config: LossConfig::default() };
        let scores = loss::evaluate(&packed, |batch| {
            let found = objective.loss(self.pipeline.model().model(), batch);
            progress(1);
            BatchLoss { image: found.image, text: found.text }
        })?;
        let mut report = scores.report(&self.task.data);
        report.config.insert("sources".to_owned(), json!(sources));
        Ok(report)
    }

    /// The documents of `source` in rows; their codes are kept in the folder `codes` of the results.
    fn packed(
        &self,
        source: &DataConfig,
    ) -> Result<(String, Vec<crate::train::objective::NextTokenBatch>)> {
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
        let count = self.task.limit.or(source.limit).unwrap_or(usize::MAX);
        let new_packer = || Packer::new(self.task.batch, seq_len, pad);
        let one = std::slice::from_ref(source);
        let batches = validation_batches(one, encoding, count, processor, new_packer)?;
        Ok((source.label().to_owned(), batches))
    }
}

/// The pipeline as what draws.
struct Model<'a> {
    evaluation: &'a Evaluation<'a>,
    responses: Responses,
    progress: &'a mut dyn FnMut(usize),
}

impl drawing::Artist for Model<'_> {
    fn draw(&mut self, texts: &[String]) -> Result<Vec<RgbImage>> {
        let Evaluation { pipeline, .. } = self.evaluation;
        let first = self.responses.position();
        let pictures = self.responses.pictures(texts.len(), |known| {
            let generation = self.evaluation.generation_from(first + known);
            pipeline.draw_batch(&texts[known..], &generation)
        })?;
        (self.progress)(pictures.len());
        Ok(pictures)
    }

    fn reconstruct(&mut self, pictures: &[RgbImage]) -> Result<Vec<RgbImage>> {
        let vq = self.evaluation.pipeline.vq()?;
        let all = reconstruction::reconstruct(vq, pictures)?;
        Ok(all.into_iter().map(|one| one.decoded).collect())
    }
}

/// The network of FID, where the task names its weights.
fn open_fid(task: &TaskConfig, device: &Device) -> Result<Option<Fid>> {
    task.inception.as_deref().map(|path| Fid::open(path, device)).transpose()
}

fn add_fid(report: &mut Report, name: &str, fid: Option<Fid>) -> Result<()> {
    if let Some(fid) = fid {
        report.scores.push((name.to_owned(), fid.score()?));
    }
    Ok(())
}

/// What `vq` loses of the pictures of a task's data set; needs no language model.
///
/// # Errors
/// Those of the data set, and of the file of FID's network where the task names one.
pub fn reconstruct(
    task: &TaskConfig,
    vq: &vq_tokenizer::VqTokenizer,
    progress: &mut dyn FnMut(usize),
) -> Result<Report> {
    let dataset = reconstruction::open(&task.data)?;
    let codes = vq.config().num_embeddings;
    let mut fid = open_fid(task, vq.device())?;
    let scores = reconstruction::evaluate(dataset.as_ref(), task.extent(), codes, |images| {
        progress(images.len());
        let found = reconstruction::reconstruct(vq, images)?;
        if let Some(fid) = &mut fid {
            let (real, made): (Vec<_>, Vec<_>) =
                found.iter().map(|one| (one.original.clone(), one.decoded.clone())).unzip();
            fid.add_real(&real)?;
            fid.add_made(&made)?;
        }
        Ok(found)
    })?;
    let mut report = scores.report(dataset.name());
    add_fid(&mut report, "rfid", fid)?;
    report.config.insert("preprocessor".to_owned(), json!(vq.preprocessor()));
    Ok(report)
}
