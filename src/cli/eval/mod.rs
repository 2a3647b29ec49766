//! `calumma eval`: scores of a checkpoint on a data set, comparisons of scores, and a search for
//! evaluation items in training data.

mod args;
mod compare;
mod contamination;
mod fid;
mod measures;
mod output;
mod progress;
mod recipe;

use calumma::Result;
use clap::Subcommand;

pub use self::args::ReconstructionArgs;
use self::args::{CaptioningArgs, GenevalArgs, LossArgs, TextToImageArgs, VqaArgs};
use super::session::Session;

/// Subcommands of `calumma eval`.
#[derive(Subcommand)]
pub enum EvalVerb {
    /// Measure the mean loss per token by modality, on a data set or the validation sets of a recipe
    Loss(LossArgs),
    /// Score answers to questions about images: exact match by question type
    Vqa(VqaArgs),
    /// Score captions or names of images
    Captioning(CaptioningArgs),
    /// Draw images from captions and score them; a detector checks those of scenes
    TextToImage(TextToImageArgs),
    /// Draw images for GenEval's scorer, in the folder layout that it reads
    Geneval(GenevalArgs),
    /// Measure what the image tokenizer loses: PSNR, SSIM, codebook use
    Reconstruction(ReconstructionArgs),
    /// Compute the Fréchet inception distance between two sets of images
    Fid(fid::FidArgs),
    /// Run all evaluations of a recipe and write one table of their scores
    Run(recipe::RunArgs),
    /// Compare two evaluations of the same items: differences, intervals, p-values
    Compare(compare::CompareArgs),
    /// Find evaluation items in training data: equal or similar images, equal texts, shared n-grams
    Contamination(contamination::ContaminationArgs),
}

/// Runs `verb`.
///
/// # Errors
/// Those of checkpoint, data set, device and output.
pub fn run(verb: EvalVerb, session: &Session) -> Result<()> {
    let (common, measured) = match &verb {
        EvalVerb::Loss(args) => (&args.common, measures::loss(args, session)?),
        EvalVerb::Vqa(args) => (&args.common, measures::vqa(args, session)?),
        EvalVerb::Captioning(args) => (&args.common, measures::captioning(args, session)?),
        EvalVerb::TextToImage(args) => (&args.common, measures::text_to_image(args, session)?),
        EvalVerb::Geneval(args) => (&args.common, measures::geneval(args, session)?),
        EvalVerb::Reconstruction(args) => return reconstruction(args, session),
        EvalVerb::Fid(args) => return fid::run(args, session),
        EvalVerb::Run(args) => return recipe::run(args, session),
        EvalVerb::Compare(args) => return compare::run(args, session),
        EvalVerb::Contamination(args) => return contamination::run(args, session),
    };
    output::finish(measured, common, session)
}

/// Runs `eval reconstruction`, which is also `vq eval`.
///
/// # Errors
/// As [`run`].
pub fn reconstruction(args: &ReconstructionArgs, session: &Session) -> Result<()> {
    output::finish(measures::reconstruction(args, session)?, &args.common, session)
}
