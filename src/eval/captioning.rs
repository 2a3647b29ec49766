//! Captions held against the names or captions that a data set gives its images, and against the
//! ground truth of procedural scenes.

use std::collections::BTreeSet;

use image::RgbImage;
use serde_json::{Value, json};

use super::metrics::{
    AnswerRules, PtbTokenizer, Segment, TextMatcher, TextNormalization, bleu, cider, rouge_l,
};
use super::official::Official;
use super::report::{Report, SampleRecord};
use super::score::Score;
use super::{Extent, each_batch, image, number, one_each, tone};
use crate::data::scenes::{Color, Kind, Scene, Shape, Size};
use crate::data::{BadSample, Dataset, Fields, Sample};
use crate::error::{Error, Result};
use crate::sheet::{Cell, Tone};

/// Columns that hold what is right, the first that is there; a list holds several right ones.
const TARGET_COLUMNS: [&str; 6] = ["captions", "name", "caption", "text", "txt", "label"];

/// Images on the sheet.
const SHOWN: usize = 48;

/// What [`evaluate`] found.
#[derive(Clone, Debug)]
pub struct CaptioningScores {
    /// The share of captions that equal one of the right ones after the VQA normalisation; on a
    /// data set of names: naming accuracy.
    pub exact_match: Score,
    /// Mean harmonic mean of precision and recall of words, against the best of the right ones.
    pub word_f1: Score,
    /// On scenes: the share of captions that mention an object and none that is not there.
    pub true_mentions: Option<Score>,
    /// On scenes: the share of captions that also mention every object.
    pub all_mentioned: Option<Score>,
    /// The public caption metrics over all images, by name: BLEU-1 to 4, ROUGE-L and CIDEr-D, in [0, 1]
    /// or for CIDEr-D [0, 10]. CIDEr-D depends on the set: state N.
    pub public: Vec<(&'static str, Score)>,
    /// `{"image_id", "caption"}` of every image that has an id: what the COCO server takes. A sample that
    /// could not be read has an empty caption.
    pub submission: Vec<Value>,
    /// Every image.
    pub samples: Vec<SampleRecord>,
    /// Samples that could not be read.
    pub bad: Vec<BadSample>,
    /// Some images with their captions.
    pub sheet: Vec<Cell>,
}

/// An image that is ready to be captioned.
struct Seen {
    image: RgbImage,
    /// The right captions; a test split does not say.
    targets: Vec<String>,
    fields: Fields,
    source: String,
}

impl Seen {
    fn take(sample: Sample) -> Result<Self> {
        let Sample { fields, images, source } = sample;
        let targets = targets(&fields)?.unwrap_or_default();
        Ok(Self { image: image(images)?, targets, fields, source })
    }
}

/// Captions the images of `dataset`; `caption` gives one for each of the images it gets.
///
/// # Errors
/// Those of `caption`; when more samples than [`crate::data::DEFAULT_TOLERANCE`], and more than one, are
/// unreadable or have no single image. Images without a right caption are captioned and not scored.
pub fn evaluate(
    dataset: &dyn Dataset,
    extent: Extent,
    mut caption: impl FnMut(&[RgbImage]) -> Result<Vec<String>>,
) -> Result<CaptioningScores> {
    let matcher = TextMatcher::new(TextNormalization::Vqa(AnswerRules::Official));
    let (mut samples, mut sheet) = (Vec::new(), Vec::new());
    let mut submission = Vec::new();
    let bad = each_batch(dataset, extent, Seen::take, |batch| {
        let images: Vec<_> = batch.iter().map(|(_, seen)| seen.image.clone()).collect();
        let captions = one_each(caption(&images)?, images.len())?;
        for ((index, seen), given) in batch.into_iter().zip(captions) {
            let Seen { image, targets, fields, source } = seen;
            let scores = judge(&given, &targets, &fields, &matcher);
            if sheet.len() < SHOWN {
                let right = scores.iter().any(|&(name, value)| {
                    ["exact_match", "true_mentions"].contains(&name) && value == 1.0
                });
                let right = if scores.is_empty() { Tone::Plain } else { tone(right) };
                let cell = Cell::new(image).note(right, &given);
                let target = targets.first().cloned().unwrap_or_default();
                sheet.push(cell.note(Tone::Muted, target));
            }
            if let Some(id) = fields.get("image_id") {
                submission.push(json!({ "image_id": id, "caption": given }));
            }
            samples.push(SampleRecord {
                doc_id: index,
                id: source,
                target: if targets.len() == 1 { json!(targets[0]) } else { json!(targets) },
                response: json!(given),
                scores,
                ..SampleRecord::default()
            });
        }
        Ok(())
    })?;
    for sample in &bad {
        let fields = dataset.fields(sample.index).unwrap_or_default();
        let id = fields.get("image_id");
        submission.extend(id.map(|id| json!({ "image_id": id, "caption": "" })));
    }
    let public = public_metrics(&mut samples)?;
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
        submission,
        samples,
        bad,
        sheet,
    })
}

/// Captions and references of the samples that have references.
fn captions_and_references(samples: &[SampleRecord]) -> (Vec<String>, Vec<Vec<String>>) {
    let texts = |value: &Value| -> Vec<String> {
        match value {
            Value::Array(list) => {
                list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
            }
            value => value.as_str().map(str::to_owned).into_iter().collect(),
        }
    };
    let scored = samples.iter().filter(|sample| !sample.scores.is_empty());
    scored.map(|sample| (texts(&sample.response).concat(), texts(&sample.target))).unzip()
}

/// The caption metrics that papers report, of captions and references as the public scorers tokenise them; those
/// of each image go to its record.
fn public_metrics(samples: &mut [SampleRecord]) -> Result<Vec<(&'static str, Score)>> {
    let (captions, references) = captions_and_references(samples);
    if captions.is_empty() {
        return Ok(Vec::new());
    }
    let segments = Segment::tokenized(&PtbTokenizer::new(), &captions, &references)?;
    Ok(corpus_metrics(&segments, samples))
}

fn corpus_metrics(
    segments: &[Segment],
    samples: &mut [SampleRecord],
) -> Vec<(&'static str, Score)> {
    let (bleu, rouge_l, cider) = (bleu(segments), rouge_l(segments), cider(segments));
    let scored = samples.iter_mut().filter(|sample| !sample.scores.is_empty());
    for (at, sample) in scored.enumerate() {
        sample.scores.retain(|(name, _)| !["bleu_4", "rouge_l", "cider"].contains(name));
        let of_one = [
            ("bleu_4", bleu.segments[at][3]),
            ("rouge_l", rouge_l.segments[at]),
            ("cider", cider.segments[at]),
        ];
        sample.scores.extend(of_one);
    }
    let n = segments.len();
    let names = ["bleu_1", "bleu_2", "bleu_3", "bleu_4"];
    // BLEU is of the whole set, not a mean over images, so resampling means says nothing about it.
    let of_set =
        names.into_iter().zip(bleu.corpus).map(|(name, value)| (name, Score::whole(value, n)));
    let mut scores: Vec<_> = of_set.collect();
    scores.push(("rouge_l", Score::mean(&rouge_l.segments)));
    scores.push(("cider", Score::mean(&cider.segments)));
    scores
}

/// The right captions of a sample; none without a column of them.
fn targets(fields: &Fields) -> Result<Option<Vec<String>>> {
    let column = TARGET_COLUMNS.iter().find_map(|name| Some((name, fields.get(*name)?)));
    let Some((name, value)) = column.filter(|(_, value)| !value.is_null()) else { return Ok(None) };
    let texts: Option<Vec<String>> = match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(list) => list.iter().map(|v| v.as_str().map(str::to_owned)).collect(),
        _ => None,
    };
    let texts = texts.filter(|texts| !texts.is_empty());
    let wrong = || Error::invalid(format!("column {name} is no text and no list of texts"));
    texts.map(Some).ok_or_else(wrong)
}

/// All right captions in `dataset`, each once, in order: what naming by choice chooses from.
///
/// # Errors
/// When there is none.
pub fn all_targets(dataset: &dyn Dataset) -> Result<Vec<String>> {
    // Bad samples are counted when they are measured.
    let of = |index| targets(&dataset.fields(index).ok()?).ok().flatten();
    let all: BTreeSet<String> = (0..dataset.len()).filter_map(of).flatten().collect();
    match all.is_empty() {
        true => Err(Error::invalid(format!("{}: {}", dataset.name(), no_target()))),
        false => Ok(all.into_iter().collect()),
    }
}

fn no_target() -> String {
    format!("no column {}", TARGET_COLUMNS.join(", "))
}

/// The first right caption of a sample.
///
/// # Errors
/// When there is no column of captions or names.
pub fn first_target(fields: &Fields) -> Result<String> {
    let targets = targets(fields)?.ok_or_else(|| Error::invalid(no_target()))?;
    Ok(targets.into_iter().next().unwrap_or_default())
}

fn judge(
    given: &str,
    targets: &[String],
    fields: &Fields,
    matcher: &TextMatcher,
) -> Vec<(&'static str, f64)> {
    if targets.is_empty() {
        return Vec::new();
    }
    let mut scores = vec![
        ("exact_match", number(matcher.exact_match(given, targets))),
        ("word_f1", matcher.token_f1(given, targets)),
    ];
    let scene = fields.get("scene").and_then(|v| serde_json::from_value::<Scene>(v.clone()).ok());
    if let Some(scene) = scene {
        let mentions = mentions(given);
        let there = |kind: &Kind| scene.objects.iter().any(|object| kind.matches(object));
        let truthful = !mentions.is_empty() && mentions.iter().all(there);
        let all = scene.objects.iter().all(|o| mentions.iter().any(|kind| kind.matches(o)));
        scores.push(("true_mentions", number(truthful)));
        scores.push(("all_mentioned", number(truthful && all)));
    }
    scores
}

/// The kinds of objects that `text` names: every noun with the adjectives right before it.
fn mentions(text: &str) -> Vec<Kind> {
    let mut mentions = Vec::new();
    let mut kind = Kind::default();
    for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        if let Some(size) = Size::ALL.into_iter().find(|size| size.name() == word) {
            kind.size = Some(size);
        } else if let Some(color) = Color::ALL.into_iter().find(|color| color.name() == word) {
            kind.color = Some(color);
        } else {
            let shape =
                Shape::ALL.into_iter().find(|shape| [shape.name(), shape.plural()].contains(&word));
            if shape.is_some() || ["object", "objects"].contains(&word) {
                mentions.push(Kind { shape, ..kind });
            }
            kind = Kind::default();
        }
    }
    mentions
}

impl CaptioningScores {
    /// Adds `meteor` and `spice` by their authors' programs, as far as they were found, and takes the tokens of
    /// the other public metrics from Stanford's where it was.
    ///
    /// # Errors
    /// When a program fails.
    pub fn score_officially(&mut self, official: &Official) -> Result<()> {
        let (captions, references) = captions_and_references(&self.samples);
        if captions.is_empty() {
            return Ok(());
        }
        let segments = official.segments(&captions, &references)?;
        self.public = corpus_metrics(&segments, &mut self.samples);
        let found =
            [("meteor", official.meteor(&segments)?), ("spice", official.spice(&segments)?)];
        for (name, scores) in found {
            let Some((of_set, each)) = scores else { continue };
            let scored = self.samples.iter_mut().filter(|sample| !sample.scores.is_empty());
            for (sample, score) in scored.zip(&each) {
                sample.scores.push((name, *score));
            }
            // METEOR of a set comes from sums over it; SPICE is a mean.
            let score = match name {
                "spice" => Score::mean(&each),
                _ => Score::whole(of_set, each.len()),
            };
            self.public.push((name, score));
        }
        Ok(())
    }

    /// The share that a guess among `choices` gets right: of each image that of its right captions among
    /// them.
    pub fn chance(&self, choices: &[String]) -> Score {
        let right = |references: Vec<String>| {
            let among = choices.iter().filter(|choice| references.contains(choice)).count();
            among as f64 / choices.len().max(1) as f64
        };
        let (_, references) = captions_and_references(&self.samples);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nouns_are_read_with_their_adjectives() {
        let red =
            Kind { size: Some(Size::Large), color: Some(Color::Red), shape: Some(Shape::Star) };
        assert_eq!(mentions("a large red star"), [red]);
        let crosses = Kind { color: Some(Color::Blue), ..Kind::shape(Shape::Cross) };
        assert_eq!(mentions("two blue crosses, on light blue"), [crosses]);
        assert_eq!(mentions("three pink objects"), [Kind::color(Color::Pink)]);
        assert_eq!(mentions("red on a circle")[0], Kind::shape(Shape::Circle));
        assert!(mentions("nothing to see").is_empty());
    }
}
