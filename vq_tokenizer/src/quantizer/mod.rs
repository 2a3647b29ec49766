//! Quantizers, from latents to codes and back: one file and one variant of [`Quantizer`] for each.

mod config;
mod ema;
mod estimator;
mod fsq;
mod ibq;
mod l2;
mod lfq;
mod quantized;
mod simvq;
mod table;
mod variants;
mod vq;

pub use config::QuantizerConfig;
pub use ema::{EmaQuantizer, EmaState};
pub use estimator::Estimator;
pub use fsq::Fsq;
pub use ibq::Ibq;
pub use l2::L2Quantizer;
pub use lfq::Lfq;
pub use quantized::Quantized;
pub use simvq::SimVq;
pub use table::CodeTable;
pub use variants::Quantizer;
pub use vq::VectorQuantizer;
