//! Flags of sampling, and of what the text may be.

use std::path::{Path, PathBuf};

use calumma::generate::config::LONGEST_ANSWER;
use calumma::generate::{EndReason, GenerationConfig, Grammar, GuidanceRamp, Preset, Window};
use calumma::pipeline::Pipeline;
use calumma::{Error, Result};
use clap::Args;
use clap::builder::PossibleValuesParser;

use super::open::{self, AdapterArgs};
use super::session::Session;

/// Sampling flags, with those of `K`; without a flag the setting of the checkpoint applies.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs<K: Kind> {
    #[command(flatten)]
    common: CommonFlags,
    #[command(flatten)]
    kind: K,
    #[command(flatten, next_help_heading = None)]
    adapters: AdapterArgs,
}

/// Sampling flags of every verb. Apart from those of `K`, since clap's group of a struct with flattened fields is
/// empty, and so conflicts with nothing.
#[derive(Args, Clone, Debug, Default)]
struct CommonFlags {
    /// Start from the settings of this published model instead of the checkpoint's
    #[arg(
        long,
        value_parser = PossibleValuesParser::new(Preset::ALL.map(|(_, name)| name))
    )]
    preset: Option<String>,
    /// Always take the most likely token
    #[arg(long, conflicts_with_all = ["temperature", "top_p", "top_k", "min_p"])]
    greedy: bool,
    /// Sampling temperature of text and images, above 0
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,
    /// Sample from the most likely tokens of total probability P; above 0, at most 1
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Sample from the K most likely tokens
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Sample from the tokens that are at least P times as likely as the most likely one; 0 turns it off
    #[arg(long, value_name = "P")]
    min_p: Option<f32>,
    /// Guess N tokens ahead and check them in one pass, 1 to 64, off, or auto: as many as pay; what a grammar forces is
    /// always run ahead unless off. The result is the same
    #[arg(long, value_name = "N", default_value_t)]
    window: Window,
}

/// Sampling flags of what a verb generates.
pub trait Kind: Args {
    /// The settings to start from, if those of the checkpoint are `own`; `samples` says whether a flag asks for
    /// sampling.
    fn start(own: GenerationConfig, _samples: bool) -> GenerationConfig {
        own
    }

    /// `config` with the flags applied.
    fn over(&self, config: GenerationConfig) -> GenerationConfig;
}

/// Sampling flags of text that is generated.
#[derive(Args, Clone, Debug, Default)]
pub struct TextFlags {
    /// Generate at most N tokens; an image counts its codes and two marks
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// Penalty on tokens that already occur in the text; 1 turns it off
    #[arg(long, value_name = "R")]
    repetition_penalty: Option<f32>,
}

/// Sampling flags of images that are generated.
#[derive(Args, Clone, Debug, Default)]
pub struct ImageFlags {
    /// Scale of classifier-free guidance for images; 1 turns it off
    #[arg(long, value_name = "S")]
    guidance_scale: Option<f32>,
    /// Guide the codes of an image from this share of them on, 0 to 1
    #[arg(long, value_name = "SHARE")]
    guidance_from: Option<f32>,
    /// Guide the codes of an image up to this share of them, 0 to 1; the rest costs half
    #[arg(long, value_name = "SHARE")]
    guidance_to: Option<f32>,
    /// Growth of the guidance over the codes of an image: constant, linear, cosine or cosine:POWER
    #[arg(long, value_name = "RAMP")]
    guidance_ramp: Option<GuidanceRamp>,
    /// Guide images away from what this text says; an empty one turns the checkpoint's own off
    #[arg(long, value_name = "TEXT")]
    negative_prompt: Option<String>,
    /// Draw images in fewer passes: keep guesses that are nearly as good as the draw. Not exact: the image depends on
    /// the window, and is no sample of the model
    #[arg(long)]
    fast: bool,
}

/// Captions and answers: short, and greedy unless a flag asks for sampling.
#[derive(Args, Clone, Debug, Default)]
pub struct Answers {
    #[command(flatten)]
    text: TextFlags,
}

/// One image per text.
#[derive(Args, Clone, Debug, Default)]
pub struct Drawing {
    /// Draw N images per text, 1 to 64, and keep the one that best matches the text
    #[arg(long, value_name = "N")]
    candidates: Option<usize>,
    #[command(flatten)]
    images: ImageFlags,
}

/// Text and images.
#[derive(Args, Clone, Debug, Default)]
pub struct Mixed {
    #[command(flatten)]
    text: TextFlags,
    #[command(flatten)]
    images: ImageFlags,
}

/// The slack of `--fast`, in nats.
const FAST: f32 = 1.0;

impl TextFlags {
    fn over(&self, mut config: GenerationConfig) -> GenerationConfig {
        config.max_new_tokens = self.max_tokens.or(config.max_new_tokens);
        let penalty = self.repetition_penalty.unwrap_or(config.text.repetition_penalty);
        config.text.repetition_penalty = penalty;
        config
    }
}

impl ImageFlags {
    fn over(&self, mut config: GenerationConfig) -> GenerationConfig {
        config.guidance_scale = self.guidance_scale.unwrap_or(config.guidance_scale);
        let [from, to] = config.guidance_interval;
        config.guidance_interval =
            [self.guidance_from.unwrap_or(from), self.guidance_to.unwrap_or(to)];
        config.guidance_ramp = self.guidance_ramp.unwrap_or(config.guidance_ramp);
        let negative = self.negative_prompt.clone();
        config.negative_prompt = negative.unwrap_or(config.negative_prompt);
        config.guess_slack = if self.fast { FAST } else { config.guess_slack };
        config
    }
}

impl Kind for Answers {
    fn start(mut own: GenerationConfig, samples: bool) -> GenerationConfig {
        if !samples {
            return own.for_answers();
        }
        own.max_new_tokens.get_or_insert(LONGEST_ANSWER);
        own
    }

    fn over(&self, config: GenerationConfig) -> GenerationConfig {
        self.text.over(config)
    }
}

impl Kind for Drawing {
    fn over(&self, config: GenerationConfig) -> GenerationConfig {
        let candidates = self.candidates.unwrap_or(config.candidates);
        self.images.over(GenerationConfig { candidates, ..config })
    }
}

impl Kind for Mixed {
    fn over(&self, config: GenerationConfig) -> GenerationConfig {
        self.images.over(self.text.over(config))
    }
}

impl<K: Kind> SamplingArgs<K> {
    /// The settings of checkpoint or preset, with flags and seed applied.
    pub fn config(&self, pipeline: &Pipeline, session: &Session) -> GenerationConfig {
        let common = &self.common;
        let mut config = K::start(common.base(pipeline), common.samples());
        for sampling in [&mut config.text, &mut config.image] {
            sampling.greedy = common.greedy || (sampling.greedy && !common.samples());
            sampling.temperature = common.temperature.unwrap_or(sampling.temperature);
            sampling.top_p = common.top_p.unwrap_or(sampling.top_p);
            sampling.top_k = common.top_k.or(sampling.top_k);
            sampling.min_p = common.min_p.unwrap_or(sampling.min_p);
        }
        config.seed = session.seed().unwrap_or(config.seed);
        self.kind.over(config)
    }

    /// Opens the checkpoint in the directory `dir`, to guess as many tokens ahead as the flag says.
    ///
    /// # Errors
    /// As [`open::pipeline`].
    pub fn open(&self, dir: &Path, session: &Session) -> Result<Pipeline> {
        Ok(open::pipeline(dir, &self.adapters, session)?.with_window(self.common.window))
    }
}

impl SamplingArgs<Drawing> {
    /// No flags but these adapters.
    pub fn of(adapters: AdapterArgs) -> Self {
        Self { adapters, ..Self::default() }
    }
}

impl CommonFlags {
    /// Whether a flag asks for sampling.
    fn samples(&self) -> bool {
        let shares = [self.temperature, self.top_p, self.min_p.filter(|share| *share > 0.0)];
        self.top_k.is_some() || shares.iter().any(Option::is_some)
    }

    /// The settings that the flags change. What ends a text belongs to the checkpoint, whatever the preset.
    fn base(&self, pipeline: &Pipeline) -> GenerationConfig {
        let own = pipeline.generation().clone();
        match self.preset.as_deref() {
            None => own,
            Some(name) => GenerationConfig {
                stop_ids: own.stop_ids,
                stop_strings: own.stop_strings,
                ..preset(name).config()
            },
        }
    }
}

/// Flags of what generated text may be, and of where it ends.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Text")]
pub struct TextArgs {
    /// End before this text occurs; repeat for more, up to 16
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Write JSON that fits the JSON schema in this file; no image is begun
    #[arg(long, value_name = "FILE", conflicts_with_all = ["regex", "lark"])]
    schema: Option<PathBuf>,
    /// Write text that this regular expression matches as a whole; no image is begun
    #[arg(long, value_name = "RE", conflicts_with = "lark")]
    regex: Option<String>,
    /// Write text of the Lark grammar in this file; no image is begun
    #[arg(long, value_name = "FILE")]
    lark: Option<PathBuf>,
}

impl TextArgs {
    /// Adds the stop strings to those of the checkpoint.
    pub fn over(&self, mut config: GenerationConfig) -> GenerationConfig {
        config.stop_strings.extend(self.stop.iter().cloned());
        config
    }

    /// The grammar that the text must follow.
    ///
    /// # Errors
    /// If its file cannot be read or is no JSON, or the build lacks grammars.
    pub fn grammar(&self) -> Result<Option<Grammar>> {
        let read = |path: &Path| std::fs::read_to_string(path).map_err(Error::io(path));
        if let Some(path) = &self.schema {
            let grammar = Grammar::json_schema(&read(path)?).map_err(Error::in_file(path))?;
            return Ok(Some(grammar.of_file(path)));
        }
        if let Some(path) = &self.lark {
            let grammar = Grammar::lark(&read(path)?).map_err(Error::in_file(path))?;
            return Ok(Some(grammar.of_file(path)));
        }
        self.regex.as_deref().map(Grammar::regex).transpose()
    }
}

/// The name of `reason` in JSON.
pub fn end_name(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Stop(_) => "stop",
        EndReason::StopString(_) => "stop_string",
        EndReason::Constraint => "constraint",
        EndReason::Cancelled => "cancelled",
        EndReason::MaxNewTokens => "max_tokens",
        EndReason::Context => "context",
        EndReason::ImageComplete => "image",
    }
}

/// The preset called `name`, which clap has validated.
pub fn preset(name: &str) -> Preset {
    let known = Preset::ALL.into_iter().find(|(_, known)| *known == name);
    known.expect("clap lets no other name through").0
}
