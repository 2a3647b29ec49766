//! `calumma bench`: how fast a checkpoint opens, reads, writes and draws on this machine.

use std::path::PathBuf;
use std::time::Instant;

use calumma::checkpoint::Checkpoint;
use calumma::generate::{LanguageModel, ServingModel};
use calumma::memory::peak_resident;
use calumma::model::CausalLm;
use calumma::{Error, Result};
use clap::Args;
use clap::builder::RangedU64ValueParser;
use image::RgbImage;
use serde_json::{Map, Value, json};
use vq_tokenizer::VqTokenizer;

use super::session::{Session, name};
use super::sizes;

/// Tokens decoded, where the context has room, before a measurement begins anew after its prompt.
const CONTINUED: usize = 64;
/// Repetitions, however long they take.
const FEWEST: usize = 3;

/// What to measure.
#[derive(Args)]
pub struct BenchArgs {
    /// A checkpoint's directory
    checkpoint: PathBuf,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 128, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    prompt: usize,
    /// Rows that are decoded side by side; the release's guidance takes three
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=64))]
    rows: usize,
    /// How long to repeat each measurement, of which the median is shown
    #[arg(long, default_value_t = 3.0, value_name = "SECONDS")]
    seconds: f64,
}

/// Prints a line for each part.
///
/// # Errors
/// Those of the checkpoint; when the prompt does not fit its context.
pub fn run(args: &BenchArgs, session: &Session) -> Result<()> {
    let device = session.device()?;
    let precision = session.precision();
    let mut report = Report { session, results: Map::new() };

    let start = Instant::now();
    let checkpoint = Checkpoint::open_as(&args.checkpoint, &device, precision.float_dtype())?;
    let seconds = start.elapsed().as_secs_f64();
    let Checkpoint { config, model, vq, .. } = checkpoint;
    let value_bytes = bytes_of_a_value(&model);
    let vq_bytes = vq.as_ref().map_or(0, |vq| 4 * number(&tensor_files::shapes(vq.model())));
    let kept = value_bytes * number(&tensor_files::shapes(&model)) + vq_bytes;
    let words = format!("{seconds:.2} s for {} of weights", sizes::bytes(kept as f64));
    report.line("open", &words, json!({ "seconds": seconds, "weights_bytes": kept }))?;
    let after_opening = peak_resident();

    let model = ServingModel::new(config, model, device);
    language_model(&model, args, &mut report)?;
    // The image tokenizer's activations come later.
    if let (Some(opened), Some(peak)) = (after_opening, peak_resident()) {
        let ratio = peak as f64 / kept as f64;
        let words = format!(
            "{} resident at the peak once text was written, {ratio:.3} times the weights; {} after opening",
            sizes::bytes(peak as f64),
            sizes::bytes(opened as f64)
        );
        let json = json!({ "peak_bytes": peak, "of_weights": ratio, "opened_bytes": opened });
        report.line("memory", &words, json)?;
    }
    if let Some(vq) = &vq {
        image_tokenizer(vq, args.seconds, &mut report)?;
    }
    report.results.insert("path".to_owned(), json!(name(&args.checkpoint)));
    report.results.insert("device".to_owned(), json!(session.device_name()));
    report.results.insert("precision".to_owned(), json!(precision.to_string()));
    session.object(&Value::Object(report.results))
}

/// Reads a prompt in one call, then writes token by token.
fn language_model(model: &ServingModel, args: &BenchArgs, report: &mut Report<'_>) -> Result<()> {
    let capacity = model.context().min(args.prompt + CONTINUED);
    if capacity <= args.prompt {
        let (prompt, context) = (args.prompt, model.context());
        return Err(Error::invalid(format!(
            "--prompt is {prompt}; allowed: less than the context of {context}"
        )));
    }
    let vocab = model.vocab_size();
    let prompt: Vec<u32> = (0..args.prompt).map(|at| (at * 7 % vocab) as u32).collect();
    let prompts = vec![prompt; args.rows];
    let mut cache = model.new_cache(args.rows, capacity);
    let seconds = median(args.seconds, || {
        cache = model.new_cache(args.rows, capacity);
        let start = Instant::now();
        model.next_logits(&prompts, &mut cache)?;
        Ok(start.elapsed().as_secs_f64())
    })?;
    // The embedding is looked up, everything else multiplied.
    let shapes = tensor_files::shapes(model.model());
    let looked_up =
        shapes.get("model.embed_tokens.weight").map_or(0, |shape| shape.iter().product());
    let multiplied =
        number(&shapes) - if shapes.contains_key("lm_head.weight") { looked_up } else { 0 };
    let tokens = (args.rows * args.prompt) as f64;
    // Only the last position of a row goes through the output layer.
    let output = vocab * model.config().hidden_size;
    let flops = 2.0 * (tokens * (multiplied - output) as f64 + (args.rows * output) as f64);
    let (speed, giga) = (tokens / seconds, flops / seconds / 1e9);
    let words =
        format!("{speed:.1} tokens/s over {tokens} tokens, {giga:.0} GFLOP/s in the weights");
    report.line("prefill", &words, json!({ "tokens_per_second": speed, "gflops": giga }))?;

    let mut left = capacity - args.prompt;
    let next = vec![vec![9]; args.rows];
    let seconds = median(args.seconds, || {
        if left == 0 {
            cache = model.new_cache(args.rows, capacity);
            model.next_logits(&prompts, &mut cache)?;
            left = capacity - args.prompt;
        }
        left -= 1;
        let start = Instant::now();
        model.next_logits(&next, &mut cache)?;
        Ok(start.elapsed().as_secs_f64())
    })?;
    let speed = args.rows as f64 / seconds;
    let read = (multiplied * bytes_of_a_value(model.model())) as f64 / seconds / 1e9;
    let words = format!(
        "{speed:.2} tokens/s, {:.0} ms for a step of {} rows, {read:.1} GB/s of weights",
        1000.0 * seconds,
        args.rows
    );
    report.line("decode", &words, json!({ "tokens_per_second": speed, "gb_per_second": read }))
}

fn image_tokenizer(vq: &VqTokenizer, seconds: f64, report: &mut Report<'_>) -> Result<()> {
    let (height, width) = (vq.preprocessor().crop_height, vq.preprocessor().crop_width);
    let shade = |x: u32, y: u32| image::Rgb([(x % 256) as u8, (y % 256) as u8, 128]);
    let images = [RgbImage::from_fn(width as u32, height as u32, shade)];
    let mut codes = vq.encode(&images)?;
    let mut line = |part: &str, seconds: f64| {
        let speed = 1.0 / seconds;
        let words = format!(
            "{speed:.2} images/s of {width}x{height} pixels, {:.0} ms each",
            1000.0 * seconds
        );
        report.line(part, &words, json!({ "pictures_per_second": speed }))
    };
    let encode = median(seconds, || {
        let start = Instant::now();
        codes = vq.encode(&images)?;
        Ok(start.elapsed().as_secs_f64())
    })?;
    line("vq encode", encode)?;
    if vq.has_decoder() {
        let decode = median(seconds, || {
            let start = Instant::now();
            vq.decode(&codes)?;
            Ok(start.elapsed().as_secs_f64())
        })?;
        line("vq decode", decode)?;
    }
    Ok(())
}

/// Results on the way: a line each for people, one object for programs.
struct Report<'a> {
    session: &'a Session,
    results: Map<String, Value>,
}

impl Report<'_> {
    fn line(&mut self, part: &str, words: &str, json: Value) -> Result<()> {
        self.results.insert(part.replace(' ', "_"), json);
        self.session.line(format_args!("{part:<10} {words}"))
    }
}

/// The median of what `work` measures, after one call for warming up.
fn median(seconds: f64, mut work: impl FnMut() -> Result<f64>) -> Result<f64> {
    work()?;
    let start = Instant::now();
    let mut times = Vec::new();
    while times.len() < FEWEST || start.elapsed().as_secs_f64() < seconds {
        times.push(work()?);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

fn number(shapes: &std::collections::BTreeMap<String, Vec<usize>>) -> usize {
    shapes.values().map(|shape| shape.iter().product::<usize>()).sum()
}

fn bytes_of_a_value(model: &CausalLm) -> usize {
    model.dtype().size()
}
