//! METEOR, SPICE and the tokenizer of captions by their authors' Java programs, if the user has
//! them. They are not ported, since their word lists and parsers define the scores.
//!
//! They are called as in pycocoevalcap 1.2: `meteor/meteor.py`, `spice/spice.py`,
//! `tokenizer/ptbtokenizer.py`.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::metrics::ptb::DROPPED;
use super::metrics::{PtbTokenizer, Segment};
use crate::error::{Cause, Error, Result};

/// METEOR 1.5; its directory `data` with the paraphrases is next to it.
const METEOR: &str = "meteor-1.5.jar";
/// SPICE 1.0; its directory `lib` with Stanford CoreNLP and its models is next to it.
const SPICE: &str = "spice-1.0.jar";
/// The tokenizer of the public caption scorers.
const PTB: &str = "stanford-corenlp-3.4.1.jar";
/// Levels of directories searched below the user's.
const DEPTH: usize = 3;
/// The separator within lines that METEOR reads.
const BAR: &str = " ||| ";

/// The programs found in a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Official {
    meteor: Option<PathBuf>,
    spice: Option<PathBuf>,
    ptb: Option<PathBuf>,
}

/// A score of a set, and of each of its segments.
pub type Scores = (f64, Vec<f64>);

impl Official {
    /// The programs in `dir` and up to three levels below.
    ///
    /// # Errors
    /// [`Error::File`] if there is none; [`Error::Io`].
    pub fn find(dir: &Path) -> Result<Self> {
        let mut found = Self::default();
        found.look_into(&dir.canonicalize().map_err(Error::io(dir))?, DEPTH)?;
        if found == Self::default() {
            let message = format!("holds none of {METEOR}, {SPICE} and {PTB}");
            return Err(Error::file(dir, message));
        }
        Ok(found)
    }

    fn look_into(&mut self, dir: &Path, depth: usize) -> Result<()> {
        for entry in std::fs::read_dir(dir).map_err(Error::io(dir))? {
            let path = entry.map_err(Error::io(dir))?.path();
            let place = match path.file_name().and_then(OsStr::to_str) {
                Some(METEOR) => &mut self.meteor,
                Some(SPICE) => &mut self.spice,
                Some(PTB) => &mut self.ptb,
                _ if depth > 0 && path.is_dir() => {
                    self.look_into(&path, depth - 1)?;
                    continue;
                }
                _ => continue,
            };
            place.get_or_insert(path);
        }
        Ok(())
    }

    /// Captions and references as tokens, by Stanford's program if it was found, else by [`PtbTokenizer`].
    ///
    /// # Errors
    /// If the program fails, or a caption has no reference.
    pub fn segments(
        &self,
        captions: &[String],
        references: &[Vec<String>],
    ) -> Result<Vec<Segment>> {
        let Some(jar) = &self.ptb else {
            return Segment::tokenized(&PtbTokenizer::new(), captions, references);
        };
        let all: Vec<&String> = references.iter().flatten().collect();
        let mut tokens = tokenize(jar, &all)?.into_iter();
        let segment = |(caption, references): (String, &Vec<String>)| {
            Segment::new(caption, tokens.by_ref().take(references.len()).collect())
        };
        let captions: Vec<&String> = captions.iter().collect();
        tokenize(jar, &captions)?.into_iter().zip(references).map(segment).collect()
    }

    /// METEOR of `segments` in [0, 1]; `None` without the program.
    ///
    /// # Errors
    /// If it fails.
    pub fn meteor(&self, segments: &[Segment]) -> Result<Option<Scores>> {
        self.meteor.as_deref().map(|jar| meteor(jar, segments)).transpose()
    }

    /// SPICE of `segments`, the F-score over all tuples, in [0, 1]; `None` without the program.
    ///
    /// # Errors
    /// If it fails.
    pub fn spice(&self, segments: &[Segment]) -> Result<Option<Scores>> {
        self.spice.as_deref().map(|jar| spice(jar, segments)).transpose()
    }
}

/// A `java` command with the directory of `jar` as its working directory.
fn java(jar: &Path) -> Command {
    let mut command = Command::new("java");
    command.current_dir(jar.parent().unwrap_or(Path::new(".")));
    command
}

/// The error for a program that failed.
fn failed(jar: &Path, source: impl Into<Cause>) -> Error {
    let source = source.into();
    let message = format!("the program failed: {source}");
    Error::File { path: jar.to_owned(), message, source: Some(source) }
}

/// The error for a missing Java runtime, for `map_err`.
fn not_started(jar: &Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
    move |source| {
        let message = format!("java cannot be started ({source}); install a Java runtime");
        Error::File { path: jar.to_owned(), message, source: Some(source.into()) }
    }
}

/// The tokens of every text, without the punctuation that the scorers drop.
fn tokenize(jar: &Path, texts: &[&String]) -> Result<Vec<String>> {
    let line = |text: &&String| text.replace(['\n', '\r'], " ") + "\n";
    let lines: String = texts.iter().map(line).collect();
    let scratch = Scratch::new(jar, "texts", lines.as_bytes())?;
    let output = java(jar)
        .arg("-cp")
        .arg(jar)
        .args(["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"])
        .arg(&scratch.0)
        .output()
        .map_err(not_started(jar))?;
    let tokens = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = tokens.lines().count();
    if !output.status.success() || found != texts.len() {
        let wanted = texts.len();
        return Err(failed(jar, format!("{found} lines of tokens for {wanted} texts")));
    }
    let kept = |line: &str| -> String {
        let words = line.split_whitespace().filter(|word| !DROPPED.contains(word));
        words.collect::<Vec<_>>().join(" ")
    };
    Ok(tokens.lines().map(kept).collect())
}

fn meteor(jar: &Path, segments: &[Segment]) -> Result<Scores> {
    let mut child = java(jar)
        .args(["-Xmx2G", "-jar"])
        .arg(jar)
        .args(["-", "-", "-stdio", "-l", "en", "-norm"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(not_started(jar))?;
    let closed = || failed(jar, "it closed its input or output");
    let mut input = child.stdin.take().ok_or_else(closed)?;
    let mut output = BufReader::new(child.stdout.take().ok_or_else(closed)?).lines();
    let mut ask = |line: String, answers: usize| -> Result<Vec<String>> {
        writeln!(input, "{line}").and_then(|()| input.flush()).map_err(|e| failed(jar, e))?;
        (0..answers)
            .map(|_| output.next().ok_or_else(closed)?.map_err(|e| failed(jar, e)))
            .collect()
    };
    let mut all = vec!["EVAL".to_owned()];
    for segment in segments {
        let caption = segment.hypothesis().replace("|||", "").replace("  ", " ");
        let line = format!("SCORE{BAR}{}{BAR}{caption}", segment.references().join(BAR));
        all.extend(ask(line, 1)?);
    }
    let number = |line: &String| line.trim().parse::<f64>().map_err(|e| failed(jar, e));
    let answers = ask(all.join(BAR), segments.len() + 1)?;
    let mut scores = answers.iter().map(number).collect::<Result<Vec<f64>>>()?;
    let of_set = scores.pop().unwrap_or(0.0);
    drop(input);
    // All answers have arrived; its exit status does not matter.
    let _ = child.kill();
    let _ = child.wait();
    Ok((of_set, scores))
}

fn spice(jar: &Path, segments: &[Segment]) -> Result<Scores> {
    let item = |(id, segment): (usize, &Segment)| json!({ "image_id": id, "test": segment.hypothesis(), "refs": segment.references() });
    let items: Vec<Value> = segments.iter().enumerate().map(item).collect();
    let input = Scratch::new(jar, "spice-in", Value::Array(items).to_string().as_bytes())?;
    let output = Scratch::new(jar, "spice-out", b"")?;
    let done = java(jar)
        .args(["-Xmx8G", "-jar"])
        .arg(jar)
        .arg(&input.0)
        .arg("-out")
        .arg(&output.0)
        .args(["-subset", "-silent"])
        .output()
        .map_err(not_started(jar))?;
    if !done.status.success() {
        let errors = String::from_utf8_lossy(&done.stderr).into_owned();
        return Err(failed(jar, errors.lines().last().unwrap_or("without a message")));
    }
    let text = std::fs::read_to_string(&output.0).map_err(Error::io(&output.0))?;
    let results: Vec<Value> = serde_json::from_str(&text).map_err(|e| failed(jar, e))?;
    let mut scores = vec![0.0; segments.len()];
    for result in &results {
        let place = result["image_id"].as_u64().and_then(|id| scores.get_mut(id as usize));
        let score = result["scores"]["All"]["f"].as_f64();
        match (place, score) {
            // A caption whose texts have no tuples at all has no score.
            (Some(place), score) => *place = score.unwrap_or(0.0),
            (None, _) => return Err(failed(jar, "a result without its image_id")),
        }
    }
    let mean = scores.iter().sum::<f64>() / scores.len().max(1) as f64;
    Ok((mean, scores))
}

/// A temporary file, removed on drop.
struct Scratch(PathBuf);

impl Scratch {
    fn new(jar: &Path, name: &str, content: &[u8]) -> Result<Self> {
        let stem = jar.file_stem().unwrap_or_default().to_string_lossy();
        let file = format!("calumma-{stem}-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(file);
        std::fs::write(&path, content).map_err(Error::io(&path))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A file that cannot be removed is left in the directory for temporary files.
        let _ = std::fs::remove_file(&self.0);
    }
}
