//! Grammars that a text must follow: JSON schemas, regular expressions, Lark grammars, lists of choices.
//!
//! The work is llguidance's (guidance-ai/llguidance), with the feature `grammar`: it takes half a minute of
//! processor time to compile, which the default build does not spend. A build without the feature has the same
//! functions, whose error names the feature.

#[cfg(not(feature = "grammar"))]
mod absent;
#[cfg(feature = "grammar")]
mod compiler;
#[cfg(feature = "grammar")]
mod environment;
#[cfg(feature = "grammar")]
mod fault;
#[cfg(feature = "grammar")]
mod state;
#[cfg(all(test, feature = "grammar"))]
mod tests;

use std::path::{Path, PathBuf};

use serde_json::Value;

#[cfg(not(feature = "grammar"))]
pub use self::absent::GrammarCompiler;
#[cfg(feature = "grammar")]
pub use self::compiler::GrammarCompiler;

use crate::error::{Error, Result};

/// Maximum length of a grammar's text, in bytes.
pub const MAX_GRAMMAR_LEN: usize = 1 << 20;

/// A set of texts, from which a [`GrammarCompiler`] makes a [`Constraint`](super::Constraint).
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(not(feature = "grammar"), allow(dead_code, reason = "only the feature reads them"))]
pub struct Grammar {
    form: Form,
    /// The file that it was read from.
    file: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(not(feature = "grammar"), allow(dead_code, reason = "only the feature reads them"))]
enum Form {
    JsonSchema(Value),
    Regex(String),
    Lark(String),
    Choices(Vec<String>),
}

impl From<Form> for Grammar {
    fn from(form: Form) -> Self {
        Self { form, file: None }
    }
}

impl Grammar {
    /// The JSON values of a JSON schema, as llguidance reads it: most of draft 2020-12; what it does not know is
    /// an error of the compiler. The text has no white space but one optional space after each `,` and `:`
    /// outside strings, so that it cannot go on without end; the schema's key `x-guidance` can allow more.
    ///
    /// # Errors
    /// If `schema` is no JSON or longer than [`MAX_GRAMMAR_LEN`], or the build lacks the feature `grammar`.
    pub fn json_schema(schema: &str) -> Result<Self> {
        check("JSON schema", schema.len())?;
        let value = serde_json::from_str(schema).map_err(Error::because("JSON schema"))?;
        Ok(Form::JsonSchema(value).into())
    }

    /// The texts that `regex` matches from beginning to end, in the syntax of Rust's `regex` crate without
    /// look-around.
    ///
    /// # Errors
    /// If it is longer than [`MAX_GRAMMAR_LEN`], or the build lacks the feature `grammar`.
    pub fn regex(regex: &str) -> Result<Self> {
        check("regular expression", regex.len())?;
        Ok(Form::Regex(regex.to_owned()).into())
    }

    /// The texts of a context-free grammar in llguidance's variant of Lark, from its rule `start`.
    ///
    /// # Errors
    /// If it is longer than [`MAX_GRAMMAR_LEN`], or the build lacks the feature `grammar`.
    pub fn lark(grammar: &str) -> Result<Self> {
        check("Lark grammar", grammar.len())?;
        Ok(Form::Lark(grammar.to_owned()).into())
    }

    /// The texts `choices` and no other.
    ///
    /// # Errors
    /// If there is no choice or an empty one, they are longer than [`MAX_GRAMMAR_LEN`] together, or the build
    /// lacks the feature `grammar`.
    pub fn choices(choices: &[impl AsRef<str>]) -> Result<Self> {
        let choices: Vec<String> = choices.iter().map(|text| text.as_ref().to_owned()).collect();
        check("list of choices", choices.iter().map(String::len).sum())?;
        if choices.is_empty() || choices.iter().any(String::is_empty) {
            let message = "nothing to choose from, or an empty choice; each needs some text";
            return Err(Error::invalid(message));
        }
        Ok(Form::Choices(choices).into())
    }

    /// The same grammar, noted as read from the file at `path`, which the compiler's errors name.
    #[must_use]
    pub fn of_file(self, path: &Path) -> Self {
        Self { file: Some(path.to_owned()), ..self }
    }
}

/// Checks the length of a `kind` of grammar, and that this build has grammars at all.
fn check(kind: &str, len: usize) -> Result<()> {
    if !cfg!(feature = "grammar") {
        let message = format!("a {kind} for the text needs a build with --features grammar");
        return Err(Error::invalid(message));
    }
    if len > MAX_GRAMMAR_LEN {
        return Err(Error::invalid(format!(
            "the {kind} has {len} bytes; allowed: at most {MAX_GRAMMAR_LEN}"
        )));
    }
    Ok(())
}

#[cfg(all(test, not(feature = "grammar")))]
#[allow(clippy::unwrap_used, reason = "tests")]
mod without {
    use super::*;

    #[test]
    fn a_build_without_grammars_names_the_feature() {
        for error in [
            Grammar::json_schema("{}").unwrap_err(),
            Grammar::regex("a").unwrap_err(),
            Grammar::lark("start: \"a\"").unwrap_err(),
            Grammar::choices(&["a"]).unwrap_err(),
        ] {
            assert!(
                error.to_string().ends_with("needs a build with --features grammar"),
                "{error}"
            );
        }
    }
}
