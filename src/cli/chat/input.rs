//! Where lines come from: a line editor in a terminal, else standard input as it is.

use std::io::{BufRead, IsTerminal};
use std::path::Path;

use calumma::{Error, Result};
use rustyline::Editor;
use rustyline::config::Config;
use rustyline::error::ReadlineError;
use rustyline::history::MemHistory;

/// The name of standard input in errors.
const STDIN: &str = "standard input";

/// A source of lines.
pub enum Input {
    /// A terminal, with a prompt, editing and the lines of before.
    Editor(Box<Editor<(), MemHistory>>),
    /// A pipe or file.
    Plain,
}

/// What the user did.
pub enum Entry {
    /// A line, without its end.
    Line(String),
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-D, or the end of the input.
    End,
}

impl Input {
    /// The line editor if input and output are terminals and `allowed`.
    ///
    /// # Errors
    /// If the terminal cannot be opened.
    pub fn open(allowed: bool) -> Result<Self> {
        let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
        if !(allowed && terminal) {
            return Ok(Self::Plain);
        }
        let editor = Editor::with_history(Config::default(), MemHistory::new());
        Ok(Self::Editor(Box::new(editor.map_err(Error::because("the terminal"))?)))
    }

    /// Whether someone sits at the terminal.
    pub fn is_interactive(&self) -> bool {
        matches!(self, Self::Editor(_))
    }

    /// The next line, asked for with `prompt` in a terminal.
    ///
    /// # Errors
    /// If the input cannot be read or is not UTF-8.
    pub fn next(&mut self, prompt: &str) -> Result<Entry> {
        match self {
            Self::Editor(editor) => match editor.readline(prompt) {
                Ok(line) => {
                    if !line.trim().is_empty() {
                        editor
                            .add_history_entry(line.as_str())
                            .map_err(Error::because("the terminal"))?;
                    }
                    Ok(Entry::Line(line))
                }
                Err(ReadlineError::Interrupted) => Ok(Entry::Interrupt),
                Err(ReadlineError::Eof) => Ok(Entry::End),
                Err(error) => Err(Error::because("the terminal")(error)),
            },
            Self::Plain => {
                let mut line = String::new();
                let read = std::io::stdin().lock().read_line(&mut line);
                match read.map_err(Error::io(Path::new(STDIN)))? {
                    0 => Ok(Entry::End),
                    _ => Ok(Entry::Line(line)),
                }
            }
        }
    }
}
