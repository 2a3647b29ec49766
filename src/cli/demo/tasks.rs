//! The tasks of the demo: unseen scenes, and the checkpoint's own prompts.

use std::path::Path;

use calumma::data::scenes::{Caption, Category, Family, Scenes, ScenesConfig, Split, render};
use calumma::{Error, Result};
use image::RgbImage;
use serde::Deserialize;

/// Number of images to draw.
const DRAWINGS: usize = 4;
/// Categories and object counts of the captions to draw, in order.
const CATEGORIES: [(Category, usize); DRAWINGS] =
    [(Category::Single, 1), (Category::Position, 1), (Category::Two, 2), (Category::Count, 2)];
/// Families of the questions, and how each question begins.
const QUESTIONS: [(Family, &str); 3] =
    [(Family::Color, "what"), (Family::Count, "how many"), (Family::Exists, "")];
/// Number of scenes to search.
const SCENES: usize = 1000;
/// Distance between the scenes where tasks start to search, so that all tasks get different scenes.
const STRIDE: usize = 100;
/// Seed of the demo's scenes; no recipe uses it.
const SEED: u64 = 20_260;

/// A text to draw.
pub struct Drawing {
    /// The text.
    pub prompt: String,
    /// The caption whose claims the detector checks; `None` if they cannot be checked.
    pub truth: Option<Caption>,
}

/// An image to caption.
pub struct Scene {
    /// The image.
    pub image: RgbImage,
    /// A true caption.
    pub truth: String,
}

/// A question about an image.
pub struct Question {
    /// The image.
    pub image: RgbImage,
    /// The question.
    pub question: String,
    /// The correct answer.
    pub truth: String,
}

/// All tasks of the demo.
pub struct Tasks {
    /// Four texts to draw.
    pub drawings: Vec<Drawing>,
    /// Two images to caption.
    pub captionings: Vec<Scene>,
    /// Three questions.
    pub questions: Vec<Question>,
}

/// The part of `generation_config.json` that the demo reads.
#[derive(Default, Deserialize)]
#[serde(default)]
struct GenerationFile {
    demo: DemoConfig,
}

/// A checkpoint's configuration of the demo.
#[derive(Default, Deserialize)]
#[serde(default)]
struct DemoConfig {
    /// Prompts that replace the last captions to draw.
    draw: Vec<String>,
}

impl Tasks {
    /// The tasks for the checkpoint in `dir`, with images of about `side` pixels.
    ///
    /// # Errors
    /// If the checkpoint's own prompts cannot be read.
    pub fn of(dir: &Path, side: usize) -> Result<Self> {
        let config = ScenesConfig {
            split: Split::Val,
            seed: SEED,
            count: SCENES,
            size: side.clamp(32, 1024) as u32,
            max_objects: 3,
            ..ScenesConfig::default()
        };
        let scenes = Scenes::new(config)?;
        let own = own_prompts(dir)?;
        let mut drawings: Vec<Drawing> = CATEGORIES
            .iter()
            .take(DRAWINGS - own.len().min(DRAWINGS))
            .zip((0..).step_by(STRIDE))
            .filter_map(|(wanted, from)| with_category(&scenes, *wanted, from))
            .map(|caption| Drawing { prompt: caption.text.clone(), truth: Some(caption) })
            .collect();
        let own = own.into_iter().take(DRAWINGS);
        drawings.extend(own.map(|prompt| Drawing { prompt, truth: None }));
        let captionings = (0..2).map(|index| captioning(&scenes, index)).collect();
        let question = |(which, from)| question(&scenes, which, from);
        let starts = (DRAWINGS * STRIDE..).step_by(STRIDE);
        let questions = QUESTIONS.into_iter().zip(starts).filter_map(question).collect();
        Ok(Self { drawings, captionings, questions })
    }
}

fn own_prompts(dir: &Path) -> Result<Vec<String>> {
    let path = dir.join("generation_config.json");
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    let file: GenerationFile = serde_json::from_str(&text).map_err(Error::in_file(&path))?;
    Ok(file.demo.draw)
}

/// The first caption of `category` with `objects` objects, from scene `from` on.
fn with_category(
    scenes: &Scenes,
    (category, objects): (Category, usize),
    from: usize,
) -> Option<Caption> {
    let wanted = |caption: &Caption| caption.category == category && caption.objects == objects;
    (from..SCENES).find_map(|index| scenes.captions(index).0.into_iter().find(wanted))
}

/// Scene `index` with its drawn caption.
fn captioning(scenes: &Scenes, index: usize) -> Scene {
    let (captions, drawn) = scenes.captions(index);
    Scene {
        image: render(&scenes.scene(index), scenes.config().size),
        truth: captions[drawn].text.clone(),
    }
}

/// The first question of `family` that starts with `beginning`, from scene `from` on.
fn question(scenes: &Scenes, (family, beginning): (Family, &str), from: usize) -> Option<Question> {
    (from..SCENES).find_map(|index| {
        let mut questions = scenes.questions(index).into_iter();
        let question = questions.find(|q| q.family == family && q.text.starts_with(beginning))?;
        Some(Question {
            image: render(&scenes.scene(index), scenes.config().size),
            question: question.text,
            truth: question.answer,
        })
    })
}
