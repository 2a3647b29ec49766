//! The lines of a conversation: turns, and commands after a slash.

use std::path::PathBuf;

use calumma::{Error, Result};

/// What `/help` prints.
pub const HELP: &str = "\
text          ask; what begins with // is text with one slash
/image PATH   attach an image to the next turn; an empty line then asks for its caption
/draw TEXT    draw an image of the text; /draw alone makes the next turn one
/save FILE    write the conversation as a line of JSON, as training data, with its images beside it
/undo         take back what is attached, or else the last turn and its answer
/clear        forget all turns
/seed N       seed of the next answer; it increases by 1 with each
/help         print this
/quit         end, as Ctrl-D does; Ctrl-C stops an answer";

const NAMES: [&str; 8] = ["image", "draw", "save", "undo", "clear", "seed", "help", "quit"];

/// A line of input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A turn; empty for an empty line.
    Say(String),
    /// Attach an image to the next turn.
    Image(PathBuf),
    /// Draw the text, or the next turn if there is none.
    Draw(Option<String>),
    /// Write the conversation to a file.
    Save(PathBuf),
    /// Take back the last turn.
    Undo,
    /// Forget all turns.
    Clear,
    /// Set the seed of the next answer.
    Seed(u64),
    /// Print the commands.
    Help,
    /// End.
    Quit,
}

impl Line {
    /// Reads a line.
    ///
    /// # Errors
    /// If the command is unknown or its argument is missing, unreadable or too much.
    pub fn parse(line: &str) -> Result<Self> {
        let line = line.trim();
        let Some(command) = line.strip_prefix('/') else { return Ok(Self::Say(line.to_owned())) };
        if command.starts_with('/') {
            return Ok(Self::Say(command.to_owned()));
        }
        let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        let rest = rest.trim();
        let path = || match unquoted(rest) {
            "" => Err(Error::invalid(format!("/{name} needs a path"))),
            path => Ok(PathBuf::from(path)),
        };
        let alone = |line: Self| match rest {
            "" => Ok(line),
            _ => Err(Error::invalid(format!("/{name} takes nothing, but {rest:?} follows"))),
        };
        match name {
            "image" => Ok(Self::Image(path()?)),
            "draw" => Ok(Self::Draw((!rest.is_empty()).then(|| rest.to_owned()))),
            "save" => Ok(Self::Save(path()?)),
            "undo" => alone(Self::Undo),
            "clear" => alone(Self::Clear),
            "seed" => {
                let message =
                    || format!("/seed is {rest:?}; allowed: a whole number, 0 to {}", u64::MAX);
                rest.parse().map(Self::Seed).map_err(|_| Error::invalid(message()))
            }
            "help" => alone(Self::Help),
            "quit" | "exit" => alone(Self::Quit),
            _ => Err(unknown(name)),
        }
    }
}

/// `path` without the quotes that terminals add to a dropped file.
fn unquoted(path: &str) -> &str {
    let inside = |quote| path.strip_prefix(quote)?.strip_suffix(quote);
    inside('\'').or_else(|| inside('"')).unwrap_or(path)
}

fn unknown(name: &str) -> Error {
    let distance = |known: &&&str| strsim::damerau_levenshtein(known, name);
    let nearest = NAMES.iter().min_by_key(distance).copied().unwrap_or_default();
    Error::invalid(format!(
        "unknown command /{name}, the nearest is /{nearest} (/help lists all; // begins a text with a \
         slash)"
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn lines_are_turns_or_commands() {
        let say = |text: &str| Line::Say(text.to_owned());
        for (line, expected) in [
            (" what is it? \r", say("what is it?")),
            ("", say("")),
            ("//image is a word", say("/image is a word")),
            ("a /quit", say("a /quit")),
            ("/image my cat.png", Line::Image("my cat.png".into())),
            ("/image 'my cat.png' ", Line::Image("my cat.png".into())),
            ("/draw  a red circle", Line::Draw(Some("a red circle".into()))),
            ("/draw", Line::Draw(None)),
            ("/save talk.jsonl", Line::Save("talk.jsonl".into())),
            ("/seed\t7", Line::Seed(7)),
            ("/undo", Line::Undo),
            ("/clear ", Line::Clear),
            ("/help", Line::Help),
            ("/exit", Line::Quit),
        ] {
            assert_eq!(Line::parse(line).unwrap(), expected, "{line}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_command_is_said() {
        for (line, told) in [
            ("/imge a.png", "unknown command /imge, the nearest is /image"),
            ("/image", "/image needs a path"),
            ("/save ''", "/save needs a path"),
            ("/seed x", "/seed is \"x\"; allowed: a whole number"),
            ("/seed -1", "/seed is \"-1\""),
            ("/undo 2", "/undo takes nothing, but \"2\" follows"),
        ] {
            let error = Line::parse(line).unwrap_err().to_string();
            assert!(error.contains(told), "{line}: {error}");
        }
    }

    #[test]
    fn help_names_every_command() {
        for name in NAMES {
            assert!(HELP.contains(&format!("/{name}")), "{name}");
        }
    }
}
