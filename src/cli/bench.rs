//! `calumma bench`: speed and memory of a checkpoint on this machine.

use std::path::PathBuf;
use std::time::Instant;

use calumma::checkpoint::Checkpoint;
use calumma::generate::{
    BLOCK, Engine, EngineConfig, GenerationConfig, GenerationMode, LanguageModel, Request,
    ServingModel, Span, Window,
};
use calumma::memory::peak_resident;
use calumma::model::{CausalLm, PagedCache};
use calumma::tokenize::{Processor, TokenClass};
use calumma::{Error, Result};
use clap::Args;
use clap::builder::RangedU64ValueParser;
use image::RgbImage;
use serde_json::{Map, Value, json};
use vq_tokenizer::VqTokenizer;

use super::open::{self, AdapterArgs};
use super::session::{Session, name};
use super::sizes;

/// Maximum number of tokens decoded after a prompt before the measurement restarts from the prompt.
const CONTINUED: usize = 64;
/// Minimum number of repetitions of a measurement, however long they take.
const MIN_REPETITIONS: usize = 3;

/// Arguments of `bench`.
#[derive(Args)]
pub struct BenchArgs {
    /// Checkpoint directory
    checkpoint: PathBuf,
    /// Length of the prompt in tokens
    #[arg(long, default_value_t = 128, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    prompt: usize,
    /// Rows decoded in one batch, 1 to 64; the release's guidance uses three
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=64))]
    rows: usize,
    /// Duration of each measurement in seconds; the median of its repetitions is printed
    #[arg(long, default_value_t = 3.0, value_name = "SECONDS")]
    seconds: f64,
    #[command(flatten)]
    adapters: AdapterArgs,
}

/// Prints a line per part.
///
/// # Errors
/// Those of the checkpoint; if the prompt does not fit its context.
pub fn run(args: &BenchArgs, session: &Session) -> Result<()> {
    let device = session.device()?;
    let precision = session.precision();
    let mut report = Report { session, results: Map::new() };

    let start = Instant::now();
    let checkpoint = open::checkpoint(&args.checkpoint, &args.adapters, &device, session)?;
    let seconds = start.elapsed().as_secs_f64();
    let Checkpoint { config, model, vq, processor, generation, .. } = checkpoint;
    let vq_bytes = vq.as_ref().map_or(0, |vq| 4 * num_values(&tensor_files::shapes(vq.model())));
    let weights_bytes = value_bytes(&model) * num_values(&tensor_files::shapes(&model)) + vq_bytes;
    let text = format!("{seconds:.2} s for {} of weights", sizes::bytes(weights_bytes as f64));
    report.add("open", &text, json!({ "seconds": seconds, "weights_bytes": weights_bytes }))?;
    let opened_bytes = peak_resident();

    let model = ServingModel::new(config, model, device);
    language_model(&model, args, &mut report)?;
    // Measured before the image tokenizer, so that its activations do not count.
    if let (Some(opened), Some(peak)) = (opened_bytes, peak_resident()) {
        let ratio = peak as f64 / weights_bytes as f64;
        let text = format!(
            "{} resident at the peak once text was written, {ratio:.3} times the weights; {} after opening",
            sizes::bytes(peak as f64),
            sizes::bytes(opened as f64)
        );
        let json = json!({ "peak_bytes": peak, "of_weights": ratio, "opened_bytes": opened });
        report.add("memory", &text, json)?;
    }
    if let Some(vq) = &vq {
        let (model, processor, generation) = (&model, &processor, &generation);
        let setting = Setting { model, processor, generation };
        mixed(&setting, args, &mut report)?;
        drawing(&setting, args, &mut report)?;
        image_tokenizer(vq, args.seconds, &mut report)?;
    }
    report.results.insert("path".to_owned(), json!(name(&args.checkpoint)));
    report.results.insert("device".to_owned(), json!(session.device_name()));
    report.results.insert("precision".to_owned(), json!(precision.to_string()));
    session.object(&Value::Object(report.results))
}

/// Measures prefill and decoding of the language model.
fn language_model(model: &ServingModel, args: &BenchArgs, report: &mut Report<'_>) -> Result<()> {
    let capacity = model.context().min(args.prompt + CONTINUED);
    if capacity <= args.prompt {
        let (prompt, context) = (args.prompt, model.context());
        return Err(Error::invalid(format!(
            "--prompt is {prompt}; allowed: less than the context of {context}"
        )));
    }
    let prompt: Vec<u32> =
        (0..args.prompt).map(|at| (at * 7 % model.vocab_size()) as u32).collect();
    let rows = Rows::new(args.rows, capacity);
    prefill(model, &rows, &prompt, report, args)?;
    decode(model, &rows, &prompt, report, args)
}

/// Sequences of equal length.
struct Rows {
    /// The blocks of each.
    blocks: Vec<Vec<u32>>,
    /// Maximum number of tokens of each.
    capacity: usize,
}

impl Rows {
    fn new(rows: usize, capacity: usize) -> Self {
        let each = capacity.div_ceil(BLOCK) as u32;
        let blocks = (0..rows as u32).map(|row| (row * each..(row + 1) * each).collect());
        Self { blocks: blocks.collect(), capacity }
    }

    fn cache(&self, model: &ServingModel) -> PagedCache {
        model.new_cache(self.blocks.iter().map(Vec::len).sum())
    }

    /// Adds `ids` to each row after its first `start` tokens; computes the logits of the last one.
    fn pass(
        &self,
        model: &ServingModel,
        start: usize,
        ids: &[u32],
        cache: &mut PagedCache,
    ) -> Result<()> {
        let columns = 0..model.vocab_size();
        let span = |blocks| Span { blocks, start, ids, wanted: 1, columns: columns.clone() };
        let spans: Vec<Span<'_>> = self.blocks.iter().map(|blocks| span(blocks)).collect();
        model.pass(&spans, cache)?;
        Ok(())
    }
}

/// The number of weights that take part in matrix products. An untied embedding is only looked up.
fn multiplied_weights(model: &ServingModel) -> usize {
    let shapes = tensor_files::shapes(model.model());
    let embedding =
        shapes.get("model.embed_tokens.weight").map_or(0, |shape| shape.iter().product());
    let is_tied = !shapes.contains_key("lm_head.weight");
    num_values(&shapes) - if is_tied { 0 } else { embedding }
}

/// Measures how fast the prompt is read by all rows in one pass.
fn prefill(
    model: &ServingModel,
    rows: &Rows,
    prompt: &[u32],
    report: &mut Report<'_>,
    args: &BenchArgs,
) -> Result<()> {
    let seconds = median(args.seconds, || {
        let mut cache = rows.cache(model);
        let start = Instant::now();
        rows.pass(model, 0, prompt, &mut cache)?;
        Ok(start.elapsed().as_secs_f64())
    })?;
    let tokens = (args.rows * args.prompt) as f64;
    // Only the last position of a row goes through the output layer.
    let output = model.vocab_size() * model.config().hidden_size;
    let inner = multiplied_weights(model) - output;
    let flops = 2.0 * (tokens * inner as f64 + (args.rows * output) as f64);
    let (speed, gflops) = (tokens / seconds, flops / seconds / 1e9);
    let text =
        format!("{speed:.1} tokens/s over {tokens} tokens, {gflops:.0} GFLOP/s in the weights");
    report.add("prefill", &text, json!({ "tokens_per_second": speed, "gflops": gflops }))
}

/// Measures how fast tokens are decoded after the prompts.
fn decode(
    model: &ServingModel,
    rows: &Rows,
    prompt: &[u32],
    report: &mut Report<'_>,
    args: &BenchArgs,
) -> Result<()> {
    let mut cache = rows.cache(model);
    rows.pass(model, 0, prompt, &mut cache)?;
    let mut len = prompt.len();
    let seconds = median(args.seconds, || {
        // Later tokens are overwritten, the prompt's stay.
        len = if len == rows.capacity { prompt.len() } else { len };
        let start = Instant::now();
        rows.pass(model, len, &[9], &mut cache)?;
        len += 1;
        Ok(start.elapsed().as_secs_f64())
    })?;
    let speed = args.rows as f64 / seconds;
    let bytes = multiplied_weights(model) * value_bytes(model.model());
    let bandwidth = bytes as f64 / seconds / 1e9;
    let text = format!(
        "{speed:.2} tokens/s, {:.0} ms for a step of {} rows, {bandwidth:.1} GB/s of weights",
        1000.0 * seconds,
        args.rows
    );
    report.add("decode", &text, json!({ "tokens_per_second": speed, "gb_per_second": bandwidth }))
}

/// What drawing and mixed requests are measured with.
struct Setting<'a> {
    model: &'a ServingModel,
    processor: &'a Processor,
    generation: &'a GenerationConfig,
}

impl Setting<'_> {
    fn engine(&self, window: Window) -> Result<Engine<'_, ServingModel>> {
        let limits = EngineConfig { window, whole_cache: false, ..EngineConfig::default() };
        let blocks = self.processor.blocks().clone();
        Engine::new(self.model, self.processor.vocabulary(), blocks, limits)
    }

    /// An image after begin-of-text, or what ends one where there is none, with the checkpoint's settings.
    fn image(&self, seed: u64) -> Request {
        let config =
            GenerationConfig { mode: GenerationMode::ImageOnly, ..self.generation.clone() };
        let special = self.processor.vocabulary().special();
        let prompt = vec![special.bos.unwrap_or(special.eos)];
        Request::new(prompt, GenerationConfig { seed, ..config })
    }

    /// A text of `len` ids after a prompt of `prompt` ids.
    fn text(&self, prompt: usize, len: usize, seed: u64) -> Request {
        let vocabulary = self.processor.vocabulary();
        let ids = (0..vocabulary.len() as u32)
            .filter(|&id| matches!(vocabulary.class(id), TokenClass::Text));
        let ids = vocabulary.special().bos.into_iter().chain(ids.cycle());
        let mode = GenerationMode::TextOnly;
        let max_new_tokens = Some(len);
        let config = GenerationConfig { mode, max_new_tokens, seed, ..self.generation.clone() };
        Request::new(ids.take(prompt).collect(), config)
    }
}

/// Runs the requests side by side; returns the seconds that it took and the number of new ids.
fn complete(
    engine: &mut Engine<'_, ServingModel>,
    requests: impl Iterator<Item = Request>,
) -> Result<(f64, usize)> {
    let start = Instant::now();
    let ids = requests.map(|request| engine.admit(request)).collect::<Result<Vec<_>>>()?;
    while !engine.is_idle() {
        engine.step()?;
    }
    let seconds = start.elapsed().as_secs_f64();
    let mut new_ids = 0;
    for id in ids {
        new_ids += engine.take(id).expect("all requests have ended")?.ids.len();
    }
    Ok((seconds, new_ids))
}

/// Measures how long the codes of images take with the checkpoint's settings, and in how many passes, for each way
/// to guess codes.
fn drawing(setting: &Setting<'_>, args: &BenchArgs, report: &mut Report<'_>) -> Result<()> {
    for (name, window) in [("off", Window::Off), ("16", Window::Fixed(16)), ("auto", Window::Auto)]
    {
        // One engine, so that it learns the costs of passes.
        let mut engine = setting.engine(window)?;
        let mut seed = 0;
        let seconds = median(args.seconds, || {
            let seeds = seed..seed + args.rows as u64;
            seed = seeds.end;
            Ok(complete(&mut engine, seeds.map(|seed| setting.image(seed)))?.0)
        })?;
        let stats = engine.stats();
        let passes = (stats.image_passes as f64 / seed as f64) + 1.0;
        let each = seconds / args.rows as f64;
        let text = format!(
            "{:.0} ms per image of {} codes, {passes:.1} passes each, window {name}",
            1000.0 * each,
            stats.image_ids / seed as usize
        );
        let json = json!({ "seconds_per_image": each, "passes_per_image": passes });
        report.add(&format!("draw {name}"), &text, json)?;
    }
    Ok(())
}

/// Measures requests of several kinds at once: every other one an image, the others texts of
/// [`CONTINUED`] / 2 to 2 [`CONTINUED`] ids: the longer, the shorter the prompt, which has from a quarter of
/// `--prompt` ids to all of them.
fn mixed(setting: &Setting<'_>, args: &BenchArgs, report: &mut Report<'_>) -> Result<()> {
    let longest = (2 * CONTINUED).min(setting.model.context() - args.prompt);
    let part = |of: usize, number: usize| {
        let share = 0.25 + 0.75 * number as f64 / (args.rows - 1).max(1) as f64;
        ((of as f64 * share) as usize).max(1)
    };
    let request = |number: usize| match number % 2 {
        0 => {
            let prompt = part(args.prompt, args.rows - 1 - number);
            setting.text(prompt, part(longest, number), number as u64)
        }
        _ => setting.image(number as u64),
    };
    let mut engine = setting.engine(Window::Auto)?;
    let mut new_ids = 0;
    let seconds = median(args.seconds, || {
        let (seconds, ids) = complete(&mut engine, (0..args.rows).map(request))?;
        new_ids = ids;
        Ok(seconds)
    })?;
    let speed = new_ids as f64 / seconds;
    let text = format!(
        "{speed:.2} new tokens/s, {} texts and {} images at once in {:.0} ms, prompts included",
        args.rows.div_ceil(2),
        args.rows / 2,
        1000.0 * seconds
    );
    let json = json!({ "tokens_per_second": speed, "tokens": new_ids, "seconds": seconds });
    report.add("mixed", &text, json)
}

/// Measures encoding and, with a decoder, decoding of one image.
fn image_tokenizer(vq: &VqTokenizer, seconds: f64, report: &mut Report<'_>) -> Result<()> {
    let (height, width) = (vq.preprocessor().crop_height, vq.preprocessor().crop_width);
    let shade = |x: u32, y: u32| image::Rgb([(x % 256) as u8, (y % 256) as u8, 128]);
    let images = [RgbImage::from_fn(width as u32, height as u32, shade)];
    let mut codes = vq.encode(&images)?;
    let mut add = |part: &str, seconds: f64| {
        let speed = 1.0 / seconds;
        let text = format!(
            "{speed:.2} images/s of {width}x{height} pixels, {:.0} ms each",
            1000.0 * seconds
        );
        report.add(part, &text, json!({ "pictures_per_second": speed }))
    };
    let encode = median(seconds, || {
        let start = Instant::now();
        codes = vq.encode(&images)?;
        Ok(start.elapsed().as_secs_f64())
    })?;
    add("vq encode", encode)?;
    if vq.has_decoder() {
        let decode = median(seconds, || {
            let start = Instant::now();
            vq.decode(&codes)?;
            Ok(start.elapsed().as_secs_f64())
        })?;
        add("vq decode", decode)?;
    }
    Ok(())
}

/// The results: printed line by line, and collected into one JSON object.
struct Report<'a> {
    session: &'a Session,
    results: Map<String, Value>,
}

impl Report<'_> {
    fn add(&mut self, part: &str, text: &str, json: Value) -> Result<()> {
        self.results.insert(part.replace(' ', "_"), json);
        self.session.line(format_args!("{part:<10} {text}"))
    }
}

/// The median of the seconds that `measure` returns, repeated for `seconds` after a warm-up call.
fn median(seconds: f64, mut measure: impl FnMut() -> Result<f64>) -> Result<f64> {
    measure()?;
    let start = Instant::now();
    let mut times = Vec::new();
    while times.len() < MIN_REPETITIONS || start.elapsed().as_secs_f64() < seconds {
        times.push(measure()?);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

fn num_values(shapes: &std::collections::BTreeMap<String, Vec<usize>>) -> usize {
    shapes.values().map(|shape| shape.iter().product::<usize>()).sum()
}

/// Bytes per weight of the language model.
fn value_bytes(model: &CausalLm) -> usize {
    model.dtype().size()
}
