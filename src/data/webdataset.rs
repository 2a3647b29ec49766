//! Reader for WebDataset tar archives.
//!
//! Adjacent members with the same key, the path up to the first dot of the file name, form one
//! sample, as in `webdataset` (tariterators.py). Members are indexed once and then read by position, in
//! any order and from any thread.

mod index;

use std::fs::File;
use std::path::{Path, PathBuf};

use image::RgbImage;
use serde_json::Value;

use self::index::{Entry, Kind, Member, index};
use super::conversation::place_marks;
use super::dataset::{Dataset, Fields, Sample, Unused, in_range};
use super::image_key::{Place, bytes_key};
use super::messages::item_error;
use super::{files, image_file};
use crate::error::{Error, Result};
use crate::json;

/// Data set of one tar archive.
///
/// Its fields are `__key__`, the keys of the `.json` member (or `json` if that is not an object), and the
/// other members by their endings: text (`txt`, `text`, `transcript`), numbers (`cls`, `cls2`, `index`,
/// `inx`, `id`) and JSON with longer endings (`meta.json`). Images are those with any ending that ends as
/// an image does (`png`, `left.jpg`); if endings are longer, they are listed in `__images__`.
pub struct WebDataset {
    path: PathBuf,
    name: String,
    file: File,
    entries: Vec<Entry>,
    unused: Vec<Unused>,
}

impl WebDataset {
    /// Indexes the archive at `path`, which may hold no samples.
    ///
    /// # Errors
    /// If the file cannot be read or is not a complete tar archive.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        let (entries, unused) = index(path, &file)?;
        let (path, name) = (path.to_owned(), path.display().to_string());
        Ok(Self { path, name, file, entries, unused })
    }

    /// The content of a member.
    fn read(&self, entry: &Entry, member: &Member) -> Result<Vec<u8>> {
        let name = entry.name_of(member);
        let same = |other: &&Member| other.ending == member.ending;
        if entry.members.iter().filter(same).count() > 1 {
            return Err(item_error(&self.path, &name, "appears twice in one sample"));
        }
        if let Some(fault) = member.fault {
            return Err(item_error(&self.path, &name, fault));
        }
        let too_large = |_| item_error(&self.path, &name, "too large");
        let len = usize::try_from(member.len).map_err(too_large)?;
        files::read_at(&self.file, member.offset, len)
            .map_err(Error::in_file_because(&self.path, &name))
    }

    fn entry_fields(&self, entry: &Entry) -> Result<Fields> {
        let mut fields = Fields::new();
        fields.insert("__key__".to_owned(), Value::from(entry.key.as_str()));
        let (objects, others): (Vec<_>, Vec<_>) = entry
            .members
            .iter()
            .filter(|member| member.kind != Kind::Image)
            .partition(|member| matches!(&*member.ending, "json" | "jsn"));
        for member in objects.into_iter().chain(others) {
            match self.value(entry, member)? {
                Value::Object(object) if matches!(&*member.ending, "json" | "jsn") => {
                    fields.extend(object);
                }
                value => drop(fields.insert(member.ending.to_string(), value)),
            }
        }
        let endings: Vec<&str> = entry.images().map(|member| &*member.ending).collect();
        if endings.iter().any(|ending| ending.contains('.')) {
            fields.insert("__images__".to_owned(), endings.clone().into());
        }
        place_marks(&mut fields, endings.len())
            .map_err(|message| item_error(&self.path, &entry.key, message))?;
        Ok(fields)
    }

    /// The members that are the sample's images; an error if it has none but one that is not read.
    fn images<'a>(&self, entry: &'a Entry) -> Result<Vec<&'a Member>> {
        let images: Vec<&Member> = entry.images().collect();
        match &entry.other_image {
            Some(name) if images.is_empty() => {
                let message = "an image in a format that is not read; PNG, JPEG and WebP are";
                Err(item_error(&self.path, name, message))
            }
            _ => Ok(images),
        }
    }

    /// The value of a member that is no image.
    fn value(&self, entry: &Entry, member: &Member) -> Result<Value> {
        let bytes = self.read(entry, member)?;
        let name = entry.name_of(member);
        if member.kind == Kind::Json {
            return json::from_slice(&bytes).map_err(Error::in_file_because(&self.path, &name));
        }
        let text = String::from_utf8(bytes).map_err(Error::in_file_because(&self.path, &name))?;
        let text = text.trim_start_matches('\u{FEFF}').trim_end_matches(['\r', '\n']);
        // A name of a class where webdataset wants a number is kept as text.
        let number = text.trim().parse::<i64>().ok().filter(|_| member.kind == Kind::Integer);
        Ok(number.map_or_else(|| text.into(), Value::from))
    }

    fn entry_images(&self, entry: &Entry) -> Result<Vec<RgbImage>> {
        let mut images = Vec::new();
        for member in self.images(entry)? {
            let origin = format!("{}: {}", self.name, entry.name_of(member));
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

    fn image_keys(&self, index: usize) -> Result<Vec<String>> {
        in_range(self, index)?;
        let entry = &self.entries[index];
        self.images(entry)?.iter().map(|m| Ok(bytes_key(&self.read(entry, m)?))).collect()
    }

    fn image_places(&self, index: usize) -> Result<Option<Vec<Place>>> {
        in_range(self, index)?;
        let place = |m: &&Member| Place::part(&self.path, format!("{}+{}", m.offset, m.len));
        Ok(Some(self.images(&self.entries[index])?.iter().map(place).collect()))
    }

    fn unused(&self) -> Vec<Unused> {
        self.unused.clone()
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
