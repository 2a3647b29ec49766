//! `calumma ask`: an answer to a question about an image.

use std::path::PathBuf;

use calumma::Result;
use calumma::pipeline::Choices;
use clap::Args;
use serde_json::json;

use super::images;
use super::sampling::{Answers, SamplingArgs, TextArgs, end_name};
use super::session::{Session, name};

/// Arguments of `ask`.
#[derive(Args)]
pub struct AskArgs {
    /// Checkpoint directory
    checkpoint: PathBuf,
    /// PNG, JPEG or WebP file
    image: PathBuf,
    /// Question about the image
    question: String,
    /// Answer with the most likely of these texts
    #[arg(
        long,
        value_name = "A,B,...",
        value_delimiter = ',',
        conflicts_with_all = ["CommonFlags", "TextFlags", "TextArgs"]
    )]
    choices: Vec<String>,
    #[command(flatten)]
    text: TextArgs,
    #[command(flatten)]
    sampling: SamplingArgs<Answers>,
}

/// Prints the answer.
///
/// # Errors
/// Those of image, checkpoint, settings and grammar.
pub fn run(args: &AskArgs, session: &Session) -> Result<()> {
    let grammar = args.text.grammar()?;
    let image = images::open(&args.image)?;
    let pipeline = args.sampling.open(&args.checkpoint, session)?;
    let asking = pipeline.asking(&pipeline.prompts().ask, &[])?;
    let (images, questions) = ([image], [&args.question]);
    let answers: Vec<(String, &str)> = if args.choices.is_empty() {
        let config = args.text.over(args.sampling.config(&pipeline, session));
        let answers = asking.answers(&images, &questions, &config, grammar.as_ref())?;
        answers.into_iter().map(|answer| (answer.text, end_name(answer.end))).collect()
    } else {
        let choices = Choices::new(&pipeline, args.choices.clone(), false)?;
        let chosen = asking.choose(&images, &questions, &choices)?;
        chosen.into_iter().map(|choice| (choice, "choice")).collect()
    };
    for (answer, end) in answers {
        session.line(&answer)?;
        session.object(&json!({
            "path": name(&args.image),
            "question": args.question,
            "answer": answer,
            "end": end,
        }))?;
    }
    Ok(())
}
