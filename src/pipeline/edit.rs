//! Images of which a part is drawn anew: the codes of the rest are given, the others drawn in raster order.
//!
//! A code sees the ones before it only, so what follows a hole does not influence what is drawn in it.
//! Candidates make up for that: each is weighed by the probability that the model then gives to the kept
//! codes that follow (see [`EditScore::LookAhead`]).

use image::RgbImage;
use vq_tokenizer::Codes;

use super::Pipeline;
use super::draw::{candidate_seed, candidates, highest};
use super::edit_mask::{CellMask, PixelMask};
use super::edit_paste::paste;
use super::likelihood::{Among, ScoredRow};
use crate::error::{Error, Result};
use crate::generate::{GenerationConfig, Request};
use crate::tokenize::{CodedSegment, EncodeOptions};

/// An image and what to draw in it.
#[derive(Clone, Debug)]
pub struct EditRequest {
    /// The image; it is resized and cropped as for encoding.
    pub image: RgbImage,
    /// What the whole image is to show; may be empty.
    pub text: String,
    /// What is drawn anew.
    pub region: Region,
    /// Results; the seed increases by 1 for each.
    pub count: usize,
    /// How the best of several candidates is found. `None`: by [`EditScore::LookAhead`] if kept codes follow
    /// the first drawn one, otherwise by [`EditScore::Caption`].
    pub score: Option<EditScore>,
    /// Sampling, guidance, candidates per result and seed.
    pub config: GenerationConfig,
}

/// The part of an image that is drawn anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Region {
    /// The cells that a marked pixel overlaps, and those at most `dilate` rows and columns away: the decoder
    /// mixes neighbours, so the cells around a hole show what was in it.
    Mask {
        /// Of the image's size.
        mask: PixelMask,
        /// In cells; 1 is usual.
        dilate: usize,
    },
    /// All but the first rows of codes.
    KeepRows(usize),
    /// The image is moved up by this many rows of codes, and as many are drawn below it.
    ExtendDown(usize),
}

/// What the score of a candidate is; the highest wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EditScore {
    /// The log-probability of the kept codes that follow the first drawn one, each given all before it: the
    /// weight of a candidate in importance sampling from the codes given both what precedes and what follows
    /// the hole. 0 if none follow.
    LookAhead,
    /// The log-probability of the text as a caption of the image, as for [`Pipeline::draw_batch`].
    Caption,
    /// The sum of both.
    Sum,
}

/// An edit before any code is drawn.
#[derive(Clone, Debug)]
pub struct EditPlan {
    /// The image as it is encoded.
    pub pixels: RgbImage,
    /// Its codes.
    pub source: Codes,
    /// The cells that are drawn anew.
    pub hole: CellMask,
    /// The codes of the other cells, row by row; `None` where one is drawn.
    pub known: Vec<Option<u32>>,
    /// Rows of cells by which the image is moved up.
    moved: usize,
    /// Pixels of a cell's side.
    side: usize,
    /// What the codes follow.
    prompt: Vec<u32>,
    /// The ids of `known`.
    kept: Vec<Option<u32>>,
}

/// A result of an edit.
#[derive(Clone, Debug, PartialEq)]
pub struct Edited {
    /// The codes, kept and drawn.
    pub codes: Codes,
    /// Their image.
    pub image: RgbImage,
    /// The candidate of the highest score.
    pub best: usize,
    /// All candidates, in the order of their seeds.
    pub candidates: Vec<Candidate>,
}

/// One draw of a result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Its seed.
    pub seed: u64,
    /// Its score in nats, at most 0.
    pub score: f64,
}

impl EditPlan {
    /// Pixels of a cell's side.
    pub fn side(&self) -> usize {
        self.side
    }

    /// `image`, which has the size of the preprocessed image, moved up as the edit moves it; black below.
    pub fn moved(&self, image: &RgbImage) -> RgbImage {
        let mut moved = RgbImage::new(image.width(), image.height());
        let up = (self.moved * self.side) as i64;
        image::imageops::replace(&mut moved, image, 0, -up);
        moved
    }

    /// `edited` with the preprocessed image's own pixels outside the cells that were drawn; within half a cell
    /// of them the two are mixed.
    pub fn paste(&self, edited: &RgbImage) -> RgbImage {
        paste(edited, &self.moved(&self.pixels), &self.hole, self.side)
    }

    /// Whether the image is [extended](Region::ExtendDown).
    pub fn extends(&self) -> bool {
        self.moved > 0
    }

    /// The score by which the best candidate is found: `asked`, or else as [`EditRequest::score`] says.
    pub fn score(&self, asked: Option<EditScore>) -> EditScore {
        asked.unwrap_or(match self.later().is_empty() {
            true => EditScore::Caption,
            false => EditScore::LookAhead,
        })
    }

    /// The indices of the kept codes that follow the first drawn one.
    fn later(&self) -> Vec<usize> {
        let first = self.known.iter().position(Option::is_none).unwrap_or(self.known.len());
        (first..self.known.len()).filter(|&at| self.known[at].is_some()).collect()
    }
}

impl Pipeline {
    /// Draws the region of an image anew, with the checkpoint's prompt for drawings of the text; the kept codes
    /// stay as they are. An empty region gives the image's own codes, a full one what
    /// [`draw_batch`](Self::draw_batch) draws with the same settings.
    ///
    /// Candidate `k` of result `i` has the seed `config.seed + i + k * 2^32`.
    ///
    /// # Errors
    /// As [`plan_edit`](Self::plan_edit); if `config` is out of range or the prompt does not fit the context.
    ///
    /// ```
    /// use calumma::device::DeviceSpec;
    /// use calumma::pipeline::{EditRequest, Pipeline, Region};
    ///
    /// let pipeline = Pipeline::open("checkpoints/demo".as_ref(), &DeviceSpec::Cpu.open()?)?;
    /// let request = EditRequest {
    ///     image: pipeline.draw("a large red circle on a white background")?,
    ///     text: "a large blue circle on a white background".into(),
    ///     region: Region::KeepRows(3),
    ///     count: 1,
    ///     score: None,
    ///     config: pipeline.generation().clone(),
    /// };
    /// let edited = pipeline.edit(&request)?.remove(0);
    /// assert_eq!(edited.image.dimensions(), (64, 64));
    /// # Ok::<(), calumma::Error>(())
    /// ```
    pub fn edit(&self, request: &EditRequest) -> Result<Vec<Edited>> {
        self.edit_as_planned(request, &self.plan_edit(request)?)
    }

    /// Encodes the image and finds out what is kept.
    ///
    /// # Errors
    /// If the checkpoint cannot decode images, the mask's size is not the image's, its marked pixels are
    /// cropped away, a number of rows is out of range, or the image has a grid that the layout of image
    /// blocks does not allow.
    pub fn plan_edit(&self, request: &EditRequest) -> Result<EditPlan> {
        let vq = self.drawing_vq()?;
        let source = vq.encode(std::slice::from_ref(&request.image))?.remove(0);
        let side = vq.config().downsampling();
        let (hole, moved) = self.region(request, &source, side)?;
        let columns = source.width;
        let known =
            |(at, drawn): (usize, &bool)| (!drawn).then(|| source.ids[at + moved * columns]);
        let known: Vec<Option<u32>> = hole.marked().iter().enumerate().map(known).collect();
        let block = self.block(&source)?;
        let size = self.image_size((source.height, source.width));
        let mut prompt = self.draw_prompt(&request.text, size)?;
        if self.processor.blocks().are_sized() {
            // Begin-image and the size, so that the model draws an image of it.
            let opening = self.processor.blocks().opening((source.height, source.width))?;
            prompt.extend(&block[..1 + opening.len()]);
        }
        let vocabulary = self.processor.vocabulary();
        let kept = known.iter().map(|code| code.and_then(|code| vocabulary.image_id(code)));
        let kept = kept.collect();
        let pixels = vq.preprocessor().resize(&request.image);
        Ok(EditPlan { pixels, source, hole, known, moved, side, prompt, kept })
    }

    /// The cells to draw and the rows by which the image is moved up.
    fn region(
        &self,
        request: &EditRequest,
        source: &Codes,
        side: usize,
    ) -> Result<(CellMask, usize)> {
        let (rows, columns) = (source.height, source.width);
        match &request.region {
            Region::Mask { mask, dilate } => {
                let (width, height) = request.image.dimensions();
                mask.check_size((width, height))?;
                let preprocessor = self.vq()?.preprocessor();
                let placement = preprocessor.placement(width as usize, height as usize);
                Ok((mask.cells(&placement, side)?.dilated(*dilate), 0))
            }
            &Region::KeepRows(kept) if kept <= rows => {
                Ok((CellMask::from_row(rows, columns, kept), 0))
            }
            Region::KeepRows(kept) => Err(Error::invalid(format!(
                "{kept} rows of codes to keep; allowed: 0 to {rows}, the rows of the image"
            ))),
            &Region::ExtendDown(new) if (1..rows).contains(&new) => {
                Ok((CellMask::from_row(rows, columns, rows - new), new))
            }
            Region::ExtendDown(new) => Err(Error::invalid(format!(
                "{new} rows of codes to extend by; allowed: 1 to {}, since a row must be left to go on from",
                rows.saturating_sub(1)
            ))),
        }
    }

    /// The image block of `codes`.
    fn block(&self, codes: &Codes) -> Result<Vec<u32>> {
        let options = EncodeOptions { bos: false, ..EncodeOptions::default() };
        self.processor.encode_with(&[CodedSegment::Image(codes.clone())], options)
    }

    /// Draws what `plan` leaves open; it is the plan of `request`.
    ///
    /// # Errors
    /// As [`edit`](Self::edit).
    pub fn edit_as_planned(&self, request: &EditRequest, plan: &EditPlan) -> Result<Vec<Edited>> {
        let drawn = self.draw_all(self.edit_requests(request, plan)?)?;
        let seeds = (0..).map(|i| request.config.seed.wrapping_add(i));
        let choose = |(seed, drawn)| self.best_edit(request, plan, seed, drawn);
        seeds.zip(drawn).map(choose).collect()
    }

    /// For each result the requests whose images are its candidates, of which [`best_edit`](Self::best_edit) finds the one
    /// to keep.
    ///
    /// # Errors
    /// If `config` is out of range.
    pub fn edit_requests(
        &self,
        request: &EditRequest,
        plan: &EditPlan,
    ) -> Result<Vec<Vec<Request>>> {
        request.config.validate()?;
        let size = self.image_size((plan.source.height, plan.source.width));
        let negative = self.negative_ids(&request.config, Some(size))?;
        let one = |index: u64| {
            let seed = request.config.seed.wrapping_add(index);
            let config = GenerationConfig { seed, ..request.config.clone() };
            let (kept, negative) = (plan.kept.clone(), negative.clone());
            candidates(Request { kept, negative, ..Request::new(plan.prompt.clone(), config) })
        };
        Ok((0..request.count as u64).map(one).collect())
    }

    /// The result with the seed `seed` whose candidates are `drawn`.
    ///
    /// # Errors
    /// If the model or the image tokenizer fails.
    pub fn best_edit(
        &self,
        request: &EditRequest,
        plan: &EditPlan,
        seed: u64,
        mut drawn: Vec<Codes>,
    ) -> Result<Edited> {
        let scores = self.scores_of(&drawn, request, plan)?;
        let best = highest(&scores);
        let candidate = |(index, score)| Candidate { seed: candidate_seed(seed, index), score };
        let candidates = scores.into_iter().enumerate().map(candidate).collect();
        let codes = drawn.swap_remove(best);
        let image = self.drawing_vq()?.decode(std::slice::from_ref(&codes))?.remove(0);
        Ok(Edited { codes, image, best, candidates })
    }

    /// The score of each candidate.
    fn scores_of(
        &self,
        drawn: &[Codes],
        request: &EditRequest,
        plan: &EditPlan,
    ) -> Result<Vec<f64>> {
        let score = plan.score(request.score);
        let mut scores = vec![0.0; drawn.len()];
        if score != EditScore::Caption {
            let found = self.look_ahead_scores(drawn, &request.text, plan)?;
            scores.iter_mut().zip(found).for_each(|(score, found)| *score += found);
        }
        if score != EditScore::LookAhead {
            let found = self.caption_log_probabilities(drawn, &request.text)?;
            scores.iter_mut().zip(found).for_each(|(score, found)| *score += found);
        }
        Ok(scores)
    }

    /// [`EditScore::LookAhead`] of each candidate.
    fn look_ahead_scores(&self, drawn: &[Codes], text: &str, plan: &EditPlan) -> Result<Vec<f64>> {
        let later = plan.later();
        let vocabulary = self.processor.vocabulary();
        let size = self.image_size((plan.source.height, plan.source.width));
        let prompt = self.draw_prompt(text, size)?;
        let row = |codes: &Codes| {
            let mut ids = prompt.clone();
            ids.extend(self.block(codes)?);
            let is_code = |at: &usize| vocabulary.image_code(ids[*at]).is_some();
            let places: Vec<usize> = (prompt.len()..ids.len()).filter(is_code).collect();
            let at: Vec<usize> = later.iter().map(|&code| places[code]).collect();
            ids.truncate(at.last().map_or(0, |last| last + 1));
            Ok(ScoredRow { ids, at })
        };
        let rows = drawn.iter().map(row).collect::<Result<Vec<_>>>()?;
        let found = self.log_probabilities(&rows, Among::Codes)?;
        Ok(found.into_iter().map(|row| row.into_iter().sum()).collect())
    }

    /// The taller image of an [extension](Region::ExtendDown): the decoding of all codes of the original and,
    /// below them, of those drawn, with the original's own pixels if `pasted`, as [`EditPlan::paste`] does.
    /// `None` for edits of other regions.
    ///
    /// # Errors
    /// If the taller image has more than 8192 pixels a side.
    pub fn extended(
        &self,
        plan: &EditPlan,
        edited: &Edited,
        pasted: bool,
    ) -> Result<Option<RgbImage>> {
        let Codes { ids, height, width } = &plan.source;
        let kept = height - plan.moved;
        if !plan.extends() {
            return Ok(None);
        }
        let ids = [&ids[..], &edited.codes.ids[kept * width..]].concat();
        let codes = Codes { ids, height: height + plan.moved, width: *width };
        let tall = self.drawing_vq()?.decode(std::slice::from_ref(&codes))?.remove(0);
        if !pasted {
            return Ok(Some(tall));
        }
        let mut original = RgbImage::new(tall.width(), tall.height());
        image::imageops::replace(&mut original, &plan.pixels, 0, 0);
        let hole = CellMask::from_row(codes.height, codes.width, *height);
        Ok(Some(paste(&tall, &original, &hole, plan.side)))
    }
}
