//! Settings and prompts of published models, for checkpoints without their own.

use serde_json::{Map, Value, json};

use super::config::GenerationConfig;
use super::modality::GenerationMode;
use super::sampling_config::SamplingConfig;
use crate::tokenize::PromptTemplates;

/// Sampling from all ids as the model has them.
const ALL: SamplingConfig = SamplingConfig {
    temperature: 1.0,
    top_p: 1.0,
    top_k: None,
    min_p: 0.0,
    repetition_penalty: 1.0,
    greedy: false,
};

/// The negative prompt in Emu3's `image_generation.py`.
const NEGATIVE_PROMPT: &str = "lowres, bad anatomy, bad hands, text, error, missing fingers, extra digit, fewer \
    digits, cropped, worst quality, low quality, normal quality, jpeg artifacts, signature, watermark, username, blurry.";

/// A published model whose settings and prompts are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Preset {
    /// Chameleon (`chameleon/inference/chameleon.py`, class `Options`): text at temperature 0.7, three-way
    /// guidance of 3 and 1.2. Images are input only unless asked otherwise.
    #[default]
    Chameleon,
    /// Anole (`inference.py` and `interleaved_generation.py` of its repository): text and images, text at
    /// temperature 1.
    Anole,
    /// Lumina-mGPT (`inference_solver.py` of its repository): images of any size, two-way guidance of 4,
    /// at temperature 1 with the 2000 most likely codes and the 10 most likely text ids.
    Lumina,
    /// Emu3 (`image_generation.py`, `multimodal_understanding.py` and `processing_emu3.py` of its repository): images of
    /// any size, guided by 3 away from a negative prompt, of the 2048 most likely codes; text is greedy.
    Emu3,
    /// A text model: the defaults of transformers, which decodes greedily unless a file says otherwise.
    Text,
    /// A text model extended by ids of images: as [`Self::Text`], with images, and prompts without a separator.
    Extended,
}

impl Preset {
    /// The presets of models with images, with their names.
    pub const ALL: [(Self, &'static str); 4] = [
        (Self::Chameleon, "chameleon"),
        (Self::Anole, "anole"),
        (Self::Lumina, "lumina"),
        (Self::Emu3, "emu3"),
    ];

    /// The settings.
    pub fn config(self) -> GenerationConfig {
        let release = GenerationConfig {
            guidance_scale: 3.0,
            image_guidance_scale: Some(1.2),
            ..GenerationConfig::default()
        };
        match self {
            Self::Chameleon => GenerationConfig { mode: GenerationMode::TextOnly, ..release },
            Self::Text => {
                let text = SamplingConfig {
                    temperature: 1.0,
                    top_p: 1.0,
                    top_k: Some(50),
                    repetition_penalty: 1.0,
                    greedy: true,
                    ..SamplingConfig::TEXT
                };
                GenerationConfig {
                    text,
                    mode: GenerationMode::TextOnly,
                    ..GenerationConfig::default()
                }
            }
            Self::Extended => {
                GenerationConfig { mode: GenerationMode::Auto, ..Self::Text.config() }
            }
            Self::Anole => {
                let text = SamplingConfig { temperature: 1.0, ..SamplingConfig::TEXT };
                GenerationConfig { text, ..release }
            }
            Self::Lumina => GenerationConfig {
                text: SamplingConfig { top_k: Some(10), ..ALL },
                image: SamplingConfig { top_k: Some(2000), ..ALL },
                guidance_scale: 4.0,
                image_guidance_scale: None,
                ..release
            },
            Self::Emu3 => GenerationConfig {
                text: SamplingConfig { greedy: true, ..ALL },
                image: SamplingConfig { top_k: Some(2048), ..ALL },
                image_guidance_scale: None,
                negative_prompt: NEGATIVE_PROMPT.to_owned(),
                mode: GenerationMode::TextOnly,
                ..release
            },
        }
    }

    /// The prompt templates; each ends with the separator, if the model has one.
    pub fn prompts(self) -> PromptTemplates {
        match self {
            Self::Chameleon | Self::Anole | Self::Text => PromptTemplates {
                caption: "<image>Please describe this image.<sep>".into(),
                ask: "<image>{question}<sep>".into(),
                draw: "{text}<sep>".into(),
                negative: None,
            },
            Self::Lumina => PromptTemplates {
                caption: "Describe the image in detail. <image><sep>".into(),
                ask: "{question} <image><sep>".into(),
                draw: "Generate an image of {width}x{height} according to the following prompt:\n\
                    {text}<sep>"
                    .into(),
                negative: None,
            },
            Self::Emu3 => {
                let asked = |text: &str| {
                    format!("You are a helpful assistant. USER: <image>{text}. ASSISTANT:")
                };
                PromptTemplates {
                    caption: asked("Please describe the image"),
                    ask: asked("{question}"),
                    draw: "{text} masterpiece, film grained, best quality.".into(),
                    negative: Some("{text}".into()),
                }
            }
            Self::Extended => PromptTemplates {
                caption: "<image>".into(),
                ask: "<image>{question}\n".into(),
                draw: "{text}".into(),
                negative: None,
            },
        }
    }

    /// Whether the model ends its own turns with the separator.
    pub fn ends_turns_with_separator(self) -> bool {
        self == Self::Lumina
    }

    /// Whether image blocks have their size in them (see [`crate::tokenize::ImageBlocks`]).
    pub fn sizes_images(self) -> bool {
        matches!(self, Self::Lumina | Self::Emu3)
    }

    /// The content of a `generation_config.json`: settings and prompts.
    pub fn to_json(self) -> Map<String, Value> {
        self.to_json_with(&self.config())
    }

    /// The same with the settings `config`.
    pub fn to_json_with(self, config: &GenerationConfig) -> Map<String, Value> {
        // Through text, which keeps an f32 of 0.7 as 0.7.
        let text = serde_json::to_string(config).expect("settings are valid JSON");
        let mut json: Map<String, Value> = serde_json::from_str(&text).expect("an object");
        json.insert("prompts".to_owned(), json!(self.prompts()));
        json
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_and_read_back_from_their_file() {
        for (preset, _) in Preset::ALL {
            let text = serde_json::to_string(&preset.to_json()).unwrap();
            assert_eq!(GenerationConfig::from_json(&text).unwrap(), preset.config());
            let prompts = PromptTemplates::from_json(&text).unwrap();
            assert_eq!(prompts, preset.prompts());
            prompts.validate().unwrap();
        }
    }
}
