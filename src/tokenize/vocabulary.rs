//! The meaning of ids: codes of images, control tokens, text.
//!
//! Tokens are identified by *name*. In the original release the id of a code is `4 + code`, but a
//! vocabulary may order them differently, so the offset is never assumed.

use std::collections::BTreeMap;
use std::fmt::Display;

use super::token::{
    BEGIN_IMAGE_TOKEN, BOS_TOKEN, CODE_PREFIX, END_IMAGE_TOKEN, EOS_TOKEN, IMAGE_TOKEN,
    IMAGE_TOKEN_META, PAD_TOKEN, SEP_TOKEN, TokenClass, UNK_TOKEN, code_of, code_token,
    visual_token,
};
use crate::error::{Error, Result};

/// Error messages list at most this many missing names or ids.
const LISTED: usize = 8;

/// Ids of the control tokens, with the names that they have in Chameleon's vocabulary. A text model has no ids of
/// images, no separator, and begin-of-text only if its tokenizer adds one; one that is extended by images has no
/// separator either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecialIds {
    /// `<s>`, the first id of every row.
    pub bos: Option<u32>,
    /// `<pad>`.
    pub pad: u32,
    /// `</s>`, the last id of a document.
    pub eos: u32,
    /// `<racm3:break>`, before the codes of an image.
    pub begin_image: Option<u32>,
    /// `<eoss>`, after the codes of an image.
    pub end_image: Option<u32>,
    /// `<reserved08706>`, the separator after every turn but the last.
    pub sep: Option<u32>,
    /// `<image>` (Hugging Face) or `<reserved08707>` (original release), if there is one.
    pub image_placeholder: Option<u32>,
}

impl SpecialIds {
    /// The number of `ids` before what ends an answer.
    pub fn without_end(&self, ids: &[u32]) -> usize {
        let is_end = |id: &u32| *id == self.eos || Some(*id) == self.sep;
        ids.iter().rposition(|id| !is_end(id)).map_or(0, |at| at + 1)
    }
}

/// The meaning of every id: names, classes, and the tables between codes and ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    names: Vec<String>,
    classes: Vec<TokenClass>,
    image_ids: Vec<u32>,
    image_codes: Vec<Option<u32>>,
    control: BTreeMap<String, u32>,
    special: SpecialIds,
}

impl Vocabulary {
    /// Chameleon's vocabulary, from names and ids in any order: a tokenizer's vocabulary with its
    /// added tokens, or the `vocabulary_map` of a Hugging Face configuration.
    ///
    /// # Errors
    /// If an id occurs twice or is missing, a code below the largest is missing, or a control token
    /// is; the message lists what is missing.
    pub fn from_names<N: Into<String>>(
        entries: impl IntoIterator<Item = (N, u32)>,
    ) -> Result<Self> {
        let mut entries: Vec<(u32, String)> =
            entries.into_iter().map(|(name, id)| (id, name.into())).collect();
        entries.sort();
        check_dense(&entries)?;
        let names: Vec<String> = entries.into_iter().map(|(_, name)| name).collect();
        let image_ids = image_ids(&names)?;
        if image_ids.is_empty() {
            return Err(Error::invalid(format!(
                "vocabulary has no image tokens; their names start with {CODE_PREFIX}"
            )));
        }
        let classes: Vec<TokenClass> = names.iter().map(|name| TokenClass::of_name(name)).collect();
        let control = control(&names, &classes);
        let special = special_ids(&control)?;
        let image_codes = by_id(&image_ids, names.len());
        Ok(Self { names, classes, image_ids, image_codes, control, special })
    }

    /// The vocabulary of a text model, also of one that is extended by images: names by id, whether each is a control
    /// token, and the ids that have a role. Codes are the names of [`visual_token`]; ids without a name get one.
    ///
    /// # Errors
    /// If a code below the largest is missing, or there are codes and nothing begins or ends an image.
    ///
    /// # Panics
    /// If there are not as many flags as names, or an id is beyond the names.
    pub fn with_roles(
        names: Vec<Option<String>>,
        is_control: &[bool],
        special: SpecialIds,
    ) -> Result<Self> {
        assert_eq!(names.len(), is_control.len(), "a flag for every name");
        let is_control = names.iter().zip(is_control).map(|(name, flag)| name.is_none() || *flag);
        let class = |is_control| if is_control { TokenClass::Special } else { TokenClass::Text };
        let mut classes: Vec<TokenClass> = is_control.map(class).collect();
        let names = names.into_iter().enumerate();
        let names: Vec<String> =
            names.map(|(id, name)| name.unwrap_or_else(|| format!("<hole {id}>"))).collect();
        let image_ids = image_ids(&names)?;
        if !image_ids.is_empty() {
            let (Some(begin), Some(end)) = (special.begin_image, special.end_image) else {
                let message = "vocabulary has image tokens, but none that begins or ends an image";
                return Err(Error::invalid(message));
            };
            image_ids.iter().for_each(|id| classes[*id as usize] = TokenClass::Image);
            classes[begin as usize] = TokenClass::BeginImage;
            classes[end as usize] = TokenClass::EndImage;
        }
        let control = control(&names, &classes);
        let image_codes = by_id(&image_ids, names.len());
        Ok(Self { names, classes, image_ids, image_codes, control, special })
    }

    /// Whether it has codes of images.
    pub fn has_images(&self) -> bool {
        !self.image_ids.is_empty()
    }

    /// The number of ids: they are `0..len`.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there are no ids; always `false`, as a vocabulary needs control tokens.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The role of `id`; [`TokenClass::Special`] beyond the vocabulary, where the embedding of a
    /// model may be padded.
    pub fn class(&self, id: u32) -> TokenClass {
        self.classes.get(id as usize).copied().unwrap_or(TokenClass::Special)
    }

    /// The id of `code`; `None` beyond the codebook.
    pub fn image_id(&self, code: u32) -> Option<u32> {
        self.image_ids.get(code as usize).copied()
    }

    /// The code of `id`; `None` if `id` is no image token.
    pub fn image_code(&self, id: u32) -> Option<u32> {
        self.image_codes.get(id as usize).copied().flatten()
    }

    /// The ids of all codes, by code.
    pub fn image_ids(&self) -> &[u32] {
        &self.image_ids
    }

    /// The first and the last id of the image codes, if these are all ids between them.
    pub fn image_range(&self) -> Option<[u32; 2]> {
        let (first, last) = (*self.image_ids.iter().min()?, *self.image_ids.iter().max()?);
        ((last - first) as usize + 1 == self.image_ids.len()).then_some([first, last])
    }

    /// The number of codes: the size of the codebook.
    pub fn num_codes(&self) -> usize {
        self.image_ids.len()
    }

    /// The ids of the control tokens.
    pub fn special(&self) -> &SpecialIds {
        &self.special
    }

    /// The id of the control token called `name`.
    pub fn control_id(&self, name: &str) -> Option<u32> {
        self.control.get(name).copied()
    }

    /// The id of the token called `name`, found by looking at every name.
    pub(super) fn id(&self, name: &str) -> Option<u32> {
        self.names.iter().position(|known| known == name).map(|id| id as u32)
    }

    /// The names of all ids, by id.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The name of `id`.
    pub fn name(&self, id: u32) -> Option<&str> {
        self.names.get(id as usize).map(String::as_str)
    }
}

/// Checks that the sorted ids are 0, 1, 2 and so on.
fn check_dense(entries: &[(u32, String)]) -> Result<()> {
    let mut taken = Vec::new();
    let mut missing = Vec::new();
    let mut gaps = 0usize;
    let mut next = 0u32;
    for (position, (id, name)) in entries.iter().enumerate() {
        if position > 0 && entries[position - 1].0 == *id {
            taken.push(format!("{id} ({} and {name})", entries[position - 1].1));
            continue;
        }
        gaps += (*id - next) as usize;
        missing.extend((next..*id).take(LISTED.saturating_sub(missing.len())));
        next = id.saturating_add(1);
    }
    if !taken.is_empty() {
        let count = taken.len();
        return Err(Error::invalid(format!("vocabulary ids taken twice: {}", list(taken, count))));
    }
    if gaps > 0 {
        let found = entries.len();
        let message = format!(
            "vocabulary has {found} names but {gaps} ids without one: {}",
            list(missing, gaps)
        );
        return Err(Error::invalid(message));
    }
    Ok(())
}

/// The ids of the codes, by code; none for a text model.
fn image_ids(names: &[String]) -> Result<Vec<u32>> {
    let mut found = BTreeMap::new();
    for (id, name) in (0u32..).zip(names) {
        let Some(code) = code_of(name) else { continue };
        if let Some(other) = found.insert(code, id) {
            let message = format!("code {code} has two image tokens, {other} and {id}");
            return Err(Error::invalid(message));
        }
    }
    let Some((&largest, &last)) = found.last_key_value() else { return Ok(Vec::new()) };
    let gaps = largest as usize + 1 - found.len();
    if gaps > 0 {
        let is_visual = names[last as usize] == visual_token(largest);
        let missing = (0..largest).filter(|code| !found.contains_key(code)).take(LISTED);
        return Err(Error::invalid(format!(
            "vocabulary has image tokens up to code {largest} but lacks {gaps} of them: {}",
            list(missing.map(if is_visual { visual_token } else { code_token }), gaps)
        )));
    }
    Ok(found.into_values().collect())
}

/// The codes of `len` ids, of which those of the codes are `image_ids`.
fn by_id(image_ids: &[u32], len: usize) -> Vec<Option<u32>> {
    let mut codes = vec![None; len];
    for (code, id) in (0u32..).zip(image_ids) {
        codes[*id as usize] = Some(code);
    }
    codes
}

/// The ids of the control tokens.
fn control(names: &[String], classes: &[TokenClass]) -> BTreeMap<String, u32> {
    let all = (0u32..).zip(names.iter().zip(classes));
    all.filter(|(_, (_, class))| !matches!(class, TokenClass::Text | TokenClass::Image))
        .map(|(id, (name, _))| (name.clone(), id))
        .collect()
}

fn special_ids(control: &BTreeMap<String, u32>) -> Result<SpecialIds> {
    let mut missing = Vec::new();
    let mut id = |name: &'static str| match control.get(name) {
        Some(id) => *id,
        None => {
            missing.push(name);
            0
        }
    };
    id(UNK_TOKEN);
    let special = SpecialIds {
        bos: Some(id(BOS_TOKEN)),
        pad: id(PAD_TOKEN),
        eos: id(EOS_TOKEN),
        begin_image: Some(id(BEGIN_IMAGE_TOKEN)),
        end_image: Some(id(END_IMAGE_TOKEN)),
        sep: Some(id(SEP_TOKEN)),
        image_placeholder: control
            .get(IMAGE_TOKEN)
            .or_else(|| control.get(IMAGE_TOKEN_META))
            .copied(),
    };
    if missing.is_empty() {
        return Ok(special);
    }
    let count = missing.len();
    Err(Error::invalid(format!("vocabulary lacks control tokens: {}", list(missing, count))))
}

/// The first few of `count` items, and how many more there are.
fn list(items: impl IntoIterator<Item = impl Display>, count: usize) -> String {
    let shown: Vec<String> = items.into_iter().take(LISTED).map(|item| item.to_string()).collect();
    let rest = count - shown.len();
    let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    shown.join(", ") + &more
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn names(codes: u32) -> Vec<(String, u32)> {
        let control = [BOS_TOKEN, PAD_TOKEN, EOS_TOKEN, UNK_TOKEN];
        let control = control.into_iter().map(str::to_owned);
        let after = [END_IMAGE_TOKEN, BEGIN_IMAGE_TOKEN, SEP_TOKEN, IMAGE_TOKEN, "a", "</"];
        let after = after.into_iter().map(str::to_owned);
        control.chain((0..codes).map(code_token)).chain(after).zip(0..).collect()
    }

    #[test]
    fn tables_follow_names_whatever_the_order_of_ids() {
        let size = names(12).len() as u32;
        let permuted = names(12).into_iter().map(|(name, id)| (name, (id * 5 + 3) % size));
        let permuted: Vec<(String, u32)> = permuted.collect();
        let vocabulary = Vocabulary::from_names(permuted.clone()).unwrap();
        for (name, id) in permuted {
            assert_eq!(vocabulary.name(id), Some(name.as_str()));
            assert_eq!(vocabulary.image_code(id), code_of(&name));
            assert_eq!(vocabulary.class(id), TokenClass::of_name(&name));
        }
        for code in 0..12 {
            assert_eq!(vocabulary.image_code(vocabulary.image_id(code).unwrap()), Some(code));
        }
        assert_eq!(vocabulary.image_id(12), None);
        assert_eq!(vocabulary.num_codes(), 12);
        assert_eq!(vocabulary.class(size), TokenClass::Special);
    }

    #[test]
    fn gaps_name_what_is_missing() {
        let without = |left_out: &'static str, last: &str| {
            let mut entries = names(12);
            let id = entries.iter().find(|(name, _)| name == left_out).unwrap().1;
            entries.retain(|(name, _)| name != left_out);
            // The last name takes the free id, so that only the name is missing.
            entries.iter_mut().find(|(name, _)| name == last).unwrap().1 = id;
            Vocabulary::from_names(entries).unwrap_err().to_string()
        };
        assert_eq!(without(SEP_TOKEN, "</"), "vocabulary lacks control tokens: <reserved08706>");
        let codes = without("IMGIMGDZ", "</");
        assert!(codes.contains("up to code 11 but lacks 1 of them: IMGIMGDZ"), "{codes}");
        let mut entries = names(12);
        entries.remove(5);
        let ids = Vocabulary::from_names(entries.clone()).unwrap_err().to_string();
        assert_eq!(ids, "vocabulary has 21 names but 1 ids without one: 5");
        entries.push(("again".into(), 7));
        let twice = Vocabulary::from_names(entries).unwrap_err().to_string();
        assert!(twice.starts_with("vocabulary ids taken twice: 7 ("), "{twice}");
        let mut entries = names(12);
        entries.push((visual_token(7), entries.len() as u32));
        let named_twice = Vocabulary::from_names(entries).unwrap_err().to_string();
        assert_eq!(named_twice, "code 7 has two image tokens, 11 and 22");
        assert!(Vocabulary::from_names([("a", 0), ("b", u32::MAX)]).is_err());
        assert!(Vocabulary::from_names([("a", 0)]).unwrap_err().to_string().contains("no image"));
    }

    #[test]
    fn roles_make_a_text_vocabulary_one_of_images() {
        let names: Vec<Option<String>> = ["a", "<end>", "<boi>", "<eoi>"]
            .into_iter()
            .map(|name| Some(name.to_owned()))
            .chain([None])
            .chain((0..3).map(|code| Some(visual_token(code))))
            .collect();
        let is_control = [false, true, true, true, false, true, true, true];
        let text = SpecialIds {
            bos: None,
            pad: 1,
            eos: 1,
            begin_image: None,
            end_image: None,
            sep: None,
            image_placeholder: None,
        };
        let special = SpecialIds { begin_image: Some(2), end_image: Some(3), ..text };
        let vocabulary = Vocabulary::with_roles(names.clone(), &is_control, special).unwrap();
        assert_eq!(vocabulary.image_ids(), [5, 6, 7]);
        assert_eq!(vocabulary.image_code(6), Some(1));
        assert_eq!(vocabulary.name(4), Some("<hole 4>"));
        let classes: Vec<TokenClass> = (0..6).map(|id| vocabulary.class(id)).collect();
        use TokenClass::{BeginImage, EndImage, Image, Special, Text};
        assert_eq!(classes, [Text, Special, BeginImage, EndImage, Special, Image]);
        let error = |names, special| {
            Vocabulary::with_roles(names, &is_control, special).unwrap_err().to_string()
        };
        assert!(error(names.clone(), text).contains("none that begins or ends an image"));
        let mut without = names.clone();
        without[5] = None;
        assert!(error(without, special).contains("lacks 1 of them: <|visual token 000000|>"));
        let of_text = Vocabulary::with_roles(names[..4].to_vec(), &is_control[..4], text).unwrap();
        assert!(!of_text.has_images());
    }
}
