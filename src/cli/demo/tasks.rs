//! What the demo asks of a model: scenes that it has not seen, and prompts of its own.

use std::path::Path;

use calumma::data::scenes::{Caption, Category, Family, Scenes, ScenesConfig, Split, render};
use calumma::{Error, Result};
use image::RgbImage;
use serde::Deserialize;

/// How many prompts are drawn.
const DRAWINGS: usize = 4;
/// Which kinds of sentences are drawn, in this order, and of how many objects.
const CATEGORIES: [(Category, usize); DRAWINGS] =
    [(Category::Single, 1), (Category::Position, 1), (Category::Two, 2), (Category::Count, 2)];
/// Which kinds of questions are asked, and how they begin.
const QUESTIONS: [(Family, &str); 3] =
    [(Family::Color, "what"), (Family::Count, "how many"), (Family::Exists, "")];
/// How many scenes there are; each task looks for one that fits from a place of its own, so that all differ.
const LOOKED_AT: usize = 1000;
/// Scenes from one task's place to the next one's.
const APART: usize = 100;
/// Seed of the demo's scenes; no recipe uses it.
const SEED: u64 = 20_260;

/// A sentence to draw.
pub struct Drawing {
    /// The sentence.
    pub prompt: String,
    /// What it claims, where that can be checked.
    pub truth: Option<Caption>,
}

/// An image to caption.
pub struct Captioning {
    /// The image.
    pub image: RgbImage,
    /// A true caption.
    pub truth: String,
}

/// A question to answer.
pub struct Asking {
    /// The image.
    pub image: RgbImage,
    /// The question.
    pub question: String,
    /// The right answer.
    pub truth: String,
}

/// Everything that the demo does.
pub struct Tasks {
    /// Four sentences.
    pub drawings: Vec<Drawing>,
    /// Two images.
    pub captionings: Vec<Captioning>,
    /// Three questions.
    pub askings: Vec<Asking>,
}

/// The part of `generation_config.json` that is the demo's.
#[derive(Default, Deserialize)]
#[serde(default)]
struct GenerationFile {
    demo: Own,
}

/// A checkpoint's own wishes for the demo.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Own {
    /// Prompts to draw in place of the last scenes.
    draw: Vec<String>,
}

impl Tasks {
    /// The tasks for the checkpoint in `dir`, with images of about `side` pixels.
    ///
    /// # Errors
    /// When the checkpoint's own prompts cannot be read.
    pub fn of(dir: &Path, side: usize) -> Result<Self> {
        let config = ScenesConfig {
            split: Split::Val,
            seed: SEED,
            count: LOOKED_AT,
            size: side.clamp(32, 1024) as u32,
            max_objects: 3,
            ..ScenesConfig::default()
        };
        let scenes = Scenes::new(config)?;
        let own = own_prompts(dir)?;
        let mut drawings: Vec<Drawing> = CATEGORIES
            .iter()
            .take(DRAWINGS - own.len().min(DRAWINGS))
            .zip((0..).step_by(APART))
            .filter_map(|(wanted, from)| with_category(&scenes, *wanted, from))
            .map(|caption| Drawing { prompt: caption.text.clone(), truth: Some(caption) })
            .collect();
        let own = own.into_iter().take(DRAWINGS);
        drawings.extend(own.map(|prompt| Drawing { prompt, truth: None }));
        let captionings = (0..2).map(|index| captioning(&scenes, index)).collect();
        let asking = |(which, from)| asking(&scenes, which, from);
        let places = (DRAWINGS * APART..).step_by(APART);
        let askings = QUESTIONS.into_iter().zip(places).filter_map(asking).collect();
        Ok(Self { drawings, captionings, askings })
    }
}

fn own_prompts(dir: &Path) -> Result<Vec<String>> {
    let path = dir.join("generation_config.json");
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    let file: GenerationFile =
        serde_json::from_str(&text).map_err(|e| Error::file(&path, e.to_string()))?;
    Ok(file.demo.draw)
}

/// The first caption of a kind, about so many objects, from scene `from` on.
fn with_category(
    scenes: &Scenes,
    (category, objects): (Category, usize),
    from: usize,
) -> Option<Caption> {
    let wanted = |caption: &Caption| caption.category == category && caption.objects == objects;
    (from..LOOKED_AT).find_map(|index| scenes.captions(index).0.into_iter().find(wanted))
}

fn captioning(scenes: &Scenes, index: usize) -> Captioning {
    let (captions, drawn) = scenes.captions(index);
    Captioning {
        image: render(&scenes.scene(index), scenes.config().size),
        truth: captions[drawn].text.clone(),
    }
}

/// The first question of a family with a certain beginning, from scene `from` on.
fn asking(scenes: &Scenes, (family, beginning): (Family, &str), from: usize) -> Option<Asking> {
    (from..LOOKED_AT).find_map(|index| {
        let mut questions = scenes.questions(index).into_iter();
        let question = questions.find(|q| q.family == family && q.text.starts_with(beginning))?;
        Some(Asking {
            image: render(&scenes.scene(index), scenes.config().size),
            question: question.text,
            truth: question.answer,
        })
    })
}
