//! Reader for WebDataset tar archives.
//!
//! Adjacent members with the same key, the path up to the first dot of the file name, form one
//! sample. Members are indexed once and then read by position, in any order and from any thread.

use std::fs::File;
use std::path::{Path, PathBuf};

use image::RgbImage;
use serde_json::Value;

use super::dataset::{Dataset, Fields, Sample, Unused, in_range};
use super::messages::item_error;
use super::{files, image_file};
use crate::error::{Error, Result};

/// Supported file extensions, for messages.
const MEMBERS: &str = ".png, .jpg, .jpeg, .webp, .txt and .json";

/// Data set of one tar archive.
///
/// Its fields are `__key__`, `txt` from the `.txt` member, and the keys of the `.json` member (or
/// `json` if that is not an object). Members with other extensions are ignored.
pub struct WebDataset {
    path: PathBuf,
    name: String,
    file: File,
    entries: Vec<Entry>,
}

/// The members of one sample.
struct Entry {
    key: String,
    members: Vec<Member>,
}

/// Kind of a member and its position in the archive.
#[derive(Clone, Copy)]
struct Member {
    kind: Kind,
    offset: u64,
    len: u64,
}

/// Kind of a member by its extension.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Png,
    Jpg,
    Jpeg,
    Webp,
    Text,
    Json,
}

impl Kind {
    const ALL: [Self; 6] = [Self::Png, Self::Jpg, Self::Jpeg, Self::Webp, Self::Text, Self::Json];

    fn extension(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpg => "jpg",
            Self::Jpeg => "jpeg",
            Self::Webp => "webp",
            Self::Text => "txt",
            Self::Json => "json",
        }
    }

    fn is_image(self) -> bool {
        !matches!(self, Self::Text | Self::Json)
    }
}

impl WebDataset {
    /// Indexes the archive at `path`.
    ///
    /// # Errors
    /// If the file cannot be read, is not a complete tar archive, or holds no sample.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        let entries = index(path, &file)?;
        if entries.is_empty() {
            let message = format!("holds no samples; supported members are {MEMBERS}");
            return Err(Error::file(path, message));
        }
        Ok(Self { path: path.to_owned(), name: path.display().to_string(), file, entries })
    }

    /// The content of a member.
    fn read(&self, entry: &Entry, member: Member) -> Result<Vec<u8>> {
        let name = member_name(entry, member);
        let too_large = |_| item_error(&self.path, &name, "too large");
        let len = usize::try_from(member.len).map_err(too_large)?;
        files::read_at(&self.file, member.offset, len)
            .map_err(Error::in_file_because(&self.path, &name))
    }

    fn entry_fields(&self, entry: &Entry) -> Result<Fields> {
        let mut fields = Fields::new();
        fields.insert("__key__".to_owned(), Value::from(entry.key.as_str()));
        for kind in [Kind::Json, Kind::Text] {
            let Some(member) = only(&self.path, entry, kind)? else { continue };
            let name = member_name(entry, member);
            let text = String::from_utf8(self.read(entry, member)?)
                .map_err(Error::in_file_because(&self.path, &name))?;
            match kind {
                Kind::Text => {
                    fields.insert("txt".to_owned(), text.trim_end_matches(['\r', '\n']).into());
                }
                _ => match serde_json::from_str(&text)
                    .map_err(Error::in_file_because(&self.path, &name))?
                {
                    Value::Object(object) => fields.extend(object),
                    other => {
                        fields.insert("json".to_owned(), other);
                    }
                },
            }
        }
        Ok(fields)
    }

    fn entry_images(&self, entry: &Entry) -> Result<Vec<RgbImage>> {
        let mut images = Vec::new();
        for &member in entry.members.iter().filter(|m| m.kind.is_image()) {
            only(&self.path, entry, member.kind)?;
            let origin = format!("{}: {}", self.name, member_name(entry, member));
            images.push(image_file::decode(&self.read(entry, member)?, &origin)?);
        }
        Ok(images)
    }
}

impl Dataset for WebDataset {
    fn len(&self) -> usize {
        self.entries.len()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        in_range(self, index)?;
        let entry = &self.entries[index];
        Ok(Sample {
            fields: self.entry_fields(entry)?,
            images: self.entry_images(entry)?,
            source: format!("{}: {}", self.name, entry.key),
        })
    }

    fn unused(&self) -> Vec<Unused> {
        Vec::new()
    }

    fn place(&self, index: usize) -> String {
        format!("{}: {}", self.name, self.entries[index].key)
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn fields(&self, index: usize) -> Result<Fields> {
        in_range(self, index)?;
        self.entry_fields(&self.entries[index])
    }
}

/// The file name of a member.
fn member_name(entry: &Entry, member: Member) -> String {
    format!("{}.{}", entry.key, member.kind.extension())
}

/// The member of `kind`, if any; fails if there are two.
fn only(path: &Path, entry: &Entry, kind: Kind) -> Result<Option<Member>> {
    let mut members = entry.members.iter().filter(|m| m.kind == kind).copied();
    match (members.next(), members.next()) {
        (Some(member), Some(_)) => {
            let message = "appears twice in one sample";
            Err(item_error(path, &member_name(entry, member), message))
        }
        (member, _) => Ok(member),
    }
}

/// Lists the samples of the archive at `path`.
fn index(path: &Path, file: &File) -> Result<Vec<Entry>> {
    let broken = |e: std::io::Error| Error::in_file_because(path, "not a complete tar archive")(e);
    let size = file.metadata().map_err(Error::io(path))?.len();
    let mut entries: Vec<Entry> = Vec::new();
    let mut archive = tar::Archive::new(file);
    for member in archive.entries_with_seek().map_err(broken)? {
        let member = member.map_err(broken)?;
        let (offset, len) = (member.raw_file_position(), member.size());
        let name = String::from_utf8_lossy(&member.path_bytes()).into_owned();
        if offset.checked_add(len).is_none_or(|end| end > size) {
            let message = format!("truncated: member {name} of {len} bytes ends beyond the file");
            return Err(Error::file(path, message));
        }
        let Some((key, kind)) = split(&name).filter(|_| member.header().entry_type().is_file())
        else {
            continue;
        };
        let member = Member { kind, offset, len };
        match entries.last_mut().filter(|entry| entry.key == key) {
            Some(entry) => entry.members.push(member),
            None => entries.push(Entry { key: key.to_owned(), members: vec![member] }),
        }
    }
    Ok(entries)
}

/// Key and kind of the member `name`, if supported. The key includes the directory and ends at the
/// first dot of the file name.
fn split(name: &str) -> Option<(&str, Kind)> {
    let name = name.strip_prefix("./").unwrap_or(name);
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = file + name[file..].find('.')?;
    let kind =
        Kind::ALL.into_iter().find(|k| name[dot + 1..].eq_ignore_ascii_case(k.extension()))?;
    (dot > file).then_some((&name[..dot], kind))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn keys_end_at_the_first_dot_of_the_file_name() {
        let key = |name| split(name).map(|(key, kind)| (key, kind.extension()));
        assert_eq!(key("a/b.c/d.png"), Some(("a/b.c/d", "png")));
        assert_eq!(key("./x.TXT"), Some(("x", "txt")));
        for ignored in ["x.seg.png", "x", ".png", "x.cls", "dir/"] {
            assert_eq!(key(ignored), None, "{ignored}");
        }
    }
}
