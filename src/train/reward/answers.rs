//! The lines that a program of rewards writes.

use serde::Deserialize;
use serde_json::Value;

use super::failures::{FailureKind, Fault};

/// Bytes of a line that a message shows.
const SHOWN: usize = 80;

/// The answers to a batch, as they come in.
#[derive(Debug)]
pub(super) struct Answers {
    first_id: u64,
    /// For each roll-out the answer, if there is one; an answer may be that there is no reward.
    answers: Vec<Option<Option<f64>>>,
    num_missing: usize,
}

/// An answer that names its roll-out.
#[derive(Deserialize)]
struct Named {
    id: Value,
    reward: Value,
}

impl Answers {
    /// No answers yet to `len` roll-outs whose ids start at `first_id`.
    pub(super) fn new(first_id: u64, len: usize) -> Self {
        Self { first_id, answers: vec![None; len], num_missing: len }
    }

    /// Roll-outs without an answer.
    pub(super) fn num_missing(&self) -> usize {
        self.num_missing
    }

    /// Takes a line; on a fault the answers before stay.
    pub(super) fn take(&mut self, line: &[u8]) -> Result<(), Fault> {
        let text = String::from_utf8_lossy(line);
        let text = text.trim();
        if self.num_missing == 0 {
            return Err(surplus_line(line));
        }
        let (at, reward) = match text.starts_with('{') {
            true => self.named(text)?,
            false => (self.answers.iter().position(Option::is_none), number(text)?),
        };
        let Some(answer) = at.and_then(|at| self.answers.get_mut(at)) else {
            unreachable!("an answer is missing, and ids are checked")
        };
        *answer = Some(reward);
        self.num_missing -= 1;
        Ok(())
    }

    /// The place and the reward of an answer that names its roll-out.
    fn named(&self, text: &str) -> Result<(Option<usize>, Option<f64>), Fault> {
        let named: Named = serde_json::from_str(text).map_err(|error| {
            // JSON has no infinite numbers, but Python writes them.
            match text.contains("NaN") || text.contains("Infinity") {
                true => not_finite(text),
                false => {
                    let expected = "expected `id` and `reward`";
                    let message = format!("wrote {}: {expected}: {error}", shown(text));
                    Fault::new(FailureKind::NotANumber, message)
                }
            }
        })?;
        let offset = named.id.as_u64().and_then(|id| id.checked_sub(self.first_id));
        let at = offset.and_then(|offset| usize::try_from(offset).ok());
        match at.and_then(|at| self.answers.get(at)) {
            Some(None) => {}
            Some(Some(_)) => {
                let message = format!("answered {} twice", named.id);
                return Err(Fault::new(FailureKind::WrongId, message));
            }
            None => {
                let last = self.first_id + self.answers.len() as u64 - 1;
                let ids = format!("the batch has {} to {last}", self.first_id);
                let message = format!("answered the id {}; {ids}", shown(&named.id.to_string()));
                return Err(Fault::new(FailureKind::WrongId, message));
            }
        }
        Ok((at, number(&named.reward.to_string())?))
    }

    /// The rewards; `None` without an answer.
    pub(super) fn into_rewards(self) -> Vec<Option<f64>> {
        self.answers.into_iter().map(Option::flatten).collect()
    }
}

/// The fault of a line that nothing was asked for.
pub(super) fn surplus_line(line: &[u8]) -> Fault {
    let text = String::from_utf8_lossy(line);
    let message = format!("wrote more lines than it read; the next is {}", shown(text.trim()));
    Fault::new(FailureKind::SurplusLine, message)
}

/// The number that `text` is; `None` for `null`.
fn number(text: &str) -> Result<Option<f64>, Fault> {
    if text == "null" {
        return Ok(None);
    }
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(Some(number)),
        Ok(_) => Err(not_finite(text)),
        Err(_) => {
            let message = format!("wrote {}, which is neither a number nor null", shown(text));
            Err(Fault::new(FailureKind::NotANumber, message))
        }
    }
}

fn not_finite(text: &str) -> Fault {
    let message = format!("wrote {}; rewards must be finite", shown(text));
    Fault::new(FailureKind::NotFinite, message)
}

/// The beginning of `text`, in quotes.
fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn taken(lines: &[&str]) -> (Option<FailureKind>, Vec<Option<f64>>) {
        let mut answers = Answers::new(10, 3);
        let fault = lines.iter().find_map(|line| answers.take(line.as_bytes()).err());
        (fault.map(|fault| fault.kind), answers.into_rewards())
    }

    #[test]
    fn answers_come_in_order_or_with_an_id() {
        let lines = ["1", " -2.5e1\r", "null"];
        assert_eq!(taken(&lines), (None, vec![Some(1.0), Some(-25.0), None]));
        let lines = [r#"{"id":12,"reward":1}"#, r#"{"reward":null,"id":10,"why":""}"#, "0.5"];
        assert_eq!(taken(&lines), (None, vec![None, Some(0.5), Some(1.0)]));
    }

    #[test]
    fn every_wrong_line_has_its_kind_and_spares_the_answers_before() {
        use FailureKind::{NotANumber, NotFinite, SurplusLine, WrongId};
        for (line, kind) in [
            ("", NotANumber),
            ("loading the model", NotANumber),
            ("true", NotANumber),
            ("[1]", NotANumber),
            (r#"{"id":11}"#, NotANumber),
            (r#"{"id":11,"reward":"1"}"#, NotANumber),
            (r#"{"id":11,"reward":1"#, NotANumber),
            ("\u{fffd}", NotANumber),
            ("nan", NotFinite),
            ("-inf", NotFinite),
            ("1e999", NotFinite),
            (r#"{"id": 11, "reward": NaN}"#, NotFinite),
            (r#"{"id": 11, "reward": -Infinity}"#, NotFinite),
            (r#"{"id":10,"reward":1}"#, WrongId),
            (r#"{"id":13,"reward":1}"#, WrongId),
            (r#"{"id":9,"reward":1}"#, WrongId),
            (r#"{"id":"11","reward":1}"#, WrongId),
        ] {
            assert_eq!(taken(&["0.5", line]), (Some(kind), vec![Some(0.5), None, None]), "{line}");
        }
        let four = taken(&["1", "2", "3", "4"]);
        assert_eq!(four, (Some(SurplusLine), vec![Some(1.0), Some(2.0), Some(3.0)]));
    }

    #[test]
    fn messages_show_the_beginning_of_long_lines_only() {
        let fault = Answers::new(0, 1).take("é".repeat(500).as_bytes()).unwrap_err();
        assert!(fault.message.chars().count() < SHOWN + 60, "{}", fault.message);
    }
}
