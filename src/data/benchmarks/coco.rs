//! COCO captions: a list of images and a list of captions that refer to images by id.
//!
//! Layout: `captions_{train,val}{2014,2017}.json`, <https://cocodataset.org/#format-data>. The file of a
//! test split (`image_info_test2014.json`) has no captions.

use std::path::Path;

use serde::Deserialize;
use serde_json::json;

use super::read;
use super::record::{Record, columns};
use crate::data::dataset::Fields;
use crate::{Error, Result};

#[derive(Deserialize)]
struct Captions {
    images: Vec<Image>,
    annotations: Option<Vec<Annotation>>,
}

#[derive(Deserialize)]
struct Image {
    id: u64,
    file_name: Box<str>,
}

#[derive(Deserialize)]
struct Annotation {
    image_id: u64,
    id: u64,
    caption: Box<str>,
}

/// An image with its captions; test splits have none.
pub(super) struct Captioned {
    pub image_id: u64,
    pub file_name: Box<str>,
    pub captions: Vec<Box<str>>,
}

/// Reads the images of the file at `path`, each with its captions in file order.
///
/// # Errors
/// If the file is malformed, an id occurs twice, a caption has no image or an image has no caption.
pub(super) fn read(path: &Path) -> Result<Vec<Captioned>> {
    let Captions { images, annotations } = read::json(path)?;
    let ids = images.iter().map(|image| image.id);
    let places = read::places(path, ids, |n| format!("images[{n}].id"))?;
    let mut captioned: Vec<_> = images
        .into_iter()
        .map(|Image { id, file_name }| Captioned { image_id: id, file_name, captions: Vec::new() })
        .collect();
    let Some(annotations) = annotations else { return Ok(captioned) };
    let ids = annotations.iter().map(|annotation| annotation.id);
    read::places(path, ids, |n| format!("annotations[{n}].id"))?;
    for Annotation { image_id, id, caption } in annotations {
        let Some(&place) = places.get(&image_id) else {
            let message =
                format!("annotation {id} is about image {image_id}, which does not exist");
            return Err(Error::file(path, message));
        };
        captioned[place].captions.push(caption);
    }
    match captioned.iter().find(|image| image.captions.is_empty()) {
        Some(image) => Err(Error::file(path, format!("image {} has no caption", image.image_id))),
        None => Ok(captioned),
    }
}

impl Record for Captioned {
    fn label(&self) -> String {
        format!("image {}", self.image_id)
    }

    fn fields(&self) -> Fields {
        let mut fields =
            columns([("image_id", json!(self.image_id)), ("file_name", json!(self.file_name))]);
        if !self.captions.is_empty() {
            fields.insert("captions".to_owned(), json!(self.captions));
        }
        fields
    }

    fn image(&self) -> Option<String> {
        Some(self.file_name.clone().into())
    }
}
