//! Calls of functions in the text of an answer, as it comes.

use serde::Deserialize;
use serde_json::value::RawValue;

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallPiece {
    /// Text that belongs to no call.
    Text(String),
    /// A call of a function, with its arguments as a JSON object.
    Call {
        /// The name of the function.
        name: String,
        /// As they were written.
        arguments: String,
    },
}

/// Tells calls from the rest of an answer.
///
/// A call is JSON: an object with `name`, that of a known function, and `arguments` or `parameters`, or a list of such. It
/// follows a text that the checkpoint's chat template writes before calls, anywhere in the answer, or, if there is no such
/// text, it begins the answer. JSON that is no call is text as everything else: nothing is lost.
#[derive(Clone, Debug)]
pub struct CallReader {
    names: Vec<String>,
    before: String,
    after: String,
    /// Calls that may still be told.
    most: usize,
    place: Place,
    /// What is not told yet.
    held: String,
    /// How far the JSON in `held` is read.
    scan: Scan,
    /// Whether nothing but calls has been told since the last one.
    is_after_call: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// At the beginning, where a call may begin that nothing comes before.
    Start,
    /// In a text that calls may follow.
    Text,
    /// `held` begins with what comes before a call.
    Call,
    /// `held` begins with what comes after a call.
    End,
    /// In a text without calls.
    Plain,
}

/// A reader of brackets.
#[derive(Clone, Copy, Debug, Default)]
struct Scan {
    /// The bytes that are read.
    at: usize,
    depth: usize,
    in_text: bool,
    is_escaped: bool,
}

impl Scan {
    /// The end of the first JSON object or list in `text`, of which the beginning is read; `None` if it has none yet.
    fn end(&mut self, text: &str) -> Option<usize> {
        for byte in &text.as_bytes()[self.at..] {
            self.at += 1;
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' => self.is_escaped = self.in_text,
                b'"' => self.in_text = !self.in_text,
                b'{' | b'[' if !self.in_text => self.depth += 1,
                b'}' | b']' if !self.in_text => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(self.at);
                    }
                }
                _ => {}
            }
        }
        None
    }
}

/// A call as it is written.
#[derive(Deserialize)]
struct Written<'a> {
    name: String,
    #[serde(borrow, alias = "parameters")]
    arguments: Option<&'a RawValue>,
}

/// One call, or several.
#[derive(Deserialize)]
struct WrittenList<'a>(#[serde(borrow)] Vec<Written<'a>>);

impl CallReader {
    /// For calls of the functions `names` between two texts, of which at most `most` are told.
    pub(super) fn new(names: Vec<String>, [before, after]: [String; 2], most: usize) -> Self {
        let place = if before.is_empty() { Place::Start } else { Place::Text };
        let (held, scan) = (String::new(), Scan::default());
        Self { names, before, after, most, place, held, scan, is_after_call: false }
    }

    /// What is certain after more `text`.
    pub fn push(&mut self, text: &str) -> Vec<CallPiece> {
        self.held.push_str(text);
        let mut pieces = Vec::new();
        while self.step(&mut pieces) {}
        pieces
    }

    /// What was held back, at the end of the answer or of its text.
    pub fn finish(&mut self) -> Vec<CallPiece> {
        let mut pieces = Vec::new();
        if self.place == Place::End {
            // What comes after a call may be missing in part.
            let rest = self.held.trim_start();
            if self.after.starts_with(rest) {
                self.held.clear();
            }
        }
        self.tell(self.held.len(), &mut pieces);
        self.place = if self.before.is_empty() { Place::Plain } else { Place::Text };
        pieces
    }

    /// Reads on; whether there may be more to read.
    fn step(&mut self, pieces: &mut Vec<CallPiece>) -> bool {
        match self.place {
            Place::Start => self.begin(),
            Place::Text => self.text(pieces),
            Place::Call => self.call(pieces),
            Place::End => self.end(),
            Place::Plain => {
                self.tell(self.held.len(), pieces);
                false
            }
        }
    }

    fn begin(&mut self) -> bool {
        let Some(first) = self.json(0).chars().next() else { return false };
        self.place = if "{[".contains(first) { Place::Call } else { Place::Plain };
        self.scan = Scan::default();
        true
    }

    fn text(&mut self, pieces: &mut Vec<CallPiece>) -> bool {
        if let Some(start) = self.held.find(&self.before) {
            self.tell(start, pieces);
            self.place = Place::Call;
            self.scan = Scan { at: self.before.len(), ..Scan::default() };
            return true;
        }
        let is_begun = |start: &usize| self.before.starts_with(&self.held[*start..]);
        let starts = self.held.char_indices().map(|(start, _)| start);
        let certain = starts.into_iter().find(is_begun).unwrap_or(self.held.len());
        // Blanks between calls belong to none.
        if !self.is_after_call || !self.held[..certain].trim().is_empty() {
            self.tell(certain, pieces);
        }
        false
    }

    fn call(&mut self, pieces: &mut Vec<CallPiece>) -> bool {
        let head = if self.held.starts_with(&self.before) { self.before.len() } else { 0 };
        let json = self.json(head);
        let Some(first) = json.chars().next() else { return false };
        if !"{[".contains(first) {
            return self.no_call(head, pieces);
        }
        let start = self.held.len() - json.len();
        let Some(end) = self.scan.end(&self.held) else { return false };
        let Some(calls) = self.calls(&self.held[start..end]) else {
            return self.no_call(end, pieces);
        };
        let told = calls.into_iter().take(self.most);
        pieces.extend(told.inspect(|_| self.most -= 1));
        self.held.drain(..end);
        self.is_after_call = true;
        self.place = Place::End;
        true
    }

    /// Where JSON may begin after `head` bytes. Some models separate calls that nothing comes before.
    fn json(&self, head: usize) -> &str {
        let is_between = self.is_after_call && self.before.is_empty();
        let is_skipped =
            |letter: char| letter.is_whitespace() || is_between && ";,".contains(letter);
        self.held[head..].trim_start_matches(is_skipped)
    }

    /// Takes `len` bytes for text.
    fn no_call(&mut self, len: usize, pieces: &mut Vec<CallPiece>) -> bool {
        self.tell(len, pieces);
        self.place = if self.before.is_empty() { Place::Plain } else { Place::Text };
        true
    }

    fn end(&mut self) -> bool {
        let rest = self.held.trim_start();
        if !self.after.is_empty() && self.after.starts_with(rest) && self.after != rest {
            return false;
        }
        let rest = rest.strip_prefix(&self.after).unwrap_or(rest);
        self.held = rest.to_owned();
        self.place = if self.before.is_empty() { Place::Start } else { Place::Text };
        true
    }

    /// The calls in `json`, if it is nothing else.
    fn calls(&self, json: &str) -> Option<Vec<CallPiece>> {
        let calls = match json.starts_with('[') {
            true => serde_json::from_str::<WrittenList<'_>>(json).ok()?.0,
            false => vec![serde_json::from_str::<Written<'_>>(json).ok()?],
        };
        let call = |Written { name, arguments }: Written<'_>| {
            let arguments = arguments.map_or("{}", RawValue::get);
            let is_call = self.names.contains(&name) && arguments.starts_with('{');
            is_call.then(|| CallPiece::Call { name, arguments: arguments.to_owned() })
        };
        let calls: Vec<_> = calls.into_iter().map(call).collect::<Option<_>>()?;
        (!calls.is_empty()).then_some(calls)
    }

    /// Tells the first `len` bytes as text.
    fn tell(&mut self, len: usize, pieces: &mut Vec<CallPiece>) {
        let text: String = self.held.drain(..len).collect();
        let text = if self.is_after_call { text.trim_start() } else { &text };
        if !text.is_empty() {
            pieces.push(CallPiece::Text(text.to_owned()));
            self.is_after_call = false;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn reader(before: &str, after: &str, most: usize) -> CallReader {
        let names = ["weather", "draw_it"].map(str::to_owned).into();
        CallReader::new(names, [before, after].map(str::to_owned), most)
    }

    fn call(name: &str, arguments: &str) -> CallPiece {
        CallPiece::Call { name: name.to_owned(), arguments: arguments.to_owned() }
    }

    fn text(text: &str) -> CallPiece {
        CallPiece::Text(text.to_owned())
    }

    /// The pieces of `chunks`, adjacent texts joined.
    fn read<'a>(
        mut reader: CallReader,
        chunks: impl IntoIterator<Item = &'a str>,
    ) -> Vec<CallPiece> {
        let mut pieces: Vec<CallPiece> = Vec::new();
        let chunks = chunks.into_iter().flat_map(|chunk| reader.push(chunk)).collect::<Vec<_>>();
        for piece in chunks.into_iter().chain(reader.finish()) {
            match (pieces.last_mut(), piece) {
                (Some(CallPiece::Text(last)), CallPiece::Text(text)) => last.push_str(&text),
                (_, piece) => pieces.push(piece),
            }
        }
        pieces
    }

    /// `answer` must have the same `pieces` whole, letter by letter and cut anywhere.
    fn check(reader: &CallReader, answer: &str, pieces: &[CallPiece]) {
        let cuts = answer.char_indices().map(|(cut, _)| cut);
        for cut in cuts {
            let (head, tail) = answer.split_at(cut);
            assert_eq!(read(reader.clone(), [head, tail]), pieces, "{head:?} and {tail:?}");
        }
        let letters = answer.char_indices().map(|(at, letter)| &answer[at..at + letter.len_utf8()]);
        assert_eq!(read(reader.clone(), letters), pieces, "{answer:?}, letter by letter");
    }

    const PARIS: &str = r#"{"city": "Paris {\"}", "days": [1, 2]}"#;

    #[test]
    fn calls_between_marks_stand_anywhere() {
        let reader = reader("<call>", "</call>", usize::MAX);
        let one = format!("<call>\n{{\"name\": \"weather\", \"arguments\": {PARIS}}}\n</call>");
        let paris = || call("weather", PARIS);
        check(&reader, &one, &[paris()]);
        check(&reader, &format!("{one}\n{one}\n"), &[paris(), paris()]);
        check(&reader, &format!("I look. {one}"), &[text("I look. "), paris()]);
        check(&reader, &format!("{one}\nthat <is> it"), &[paris(), text("that <is> it")]);
        // What ends the answer may be a token without a text.
        check(&reader, one.strip_suffix("\n</call>").unwrap(), &[paris()]);
        check(&reader, one.strip_suffix("ll>").unwrap(), &[paris()]);
        let parameters = one.replace("\"arguments\"", "\"parameters\"");
        check(&reader, &parameters, &[paris()]);
        let none = r#"<call>{"name": "draw_it"}</call>"#;
        check(&reader, none, &[call("draw_it", "{}")]);
        let list =
            r#"<call>[{"name": "draw_it"}, {"name": "weather", "arguments": {"a": 1}}]</call>"#;
        check(&reader, list, &[call("draw_it", "{}"), call("weather", r#"{"a": 1}"#)]);
    }

    #[test]
    fn what_is_no_call_stays_text() {
        let marked = reader("<call>", "</call>", usize::MAX);
        for answer in [
            "ü",
            " no call\n",
            "a <cal",
            "<call>",
            "<call> x",
            "<call>{\"name\": \"weather\", \"arguments\": {",
            "<call>{\"name\": \"unknown\", \"arguments\": {}}</call>",
            "<call>{\"name\": \"weather\", \"arguments\": [1]}</call>",
            "<call>{\"name\": \"weather\", \"arguments\": {1}}</call>",
            "<call>{\"city\": \"Paris\"}</call> and more",
            "<call>[]</call>",
            "{\"name\": \"weather\", \"arguments\": {}}",
            "<call>}{\"name\": \"weather\"}",
        ] {
            check(&marked, answer, &[text(answer)]);
        }
        let bare = reader("", "", usize::MAX);
        for answer in [
            "ü",
            "\n\n",
            "a {\"name\": \"weather\", \"arguments\": {}}",
            "{\"name\": \"unknown\", \"arguments\": {}} and more",
            " [1, 2]",
            "{",
        ] {
            check(&bare, answer, &[text(answer)]);
        }
        check(&marked, "", &[]);
        check(&bare, "", &[]);
    }

    #[test]
    fn bare_calls_begin_the_answer() {
        let bare = reader("", "", usize::MAX);
        let one = format!("\n{{\"name\": \"weather\", \"parameters\": {PARIS}}}");
        check(&bare, &one, &[call("weather", PARIS)]);
        let two = format!("{one}; {one}\n and more");
        check(&bare, &two, &[call("weather", PARIS), call("weather", PARIS), text("and more")]);
        let separated = format!("{one}; and more");
        check(&bare, &separated, &[call("weather", PARIS), text("; and more")]);
        let list = r#"[{"name": "draw_it", "arguments": {}, "id": "x"}]"#;
        check(&bare, list, &[call("draw_it", "{}")]);
    }

    #[test]
    fn no_more_calls_are_told_than_are_asked_for() {
        let one = r#"<call>{"name": "draw_it"}</call>"#;
        check(
            &reader("<call>", "</call>", 1),
            &format!("{one}{one}."),
            &[call("draw_it", "{}"), text(".")],
        );
        let list = r#"[{"name": "draw_it"}, {"name": "weather"}]"#;
        check(&reader("", "", 1), list, &[call("draw_it", "{}")]);
    }
}
