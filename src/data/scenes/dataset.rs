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
        self.scene_of(self.number(index))
    }

    fn scene_of(&self, number: u64) -> Scene {
        let config = &self.config;
        scene_at(config.split, config.seed, number, config.min_objects..=config.max_objects)
    }

    /// The number of the scene of item `index`: with a category the first of `index`, `index` + 2^32, ... that has
    /// such a caption.
    fn number(&self, index: usize) -> u64 {
        let Some(category) = self.config.category else { return index as u64 };
        let has_one = |number: &u64| {
            let mut rng = self.rng(*number, Stream::Captions);
            let captions = captions(&self.scene_of(*number), &mut rng);
            captions.iter().any(|caption| caption.category == category)
        };
        let mut numbers = (0..).map(|step: u64| index as u64 + (step << 32));
        numbers
            .find(has_one)
            .expect("some scene has every category that the number of objects allows")
    }

    /// The captions of item `index`, one per applicable category, and the index of the one chosen
    /// as the item's `caption`.
    pub fn captions(&self, index: usize) -> (Vec<Caption>, usize) {
        let number = self.number(index);
        let mut rng = self.rng(number, Stream::Captions);
        let captions = captions(&self.scene_of(number), &mut rng);
        let indices: Vec<_> = (0..captions.len()).collect();
        // Few scenes allow a relation, so it is weighted up.
        let weight = |&index: &usize| match (self.config.category, captions[index].category) {
            (Some(wanted), category) => u32::from(category == wanted),
            (None, Category::Relation) => 4,
            (None, _) => 1,
        };
        let chosen = *indices.choose_weighted(&mut rng, weight).expect("every scene has a caption");
        (captions, chosen)
    }

    /// The questions about item `index`: [`QUESTIONS_PER_SCENE`] from mixed families.
    pub fn questions(&self, index: usize) -> Vec<Question> {
        let mut rng = self.rng(self.number(index), Stream::Questions);
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

    fn rng(&self, number: u64, stream: Stream) -> ChaCha8Rng {
        item_rng(self.config.split, self.config.seed, number, stream)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_caption_is_of_the_category_that_was_asked_for() {
        for category in Category::ALL {
            let spec = format!("scenes:val?count=30&seed=4&category={}", category.name());
            let scenes = Scenes::new(spec.parse().expect("valid")).expect("valid");
            for index in 0..30 {
                let (captions, chosen) = scenes.captions(index);
                assert_eq!(captions[chosen].category, category);
                let objects = &scenes.scene(index).objects;
                assert!(
                    captions[chosen].claims.iter().all(|claim| claim.holds(objects)),
                    "{index}"
                );
            }
        }
    }

    #[test]
    fn scenes_with_such_a_caption_stay_where_they_are() {
        let [all, two] = ["", "&category=two"].map(|more| {
            let spec = format!("scenes:train?count=40&seed=4&objects=2{more}");
            Scenes::new(spec.parse().expect("valid")).expect("valid")
        });
        let has_two =
            |index: &usize| all.captions(*index).0.iter().any(|c| c.category == Category::Two);
        let kept: Vec<usize> = (0..40).filter(has_two).collect();
        assert!(kept.len() > 30 && kept.iter().all(|index| all.scene(*index) == two.scene(*index)));
    }
}
