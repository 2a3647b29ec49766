//! Images generated from captions of procedural scenes: the exact detector reads them, and the
//! objects found are checked against the caption. A measure of this project; its numbers are not
//! comparable with public benchmarks.

use image::RgbImage;
use rayon::prelude::*;
use serde_json::json;

use super::batches::one_per_item;
use super::report::{Report, SampleRecord, indicator, tone};
use super::score::Score;
use crate::data::Dataset;
use crate::data::scenes::{
    Caption, Category, Detected, Detector, Object, Scene, Scenes, ScenesConfig,
};
use crate::error::{Error, Result};
use crate::sheet::Cell;

/// Images on the sheet.
const SHOWN: usize = 64;

/// A text to draw, and a scene that it describes.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// Index of the scene in its data set.
    pub index: usize,
    /// The text and what it claims.
    pub caption: Caption,
    /// A scene that the text describes.
    pub scene: Scene,
}

/// One prompt for each of the first `limit` scenes of `config`. Of a scene's captions, the one
/// whose category has the fewest prompts so far is taken, which balances the categories; with a category in `config`
/// the caption of that one.
///
/// # Errors
/// If a value of `config` is out of range, or there is no scene.
pub fn prompts(config: &ScenesConfig, limit: Option<usize>) -> Result<Vec<Prompt>> {
    let scenes = Scenes::new(config.clone())?;
    let len = limit.map_or(scenes.len(), |limit| limit.min(scenes.len()));
    if len == 0 {
        return Err(Error::invalid(format!("{config}: no scene to draw; the limit is 0")));
    }
    let mut counts = [0; Category::ALL.len()];
    let prompt = |index| {
        let (captions, _) = scenes.captions(index);
        let asked = |c: &Caption| config.category.is_none_or(|category| c.category == category);
        let rarest = captions.into_iter().filter(asked).min_by_key(|c| counts[c.category as usize]);
        let caption = rarest.expect("every scene has a caption");
        counts[caption.category as usize] += 1;
        Prompt { index, caption, scene: scenes.scene(index) }
    };
    Ok((0..len).map(prompt).collect())
}

/// The agreement of an image with its prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// The objects that the detector found.
    pub found: Vec<Detected>,
    /// Every claim holds.
    pub satisfied: bool,
    /// Every claim holds and there are no other objects.
    pub exact: bool,
    /// Every shape of the scene is there at least as often.
    pub shapes: bool,
    /// Every colour of the scene is there at least as often.
    pub colors: bool,
    /// Every pair of shape and colour of the scene is there at least as often.
    pub pairs: bool,
    /// There are as many objects as in the scene.
    pub count: bool,
}

impl Judgement {
    /// The agreement of `image` with `prompt`, as read by `detector`.
    pub fn of(prompt: &Prompt, image: &RgbImage, detector: &Detector) -> Self {
        let found = detector.detect(image);
        let seen: Vec<Object> = found.iter().map(|found| found.object).collect();
        let wanted = &prompt.scene.objects;
        Self {
            satisfied: prompt.caption.satisfied(&found),
            exact: prompt.caption.satisfied_exactly(&found),
            shapes: contains(&seen, wanted, |object| object.shape),
            colors: contains(&seen, wanted, |object| object.color),
            pairs: contains(&seen, wanted, |object| (object.shape, object.color)),
            count: seen.len() == wanted.len(),
            found,
        }
    }
}

/// Whether each property of the `wanted` objects occurs among the `seen` ones at least as often.
fn contains<K: PartialEq>(
    seen: &[Object],
    wanted: &[Object],
    property: impl Fn(&Object) -> K,
) -> bool {
    let often =
        |objects: &[Object], key: &K| objects.iter().filter(|o| property(o) == *key).count();
    wanted.iter().map(&property).all(|key| often(seen, &key) >= often(wanted, &key))
}

/// The result of [`evaluate`].
#[derive(Clone, Debug)]
pub struct TextToImageScores {
    /// The prompts.
    pub prompts: Vec<Prompt>,
    /// The judgement of each prompt's image.
    pub judgements: Vec<Judgement>,
    /// Some images with their prompts.
    pub sheet: Vec<Cell>,
}

/// Draws `prompts`, `batch` at a time, and judges the images.
///
/// `draw` is called with the texts and the number of the first of them, an offset for the seed, and
/// returns an image for each.
///
/// # Errors
/// Those of `draw`; if `batch` is 0.
pub fn evaluate(
    prompts: Vec<Prompt>,
    batch: usize,
    mut draw: impl FnMut(&[String], usize) -> Result<Vec<RgbImage>>,
) -> Result<TextToImageScores> {
    if batch == 0 {
        return Err(Error::invalid("the batch is 0; it must be at least 1"));
    }
    let detector = Detector::new();
    let (mut judgements, mut sheet) = (Vec::with_capacity(prompts.len()), Vec::new());
    for (number, chunk) in prompts.chunks(batch).enumerate() {
        let texts: Vec<_> = chunk.iter().map(|prompt| prompt.caption.text.clone()).collect();
        let images = one_per_item(draw(&texts, number * batch)?, texts.len())?;
        let pairs = chunk.par_iter().zip(&images);
        let judged = pairs.map(|(prompt, image)| Judgement::of(prompt, image, &detector));
        let judged: Vec<_> = judged.collect();
        for ((image, text), one) in images.into_iter().zip(texts).zip(&judged) {
            if sheet.len() < SHOWN {
                sheet.push(Cell::new(image).note(tone(one.satisfied), text));
            }
        }
        judgements.extend(judged);
    }
    Ok(TextToImageScores { prompts, judgements, sheet })
}

impl TextToImageScores {
    /// The share of prompts for which `measure` holds, among those that `belongs` selects.
    pub fn share(
        &self,
        belongs: impl Fn(&Prompt) -> bool,
        measure: impl Fn(&Judgement) -> bool,
    ) -> Score {
        let pairs = self.prompts.iter().zip(&self.judgements);
        Score::share(pairs.filter(|(prompt, _)| belongs(prompt)).map(|(_, one)| measure(one)))
    }

    /// The share of images of single-object scenes that show an object of the right shape and colour.
    pub fn single_object(&self) -> Score {
        self.share(|prompt| prompt.caption.objects == 1, |one| one.pairs)
    }

    /// The scores by name: `accuracy` (all claims hold), `exact` (and there are no other objects),
    /// `single_object`, `accuracy/CATEGORY`, and for scenes of several objects how often all
    /// `shapes`, all `colors`, all pairs of both (`color_binding`) and the `object_count` are
    /// right.
    pub fn scores(&self) -> Vec<(String, Score)> {
        let any = |_: &Prompt| true;
        let several = |prompt: &Prompt| prompt.caption.objects > 1;
        let mut scores = vec![
            ("accuracy".to_owned(), self.share(any, |one| one.satisfied)),
            ("exact".to_owned(), self.share(any, |one| one.exact)),
            ("single_object".to_owned(), self.single_object()),
        ];
        for category in Category::ALL {
            let of = |prompt: &Prompt| prompt.caption.category == category;
            let name = format!("accuracy/{}", category.name());
            scores.push((name, self.share(of, |one| one.satisfied)));
        }
        scores.extend([
            ("several/shapes".to_owned(), self.share(several, |one| one.shapes)),
            ("several/colors".to_owned(), self.share(several, |one| one.colors)),
            ("several/color_binding".to_owned(), self.share(several, |one| one.pairs)),
            ("several/object_count".to_owned(), self.share(several, |one| one.count)),
        ]);
        scores.retain(|(_, score)| score.n > 0);
        scores
    }

    /// The scores as a report on the scenes called `dataset`.
    pub fn report(self, dataset: &str) -> Report {
        let scores = self.scores();
        let record = |(prompt, one): (&Prompt, &Judgement)| SampleRecord {
            doc_id: prompt.index,
            id: format!("{dataset}#{}", prompt.index),
            input: prompt.caption.text.clone(),
            target: json!(prompt.caption.claims),
            response: json!(one.found),
            kind: Some(prompt.caption.category.name().to_owned()),
            group: None,
            scores: vec![
                ("accuracy", indicator(one.satisfied)),
                ("exact", indicator(one.exact)),
                ("pairs", indicator(one.pairs)),
            ],
        };
        let samples = self.prompts.iter().zip(&self.judgements).map(record).collect();
        let dataset = dataset.to_owned();
        Report {
            task: "text-to-image",
            dataset,
            scores,
            samples,
            sheet: self.sheet,
            ..Report::default()
        }
    }
}
