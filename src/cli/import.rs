//! `calumma import`: other projects' checkpoints, and the image tokenizer that one lacks.

use std::path::PathBuf;

use calumma::checkpoint::{Manifest, meta};
use calumma::device::DeviceSpec;
use calumma::generate::Preset;
use calumma::{Error, Result};
use clap::Args;
use clap::builder::PossibleValuesParser;
use serde_json::json;

use super::sampling::preset;
use super::session::{Session, name};

/// What to import, and where to.
#[derive(Args)]
pub struct ImportArgs {
    /// The original release's or Anole's folder (models/, tokenizer/), or one model's; with --vqgan
    /// alone the checkpoint that the image tokenizer is added to
    source: PathBuf,
    /// The checkpoint's directory to make
    #[arg(required_unless_present = "vqgan", conflicts_with = "vqgan")]
    dest: Option<PathBuf>,
    /// Add the image tokenizer of this vqgan.ckpt, with vqgan.yaml beside it, to the checkpoint
    #[arg(long, value_name = "CKPT")]
    vqgan: Option<PathBuf>,
    /// Whose settings and prompts the checkpoint gets
    #[arg(
        long,
        default_value = "chameleon",
        value_parser = PossibleValuesParser::new(Preset::ALL.map(|(_, name)| name))
    )]
    preset: String,
}

/// Imports.
///
/// # Errors
/// Those of the files; when the destination exists.
pub fn run(args: &ImportArgs, session: &Session) -> Result<()> {
    let device = DeviceSpec::Cpu.open().map_err(|e| Error::Device(e.to_string()))?;
    let made = match (&args.vqgan, &args.dest) {
        (Some(ckpt), _) => {
            meta::add_vqgan(&args.source, ckpt, &device)?;
            args.source.join("vq_tokenizer")
        }
        (None, Some(dest)) => {
            meta::import(&args.source, dest, preset(&args.preset), &device)?;
            dest.clone()
        }
        (None, None) => unreachable!("clap asks for one of them"),
    };
    let digest = Manifest::of(&made)?.digest();
    session.line(format_args!("{}: digest {digest}", made.display()))?;
    session.object(&json!({ "path": name(&made), "digest": digest }))
}
