//! Procedural data set of simple scenes with captions, questions and ground truth.
//!
//! Item `i` is a pure function of seed, split and `i`. An image shows one to four flat-coloured
//! objects on a light background. [`detector`] reads an image back into objects and [`score`]
//! compares them with a caption, so generated images can be scored without a trained model.
//!
//! ```
//! use calumma::data::{Dataset, scenes::{Scenes, ScenesConfig}};
//!
//! let config: ScenesConfig = "scenes:train?count=100&seed=1&size=64&objects=1-4".parse()?;
//! let sample = Scenes::new(config)?.get(17)?;
//! assert_eq!(sample.images[0].dimensions(), (64, 64));
//! println!("{}", sample.fields["caption"]);
//! # Ok::<(), calumma::Error>(())
//! ```

mod captions;
mod config;
mod context;
mod dataset;
mod describe;
pub mod detector;
mod export;
mod families;
mod masks;
mod questions;
mod render;
mod sample;
mod scene;
pub mod score;
mod template;

pub use captions::{Caption, Category, MAX_WORDS, captions};
pub use config::{ScenesConfig, is_spec};
pub use dataset::{QUESTIONS_PER_SCENE, Scenes};
pub use describe::{CLEAR_DISPLACEMENT, Column, Kind, Place, Relation, Row};
pub use detector::{Detected, Detector, detect};
pub use export::write_image_folder;
pub use questions::{Family, Question, questions};
pub use render::{blank, render};
pub use sample::{Split, Stream, is_held_out, item_rng, pairs, scene_at};
pub use scene::{
    Background, Color, GRID_STEP, MARGIN, MAX_OBJECTS, Object, Scene, Shape, Size, UNITS,
};
pub use score::Claim;
