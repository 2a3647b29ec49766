//! Codes of images kept on disk, by the key of the image.

use std::collections::HashMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use vq_tokenizer::{Codes, VqTokenizer};

use super::journal::Journal;
use crate::error::Result;
use crate::files::hex;

/// Changes whenever equal files are decoded to other pixels than before.
const DECODING: u32 = 1;

/// The codes that one image tokenizer gave, in a file of JSON lines. Only their places are in memory.
#[derive(Debug)]
pub(super) struct KeptCodes {
    journal: Journal,
    /// Offset and length of each key's line.
    places: HashMap<String, (u64, usize)>,
    /// Size of the codebook.
    num_codes: usize,
}

/// A line of the file. The key is first and the end is `}}`, by which whole lines are recognised.
#[derive(Serialize, Deserialize)]
struct Line {
    key: String,
    codes: Codes,
}

/// The start of a line.
const START: &[u8] = b"{\"key\":\"";

impl KeptCodes {
    /// The codes kept in the directory `dir` for `vq`, whose files have the digest `digest`.
    pub(super) fn open(dir: &Path, vq: Option<&VqTokenizer>, digest: &str) -> Result<Self> {
        let preprocessor = vq.map(|vq| serde_json::to_string(vq.preprocessor()));
        let preprocessor = preprocessor.transpose().expect("it is read from JSON");
        let preprocessor = preprocessor.unwrap_or_default();
        let identity = format!("{DECODING}\n{digest}\n{preprocessor}");
        let name = format!("codes-{}.jsonl", hex(&Sha256::digest(identity)[..8]));
        let journal = Journal::open(&dir.join(name))?;
        let mut places = HashMap::new();
        journal.lines(|offset, line| {
            if let Some(key) = key_of(line) {
                places.insert(key, (offset, line.len()));
            }
        })?;
        Ok(Self { journal, places, num_codes: vq.map_or(0, |vq| vq.config().num_embeddings) })
    }

    /// The codes of the image `key`; `None` if they are missing or damaged.
    pub(super) fn get(&self, key: &str) -> Option<Codes> {
        let (offset, len) = *self.places.get(key)?;
        let line: Line = serde_json::from_slice(&self.journal.read(offset, len).ok()?).ok()?;
        let Codes { ids, height, width } = &line.codes;
        let is_sound = line.key == key
            && height.checked_mul(*width) == Some(ids.len())
            && ids.iter().all(|id| (*id as usize) < self.num_codes);
        is_sound.then_some(line.codes)
    }

    /// Keeps `entries`, pairs of a key and the codes of its image.
    pub(super) fn add(&mut self, entries: &[(String, Codes)]) -> Result<()> {
        let (mut lines, mut lens) = (Vec::new(), Vec::with_capacity(entries.len()));
        for (key, codes) in entries {
            let start = lines.len();
            let line = Line { key: key.clone(), codes: codes.clone() };
            serde_json::to_writer(&mut lines, &line).expect("numbers serialize to JSON");
            lens.push((key, start as u64, lines.len() - start));
            lines.push(b'\n');
        }
        if lines.is_empty() {
            return Ok(());
        }
        let first = self.journal.append(&lines)?;
        self.places.extend(lens.into_iter().map(|(key, at, len)| (key.clone(), (first + at, len))));
        Ok(())
    }
}

/// The key of a whole line.
fn key_of(line: &[u8]) -> Option<String> {
    let rest = line.strip_prefix(START).filter(|_| line.ends_with(b"}}"))?;
    let end = rest.iter().position(|byte| *byte == b'"')?;
    String::from_utf8(rest[..end].to_vec()).ok()
}
