//! A task as recipes and results write it: one flat table with the keys of all kinds.

use std::collections::BTreeMap;
use std::mem::take;
use std::path::PathBuf;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::config::{
    Answering, Asking, CaptioningTask, Common, GenevalTask, LossTask, ReconstructionTask,
    TaskConfig, TextToImageTask, VqaTask,
};
use crate::data::Loss;
use crate::error::{Error, Result};
use crate::eval::Extent;
use crate::files::serialize_path;

/// The value of the key `measure`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Measure {
    Vqa,
    Captioning,
    TextToImage,
    Reconstruction,
    Loss,
    Geneval,
}

impl Measure {
    const ALL: [Self; 6] = [
        Self::Vqa,
        Self::Captioning,
        Self::TextToImage,
        Self::Reconstruction,
        Self::Loss,
        Self::Geneval,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Vqa => "vqa",
            Self::Captioning => "captioning",
            Self::TextToImage => "text-to-image",
            Self::Reconstruction => "reconstruction",
            Self::Loss => "loss",
            Self::Geneval => "geneval",
        }
    }
}

/// All keys of all kinds of tasks; [`TaskConfig`] says what each means.
///
/// Results and identities list every key for tasks of any kind, in this order: a change would make
/// finished and stopped evaluations start over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TaskKeys {
    pub measure: Measure,
    pub data: String,
    pub name: Option<String>,
    #[serde(default)]
    pub columns: BTreeMap<String, String>,
    pub limit: Option<usize>,
    #[serde(default = "default_batch")]
    pub batch: usize,
    pub train: Option<String>,
    #[serde(default)]
    pub shots: usize,
    #[serde(default)]
    pub answer: Answering,
    #[serde(default)]
    pub choices: Vec<String>,
    pub prompt: Option<String>,
    #[serde(serialize_with = "serialize_path")]
    pub official: Option<PathBuf>,
    #[serde(serialize_with = "serialize_path")]
    pub inception: Option<PathBuf>,
    #[serde(default)]
    pub templates: Vec<String>,
    #[serde(default)]
    pub loss: Loss,
    pub explode: Option<String>,
    #[serde(default)]
    pub generation: Map<String, Value>,
}

fn default_batch() -> usize {
    Extent::default().batch
}

impl TaskKeys {
    /// A task with every key at its default.
    fn new(measure: Measure) -> Self {
        Self {
            measure,
            data: String::new(),
            name: None,
            columns: BTreeMap::new(),
            limit: None,
            batch: default_batch(),
            train: None,
            shots: 0,
            answer: Answering::default(),
            choices: Vec::new(),
            prompt: None,
            official: None,
            inception: None,
            templates: Vec::new(),
            loss: Loss::default(),
            explode: None,
            generation: Map::new(),
        }
    }

    /// Moves the keys that a task of this measure reads into its configuration; defaults take their place.
    fn take_task(&mut self) -> TaskConfig {
        let common = Common {
            data: take(&mut self.data),
            name: self.name.take(),
            limit: self.limit.take(),
            batch: std::mem::replace(&mut self.batch, default_batch()),
        };
        match self.measure {
            Measure::Vqa => TaskConfig::Vqa(VqaTask {
                common,
                asking: self.take_asking(),
                generation: take(&mut self.generation),
            }),
            Measure::Captioning => TaskConfig::Captioning(CaptioningTask {
                common,
                asking: self.take_asking(),
                official: self.official.take(),
                generation: take(&mut self.generation),
            }),
            Measure::TextToImage => TaskConfig::TextToImage(TextToImageTask {
                common,
                prompt: self.prompt.take(),
                columns: take(&mut self.columns),
                inception: self.inception.take(),
                generation: take(&mut self.generation),
            }),
            Measure::Reconstruction => TaskConfig::Reconstruction(ReconstructionTask {
                common,
                inception: self.inception.take(),
            }),
            Measure::Loss => TaskConfig::Loss(LossTask {
                common,
                templates: take(&mut self.templates),
                loss: take(&mut self.loss),
                explode: self.explode.take(),
            }),
            Measure::Geneval => {
                let generation = take(&mut self.generation);
                TaskConfig::Geneval(GenevalTask { common, generation })
            }
        }
    }

    fn take_asking(&mut self) -> Asking {
        Asking {
            columns: take(&mut self.columns),
            train: self.train.take(),
            shots: take(&mut self.shots),
            answer: take(&mut self.answer),
            choices: take(&mut self.choices),
            prompt: self.prompt.take(),
        }
    }

    /// The keys with other values than their defaults.
    fn given(&self) -> Vec<String> {
        let object = |keys: &Self| match serde_json::to_value(keys) {
            Ok(Value::Object(object)) => object,
            _ => Map::new(),
        };
        let defaults = object(&Self::new(self.measure));
        let given =
            object(self).into_iter().filter(|(key, value)| defaults.get(key) != Some(value));
        given.map(|(key, _)| key).collect()
    }

    /// The keys that a task of `measure` with these values would not read.
    fn unread(&self, measure: Measure) -> Vec<String> {
        let mut keys = Self { measure, ..self.clone() };
        keys.take_task();
        keys.given()
    }

    /// The task of these keys.
    fn into_task(mut self) -> Result<TaskConfig> {
        let all = self.clone();
        let task = self.take_task();
        let Some(key) = self.given().into_iter().next() else { return Ok(task) };
        let readers =
            Measure::ALL.into_iter().filter(|measure| !all.unread(*measure).contains(&key));
        let readers: Vec<&str> = readers.map(Measure::name).collect();
        let (label, measure) = (task.label(), self.measure.name());
        Err(Error::invalid(format!(
            "task {label}: the measure {measure} does not read {key}, but {} does",
            readers.join(" or ")
        )))
    }

    fn common(measure: Measure, common: Common) -> Self {
        let Common { data, name, limit, batch } = common;
        Self { data, name, limit, batch, ..Self::new(measure) }
    }

    fn asking(measure: Measure, common: Common, asking: Asking) -> Self {
        let Asking { columns, train, shots, answer, choices, prompt } = asking;
        Self { columns, train, shots, answer, choices, prompt, ..Self::common(measure, common) }
    }
}

impl From<TaskConfig> for TaskKeys {
    fn from(task: TaskConfig) -> Self {
        match task {
            TaskConfig::Vqa(VqaTask { common, asking, generation }) => {
                Self { generation, ..Self::asking(Measure::Vqa, common, asking) }
            }
            TaskConfig::Captioning(CaptioningTask { common, asking, official, generation }) => {
                Self { official, generation, ..Self::asking(Measure::Captioning, common, asking) }
            }
            TaskConfig::TextToImage(task) => {
                let TextToImageTask { common, prompt, columns, inception, generation } = task;
                let keys = Self::common(Measure::TextToImage, common);
                Self { prompt, columns, inception, generation, ..keys }
            }
            TaskConfig::Reconstruction(ReconstructionTask { common, inception }) => {
                Self { inception, ..Self::common(Measure::Reconstruction, common) }
            }
            TaskConfig::Loss(LossTask { common, templates, loss, explode }) => {
                Self { templates, loss, explode, ..Self::common(Measure::Loss, common) }
            }
            TaskConfig::Geneval(GenevalTask { common, generation }) => {
                Self { generation, ..Self::common(Measure::Geneval, common) }
            }
        }
    }
}

impl Serialize for TaskConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        TaskKeys::from(self.clone()).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for TaskConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        TaskKeys::deserialize(deserializer)?.into_task().map_err(D::Error::custom)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn read(text: &str) -> std::result::Result<TaskConfig, String> {
        toml::from_str::<TaskConfig>(text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_key_of_another_measure_is_refused_with_the_measures_that_read_it() {
        for (keys, key, readers) in [
            ("measure = \"reconstruction\"\nshots = 2", "shots", "vqa or captioning"),
            (
                "measure = \"loss\"\ninception = \"x\"",
                "inception",
                "text-to-image or reconstruction",
            ),
            ("measure = \"vqa\"\nofficial = \"x\"", "official", "captioning"),
            ("measure = \"geneval\"\nexplode = \"x\"", "explode", "loss"),
            (
                "measure = \"loss\"\ngeneration = { seed = 1 }",
                "generation",
                "vqa or captioning or text-to-image or geneval",
            ),
        ] {
            let error = read(&format!("name = \"mine\"\ndata = \"d\"\n{keys}")).unwrap_err();
            assert!(error.contains(&format!("does not read {key}, but {readers} does")), "{error}");
            assert!(error.contains("task mine: the measure "), "{error}");
        }
        let error = read("measure = \"vqa\"\ndata = \"d\"\nshot = 1").unwrap_err();
        assert!(error.contains("unknown field `shot`") && error.contains("`shots`"), "{error}");
    }

    #[test]
    fn a_key_of_another_measure_is_accepted_at_its_default() {
        // Resolved recipes list every key.
        let task = read("measure = \"reconstruction\"\ndata = \"d\"\nshots = 0\nloss = \"all\"");
        assert_eq!(
            task.unwrap(),
            TaskConfig::Reconstruction(ReconstructionTask {
                common: Common::new("d"),
                inception: None
            })
        );
    }

    #[test]
    fn results_list_all_keys_of_every_kind_in_a_fixed_order() {
        let task = read("measure = \"loss\"\ndata = \"d\"\ntemplates = [\"{name}\"]").unwrap();
        // Part of the identity by which stopped evaluations continue.
        let text = concat!(
            r#"{"measure":"loss","data":"d","name":null,"columns":{},"limit":null,"batch":32,"#,
            r#""train":null,"shots":0,"answer":"generate","choices":[],"prompt":null,"#,
            r#""official":null,"inception":null,"templates":["{name}"],"loss":"all","#,
            r#""explode":null,"generation":{}}"#
        );
        assert_eq!(serde_json::to_string(&task).unwrap(), text);
        assert_eq!(serde_json::from_str::<TaskConfig>(text).unwrap(), task);
    }

    #[test]
    fn every_kind_survives_being_written_and_read() {
        let recipe = include_str!("../../../recipes/eval-demo.toml");
        let table: toml::Table = toml::from_str(recipe).unwrap();
        for task in table["task"].as_array().unwrap() {
            let task: TaskConfig = task.clone().try_into().unwrap();
            let text = toml::to_string(&task).unwrap();
            assert_eq!(toml::from_str::<TaskConfig>(&text).unwrap(), task, "{text}");
        }
    }
}
