//! Karpathy's splits of COCO, Flickr30k and Flickr8k, the standard splits for captioning scores.
//!
//! Layout: `dataset_{coco,flickr30k,flickr8k}.json` of
//! <https://cs.stanford.edu/people/karpathy/deepimagesent/>. COCO's images are in the directory
//! `filepath` (`val2014`) and have COCO's id as `cocoid`; models are usually trained on `train,restval`.

use std::path::Path;

use serde::Deserialize;

use super::coco::Captioned;
use super::read;
use crate::data::messages::unknown;
use crate::{Error, Result};

#[derive(Deserialize)]
struct Splits {
    images: Vec<Image>,
}

#[derive(Deserialize)]
struct Image {
    filename: Box<str>,
    filepath: Option<Box<str>>,
    cocoid: Option<u64>,
    imgid: u64,
    split: Split,
    sentences: Vec<Sentence>,
}

#[derive(Deserialize)]
struct Sentence {
    raw: Box<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Split {
    Train,
    Val,
    Test,
    Restval,
}

impl Split {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Train, "train"),
        (Self::Val, "val"),
        (Self::Test, "test"),
        (Self::Restval, "restval"),
    ];

    /// Parses a comma-separated list such as `train,restval`.
    fn list(text: &str) -> Result<Vec<Self>> {
        let split = |name: &str| {
            let known = Self::ALL.into_iter().find(|(_, known)| *known == name);
            known.map(|(split, _)| split).ok_or_else(|| {
                let names = Self::ALL.map(|(_, name)| name);
                Error::invalid(format!("karpathy: {}", unknown("split", name, &names)))
            })
        };
        text.split(',').map(split).collect()
    }
}

/// Reads the images of `splits` (a comma-separated list) from the file at `path`.
///
/// # Errors
/// If the file is malformed, an id occurs twice, an image has no sentence, or the splits hold no
/// image.
pub(super) fn read(path: &Path, splits: &str) -> Result<Vec<Captioned>> {
    let wanted = Split::list(splits)?;
    let Splits { images } = read::json(path)?;
    let ids = images.iter().map(Image::id);
    read::places(path, ids, |n| format!("images[{n}]: id"))?;
    let mut captioned = Vec::new();
    for image in images.into_iter().filter(|image| wanted.contains(&image.split)) {
        let (image_id, Image { filename, filepath, sentences, .. }) = (image.id(), image);
        if sentences.is_empty() {
            return Err(Error::file(path, format!("image {image_id} has no sentences")));
        }
        let file_name = match filepath.filter(|dir| !dir.is_empty()) {
            Some(dir) => format!("{dir}/{filename}").into(),
            None => filename,
        };
        let captions = sentences.into_iter().map(|sentence| sentence.raw).collect();
        captioned.push(Captioned { image_id, file_name, captions });
    }
    match captioned.is_empty() {
        true => Err(Error::file(path, format!("holds no image of split {splits}"))),
        false => Ok(captioned),
    }
}

impl Image {
    /// COCO's id, which submissions require, or else the id of the file.
    fn id(&self) -> u64 {
        self.cocoid.unwrap_or(self.imgid)
    }
}
