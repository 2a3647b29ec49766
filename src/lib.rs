//! Train, evaluate and run unified early-fusion models of text and images.
//!
//! An image becomes discrete codes, codes and text become one sequence of ids, one transformer
//! models the sequence. [`Pipeline`](pipeline::Pipeline) opens and runs a trained model; [`train`]
//! trains one.
//!
//! ```
//! use calumma::device::DeviceSpec;
//! use calumma::pipeline::Pipeline;
//!
//! let device = DeviceSpec::Cpu.open()?;
//! let pipeline = Pipeline::open("checkpoints/demo".as_ref(), &device)?;
//! let image = pipeline.draw("a large red circle")?;
//! assert_eq!(image.dimensions(), (64, 64));
//! # Ok::<(), calumma::Error>(())
//! ```
#![deny(missing_docs)]

pub mod allocator;
pub mod checkpoint;
pub mod data;
pub mod device;
pub mod error;
pub mod eval;
pub mod files;
pub mod generate;
pub mod guard;
pub mod json;
pub mod lock;
pub mod memory;
pub mod model;
pub mod pipeline;
pub mod recipe;
pub mod report;
#[cfg(feature = "server")]
pub mod server;
pub mod sheet;
pub mod threads;
pub mod tokenize;
pub mod train;

pub use error::{Error, Result};
