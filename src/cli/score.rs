//! `calumma score`: token log-probabilities of given documents, or their rewards.

use std::path::{Path, PathBuf};

use calumma::data::{BadSample, DEFAULT_TOLERANCE, LeftOut};
use calumma::generate::sampling::log_probability;
use calumma::pipeline::Pipeline;
use calumma::tokenize::{CodedSegment, EncodeOptions, TokenClass};
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
    /// Print the reward of each document instead, by a checkpoint with a score head; "segments" are whole documents,
    /// which end-of-text ends
    #[arg(long)]
    reward: bool,
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
    Separator,
}

/// A line of the output, of log-probabilities or a reward. The first log-probability is `None`, as nothing predicts the
/// first id.
#[derive(Serialize)]
struct Scored {
    ids: Vec<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logprobs: Vec<Option<f32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reward: Option<f32>,
}

/// The means of a file.
#[derive(Default)]
struct Means {
    image: Mean,
    other: Mean,
    reward: Mean,
}

/// A sum and the number of its terms.
#[derive(Default)]
struct Mean(f64, usize);

impl Mean {
    fn add(&mut self, value: f32) {
        self.0 += f64::from(value);
        self.1 += 1;
    }

    fn value(&self) -> Option<f64> {
        (self.1 > 0).then(|| self.0 / self.1 as f64)
    }
}

/// Prints a line per document, then the mean loss by modality or the mean reward. A bad document gets a line with the reason.
///
/// # Errors
/// Those of checkpoint, file and model; if too many documents are bad, with their line numbers.
pub fn run(args: &ScoreArgs, session: &Session) -> Result<()> {
    let text = std::fs::read_to_string(&args.file).map_err(Error::io(&args.file))?;
    let pipeline = open::pipeline(&args.checkpoint, &args.adapters, session)?;
    let mut means = Means::default();
    let lines: Vec<(usize, &str)> = json::lines(&text).collect();
    let num_lines = lines.len();
    let mut left_out = LeftOut::new(&name(&args.file), num_lines);
    for (number, line) in lines {
        let in_line =
            |e: Error| Error::in_file(&args.file)(Error::because(format!("line {number}"))(e));
        let scored = match score_line(line, args, &pipeline) {
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
            let image = class == TokenClass::Image;
            let mean = if image { &mut means.image } else { &mut means.other };
            logprob.iter().for_each(|logprob| mean.add(-*logprob));
        }
        scored.reward.iter().for_each(|reward| means.reward.add(*reward));
        put_json(&scored)?;
    }
    print_means(&means, &left_out, args.reward, session)
}

fn print_means(means: &Means, left_out: &LeftOut, reward: bool, session: &Session) -> Result<()> {
    let left_out = left_out.omissions();
    let Means { image, other, reward: rewards } = means;
    if session.json() {
        let means = match reward {
            true => json!({ "mean_reward": rewards.value(), "left_out": left_out }),
            false => {
                let mean = json!({ "image": image.value(), "text": other.value() });
                json!({ "mean_loss": mean, "left_out": left_out })
            }
        };
        return session.object(&means);
    }
    let all = [
        ("mean image loss", image, "tokens"),
        ("mean text loss", other, "tokens"),
        ("mean reward", rewards, "documents"),
    ];
    for (name, mean, of) in all {
        if let Some(value) = mean.value() {
            session.line(format_args!("{name}: {value:.4} over {} {of}", mean.1))?;
        }
    }
    session.left_out(&left_out)
}

fn score_line(line: &str, args: &ScoreArgs, pipeline: &Pipeline) -> Result<Scored> {
    let document: Document =
        json::from_slice(line.as_bytes()).map_err(Error::because("not a document"))?;
    let ids = match (document.ids, document.segments) {
        (Some(ids), None) => ids,
        (None, Some(pieces)) => encode(&pieces, args, pipeline)?,
        _ => return Err(Error::invalid("expected either `ids` or `segments`")),
    };
    if args.reward {
        let reward = pipeline.model().reward(&ids)?;
        if reward.is_nan() {
            return Err(Error::invalid("the model returned NaN as the reward"));
        }
        return Ok(Scored { ids, logprobs: Vec::new(), reward: Some(reward) });
    }
    let logits = pipeline.model().all_logits(&ids)?;
    let mut logprobs = vec![None];
    let targets = ids.iter().skip(1);
    logprobs
        .extend(logits.iter().zip(targets).map(|(row, &id)| Some(log_probability(row, id) as f32)));
    if logprobs.iter().flatten().any(|logprob| logprob.is_nan()) {
        return Err(Error::invalid("the model returned NaN logits"));
    }
    Ok(Scored { ids, logprobs, reward: None })
}

fn encode(pieces: &[Piece], args: &ScoreArgs, pipeline: &Pipeline) -> Result<Vec<u32>> {
    let folder = args.file.parent().unwrap_or(Path::new(""));
    let mut segments = Vec::with_capacity(pieces.len());
    for piece in pieces {
        match piece {
            Piece::Text { text } => segments.push(CodedSegment::text(text)),
            Piece::Separator => segments.push(CodedSegment::sep()),
            Piece::Image { path } => {
                let image = images::open(&folder.join(path))?;
                let codes = pipeline.vq()?.encode(&[image])?;
                segments.extend(codes.into_iter().map(CodedSegment::Image));
            }
        }
    }
    let options = EncodeOptions { eos: args.reward, ..EncodeOptions::default() };
    pipeline.processor().encode_with(&segments, options)
}
