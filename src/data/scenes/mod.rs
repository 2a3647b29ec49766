//! Scenes: a procedural data set without end, with its captions, questions and ground truth.
//!
//! Item `i` of a set is a pure function of seed, split and `i`. Images show one to four
//! flat-coloured objects on a light background; [`detector`] reads an image back into objects
//! and [`score`] holds them against a caption, so that generated images can be scored
//! without a trained judge.
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

mod asker;
mod captions;
mod config;
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

use super::{Dataset, Fields, Sample, in_range};
use crate::error::Result;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};

/// How many questions each sample holds.
pub const QUESTIONS_PER_SCENE: usize = 8;

/// The procedural data set.
#[derive(Clone, Debug)]
pub struct Scenes {
    config: ScenesConfig,
    name: String,
}

impl Scenes {
    /// The data set that `config` describes.
    ///
    /// # Errors
    /// When a value of `config` is out of range.
    pub fn new(config: ScenesConfig) -> Result<Self> {
        config.validate()?;
        let name = config.to_string();
        Ok(Self { config, name })
    }

    /// What the data set was made from.
    pub fn config(&self) -> &ScenesConfig {
        &self.config
    }

    /// The ground truth of item `index`; also defined beyond the data set's length.
    pub fn scene(&self, index: usize) -> Scene {
        let config = &self.config;
        scene_at(config.split, config.seed, index as u64, config.min_objects..=config.max_objects)
    }

    /// The captions of item `index`, one per category that applies, and which of them was
    /// drawn to stand for the item.
    pub fn captions(&self, index: usize) -> (Vec<Caption>, usize) {
        let mut rng = self.rng(index, Stream::Captions);
        let captions = captions(&self.scene(index), &mut rng);
        let indices: Vec<_> = (0..captions.len()).collect();
        // Few scenes allow a relation; weights make up for that.
        let weight = |&index: &usize| match captions[index].category {
            Category::Relation => 4,
            _ => 1,
        };
        let drawn = *indices.choose_weighted(&mut rng, weight).expect("every scene has a caption");
        (captions, drawn)
    }

    /// The questions about item `index`, [`QUESTIONS_PER_SCENE`] of mixed families.
    pub fn questions(&self, index: usize) -> Vec<Question> {
        let mut rng = self.rng(index, Stream::Questions);
        questions(&self.scene(index), &mut rng, QUESTIONS_PER_SCENE)
    }

    /// The columns of item `index`: `caption`, `category`, `captions`, `question`, `answer`,
    /// `family`, `questions` and `scene`.
    pub fn columns(&self, index: usize) -> Fields {
        let (captions, drawn) = self.captions(index);
        let questions = self.questions(index);
        let texts: Vec<_> = captions.iter().map(|caption| &caption.text).collect();
        let mut fields = Fields::new();
        let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
        put("caption", json!(captions[drawn].text));
        put("category", json!(captions[drawn].category));
        put("captions", json!(texts));
        if let Some(first) = questions.first() {
            put("question", json!(first.text));
            put("answer", json!(first.answer));
            put("family", json!(first.family));
        }
        put("questions", json!(questions));
        put("scene", json!(self.scene(index)));
        fields
    }

    fn rng(&self, index: usize, stream: Stream) -> rand_chacha::ChaCha8Rng {
        item_rng(self.config.split, self.config.seed, index as u64, stream)
    }
}

impl Dataset for Scenes {
    fn len(&self) -> usize {
        self.config.count
    }

    fn get(&self, index: usize) -> Result<Sample> {
        in_range(self, index)?;
        Ok(Sample {
            fields: self.columns(index),
            images: vec![render(&self.scene(index), self.config.size)],
            source: format!("{}#{index}", self.name),
        })
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn fields(&self, index: usize) -> Result<Fields> {
        in_range(self, index)?;
        Ok(self.columns(index))
    }
}
