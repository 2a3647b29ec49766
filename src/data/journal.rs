//! Files of lines that are only appended to.
//!
//! Several processes may append to the same file. A line that a killed process left unfinished is closed by
//! the next append, and its reader must recognise it as broken.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::files::read_at;
use crate::error::{Error, Result};

/// A file of lines, open for reading and appending.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Opens the file at `path`; creates it and its directory if need be.
    pub(super) fn open(path: &Path) -> Result<Self> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
        }
        let file = OpenOptions::new().read(true).append(true).create(true).open(path);
        Ok(Self { path: path.to_owned(), file: file.map_err(Error::io(path))? })
    }

    /// Calls `each` with every line, without its end, and the line's offset.
    pub(super) fn lines(&self, mut each: impl FnMut(u64, &[u8])) -> Result<()> {
        let file = File::open(&self.path).map_err(Error::io(&self.path))?;
        let mut reader = BufReader::with_capacity(1 << 20, file);
        let (mut line, mut offset) = (Vec::new(), 0);
        loop {
            line.clear();
            let len = reader.read_until(b'\n', &mut line).map_err(Error::io(&self.path))?;
            if len == 0 {
                return Ok(());
            }
            each(offset, line.strip_suffix(b"\n").unwrap_or(&line));
            offset += len as u64;
        }
    }

    /// `len` bytes from `offset`.
    pub(super) fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        read_at(&self.file, offset, len).map_err(Error::io(&self.path))
    }

    /// Appends `lines`, each with its end; returns the offset of the first.
    pub(super) fn append(&mut self, lines: &[u8]) -> Result<u64> {
        // Some network file systems cannot lock. An append is then still a single write.
        let locked = self.file.lock().is_ok();
        let appended = self.append_locked(lines);
        if locked {
            // Closing the file would release the lock, too.
            let _ = self.file.unlock();
        }
        appended.map_err(Error::io(&self.path))
    }

    fn append_locked(&mut self, lines: &[u8]) -> io::Result<u64> {
        let end = self.file.seek(SeekFrom::End(0))?;
        if end == 0 || read_at(&self.file, end - 1, 1)? == b"\n" {
            self.file.write_all(lines)?;
            return Ok(end);
        }
        self.file.write_all(&[b"\n", lines].concat())?;
        Ok(end + 1)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_line_cut_off_by_a_kill_spoils_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/j");
        let mut journal = Journal::open(&path).unwrap();
        assert_eq!(journal.append(b"one\ntwo\n").unwrap(), 0);
        std::fs::write(&path, "one\nt").unwrap();
        let at = journal.append(b"three\n").unwrap();
        assert_eq!(journal.read(at, 5).unwrap(), b"three");
        let mut lines = Vec::new();
        journal.lines(|at, line| lines.push((at, line.to_vec()))).unwrap();
        assert_eq!(lines, [(0, b"one".to_vec()), (4, b"t".to_vec()), (6, b"three".to_vec())]);
    }

    #[test]
    fn appends_from_several_threads_keep_their_lines_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        let text = |number: usize| format!("{number}:{}\n", "x".repeat(number * 1000));
        std::thread::scope(|scope| {
            for number in 0..8 {
                let path = &path;
                scope.spawn(move || {
                    let mut journal = Journal::open(path).unwrap();
                    for _ in 0..20 {
                        let at = journal.append(text(number).as_bytes()).unwrap();
                        let len = text(number).len();
                        assert_eq!(journal.read(at, len).unwrap(), text(number).as_bytes());
                    }
                });
            }
        });
        let mut whole = 0;
        let journal = Journal::open(&path).unwrap();
        journal
            .lines(|_, line| {
                let line = String::from_utf8(line.to_vec()).unwrap() + "\n";
                whole += usize::from((0..8).any(|number| text(number) == line));
            })
            .unwrap();
        assert_eq!(whole, 160);
    }
}
