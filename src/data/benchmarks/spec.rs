//! Specs of benchmarks such as `karpathy:annotations=dataset_coco.json&images=coco&split=test`.

use std::path::Path;

use crate::data::messages::unknown;
use crate::{Error, Result};

/// Supported benchmarks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    VqaV2,
    Gqa,
    TextVqa,
    Pope,
    Coco,
    Karpathy,
    GenEval,
}

/// The only key whose value is not a path.
const SPLIT: &str = "split";

impl Kind {
    const ALL: [Self; 7] = [
        Self::VqaV2,
        Self::Gqa,
        Self::TextVqa,
        Self::Pope,
        Self::Coco,
        Self::Karpathy,
        Self::GenEval,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::VqaV2 => "vqav2",
            Self::Gqa => "gqa",
            Self::TextVqa => "textvqa",
            Self::Pope => "pope",
            Self::Coco => "coco",
            Self::Karpathy => "karpathy",
            Self::GenEval => "geneval",
        }
    }

    /// Required and optional keys.
    fn keys(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Self::VqaV2 => (&["questions", "images"], &["annotations"]),
            Self::Gqa | Self::TextVqa | Self::Pope => (&["questions", "images"], &[]),
            Self::Coco => (&["annotations", "images"], &[]),
            Self::Karpathy => (&["annotations", "images", SPLIT], &[]),
            Self::GenEval => (&["prompts"], &[]),
        }
    }
}

/// Parsed spec: the benchmark and the paths of its files.
#[derive(Debug)]
pub(in crate::data) struct Spec<'a> {
    text: &'a str,
    kind: Kind,
    values: Vec<(&'a str, &'a str)>,
}

impl<'a> Spec<'a> {
    /// Parses `KIND:key=value&key=value`; `None` if `text` names files instead. A value ends at the
    /// next `&` and may contain `=`.
    ///
    /// # Errors
    /// If the kind or a key is unknown, a key is missing or given twice, or a value is empty.
    pub fn parse(text: &'a str) -> Result<Option<Self>> {
        let Some((name, rest)) = text.split_once(':') else { return Ok(None) };
        let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.name() == name) else {
            // A spec of an unknown kind, as opposed to a URL (`https://host/a.tar?b=c`) or a file.
            let word = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric());
            let is_spec = rest.split_once('=').is_some_and(|(key, _)| word(key)) && word(name);
            if !is_spec || Path::new(text).exists() {
                return Ok(None);
            }
            let unknown = unknown("kind", name, &Kind::ALL.map(Kind::name));
            return Err(Error::invalid(format!("data set {text:?}: {unknown}")));
        };
        let mut spec = Self { text, kind, values: Vec::new() };
        rest.split('&').filter(|pair| !pair.is_empty()).try_for_each(|pair| spec.add(pair))?;
        match kind.keys().0.iter().find(|key| spec.find(key).is_none()) {
            Some(missing) => {
                Err(spec.error(format!("key {missing:?} is missing; {}", kind.form())))
            }
            None => Ok(Some(spec)),
        }
    }

    fn add(&mut self, pair: &'a str) -> Result<()> {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(self.error(format!("{pair:?} must have the form key=value")));
        };
        let (required, optional) = self.kind.keys();
        if !required.contains(&key) && !optional.contains(&key) {
            return Err(self.error(unknown("key", key, &[required, optional].concat())));
        }
        if self.find(key).is_some() {
            return Err(self.error(format!("key {key:?} is given twice")));
        }
        if value.is_empty() {
            return Err(self.error(format!("key {key:?} has no value")));
        }
        self.values.push((key, value));
        Ok(())
    }

    fn error(&self, message: String) -> Error {
        Error::invalid(format!("{}: {message}", self.kind.name()))
    }

    fn find(&self, key: &str) -> Option<&'a str> {
        self.values.iter().find(|(known, _)| *known == key).map(|(_, value)| *value)
    }

    /// The spec as given.
    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    /// The benchmark.
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// The value of a required key.
    pub(super) fn get(&self, key: &str) -> &'a str {
        self.find(key).expect("parsing checked the required keys")
    }

    /// The path under a required key.
    pub(super) fn path(&self, key: &str) -> &'a Path {
        Path::new(self.get(key))
    }

    /// The path under an optional key, if given.
    pub(super) fn optional_path(&self, key: &str) -> Option<&'a Path> {
        self.find(key).map(Path::new)
    }
}

impl Kind {
    /// A message that shows the form of a complete spec.
    fn form(self) -> String {
        let (required, optional) = self.keys();
        let keys: Vec<_> = required.iter().map(|key| format!("{key}=...")).collect();
        let more: String = optional.iter().map(|key| format!("[&{key}=...]")).collect();
        format!("a spec has the form {}:{}{more}", self.name(), keys.join("&"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn error(spec: &str) -> String {
        Spec::parse(spec).unwrap_err().to_string()
    }

    #[test]
    fn keys_may_come_in_any_order_and_values_may_contain_equals_signs() {
        let spec = Spec::parse("vqav2:images=a=b/c&questions=q:1.json").unwrap().unwrap();
        assert_eq!((spec.kind(), spec.get("images")), (Kind::VqaV2, "a=b/c"));
        assert_eq!(spec.path("questions"), Path::new("q:1.json"));
        assert_eq!(spec.optional_path("annotations"), None);
    }

    #[test]
    fn errors_of_bad_specs_say_what_is_allowed() {
        for (spec, words) in [
            ("vqav2:question=q", "unknown key \"question\", the nearest is \"questions\""),
            ("gqa:questions=q&annotations=a", "(allowed: questions, images)"),
            ("karpathy:annotations=a&images=b", "key \"split\" is missing"),
            ("vqav2:", "vqav2:questions=...&images=...[&annotations=...]"),
            ("coco:images=a&images=b", "given twice"),
            ("geneval:prompts=", "no value"),
            ("geneval:prompts", "key=value"),
            ("vqa2:questions=q", "unknown kind \"vqa2\", the nearest is \"vqav2\""),
        ] {
            assert!(error(spec).contains(words), "{}", error(spec));
        }
    }

    #[test]
    fn file_names_and_urls_are_not_specs() {
        for name in [
            "a.jsonl",
            "c:\\data=1\\a.tar",
            "dir/x:y=1.tar",
            "a:b.parquet",
            "s3://bucket/a.tar?b=c",
            "https://host/vqav2:questions=1",
        ] {
            assert!(Spec::parse(name).unwrap().is_none(), "{name}");
        }
    }
}
