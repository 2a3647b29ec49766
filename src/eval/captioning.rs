//! Captions scored against the references of a data set, and against the ground truth of procedural scenes.

mod judge;
mod public;
mod targets;

use image::RgbImage;
use serde_json::{Value, json};

use super::batches::{Extent, each_batch, one_per_item, single_image};
use super::metrics::{AnswerRules, TextMatcher, TextNormalization};
use super::official::Official;
use super::report::{Report, SampleRecord, tone};
use super::score::Score;
use crate::data::{BadSample, Dataset, Fields, Sample};
use crate::error::Result;
use crate::sheet::{Cell, Tone};

pub use targets::{all_targets, first_target};

/// Images on the sheet.
const SHOWN: usize = 48;

/// The result of [`evaluate`].
#[derive(Clone, Debug)]
pub struct CaptioningScores {
    /// The share of captions that equal a reference after the VQA normalisation; on a data set of
    /// names, naming accuracy.
    pub exact_match: Score,
    /// Mean harmonic mean of precision and recall of words, against the best reference.
    pub word_f1: Score,
    /// On scenes: the share of captions that mention an object and none that is absent.
    pub true_mentions: Option<Score>,
    /// On scenes: the share of captions that also mention every object.
    pub all_mentioned: Option<Score>,
    /// The public caption metrics over all images, by name: BLEU-1 to 4, ROUGE-L and CIDEr-D, in [0, 1]
    /// or for CIDEr-D [0, 10]. CIDEr-D depends on the set: state N.
    pub public: Vec<(&'static str, Score)>,
    /// `{"image_id", "caption"}` of every image that has an id, for the COCO server. The caption of
    /// a bad sample is empty.
    pub submission: Vec<Value>,
    /// A record of every image.
    pub samples: Vec<SampleRecord>,
    /// Samples that could not be read.
    pub bad: Vec<BadSample>,
    /// Some images with their captions.
    pub sheet: Vec<Cell>,
}

/// An image to be captioned.
#[derive(Clone)]
struct Captioned {
    image: RgbImage,
    /// The references; empty in a test split.
    targets: Vec<String>,
    fields: Fields,
    source: String,
}

impl Captioned {
    fn take(sample: Sample) -> Result<Self> {
        let Sample { fields, images, source } = sample;
        let targets = targets::targets(&fields)?.unwrap_or_default();
        Ok(Self { image: single_image(images)?, targets, fields, source })
    }

    /// The image above its caption and its first reference.
    fn cell(self, caption: &str, scores: &[(&str, f64)]) -> Cell {
        let right = scores
            .iter()
            .any(|&(name, value)| ["exact_match", "true_mentions"].contains(&name) && value == 1.0);
        let right = if scores.is_empty() { Tone::Plain } else { tone(right) };
        let target = self.targets.into_iter().next().unwrap_or_default();
        Cell::new(self.image).note(right, caption).note(Tone::Muted, target)
    }
}

/// Captions the images of `dataset`; `caption` returns one caption for each image that it is given.
///
/// Images without references are captioned and not scored.
///
/// # Errors
/// Those of `caption`; if more samples than [`crate::data::DEFAULT_TOLERANCE`], and more than one, are
/// unreadable or do not have exactly one image.
pub fn evaluate(
    dataset: &dyn Dataset,
    extent: Extent,
    mut caption: impl FnMut(&[RgbImage]) -> Result<Vec<String>>,
) -> Result<CaptioningScores> {
    let matcher = TextMatcher::new(TextNormalization::Vqa(AnswerRules::Official));
    let (mut samples, mut sheet) = (Vec::new(), Vec::new());
    let mut submission = Vec::new();
    let bad = each_batch(dataset, extent, Captioned::take, |batch| {
        let images: Vec<_> = batch.iter().map(|(_, one)| one.image.clone()).collect();
        let captions = one_per_item(caption(&images)?, images.len())?;
        for ((index, one), given) in batch.into_iter().zip(captions) {
            let scores = judge::judge(&given, &one.targets, &one.fields, &matcher);
            if let Some(id) = one.fields.get("image_id") {
                submission.push(json!({ "image_id": id, "caption": given }));
            }
            samples.push(SampleRecord {
                doc_id: index,
                id: one.source.clone(),
                target: match &one.targets[..] {
                    [target] => json!(target),
                    targets => json!(targets),
                },
                response: json!(given),
                scores: scores.clone(),
                ..SampleRecord::default()
            });
            if sheet.len() < SHOWN {
                sheet.push(one.cell(&given, &scores));
            }
        }
        Ok(())
    })?;
    for sample in &bad {
        let fields = dataset.fields(sample.index).unwrap_or_default();
        let id = fields.get("image_id");
        submission.extend(id.map(|id| json!({ "image_id": id, "caption": "" })));
    }
    Ok(CaptioningScores { submission, bad, sheet, ..scored(samples)? })
}

/// The scores of `samples`.
fn scored(mut samples: Vec<SampleRecord>) -> Result<CaptioningScores> {
    let public = public::public_metrics(&mut samples)?;
    let values = |name: &str| -> Vec<f64> {
        let of = |s: &SampleRecord| s.scores.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
        samples.iter().filter_map(of).collect()
    };
    let share = |name| Score::share(values(name).into_iter().map(|value| value == 1.0));
    let on_scenes = |name| Some(share(name)).filter(|score| score.n > 0);
    Ok(CaptioningScores {
        exact_match: share("exact_match"),
        word_f1: Score::mean(&values("word_f1")),
        true_mentions: on_scenes("true_mentions"),
        all_mentioned: on_scenes("all_mentioned"),
        public,
        submission: Vec::new(),
        samples,
        bad: Vec::new(),
        sheet: Vec::new(),
    })
}

impl CaptioningScores {
    /// Adds `meteor` and `spice` by their authors' programs, as far as `official` has them; if it
    /// has Stanford's tokenizer, the other public metrics are computed again from its tokens.
    ///
    /// # Errors
    /// If a program fails.
    pub fn score_officially(&mut self, official: &Official) -> Result<()> {
        self.public = public::official_metrics(official, &mut self.samples)?;
        Ok(())
    }

    /// The expected accuracy of a random guess among `choices`: per image, the share of choices
    /// that are references of it.
    pub fn chance(&self, choices: &[String]) -> Score {
        let right = |references: Vec<String>| {
            let among = choices.iter().filter(|choice| references.contains(choice)).count();
            among as f64 / choices.len().max(1) as f64
        };
        let (_, references) = public::captions_and_references(&self.samples);
        let shares: Vec<f64> = references.into_iter().map(right).collect();
        Score::whole(shares.iter().sum::<f64>() / shares.len().max(1) as f64, shares.len())
    }

    /// The scores as a report on the data set called `dataset`.
    pub fn report(self, dataset: &str) -> Report {
        let scores = [
            ("exact_match", Some(self.exact_match).filter(|score| score.n > 0)),
            ("word_f1", Some(self.word_f1).filter(|score| score.n > 0)),
            ("true_mentions", self.true_mentions),
            ("all_mentioned", self.all_mentioned),
        ];
        let named = |(name, score): (&str, Option<Score>)| Some((name.to_owned(), score?));
        let public = self.public.into_iter().map(|(name, score)| (name, Some(score)));
        Report {
            task: "captioning",
            dataset: dataset.to_owned(),
            scores: scores.into_iter().chain(public).filter_map(named).collect(),
            samples: self.samples,
            submission: (!self.submission.is_empty())
                .then_some(("captions_submission.json", self.submission)),
            bad: self.bad,
            sheet: self.sheet,
            ..Report::default()
        }
    }
}
