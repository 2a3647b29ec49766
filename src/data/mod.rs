//! Data sets: readers for common formats, and the steps from samples to packed batches.
//!
//! [`open`] turns a path (or a list of paths) into a [`Dataset`] of [`Sample`]s. A recipe may
//! [`explode`](Exploded) a list-valued field into one sample per entry or [`group`](Grouped) rows
//! that share an image; it renders samples into documents by a
//! [`Template`](crate::tokenize::Template), draws from several sources by weight ([`mixture`]) and
//! packs the token sequences into rows ([`pack`]). Token sequences can be written once as
//! [`shards`].
//!
//! | section of a recipe | type |
//! |---|---|
//! | `[[data]]` of `calumma vq train` | [`ImageData`] |
//! | `[[data]]` of `calumma bpe train` | [`TextData`] |
//! | `[[data]]` of `calumma tokenize` | [`SampleData`] |
//! | `[[data]]` of `calumma train` | [`DocumentData`] |

mod aliased;
mod augment;
pub(crate) mod benchmarks;
mod boundary;
mod chat_document;
mod class_folders;
mod config;
mod conversation;
mod corpus;
mod counted;
mod csv_table;
mod curriculum;
mod dataset;
mod dialect;
mod document;
mod document_source;
mod encoded;
mod endings;
mod files;
mod folder;
mod form;
mod glob;
mod group;
mod image_directory;
mod image_file;
mod image_key;
mod image_source;
mod imagefolder;
mod inspect;
mod joined;
mod journal;
mod jsonl;
mod kept_codes;
mod left_out;
mod lines;
mod marks;
mod messages;
mod metadata;
pub mod mixture;
mod open;
pub mod pack;
mod parquet;
mod patterns;
mod preference;
mod prompts;
mod render;
mod renderer;
pub mod scenes;
pub mod shards;
mod stamps;
mod stream;
mod tokenizers;
mod unused;
mod validation;
mod webdataset;

pub use aliased::Aliased;
pub use augment::Augment;
pub use boundary::split_at_common_prefix;
pub use config::{
    DocumentContent, DocumentData, ImageData, SampleData, SourceConfig, TemplateConfig, TextData,
    TooLong, Weight, WeightedTemplate,
};
pub use corpus::{BpeRecipe, BpeRunConfig, Corpus, corpus};
pub use counted::{Counted, DEFAULT_TOLERANCE};
pub use curriculum::{CurriculumConfig, Stages};
pub use dataset::{Dataset, Fields, Sample, Unused};
pub use document_source::DocumentSource;
pub use encoded::Encoding;
pub(crate) use files::states as file_states;
pub use group::{Exploded, Grouped};
pub use image_directory::ImageDirectory;
pub use image_key::Place;
pub use image_source::data_uri;
pub use imagefolder::ImageFolder;
pub use inspect::{Column, ImageSize, Inspection, inspect};
pub use jsonl::Jsonl;
pub(crate) use left_out::refuse_too_many;
pub use left_out::{BadSample, LeftOut, Misfit};
pub use open::{open, open_as};
pub use parquet::Parquet;
pub use preference::{
    AnswerLayout, PreferencePair, PreferenceRow, PreferenceTokens, Preferences, Unpaired,
    UnpairedAnswer, UnpairedRow, UnpairedTokens,
};
pub use prompts::{Prompt, Prompts};
pub use render::{Loss, RenderOptions, Rendered};
pub(crate) use stamps::Stamps;
pub use stream::{DocumentStream, SourceReport, StreamState};
pub use tokenizers::TokenizerConfig;
pub(crate) use tokenizers::image_dir;
pub use validation::{Validation, validation_batches};
pub use webdataset::WebDataset;
