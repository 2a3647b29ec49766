//! A checkpoint made of another, tensor by tensor: Hugging Face's layout to ours and back, a release of
//! a training run's.
//!
//! Both layouts have the same `config.json` and the same names; Hugging Face's keeps the image
//! tokenizer among the language model's tensors, ours in a folder of its own. What is not asked to
//! change keeps its bytes.

use std::path::Path;

use safetensors::Dtype;
use serde_json::{Value, json};
use vq_tokenizer::preprocess::PreprocessorConfig;
use vq_tokenizer::weights::{StoredDtype, StoredTensor, TensorInfo, WeightFiles};
use vq_tokenizer::{NORM_GROUPS, VqConfig};

use super::config::{config_from_json, torch_name};
use super::meta::half_apart;
use super::open::{
    IMAGE_FORMAT, PROCESSOR, SIZED, has_sized_images, nested_config, preprocessor, preset_of,
};
use super::stored::StoredTensors;
use super::tensors::{VQ_PREFIX, head_norm_shape, heads_of, is_of_transformer, row_per_head};
use super::weight_files::{SHARD_SIZE, write_weights};
use super::{DOCUMENTS, Manifest, VQ_DIR, write_directory};
use crate::error::{Error, Result};
use crate::files::{read_json, write_json};
use crate::generate::Preset;
use crate::model::ModelConfig;
use crate::tokenize::TextTokenizer;

/// Files that a checkpoint may have and that are taken along as they are.
const TAKEN_ALONG: [&str; 7] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "processor_config.json",
    "preprocessor_config.json",
];

/// What is said of image tokenizers that only this program computes.
const OTHER_CODES: &str = "this image tokenizer has other norm_groups or another quantizer than the \
    releases; transformers ignores both and gives images other codes, text is the same";

/// Where the image tokenizer lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// In a folder of its own.
    Calumma,
    /// Among the language model's tensors, as `transformers` reads it.
    HuggingFace,
}

/// In what order queries, keys and their norms have the channels of a head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RotaryOrder {
    /// Pairs lie half a head apart, as in every Hugging Face checkpoint.
    #[default]
    HalfApart,
    /// Pairs lie side by side: the original release's order under Hugging Face's names, as Anole's
    /// training code writes it.
    SideBySide,
}

/// What is made of a checkpoint.
#[derive(Clone, Debug)]
pub struct Conversion {
    /// The layout to write.
    pub layout: Layout,
    /// The number format of the weights; `None` keeps what is stored. The image tokenizer's follow
    /// only to f16: 8 significant bits would move many codes.
    pub dtype: Option<StoredDtype>,
    /// Bytes of tensors in a file before the next begins.
    pub shard_size: u64,
    /// The order to read.
    pub order: RotaryOrder,
    /// Whose sampling settings and prompts to write; `None` keeps those that are there, and gives a
    /// foreign checkpoint without prompts its release's.
    pub preset: Option<Preset>,
}

impl Conversion {
    /// To `layout`, with nothing changed.
    pub fn to(layout: Layout) -> Self {
        Self {
            layout,
            dtype: None,
            shard_size: SHARD_SIZE,
            order: RotaryOrder::default(),
            preset: None,
        }
    }

    /// Makes the checkpoint `dest` of the one in `source`, without its training state; one tensor is in
    /// memory at a time. Returns what another program will see otherwise, if anything.
    ///
    /// # Errors
    /// Those of the files, with the tensor at fault; when a file differs from the manifest; when `dest`
    /// exists. Nothing is left behind then.
    pub fn run(&self, source: &Path, dest: &Path) -> Result<Option<&'static str>> {
        if Manifest::read(source)?.is_some() {
            Manifest::verify(source)?;
        }
        let path = source.join("config.json");
        let json: Value = read_json(&path)?;
        let config = config_from_json(&json).map_err(|e| Error::file(&path, e.to_string()))?;
        let files = StoredTensors::open(source)?;
        let vq = ImageTokenizer::find(source, &json, &files)?;
        let model = Model { files: &files, config: &config, order: self.order };
        write_directory(dest, |dir| {
            for name in TAKEN_ALONG.iter().chain(&DOCUMENTS) {
                let from = source.join(name);
                if from.is_file() {
                    std::fs::copy(&from, dir.join(name)).map_err(Error::io(&from))?;
                }
            }
            self.write_generation(source, &json, dir)?;
            self.write_processor(source, &json, vq.as_ref(), dir)?;
            self.write_config(json, vq.as_ref(), dir)?;
            self.write_tensors(&model, vq.as_ref(), dir)
        })?;
        let own_kind = |vq: &ImageTokenizer| {
            vq.config.norm_groups != NORM_GROUPS || !vq.config.quantizer.is_default()
        };
        let other = self.layout == Layout::HuggingFace && vq.as_ref().is_some_and(own_kind);
        Ok(other.then_some(OTHER_CODES))
    }

    fn write_generation(&self, source: &Path, config: &Value, dir: &Path) -> Result<()> {
        const NAME: &str = "generation_config.json";
        let from = source.join(NAME);
        let mut json: Value = if from.exists() { read_json(&from)? } else { json!({}) };
        let implied = Manifest::read(source)?.is_none() && json.get("prompts").is_none();
        let implied = implied.then(|| preset_of(config));
        if let (Some(preset), Some(keys)) = (self.preset.or(implied), json.as_object_mut()) {
            keys.extend(preset.to_json());
            if preset.ends_turns_with_separator() {
                let text = TextTokenizer::load(&source.join("tokenizer.json"))?;
                let special = *text.vocabulary()?.special();
                keys.insert("eos_token_id".to_owned(), json!([special.eos, special.sep]));
            }
        }
        write_json(&dir.join(NAME), &json)
    }

    /// Says in Hugging Face's file how images are written, where it needs saying.
    fn write_processor(
        &self,
        source: &Path,
        json: &Value,
        vq: Option<&ImageTokenizer>,
        dir: &Path,
    ) -> Result<()> {
        let path = dir.join(PROCESSOR);
        let preset = self.preset.is_some_and(Preset::sizes_images);
        let sized = preset || has_sized_images(source, json)?;
        let is_there = path.exists();
        let mut about: Value = if is_there { read_json(&path)? } else { json!({}) };
        if let (false, Some(vq)) = (is_there, vq) {
            let factor = vq.config.downsampling();
            let (height, width) = (vq.preprocessor.crop_height, vq.preprocessor.crop_width);
            about = json!({
                "processor_class": "ChameleonProcessor",
                "image_seq_length": height / factor * (width / factor),
                "image_token": "<image>",
            });
        }
        if sized {
            about[IMAGE_FORMAT] = json!(SIZED);
        }
        let needed = sized || self.layout == Layout::HuggingFace && vq.is_some();
        if needed && !is_there || sized { write_json(&path, &about) } else { Ok(()) }
    }

    fn write_config(&self, mut json: Value, vq: Option<&ImageTokenizer>, dir: &Path) -> Result<()> {
        if let (Some(dtype), Some(keys)) = (self.dtype, json.as_object_mut()) {
            keys.remove("torch_dtype");
            keys.insert("dtype".to_owned(), json!(torch_name(dtype)));
        }
        match (self.layout, vq) {
            (Layout::Calumma, Some(vq)) => {
                let to = dir.join(VQ_DIR);
                std::fs::create_dir_all(&to).map_err(Error::io(&to))?;
                vq.config.save(&to.join("config.json"))?;
                vq.preprocessor.save(&to.join("preprocessor_config.json"))?;
            }
            (Layout::HuggingFace, Some(vq)) => {
                if json.get("vq_config").is_none_or(Value::is_null) {
                    json["vq_config"] = json!(vq.config);
                }
                let preprocessor = dir.join("preprocessor_config.json");
                if !preprocessor.exists() {
                    vq.preprocessor.save(&preprocessor)?;
                }
            }
            (_, None) => {}
        }
        write_json(&dir.join("config.json"), &json)
    }

    fn write_tensors(
        &self,
        model: &Model<'_>,
        vq: Option<&ImageTokenizer>,
        dir: &Path,
    ) -> Result<()> {
        let vq_dtype = self.dtype.filter(|dtype| *dtype != StoredDtype::Bf16);
        let mut infos = model.infos(self.dtype);
        let of_model = |name: &str| Ok(converted(model.stored(name)?, self.dtype)?.bytes);
        let Some(vq) = vq else {
            return write_weights(dir, &infos, self.shard_size, of_model);
        };
        let of_vq = |name: &str| Ok(converted(vq.stored(name, model.files)?, vq_dtype)?.bytes);
        let vq_infos = vq
            .tensors
            .iter()
            .map(|(name, dtype, shape)| (name.clone(), format(*dtype, vq_dtype), shape.clone()));
        match self.layout {
            Layout::Calumma => {
                let vq_infos: Vec<TensorInfo> = vq_infos.collect();
                write_weights(&dir.join(VQ_DIR), &vq_infos, u64::MAX, of_vq)?;
                write_weights(dir, &infos, self.shard_size, of_model)
            }
            Layout::HuggingFace => {
                infos.extend(
                    vq_infos
                        .map(|(name, dtype, shape)| (VQ_PREFIX.to_owned() + &name, dtype, shape)),
                );
                write_weights(dir, &infos, self.shard_size, |name| {
                    match name.strip_prefix(VQ_PREFIX) {
                        Some(name) => of_vq(name),
                        None => of_model(name),
                    }
                })
            }
        }
    }
}

/// The number format of a float stored as `stored` in a conversion to `dtype`.
fn format(stored: Dtype, dtype: Option<StoredDtype>) -> Dtype {
    match (stored, dtype) {
        (Dtype::F32 | Dtype::BF16 | Dtype::F16, Some(dtype)) => dtype.safetensors(),
        _ => stored,
    }
}

fn converted(
    tensor: StoredTensor,
    dtype: Option<StoredDtype>,
) -> vq_tokenizer::Result<StoredTensor> {
    match dtype {
        Some(dtype) if format(tensor.dtype, Some(dtype)) != tensor.dtype => tensor.convert(dtype),
        _ => Ok(tensor),
    }
}

/// The image tokenizer of a checkpoint: a folder of its own, or tensors among the language model's.
struct ImageTokenizer {
    config: VqConfig,
    preprocessor: PreprocessorConfig,
    /// Its folder's files; `None` where its tensors are among the language model's.
    own: Option<WeightFiles>,
    /// Under its own names.
    tensors: Vec<TensorInfo>,
}

impl ImageTokenizer {
    fn find(source: &Path, json: &Value, files: &StoredTensors) -> Result<Option<Self>> {
        let dir = source.join(VQ_DIR);
        if dir.is_dir() {
            let config = VqConfig::load(&dir.join("config.json"))?;
            let preprocessor = PreprocessorConfig::load(&dir.join("preprocessor_config.json"))?;
            let own = WeightFiles::open(&dir.join("model.safetensors"))?;
            let tensors = own.infos();
            return Ok(Some(Self { config, preprocessor, own: Some(own), tensors }));
        }
        let among = files.infos().into_iter().filter_map(|(name, dtype, shape)| {
            Some((name.strip_prefix(VQ_PREFIX)?.to_owned(), dtype, shape))
        });
        let tensors: Vec<TensorInfo> = among.collect();
        if tensors.is_empty() {
            return Ok(None);
        }
        let config = nested_config(source, json)?;
        let preprocessor = preprocessor(source, json, config.resolution)?;
        Ok(Some(Self { config, preprocessor, own: None, tensors }))
    }

    fn stored(&self, name: &str, files: &StoredTensors) -> vq_tokenizer::Result<StoredTensor> {
        match &self.own {
            Some(own) => own.stored(name),
            None => files.stored(&format!("{VQ_PREFIX}{name}")),
        }
    }
}

/// The language model's tensors in their lasting form.
struct Model<'a> {
    files: &'a StoredTensors,
    config: &'a ModelConfig,
    order: RotaryOrder,
}

impl Model<'_> {
    fn infos(&self, dtype: Option<StoredDtype>) -> Vec<TensorInfo> {
        let mut infos = self.files.infos();
        infos.retain(|(name, ..)| is_of_transformer(name));
        for (name, stored, shape) in &mut infos {
            *stored = format(*stored, dtype);
            if let Some(heads) = heads_of(name, self.config) {
                *shape = head_norm_shape(shape, heads);
            }
        }
        infos
    }

    fn stored(&self, name: &str) -> vq_tokenizer::Result<StoredTensor> {
        let mut tensor = self.files.stored(name)?;
        if self.order == RotaryOrder::SideBySide {
            tensor = half_apart(tensor, name, self.config)
                .map_err(|e| vq_tokenizer::Error::invalid(format!("tensor {name}: {e}")))?;
        }
        if let Some(heads) = heads_of(name, self.config) {
            row_per_head(&mut tensor, heads);
        }
        Ok(tensor)
    }
}
