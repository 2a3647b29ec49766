//! Responses kept on disk, so that a stopped evaluation continues and a repeated one asks only about
//! items that are new or have changed.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

use image::RgbImage;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use vq_tokenizer::preprocess::{open_image, to_rgb};

use super::batches::one_per_item;
use crate::error::{Error, Result};
use crate::files::{hex, write_atomic, write_png};

/// The file below the results: a line with the identity of the evaluation, then a line per response.
const FILE: &str = "responses.jsonl";
/// The directory of images below the results; only files named by position are ever removed from it.
const FOLDER: &str = "responses";

/// The first line of the file.
#[derive(Serialize, Deserialize)]
struct Header {
    identity: String,
}

/// A response and its item; the last one of a position counts.
#[derive(Debug, Serialize, Deserialize)]
struct Response {
    /// The position of the item, which decides the seed.
    at: usize,
    /// The key of the item: what the model is shown.
    of: String,
    /// The text; empty for an image, which is in its own file.
    text: String,
}

/// The responses of one evaluation by the position of their items.
#[derive(Debug)]
pub struct Responses {
    out: PathBuf,
    known: BTreeMap<usize, Response>,
    /// The position of the next item.
    next: usize,
    file: Option<File>,
}

impl Responses {
    /// The responses in the directory of results `out`. Those of an evaluation with another
    /// `identity`, a text of everything but the items that decides a response, are deleted.
    ///
    /// # Errors
    /// [`Error::Io`] if the files cannot be read or written.
    pub fn open(out: &Path, identity: &str) -> Result<Self> {
        let mut responses =
            Self { out: out.to_owned(), known: BTreeMap::new(), next: 0, file: None };
        let path = responses.path();
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(Error::io(&path)(error)),
        };
        let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
        let header = lines.next().and_then(|line| serde_json::from_slice::<Header>(line).ok());
        match header {
            Some(known) if known.identity == identity => {
                // The last line may be cut off; its item is asked again.
                let whole = lines.filter_map(|line| serde_json::from_slice::<Response>(line).ok());
                responses.known.extend(whole.map(|response| (response.at, response)));
            }
            Some(_) => responses.forget_images()?,
            None => {}
        }
        let mut text = line(&Header { identity: identity.to_owned() });
        text.extend(responses.known.values().map(line));
        if text.as_bytes() != bytes {
            write_atomic(&path, text.as_bytes())?;
        }
        Ok(responses)
    }

    fn path(&self) -> PathBuf {
        self.out.join(FILE)
    }

    fn image_path(&self, at: usize) -> PathBuf {
        self.out.join(FOLDER).join(format!("{at:06}.png"))
    }

    /// The number of responses known at the start or given since.
    pub fn known(&self) -> usize {
        self.known.len()
    }

    /// The position of the next item.
    pub fn position(&self) -> usize {
        self.next
    }

    /// The texts for the next items, given by their `keys`: the known ones and those of `answer`, which is
    /// called with each range of `keys` without a response.
    ///
    /// # Errors
    /// Those of `answer`, or if it does not give a text for each item; [`Error::Io`].
    pub fn texts(
        &mut self,
        keys: &[String],
        mut answer: impl FnMut(Range<usize>) -> Result<Vec<String>>,
    ) -> Result<Vec<String>> {
        let known = |at: usize| {
            let response = self.known.get(&(self.next + at));
            response.filter(|known| known.of == keys[at]).map(|known| known.text.clone())
        };
        let mut texts: Vec<Option<String>> = (0..keys.len()).map(known).collect();
        for range in gaps(&texts) {
            let new = one_per_item(answer(range.clone())?, range.len())?;
            self.add(range.clone(), keys, &new)?;
            texts[range].iter_mut().zip(new).for_each(|(text, new)| *text = Some(new));
        }
        self.next += keys.len();
        Ok(texts.into_iter().flatten().collect())
    }

    /// The images for the next items, as [`texts`](Self::texts); they stay as
    /// `responses/000000.png` and so on.
    ///
    /// # Errors
    /// Those of `draw`, or if it does not give an image for each item; if an image cannot be written.
    pub fn images(
        &mut self,
        keys: &[String],
        mut draw: impl FnMut(Range<usize>) -> Result<Vec<RgbImage>>,
    ) -> Result<Vec<RgbImage>> {
        let known = |at: usize| {
            self.known.get(&(self.next + at)).filter(|known| known.of == keys[at])?;
            Some(to_rgb(open_image(&self.image_path(self.next + at)).ok()?))
        };
        let mut images: Vec<Option<RgbImage>> = (0..keys.len()).map(known).collect();
        for range in gaps(&images) {
            let new = one_per_item(draw(range.clone())?, range.len())?;
            for (at, image) in range.zip(new) {
                write_png(&self.image_path(self.next + at), &image)?;
                self.add(at..at + 1, keys, &[String::new()])?;
                images[at] = Some(image);
            }
        }
        self.next += keys.len();
        Ok(images.into_iter().flatten().collect())
    }

    /// Keeps `texts`, the responses to the items `range` of `keys`.
    fn add(&mut self, range: Range<usize>, keys: &[String], texts: &[String]) -> Result<()> {
        let response = |(at, text): (usize, &String)| Response {
            at: self.next + at,
            of: keys[at].clone(),
            text: text.clone(),
        };
        let new: Vec<Response> = range.zip(texts).map(response).collect();
        let lines: String = new.iter().map(line).collect();
        let path = self.path();
        if self.file.is_none() {
            let file = OpenOptions::new().append(true).open(&path);
            self.file = Some(file.map_err(Error::io(&path))?);
        }
        let file = self.file.as_mut().expect("it was just opened");
        file.write_all(lines.as_bytes()).map_err(Error::io(&path))?;
        self.known.extend(new.into_iter().map(|response| (response.at, response)));
        Ok(())
    }

    /// Deletes the images.
    fn forget_images(&self) -> Result<()> {
        for at in 0.. {
            let path = self.image_path(at);
            match std::fs::remove_file(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => break,
                Err(error) => return Err(Error::io(&path)(error)),
            }
        }
        Ok(())
    }
}

/// The ranges of `found` that hold nothing.
fn gaps<T>(found: &[Option<T>]) -> Vec<Range<usize>> {
    let mut gaps = Vec::new();
    let mut end = 0;
    for run in found.chunk_by(|a, b| a.is_some() == b.is_some()) {
        let start = end;
        end += run.len();
        if run[0].is_none() {
            gaps.push(start..end);
        }
    }
    gaps
}

/// The key of an item: a digest of its image and its question.
pub(super) fn key(image: &RgbImage, text: &str) -> String {
    let mut hasher = Sha256::new();
    hasher.update(image.width().to_le_bytes());
    hasher.update(image.as_raw());
    hasher.update(text);
    hex(&hasher.finalize()[..8])
}

fn line(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("texts are valid JSON") + "\n"
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn ask(responses: &mut Responses, keys: &[usize], asked: &mut Vec<usize>) -> Vec<String> {
        let names: Vec<String> = keys.iter().map(usize::to_string).collect();
        let answer = |range: Range<usize>| {
            asked.extend(&keys[range.clone()]);
            Ok(keys[range].iter().map(|item| format!("answer\n{item}")).collect())
        };
        responses.texts(&names, answer).unwrap()
    }

    fn answers(keys: impl IntoIterator<Item = usize>) -> Vec<String> {
        keys.into_iter().map(|item| format!("answer\n{item}")).collect()
    }

    #[test]
    fn a_stopped_evaluation_asks_only_what_has_no_answer() {
        let dir = tempfile::tempdir().unwrap();
        let mut asked = Vec::new();
        let mut first = Responses::open(dir.path(), "this").unwrap();
        ask(&mut first, &[0, 1, 2, 3], &mut asked);
        drop(first);
        // Killed in the middle of a line.
        let path = dir.path().join(FILE);
        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 4]).unwrap();
        asked.clear();
        let mut second = Responses::open(dir.path(), "this").unwrap();
        assert_eq!(second.known(), 3);
        // The batch size may change.
        let batches: [&[usize]; 3] = [&[0, 1], &[2, 3, 4], &[5, 6]];
        let texts = batches.map(|batch| ask(&mut second, batch, &mut asked)).concat();
        assert_eq!(asked, [3, 4, 5, 6]);
        assert_eq!(texts, answers(0..7));
    }

    #[test]
    fn only_items_that_changed_are_asked_again() {
        let dir = tempfile::tempdir().unwrap();
        ask(&mut Responses::open(dir.path(), "this").unwrap(), &[0, 1, 2, 3, 4], &mut Vec::new());
        for (keys, expected) in [
            (vec![0, 1, 2, 3, 4], vec![]),
            (vec![0, 7, 2, 8, 9], vec![7, 8, 9]),
            (vec![0, 7, 2, 8], vec![]),
            (vec![0, 7, 2, 8, 9, 5], vec![5]),
            (vec![1, 7], vec![1]),
        ] {
            let mut asked = Vec::new();
            let mut again = Responses::open(dir.path(), "this").unwrap();
            assert_eq!(ask(&mut again, &keys, &mut asked), answers(keys.iter().copied()));
            assert_eq!(asked, expected, "{keys:?}");
        }
        let mut short = Responses::open(dir.path(), "this").unwrap();
        let none = short.texts(&["new".to_owned()], |_| Ok(Vec::new()));
        assert!(none.unwrap_err().to_string().contains("0 results"));
    }

    #[test]
    fn an_item_that_becomes_readable_shifts_no_answer_to_another() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = Responses::open(dir.path(), "this").unwrap();
        // Item 1 could not be read.
        ask(&mut first, &[0, 2, 3], &mut Vec::new());
        drop(first);
        let mut second = Responses::open(dir.path(), "this").unwrap();
        let mut asked = Vec::new();
        let texts = ask(&mut second, &[0, 1, 2], &mut asked);
        assert_eq!(asked, [1, 2], "an item's seed comes from its position");
        assert_eq!(texts, answers(0..3));
        ask(&mut second, &[3], &mut asked);
        drop(second);
        let mut third = Responses::open(dir.path(), "this").unwrap();
        asked.clear();
        ask(&mut third, &[0, 1, 2, 3], &mut asked);
        assert!(asked.is_empty() && third.known() == 4);
    }

    #[test]
    fn only_responses_of_another_evaluation_are_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join(FOLDER).join("notes.txt");
        write_atomic(&own, b"the user's").unwrap();
        let mut first = Responses::open(dir.path(), "this").unwrap();
        ask(&mut first, &[0, 1], &mut Vec::new());
        drop(first);
        let mut first = Responses::open(dir.path(), "drawn").unwrap();
        assert_eq!(first.known(), 0);
        let image = RgbImage::from_pixel(4, 3, image::Rgb([1, 2, 3]));
        let mut drawn = 0;
        let mut draw = |responses: &mut Responses| {
            responses.next = 0;
            let one = |_| {
                drawn += 1;
                Ok(vec![image.clone()])
            };
            let key = ["a star".to_owned()];
            assert_eq!(responses.images(&key, one).unwrap(), std::slice::from_ref(&image));
        };
        draw(&mut first);
        draw(&mut Responses::open(dir.path(), "drawn").unwrap());
        draw(&mut Responses::open(dir.path(), "that").unwrap());
        assert_eq!(drawn, 2);
        // The image of another text is not reused.
        let mut again = Responses::open(dir.path(), "that").unwrap();
        let other = |range| {
            assert_eq!(range, 0..1);
            Ok(vec![RgbImage::new(4, 3)])
        };
        let images = again.images(&["a ring".to_owned()], other).unwrap();
        assert_eq!(images, [RgbImage::new(4, 3)]);
        assert_eq!(Responses::open(dir.path(), "other").unwrap().known(), 0);
        assert!(own.exists() && !dir.path().join(FOLDER).join("000000.png").exists());
    }
}
