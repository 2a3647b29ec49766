//! Constraints from grammars.

use std::fmt::{self, Debug, Formatter};
use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::TokEnv;
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use super::environment::Environment;
use super::state::GrammarState;
use super::{Form, Grammar, fault};
use crate::error::{Error, Result};
use crate::generate::Constraint;
use crate::tokenize::Processor;

/// Compiles grammars for one vocabulary.
///
/// Limits are llguidance's: on the size of a grammar, of its automata, and of the work for one set of allowed
/// ids; what exceeds them is an error of the compiler or of the constraint.
pub struct GrammarCompiler {
    pub(super) factory: ParserFactory,
    text: Arc<[bool]>,
}

impl GrammarCompiler {
    /// A compiler for the text ids of `processor`.
    ///
    /// # Errors
    /// If the tokenizer's decoder refuses an id, or the vocabulary is beyond llguidance's limits.
    pub fn new(processor: &Processor) -> Result<Self> {
        let (environment, text) = Environment::new(processor)?;
        let environment: TokEnv = Arc::new(environment);
        let mut factory =
            ParserFactory::new_simple(&environment).map_err(Error::because("grammars"))?;
        factory.quiet().limits_mut().verbose_errors = false;
        Ok(Self { factory, text })
    }

    /// The constraint to the texts of `grammar`.
    ///
    /// # Errors
    /// If the grammar is malformed, which tells the place; if it is beyond llguidance's limits, or the
    /// vocabulary has no ids for the beginning of any of its texts. [`Error::File`] if the grammar is of a file.
    pub fn constraint(&self, grammar: &Grammar) -> Result<Box<dyn Constraint>> {
        let constraint = self.unplaced(grammar);
        match &grammar.file {
            Some(path) => constraint.map_err(Error::in_file(path)),
            None => constraint,
        }
    }

    /// As [`Self::constraint`], with errors that do not name the file.
    fn unplaced(&self, grammar: &Grammar) -> Result<Box<dyn Constraint>> {
        let mut state = match &grammar.form {
            Form::JsonSchema(schema) => self.schema(schema),
            Form::Regex(regex) => self
                .matcher(TopLevelGrammar::from_regex(regex))
                .map_err(|error| fault::in_regex(&error)),
            Form::Lark(grammar) => self
                .matcher(TopLevelGrammar::from_lark(grammar.clone()))
                .map_err(|error| fault::in_lark(&error)),
            Form::Choices(choices) => {
                let choices: Vec<String> = choices.iter().map(|text| regex::escape(text)).collect();
                self.matcher(TopLevelGrammar::from_regex(&choices.join("|")))
                    .map_err(|error| Error::invalid(format!("choices: {}", fault::line(&error))))
            }
        }?;
        let is_possible = state.allowed()?.contains(&true) || state.may_end();
        if is_possible { Ok(Box::new(state)) } else { Err(fault::dead_end()) }
    }

    fn schema(&self, schema: &Value) -> Result<GrammarState> {
        let compile =
            |schema: &Value| self.matcher(TopLevelGrammar::from_json_schema(with_format(schema)));
        compile(schema).map_err(|error| {
            let message = |part: &Value| compile(part).err();
            fault::in_schema(schema, &error, &message)
        })
    }

    fn matcher(&self, grammar: TopLevelGrammar) -> std::result::Result<GrammarState, String> {
        let matcher = Matcher::new(self.factory.create_parser(grammar));
        match matcher.get_error() {
            Some(error) => Err(error),
            None => Ok(GrammarState::new(matcher, self.text.clone())),
        }
    }
}

impl Debug for GrammarCompiler {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        out.debug_struct("GrammarCompiler").finish_non_exhaustive()
    }
}

/// `schema` with the format of the JSON text, unless it states one.
fn with_format(schema: &Value) -> Value {
    let mut schema = match schema {
        Value::Bool(true) => json!({}),
        other => other.clone(),
    };
    if let Value::Object(keys) = &mut schema
        && !keys.contains_key("x-guidance")
    {
        let format = json!({
            "item_separator": ", ?",
            "key_separator": ": ?",
            "whitespace_flexible": false,
        });
        keys.insert("x-guidance".to_owned(), format);
    }
    schema
}
