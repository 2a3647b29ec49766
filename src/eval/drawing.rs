//! Retrieval of generated images: images are generated from the texts of a data set, and scored by
//! how often the nearest of the data set's own images has the same text. A measure of this project,
//! for images that no detector reads, such as emoji.

use std::collections::BTreeMap;

use image::{RgbImage, imageops};
use rayon::prelude::*;
use serde_json::{Value, json};

use super::batches::{Extent, each_batch, one_per_item, single_image};
use super::fid::Fid;
use super::report::{Report, SampleRecord, indicator, tone};
use super::score::Score;
use crate::data::{BadSample, Dataset, Fields, Sample};
use crate::error::{Error, Result};
use crate::sheet::{Cell, Tone};
use crate::tokenize::{CodedSegment, Template};

/// Side of the images when they are compared, in pixels.
const SIDE: u32 = 16;

/// Nearest images that count for `retrieval_at_5`.
const NEAREST: usize = 5;

/// Pairs of images on the sheet.
const SHOWN: usize = 32;

/// The model to be measured.
pub trait Artist {
    /// An image for each of `texts`.
    ///
    /// # Errors
    /// Those of the model.
    fn draw(&mut self, texts: &[String]) -> Result<Vec<RgbImage>>;

    /// Each of `images`, resized and cropped for the image tokenizer, with its reconstruction: the
    /// best that the model could draw.
    ///
    /// # Errors
    /// Those of the image tokenizer.
    fn reconstruct(&mut self, images: &[RgbImage]) -> Result<Vec<(RgbImage, RgbImage)>>;
}

/// The result of [`evaluate`].
#[derive(Clone, Debug)]
pub struct DrawingScores {
    /// The share of generated images whose nearest image in the data set has the same text. Images
    /// are compared at 16x16 pixels by the squared difference of RGB.
    pub retrieval: Score,
    /// The same for any of the five nearest.
    pub retrieval_at_5: Score,
    /// `retrieval` for reconstructions of the data set's own images.
    pub reconstructed: Score,
    /// The expected accuracy of a random image from the data set.
    pub chance: f64,
    /// A record of every image.
    pub samples: Vec<SampleRecord>,
    /// Samples that could not be read.
    pub bad: Vec<BadSample>,
    /// Some images of the data set, each next to the generated one.
    pub sheet: Vec<Cell>,
}

/// The images so far.
#[derive(Default)]
struct Images {
    /// The data set's images, reduced.
    originals: Vec<Vec<u8>>,
    /// The generated images, reduced.
    drawn: Vec<Vec<u8>>,
    /// The reconstructions, reduced.
    rebuilt: Vec<Vec<u8>>,
    /// Pairs of an original and a generated image for the sheet.
    shown: Vec<(RgbImage, RgbImage)>,
    samples: Vec<SampleRecord>,
}

/// Generates an image from the text of each sample and searches the data set for it. The template
/// `form`, such as `{name}, {style} emoji`, turns a sample's columns into the text.
///
/// # Errors
/// Those of `artist`; if more samples than [`crate::data::DEFAULT_TOLERANCE`], and more than one,
/// are unreadable, do not have exactly one image or lack a column of the template.
pub fn evaluate(
    dataset: &dyn Dataset,
    extent: Extent,
    form: &str,
    artist: &mut dyn Artist,
    mut fid: Option<&mut Fid>,
) -> Result<DrawingScores> {
    let mut all = Images::default();
    let take = |sample: Sample| {
        Ok((prompt(form, &sample.fields)?, single_image(sample.images)?, sample.source))
    };
    let bad = each_batch(dataset, extent, take, |batch| {
        let texts: Vec<_> = batch.iter().map(|(_, (text, _, _))| text.clone()).collect();
        let images: Vec<_> = batch.iter().map(|(_, (_, image, _))| image.clone()).collect();
        let drawn = one_per_item(artist.draw(&texts)?, texts.len())?;
        let (images, rebuilt): (Vec<_>, Vec<_>) = artist.reconstruct(&images)?.into_iter().unzip();
        if let Some(fid) = &mut fid {
            fid.add_real(&images)?;
            fid.add_generated(&drawn)?;
        }
        all.originals.extend(images.iter().map(reduced));
        all.drawn.extend(drawn.iter().map(reduced));
        all.rebuilt.extend(rebuilt.iter().map(reduced));
        let left = SHOWN - all.shown.len();
        all.shown.extend(images.into_iter().zip(drawn).take(left));
        all.samples.extend(batch.into_iter().map(|(index, (text, _, source))| SampleRecord {
            doc_id: index,
            id: source,
            target: json!(text),
            input: text,
            ..SampleRecord::default()
        }));
        Ok(())
    })?;
    Ok(DrawingScores { bad, ..all.scores() })
}

impl Images {
    fn scores(self) -> DrawingScores {
        let Self { originals, drawn, rebuilt, shown, mut samples } = self;
        let texts: Vec<String> = samples.iter().map(|sample| sample.input.clone()).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let near = |one: &Vec<u8>| nearest(one, &originals, &texts);
        let found: Vec<Vec<&str>> = drawn.par_iter().map(near).collect();
        let of_rebuilt: Vec<Vec<&str>> = rebuilt.par_iter().map(near).collect();
        let is_first = |(near, text): (&Vec<&str>, &&str)| near[0] == *text;
        let first: Vec<bool> = found.iter().zip(&texts).map(is_first).collect();
        let any: Vec<bool> =
            found.iter().zip(&texts).map(|(near, text)| near.contains(text)).collect();
        for (at, sample) in samples.iter_mut().enumerate() {
            sample.response = json!(found[at][0]);
            let (first, any) = (indicator(first[at]), indicator(any[at]));
            sample.scores = vec![("retrieval", first), ("retrieval_at_5", any)];
        }
        let pair = |(at, (original, drawn)): (usize, (RgbImage, RgbImage))| {
            let drawn = Cell::new(drawn).note(tone(first[at]), texts[at]);
            [Cell::new(original).note(Tone::Muted, "the data set's"), drawn]
        };
        DrawingScores {
            sheet: shown.into_iter().enumerate().flat_map(pair).collect(),
            reconstructed: Score::share(of_rebuilt.iter().zip(&texts).map(is_first)),
            retrieval: Score::share(first),
            retrieval_at_5: Score::share(any),
            chance: chance(&texts),
            samples,
            bad: Vec::new(),
        }
    }
}

/// The probability that two random images have the same text.
fn chance(texts: &[&str]) -> f64 {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    texts.iter().for_each(|text| *counts.entry(text).or_default() += 1);
    counts.values().map(|count| (*count as f64 / texts.len() as f64).powi(2)).sum()
}

/// The text of a sample, from its columns by the template `form`.
fn prompt(form: &str, fields: &Fields) -> Result<String> {
    let plain = |(name, value): (&String, &Value)| match value {
        Value::String(text) => Some((name.clone(), text.clone())),
        Value::Number(number) => Some((name.clone(), number.to_string())),
        _ => None,
    };
    let columns: Vec<(String, String)> = fields.iter().filter_map(plain).collect();
    let columns: Vec<(&str, &str)> =
        columns.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let mut text = String::new();
    for segment in Template::prompt(form)?.fill(&columns, vec![])? {
        match segment {
            CodedSegment::Text(part) => text += &part,
            _ => {
                let message = format!("the template `{form}` of a text to draw may hold only text");
                return Err(Error::invalid(message));
            }
        }
    }
    Ok(text)
}

/// `image` in 16x16 pixels.
fn reduced(image: &RgbImage) -> Vec<u8> {
    imageops::thumbnail(image, SIDE, SIDE).into_raw()
}

/// The texts of the images nearest to `one`, nearest first; ties go to the earlier image.
fn nearest<'t>(one: &[u8], all: &[Vec<u8>], texts: &[&'t str]) -> Vec<&'t str> {
    let distance = |other: &[u8]| -> u64 {
        one.iter().zip(other).map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2)).sum()
    };
    let mut by_distance: Vec<(u64, usize)> =
        all.iter().enumerate().map(|(at, other)| (distance(other), at)).collect();
    if by_distance.len() > NEAREST {
        by_distance.select_nth_unstable(NEAREST);
        by_distance.truncate(NEAREST);
    }
    by_distance.sort_unstable();
    by_distance.into_iter().map(|(_, at)| texts[at]).collect()
}

impl DrawingScores {
    /// The scores as a report on the data set called `dataset`: `retrieval`, `retrieval_at_5`,
    /// `retrieval_reconstructed` and `retrieval_chance`.
    pub fn report(self, dataset: &str) -> Report {
        let chance = Score::whole(self.chance, self.samples.len());
        let scores = [
            ("retrieval", self.retrieval),
            ("retrieval_at_5", self.retrieval_at_5),
            ("retrieval_reconstructed", self.reconstructed),
            ("retrieval_chance", chance),
        ];
        Report {
            task: "text-to-image",
            dataset: dataset.to_owned(),
            scores: scores.into_iter().map(|(name, score)| (name.to_owned(), score)).collect(),
            samples: self.samples,
            bad: self.bad,
            sheet: self.sheet,
            ..Report::default()
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_rendered_from_columns_and_hold_only_text() {
        let fields: Fields =
            serde_json::from_str(r#"{"name": "red heart", "style": "flat", "tags": ["love"]}"#)
                .unwrap();
        assert_eq!(prompt("{name}, {style} emoji", &fields).unwrap(), "red heart, flat emoji");
        assert!(prompt("{tags}", &fields).is_err());
        assert!(prompt("<image>{name}", &fields).unwrap_err().to_string().contains("<image>"));
    }

    #[test]
    fn nearest_images_come_first() {
        let all: Vec<Vec<u8>> = (0..7).map(|level| vec![level * 10; 3]).collect();
        let texts = ["a", "b", "c", "d", "e", "f", "g"];
        assert_eq!(nearest(&[31; 3], &all, &texts), ["d", "e", "c", "f", "b"]);
    }
}
