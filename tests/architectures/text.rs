//! The tokenizer and the chat template.

use calumma::tokenize::ChatTemplate;
use serde_json::{Value, json};

use crate::Case;
use crate::compare::{Outcome, same};
use crate::folder::Folder;
use crate::opened::Opened;

pub fn cases(folder: &Folder) -> Vec<Case> {
    let Some(expected) = folder.text.clone() else { return Vec::new() };
    let texts = expected["encode"].as_array().unwrap().clone();
    let mut cases: Vec<Case> = texts
        .into_iter()
        .map(|pair| {
            let name = format!("tokenizer: {} to ids and back", pair["text"]);
            Case::new(name, move |opened| text(opened, &pair))
        })
        .collect();
    let chat = expected["chat"].clone();
    if !chat.is_null() {
        let of_text = chat.clone();
        cases.push(Case::new("chat text", move |opened| {
            same(&json!(rendered(template(opened)?, &of_text)?), &of_text["text"])
        }));
        cases.push(Case::new("chat ids", move |opened| chat_ids(opened, &chat)));
    }
    cases
}

/// The ids of a text, in which names of special tokens become those tokens, and the text of the ids.
fn text(opened: &Opened<'_>, pair: &Value) -> Outcome {
    let tokenizer = opened.processor.text();
    let text = pair["text"].as_str().unwrap();
    let ids = tokenizer.encode(text).map_err(|error| error.to_string())?;
    same(&json!(ids), &pair["ids"])?;
    let back = tokenizer.decode_with_specials(&ids).map_err(|error| error.to_string())?;
    same(&back.as_str(), &text)
}

fn template<'a>(opened: &'a Opened<'_>) -> Result<&'a ChatTemplate, String> {
    opened.processor.chat_template().ok_or_else(|| "there is no chat template".to_owned())
}

fn rendered(template: &ChatTemplate, chat: &Value) -> Result<String, String> {
    let prompt = chat["add_generation_prompt"].as_bool().unwrap();
    template.render(&chat["messages"], prompt).map_err(|error| error.to_string())
}

fn chat_ids(opened: &Opened<'_>, chat: &Value) -> Outcome {
    let template = template(opened)?;
    let text = rendered(template, chat)?;
    let encoded = template.encode(&opened.processor, text, &[], &[], None);
    same(&json!(encoded.map_err(|error| error.to_string())?.ids), &chat["ids"])
}
