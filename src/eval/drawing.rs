//! Images drawn from the texts of a data set and looked for among its own: how often the nearest one belongs
//! to the same text. A measure of this project's own, for images that no detector reads, such as emoji.

use std::collections::BTreeMap;

use image::{RgbImage, imageops};
use rayon::prelude::*;
use serde_json::{Value, json};

use super::report::{Report, SampleRecord};
use super::score::Score;
use super::{Extent, Fid, each_batch, image, number, one_each, tone};
use crate::data::{BadSample, Dataset, Fields, Sample};
use crate::error::{Error, Result};
use crate::sheet::{Cell, Tone};
use crate::tokenize::{CodedSegment, Template};

/// Side of the reduced images that are compared, in pixels.
const SIDE: u32 = 16;

/// How many of the nearest images the second score looks at.
const NEAREST: usize = 5;

/// Pairs of images on the sheet.
const SHOWN: usize = 32;

/// Where images come from.
pub trait Artist {
    /// An image of each of `texts`.
    ///
    /// # Errors
    /// Those of the model.
    fn draw(&mut self, texts: &[String]) -> Result<Vec<RgbImage>>;

    /// Each of `images` as the image tokenizer sees it, resized and cut, and what it leaves of it: the best
    /// that the model could draw.
    ///
    /// # Errors
    /// Those of the image tokenizer.
    fn reconstruct(&mut self, images: &[RgbImage]) -> Result<Vec<(RgbImage, RgbImage)>>;
}

/// What [`evaluate`] found.
#[derive(Clone, Debug)]
pub struct DrawingScores {
    /// Drawn images to which, of all images of the data set reduced to 16x16 pixels, one of the same text is
    /// nearest by the squared difference of RGB.
    pub retrieval: Score,
    /// The same for one of the five nearest.
    pub retrieval_at_5: Score,
    /// The first score for reconstructions of the data set's own images.
    pub reconstructed: Score,
    /// The share that a guess among the data set's images gets right.
    pub chance: f64,
    /// Every image.
    pub samples: Vec<SampleRecord>,
    /// Samples that could not be read.
    pub bad: Vec<BadSample>,
    /// Some images, the data set's and the drawn one.
    pub sheet: Vec<Cell>,
}

/// Has `artist` draw the text that `form`, such as `{name}, {style} emoji`, makes of each sample's columns.
///
/// # Errors
/// Those of `artist`; when more samples than [`crate::data::DEFAULT_TOLERANCE`], and more than one, are
/// unreadable, have no single image or lack a column of the form.
pub fn evaluate(
    dataset: &dyn Dataset,
    extent: Extent,
    form: &str,
    artist: &mut dyn Artist,
    mut fid: Option<&mut Fid>,
) -> Result<DrawingScores> {
    let (mut originals, mut drawn, mut rebuilt) = (Vec::new(), Vec::new(), Vec::new());
    let (mut samples, mut shown) = (Vec::new(), Vec::new());
    let take =
        |sample: Sample| Ok((prompt(form, &sample.fields)?, image(sample.images)?, sample.source));
    let bad = each_batch(dataset, extent, take, |batch| {
        let texts: Vec<_> = batch.iter().map(|(_, (text, _, _))| text.clone()).collect();
        let images: Vec<_> = batch.iter().map(|(_, (_, image, _))| image.clone()).collect();
        let made = one_each(artist.draw(&texts)?, texts.len())?;
        let (images, left): (Vec<_>, Vec<_>) = artist.reconstruct(&images)?.into_iter().unzip();
        if let Some(fid) = &mut fid {
            fid.add_real(&images)?;
            fid.add_made(&made)?;
        }
        rebuilt.extend(left.iter().map(reduced));
        originals.extend(images.iter().map(reduced));
        drawn.extend(made.iter().map(reduced));
        for ((index, (text, _, source)), pair) in
            batch.into_iter().zip(images.into_iter().zip(made))
        {
            if shown.len() < SHOWN {
                shown.push(pair);
            }
            samples.push(SampleRecord {
                doc_id: index,
                id: source,
                target: json!(text),
                input: text,
                ..SampleRecord::default()
            });
        }
        Ok(())
    })?;
    let texts: Vec<&str> = samples.iter().map(|sample| sample.input.as_str()).collect();
    let near = |one: &Vec<u8>| nearest(one, &originals, &texts);
    let found: Vec<Vec<&str>> = drawn.par_iter().map(near).collect();
    let left: Vec<Vec<&str>> = rebuilt.par_iter().map(near).collect();
    let reconstructed = Score::share(left.iter().zip(&texts).map(|(near, text)| near[0] == *text));
    let first: Vec<bool> = found.iter().zip(&texts).map(|(near, text)| near[0] == *text).collect();
    let any: Vec<bool> = found.iter().zip(&texts).map(|(near, text)| near.contains(text)).collect();
    let responses: Vec<Value> = found.iter().map(|near| json!(near[0])).collect();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    texts.iter().for_each(|text| *counts.entry(text).or_default() += 1);
    let chance = counts.values().map(|count| (*count as f64 / texts.len() as f64).powi(2)).sum();
    for (at, sample) in samples.iter_mut().enumerate() {
        sample.response = responses[at].clone();
        sample.scores = vec![("retrieval", number(first[at])), ("retrieval_at_5", number(any[at]))];
    }
    let pair = |(at, (original, drawn)): (usize, (RgbImage, RgbImage))| {
        let drawn = Cell::new(drawn).note(tone(first[at]), &samples[at].input);
        [Cell::new(original).note(Tone::Muted, "the data set's"), drawn]
    };
    let sheet = shown.into_iter().enumerate().flat_map(pair).collect();
    Ok(DrawingScores {
        retrieval: Score::share(first),
        retrieval_at_5: Score::share(any),
        reconstructed,
        chance,
        samples,
        bad,
        sheet,
    })
}

/// The text that `form` makes of a sample's columns.
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
                let message = format!("the form `{form}` of a text to draw has more than text");
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

/// The texts of the images nearest to `one`, nearest first; of equally near ones the first.
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
    fn a_prompt_is_made_of_the_columns_and_of_text_alone() {
        let fields: Fields =
            serde_json::from_str(r#"{"name": "red heart", "style": "flat", "tags": ["love"]}"#)
                .unwrap();
        assert_eq!(prompt("{name}, {style} emoji", &fields).unwrap(), "red heart, flat emoji");
        assert!(prompt("{tags}", &fields).is_err());
        assert!(prompt("<image>{name}", &fields).unwrap_err().to_string().contains("<image>"));
    }

    #[test]
    fn the_nearest_images_come_first() {
        let all: Vec<Vec<u8>> = (0..7).map(|level| vec![level * 10; 3]).collect();
        let texts = ["a", "b", "c", "d", "e", "f", "g"];
        assert_eq!(nearest(&[31; 3], &all, &texts), ["d", "e", "c", "f", "b"]);
    }
}
