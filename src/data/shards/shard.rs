//! One shard, mapped into memory.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use safetensors::tensor::Metadata;
use safetensors::{Dtype, SafeTensors};
use tensor_files::{MappedFile, map_file};

use super::content::{DATA_SUM, FORMAT, HEADER_SUM, VERSION, data_start, data_sum, header_sum};
use crate::error::{Error, Result};
use crate::tokenize::TokenSequence;

/// The message about a file that is not a complete shard.
const DAMAGED: &str = "is no whole token shard";

/// A file of documents as ids; see the [module](super) for the layout.
#[derive(Debug)]
pub struct Shard {
    path: PathBuf,
    bytes: MappedFile,
    header: Header,
    /// Result of verifying the data; empty before the first verification.
    checked: OnceLock<std::result::Result<(), String>>,
}

/// The parsed header.
#[derive(Debug)]
struct Header {
    tokenizer: String,
    made_of: String,
    sources: Vec<String>,
    data_sum: String,
    data: usize,
    wide: bool,
    ids: Range<usize>,
    offsets: Range<usize>,
    loss_mask: Range<usize>,
    numbers: Range<usize>,
}

impl Shard {
    /// Opens the shard at `path` and checks its header.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::File`] if it is not a shard, of another version, or
    /// has a damaged header.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = map_file(path)?;
        let header = Header::read(path, &bytes)?;
        Ok(Self { path: path.to_owned(), bytes, header, checked: OnceLock::new() })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of documents.
    pub fn len(&self) -> usize {
        self.header.numbers.len() / 2
    }

    /// Whether there are no documents.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of tokens in all documents.
    pub fn num_tokens(&self) -> usize {
        self.header.ids.len() / self.header.width()
    }

    /// Digest of the tokenizers that it was made with.
    pub fn tokenizer(&self) -> &str {
        &self.header.tokenizer
    }

    /// Digest of everything that it was made from.
    pub fn made_of(&self) -> &str {
        &self.header.made_of
    }

    /// Names of the sources of its documents.
    pub fn sources(&self) -> &[String] {
        &self.header.sources
    }

    /// Verifies the data against their sum, once.
    ///
    /// # Errors
    /// [`Error::File`] if they are damaged.
    pub fn verify(&self) -> Result<()> {
        let found = self.checked.get_or_init(|| self.header.check(&self.bytes));
        found.as_ref().map_err(|message| Error::file(&self.path, message.clone())).copied()
    }

    /// Document `index` and the index of its source in [`sources`](Self::sources).
    ///
    /// # Errors
    /// As [`verify`](Self::verify).
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    pub fn get(&self, index: usize) -> Result<(TokenSequence, usize)> {
        self.verify()?;
        let (start, end) = self.header.document(&self.bytes, index);
        let width = self.header.width();
        let ids = &self.bytes[self.header.ids.clone()][start * width..end * width];
        let ids = match self.header.wide {
            true => {
                ids.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
            }
            false => ids.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]).into()).collect(),
        };
        let mask = &self.bytes[self.header.loss_mask.clone()];
        let loss_mask = (start..end).map(|at| mask[at / 8] >> (at % 8) & 1 == 1).collect();
        Ok((TokenSequence { ids, loss_mask }, self.header.number(&self.bytes, index)))
    }
}

impl Header {
    fn read(path: &Path, bytes: &[u8]) -> Result<Self> {
        let damaged = |what: &str| Error::file(path, format!("{DAMAGED}: {what}"));
        let data = data_start(bytes).ok_or_else(|| damaged("its header is cut off"))?;
        let (_, metadata) =
            SafeTensors::read_metadata(bytes).map_err(Error::in_file_because(path, DAMAGED))?;
        let none = HashMap::new();
        let notes = metadata.metadata().as_ref().unwrap_or(&none);
        let note = |key: &str| notes.get(key).map(String::as_str).unwrap_or_default();
        if note("format") != FORMAT {
            let message = "holds tensors, but is no token shard of `calumma tokenize`";
            return Err(Error::file(path, message));
        }
        if note("version") != VERSION {
            let version = note("version");
            let message = format!("is a token shard of version {version:?}; allowed: {VERSION:?}");
            return Err(Error::file(path, message));
        }
        if header_sum(&bytes[..data]).as_deref() != Some(note(HEADER_SUM)) {
            return Err(damaged("its header does not have the sum that it names"));
        }
        let sources =
            serde_json::from_str(note("sources")).map_err(Error::in_file_because(path, DAMAGED))?;
        let tensor = |name| tensor(&metadata, name, data).ok_or_else(|| damaged(name));
        let (ids, offsets) = (tensor("ids")?, tensor("offsets")?);
        let (loss_mask, numbers) = (tensor("loss_mask")?, tensor("sources")?);
        let wide = match ids.0 {
            Dtype::U16 => false,
            Dtype::U32 => true,
            _ => return Err(damaged("ids")),
        };
        let header = Self {
            tokenizer: note("tokenizer").to_owned(),
            made_of: note("made_of").to_owned(),
            sources,
            data_sum: note(DATA_SUM).to_owned(),
            data,
            wide,
            ids: ids.1,
            offsets: offsets.1,
            loss_mask: loss_mask.1,
            numbers: numbers.1,
        };
        let tokens = header.ids.len() / header.width();
        let fits = (offsets.0, loss_mask.0, numbers.0) == (Dtype::U64, Dtype::U8, Dtype::U16)
            && header.offsets.len() == 8 * (header.numbers.len() / 2 + 1)
            && header.loss_mask.len() == tokens.div_ceil(8);
        fits.then_some(header).ok_or_else(|| damaged("its tensors do not fit one another"))
    }

    /// Bytes per id.
    fn width(&self) -> usize {
        if self.wide { 4 } else { 2 }
    }

    fn offset(&self, bytes: &[u8], index: usize) -> usize {
        let at = self.offsets.start + 8 * index;
        let raw: [u8; 8] = bytes[at..at + 8].try_into().expect("the slice has 8 bytes");
        usize::try_from(u64::from_le_bytes(raw)).unwrap_or(usize::MAX)
    }

    /// The range of tokens of document `index`, as start and end.
    fn document(&self, bytes: &[u8], index: usize) -> (usize, usize) {
        assert!(index < self.numbers.len() / 2, "document {index} is beyond the end");
        (self.offset(bytes, index), self.offset(bytes, index + 1))
    }

    fn number(&self, bytes: &[u8], index: usize) -> usize {
        let at = self.numbers.start + 2 * index;
        usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
    }

    /// Verifies the sum of the data, and that offsets and sources are in range.
    fn check(&self, bytes: &[u8]) -> std::result::Result<(), String> {
        if data_sum(&bytes[self.data..]) != self.data_sum {
            return Err("is damaged: its data do not have the sum that its header names; make it \
                        again"
                .to_owned());
        }
        let documents = self.numbers.len() / 2;
        let tokens = self.ids.len() / self.width();
        let rise = (0..documents).all(|index| {
            let (start, end) = self.document(bytes, index);
            start <= end && self.number(bytes, index) < self.sources.len()
        });
        let spans = self.offset(bytes, 0) == 0 && self.offset(bytes, documents) == tokens;
        match rise && spans {
            true => Ok(()),
            false => Err("is malformed: its offsets or sources are out of order".to_owned()),
        }
    }
}

/// Data type and position in the file of the tensor `name`.
fn tensor(metadata: &Metadata, name: &str, data: usize) -> Option<(Dtype, Range<usize>)> {
    let info = metadata.info(name)?;
    let (start, end) = info.data_offsets;
    Some((info.dtype, data + start..data + end))
}
