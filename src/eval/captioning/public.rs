//! The caption metrics that papers report: BLEU, ROUGE-L and CIDEr-D, and METEOR and SPICE by their authors'
//! programs.

use serde_json::Value;

use crate::error::Result;
use crate::eval::metrics::{PtbTokenizer, Segment, bleu, cider, rouge_l};
use crate::eval::official::Official;
use crate::eval::report::SampleRecord;
use crate::eval::score::Score;

/// Scores of a whole set, by name.
pub(super) type SetScores = Vec<(&'static str, Score)>;

/// Captions and references of the samples that have references.
pub(super) fn captions_and_references(samples: &[SampleRecord]) -> (Vec<String>, Vec<Vec<String>>) {
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

/// BLEU, ROUGE-L and CIDEr-D with tokens as the public scorers produce them; the values of each
/// image are added to its record.
pub(super) fn public_metrics(samples: &mut [SampleRecord]) -> Result<SetScores> {
    let (captions, references) = captions_and_references(samples);
    if captions.is_empty() {
        return Ok(Vec::new());
    }
    let segments = Segment::tokenized(&PtbTokenizer::new(), &captions, &references)?;
    Ok(corpus_metrics(&segments, samples))
}

/// As [`public_metrics`], with METEOR and SPICE by their authors' programs as far as `official` has them, and
/// with tokens by Stanford's tokenizer if it has that.
pub(super) fn official_metrics(
    official: &Official,
    samples: &mut [SampleRecord],
) -> Result<SetScores> {
    let (captions, references) = captions_and_references(samples);
    if captions.is_empty() {
        return Ok(Vec::new());
    }
    let segments = official.segments(&captions, &references)?;
    let mut all = corpus_metrics(&segments, samples);
    let found = [("meteor", official.meteor(&segments)?), ("spice", official.spice(&segments)?)];
    for (name, scores) in found {
        let Some((of_set, each)) = scores else { continue };
        let scored = samples.iter_mut().filter(|sample| !sample.scores.is_empty());
        for (sample, score) in scored.zip(&each) {
            sample.scores.push((name, *score));
        }
        // METEOR of a set is computed from sums over it; SPICE is a mean.
        let score = match name {
            "spice" => Score::mean(&each),
            _ => Score::whole(of_set, each.len()),
        };
        all.push((name, score));
    }
    Ok(all)
}

/// The metrics of `segments`, those of the samples with references; replaces earlier values in the records.
fn corpus_metrics(segments: &[Segment], samples: &mut [SampleRecord]) -> SetScores {
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
    // BLEU of a set is no mean over images, so the bootstrap of means gives no interval for it.
    let of_set =
        names.into_iter().zip(bleu.corpus).map(|(name, value)| (name, Score::whole(value, n)));
    let mut scores: Vec<_> = of_set.collect();
    scores.push(("rouge_l", Score::mean(&rouge_l.segments)));
    scores.push(("cider", Score::mean(&cider.segments)));
    scores
}
