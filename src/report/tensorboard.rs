//! TensorBoard's event files: protocol buffers in TFRecord frames.
//!
//! Field numbers are those of TensorFlow's `event.proto`, `summary.proto`, `tensor.proto` and
//! `tensor_shape.proto`; the frame is that of `tensorflow/core/lib/io/record_writer.h`. Only what a
//! run writes is encoded: scalars, PNG images, text tables and the session start.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};

/// Content of the first event of every file; readers purge by session only from version 2 on.
const FILE_VERSION: &[u8] = b"brain.Event:2";
/// `SessionLog.SessionStatus.START`.
const SESSION_START: u64 = 1;
/// `DataType.DT_STRING`.
const DT_STRING: u64 = 7;
/// `DataClass.DATA_CLASS_TENSOR`.
const CLASS_TENSOR: u64 = 2;
/// Channels of an RGB image.
const RGB: u64 = 3;

/// A writer of an event file.
#[derive(Debug)]
pub(super) struct EventWriter {
    path: PathBuf,
    file: File,
}

impl EventWriter {
    /// Creates a file in `dir` for steps from `first_step` on; TensorBoard drops these steps from older
    /// files in `dir`.
    pub(super) fn create(dir: &Path, name: &str, first_step: usize) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
        let mut second = now() as u64;
        let (path, file) = loop {
            let path = dir.join(format!("events.out.tfevents.{second}.{name}"));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => break (path, file),
                // The run was resumed within the same second. Files are read in the order of their names.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => second += 1,
                Err(error) => return Err(Error::io(&path)(error)),
            }
        };
        let mut writer = Self { path, file };
        writer.write(0, |event| event.bytes(3, FILE_VERSION))?;
        let start = Message::default().varint(1, SESSION_START);
        writer.write(first_step, |event| event.message(7, &start))?;
        Ok(writer)
    }

    /// Writes numbers by tag, as f32.
    pub(super) fn scalars(&mut self, step: usize, scalars: &[(String, f64)]) -> Result<()> {
        let value = |(tag, number): &(String, f64)| value(tag).float(2, *number as f32);
        self.summary(step, scalars.iter().map(value))
    }

    /// Writes a PNG image of `width x height` RGB pixels.
    pub(super) fn image(
        &mut self,
        step: usize,
        tag: &str,
        (width, height): (u32, u32),
        png: &[u8],
    ) -> Result<()> {
        let image = Message::default()
            .varint(1, height.into())
            .varint(2, width.into())
            .varint(3, RGB)
            .bytes(4, png);
        self.summary(step, [value(tag).message(4, &image)])
    }

    /// Writes a text table for TensorBoard's text plugin, which reads Markdown.
    pub(super) fn table<const N: usize>(
        &mut self,
        step: usize,
        tag: &str,
        rows: &[[&str; N]],
    ) -> Result<()> {
        let plugin = Message::default().bytes(1, b"text");
        let metadata = Message::default().message(1, &plugin).varint(4, CLASS_TENSOR);
        let dim = |size: usize| Message::default().varint(1, size as u64);
        let shape = Message::default().message(2, &dim(rows.len())).message(2, &dim(N));
        let tensor = Message::default().varint(1, DT_STRING).message(2, &shape);
        let cells = rows.iter().flatten();
        let tensor = cells.fold(tensor, |tensor, cell| tensor.bytes(8, cell.as_bytes()));
        self.summary(step, [value(tag).message(8, &tensor).message(9, &metadata)])
    }

    fn summary(&mut self, step: usize, values: impl IntoIterator<Item = Message>) -> Result<()> {
        let summary =
            values.into_iter().fold(Message::default(), |all, value| all.message(1, &value));
        self.write(step, |event| event.message(5, &summary))
    }

    fn write(&mut self, step: usize, fill: impl FnOnce(Message) -> Message) -> Result<()> {
        let event = fill(Message::default().double(1, now()).varint(2, step as u64));
        self.file.write_all(&record(&event.0)).map_err(Error::io(&self.path))
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// A `Summary.Value` with its tag only.
fn value(tag: &str) -> Message {
    Message::default().bytes(1, tag.as_bytes())
}

/// A TFRecord: length, checksum of the length, data, checksum of the data; little-endian.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let checksum = |bytes: &[u8]| masked(crc32c::crc32c(bytes)).to_le_bytes();
    [&length[..], &checksum(&length), data, &checksum(data)].concat()
}

/// TFRecord's masked checksum, for data that may itself contain checksums (`crc32c.h`).
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// A protocol buffer under construction.
#[derive(Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(mut self, field: u64, value: u64) -> Self {
        self.key(field, 0);
        self.put(value);
        self
    }

    fn double(mut self, field: u64, value: f64) -> Self {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn float(mut self, field: u64, value: f32) -> Self {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(mut self, field: u64, value: &[u8]) -> Self {
        self.key(field, 2);
        self.put(value.len() as u64);
        self.0.extend(value);
        self
    }

    fn message(self, field: u64, value: &Message) -> Self {
        self.bytes(field, &value.0)
    }

    fn key(&mut self, field: u64, wire_type: u64) {
        self.put(field << 3 | wire_type);
    }

    /// Appends a varint: seven bits per byte, lowest first.
    fn put(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_crc_32c_rotated_and_shifted() {
        // The check value of CRC-32C and the vectors of RFC 3720, appendix B.4.
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(masked(0), 0xa282_ead8);
        assert_eq!(masked(0xe306_9283), 0xc78a_b0e5);
    }

    #[test]
    fn an_empty_record_is_its_length_and_two_checksums() {
        // As TFRecordWriter of TensorFlow writes it.
        let bytes = [0, 0, 0, 0, 0, 0, 0, 0, 0x29, 0x03, 0x98, 0x07, 0xd8, 0xea, 0x82, 0xa2];
        assert_eq!(record(&[]), bytes);
    }

    #[test]
    fn fields_are_encoded_as_the_wire_format_says() {
        // The examples of protobuf.dev/programming-guides/encoding.
        assert_eq!(Message::default().varint(1, 150).0, [0x08, 0x96, 0x01]);
        let inner = Message::default().varint(1, 150);
        assert_eq!(Message::default().message(3, &inner).0, [0x1a, 3, 0x08, 0x96, 0x01]);
        assert_eq!(Message::default().bytes(2, b"testing").0, *b"\x12\x07testing");
        assert_eq!(Message::default().float(2, 1.0).0, [0x15, 0, 0, 0x80, 0x3f]);
    }
}
