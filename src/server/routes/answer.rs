//! Answers of text and images, as chats and completions have them.

use super::logprobs::Told;
use super::messages::Place;
use super::parts::{Part, Teller, Usage};
use super::reply::ReplyImage;
use super::text_limit::check_text;
use super::tools::{Callable, Called};
use crate::generate::{GenerationConfig, Grammar, LanguageModel, Request};
use crate::server::fault::Fault;
use crate::server::metrics::Measure;
use crate::server::work::{Parts, Sender, Work};

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
    /// How many likely tokens are told with each token of text.
    pub(super) logprobs: Option<usize>,
    /// The functions that answers may call.
    pub(super) callable: Option<Callable>,
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
    let pipeline = work.pipeline();
    let constraint = asked.grammar.as_ref();
    let constraint = constraint.map(|grammar| work.in_turn(|| Ok(pipeline.constraint(grammar)?)));
    let constraint = constraint.transpose()?;
    check_text(pipeline, asked.config.negative_prompt.len())?;
    work.observe(Measure::Answers, asked.count);
    work.observe(Measure::MaxTokens, asked.config.max_new_tokens.unwrap_or(0));
    let context = pipeline.model().context();
    let mut requests = Vec::new();
    for prompt in prompts {
        if prompt.len() > context {
            let message = format!("{} ids do not fit the context of {context}", prompt.len());
            return Err(Fault::too_long(message));
        }
        let request = work.in_turn(|| Ok(pipeline.request(prompt, &asked.config)?))?;
        let request =
            Request { constraint: constraint.clone(), logprobs: asked.logprobs, ..request };
        requests.extend(seeded(&pipeline.with_possible_mode(request)?, asked.count));
    }
    let teller = |(index, request): (usize, &Request)| {
        let reader = asked.callable.as_ref().map(Callable::reader);
        Teller::new(work, (asked.partial, reader), index, request)
    };
    let mut tellers = requests.iter().enumerate().map(teller).collect::<Result<Vec<_>, _>>()?;
    let generated = work.run(requests, |index, event| {
        tellers[index].parts(event)?.into_iter().try_for_each(|part| to.send(part))
    })?;
    let generated = generated.iter().map(|generated| generated.ids.len()).sum();
    to.send(Part::Usage(Usage::new(prompts.iter().map(Vec::len).sum(), generated)))
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
    pub(super) images: Vec<ReplyImage>,
    /// Texts, and images by their place in `images`, in order.
    pub(super) parts: Vec<Place>,
    pub(super) calls: Vec<Called>,
    pub(super) reason: &'static str,
    /// Of the tokens of `text` and `calls`, if they were asked for.
    pub(super) told: Vec<Told>,
}

impl Whole {
    fn push_text(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        self.text.push_str(text);
        match self.parts.last_mut() {
            Some(Place::Text { text: last }) => last.push_str(text),
            _ => self.parts.push(Place::Text { text: text.to_owned() }),
        }
    }

    fn push_image(&mut self, base64: &str) {
        let index = self.images.len();
        self.images.push(ReplyImage::new(index, base64));
        self.parts.push(Place::Image { index });
    }
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
            Part::Text(index, text, told) => {
                answers[index].push_text(&text);
                answers[index].told.extend(told);
            }
            Part::Image(index, base64) => answers[index].push_image(&base64),
            Part::Call(index, call, told) => {
                answers[index].calls.push(Called::new(call, None));
                answers[index].told.extend(told);
            }
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
