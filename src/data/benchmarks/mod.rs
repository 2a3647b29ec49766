//! Public benchmarks in their published file formats, named by a spec such as
//! `vqav2:questions=Q.json&annotations=A.json&images=DIR`.
//!
//! Annotation files are read when the data set is opened; any error in them fails the opening and
//! names file, line and field. Images are read with their samples: a missing or broken image is an
//! error of its sample only.

mod coco;
mod dataset;
mod geneval;
mod gqa;
mod karpathy;
mod pope;
mod read;
mod record;
mod spec;
mod textvqa;
mod vqav2;

pub(super) use dataset::open;
pub(crate) use record::most_frequent;
pub(super) use spec::Spec;
