//! The members of an archive by sample.

use std::fs::File;
use std::path::Path;

use tar::{Archive, Entry as TarEntry, EntryType};

use super::super::dataset::Unused;
use super::super::endings::{self, kind_of};
use super::super::unused::Tally;
use crate::error::{Error, Result};

/// The members of one sample.
#[derive(Default)]
pub(super) struct Entry {
    pub(super) key: String,
    /// Those that are read, in the order of the archive.
    pub(super) members: Vec<Member>,
    /// The name of an image in a format that is not read.
    pub(super) other_image: Option<String>,
}

/// Kind of a member and its position in the archive.
pub(super) struct Member {
    pub(super) kind: Kind,
    /// The name after the key and its dot, in lower case.
    pub(super) ending: Box<str>,
    pub(super) offset: u64,
    pub(super) len: u64,
    /// Why it cannot be read, if so.
    pub(super) fault: Option<&'static str>,
}

/// Kind of a member by the last part of its ending. Source: `autodecode.py` of `webdataset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Image,
    Text,
    /// A whole number, as of a class.
    Integer,
    Json,
}

impl Kind {
    /// The kind of the member with this `ending` in lower case; the error is what else it is.
    fn of(ending: &str) -> std::result::Result<Self, endings::Kind> {
        let last = last_part(ending);
        match (last, kind_of(last)) {
            ("txt" | "text" | "transcript", _) => Ok(Self::Text),
            ("cls" | "cls2" | "index" | "inx" | "id", _) => Ok(Self::Integer),
            ("json" | "jsn", _) => Ok(Self::Json),
            (_, endings::Kind::Image) => Ok(Self::Image),
            (_, other) => Err(other),
        }
    }
}

fn last_part(ending: &str) -> &str {
    ending.rsplit('.').next().unwrap_or_default()
}

/// The samples of the archive at `path`, and the members that belong to none or are not read.
///
/// # Errors
/// If the archive is damaged or cut off.
pub(super) fn index(path: &Path, file: &File) -> Result<(Vec<Entry>, Vec<Unused>)> {
    let broken = |e: std::io::Error| Error::in_file_because(path, "not a complete tar archive")(e);
    let size = file.metadata().map_err(Error::io(path))?.len();
    let (mut entries, mut tally): (Vec<Entry>, Tally) = Default::default();
    let mut archive = Archive::new(file);
    for member in archive.entries_with_seek().map_err(broken)? {
        let mut member = member.map_err(broken)?;
        let (offset, len) = (member.raw_file_position(), member.size());
        let name = name_of(&member.path_bytes());
        if offset.checked_add(len).is_none_or(|end| end > size) {
            let message = format!("truncated: member {name} of {len} bytes ends beyond the file");
            return Err(Error::file(path, message));
        }
        let what = || format!("{}: {name}", path.display());
        let (key, ending) = match place(&name, member.header().entry_type()) {
            Ok(Some((key, ending))) => (key, ending.to_lowercase()),
            Ok(None) => continue,
            Err(reason) => {
                tally.add(what, reason);
                continue;
            }
        };
        // As webdataset does: a member with another key, of whatever kind, ends the sample.
        if entries.last().is_none_or(|entry| entry.key != key) {
            entries.push(Entry { key: key.to_owned(), ..Entry::default() });
        }
        let Some(entry) = entries.last_mut() else { continue };
        match Kind::of(&ending) {
            Ok(kind) => {
                let (fault, ending) = (fault(&mut member), ending.into_boxed_str());
                entry.members.push(Member { kind, ending, offset, len, fault });
            }
            Err(endings::Kind::Other) => tally.add(what, not_read(&ending)),
            Err(_) => _ = entry.other_image.get_or_insert(name),
        }
    }
    entries.retain(|entry| !entry.members.is_empty() || entry.other_image.is_some());
    // Without an image that is read, the sample is bad, which says enough.
    let with_image = entries.iter().filter(|entry| entry.images().next().is_some());
    for other in with_image.filter_map(|entry| entry.other_image.as_ref()) {
        tally.add(|| format!("{}: {other}", path.display()), not_read(&other.to_lowercase()));
    }
    Ok((entries, tally.into_vec()))
}

impl Entry {
    /// Its images: those with a plain ending such as `png` first, as they are the sample's own, then those
    /// with a longer one such as `mask.png`; each in the order of the archive.
    pub(super) fn images(&self) -> impl Iterator<Item = &Member> {
        let of = move |is_plain: bool| {
            let all = self.members.iter().filter(|member| member.kind == Kind::Image);
            all.filter(move |member| member.ending.contains('.') != is_plain)
        };
        of(true).chain(of(false))
    }

    /// The file name of a member.
    pub(super) fn name_of(&self, member: &Member) -> String {
        format!("{}.{}", self.key, member.ending)
    }
}

fn not_read(ending: &str) -> String {
    let last = last_part(ending);
    format!(".{last} members are not read; PNG, JPEG, WebP, text, numbers (.cls) and JSON are")
}

/// Key and ending of the member `name`, `None` for what holds no data, or why it is in no sample. The key
/// includes the directory and ends at the first dot of the file name.
fn place(name: &str, kind: EntryType) -> std::result::Result<Option<(&str, &str)>, &'static str> {
    if kind.is_dir() || kind.is_pax_global_extensions() {
        return Ok(None);
    }
    if !kind.is_file() && !kind.is_contiguous() && !kind.is_gnu_sparse() {
        return Err("links and devices in an archive are not followed");
    }
    let name = name.strip_prefix("./").unwrap_or(name);
    let first = name.split('/').next().unwrap_or_default();
    if first.len() >= 4 && first.starts_with("__") && first.ends_with("__") {
        return Err("members of names such as __meta__ belong to no sample");
    }
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[file..].find('.') {
        Some(0) => Err("members of hidden names belong to no sample"),
        Some(dot) => Ok(Some((&name[..file + dot], &name[file + dot + 1..]))),
        None => Err("members without an ending belong to no sample"),
    }
}

/// Why a member's content is not simply at its place.
fn fault(member: &mut TarEntry<'_, impl std::io::Read>) -> Option<&'static str> {
    const SPARSE: &str = "is stored as a sparse file, which is not read; write the archive without";
    if member.header().entry_type().is_gnu_sparse() {
        return Some(SPARSE);
    }
    let extensions = member.pax_extensions().ok()??;
    let mut keys = extensions.flatten().filter_map(|extension| extension.key().ok());
    keys.any(|key| key.starts_with("GNU.sparse")).then_some(SPARSE)
}

/// The name of a member; bytes that are not UTF-8 are escaped, so that names stay different.
fn name_of(bytes: &[u8]) -> String {
    let mut name = String::new();
    for chunk in bytes.utf8_chunks() {
        name.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|byte| name.push_str(&format!("\\x{byte:02X}")));
    }
    name
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn keys_end_at_the_first_dot_of_the_file_name() {
        let file = EntryType::file();
        for (name, key, ending) in [
            ("a/b.c/d.png", "a/b.c/d", "png"),
            ("./x.TXT", "x", "TXT"),
            ("x.seg.png", "x", "seg.png"),
            ("22.05.png", "22", "05.png"),
            ("__a.png", "__a", "png"),
        ] {
            assert_eq!(place(name, file), Ok(Some((key, ending))), "{name}");
        }
        for (name, words) in [
            ("x", "without an ending"),
            (".png", "hidden"),
            ("__MACOSX/._x.png", "hidden"),
            ("__meta__", "__meta__"),
            ("__index__/x.json", "__meta__"),
        ] {
            assert!(place(name, file).unwrap_err().contains(words), "{name}");
        }
        assert_eq!(place("dir/", EntryType::dir()), Ok(None));
        assert!(place("x.png", EntryType::symlink()).unwrap_err().contains("links"));
    }

    #[test]
    fn kinds_go_by_the_last_part_of_the_ending() {
        for (ending, kind) in [
            ("png", Ok(Kind::Image)),
            ("left.jpg", Ok(Kind::Image)),
            ("caption.txt", Ok(Kind::Text)),
            ("cls2", Ok(Kind::Integer)),
            ("meta.jsn", Ok(Kind::Json)),
            ("png.npy", Err(endings::Kind::Other)),
            ("depth.tiff", Err(endings::Kind::OtherImage)),
        ] {
            assert_eq!(Kind::of(ending), kind, "{ending}");
        }
    }

    #[test]
    fn names_that_are_not_utf_8_stay_different() {
        assert_eq!(name_of(b"caf\xE9.png"), "caf\\xE9.png");
        assert_ne!(name_of(b"\xE8.png"), name_of(b"\xE9.png"));
    }
}
