//! `calumma eval fid`: the Fréchet inception distance between two sets of images.

use std::path::PathBuf;

use calumma::data::Dataset;
use calumma::eval::{Extent, Fid, images_of, left_out, reconstruction};
use calumma::{Error, Result};
use clap::Args;
use serde_json::json;

use super::args::at_least_one;
use super::progress::Bar;
use crate::cli::session::Session;

/// Arguments of `eval fid`.
#[derive(Args)]
pub struct FidArgs {
    /// Reference images: a data set or a directory of images
    real: String,
    /// Generated images: a data set or a directory of images
    made: String,
    /// Inception weights: pt_inception-2015-12-05-6726825d.pth of pytorch-fid
    #[arg(long, value_name = "FILE")]
    inception: PathBuf,
    /// Use only the first N samples of each [default: all]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    limit: Option<usize>,
}

/// Prints the distance.
///
/// # Errors
/// Those of the weights, the images and the device.
pub fn run(args: &FidArgs, session: &Session) -> Result<()> {
    let device = session.device_in_f32("FID")?;
    let (real, made) = (reconstruction::open(&args.real)?, reconstruction::open(&args.made)?);
    let mut fid = Fid::open(&args.inception, &device)?;
    let extent = Extent { limit: args.limit, ..Extent::default() };
    let all = extent.of(real.len()) + extent.of(made.len());
    let mut bar = Bar::new(Some(all), session);
    let mut read = |set: &dyn Dataset, fid: &mut Fid, real: bool| {
        let bad = images_of(set, extent, &mut |images| {
            bar.add(images.len());
            if real { fid.add_real(images) } else { fid.add_generated(images) }
        })?;
        Ok::<_, Error>((bad.len(), left_out(set, extent, &bad)))
    };
    let (bad_real, mut omissions) = read(real.as_ref(), &mut fid, true)?;
    let (bad_made, of_made) = read(made.as_ref(), &mut fid, false)?;
    omissions.extend(of_made);
    drop(bar);
    let score = fid.score()?;
    session.line(format_args!("fid {:.3} (N = {})", score.value, score.n))?;
    session.left_out(&omissions)?;
    let bad = bad_real + bad_made;
    session.object(&json!({
        "fid": score.value, "n": score.n, "bad_samples": bad, "left_out": omissions,
    }))
}
