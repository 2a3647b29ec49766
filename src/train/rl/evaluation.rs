//! Answers to held-out prompts: rewards by source, a sheet of images and texts.

use image::RgbImage;

use super::measures::rewards;
use super::prompts::PromptSet;
use super::rollouts::{Answer, Reader, total};
use crate::report::{Metrics, SampleText};
use crate::sheet::{Cell, Layout, Section, Tone, sheet};
use crate::train::best::Better;
use crate::train::objective::policy::length::length_metrics;

/// What an evaluation logs of lengths.
const LENGTHS: [&str; 2] = ["completions/mean_length", "completions/clipped_ratio"];
/// Characters of a text under an image.
const NOTE: usize = 120;

/// Answers to held-out prompts, one to each.
pub(super) struct Evaluation<'a> {
    pub(super) prompts: &'a PromptSet,
    pub(super) answers: &'a [Answer],
    pub(super) names: &'a [&'a str],
    pub(super) weights: &'a [f64],
}

/// The names of the metrics of an evaluation, each with its better direction.
pub(super) fn names(rewards: &[&str], labels: &[String]) -> Vec<(String, Better)> {
    let means = rewards.iter().map(|name| format!("rewards/{name}/mean"));
    let sources = labels.iter().map(|label| format!("reward/{label}"));
    let higher = std::iter::once("reward".to_owned()).chain(means).chain(sources);
    let higher = higher.map(|name| (name, Better::Higher));
    higher.chain(LENGTHS.map(|name| (name.to_owned(), Better::Lower))).collect()
}

impl Evaluation<'_> {
    /// Mean rewards, overall and by source, and lengths.
    pub(super) fn metrics(&self) -> Metrics {
        let all: Vec<&Answer> = self.answers.iter().collect();
        let mut found: Metrics = Metrics::new();
        for (name, value) in rewards(&all, self.names, self.weights) {
            found.push((name.into(), value));
        }
        for (number, label) in self.prompts.labels.iter().enumerate() {
            let of_source = |answer: &&Answer| self.prompts.sources[answer.prompt] == number;
            let answers: Vec<&Answer> = self.answers.iter().filter(of_source).collect();
            if let Some(reward) = rewards(&answers, &[], self.weights).get("reward") {
                found.push((format!("reward/{label}").into(), *reward));
            }
        }
        let lengths: Vec<(usize, bool)> =
            self.answers.iter().map(|answer| (answer.ids.len(), answer.is_truncated)).collect();
        let lengths = length_metrics(&lengths);
        found.extend(LENGTHS.iter().map(|name| ((*name).into(), lengths[*name])));
        found
    }

    /// A sheet of the images of the first `count` answers of each source, `None` without images, and their texts.
    pub(super) fn shown(
        &self,
        reader: &Reader<'_>,
        count: usize,
    ) -> (Option<RgbImage>, Vec<SampleText>) {
        let (mut texts, mut sections) = (Vec::new(), Vec::new());
        for (number, label) in self.prompts.labels.iter().enumerate() {
            let of_source = |answer: &&Answer| self.prompts.sources[answer.prompt] == number;
            let mut cells = Vec::new();
            for answer in self.answers.iter().filter(of_source).take(count) {
                let prompt = reader.prompt_text(answer.prompt);
                let reward = match total(&answer.rewards, self.weights) {
                    Some(reward) => format!("reward {reward:.3}"),
                    None => "no reward".to_owned(),
                };
                let note: String = prompt.chars().take(NOTE).collect();
                cells.extend(answer.images.iter().map(|image| {
                    let cell = Cell::new(image.clone()).note(Tone::Plain, note.clone());
                    cell.note(Tone::Muted, reward.clone())
                }));
                texts.push(SampleText {
                    source: label.clone(),
                    prompt,
                    target: String::new(),
                    generated: format!("{} ({reward})", answer.text),
                });
            }
            if !cells.is_empty() {
                sections.push(Section { heading: label.clone(), cells });
            }
        }
        let layout = Layout { columns: 6, image: 160, text_scale: 1, ..Layout::default() };
        let has_images = !sections.is_empty();
        (has_images.then(|| sheet(&sections, &layout)), texts)
    }
}
