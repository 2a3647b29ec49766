//! Paths: brace, glob and comma lists, names that must stay inside a directory, positioned reads.

use std::fs::File;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::{Error, Result};

/// Most files that one spec may name.
const MAX_FILES: usize = 100_000;

/// The files that `spec` names: a path, a brace list, a glob, or several of these with commas
/// between them. A path that exists is taken literally.
pub(super) fn expand(spec: &str) -> Result<Vec<PathBuf>> {
    if spec.trim().is_empty() {
        return Err(Error::invalid("a data set needs a path; the given one is empty".to_owned()));
    }
    if super::shards::is_url(spec) {
        return Err(Error::invalid(format!(
            "data set {spec:?}: at a URL there can be token shards only; fetch other data sets first"
        )));
    }
    if Path::new(spec).exists() {
        return Ok(vec![PathBuf::from(spec)]);
    }
    let mut files = Vec::new();
    for part in split_top_level(spec) {
        for name in braces(part.trim())? {
            match Path::new(&name).exists() || !name.contains(['*', '?', '[']) {
                true => files.push(PathBuf::from(name)),
                false => files.extend(glob(&name)?),
            }
        }
        if files.len() > MAX_FILES {
            return Err(too_many(spec));
        }
    }
    Ok(files)
}

/// Adds size in bytes and time of change in nanoseconds since 1970 of the file at `path`, or of all
/// files below it, in order.
pub(super) fn states(path: &Path, states: &mut Vec<(PathBuf, u64, u64)>) -> Result<()> {
    let metadata = std::fs::metadata(path).map_err(Error::io(path))?;
    if !metadata.is_dir() {
        let changed = metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let changed = changed.map_or(0, |since| since.as_nanos() as u64);
        states.push((path.to_owned(), metadata.len(), changed));
        return Ok(());
    }
    let entries = std::fs::read_dir(path).map_err(Error::io(path))?;
    let mut inside: Vec<PathBuf> = entries
        .map(|entry| entry.map(|e| e.path()))
        .collect::<io::Result<_>>()
        .map_err(Error::io(path))?;
    inside.sort();
    inside.iter().try_for_each(|path| self::states(path, states))
}

fn too_many(spec: &str) -> Error {
    Error::invalid(format!("data set {spec:?}: names more than {MAX_FILES} files"))
}

/// Splits at commas outside braces.
fn split_top_level(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0usize, 0);
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// Expands `{0000..0007}` and `{a,b}`, nested ones too.
fn braces(pattern: &str) -> Result<Vec<String>> {
    let Some(open) = pattern.find('{') else { return Ok(vec![pattern.to_owned()]) };
    let mut depth = 0usize;
    let close = pattern[open..].char_indices().find_map(|(at, c)| {
        depth = match c {
            '{' => depth + 1,
            '}' => depth - 1,
            _ => depth,
        };
        (depth == 0).then_some(open + at)
    });
    let Some(close) = close else {
        return Err(Error::invalid(format!("data set {pattern:?}: a {{ has no matching }}")));
    };
    let mut choices = Vec::new();
    for choice in alternatives(pattern, &pattern[open + 1..close])? {
        choices.extend(braces(&choice)?);
    }
    let tails = braces(&pattern[close + 1..])?;
    if choices.len().saturating_mul(tails.len()) > MAX_FILES {
        return Err(too_many(pattern));
    }
    let head = &pattern[..open];
    Ok(choices.iter().flat_map(|c| tails.iter().map(move |t| format!("{head}{c}{t}"))).collect())
}

fn alternatives(pattern: &str, inner: &str) -> Result<Vec<String>> {
    let listed = split_top_level(inner);
    if listed.len() > 1 {
        return Ok(listed.into_iter().map(str::to_owned).collect());
    }
    let range = inner.split_once("..").and_then(|(first, last)| {
        let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        (digits(first) && digits(last)).then_some(())?;
        let width = first.len().max(last.len());
        let padded = first.starts_with('0') || last.starts_with('0');
        let bounds = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
        Some((bounds.0, bounds.1, if padded { width } else { 0 }))
    });
    match range {
        Some((first, last, _)) if last < first => Err(Error::invalid(format!(
            "data set {pattern:?}: the range {{{inner}}} runs backwards"
        ))),
        Some((first, last, _)) if last - first >= MAX_FILES as u64 => Err(too_many(pattern)),
        Some((first, last, width)) => Ok((first..=last).map(|n| format!("{n:0width$}")).collect()),
        None => Err(Error::invalid(format!(
            "data set {pattern:?}: {{{inner}}} is no list; allowed are {{0000..0007}} and {{a,b}}"
        ))),
    }
}

/// Existing paths that match `pattern`, sorted; at least one.
fn glob(pattern: &str) -> Result<Vec<PathBuf>> {
    let mut found = vec![PathBuf::new()];
    for component in Path::new(pattern).components() {
        let text = component.as_os_str().to_string_lossy();
        match component {
            Component::Normal(_) if text.contains(['*', '?', '[']) => {
                let glob = Glob::parse(&text);
                let mut next = Vec::new();
                for dir in found.iter().filter(|d| d.as_os_str().is_empty() || d.is_dir()) {
                    next.extend(matching(dir, &glob)?);
                }
                found = next;
            }
            _ => found.iter_mut().for_each(|path| path.push(component)),
        }
    }
    found.retain(|path| path.exists());
    match found.is_empty() {
        true => Err(Error::invalid(format!("data set {pattern:?}: no file matches"))),
        false => Ok(found),
    }
}

fn matching(dir: &Path, glob: &Glob) -> Result<Vec<PathBuf>> {
    let place = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(place).map_err(Error::io(place))? {
        let name = entry.map_err(Error::io(place))?.file_name();
        if glob.matches(&name.to_string_lossy()) {
            found.push(dir.join(name));
        }
    }
    found.sort();
    Ok(found)
}

/// One component of a glob.
struct Glob(Vec<GlobPart>);

enum GlobPart {
    Run,
    One(Vec<(char, char)>),
}

impl Glob {
    /// `*` any run, `?` any character, `[a-z0]` one of a set (literal where it is not closed).
    fn parse(pattern: &str) -> Self {
        let chars: Vec<char> = pattern.chars().collect();
        let (mut parts, mut at) = (Vec::new(), 0);
        while at < chars.len() {
            let close = chars[at..].iter().skip(2).position(|&c| c == ']').map(|n| at + n + 2);
            match (chars[at], close) {
                ('*', _) => parts.push(GlobPart::Run),
                ('?', _) => parts.push(GlobPart::One(vec![('\0', char::MAX)])),
                ('[', Some(close)) => {
                    parts.push(GlobPart::One(ranges(&chars[at + 1..close])));
                    at = close;
                }
                (c, _) => parts.push(GlobPart::One(vec![(c, c)])),
            }
            at += 1;
        }
        Self(parts)
    }

    fn matches(&self, name: &str) -> bool {
        let names_hidden =
            matches!(self.0.first(), Some(GlobPart::One(set)) if set == &[('.', '.')]);
        if name.starts_with('.') && !names_hidden {
            return false;
        }
        let name: Vec<char> = name.chars().collect();
        // reached[n]: the parts so far match the first n characters
        let mut reached = vec![false; name.len() + 1];
        reached[0] = true;
        for part in &self.0 {
            let mut next = vec![false; name.len() + 1];
            for n in 0..=name.len() {
                next[n] = match part {
                    GlobPart::Run => reached[n] || n > 0 && next[n - 1],
                    GlobPart::One(set) => {
                        n > 0
                            && reached[n - 1]
                            && set.iter().any(|(low, high)| (low..=high).contains(&&name[n - 1]))
                    }
                };
            }
            reached = next;
        }
        reached[name.len()]
    }
}

fn ranges(set: &[char]) -> Vec<(char, char)> {
    let (mut ranges, mut at) = (Vec::new(), 0);
    while at < set.len() {
        match (set.get(at + 1), set.get(at + 2)) {
            (Some('-'), Some(&last)) => {
                ranges.push((set[at], last));
                at += 3;
            }
            _ => {
                ranges.push((set[at], set[at]));
                at += 1;
            }
        }
    }
    ranges
}

/// `dir/name`, where `name` may not leave `dir`.
pub(super) fn inside(dir: &Path, name: &str) -> std::result::Result<PathBuf, String> {
    let stays = !name.is_empty()
        && Path::new(name)
            .components()
            .all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    match stays {
        true => Ok(dir.join(name)),
        false => Err(format!(
            "file name {name:?} is not allowed; it must be relative and without .. components"
        )),
    }
}

/// The content of a regular file; devices and pipes, which may never end, are refused.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    match std::fs::metadata(path)?.is_file() {
        true => std::fs::read(path),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
    }
}

/// `len` bytes of `file` from `offset`; the file's own position is neither used nor changed.
pub(super) fn read_at(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    read_exact_at(file, &mut bytes, offset)?;
    Ok(bytes)
}

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                bytes = &mut bytes[read..];
                offset += read as u64;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn brace_ranges_keep_their_width() {
        let names = braces("a-{08..11}.tar").unwrap();
        assert_eq!(names, ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]);
        assert_eq!(braces("{8..10}").unwrap(), ["8", "9", "10"]);
    }

    #[test]
    fn brace_lists_nest_and_multiply() {
        let names = braces("{a,b{0..1}}-{x,y}").unwrap();
        assert_eq!(names, ["a-x", "a-y", "b0-x", "b0-y", "b1-x", "b1-y"]);
    }

    #[test]
    fn wrong_brace_lists_are_errors_that_say_what_is_allowed() {
        for (pattern, words) in [
            ("a-{0000..0007.tar", "no matching }"),
            ("a-{7..0}.tar", "runs backwards"),
            ("a-{x}.tar", "allowed are {0000..0007} and {a,b}"),
            ("a-{0..9999999}.tar", "more than"),
            ("{0..999}{0..999}", "more than"),
        ] {
            let message = braces(pattern).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        }
    }

    #[test]
    fn commas_inside_braces_do_not_split() {
        assert_eq!(split_top_level("a-{1,2}.tar,b.tar"), ["a-{1,2}.tar", "b.tar"]);
    }

    #[test]
    fn globs_match_as_a_shell_does() {
        let matches = |pattern: &str, name: &str| Glob::parse(pattern).matches(name);
        assert!(matches("*.tar", "a.tar") && !matches("*.tar", ".a.tar"));
        assert!(matches("a?c*", "abcde") && !matches("a?c", "ac"));
        assert!(matches("x[0-3].tar", "x2.tar") && !matches("x[0-3].tar", "x4.tar"));
        assert!(matches("*a*b*", "xaxxbx") && !matches("*a*b*", "xbxa"));
    }

    #[test]
    fn names_cannot_leave_their_directory() {
        let dir = Path::new("d");
        assert_eq!(inside(dir, "a/b.png").unwrap(), Path::new("d/a/b.png"));
        for name in ["", "/etc/passwd", "../a.png", "a/../../b.png"] {
            assert!(inside(dir, name).unwrap_err().contains("without .."), "{name}");
        }
    }
}
