//! What the ids of a tokenizer mean, with codes of images or without.

use super::TextTokenizer;
use crate::error::{Error, Result};
use crate::tokenize::vocabulary::{TextRoles, Vocabulary};

impl TextTokenizer {
    /// Whether it has names of codes of images.
    pub fn has_images(&self) -> bool {
        self.has_images
    }

    /// This tokenizer as that of a text model, whose documents end with the token called `eos`. Begin-of-text is what
    /// the file's post-processor puts before a text.
    ///
    /// # Errors
    /// If it has no token called `eos` or `pad`.
    pub fn of_text_model(self, eos: &str, pad: Option<&str>) -> Result<Self> {
        let id = |name: &str| {
            let message = || format!("the tokenizer has no token {name:?}");
            self.inner.token_to_id(name).ok_or_else(|| Error::invalid(message()))
        };
        let eos = id(eos)?;
        let pad = pad.map_or(Ok(eos), id)?;
        // A post-processor may put something after a text as well.
        let around = self.encode_with_specials("a")?;
        let bos = around.first().copied().filter(|first| self.is_hidden(*first));
        let mut hidden = self.hidden;
        // Text never becomes what ends it, whatever the file says.
        [eos, pad].into_iter().for_each(|id| hidden[id as usize] = true);
        Ok(Self { roles: Some(TextRoles { bos, eos, pad }), hidden, ..self })
    }

    /// The meaning of every id of this tokenizer.
    ///
    /// # Errors
    /// As [`Vocabulary::from_names`], with the name of the file that this tokenizer was read from.
    pub fn vocabulary(&self) -> Result<Vocabulary> {
        if let Some(roles) = self.roles {
            let names = (0..self.hidden.len() as u32).map(|id| self.inner.id_to_token(id));
            return Ok(Vocabulary::of_text(names.collect(), &self.hidden, roles));
        }
        Vocabulary::from_names(self.inner.get_vocab(true)).map_err(|error| match &self.file {
            Some(path) => Error::in_file(path)(error),
            None => error,
        })
    }
}
