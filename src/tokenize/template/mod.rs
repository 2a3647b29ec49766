//! The template language: text with places for images, values and the separator.
//!
//! One grammar serves three kinds of text. A **sample** template (`templates` of a recipe, parsed by
//! [`Template::parse`]) turns the fields and images of a sample into a document. A **prompt** template
//! (`prompts` of a `generation_config.json`, see [`PromptTemplates`]; parsed by [`Template::prompt`])
//! puts a question or a text into the prompt that a model was trained on. In the prompt of a **user**
//! ([`Segment::from_prompt`](super::Segment::from_prompt)) only `<image>` has a meaning.
//!
//! | syntax | meaning | sample | prompt | user |
//! |---|---|---|---|---|
//! | `<image>` | the next image | yes | yes | yes |
//! | `<sep>` | the separator: ends the prompt, then the answer, and so on | yes | yes | text |
//! | `<answer>` | the answer begins here, without a token; no id is written | yes | text | text |
//! | `{name}` | the value called `name` | yes | yes | text |
//! | `{{`, `}}`, `<<` | the characters `{`, `}` and `<` | yes | yes | text |
//! | `{#turns\|<sep>}...{/turns}` | the part between, once per entry of `turns` | yes | error | text |
//! | `{.}` | inside a repeated part: the entry itself, for lists of plain values | yes | error | text |
//! | `<` and a letter, otherwise | | error | text | text |
//! | `}` alone | | error | text | text |
//!
//! The entries of a repeated part are joined by what follows the bar: text and `<sep>`. The bar is optional.
//!
//! ```text
//! template = { part } ;                         (* a sample template is not empty *)
//! part     = text | mark | field | repeat ;
//! text     = "{{" | "}}" | "<<" | any other character ;
//! mark     = "<image>" | "<sep>" | "<answer>" ; (* <answer> in sample templates only *)
//! field    = "{" name "}" ;                     (* blanks around a name are ignored *)
//! repeat   = "{#" name [ "|" joiner ] "}" { text | "<sep>" | field } "{/" name "}" ;
//! joiner   = { text | "<sep>" } ;               (* blanks count *)
//! ```
//!
//! # Values
//! Values are text as they are: `<image>` or `{name}` inside a value has no meaning. In sample
//! templates a list of plain values stands for one of its entries, drawn at random. Inside a repeated
//! part a name is looked up in the entry, then in the sample. A list of segments
//! (`{"type": "text" | "image", ...}`) or of messages (`{"role", "content"}`) is written in full: its
//! images count among the `<image>` marks, and a separator is written wherever the role changes to or
//! from the assistant.
//!
//! # Answers without a separator
//! Text before and after `<answer>` becomes ids as one text, as in other trainers. The answer begins
//! with the first id that the prompt alone would not have, so that a prompt may end in a blank.
//!
//! # Dialogues
//! The entries of a repeated part are prompts and answers in turn if an entry with its joiner holds an odd
//! number of `<sep>`, as in `{#conversations|<sep>}{value}{/conversations}`. A longer list is then cut in
//! pairs. Entries that name their speaker (`from` or `role`) must begin with a prompt, alternate and end
//! with an answer, but for one of the `system` at the start, which becomes part of the first prompt.
//!
//! # Examples
//! Sample templates, filled in by [`Template::render`]:
//! ```
//! use calumma::tokenize::Template;
//!
//! let draw = Template::parse("{name}<image>")?;
//! let ask = Template::parse("<image>{#turns|<sep>}{question}<sep>{answer}{/turns}")?;
//! assert!(draw.is_text_first() && !ask.is_text_first());
//! assert_eq!(ask.num_images(), 1);
//! assert_eq!(Vec::from_iter(ask.fields()), ["answer", "question", "turns"]);
//! let error = Template::parse("a <picture>").unwrap_err().to_string();
//! assert!(error.contains("column 3: unknown mark <picture>"));
//! # Ok::<(), calumma::Error>(())
//! ```
//! A prompt template:
//! ```
//! use calumma::tokenize::{CodedSegment, Template};
//!
//! let prompt = Template::prompt("Q: {question} <b>{{}}</b><sep>")?;
//! let segments = prompt.fill(&[("question", "is <image> text?")], vec![])?;
//! let text = CodedSegment::text("Q: is <image> text? <b>{}</b>");
//! assert_eq!(segments, [text, CodedSegment::sep()]);
//! # Ok::<(), calumma::Error>(())
//! ```
//! A user's prompt:
//! ```
//! use calumma::tokenize::Segment;
//! use image::RgbImage;
//!
//! let cat = RgbImage::new(2, 2);
//! let segments = Segment::from_prompt("{What} is <image>?", vec![cat.clone()])?;
//! let text = |text: &str| Segment::Text(text.to_owned());
//! assert_eq!(segments, [text("{What} is "), Segment::Image(cat), text("?")]);
//! # Ok::<(), calumma::Error>(())
//! ```

mod fill;
mod parse;
mod prompts;

pub(crate) use parse::Piece;
pub use parse::Template;
pub use prompts::PromptTemplates;
