//! Answers of text and images, as chats and completions have them.

use serde_json::{Value, json};

use super::messages::check_text;
use super::rows::Shown;
use crate::generate::{Event, GenerationConfig, Grammar, LanguageModel, Request};
use crate::pipeline::PipelineEvent;
use crate::server::config::NamedPipeline;
use crate::server::fault::Fault;
use crate::server::image_data::{png_in_base64, uri_of};
use crate::server::work::{Parts, Sender, Work};
use crate::server::worker::finish_reason;

/// How often an image in progress is told of.
const STEPS: usize = 16;

/// A step of one of the answers to a request, by its number.
#[derive(Debug)]
pub(super) enum Part {
    Text(usize, String),
    /// Codes so far, and of the whole image; the rows so far as PNG in base64, if they are shown.
    Progress(usize, [usize; 2], Option<String>),
    /// A PNG image in base64.
    Image(usize, String),
    /// The reason.
    Ended(usize, &'static str),
    /// All have ended.
    Usage(Usage),
}

/// How many tokens a request took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    pub(super) prompt: usize,
    pub(super) generated: usize,
}

impl Usage {
    pub(super) fn to_json(self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.generated,
            "total_tokens": self.prompt + self.generated,
        })
    }
}

/// How prompts are to be answered.
#[derive(Debug)]
pub(super) struct Asked {
    /// Answer `i` to each prompt has the seed `config.seed + i`.
    pub(super) config: GenerationConfig,
    /// What the text must be.
    pub(super) grammar: Option<Grammar>,
    /// Answers to each prompt.
    pub(super) count: usize,
    /// How many times the rows of an image in progress are shown.
    pub(super) partial: usize,
}

/// Starts answers to the prompts that `prompts` makes, first those to the first prompt.
pub(super) fn start(
    work: Work,
    asked: Asked,
    prompts: impl FnOnce(&Work) -> Result<Vec<Vec<u32>>, Fault> + Send + 'static,
) -> Parts<Part> {
    work.start(move |work, to| {
        let prompts = work.in_turn(|| prompts(work))?;
        run(work, &asked, &prompts, to)
    })
}

fn run(work: &Work, asked: &Asked, prompts: &[Vec<u32>], to: &Sender<Part>) -> Result<(), Fault> {
    let NamedPipeline { name, pipeline } = work.model();
    let constraint = asked.grammar.as_ref();
    let constraint = constraint.map(|grammar| work.in_turn(|| Ok(pipeline.constraint(grammar)?)));
    let constraint = constraint.transpose()?;
    check_text(pipeline, asked.config.negative_prompt.len())?;
    let context = pipeline.model().context();
    let mut requests = Vec::new();
    for prompt in prompts {
        if prompt.len() > context {
            let message = format!("{} ids do not fit the context of {context}", prompt.len());
            return Err(Fault::too_long(message));
        }
        let request = work.in_turn(|| Ok(pipeline.request(prompt, &asked.config)?))?;
        let request = Request { constraint: constraint.clone(), ..request };
        requests.extend(seeded(&pipeline.with_possible_mode(request)?, asked.count));
    }
    let mut assemblers: Vec<_> =
        requests.iter().map(|request| pipeline.assembler(request)).collect();
    let mut shown = vec![Shown::of(asked.partial); requests.len()];
    let generated = work.run(requests, |index, event| {
        let (assembler, shown) = (&mut assemblers[index], &mut shown[index]);
        let is_shown = match event {
            Event::ImageStart => {
                *shown = Shown::of(asked.partial);
                false
            }
            Event::ImageProgress { done, total, width, .. } => {
                shown.next(done, total, width).is_some()
            }
            _ => false,
        };
        let events = match event {
            Event::Image(_) => work.in_turn(|| assembler.push(event).map_err(Fault::failed))?,
            event => assembler.push(event).map_err(Fault::failed)?,
        };
        for event in events {
            let part = match event {
                PipelineEvent::Text(text) => Part::Text(index, text),
                PipelineEvent::Image(image) => {
                    work.state().metrics.drawn(name);
                    Part::Image(index, png_in_base64(&image)?)
                }
                PipelineEvent::ImageProgress { done, total }
                    if is_shown || done < total && is_step(done, total) =>
                {
                    let rows = || assembler.rows_so_far().map_err(Fault::failed);
                    let rows = if is_shown { work.in_turn(rows)? } else { None };
                    let rows = rows.map(|rows| png_in_base64(&rows)).transpose()?;
                    Part::Progress(index, [done, total], rows)
                }
                PipelineEvent::End(reason) => Part::Ended(index, finish_reason(reason)),
                PipelineEvent::ImageStart | PipelineEvent::ImageProgress { .. } => continue,
            };
            to.send(part)?;
        }
        Ok(())
    })?;
    let generated = generated.iter().map(|generated| generated.ids.len()).sum();
    to.send(Part::Usage(Usage { prompt: prompts.iter().map(Vec::len).sum(), generated }))
}

/// Whether `done` codes of `total` complete one of [`STEPS`] equal parts.
fn is_step(done: usize, total: usize) -> bool {
    done * STEPS / total != (done - 1) * STEPS / total
}

/// `request` with the seeds from its own on.
fn seeded(request: &Request, count: usize) -> Vec<Request> {
    let one = |index: u64| {
        let mut request = request.clone();
        request.config.seed = request.config.seed.wrapping_add(index);
        request
    };
    (0..count as u64).map(one).collect()
}

/// A whole answer.
#[derive(Debug, Default)]
pub(super) struct Whole {
    pub(super) text: String,
    pub(super) images: Vec<Value>,
    /// Texts, and images by their place in `images`, in order.
    pub(super) parts: Vec<Value>,
    pub(super) reason: &'static str,
}

impl Whole {
    fn push_text(&mut self, text: &str) {
        self.text.push_str(text);
        match self.parts.last_mut().and_then(|part| part.get_mut("text")) {
            Some(Value::String(last)) => last.push_str(text),
            _ => self.parts.push(json!({ "type": "text", "text": text })),
        }
    }

    fn push_image(&mut self, base64: &str) {
        let index = self.images.len();
        self.images.push(image_part(index, base64));
        self.parts.push(json!({ "type": "image", "index": index }));
    }
}

/// The image with the number `index` of an answer.
pub(super) fn image_part(index: usize, base64: &str) -> Value {
    json!({ "type": "image_url", "index": index, "image_url": { "url": uri_of(base64) } })
}

/// All answers when they have ended.
///
/// # Errors
/// The first fault.
pub(super) async fn whole(
    mut parts: Parts<Part>,
    count: usize,
) -> Result<(Vec<Whole>, Usage), Fault> {
    let mut answers: Vec<Whole> = (0..count).map(|_| Whole::default()).collect();
    while let Some(part) = parts.next().await {
        match part? {
            Part::Text(index, text) => answers[index].push_text(&text),
            Part::Image(index, base64) => answers[index].push_image(&base64),
            Part::Ended(index, reason) => answers[index].reason = reason,
            Part::Progress(..) => {}
            Part::Usage(usage) => {
                // The places are free when the thread has ended.
                parts.next().await;
                return Ok((answers, usage));
            }
        }
    }
    Err(Fault::internal())
}
