//! The content of a shard, and its bytes.

use safetensors::Dtype;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::files::hex;
use crate::tokenize::{Processor, TokenSequence};

/// The ending of a shard's file name.
pub(super) const ENDING: &str = "safetensors";
/// The value of `format` in the metadata.
pub(super) const FORMAT: &str = "calumma.tokens";
/// The version of the layout.
pub(super) const VERSION: &str = "1";
/// Metadata keys of the two sums.
pub(super) const HEADER_SUM: &str = "sha256_header";
pub(super) const DATA_SUM: &str = "sha256_data";
/// The header ends at a multiple of this many bytes.
const ALIGNMENT: usize = 8;
/// Placeholder for a sum while it is computed: as many zeros as a sum has digits.
pub(super) const NO_SUM: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Everything that a shard holds.
#[derive(Clone, Debug)]
pub struct ShardContent {
    /// Digest of the tokenizers, see [`tokenizer_digest`].
    pub tokenizer: String,
    /// Digest of everything that decides the content; a shard with the same digest need not be made
    /// again.
    pub made_of: String,
    /// Names of the sources.
    pub sources: Vec<String>,
    /// The documents, each with the index of its source.
    pub documents: Vec<(TokenSequence, usize)>,
}

impl ShardContent {
    /// The bytes of the file; equal contents give equal bytes.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the number of ids of a document differs from that of its mask entries, or
    /// there are more than 65,536 sources.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let (mut ids, mut mask, mut offsets, mut sources) = (vec![], vec![], vec![0], vec![]);
        for (tokens, source) in &self.documents {
            if tokens.ids.len() != tokens.loss_mask.len() {
                let (ids, mask) = (tokens.ids.len(), tokens.loss_mask.len());
                let message = format!("a document of {ids} tokens has a loss mask of {mask}");
                return Err(Error::invalid(message));
            }
            ids.extend_from_slice(&tokens.ids);
            mask.extend_from_slice(&tokens.loss_mask);
            offsets.push(ids.len() as u64);
            let number = u16::try_from(*source)
                .map_err(|_| Error::invalid("a shard names at most 65536 sources"))?;
            sources.extend(number.to_le_bytes());
        }
        let is_narrow = ids.iter().all(|id| u16::try_from(*id).is_ok());
        let (dtype, ids_bytes): (_, Vec<u8>) = match is_narrow {
            true => (Dtype::U16, ids.iter().flat_map(|id| (*id as u16).to_le_bytes()).collect()),
            false => (Dtype::U32, ids.iter().flat_map(|id| id.to_le_bytes()).collect()),
        };
        let offset_bytes: Vec<u8> = offsets.iter().flat_map(|at| at.to_le_bytes()).collect();
        let mask = packed(&mask);
        // Widest values first, so that every tensor is aligned to its values.
        let tensors = [
            ("offsets", Dtype::U64, offsets.len(), offset_bytes),
            ("ids", dtype, ids.len(), ids_bytes),
            ("sources", Dtype::U16, self.documents.len(), sources),
            ("loss_mask", Dtype::U8, mask.len(), mask),
        ];
        let mut header = Map::new();
        header.insert("__metadata__".to_owned(), self.metadata());
        let mut data = Vec::new();
        for (name, dtype, len, bytes) in tensors {
            let start = data.len();
            data.extend(bytes);
            let place =
                json!({ "dtype": dtype, "shape": [len], "data_offsets": [start, data.len()] });
            header.insert(name.to_owned(), place);
        }
        sealed(&Value::Object(header).to_string(), data)
    }

    fn metadata(&self) -> Value {
        let names = serde_json::to_string(&self.sources).expect("strings are valid JSON");
        json!({
            HEADER_SUM: NO_SUM,
            DATA_SUM: NO_SUM,
            "format": FORMAT,
            "version": VERSION,
            "tokenizer": self.tokenizer,
            "made_of": self.made_of,
            "sources": names,
        })
    }
}

/// A bit per entry, lowest first.
fn packed(mask: &[bool]) -> Vec<u8> {
    let byte = |bits: &[bool]| (0..).zip(bits).map(|(at, bit)| u8::from(*bit) << at).sum();
    mask.chunks(8).map(byte).collect()
}

/// Offset of the data in a file, after 8 bytes of header length and the JSON header.
pub(super) fn data_start(bytes: &[u8]) -> Option<usize> {
    let len = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    usize::try_from(len).ok()?.checked_add(8).filter(|start| *start <= bytes.len())
}

/// The position of the digits of the sum `key` in `header`.
pub(super) fn sum_place(header: &[u8], key: &str) -> Option<std::ops::Range<usize>> {
    let mark = format!("\"{key}\":\"");
    let at = header.windows(mark.len()).position(|window| window == mark.as_bytes())? + mark.len();
    (at + NO_SUM.len() <= header.len()).then_some(at..at + NO_SUM.len())
}

/// The sum of a header with its length, computed with zeros in the place of the sum.
pub(super) fn header_sum(header: &[u8]) -> Option<String> {
    let mut header = header.to_vec();
    let place = sum_place(&header, HEADER_SUM)?;
    header[place].copy_from_slice(NO_SUM.as_bytes());
    Some(hex(&Sha256::digest(&header)))
}

/// The sum of the data.
pub(super) fn data_sum(data: &[u8]) -> String {
    hex(&Sha256::digest(data))
}

/// The file of `header` and `data`, with both sums filled in.
fn sealed(header: &str, data: Vec<u8>) -> Result<Vec<u8>> {
    let len = header.len().next_multiple_of(ALIGNMENT);
    let mut bytes = (len as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(8 + len, b' ');
    let lost = || Error::invalid("token shard: a name holds what marks the sums");
    let place = sum_place(&bytes, DATA_SUM).ok_or_else(lost)?;
    bytes[place].copy_from_slice(data_sum(&data).as_bytes());
    let sum = header_sum(&bytes).ok_or_else(lost)?;
    let place = sum_place(&bytes, HEADER_SUM).ok_or_else(lost)?;
    bytes[place].copy_from_slice(sum.as_bytes());
    bytes.extend(data);
    Ok(bytes)
}

/// A digest of everything that turns a document into ids: the text tokenizer, the image tokenizer (by the
/// digest of its files) and the layout of image blocks.
///
/// # Errors
/// If the text tokenizer cannot be serialised.
pub fn tokenizer_digest(processor: &Processor, image_digest: &str) -> Result<String> {
    let mut hasher = Sha256::new();
    hasher.update(processor.text().to_bytes()?);
    hasher.update(format!("{image_digest} {:?}", processor.blocks()));
    Ok(hex(&hasher.finalize())[..16].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_packed_lowest_bit_first() {
        assert_eq!(packed(&[true, false, false, true]), [0b1001]);
        let nine = [false, false, false, false, false, false, false, true, true];
        assert_eq!(packed(&nine), [0x80, 1]);
    }
}
