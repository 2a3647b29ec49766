//! Data set of the scenes that a configuration describes.

use super::captions::{Caption, Category, captions};
use super::config::ScenesConfig;
use super::questions::{Question, questions};
use super::render::render;
use super::sample::{Stream, item_rng, scene_at};
use super::scene::Scene;
use crate::data::dataset::{Dataset, Fields, Sample, Unused, in_range};
use crate::error::Result;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

/// Number of questions per sample.
pub const QUESTIONS_PER_SCENE: usize = 8;

/// Procedural data set of scenes.
#[derive(Clone, Debug)]
pub struct Scenes {
    config: ScenesConfig,
    name: String,
}

impl Scenes {
    /// Creates the data set that `config` describes.
    ///
    /// # Errors
    /// If a value of `config` is out of range.
    pub fn new(config: ScenesConfig) -> Result<Self> {
        config.validate()?;
        let name = config.to_string();
        Ok(Self { config, name })
    }

    /// The configuration of the data set.
    pub fn config(&self) -> &ScenesConfig {
        &self.config
    }

    /// The ground truth of item `index`, which may exceed the length of the data set.
    pub fn scene(&self, index: usize) -> Scene {
        let config = &self.config;
        scene_at(config.split, config.seed, index as u64, config.min_objects..=config.max_objects)
    }

    /// The captions of item `index`, one per applicable category, and the index of the one chosen
    /// as the item's `caption`.
    pub fn captions(&self, index: usize) -> (Vec<Caption>, usize) {
        let mut rng = self.rng(index, Stream::Captions);
        let captions = captions(&self.scene(index), &mut rng);
        let indices: Vec<_> = (0..captions.len()).collect();
        // Few scenes allow a relation, so it is weighted up.
        let weight = |&index: &usize| match captions[index].category {
            Category::Relation => 4,
            _ => 1,
        };
        let chosen = *indices.choose_weighted(&mut rng, weight).expect("every scene has a caption");
        (captions, chosen)
    }

    /// The questions about item `index`: [`QUESTIONS_PER_SCENE`] from mixed families.
    pub fn questions(&self, index: usize) -> Vec<Question> {
        let mut rng = self.rng(index, Stream::Questions);
        questions(&self.scene(index), &mut rng, QUESTIONS_PER_SCENE)
    }

    /// The columns of item `index`: `caption`, its `category`, its `claims` and the number of
    /// `objects`, `captions`, `question`, `answer`, `family`, `questions` and `scene`.
    pub fn columns(&self, index: usize) -> Fields {
        let (captions, chosen) = self.captions(index);
        let questions = self.questions(index);
        let texts: Vec<_> = captions.iter().map(|caption| &caption.text).collect();
        let mut fields = Fields::new();
        let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
        put("caption", json!(captions[chosen].text));
        put("category", json!(captions[chosen].category));
        put("claims", json!(captions[chosen].claims));
        put("objects", json!(captions[chosen].objects));
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

    fn rng(&self, index: usize, stream: Stream) -> ChaCha8Rng {
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

    fn image_keys(&self, index: usize) -> Result<Vec<String>> {
        in_range(self, index)?;
        // The drawing may change with the version.
        let of_all = ScenesConfig { count: 0, ..self.config.clone() };
        Ok(vec![format!("{of_all}#{index} v{}", env!("CARGO_PKG_VERSION"))])
    }

    fn unused(&self) -> Vec<Unused> {
        Vec::new()
    }

    fn place(&self, index: usize) -> String {
        format!("{}#{index}", self.name)
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn fields(&self, index: usize) -> Result<Fields> {
        in_range(self, index)?;
        Ok(self.columns(index))
    }
}
