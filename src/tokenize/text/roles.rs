//! What the ids of a tokenizer mean, where names tell it and where they do not.

use super::TextTokenizer;
use crate::error::{Error, Result};
use crate::tokenize::token::{BEGIN_IMAGE_TOKEN, ROWS_TOKEN};
use crate::tokenize::vocabulary::{SpecialIds, Vocabulary};

/// Names of the tokens that have a role, for a tokenizer whose names do not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoleNames {
    /// What ends a document.
    pub eos: String,
    /// What comes before a text; what the file's post-processor puts there if nothing else.
    pub bos: Option<String>,
    /// What fills rows; the end of a document if there is nothing else.
    pub pad: Option<String>,
    /// What comes before the codes of an image, if there are any.
    pub begin_image: Option<String>,
    /// What comes after them.
    pub end_image: Option<String>,
    /// What stands for an image in a text.
    pub image_placeholder: Option<String>,
}

impl TextTokenizer {
    /// Whether its images say their size in digits, as Emu3's.
    pub fn sizes_images_in_digits(&self) -> bool {
        self.id(ROWS_TOKEN).is_some()
    }

    /// Whether it has names of codes of images.
    pub fn has_images(&self) -> bool {
        self.has_images
    }

    /// Whether names alone tell the role of every token, as they do in Chameleon's vocabulary.
    pub fn names_tell_roles(&self) -> bool {
        self.names_tell_roles
    }

    /// The id of what begins an image.
    pub(in crate::tokenize) fn begin_image(&self) -> Option<u32> {
        self.roles.map_or_else(|| self.id(BEGIN_IMAGE_TOKEN), |roles| roles.begin_image)
    }

    /// The id of the token called `name`.
    pub fn id(&self, name: &str) -> Option<u32> {
        self.inner.token_to_id(name)
    }

    /// This tokenizer, whose names do not tell roles, with those of `names`.
    ///
    /// # Errors
    /// If it lacks a token of that name.
    pub fn with_roles(self, names: &RoleNames) -> Result<Self> {
        let id = |name: &String| {
            let message = || format!("the tokenizer has no token {name:?}");
            self.id(name).ok_or_else(|| Error::invalid(message()))
        };
        let optional = |name: &Option<String>| name.as_ref().map(id).transpose();
        let eos = id(&names.eos)?;
        // A post-processor may put something after a text as well.
        let around = self.encode_with_specials("a")?;
        let special = SpecialIds {
            bos: optional(&names.bos)?
                .or(around.first().copied().filter(|first| self.is_hidden(*first))),
            pad: optional(&names.pad)?.unwrap_or(eos),
            eos,
            begin_image: optional(&names.begin_image)?,
            end_image: optional(&names.end_image)?,
            sep: None,
            image_placeholder: optional(&names.image_placeholder)?,
        };
        let SpecialIds { bos, pad, begin_image, end_image, image_placeholder, .. } = special;
        let mut hidden = self.hidden;
        // Text never becomes what ends it or belongs to an image, whatever the file says.
        let named = [bos, Some(eos), Some(pad), begin_image, end_image, image_placeholder];
        named.into_iter().flatten().for_each(|id| hidden[id as usize] = true);
        Ok(Self { roles: Some(special), hidden, ..self })
    }

    /// The meaning of every id of this tokenizer.
    ///
    /// # Errors
    /// As [`Vocabulary::from_names`] or [`Vocabulary::with_roles`], with the name of the file that this tokenizer was
    /// read from.
    pub fn vocabulary(&self) -> Result<Vocabulary> {
        let vocabulary = match self.roles {
            Some(roles) => {
                let names = (0..self.hidden.len() as u32).map(|id| self.inner.id_to_token(id));
                Vocabulary::with_roles(names.collect(), &self.hidden, roles)
            }
            None => Vocabulary::from_names(self.inner.get_vocab(true)),
        };
        vocabulary.map_err(|error| match &self.file {
            Some(path) => Error::in_file(path)(error),
            None => error,
        })
    }
}
