//! The bytes of a Parquet file, with its end as an error.

use std::fs::File;
use std::io::{BufReader, Error, ErrorKind, Read, Result, Seek, SeekFrom};

use ::parquet::errors::ParquetError;
use ::parquet::file::reader::{ChunkReader, Length};
use bytes::Bytes;

/// A file whose end is an error for who reads on.
///
/// The Parquet crate skips fields of page headers by copying bytes to nowhere and does not notice that there
/// are none left; two damaged bytes can tell it to do so two billion times.
pub(super) struct Source {
    file: File,
    len: u64,
}

impl Source {
    pub(super) fn new(file: File) -> Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self { file, len })
    }

    pub(super) fn try_clone(&self) -> Result<Self> {
        Ok(Self { file: self.file.try_clone()?, len: self.len })
    }
}

impl Length for Source {
    fn len(&self) -> u64 {
        self.len
    }
}

impl ChunkReader for Source {
    type T = ToTheEnd<BufReader<File>>;

    fn get_read(&self, start: u64) -> std::result::Result<Self::T, ParquetError> {
        let mut file = self.file.try_clone()?;
        file.seek(SeekFrom::Start(start))?;
        Ok(ToTheEnd(BufReader::new(file)))
    }

    fn get_bytes(&self, start: u64, length: usize) -> std::result::Result<Bytes, ParquetError> {
        let end = start.checked_add(length as u64).filter(|end| *end <= self.len);
        if end.is_none() {
            let len = self.len;
            let message = format!("{length} bytes at {start} of a file of {len} bytes");
            return Err(ParquetError::EOF(message));
        }
        let mut bytes = vec![0; length];
        self.get_read(start)?.read_exact(&mut bytes)?;
        Ok(bytes.into())
    }
}

/// A reader that fails where another one ends.
pub(super) struct ToTheEnd<R>(R);

impl<R: Read> Read for ToTheEnd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        match self.0.read(buffer)? {
            0 if !buffer.is_empty() => {
                Err(Error::new(ErrorKind::UnexpectedEof, "the file ends within a page"))
            }
            read => Ok(read),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_lies_behind_the_end_is_an_error_and_no_empty_read() {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, b"abcdef").unwrap();
        let source = Source::new(file).unwrap();
        assert_eq!(source.get_bytes(2, 4).unwrap(), "cdef");
        assert!(source.get_bytes(2, 5).is_err() && source.get_bytes(u64::MAX, 2).is_err());
        let mut two = [0; 2];
        let mut read = source.get_read(4).unwrap();
        assert_eq!(read.read(&mut two).unwrap(), 2);
        assert!(read.read(&mut two).is_err() && read.read(&mut []).is_ok());
        let mut limited = source.get_read(4).unwrap().take(2);
        assert_eq!(std::io::copy(&mut limited, &mut std::io::sink()).unwrap(), 2);
    }
}
