//! Scores of checkpoints on data sets.
//!
//! Each measure is a function over a data set and a closure that stands for the model, such as
//! `|images, questions| pipeline.ask_batch(images, questions, &config)`: measures are tested without a model,
//! and any model can be measured. The result holds the scores with N and 95 % intervals and a record of every
//! item; its `report` is written to a directory as `results.json`, `samples.jsonl` and a sheet of images.
//! [`compare`] compares two such directories; [`contamination`] searches training data for evaluation items.

mod batches;
pub mod bootstrap;
pub mod captioning;
pub mod compare;
pub mod contamination;
pub mod drawing;
mod fid;
pub mod geneval;
pub mod inception;
pub mod loss;
pub mod metrics;
mod official;
mod question;
pub mod reconstruction;
mod report;
mod responses;
mod score;
pub mod task;
pub mod text_to_image;
pub mod vqa;

pub use batches::{Extent, images_of, left_out};
pub use fid::Fid;
pub use official::Official;
pub use question::Majority;
pub use report::{Environment, Report, SampleRecord};
pub use responses::Responses;
pub use score::{IntervalMethod, Score};
