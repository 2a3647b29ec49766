//! The measures of images: drawn ones, and what the image tokenizer leaves.

use burn::tensor::Device;
use image::RgbImage;
use serde_json::json;

use super::{Evaluation, TaskConfig};
use crate::data::scenes::{Scenes, ScenesConfig};
use crate::data::{self, Dataset};
use crate::error::{Error, Result};
use crate::eval::{Fid, Report, Responses, drawing, geneval, reconstruction, text_to_image};
use crate::files::write_atomic;

impl Evaluation<'_> {
    pub(super) fn text_to_image(&self, progress: &mut dyn FnMut(usize)) -> Result<Report> {
        let scenes: ScenesConfig = self.task.data.parse()?;
        let prompts = text_to_image::prompts(&scenes, self.task.limit)?;
        let mut fid = open_fid(self.task, self.pipeline.model().device())?;
        let truth = Scenes::new(scenes.clone())?;
        let places: Vec<usize> = prompts.iter().map(|prompt| prompt.index).collect();
        let mut responses = self.responses()?;
        let scores = text_to_image::evaluate(prompts, self.task.batch, |texts, first| {
            let images = responses.images(texts, |known| {
                self.pipeline.draw_batch(&texts[known..], &self.generation_from(first + known))
            })?;
            if let Some(fid) = &mut fid {
                let places = &places[first..first + texts.len()];
                let real = places.iter().map(|&place| Ok(truth.get(place)?.images.remove(0)));
                fid.add_real(&real.collect::<Result<Vec<_>>>()?)?;
                fid.add_made(&images)?;
            }
            progress(images.len());
            Ok(images)
        })?;
        let mut report = scores.report(&scenes.to_string());
        add_fid(&mut report, "fid", fid)?;
        Ok(report)
    }

    pub(super) fn drawing(&self, progress: &mut dyn FnMut(usize)) -> Result<Report> {
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

    pub(super) fn geneval(&self, progress: &mut dyn FnMut(usize)) -> Result<Report> {
        let dataset = data::open(&self.task.data)?;
        let dir = self.out.join("geneval");
        let (id, identity) = (self.out.join("geneval.json"), self.identity()?);
        if dir.exists() && std::fs::read_to_string(&id).ok().as_ref() != Some(&identity) {
            return Err(Error::file(
                &dir,
                "holds images of another evaluation; choose another --out",
            ));
        }
        write_atomic(&id, identity.as_bytes())?;
        geneval::draw(dataset.as_ref(), self.task.extent(), &dir, |prompt, first| {
            let prompts = [prompt; geneval::IMAGES];
            let images = self.pipeline.draw_batch(&prompts, &self.generation_from(first))?;
            progress(images.len());
            Ok(images)
        })
    }

    pub(super) fn reconstruction(&self, progress: &mut dyn FnMut(usize)) -> Result<Report> {
        reconstruct(self.task, self.pipeline.vq()?, progress)
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
        let images = self.responses.images(texts, |known| {
            let generation = self.evaluation.generation_from(first + known);
            pipeline.draw_batch(&texts[known..], &generation)
        })?;
        (self.progress)(images.len());
        Ok(images)
    }

    fn reconstruct(&mut self, images: &[RgbImage]) -> Result<Vec<(RgbImage, RgbImage)>> {
        let vq = self.evaluation.pipeline.vq()?;
        let all = reconstruction::reconstruct(vq, images)?;
        Ok(all.into_iter().map(|one| (one.original, one.decoded)).collect())
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

/// What `vq` loses of the images of a task's data set; needs no language model.
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
