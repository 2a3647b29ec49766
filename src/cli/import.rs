//! `calumma import`: imports checkpoints of other projects, or adds an image tokenizer to a checkpoint.

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

/// Arguments of `import`.
#[derive(Args)]
pub struct ImportArgs {
    /// Folder of the original release or Anole (with models/ and tokenizer/), or of one of their models, or
    /// a Hugging Face directory; with --vqgan the checkpoint to add the image tokenizer to
    source: PathBuf,
    /// Directory of the new checkpoint
    #[arg(required_unless_present = "vqgan", conflicts_with = "vqgan")]
    dest: Option<PathBuf>,
    /// Add the image tokenizer in this vqgan.ckpt (with vqgan.yaml next to it) to a checkpoint
    #[arg(long, value_name = "CKPT")]
    vqgan: Option<PathBuf>,
    /// Published model whose sampling settings and prompts to use [default: those of the source]
    #[arg(long, value_parser = PossibleValuesParser::new(Preset::ALL.map(|(_, name)| name)), conflicts_with = "vqgan")]
    preset: Option<String>,
    /// Order of the rotary channels in the queries and keys of a Hugging Face directory
    #[arg(long, value_enum, default_value_t = Order::HalfApart, conflicts_with = "vqgan")]
    rotary_order: Order,
}

#[derive(Clone, Copy, ValueEnum)]
enum Order {
    /// Pairs are half a head apart, as Hugging Face has it
    HalfApart,
    /// Pairs are adjacent, as Anole's training code writes it
    SideBySide,
}

/// Imports a checkpoint or adds an image tokenizer.
///
/// # Errors
/// Those of the files; if the destination exists.
pub fn run(args: &ImportArgs, session: &Session) -> Result<()> {
    let made = match (&args.vqgan, &args.dest) {
        (Some(ckpt), _) => {
            meta::add_vqgan(&args.source, ckpt, &cpu()?)?;
            args.source.join("vq_tokenizer")
        }
        (None, Some(dest)) => {
            import(args, dest)?;
            dest.clone()
        }
        (None, None) => unreachable!("clap requires one of them"),
    };
    let digest = Manifest::of(&made)?.digest();
    session.line(format_args!("{}: digest {digest}", made.display()))?;
    session.object(&json!({ "path": name(&made), "digest": digest }))
}

/// Imports a Hugging Face directory, which has a `config.json`, or else the original release.
fn import(args: &ImportArgs, dest: &Path) -> Result<()> {
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
