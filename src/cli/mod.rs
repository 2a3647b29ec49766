//! The command line, one file per command: clap parses the arguments, the command checks them.

mod ask;
mod bench;
mod bpe;
mod caption;
mod chat;
mod completions;
mod data;
mod demo;
mod doctor;
mod draw;
mod dry_run;
mod edit;
mod eval;
mod export;
mod extend;
mod generate;
mod images;
mod import;
mod inspect;
mod open;
mod pairs;
mod recipes;
mod sampling;
mod score;
#[cfg(feature = "server")]
mod serve;
mod session;
mod sizes;
mod stop;
mod tasks;
mod terminal;
mod tokenize;
mod train;
mod training;
mod training_cost;
mod vq;
mod warm_up;

use std::process::ExitCode;

use calumma::guard::with_device;
use calumma::{Error, Result};
use clap::{CommandFactory, Parser, Subcommand};

use self::session::{GlobalArgs, STDOUT, Session};

/// Train, evaluate and run unified models of text and images.
#[derive(Parser)]
#[command(name = "calumma", version, arg_required_else_help = true, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Try the shipped model: draw, caption and answer, with the results on one PNG
    Demo(demo::DemoArgs),
    /// Generate text and images from a prompt
    Generate(generate::GenerateArgs),
    /// Caption images
    Caption(caption::CaptionArgs),
    /// Draw images from texts
    Draw(draw::DrawArgs),
    /// Draw a part of an image anew: a masked part, the lower rows, or more below it
    Edit(edit::EditArgs),
    /// Answer a question about an image
    Ask(ask::AskArgs),
    /// Talk with a checkpoint: questions, images and drawings, each turn with all earlier ones
    Chat(chat::ChatArgs),
    /// Serve a checkpoint over HTTP, by OpenAI's protocol
    #[cfg(feature = "server")]
    Serve(serve::ServeArgs),
    /// Print the log-probability of every token of given documents
    Score(score::ScoreArgs),
    /// Train, evaluate and use image tokenizers
    #[command(subcommand)]
    Vq(vq::VqVerb),
    /// Train text tokenizers
    #[command(subcommand)]
    Bpe(bpe::BpeVerb),
    /// Make, inspect and validate data sets
    #[command(subcommand)]
    Data(data::DataVerb),
    /// Tokenize data sets into shards as a recipe says; resumes if interrupted
    Tokenize(tokenize::TokenizeArgs),
    /// Train a language model as a recipe says; resumes if interrupted
    Train(train::TrainArgs),
    /// Evaluate checkpoints, compare scores, find evaluation items in training data
    #[command(subcommand)]
    Eval(eval::EvalVerb),
    /// Import a checkpoint from the original release, Anole or a Hugging Face directory
    Import(import::ImportArgs),
    /// Export a checkpoint without its training state, in a chosen layout and number format
    Export(export::ExportArgs),
    /// Extend a text model by ids for the codes of an image tokenizer
    Extend(extend::ExtendArgs),
    /// Measure the speed and memory of a checkpoint on this machine
    Bench(bench::BenchArgs),
    /// Describe a checkpoint, run, recipe, token shards, generated image or tensor file
    Inspect(inspect::InspectArgs),
    /// Describe this build, this machine and its devices
    Doctor(doctor::DoctorArgs),
    /// Compile and keep what a checkpoint or a recipe needs on a GPU, ahead of the first use
    WarmUp(warm_up::WarmUpArgs),
    /// Print shell completions
    Completions(completions::CompletionsArgs),
}

/// Runs the command line and returns the exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // If this fails, there is no terminal left to report to.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let session = Session::new(cli.global);
    match with_device(|| run(cli.verb, &session)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            session::print_error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(verb: Verb, session: &Session) -> Result<()> {
    match verb {
        Verb::Demo(args) => demo::run(&args, session),
        Verb::Generate(args) => generate::run(&args, session),
        Verb::Caption(args) => caption::run(&args, session),
        Verb::Draw(args) => draw::run(&args, session),
        Verb::Edit(args) => edit::run(&args, session),
        Verb::Ask(args) => ask::run(&args, session),
        Verb::Chat(args) => chat::run(&args, session),
        #[cfg(feature = "server")]
        Verb::Serve(args) => serve::run(&args, session),
        Verb::Score(args) => score::run(&args, session),
        Verb::Vq(verb) => vq::run(verb, session),
        Verb::Bpe(verb) => bpe::run(verb, session),
        Verb::Data(verb) => data::run(verb, session),
        Verb::Tokenize(args) => tokenize::run(&args, session),
        Verb::Train(args) => train::run(&args, session),
        Verb::Eval(verb) => eval::run(verb, session),
        Verb::Import(args) => import::run(&args, session),
        Verb::Export(args) => export::run(&args, session),
        Verb::Extend(args) => extend::run(&args, session),
        Verb::Bench(args) => bench::run(&args, session),
        Verb::Inspect(args) => inspect::run(&args, session),
        Verb::Doctor(args) => doctor::run(&args, session),
        Verb::WarmUp(args) => warm_up::run(&args, session),
        Verb::Completions(args) => completions::run(&args, &mut Cli::command()),
    }
}

/// Whether the reader of standard output has closed the pipe, as `head` does.
fn is_closed_pipe(error: &Error) -> bool {
    matches!(error, Error::Io { path, source }
        if path.as_os_str() == STDOUT && source.kind() == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_and_argument_has_a_help_text() {
        let mut commands = vec![Cli::command()];
        while let Some(command) = commands.pop() {
            let name = command.get_name();
            assert!(command.get_about().is_some(), "{name}");
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{name} {}", argument.get_id());
            }
            commands.extend(command.get_subcommands().cloned());
        }
    }
}
