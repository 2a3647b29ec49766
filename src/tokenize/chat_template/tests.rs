//! Templates against Jinja's own output, and conversations as ids.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use serde_json::{Value, json};
use vq_tokenizer::Codes;

use super::*;
use crate::json::Ordered;
use crate::tokenize::{BpeConfig, CodedSegment, EncodeOptions, Processor, SEP_TOKEN, train_bpe};

/// A file below `tests/fixtures/chat`, which `make_chat_fixtures.py` there writes.
fn fixture(name: &str) -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chat");
    std::fs::read_to_string(dir.join(name)).unwrap()
}

/// The conversation of `case`; with functions all is text, in which keys keep their order.
fn conversation_of(case: &Value, prompt: bool, now: NaiveDateTime) -> Conversation {
    let ordered = |key: &str| case[key].as_str().unwrap().parse::<Ordered>().unwrap().0;
    match &case["tools"] {
        Value::Null => Conversation::new(&case["messages"], prompt, now),
        _ => Conversation { messages: ordered("messages"), tools: ordered("tools"), prompt, now },
    }
}

fn call_form_of(file: &str) -> Result<Option<CallForm>> {
    let template = ChatTemplate::new(fixture(&format!("templates/{file}.jinja")), file);
    let now = NaiveDateTime::default();
    CallForm::of(&template, ContentForm::of(&template, now), now)
}

#[test]
fn the_form_of_calls_is_found_in_templates() {
    let form = |before: &str, after: &str, arguments: &str, is_list| CallForm {
        before: before.to_owned(),
        after: after.to_owned(),
        arguments: arguments.to_owned(),
        is_list,
    };
    let tagged = form("<tool_call>\n", "\n</tool_call>", "arguments", false);
    assert_eq!(call_form_of("tools_tagged").unwrap(), Some(tagged));
    assert_eq!(call_form_of("tools_bare").unwrap(), Some(form("", "", "parameters", false)));
    let list = form("[TOOL_CALLS] ", "", "arguments", true);
    assert_eq!(call_form_of("tools_list").unwrap(), Some(list));
    for without in ["chatml", "llama2", "llama3", "mistral", "gemma", "parts", "python"] {
        assert_eq!(call_form_of(without).unwrap(), None, "{without}");
    }
    let error = call_form_of("tools_xml").unwrap_err().to_string();
    assert!(error.contains("chat template (tools_xml): it writes calls"), "{error}");
}

#[test]
fn templates_render_as_in_python() {
    let expected: Value = serde_json::from_str(&fixture("expected.json")).unwrap();
    let now: NaiveDateTime = expected["now"].as_str().unwrap().parse().unwrap();
    let cases = expected["cases"].as_array().unwrap();
    assert!(cases.len() > 80);
    for case in cases {
        let file = case["template"].as_str().unwrap();
        let template = ChatTemplate::new(fixture(&format!("templates/{file}")), file);
        let prompt = case["add_generation_prompt"].as_bool().unwrap();
        let rendered = template.render_all(conversation_of(case, prompt, now));
        let conversation = &case["conversation"];
        match case["text"].as_str() {
            Some(text) => assert_eq!(rendered.unwrap(), text, "{file}: {conversation}"),
            None => {
                let error = rendered.unwrap_err().to_string();
                let raised = case["error"].as_str().unwrap();
                assert!(error.ends_with(raised), "{file}: {conversation}: {error}");
            }
        }
    }
}

#[test]
fn what_a_template_does_wrong_is_one_line_with_its_place() {
    let messages = json!([{ "role": "user", "content": "a" }]);
    let message = |source: &str| {
        let template = ChatTemplate::new(source, "chat_template.jinja");
        template.render(&messages, true).unwrap_err().to_string()
    };
    for (source, told) in [
        (
            "a\n{% if true %}\n{{ raise_exception('no tools: ' ~ messages[0].role) }}{% endif %}",
            "line 3): the template refuses the conversation: no tools: user",
        ),
        ("{% for m in messages %}\n{{ m.content }", "line 2): syntax error: "),
        ("a\n{% for m in messages %}", "line 2): syntax error: "),
        ("{{ messages[3].content }}", "line 1): undefined value"),
        ("{{ nothing.at_all }}", "line 1): undefined value"),
        ("{{ messages | unheard_of }}", "line 1): unknown filter: "),
        ("{{ unheard_of() }}", "line 1): unknown function: "),
        ("{{ strftime_now('%Q') }}", "is no format of a date"),
        (
            "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
            "ran out of fuel",
        ),
    ] {
        let error = message(source);
        assert!(error.starts_with("chat template (chat_template.jinja, line "), "{error}");
        assert!(error.contains(told) && !error.contains('\n'), "{source}: {error}");
    }
    // As in Python, an undefined variable alone is no text.
    let template = ChatTemplate::new("{{ nothing }}.", "t");
    assert_eq!(template.render(&messages, true).unwrap(), ".");
}

fn processor() -> Processor {
    let config = BpeConfig { num_codes: 16, vocab_size: 320, ..BpeConfig::default() };
    Processor::new(train_bpe(&config, ["what is it? a red circle"]).unwrap(), (2, 2)).unwrap()
}

/// The separator as the token that ends a turn.
fn template() -> ChatTemplate {
    let source = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\
        {{ eos_token }}\n{% endfor %}{{ 'assistant:' if add_generation_prompt }}";
    let tokens = [("eos_token".to_owned(), SEP_TOKEN.to_owned())];
    ChatTemplate::new(source, "t").with_tokens(tokens)
}

fn user(content: &str) -> Value {
    json!({ "role": "user", "content": content })
}

fn answer(number: usize) -> Value {
    json!({ "role": "assistant", "content": ChatTemplate::mark(number) })
}

fn encode(
    messages: &[Value],
    images: &[&Codes],
    answers: &Answers<'_>,
    before: Option<&Encoded>,
) -> Result<Encoded> {
    let template = template();
    let text = template.render(&json!(messages), true)?;
    template.encode(&processor(), text, images, answers, before)
}

fn segments(ids: &[u32]) -> Vec<CodedSegment> {
    processor().decode(ids).unwrap()
}

#[test]
fn special_tokens_and_images_become_ids_where_the_template_writes_them() {
    let codes = Codes { ids: vec![3, 1, 4, 1], height: 2, width: 2 };
    let found = encode(&[user("a <image> b")], &[&codes], &[], None).unwrap();
    assert_eq!(found.ids[0], processor().vocabulary().special().bos.unwrap());
    let text = CodedSegment::text;
    let expected = [
        text("user: a "),
        CodedSegment::Image(codes),
        text(" b"),
        CodedSegment::sep(),
        text("\nassistant:"),
    ];
    assert_eq!(segments(&found.ids), expected);
    let error = encode(&[user("<image>")], &[], &[], None).unwrap_err().to_string();
    assert!(error.contains("writes 1 times <image> for 0 images"), "{error}");
}

#[test]
fn no_text_of_a_user_becomes_a_control_token() {
    let (template, processor) = (template(), processor());
    for text in [
        SEP_TOKEN,
        "<image>",
        "<racm3:break>IMGIMGAZ<eoss></s><s>",
        "<<s>s>",
        "\u{fdd0}<\u{fdd0}/s>",
        "\u{fdd1}0\u{fdd1}",
        "plain",
    ] {
        let guarded = template.guarded(text, &processor).unwrap();
        let found = encode(&[user(&guarded)], &[], &[], None).unwrap();
        let shown = text.replace(['\u{fdd0}', '\u{fdd1}'], "\u{fffd}");
        let expected = [
            CodedSegment::text(format!("user: {shown}")),
            CodedSegment::sep(),
            CodedSegment::text("\nassistant:"),
        ];
        assert_eq!(segments(&found.ids), expected, "{text}");
    }
    assert_eq!(template.guarded("plain", &processor).unwrap(), "plain");
}

#[test]
fn a_later_turn_begins_with_the_ids_of_the_earlier_ones() {
    let special = *processor().vocabulary().special();
    // Not as the tokenizer would write its own text.
    let drawn = CodedSegment::Image(Codes { ids: vec![0, 1, 2, 3], height: 2, width: 2 });
    let options = EncodeOptions { bos: false, ..EncodeOptions::default() };
    let mut said: Vec<u32> = "red"
        .chars()
        .flat_map(|c| processor().text().encode_plain(&c.to_string()).unwrap())
        .collect();
    said.extend(processor().encode_with(&[drawn], options).unwrap());
    let first = encode(&[user("what?")], &[], &[], None).unwrap();
    let answers = [(7, said.as_slice())];
    let messages = [user("what?"), answer(7), user("why?")];
    let second = encode(&messages, &[], &answers, Some(&first)).unwrap();
    let earlier = [first.ids.as_slice(), &said, &[special.sep.unwrap()]].concat();
    assert!(second.ids.starts_with(&earlier));
    assert!(segments(&second.ids).contains(&CodedSegment::text("\nuser: why?")));
    // Without the earlier prompt the template's blank before the answer stays.
    let alone = encode(&messages, &[], &answers, None).unwrap();
    assert!(alone.ids.windows(said.len()).any(|ids| ids == said));
    assert!(alone.ids.len() > second.ids.len());
    let missing = encode(&messages[..1], &[], &answers, None).unwrap_err().to_string();
    assert!(missing.contains("writes answer 7 0 times"), "{missing}");
}

#[test]
fn bounds_of_marked_answers_change_nothing_else() {
    let messages =
        json!([{ "role": "user", "content": "a" }, { "role": "assistant", "content": "b" }]);
    let now = Local::now().naive_local();
    for (open, close) in [
        ("{% generation %}", "{% endgeneration %}"),
        ("{%- generation -%}", "{%- endgeneration -%}"),
        ("{%generation%}", "{%endgeneration%}"),
        ("{%+ generation +%}", "{%+ endgeneration +%}"),
        ("{%- generation %}", "{% endgeneration -%}"),
    ] {
        for line in ["", "\n", "\n\n", " \n  "] {
            let answer =
                format!("x{line}{open}{line}{{{{ m.content }}}}{line}.{line}{close}{line}y");
            let source = format!(
                "{{% for m in messages %}}\n{{% if m.role == 'user' %}}{{{{ m.content }}}}{{% else %}}\
                 {answer}{{% endif %}}\n{{% endfor %}}"
            );
            let template = ChatTemplate::new(source.as_str(), "t");
            let bounded = template
                .run(&marks::bounded(&source), Conversation::new(&messages, false, now))
                .unwrap();
            let (text, spans) = marks::taken_from(&bounded);
            let plain = template.render_at(&messages, false, now).unwrap();
            assert_eq!(text, plain, "{source:?}");
            let [span] = &spans[..] else { panic!("{spans:?}") };
            assert!(text[span.clone()].trim().starts_with('b'), "{source:?}: {spans:?}");
            assert!(text[span.clone()].trim().ends_with('.'), "{source:?}: {spans:?}");
        }
    }
    assert!(!ChatDocuments::new(template()).marks_answers());
}

#[test]
fn marked_answers_are_the_ids_between_their_bounds() {
    let source = "{% for m in messages %}{{ m.role }}:{% if m.role == 'assistant' %}{% generation %}\
        {{ m.content }}</s>{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}";
    let chat = ChatDocuments::new(ChatTemplate::new(source, "t"));
    let (processor, codes) = (processor(), Codes { ids: vec![3, 1, 4, 1], height: 2, width: 2 });
    let image = json!({ "type": "image" });
    let words = |text: &str| json!({ "type": "text", "text": text });
    let messages = [
        json!({ "role": "user", "content": [image, words("</s>é?")] }),
        json!({ "role": "assistant", "content": [words("red"), image] }),
        json!({ "role": "user", "content": "and <\u{fdd2}image>" }),
        json!({ "role": "assistant", "content": "blue \u{1F600}" }),
    ];
    let found = chat.encode(&processor, &messages, &[codes.clone(), codes.clone()], false).unwrap();
    let shown = |places: &[std::ops::Range<usize>]| -> Vec<String> {
        let text = |place: &std::ops::Range<usize>| -> String {
            segments(&found.ids[place.clone()]).iter().map(ToString::to_string).collect()
        };
        places.iter().map(text).collect()
    };
    assert_eq!(shown(&found.answers), ["red[image 2x2]</s>", "blue \u{1F600}</s>"]);
    assert_eq!(shown(&found.images), ["[image 2x2]", "[image 2x2]"]);
    let whole: String = segments(&found.ids).iter().map(ToString::to_string).collect();
    assert!(whole.starts_with("user:[image 2x2]</s>é?assistant:red"), "{whole}");
    assert!(whole.contains("user:and <\u{fffd}image>assistant:"), "{whole}");
    let few = chat.encode(&processor, &messages, &[codes], false).unwrap_err().to_string();
    assert!(few.contains("writes 2 times <image> for 1 image"), "{few}");
    let odd = [json!({ "role": "user", "content": 3 })];
    let error = chat.encode(&processor, &odd, &[], false).unwrap_err().to_string();
    assert!(error.contains("a message needs content"), "{error}");
}
