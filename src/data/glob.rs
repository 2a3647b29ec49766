//! Globs: paths with `*`, `?` and `[a-z]` in their components.

use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Result};

/// Existing paths that match `pattern`, sorted; at least one.
pub(super) fn glob(pattern: &str) -> Result<Vec<PathBuf>> {
    let mut found = matches(pattern)?;
    found.retain(|path| path.exists());
    match found.is_empty() {
        true => Err(Error::invalid(format!("data set {pattern:?}: no file matches"))),
        false => Ok(found),
    }
}

/// Paths that match `pattern` in order, links that lead nowhere included.
pub(super) fn matches(pattern: &str) -> Result<Vec<PathBuf>> {
    let mut found = vec![PathBuf::new()];
    for component in Path::new(pattern).components() {
        let text = component.as_os_str().to_string_lossy();
        match component {
            Component::Normal(_) if is_glob(&text) => {
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
    Ok(found)
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

/// Whether `name` holds a character of globs.
pub(super) fn is_glob(name: &str) -> bool {
    name.contains(['*', '?', '['])
}

/// A pattern for one component of a path.
struct Glob(Vec<GlobPart>);

enum GlobPart {
    /// Any run of characters.
    Run,
    /// One character in any of these ranges.
    One(Vec<(char, char)>),
}

impl Glob {
    /// `*` is any run, `?` any character, `[a-z0]` one of a set; an unclosed `[` is literal.
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

    /// Whether `name` matches; hidden names only if the pattern begins with a dot.
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn globs_match_as_a_shell_does() {
        let matches = |pattern: &str, name: &str| Glob::parse(pattern).matches(name);
        assert!(matches("*.tar", "a.tar") && !matches("*.tar", ".a.tar"));
        assert!(matches("a?c*", "abcde") && !matches("a?c", "ac"));
        assert!(matches("x[0-3].tar", "x2.tar") && !matches("x[0-3].tar", "x4.tar"));
        assert!(matches("*a*b*", "xaxxbx") && !matches("*a*b*", "xbxa"));
    }
}
