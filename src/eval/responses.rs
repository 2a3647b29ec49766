//! Responses kept on disk while an evaluation runs, so that a stopped one continues at the first
//! item without a response.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use image::RgbImage;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use vq_tokenizer::preprocess::{open_image, to_rgb};

use crate::error::{Error, Result};
use crate::files::{hex, write_atomic, write_png};

/// The directory below the results; only files named here are ever removed from it.
const FOLDER: &str = "responses";
/// Texts and the keys of their items, as lines of JSON.
const TEXTS: &str = "texts.jsonl";
/// The identity of the evaluation.
const IDENTITY: &str = "identity.json";

/// A response and its item.
#[derive(Debug, Serialize, Deserialize)]
struct Response {
    /// The key of the item. Positions do not suffice: an item that becomes readable shifts all later ones.
    of: String,
    /// The text; empty for an image, which is in its own file.
    text: String,
}

/// The responses of one evaluation, in the order of its items.
#[derive(Debug)]
pub struct Responses {
    dir: PathBuf,
    texts: Vec<Response>,
    /// The position of the next item.
    next: usize,
    file: Option<File>,
}

impl Responses {
    /// The responses in the directory of results `out`. Those of an evaluation with another
    /// `identity`, a text of everything that decides a response, are deleted.
    ///
    /// # Errors
    /// [`Error::Io`] if the files cannot be read or written.
    pub fn open(out: &Path, identity: &str) -> Result<Self> {
        let dir = out.join(FOLDER);
        let id = dir.join(IDENTITY);
        let same = std::fs::read_to_string(&id).is_ok_and(|known| known == identity);
        let responses = Self { dir, texts: Vec::new(), next: 0, file: None };
        if !same {
            if id.exists() {
                responses.forget()?;
            }
            write_atomic(&id, identity.as_bytes())?;
            return Ok(responses);
        }
        let path = responses.dir.join(TEXTS);
        if !path.exists() {
            return Ok(responses);
        }
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        // The last line may be cut off; it and the following items are asked again.
        let texts = text.lines().map_while(|line| serde_json::from_str(line).ok()).collect();
        let responses = Self { texts, ..responses };
        responses.rewrite()?;
        Ok(responses)
    }

    /// Writes the file of texts again.
    fn rewrite(&self) -> Result<()> {
        let kept: String = self.texts.iter().map(line).collect();
        write_atomic(&self.dir.join(TEXTS), kept.as_bytes())
    }

    /// How many of the next items, given by their `keys`, have a response. From the first response
    /// of another item on, responses are dropped.
    fn answered(&mut self, keys: &[String]) -> Result<usize> {
        let rest = self.texts.iter().skip(self.next);
        let known = rest.zip(keys).take_while(|(response, key)| response.of == **key).count();
        if known < keys.len() {
            self.truncate(self.next + known)?;
        }
        Ok(known)
    }

    /// Keeps the first `len` of the responses known at the start.
    fn truncate(&mut self, len: usize) -> Result<()> {
        if self.texts.len() > len {
            self.texts.truncate(len);
            self.rewrite()?;
            self.file = None;
        }
        Ok(())
    }

    /// The number of responses known at the start.
    pub fn known(&self) -> usize {
        self.texts.len()
    }

    /// The position of the next item.
    pub fn position(&self) -> usize {
        self.next
    }

    /// The texts for the next items, given by their `keys`: the known ones, then those of `answer`,
    /// which is called with the number of known ones.
    ///
    /// # Errors
    /// Those of `answer`; [`Error::Io`].
    pub fn texts(
        &mut self,
        keys: &[String],
        answer: impl FnOnce(usize) -> Result<Vec<String>>,
    ) -> Result<Vec<String>> {
        let known = self.answered(keys)?;
        let of_known = self.texts.iter().skip(self.next).take(known);
        let mut texts: Vec<String> = of_known.map(|response| response.text.clone()).collect();
        if known < keys.len() {
            let new = answer(known)?;
            self.append(&keys[known..], &new)?;
            texts.extend(new);
        }
        self.next += keys.len();
        Ok(texts)
    }

    fn append(&mut self, keys: &[String], texts: &[String]) -> Result<()> {
        let response =
            |(of, text): (&String, &String)| line(&Response { of: of.clone(), text: text.clone() });
        let lines: String = keys.iter().zip(texts).map(response).collect();
        let path = self.dir.join(TEXTS);
        if self.file.is_none() {
            let file = OpenOptions::new().create(true).append(true).open(&path);
            self.file = Some(file.map_err(Error::io(&path))?);
        }
        let file = self.file.as_mut().expect("it was just opened");
        file.write_all(lines.as_bytes()).map_err(Error::io(&path))
    }

    /// The images for the next items, as [`texts`](Self::texts); they stay as
    /// `responses/000000.png` and so on.
    ///
    /// # Errors
    /// Those of `draw`; if an image cannot be written.
    pub fn images(
        &mut self,
        keys: &[String],
        draw: impl FnOnce(usize) -> Result<Vec<RgbImage>>,
    ) -> Result<Vec<RgbImage>> {
        let path = |at: usize| self.dir.join(format!("{at:06}.png"));
        let mut images = Vec::with_capacity(keys.len());
        for (at, response) in self.texts.iter().enumerate().skip(self.next).take(keys.len()) {
            match open_image(&path(at)) {
                Ok(image) if response.of == keys[at - self.next] => images.push(to_rgb(image)),
                _ => break,
            }
        }
        let known = images.len();
        if known < keys.len() {
            // Later responses belong to other items, or their images are missing.
            self.truncate(self.next + known)?;
            for (at, image) in (self.next + known..).zip(draw(known)?) {
                write_png(&self.dir.join(format!("{at:06}.png")), &image)?;
                self.append(std::slice::from_ref(&keys[at - self.next]), &[String::new()])?;
                images.push(image);
            }
        }
        self.next += keys.len();
        Ok(images)
    }

    /// Deletes texts and images.
    fn forget(&self) -> Result<()> {
        remove(&self.dir.join(TEXTS))?;
        for at in 0.. {
            let image = self.dir.join(format!("{at:06}.png"));
            if !image.exists() {
                return Ok(());
            }
            remove(&image)?;
        }
        Ok(())
    }

    /// Deletes the texts below `out`, once the results hold them; images stay.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be removed.
    pub fn done(out: &Path) -> Result<()> {
        let dir = out.join(FOLDER);
        let holds_images = dir.join("000000.png").exists();
        if !holds_images {
            remove(&dir.join(TEXTS))?;
            remove(&dir.join(IDENTITY))?;
            // Fails, as it should, unless the directory is empty.
            let _ = std::fs::remove_dir(&dir);
        }
        Ok(())
    }
}

/// The key of an item: a digest of its image and its question.
pub(super) fn key(image: &RgbImage, text: &str) -> String {
    let mut hasher = Sha256::new();
    hasher.update(image.width().to_le_bytes());
    hasher.update(image.as_raw());
    hasher.update(text);
    hex(&hasher.finalize()[..8])
}

fn line(response: &Response) -> String {
    serde_json::to_string(response).expect("texts are valid JSON") + "\n"
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn ask(responses: &mut Responses, keys: &[usize], asked: &mut Vec<usize>) -> Vec<String> {
        let names: Vec<String> = keys.iter().map(usize::to_string).collect();
        let answer = |known: usize| {
            asked.extend(&keys[known..]);
            Ok(keys[known..].iter().map(|item| format!("answer\n{item}")).collect())
        };
        responses.texts(&names, answer).unwrap()
    }

    #[test]
    fn a_stopped_evaluation_asks_only_what_has_no_answer() {
        let dir = tempfile::tempdir().unwrap();
        let mut asked = Vec::new();
        let mut first = Responses::open(dir.path(), "this").unwrap();
        ask(&mut first, &[0, 1, 2, 3], &mut asked);
        drop(first);
        // Killed in the middle of a line.
        let path = dir.path().join(FOLDER).join(TEXTS);
        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 4]).unwrap();
        asked.clear();
        let mut second = Responses::open(dir.path(), "this").unwrap();
        assert_eq!(second.known(), 3);
        // The batch size may change.
        let batches: [&[usize]; 3] = [&[0, 1], &[2, 3, 4], &[5, 6]];
        let texts = batches.map(|batch| ask(&mut second, batch, &mut asked)).concat();
        assert_eq!(asked, [3, 4, 5, 6]);
        assert_eq!(texts, (0..7).map(|item| format!("answer\n{item}")).collect::<Vec<_>>());
        Responses::done(dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
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
        assert_eq!(asked, [1, 2]);
        assert_eq!(texts, ["answer\n0", "answer\n1", "answer\n2"]);
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
        let other = |known| {
            assert_eq!(known, 0);
            Ok(vec![RgbImage::new(4, 3)])
        };
        let images = again.images(&["a ring".to_owned()], other).unwrap();
        assert_eq!(images, [RgbImage::new(4, 3)]);
        assert_eq!(Responses::open(dir.path(), "other").unwrap().known(), 0);
        assert!(own.exists());
    }
}
