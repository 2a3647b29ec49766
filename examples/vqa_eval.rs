//! Scores answers to questions about images, by question type.
//!
//! ```text
//! cargo run --release --example vqa_eval -- [CHECKPOINT [QUESTIONS.parquet]]
//! ```
//!
//! The Parquet file needs the columns `image`, `question` and `answer`; without one, scenes are generated.
//! The default checkpoint is `checkpoints/demo`. An answer is correct if it equals the expected one after
//! the VQA normalisation. The baseline, in the column `majority`, always gives the most frequent answer
//! of the question type.
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use calumma::device::DeviceSpec;
use calumma::eval::{Extent, Majority, vqa};
use calumma::pipeline::Pipeline;

/// Maximum number of questions to ask, from the start of the data set.
const QUESTIONS: usize = 400;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let checkpoint = args.next().unwrap_or_else(|| "checkpoints/demo".to_owned());
    let questions = args.next().unwrap_or_else(|| "scenes:val?count=50&seed=7".to_owned());

    let pipeline = Pipeline::open(checkpoint.as_ref(), &DeviceSpec::best().open()?)?;
    let dataset = vqa::open(&questions)?;
    let majority = Majority::learn(dataset.as_ref())?;
    let extent = Extent { limit: Some(QUESTIONS), batch: 32 };
    let mut config = pipeline.generation().clone().for_answers();
    config.max_new_tokens = Some(16);
    let scores = vqa::evaluate(dataset.as_ref(), extent, &majority, |images, questions| {
        pipeline.ask_batch(images, questions, &config)
    })?;

    println!("{:<12} {:>5} {:>9} {:>9}  majority answer", "type", "N", "right", "majority");
    for group in scores.types.iter().chain([&scores.overall]) {
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        let (right, majority) = (percent(group.accuracy.value), percent(group.majority.value));
        let (name, n, answer) = (&group.name, group.accuracy.n, &group.majority_answer);
        println!("{name:<12} {n:>5} {right:>9} {majority:>9}  {answer}");
    }
    Ok(())
}
