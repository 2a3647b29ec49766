//! The tasks that generate or reconstruct images: `text-to-image`, `geneval` and `reconstruction`.

use std::path::Path;

use burn::tensor::Device;
use image::RgbImage;
use serde_json::json;

use super::config::{GenevalTask, ReconstructionTask, TextToImageTask};
use super::evaluation::{Evaluation, renamed};
use crate::data::scenes::{Scenes, ScenesConfig};
use crate::data::{self, Dataset};
use crate::error::{Error, Result};
use crate::eval::{
    Fid, Report, Responses, drawing, geneval, left_out, reconstruction, text_to_image,
};
use crate::files::write_atomic;

impl Evaluation<'_> {
    pub(super) fn text_to_image(
        &self,
        task: &TextToImageTask,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Report> {
        match &task.prompt {
            Some(template) => self.retrieval(task, template, progress),
            None => self.scenes(task, progress),
        }
    }

    /// Draws captions of scenes, which the detector reads back.
    fn scenes(&self, task: &TextToImageTask, progress: &mut dyn FnMut(usize)) -> Result<Report> {
        let scenes: ScenesConfig = task.common.data.parse()?;
        let prompts = text_to_image::prompts(&scenes, task.common.limit)?;
        let mut fid = open_fid(task.inception.as_deref(), self.pipeline.model().device())?;
        let truth = Scenes::new(scenes.clone())?;
        let indices: Vec<usize> = prompts.iter().map(|prompt| prompt.index).collect();
        let mut responses = self.responses()?;
        let scores = text_to_image::evaluate(prompts, task.common.batch, |texts, first| {
            let images = responses.images(texts, |range| {
                let generation = self.generation_from(first + range.start);
                self.pipeline.draw_batch(&texts[range], &generation)
            })?;
            if let Some(fid) = &mut fid {
                let indices = &indices[first..first + texts.len()];
                let real = indices.iter().map(|&index| Ok(truth.get(index)?.images.remove(0)));
                fid.add_real(&real.collect::<Result<Vec<_>>>()?)?;
                fid.add_generated(&images)?;
            }
            progress(images.len());
            Ok(images)
        })?;
        let mut report = scores.report(&scenes.to_string());
        add_fid(&mut report, "fid", fid)?;
        Ok(report)
    }

    /// Generates images from the texts of a data set, formed by `template`, and searches the data
    /// set for them.
    fn retrieval(
        &self,
        task: &TextToImageTask,
        template: &str,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Report> {
        let dataset = renamed(data::open(&task.common.data)?, &task.columns);
        let mut fid = open_fid(task.inception.as_deref(), self.pipeline.model().device())?;
        let mut artist =
            PipelineArtist { evaluation: self, responses: self.responses()?, progress };
        let extent = task.common.extent();
        let scores =
            drawing::evaluate(dataset.as_ref(), extent, template, &mut artist, fid.as_mut())?;
        let mut report = scores.report(dataset.name());
        report.left_out = left_out(dataset.as_ref(), extent, &report.bad);
        add_fid(&mut report, "fid", fid)?;
        Ok(report)
    }

    pub(super) fn geneval(
        &self,
        task: &GenevalTask,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Report> {
        let dataset = data::open(&task.common.data)?;
        let dir = self.out.join("geneval");
        let (id, identity) =
            (self.out.join("geneval.json"), self.identity_with_prompts(dataset.as_ref())?);
        if dir.exists() && std::fs::read_to_string(&id).ok().as_ref() != Some(&identity) {
            return Err(Error::file(
                &dir,
                "holds images of another evaluation; choose another --out",
            ));
        }
        write_atomic(&id, identity.as_bytes())?;
        let extent = task.common.extent();
        let mut report = geneval::draw(dataset.as_ref(), extent, &dir, |prompt, first| {
            let prompts = [prompt; geneval::IMAGES];
            let images = self.pipeline.draw_batch(&prompts, &self.generation_from(first))?;
            progress(images.len());
            Ok(images)
        })?;
        report.left_out = left_out(dataset.as_ref(), extent, &report.bad);
        Ok(report)
    }

    pub(super) fn reconstruction(
        &self,
        task: &ReconstructionTask,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Report> {
        reconstruct(task, self.pipeline.vq()?, progress)
    }
}

/// An [`Artist`](drawing::Artist) that draws with the checkpoint.
struct PipelineArtist<'a> {
    evaluation: &'a Evaluation<'a>,
    responses: Responses,
    progress: &'a mut dyn FnMut(usize),
}

impl drawing::Artist for PipelineArtist<'_> {
    fn draw(&mut self, texts: &[String]) -> Result<Vec<RgbImage>> {
        let Evaluation { pipeline, .. } = self.evaluation;
        let first = self.responses.position();
        let images = self.responses.images(texts, |range| {
            let generation = self.evaluation.generation_from(first + range.start);
            pipeline.draw_batch(&texts[range], &generation)
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

/// The network of FID, if the task names its weights.
fn open_fid(weights: Option<&Path>, device: &Device) -> Result<Option<Fid>> {
    weights.map(|path| Fid::open(path, device)).transpose()
}

fn add_fid(report: &mut Report, name: &str, fid: Option<Fid>) -> Result<()> {
    if let Some(fid) = fid {
        report.scores.push((name.to_owned(), fid.score()?));
    }
    Ok(())
}

/// Scores of the reconstructions of a data set's images by `vq`; needs no language model.
///
/// # Errors
/// Those of the data set, and of the weights of FID's network if the task names them.
pub fn reconstruct(
    task: &ReconstructionTask,
    vq: &vq_tokenizer::VqTokenizer,
    progress: &mut dyn FnMut(usize),
) -> Result<Report> {
    let dataset = reconstruction::open(&task.common.data)?;
    let codes = vq.config().num_embeddings;
    let mut fid = open_fid(task.inception.as_deref(), vq.device())?;
    let scores =
        reconstruction::evaluate(dataset.as_ref(), task.common.extent(), codes, |images| {
            progress(images.len());
            let found = reconstruction::reconstruct(vq, images)?;
            if let Some(fid) = &mut fid {
                let (real, generated): (Vec<_>, Vec<_>) =
                    found.iter().map(|one| (one.original.clone(), one.decoded.clone())).unzip();
                fid.add_real(&real)?;
                fid.add_generated(&generated)?;
            }
            Ok(found)
        })?;
    let mut report = scores.report(dataset.name());
    report.left_out = left_out(dataset.as_ref(), task.common.extent(), &report.bad);
    add_fid(&mut report, "rfid", fid)?;
    report.config.insert("preprocessor".to_owned(), json!(vq.preprocessor()));
    Ok(report)
}
