//! The ids and names that a text model's vocabulary gets.

use std::ops::Range;

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::tokenize::{TextTokenizer, TokenClass, visual_token};

/// The number of rows is a multiple of this, as matrix products on GPUs like it.
const MULTIPLE: usize = 64;
/// Names of codes have six digits.
const MOST_CODES: usize = 1_000_000;

/// The names of the tokens around and for images; `None` for the default.
#[derive(Clone, Debug, Default)]
pub struct MarkerNames {
    /// Before the codes of an image; by default `<|vision_start|>`, or a new `<|image start|>`.
    pub begin_image: Option<String>,
    /// After them; by default `<|vision_end|>`, or a new `<|image end|>`.
    pub end_image: Option<String>,
    /// What stands for a code in texts of other programs; by default `<|image_pad|>`, or a new `<|image|>`.
    pub placeholder: Option<String>,
}

/// A token around or for images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    /// Its key in `tokenizer_config.json`, as in transformers.
    pub role: &'static str,
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: u32,
    /// Whether the text model has it already.
    pub is_reused: bool,
}

/// The ids of an extended model: the old rows, the markers that are new, rows that fill up to a multiple of 64, and the
/// codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Rows of the text model.
    pub old_rows: usize,
    /// The tokens around and for images.
    pub markers: [Marker; 3],
    /// Ids that never had a name and get one, as ids must be dense.
    pub holes: Vec<u32>,
    /// The ids of the codes, the last ones.
    pub codes: Range<u32>,
    /// Whether an old row has a name.
    is_named: Vec<bool>,
    /// The first id that gets a name.
    first: usize,
    /// The new names, from `first` on.
    names: Vec<String>,
}

impl Plan {
    /// The ids of a model of `old_rows` rows with the tokenizer `text`, extended by `num_codes` codes.
    ///
    /// # Errors
    /// Those of the vocabulary; [`Error::Invalid`] if there are too many codes, or a marker is text, another role's,
    /// or given twice.
    pub fn new(
        text: &TextTokenizer,
        old_rows: usize,
        num_codes: usize,
        markers: &MarkerNames,
    ) -> Result<Self> {
        if num_codes > MOST_CODES {
            let message =
                format!("the image tokenizer has {num_codes} codes; allowed: up to {MOST_CODES}");
            return Err(Error::invalid(message));
        }
        let first = text.vocab_size();
        let mut names: Vec<String> = (first..old_rows).map(hole).collect();
        let mut holes: Vec<u32> = (first as u32..old_rows as u32).collect();
        let markers = placed(text, markers, &mut names)?;
        let before = first + names.len();
        let end = (before + num_codes).next_multiple_of(MULTIPLE);
        let first_code = end - num_codes;
        names.extend((before..first_code).map(hole));
        holes.extend(before as u32..first_code as u32);
        names.extend((0..num_codes as u32).map(visual_token));
        let is_named = (0..old_rows).map(|id| text.token(id as u32).is_some()).collect();
        let codes = first_code as u32..end as u32;
        Ok(Self { old_rows, markers, holes, codes, is_named, first, names })
    }

    /// Rows of embedding and output layer.
    pub fn num_rows(&self) -> usize {
        self.codes.end as usize
    }

    /// Whether the old row `id` is that of a token.
    pub(super) fn is_named(&self, id: usize) -> bool {
        self.is_named[id]
    }

    /// The content of a `tokenizer.json` with the new names as special tokens.
    ///
    /// # Errors
    /// If it is no tokenizer, or gives them other ids.
    pub(super) fn tokenizer(&self, mut json: Value) -> Result<Value> {
        let added = json.get_mut("added_tokens").and_then(Value::as_array_mut);
        let added = added.ok_or_else(|| Error::invalid("added_tokens is missing or no list"))?;
        added.extend((self.first..).zip(&self.names).map(|(id, name)| {
            json!({
                "id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true,
            })
        }));
        let text = TextTokenizer::from_bytes(json.to_string().as_bytes())?;
        // The library gives added tokens the ids after all others, whatever the file says.
        for (id, name) in (self.first as u32..).zip(&self.names) {
            let found = text.token(id);
            if found.as_ref() != Some(name) {
                let found = found.as_deref().unwrap_or("nothing");
                let message =
                    format!("id {id} would be {found} in place of {name}; its ids are not dense");
                return Err(Error::invalid(message));
            }
        }
        Ok(json)
    }

    /// The content `settings` of a `tokenizer_config.json` with the roles of the markers.
    pub(super) fn with_roles(&self, mut settings: Map<String, Value>) -> Map<String, Value> {
        let roles = self.markers.iter();
        settings.extend(roles.map(|marker| (marker.role.to_owned(), json!(marker.name))));
        settings
    }
}

/// The name of an id that stands for nothing.
fn hole(id: usize) -> String {
    format!("<|hole {id:06}|>")
}

/// The ids of the markers `wanted`; new ones follow the ids of `text` and `names`, to which they are added.
fn placed(
    text: &TextTokenizer,
    wanted: &MarkerNames,
    names: &mut Vec<String>,
) -> Result<[Marker; 3]> {
    let vocabulary = text.vocabulary()?;
    let MarkerNames { begin_image, end_image, placeholder } = wanted;
    let mut found = Vec::<String>::new();
    let mut place = |role, wanted: &Option<String>, usual: &str, new: &str| {
        let usual = if text.id(usual).is_some() { usual } else { new };
        let name = wanted.clone().unwrap_or_else(|| usual.to_owned());
        let refused = |why: &str| {
            Err(Error::invalid(format!(
                "{role} is {name:?}, {why}; allowed: a new name or that of a special token"
            )))
        };
        if name.is_empty() || found.contains(&name) {
            return refused("which is empty or another marker's name");
        }
        found.push(name.clone());
        if let Some(id) = text.id(&name) {
            let special = vocabulary.special();
            if [special.bos, Some(special.eos), Some(special.pad)].contains(&Some(id)) {
                return refused("which begins, ends or fills texts");
            }
            return match vocabulary.class(id) {
                TokenClass::Special => Ok(Marker { role, name, id, is_reused: true }),
                _ => refused("which is text"),
            };
        }
        let id = (text.vocab_size() + names.len()) as u32;
        names.push(name.clone());
        Ok(Marker { role, name, id, is_reused: false })
    };
    Ok([
        place("boi_token", begin_image, "<|vision_start|>", "<|image start|>")?,
        place("eoi_token", end_image, "<|vision_end|>", "<|image end|>")?,
        place("image_token", placeholder, "<|image_pad|>", "<|image|>")?,
    ])
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::tokenize::RoleNames;

    fn tokenizer() -> TextTokenizer {
        let path = "tests/fixtures/architectures/llama-gqa/tokenizer.json";
        let text = TextTokenizer::load(path.as_ref()).unwrap();
        let [eos, pad] = ["<|im_end|>", "<|endoftext|>"].map(str::to_owned);
        text.with_roles(&RoleNames { eos, pad: Some(pad), ..RoleNames::default() }).unwrap()
    }

    fn plan(rows: usize, codes: usize, markers: &MarkerNames) -> Result<Plan> {
        Plan::new(&tokenizer(), rows, codes, markers)
    }

    #[test]
    fn codes_are_the_last_ids_of_a_multiple_of_64_rows() {
        for (rows, codes) in [(300, 64), (300, 1024), (300, 211), (300, 212), (320, 5), (17, 1)] {
            let plan = plan(rows, codes, &MarkerNames::default()).unwrap();
            assert_eq!(plan.num_rows() % 64, 0);
            assert_eq!(plan.codes.len(), codes);
            let before = rows.max(300) as u32;
            assert!(plan.codes.start > before && plan.codes.start <= before + 64);
            assert_eq!(plan.holes.len() + 1 + codes, plan.num_rows() - 300);
            let [begin, end, placeholder] = &plan.markers;
            assert_eq!((begin.id, end.id, begin.is_reused, end.is_reused), (298, 299, true, true));
            assert_eq!((placeholder.id, placeholder.is_reused), (before, false));
            let json =
                std::fs::read("tests/fixtures/architectures/llama-gqa/tokenizer.json").unwrap();
            let json = plan.tokenizer(serde_json::from_slice(&json).unwrap()).unwrap();
            let text = TextTokenizer::from_bytes(json.to_string().as_bytes()).unwrap();
            let name = |id| text.token(id).unwrap();
            assert_eq!(name(plan.codes.start), "<|visual token 000000|>");
            assert_eq!(name(plan.codes.end - 1), visual_token(codes as u32 - 1));
            assert!(plan.holes.iter().all(|id| name(*id) == format!("<|hole {id:06}|>")));
        }
    }

    #[test]
    fn markers_that_mean_something_else_are_refused() {
        let named = |name: &str| MarkerNames {
            begin_image: Some(name.to_owned()),
            ..MarkerNames::default()
        };
        let message = |markers| plan(300, 64, &markers).unwrap_err().to_string();
        assert!(message(named("a")).contains("boi_token is \"a\", which is text; allowed"));
        assert!(message(named("<|im_end|>")).contains("begins, ends or fills"));
        let twice = MarkerNames { end_image: Some("<x>".to_owned()), ..named("<x>") };
        assert!(
            message(twice).contains("eoi_token is \"<x>\", which is empty or another marker's")
        );
        let many = plan(300, 1_000_001, &MarkerNames::default()).unwrap_err().to_string();
        assert!(many.contains("1000001 codes; allowed: up to 1000000"), "{many}");
        let reused = plan(300, 64, &named("<|im_start|>")).unwrap();
        assert_eq!((reused.markers[0].id, reused.markers[0].is_reused), (296, true));
    }

    #[test]
    fn a_tokenizer_whose_ids_have_gaps_is_refused() {
        let json = std::fs::read("tests/fixtures/architectures/llama-gqa/tokenizer.json").unwrap();
        let mut json: Value = serde_json::from_slice(&json).unwrap();
        let plan = plan(300, 64, &MarkerNames::default()).unwrap();
        json["model"]["vocab"]["zz"] = json!(310);
        let message = plan.tokenizer(json).unwrap_err().to_string();
        assert!(message.contains("its ids are not dense"), "{message}");
    }
}
