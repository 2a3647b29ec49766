//! What a model answered so far, kept on disk while an evaluation runs: one that was stopped goes on at the
//! first item without an answer.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use image::RgbImage;

use crate::error::{Error, Result};
use crate::files::{write_png, write_whole};

/// The folder below that of the results; nothing but the files named here is ever removed from it.
const FOLDER: &str = "responses";
/// Answers, as lines of JSON.
const TEXTS: &str = "texts.jsonl";
/// What the responses belong to.
const IDENTITY: &str = "identity.json";

/// The responses of one evaluation, in the order of its items.
#[derive(Debug)]
pub struct Responses {
    dir: PathBuf,
    texts: Vec<String>,
    /// Items that the evaluation has come to.
    next: usize,
    file: Option<File>,
}

impl Responses {
    /// Opens what the folder of results `out` holds of an evaluation called `identity`: a text of all that
    /// decides an answer. Responses of another one are thrown away.
    ///
    /// # Errors
    /// [`Error::Io`] when the files cannot be read or written.
    pub fn open(out: &Path, identity: &str) -> Result<Self> {
        let dir = out.join(FOLDER);
        let id = dir.join(IDENTITY);
        let same = std::fs::read_to_string(&id).is_ok_and(|known| known == identity);
        let responses = Self { dir, texts: Vec::new(), next: 0, file: None };
        if !same {
            if id.exists() {
                responses.forget()?;
            }
            write_whole(&id, identity.as_bytes())?;
            return Ok(responses);
        }
        let path = responses.dir.join(TEXTS);
        if !path.exists() {
            return Ok(responses);
        }
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        // The last line may have been cut off; it and what follows is asked again.
        let texts: Vec<String> =
            text.lines().map_while(|line| serde_json::from_str(line).ok()).collect();
        let kept: String = texts.iter().map(|text| line(text)).collect();
        write_whole(&path, kept.as_bytes())?;
        Ok(Self { texts, ..responses })
    }

    /// Responses known at the beginning.
    pub fn known(&self) -> usize {
        self.texts.len()
    }

    /// The place of the next item.
    pub fn position(&self) -> usize {
        self.next
    }

    /// The responses to the next `count` items: those that are known, and for the rest those of `answer`,
    /// which gets the place of the first unknown among the `count`.
    ///
    /// # Errors
    /// Those of `answer`; [`Error::Io`].
    pub fn texts(
        &mut self,
        count: usize,
        answer: impl FnOnce(usize) -> Result<Vec<String>>,
    ) -> Result<Vec<String>> {
        let mut texts: Vec<String> =
            self.texts.iter().skip(self.next).take(count).cloned().collect();
        let known = texts.len();
        if known < count {
            let new = answer(known)?;
            let lines: String = new.iter().map(|text| line(text)).collect();
            self.append(&lines)?;
            texts.extend(new);
        }
        self.next += count;
        Ok(texts)
    }

    fn append(&mut self, lines: &str) -> Result<()> {
        let path = self.dir.join(TEXTS);
        if self.file.is_none() {
            let file = OpenOptions::new().create(true).append(true).open(&path);
            self.file = Some(file.map_err(Error::io(&path))?);
        }
        let file = self.file.as_mut().expect("it was just opened");
        file.write_all(lines.as_bytes()).map_err(Error::io(&path))
    }

    /// The same for pictures, which stay as `responses/000000.png` and so on.
    ///
    /// # Errors
    /// Those of `draw`; when a picture cannot be written.
    pub fn pictures(
        &mut self,
        count: usize,
        draw: impl FnOnce(usize) -> Result<Vec<RgbImage>>,
    ) -> Result<Vec<RgbImage>> {
        let path = |at: usize| self.dir.join(format!("{at:06}.png"));
        let mut pictures = Vec::with_capacity(count);
        for at in self.next..self.next + count {
            match image::open(path(at)) {
                Ok(picture) => pictures.push(picture.into_rgb8()),
                Err(_) => break,
            }
        }
        let known = pictures.len();
        if known < count {
            for (at, picture) in (self.next + known..).zip(draw(known)?) {
                write_png(&path(at), &picture)?;
                pictures.push(picture);
            }
        }
        self.next += count;
        Ok(pictures)
    }

    fn forget(&self) -> Result<()> {
        remove(&self.dir.join(TEXTS))?;
        for at in 0.. {
            let picture = self.dir.join(format!("{at:06}.png"));
            if !picture.exists() {
                return Ok(());
            }
            remove(&picture)?;
        }
        Ok(())
    }

    /// The evaluation whose results lie in `out` is done and written: the texts are in its samples now.
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be removed.
    pub fn done(out: &Path) -> Result<()> {
        let dir = out.join(FOLDER);
        remove(&dir.join(TEXTS))?;
        let holds_pictures = dir.join("000000.png").exists();
        if !holds_pictures {
            remove(&dir.join(IDENTITY))?;
            // Only an empty folder goes.
            let _ = std::fs::remove_dir(&dir);
        }
        Ok(())
    }
}

fn line(text: &str) -> String {
    serde_json::to_string(text).expect("a text is valid JSON") + "\n"
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

    fn ask(responses: &mut Responses, count: usize, asked: &mut Vec<usize>) -> Vec<String> {
        let first = responses.position();
        let answer = |known: usize| {
            asked.extend(first + known..first + count);
            Ok((first + known..first + count).map(|item| format!("answer\n{item}")).collect())
        };
        responses.texts(count, answer).unwrap()
    }

    #[test]
    fn a_stopped_evaluation_asks_only_what_has_no_answer() {
        let dir = tempfile::tempdir().unwrap();
        let mut asked = Vec::new();
        let mut first = Responses::open(dir.path(), "this").unwrap();
        ask(&mut first, 4, &mut asked);
        drop(first);
        // A kill in the middle of a line.
        let path = dir.path().join(FOLDER).join(TEXTS);
        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 4]).unwrap();
        asked.clear();
        let mut second = Responses::open(dir.path(), "this").unwrap();
        assert_eq!(second.known(), 3);
        // Another size of batches does not matter.
        let texts = [2, 3, 2].map(|count| ask(&mut second, count, &mut asked)).concat();
        assert_eq!(asked, [3, 4, 5, 6]);
        assert_eq!(texts, (0..7).map(|item| format!("answer\n{item}")).collect::<Vec<_>>());
        Responses::done(dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn responses_of_another_evaluation_are_thrown_away_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join(FOLDER).join("notes.txt");
        write_whole(&own, b"the user's").unwrap();
        let mut first = Responses::open(dir.path(), "this").unwrap();
        ask(&mut first, 2, &mut Vec::new());
        let picture = RgbImage::from_pixel(4, 3, image::Rgb([1, 2, 3]));
        let mut drawn = 0;
        let mut draw = |responses: &mut Responses| {
            responses.next = 0;
            let one = |_| {
                drawn += 1;
                Ok(vec![picture.clone()])
            };
            assert_eq!(responses.pictures(1, one).unwrap(), std::slice::from_ref(&picture));
        };
        draw(&mut first);
        draw(&mut Responses::open(dir.path(), "this").unwrap());
        draw(&mut Responses::open(dir.path(), "that").unwrap());
        assert_eq!(drawn, 2);
        assert_eq!(Responses::open(dir.path(), "that").unwrap().known(), 0);
        assert!(own.exists());
    }
}
