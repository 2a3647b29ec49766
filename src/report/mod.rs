//! Progress and reports of a run: a progress bar on the terminal, and in the run's directory
//! `metrics.jsonl` for programs, `tensorboard/` for TensorBoard, `samples/` and `report.html` for people.

mod chart;
mod escape;
mod experts;
pub mod html;
mod log;
mod omission;
mod record;
mod reporter;
mod sample;
mod scale;
mod tensorboard;

pub use experts::LayerExperts;
pub use omission::Omission;
pub use record::{Evaluation, RunEvent, RunRecord, Series};
pub use reporter::{Metrics, Reporter};
pub use sample::SampleText;
