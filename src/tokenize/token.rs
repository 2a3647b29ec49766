//! Names of tokens, and the roles that follow from them.
//!
//! As in the original release: code 53 is `IMGIMGFDZ` (decimal digits written as A to J), an image opens
//! with `<racm3:break>` and closes with `<eoss>`, and `<reserved08706>` separates turns. In vocabularies that extend
//! one of text, as Emu3's (arXiv 2409.18869), code 53 is `<|visual token 000053|>` and control tokens have any names.

/// The name of begin-of-text, the first token of a row.
pub const BOS_TOKEN: &str = "<s>";
/// The name of padding.
pub const PAD_TOKEN: &str = "<pad>";
/// The name of end-of-text, the last token of a document or answer.
pub const EOS_TOKEN: &str = "</s>";
/// The name of the token for unknown text; byte-level tokenizers never use it.
pub const UNK_TOKEN: &str = "<unk>";
/// The name of end-image.
pub const END_IMAGE_TOKEN: &str = "<eoss>";
/// The name of begin-image.
pub const BEGIN_IMAGE_TOKEN: &str = "<racm3:break>";
/// The name of the separator between a prompt and its answer.
pub const SEP_TOKEN: &str = "<reserved08706>";
/// The name of the placeholder for one code of an image (Hugging Face layout).
pub const IMAGE_TOKEN: &str = "<image>";
/// The placeholder's name in the original release's layout.
pub(super) const IMAGE_TOKEN_META: &str = "<reserved08707>";
/// The name of what opens the rows of an image whose block says its size in digits (Emu3).
pub(super) const ROWS_TOKEN: &str = "<|image token|>";
/// The name of what ends each of these rows.
pub(super) const END_ROW_TOKEN: &str = "<|extra_200|>";
/// The name of what follows the last of them.
pub(super) const END_ROWS_TOKEN: &str = "<|extra_201|>";
/// The prefix of the names of all codes.
pub(super) const CODE_PREFIX: &str = "IMGIMG";
/// The prefix of the names of codes in a vocabulary that extends one of text.
const VISUAL_PREFIX: &str = "<|visual token ";
/// What such a name ends with.
const VISUAL_SUFFIX: &str = "|>";

/// The role of a vocabulary entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenClass {
    /// Text.
    Text,
    /// A code of an image.
    Image,
    /// Opens an image.
    BeginImage,
    /// Closes an image.
    EndImage,
    /// Any other control token, and ids beyond the vocabulary.
    Special,
}

impl TokenClass {
    /// The class of the token called `name`, where names alone tell it.
    ///
    /// Control tokens are the names in angle brackets. The original release counts every name
    /// that starts with `<` and is longer (so also `</`) as control; here it must also end with `>`.
    /// A name with the prefix of a code that is no code's is a control token: it is neither text nor
    /// allowed in an image.
    pub fn of_name(name: &str) -> Self {
        match name {
            BEGIN_IMAGE_TOKEN => Self::BeginImage,
            END_IMAGE_TOKEN => Self::EndImage,
            _ if name.starts_with(CODE_PREFIX) => {
                if token_code(name).is_some() {
                    Self::Image
                } else {
                    Self::Special
                }
            }
            _ if name.len() > 2 && name.starts_with('<') && name.ends_with('>') => Self::Special,
            _ => Self::Text,
        }
    }
}

/// The name of the token for `code`: `IMGIMG`, the decimal digits as letters A to J, `Z`.
pub fn code_token(code: u32) -> String {
    let digits = code.to_string().into_bytes();
    let letters = digits.into_iter().map(|digit| char::from(b'A' + (digit - b'0')));
    CODE_PREFIX.chars().chain(letters).chain(['Z']).collect()
}

/// The name of the token for `code` in a vocabulary that extends one of text: its decimal digits, at least six.
pub fn visual_token(code: u32) -> String {
    format!("{VISUAL_PREFIX}{code:06}{VISUAL_SUFFIX}")
}

/// The code whose token is called `name` in either way; `None` for any other name.
pub(super) fn code_of(name: &str) -> Option<u32> {
    let digits = name.strip_prefix(VISUAL_PREFIX).and_then(|name| name.strip_suffix(VISUAL_SUFFIX));
    let Some(digits) = digits else { return token_code(name) };
    digits.parse().ok().filter(|code| visual_token(*code) == name)
}

/// The code whose token is called `name` by [`code_token`]; `None` for any other name, leading zeros included.
pub(super) fn token_code(name: &str) -> Option<u32> {
    let letters = name.strip_prefix(CODE_PREFIX)?.strip_suffix('Z')?;
    let mut code = 0u32;
    for letter in letters.bytes() {
        let digit = letter.checked_sub(b'A').filter(|digit| *digit < 10)?;
        code = code.checked_mul(10)?.checked_add(u32::from(digit))?;
    }
    (code_token(code) == name).then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_names_are_decimal_digits_as_letters() {
        assert_eq!(code_token(0), "IMGIMGAZ");
        assert_eq!(code_token(53), "IMGIMGFDZ");
        assert_eq!(code_token(8191), "IMGIMGIBJBZ");
        for code in [0, 7, 10, 99, 100, 8191, u32::MAX] {
            assert_eq!(token_code(&code_token(code)), Some(code));
        }
        for name in ["IMGIMGZ", "IMGIMGABZ", "IMGIMGKZ", "IMGIMGA", "IMGAZ", "IMGIMGJJJJJJJJJJJZ"] {
            assert_eq!(token_code(name), None, "{name}");
        }
    }

    #[test]
    fn codes_have_either_name() {
        assert_eq!(visual_token(53), "<|visual token 000053|>");
        for code in [0, 99, 32_767, 999_999, 1_000_000, u32::MAX] {
            assert_eq!(code_of(&visual_token(code)), Some(code));
            assert_eq!(code_of(&code_token(code)), Some(code));
        }
        for digits in ["", "53", "0000053", "+00053", "00005a", "99999999999"] {
            let name = format!("<|visual token {digits}|>");
            assert_eq!(code_of(&name), None, "{name}");
        }
    }

    #[test]
    fn classes_follow_names() {
        assert_eq!(TokenClass::of_name("</"), TokenClass::Text);
        assert_eq!(TokenClass::of_name("<"), TokenClass::Text);
        assert_eq!(TokenClass::of_name("<>"), TokenClass::Text);
        assert_eq!(TokenClass::of_name("<reserved08799>"), TokenClass::Special);
        assert_eq!(TokenClass::of_name("IMGIMGABZ"), TokenClass::Special);
        assert_eq!(TokenClass::of_name("IMGIMGABCZ".trim_end_matches('Z')), TokenClass::Special);
        assert_eq!(TokenClass::of_name("IMGIMGBAZ"), TokenClass::Image);
    }
}
