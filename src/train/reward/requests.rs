//! What a program of rewards reads: a line of JSON for each roll-out, and files of images.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::RgbImage;
use serde::Serialize;

use super::config::ProgramImages;
use super::rollout::Rollout;
use crate::data::Fields;
use crate::error::{Error, Result};
use crate::files::png;

/// The requests of a batch, and the files that they name, which are removed with this value.
pub(super) struct Requests {
    /// The lines.
    pub(super) lines: Vec<u8>,
    _files: Option<ImageFiles>,
}

/// A roll-out as a program reads it; the order of the keys is that in the line.
#[derive(Serialize)]
struct Request<'a> {
    id: u64,
    prompt: &'a str,
    completion: &'a str,
    images: Vec<String>,
    fields: &'a Fields,
    tokens: usize,
    truncated: bool,
    well_formed: bool,
}

impl Requests {
    /// The requests for `rollouts`, whose ids start at `first_id`.
    pub(super) fn new(
        first_id: u64,
        rollouts: &[Rollout<'_>],
        images: ProgramImages,
    ) -> Result<Self> {
        let files = match images {
            ProgramImages::Path => Some(ImageFiles::create()?),
            ProgramImages::PngBase64 | ProgramImages::None => None,
        };
        let mut lines = Vec::new();
        for (id, rollout) in (first_id..).zip(rollouts) {
            let given = rollout.images.iter().enumerate().map(|(at, image)| match &files {
                Some(files) => files.write(&format!("{id}-{at}.png"), image),
                None => Ok(STANDARD.encode(png(Path::new("an image of an answer"), image)?)),
            });
            let images = match images {
                ProgramImages::None => Vec::new(),
                ProgramImages::PngBase64 | ProgramImages::Path => given.collect::<Result<_>>()?,
            };
            let request = Request {
                id,
                prompt: rollout.prompt,
                completion: rollout.completion,
                images,
                fields: rollout.fields,
                tokens: rollout.tokens,
                truncated: rollout.is_truncated,
                well_formed: rollout.is_well_formed,
            };
            serde_json::to_writer(&mut lines, &request)
                .map_err(Error::because("a roll-out cannot be written as JSON"))?;
            lines.push(b'\n');
        }
        Ok(Self { lines, _files: files })
    }
}

/// A new directory for images in the system's directory of temporary files.
struct ImageFiles(PathBuf);

impl ImageFiles {
    fn create() -> Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let mut builder = std::fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        loop {
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("calumma-reward-{}-{number}", std::process::id());
            let path = std::env::temp_dir().join(name);
            match builder.create(&path) {
                Ok(()) => return Ok(Self(path)),
                // What a killed process left behind.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io(&path)(error)),
            }
        }
    }

    /// Writes `image` as PNG; returns the path.
    fn write(&self, name: &str, image: &RgbImage) -> Result<String> {
        let path = self.0.join(name);
        std::fs::write(&path, png(&path, image)?).map_err(Error::io(&path))?;
        Ok(path.to_string_lossy().into_owned())
    }
}

impl Drop for ImageFiles {
    fn drop(&mut self) {
        // Nothing can be done about files that remain.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use vq_tokenizer::preprocess::{decode_image, open_image};

    fn requests(images: ProgramImages) -> (Requests, Vec<Value>, RgbImage) {
        let image = RgbImage::from_fn(3, 2, |x, y| image::Rgb([x as u8, y as u8, 9]));
        let fields = Fields::from_iter([("answer".to_owned(), json!("two\nlines"))]);
        let rollout = Rollout {
            prompt: "draw\nit",
            completion: "<image> done",
            images: vec![&image],
            fields: &fields,
            ids: &[],
            tokens: 12,
            is_truncated: true,
            is_well_formed: false,
        };
        let requests = Requests::new(4, &[rollout.clone(), rollout], images).unwrap();
        let lines = requests.lines.split_inclusive(|byte| *byte == b'\n');
        let lines: Vec<Value> = lines.map(|line| serde_json::from_slice(line).unwrap()).collect();
        (requests, lines, image)
    }

    #[test]
    fn a_rollout_is_one_line() {
        let (_, lines, image) = requests(ProgramImages::PngBase64);
        assert_eq!(lines.len(), 2);
        let png = STANDARD.decode(lines[1]["images"][0].as_str().unwrap()).unwrap();
        assert_eq!(decode_image(&png).unwrap().to_rgb8(), image);
        let (requests, lines, _) = requests(ProgramImages::None);
        assert!(requests.lines.starts_with(br#"{"id":4,"prompt":"#));
        let expected = json!({
            "id": 5, "prompt": "draw\nit", "completion": "<image> done", "images": [],
            "fields": {"answer": "two\nlines"}, "tokens": 12, "truncated": true,
            "well_formed": false,
        });
        assert_eq!(lines[1], expected);
    }

    #[test]
    fn image_files_live_as_long_as_their_batch() {
        let (requests, lines, image) = requests(ProgramImages::Path);
        let paths = lines.iter().map(|line| PathBuf::from(line["images"][0].as_str().unwrap()));
        let paths: Vec<PathBuf> = paths.collect();
        assert_ne!(paths[0], paths[1]);
        assert_eq!(open_image(&paths[1]).unwrap().to_rgb8(), image);
        drop(requests);
        assert!(!paths[0].exists() && !paths[0].parent().unwrap().exists());
    }
}
