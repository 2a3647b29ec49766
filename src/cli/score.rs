//! `calumma score`: token log-probabilities of given documents.

use std::path::{Path, PathBuf};

use calumma::data::{BadSample, DEFAULT_TOLERANCE, LeftOut};
use calumma::generate::sampling::log_probability;
use calumma::pipeline::Pipeline;
use calumma::tokenize::{CodedSegment, TokenClass};
use calumma::{Error, Result, json};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::open::AdapterArgs;
use super::session::{Session, name, put_json};
use super::{images, open};

/// The exit code of errors in the data.
const BAD_DATA: u8 = 3;

/// Arguments of `score`.
#[derive(Args)]
pub struct ScoreArgs {
    /// Checkpoint directory
    checkpoint: PathBuf,
    /// JSON Lines file of documents with "ids" or "segments"; image paths are relative to it
    file: PathBuf,
    #[command(flatten)]
    adapters: AdapterArgs,
}

/// A line of the input.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    ids: Option<Vec<u32>>,
    segments: Option<Vec<Piece>>,
}

/// A segment of a line.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
enum Piece {
    Text { text: String },
    Image { path: PathBuf },
}

/// A line of the output. The first log-probability is `None`, as nothing predicts the first id.
#[derive(Serialize)]
struct Scored {
    ids: Vec<u32>,
    logprobs: Vec<Option<f32>>,
}

/// The sum and number of losses.
#[derive(Default)]
struct Mean(f64, usize);

impl Mean {
    fn add(&mut self, logprob: f32) {
        self.0 -= f64::from(logprob);
        self.1 += 1;
    }

    fn value(&self) -> Option<f64> {
        (self.1 > 0).then(|| self.0 / self.1 as f64)
    }
}

/// Prints a line per document, then the mean loss by modality. A bad document gets a line with the reason.
///
/// # Errors
/// Those of checkpoint, file and model; if too many documents are bad, with their line numbers.
pub fn run(args: &ScoreArgs, session: &Session) -> Result<()> {
    let text = std::fs::read_to_string(&args.file).map_err(Error::io(&args.file))?;
    let pipeline = open::pipeline(&args.checkpoint, &args.adapters, session)?;
    let (mut image, mut other) = (Mean::default(), Mean::default());
    let lines: Vec<(usize, &str)> = json::lines(&text).collect();
    let num_lines = lines.len();
    let mut left_out = LeftOut::new(&name(&args.file), num_lines);
    for (number, line) in lines {
        let in_line =
            |e: Error| Error::in_file(&args.file)(Error::because(format!("line {number}"))(e));
        let scored = match score_line(line, &args.file, &pipeline) {
            Ok(scored) => scored,
            Err(error) if error.exit_code() != BAD_DATA => return Err(in_line(error)),
            Err(error) => {
                let reason = in_line(error).to_string();
                left_out.add_bad(BadSample { index: number - 1, reason: reason.clone() });
                // One bad document among others is allowed, as in evaluations.
                let one = if num_lines > 1 { 1.0 / num_lines as f64 } else { 0.0 };
                left_out.check(DEFAULT_TOLERANCE.max(one))?;
                put_json(&json!({ "line": number, "error": reason }))?;
                continue;
            }
        };
        for (&id, logprob) in scored.ids.iter().zip(&scored.logprobs) {
            let class = pipeline.processor().vocabulary().class(id);
            let mean = if class == TokenClass::Image { &mut image } else { &mut other };
            logprob.iter().for_each(|logprob| mean.add(*logprob));
        }
        put_json(&scored)?;
    }
    if session.json() {
        let mean = json!({ "image": image.value(), "text": other.value() });
        let left_out = left_out.omissions();
        return session.object(&json!({ "mean_loss": mean, "left_out": left_out }));
    }
    for (name, mean) in [("image", image), ("text", other)] {
        if let Some(value) = mean.value() {
            session.line(format_args!("mean {name} loss: {value:.4} over {} tokens", mean.1))?;
        }
    }
    session.left_out(&left_out.omissions())
}

fn score_line(line: &str, file: &Path, pipeline: &Pipeline) -> Result<Scored> {
    let document: Document =
        json::from_slice(line.as_bytes()).map_err(Error::because("not a document"))?;
    let ids = match (document.ids, document.segments) {
        (Some(ids), None) => ids,
        (None, Some(pieces)) => encode(&pieces, file, pipeline)?,
        _ => return Err(Error::invalid("expected either `ids` or `segments`")),
    };
    let logits = pipeline.model().all_logits(&ids)?;
    let mut logprobs = vec![None];
    let targets = ids.iter().skip(1);
    logprobs
        .extend(logits.iter().zip(targets).map(|(row, &id)| Some(log_probability(row, id) as f32)));
    if logprobs.iter().flatten().any(|logprob| logprob.is_nan()) {
        return Err(Error::invalid("the model returned NaN logits"));
    }
    Ok(Scored { ids, logprobs })
}

fn encode(pieces: &[Piece], file: &Path, pipeline: &Pipeline) -> Result<Vec<u32>> {
    let folder = file.parent().unwrap_or(Path::new(""));
    let mut segments = Vec::with_capacity(pieces.len());
    for piece in pieces {
        match piece {
            Piece::Text { text } => segments.push(CodedSegment::text(text)),
            Piece::Image { path } => {
                let image = images::open(&folder.join(path))?;
                let codes = pipeline.vq()?.encode(&[image])?;
                segments.extend(codes.into_iter().map(CodedSegment::Image));
            }
        }
    }
    pipeline.processor().encode(&segments)
}
