//! Text from ids that arrive one by one, cut before a stop string.

use super::Pipeline;
use crate::error::Result;
use crate::generate::{GenerationConfig, StopStrings};
use crate::tokenize::{StreamDecoder, TextTokenizer, Utf8Stream};

/// Text from ids, in whole characters, without what may be the beginning of a stop string.
pub(super) enum TextStream<'a> {
    /// Without stop strings.
    Open(StreamDecoder<'a>),
    /// With stop strings.
    Stopping(StopStrings, Utf8Stream),
}

impl<'a> TextStream<'a> {
    pub(super) fn new(text: &'a TextTokenizer, stop: Option<StopStrings>) -> Self {
        match stop {
            None => Self::Open(text.stream()),
            Some(stop) => Self::Stopping(stop, Utf8Stream::default()),
        }
    }

    /// The text that is certain after `id`.
    pub(super) fn push(&mut self, id: u32) -> Result<String> {
        match self {
            Self::Open(stream) => stream.push(id),
            Self::Stopping(stop, characters) => {
                let mut bytes = Vec::new();
                stop.push_into(id, &mut bytes);
                Ok(characters.push(&bytes))
            }
        }
    }

    /// The text held back so far, at the end or before an image.
    pub(super) fn finish(&mut self) -> Result<String> {
        match self {
            Self::Open(stream) => stream.finish(),
            Self::Stopping(stop, characters) => {
                let rest = characters.push(&stop.flush());
                Ok(rest + &characters.finish())
            }
        }
    }
}

impl Pipeline {
    /// The stop strings of `config`.
    pub(super) fn stop_strings(&self, config: &GenerationConfig) -> Result<Option<StopStrings>> {
        if config.stop_strings.is_empty() {
            return Ok(None);
        }
        StopStrings::new(&config.stop_strings, self.token_bytes()?).map(Some)
    }

    /// The text of all of `ids`, cut before a stop string.
    pub(super) fn text_of(&self, ids: &[u32], stop: Option<StopStrings>) -> Result<String> {
        if stop.is_none() {
            return self.processor.text().decode(ids);
        }
        let mut stream = TextStream::new(self.processor.text(), stop);
        let text = ids.iter().map(|id| stream.push(*id)).collect::<Result<String>>()?;
        Ok(text + &stream.finish()?)
    }
}
