//! `calumma import`: other projects' checkpoints, and the image tokenizer that one lacks.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use calumma::Result;
use calumma::checkpoint::{Conversion, Layout, Manifest, RotaryOrder, meta};
use calumma::device::DeviceSpec;
use calumma::generate::Preset;
use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};
use serde_json::json;

use super::sampling::preset;
use super::session::{Session, name};

/// What to import, and where to.
#[derive(Args)]
pub struct ImportArgs {
    /// The original release's or Anole's folder (models/, tokenizer/), one model's, or a Hugging Face
    /// directory; with --vqgan alone the checkpoint that the image tokenizer is added to
    source: PathBuf,
    /// The checkpoint's directory to make
    #[arg(required_unless_present = "vqgan", conflicts_with = "vqgan")]
    dest: Option<PathBuf>,
    /// Add the image tokenizer of this vqgan.ckpt, with vqgan.yaml beside it, to the checkpoint
    #[arg(long, value_name = "CKPT")]
    vqgan: Option<PathBuf>,
    /// Whose settings and prompts the checkpoint gets, instead of its own or its release's
    #[arg(long, value_parser = PossibleValuesParser::new(Preset::ALL.map(|(_, name)| name)), conflicts_with = "vqgan")]
    preset: Option<String>,
    /// How a Hugging Face directory's queries and keys order the channels of a head; side-by-side is
    /// what Anole's training code writes
    #[arg(long, value_enum, default_value_t = Order::HalfApart, conflicts_with = "vqgan")]
    rotary_order: Order,
}

#[derive(Clone, Copy, ValueEnum)]
enum Order {
    HalfApart,
    SideBySide,
}

/// Imports.
///
/// # Errors
/// Those of the files; when the destination exists.
pub fn run(args: &ImportArgs, session: &Session) -> Result<()> {
    let made = match (&args.vqgan, &args.dest) {
        (Some(ckpt), _) => {
            meta::add_vqgan(&args.source, ckpt, &cpu()?)?;
            args.source.join("vq_tokenizer")
        }
        (None, Some(dest)) => {
            take_in(args, dest)?;
            dest.clone()
        }
        (None, None) => unreachable!("clap asks for one of them"),
    };
    let digest = Manifest::of(&made)?.digest();
    session.line(format_args!("{}: digest {digest}", made.display()))?;
    session.object(&json!({ "path": name(&made), "digest": digest }))
}

/// A Hugging Face directory has a `config.json`, the original release none.
fn take_in(args: &ImportArgs, dest: &Path) -> Result<()> {
    let preset = args.preset.as_deref().map(preset);
    if !args.source.join("config.json").is_file() {
        return meta::import(&args.source, dest, preset.unwrap_or_default(), &cpu()?);
    }
    let order = match args.rotary_order {
        Order::HalfApart => RotaryOrder::HalfApart,
        Order::SideBySide => RotaryOrder::SideBySide,
    };
    Conversion { preset, order, ..Conversion::to(Layout::Calumma) }.run(&args.source, dest)?;
    Ok(())
}

fn cpu() -> Result<Device> {
    Ok(DeviceSpec::Cpu.open()?)
}
