//! The tasks that ask about images: `vqa` and `captioning`.

use serde_json::{Value, json};

use super::config::{Answering, Asking, CaptioningTask, VqaTask};
use super::evaluation::{Evaluation, renamed};
use crate::data::{self, BadSample, Dataset, Fields, Sample};
use crate::error::{Error, Result};
use crate::eval::responses::key;
use crate::eval::{Extent, Majority, Official, Report, captioning, left_out, vqa};
use crate::pipeline::{Choices, Shot};

impl Evaluation<'_> {
    pub(super) fn vqa(&self, task: &VqaTask, progress: &mut dyn FnMut(usize)) -> Result<Report> {
        let VqaTask { common, asking, .. } = task;
        let (dataset, train) = opened(&common.data, asking, vqa::open)?;
        let majority = Majority::learn(train.as_deref().unwrap_or(dataset.as_ref()))?;
        let (shots, bad_shots) = shots(asking.shots, train.as_deref(), vqa::question_and_answer)?;
        let choices = self.choices(asking, || Ok(majority.answers()))?;
        let form = asking.prompt.as_deref().unwrap_or(&self.pipeline.prompts().ask);
        let prompted = self.pipeline.asking(form, &shots)?;
        let mut responses = self.responses()?;
        let answer = |images: &[_], questions: &[String]| {
            let first = responses.position();
            let keys: Vec<String> =
                images.iter().zip(questions).map(|(image, text)| key(image, text)).collect();
            let answers = responses.texts(&keys, |range| {
                let generation = self.generation_from(first + range.start);
                let (images, questions) = (&images[range.clone()], &questions[range]);
                match &choices {
                    None => prompted.answer(images, questions, &generation),
                    Some(choices) => prompted.choose(images, questions, choices),
                }
            })?;
            progress(answers.len());
            Ok(answers)
        };
        let scores = vqa::evaluate(dataset.as_ref(), common.extent(), &majority, answer)?;
        let answers = scores.types.iter().map(|g| (g.name.clone(), json!(g.majority_answer)));
        let answers = Value::Object(answers.collect());
        let mut report = scores.report(dataset.name());
        let learnt_on = asking.train.as_deref().unwrap_or(&common.data);
        report.config.insert("majority_learnt_on".to_owned(), json!(learnt_on));
        report.config.insert("majority_answers".to_owned(), answers);
        report.left_out = left_out(dataset.as_ref(), common.extent(), &report.bad);
        if let Some(train) = &train {
            let seen = |index| majority.bad().iter().any(|bad| bad.index == index);
            let more = bad_shots.into_iter().filter(|bad| !seen(bad.index));
            let bad: Vec<BadSample> = majority.bad().iter().cloned().chain(more).collect();
            report.left_out.extend(left_out(train.as_ref(), Extent::default(), &bad));
        }
        Ok(report)
    }

    pub(super) fn captioning(
        &self,
        task: &CaptioningTask,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Report> {
        let CaptioningTask { common, asking, official, .. } = task;
        let (dataset, train) = opened(&common.data, asking, data::open)?;
        let (shots, bad_shots) = shots(asking.shots, train.as_deref(), |fields| {
            Ok((String::new(), captioning::first_target(fields)?))
        })?;
        let form = asking.prompt.as_deref().unwrap_or(&self.pipeline.prompts().caption);
        let prompted = self.pipeline.asking(form, &shots)?;
        let mut responses = self.responses()?;
        let official = official.as_deref().map(Official::find).transpose()?;
        let choices = self.choices(asking, || captioning::all_targets(dataset.as_ref()))?;
        let mut scores = captioning::evaluate(dataset.as_ref(), common.extent(), |images| {
            let first = responses.position();
            let keys: Vec<String> = images.iter().map(|image| key(image, "")).collect();
            let captions = responses.texts(&keys, |range| {
                let generation = self.generation_from(first + range.start);
                let images = &images[range];
                let no_questions = vec![""; images.len()];
                match &choices {
                    Some(choices) => prompted.choose(images, &no_questions, choices),
                    None => prompted.answer(images, &no_questions, &generation),
                }
            })?;
            progress(captions.len());
            Ok(captions)
        })?;
        if let Some(official) = &official {
            scores.score_officially(official)?;
        }
        let chance = choices.as_ref().map(|choices| scores.chance(choices.texts()));
        let mut report = scores.report(dataset.name());
        if let Some(chance) = chance.filter(|_| !report.scores.is_empty()) {
            report.scores.insert(1, ("chance".to_owned(), chance));
        }
        report.left_out = left_out(dataset.as_ref(), common.extent(), &report.bad);
        if let Some(train) = &train {
            report.left_out.extend(left_out(train.as_ref(), Extent::default(), &bad_shots));
        }
        Ok(report)
    }

    /// The choices if answers are chosen: those of the task, else `all`.
    fn choices(
        &self,
        asking: &Asking,
        all: impl FnOnce() -> Result<Vec<String>>,
    ) -> Result<Option<Choices>> {
        if !asking.chooses() {
            return Ok(None);
        }
        let texts = match asking.choices.is_empty() {
            true => all()?,
            false => asking.choices.clone(),
        };
        let by_length = asking.answer == Answering::ChooseByLength;
        Choices::new(self.pipeline, texts, by_length).map(Some)
    }
}

type Opened = (Box<dyn Dataset>, Option<Box<dyn Dataset>>);

/// The data set `data` and that of the examples, with the columns that the measure expects.
fn opened(
    data: &str,
    asking: &Asking,
    open: impl Fn(&str) -> Result<Box<dyn Dataset>>,
) -> Result<Opened> {
    let open = |spec: &str| Ok::<_, Error>(renamed(open(spec)?, &asking.columns));
    Ok((open(data)?, asking.train.as_deref().map(open).transpose()?))
}

/// The first `count` samples of `train` with a single image each, all images different, and the samples
/// before them that cannot be read or have no answer.
fn shots(
    count: usize,
    train: Option<&dyn Dataset>,
    answer: impl Fn(&Fields) -> Result<(String, String)>,
) -> Result<(Vec<Shot>, Vec<BadSample>)> {
    let mut bad = Vec::new();
    let Some(train) = train.filter(|_| count > 0) else { return Ok((Vec::new(), bad)) };
    let mut shots: Vec<Shot> = Vec::with_capacity(count);
    for index in 0..train.len() {
        if shots.len() == count {
            break;
        }
        let read = |sample: Sample| {
            let in_sample = Error::because(sample.source);
            let (question, answer) = answer(&sample.fields).map_err(in_sample)?;
            Ok((sample.images, question, answer))
        };
        let (images, question, answer) = match train.get(index).and_then(read) {
            Ok(read) => read,
            Err(error) => {
                bad.push(BadSample { index, reason: error.to_string() });
                continue;
            }
        };
        if let Ok([image]) = <[_; 1]>::try_from(images)
            && shots.iter().all(|shot| shot.image != image)
        {
            shots.push(Shot { image, question, answer });
        }
    }
    if shots.len() < count {
        let (found, name) = (shots.len(), train.name());
        return Err(Error::invalid(format!("{name}: {found} examples of the {count} wanted")));
    }
    Ok((shots, bad))
}
