//! The command line: one file per verb. Arguments are typed here and checked by the verb.

mod ask;
mod bench;
mod bpe;
mod caption;
mod completions;
mod data;
mod demo;
mod doctor;
mod draw;
mod eval;
mod export;
mod generate;
mod images;
mod import;
mod inspect;
mod open;
mod sampling;
mod score;
mod session;
mod sizes;
mod stop;
mod tokenize;
mod train;
mod vq;

use std::process::ExitCode;

use calumma::{Error, Result};
use clap::{Parser, Subcommand};

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
    /// See the shipped model draw, caption and answer; writes a sheet of it
    Demo(demo::DemoArgs),
    /// Continue a prompt with text and images
    Generate(generate::GenerateArgs),
    /// Caption images
    Caption(caption::CaptionArgs),
    /// Draw an image per text
    Draw(draw::DrawArgs),
    /// Answer a question about an image
    Ask(ask::AskArgs),
    /// Print log-probabilities of given documents
    Score(score::ScoreArgs),
    /// Image tokenizers: images to codes and back, and their training
    #[command(subcommand)]
    Vq(vq::VqVerb),
    /// Text tokenizers
    #[command(subcommand)]
    Bpe(bpe::BpeVerb),
    /// Data sets: make one, look into one
    #[command(subcommand)]
    Data(data::DataVerb),
    /// Turn data sets into token shards by a recipe; a stopped call goes on where it was
    Tokenize(tokenize::TokenizeArgs),
    /// Train a language model by a recipe; a stopped run goes on where it was
    Train(train::TrainArgs),
    /// Score a checkpoint on a data set, compare scores, look for evaluation items in training data
    #[command(subcommand)]
    Eval(eval::EvalVerb),
    /// Make a checkpoint of the original release's files, or of Anole's
    Import(import::ImportArgs),
    /// Write a checkpoint without its training state, or in the original release's layout
    Export(export::ExportArgs),
    /// Measure how fast a checkpoint opens, reads, writes and draws here
    Bench(bench::BenchArgs),
    /// Say what a checkpoint, run, recipe, image or tensor file is
    Inspect(inspect::InspectArgs),
    /// Say what this program and this machine can do together
    Doctor,
    /// Write completions for a shell to standard output
    Completions(completions::CompletionsArgs),
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing is left to do when the terminal is gone.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let session = Session::new(cli.global);
    match run(cli.verb, &session) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            session::complain(&error);
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
        Verb::Ask(args) => ask::run(&args, session),
        Verb::Score(args) => score::run(&args, session),
        Verb::Vq(verb) => vq::run(verb, session),
        Verb::Bpe(verb) => bpe::run(verb, session),
        Verb::Data(verb) => data::run(verb, session),
        Verb::Tokenize(args) => tokenize::run(&args, session),
        Verb::Train(args) => train::run(&args, session),
        Verb::Eval(verb) => eval::run(verb, session),
        Verb::Import(args) => import::run(&args, session),
        Verb::Export(args) => export::run(&args, session),
        Verb::Bench(args) => bench::run(&args, session),
        Verb::Inspect(args) => inspect::run(&args, session),
        Verb::Doctor => doctor::run(session),
        Verb::Completions(args) => completions::run(&args),
    }
}

/// Whether the reader of standard output went away, as `head` does when it has seen enough.
fn is_closed_pipe(error: &Error) -> bool {
    matches!(error, Error::Io { path, source }
        if path.as_os_str() == STDOUT && source.kind() == std::io::ErrorKind::BrokenPipe)
}
