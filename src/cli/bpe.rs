//! `calumma bpe`: text tokenizers, whose vocabulary includes the tokens of images if there are any.

use std::path::PathBuf;

use calumma::data::{BpeRecipe, Corpus, LeftOut, corpus};
use calumma::files::write_atomic;
use calumma::lock::DirectoryLock;
use calumma::recipe::read_recipe;
use calumma::tokenize::{BOS_TOKEN, EOS_TOKEN, PAD_TOKEN, UNK_TOKEN, train_bpe};
use calumma::{Error, Result};
use clap::{Args, Subcommand};
use serde_json::json;

use super::session::{Session, name};

/// Subcommands of `calumma bpe`.
#[derive(Subcommand)]
pub enum BpeVerb {
    /// Train a text tokenizer as a recipe says and write it to <run>/tokenizer.json
    Train(TrainArgs),
}

/// Arguments of `bpe train`.
#[derive(Args)]
pub struct TrainArgs {
    /// TOML recipe with the sections run, bpe and data
    recipe: PathBuf,
    /// Override a recipe value, such as bpe.vocab_size=2048; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Runs `verb`.
///
/// # Errors
/// Those of recipe, data and output file.
pub fn run(verb: BpeVerb, session: &Session) -> Result<()> {
    let BpeVerb::Train(args) = verb;
    let mut recipe: BpeRecipe = read_recipe(&args.recipe, &args.set)?;
    if let Some(seed) = session.seed() {
        recipe.run.seed = seed;
    }
    let dir = recipe.run.directory.join(&recipe.run.name);
    let _lock = session.hold(DirectoryLock::alone(&dir)?);
    session.note(format_args!("reading {} sources", recipe.data.len()));
    let Corpus { texts, left_out } = corpus(&recipe.data, recipe.run.documents, recipe.run.seed)?;
    let bytes: usize = texts.iter().map(String::len).sum();
    session.note(format_args!("training on {} texts, {bytes} bytes", texts.len()));
    let tokenizer = train_bpe(&recipe.bpe, &texts)?;
    let path = dir.join("tokenizer.json");
    write_atomic(&path, &tokenizer.to_bytes()?)?;
    if recipe.bpe.num_codes == 0 {
        // What a text model's directory says of its tokenizer.
        let roles = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BOS_TOKEN,
            "eos_token": EOS_TOKEN,
            "pad_token": PAD_TOKEN,
            "unk_token": UNK_TOKEN,
        });
        write_atomic(&dir.join("tokenizer_config.json"), format!("{roles:#}\n").as_bytes())?;
    }
    let tokens = texts
        .iter()
        .try_fold(0, |sum, text| Ok::<usize, Error>(sum + tokenizer.encode_plain(text)?.len()))?;
    let per_token = bytes as f64 / tokens.max(1) as f64;
    session.line(format_args!(
        "{}: {} ids, {per_token:.2} bytes per token over {tokens} tokens",
        path.display(),
        tokenizer.vocab_size()
    ))?;
    let left_out: Vec<_> = left_out.iter().flat_map(LeftOut::omissions).collect();
    session.left_out(&left_out)?;
    session.object(&json!({
        "path": name(&path),
        "vocab_size": tokenizer.vocab_size(),
        "texts": texts.len(),
        "bytes": bytes,
        "tokens": tokens,
        "bytes_per_token": per_token,
        "left_out": left_out,
    }))
}
