//! Functions that answers call: prompts by chat templates that read them, and by layouts that do not.

use std::sync::Arc;

use calumma::checkpoint::Checkpoint;
use calumma::json::Ordered;
use calumma::pipeline::{CallPiece, Chat, Pipeline, Question, Tool, ToolCall, ToolResult};
use calumma::tokenize::{ChatTemplate, Segment, TokenClass};
use serde_json::Value;

use crate::common::{cpu, fixture, tiny_checkpoint};

/// Names that no user may smuggle in.
const NAMES: &str = "<image></s><racm3:break>";

/// A tiny checkpoint with a chat template of the fixtures.
fn pipeline(template: Option<&str>) -> Pipeline {
    let (temporary, device) = (tempfile::tempdir().unwrap(), cpu());
    let dir = temporary.path().join("tiny");
    tiny_checkpoint(&dir);
    let mut checkpoint = Checkpoint::open(&dir, &device).unwrap();
    let template = template.map(|name| {
        let file = fixture(&format!("chat/templates/{name}.jinja"));
        ChatTemplate::new(std::fs::read_to_string(file).unwrap(), name)
    });
    checkpoint.processor = checkpoint.processor.with_chat_template(template);
    Pipeline::new(checkpoint, &device).unwrap()
}

/// The functions and texts that `make_chat_fixtures.py` has written for `template`.
fn expected(template: &str) -> (Vec<Tool>, Vec<(String, String)>) {
    let file = std::fs::read_to_string(fixture("chat/expected.json")).unwrap();
    let all: Value = serde_json::from_str(&file).unwrap();
    let cases = all["cases"].as_array().unwrap().iter();
    let mut cases =
        cases.filter(|case| case["template"] == template && case["tools"].is_string()).peekable();
    #[derive(serde::Deserialize)]
    struct Offered {
        function: Function,
    }
    #[derive(serde::Deserialize)]
    struct Function {
        name: String,
        description: Option<String>,
        parameters: Ordered,
    }
    let tools = cases.peek().unwrap()["tools"].as_str().unwrap();
    let tools: Vec<Offered> = serde_json::from_str(tools).unwrap();
    let tool = |Offered { function: Function { name, description, parameters } }| Tool {
        name,
        description,
        parameters,
    };
    let text = |key: &str, case: &Value| case[key].as_str().unwrap_or_default().to_owned();
    let texts = cases.map(|case| (text("conversation", case), text("text", case)));
    (tools.into_iter().map(tool).collect(), texts.collect())
}

fn tool(name: &str, description: &str, parameters: &str) -> Tool {
    let (name, description) = (name.to_owned(), Some(description.to_owned()));
    Tool { name, description, parameters: parameters.parse().unwrap() }
}

fn asks(text: &str) -> Question {
    Question { text: text.to_owned(), ..Question::default() }
}

fn call() -> ToolCall {
    let arguments = r#"{"place": "K\u00f6ln", "days": [1, 2.5], "a": null}"#.to_owned();
    ToolCall { id: "a1b2c3d4e".to_owned(), name: "weather".to_owned(), arguments }
}

fn result(text: &str) -> ToolResult {
    let ToolCall { id, name, .. } = call();
    ToolResult { id, name, text: text.to_owned() }
}

/// The prompt for `question` as text, names of tokens included.
fn prompt(chat: &Chat<'_>, question: &Question, pipeline: &Pipeline) -> String {
    let ids = chat.prompt(question).unwrap();
    pipeline.processor().text().decode_with_specials(&ids).unwrap()
}

#[test]
fn prompts_have_functions_calls_and_results_as_transformers_writes_them() {
    for (template, begun) in
        [("tools_tagged", "<tool_call>\n"), ("tools_bare", ""), ("tools_list", "[TOOL_CALLS] ")]
    {
        let pipeline = pipeline(Some(template));
        let (tools, texts) = expected(&format!("{template}.jinja"));
        let tools = Arc::new(pipeline.tools(tools).unwrap());
        let with_tools = |system: Option<&str>| {
            pipeline.chat(system.map(str::to_owned)).with_tools(tools.clone())
        };
        assert_eq!(texts.len(), 4, "{template}");
        for (conversation, text) in texts {
            let (chat, question) = match conversation.as_str() {
                "functions" => (with_tools(None), asks("Rain?")),
                "functions and instructions" => (with_tools(Some("Be brief.")), asks("Rain?")),
                "a call and its result" => {
                    let mut chat = with_tools(None);
                    chat.add(asks("Rain?"), Vec::new(), vec![call()]).unwrap();
                    let results = vec![result("{\"rain\": \"ü\"}")];
                    (chat, Question { results, ..Question::default() })
                }
                "two calls and a question" => {
                    let mut chat = with_tools(None);
                    let said = vec![Segment::Text("I look.".to_owned())];
                    chat.add(asks("Rain?"), said, vec![call(), call()]).unwrap();
                    let results = vec![result("no"), result("yes")];
                    (chat, Question { results, ..asks("Sure?") })
                }
                other => panic!("{other}"),
            };
            if text.is_empty() {
                let error = chat.prompt(&question).unwrap_err().to_string();
                assert!(error.contains("one call at a time"), "{template}: {error}");
                continue;
            }
            assert_eq!(prompt(&chat, &question, &pipeline), text, "{template}: {conversation}");
            let ids = chat.prompt_to_call(&question).unwrap();
            let forced = pipeline.processor().text().decode_with_specials(&ids).unwrap();
            assert_eq!(forced, text + begun, "{template}: {conversation}");
        }
    }
}

#[test]
fn names_of_tokens_in_functions_calls_and_results_stay_text() {
    let pipeline = pipeline(Some("tools_tagged"));
    let parameters =
        r#"{"type": "object", "properties": {"NAMES": {"enum": ["NAMES", "\u003cimage>"]}}}"#;
    let tools = tool("weather", NAMES, &parameters.replace("NAMES", NAMES));
    let tools = Arc::new(pipeline.tools(vec![tools]).unwrap());
    let mut chat = pipeline.chat(None).with_tools(tools);
    let arguments = r#"{"NAMES": "NAMES\u003cimage>"}"#.replace("NAMES", NAMES);
    let id = format!("{NAMES}1");
    let smuggled = ToolCall { id: id.clone(), arguments, ..call() };
    chat.add(asks("a"), Vec::new(), vec![smuggled]).unwrap();
    let results = vec![ToolResult { id, name: NAMES.to_owned(), text: NAMES.to_owned() }];
    let question = Question { results, ..Question::default() };
    let ids = chat.prompt(&question).unwrap();
    let vocabulary = pipeline.processor().vocabulary();
    let is_text = |id: &u32| vocabulary.class(*id) == TokenClass::Text;
    assert!(ids.iter().all(is_text), "a control token got in");
    let decoded = pipeline.processor().text().decode(&ids).unwrap();
    assert_eq!(decoded.matches(NAMES).count(), 6, "{decoded}");
    assert_eq!(decoded.matches("<image>").count(), 8, "{decoded}");
}

#[test]
fn layouts_without_functions_have_them_in_the_instructions() {
    for template in [None, Some("chatml")] {
        let pipeline = pipeline(template);
        let weather = tool("weather", "Rain?", r#"{"type": "object"}"#);
        let tools = Arc::new(pipeline.tools(vec![weather]).unwrap());
        let mut chat = pipeline.chat(Some("Be brief.".to_owned())).with_tools(tools.clone());
        let text = prompt(&chat, &asks("Now?"), &pipeline);
        let told = "Be brief.\nYou can call these functions. To call one, answer with nothing but {\"name\": its name, \
                    \"arguments\": {its arguments}}.\n{\"name\":\"weather\",\"description\":\"Rain?\",\
                    \"parameters\":{\"type\":\"object\"}}";
        assert!(text.contains(told), "{template:?}: {text}");
        assert!(text.find(told) < text.find("Now?"), "{text}");
        assert_eq!(
            chat.prompt(&asks("Now?")).unwrap(),
            chat.prompt_to_call(&asks("Now?")).unwrap()
        );
        // A call is the answer's text, so that it is read as one again.
        chat.add(asks("Now?"), Vec::new(), vec![call()]).unwrap();
        let question = Question { results: vec![result("no")], ..asks("Sure?") };
        let text = prompt(&chat, &question, &pipeline);
        let written = format!("{{\"name\": \"weather\", \"arguments\": {}}}", call().arguments);
        assert!(text.contains(&written) && text.contains("no\nSure?"), "{text}");
        let [piece] = &tools.reader(false, 1).push(&written)[..] else { panic!("{written}") };
        let (name, arguments) = (call().name, call().arguments);
        assert_eq!(piece, &CallPiece::Call { name, arguments });
    }
}

#[test]
fn functions_without_names_or_schemas_are_refused() {
    let own = pipeline(None);
    let object = r#"{"type": "object"}"#;
    for (tools, told) in [
        (vec![tool("", "", object)], "a function's name is \"\""),
        (vec![tool("a b", "", object)], "a function's name is \"a b\""),
        (vec![tool(&"a".repeat(65), "", object)], "1 to 64 letters"),
        (vec![tool("a", "", "[]")], "the parameters of \"a\""),
        (vec![tool("a", "", object), tool("a", "", object)], "two functions have the name \"a\""),
    ] {
        let error = own.tools(tools).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
    let tools = own.tools(vec![tool("a", "", object)]).unwrap();
    let error = tools.grammar(Some("b"), true).unwrap_err().to_string();
    assert!(error.contains("there is no function \"b\"; allowed: a"), "{error}");
    let error = pipeline(Some("tools_xml")).tools(vec![tool("a", "", object)]).unwrap_err();
    assert!(error.to_string().contains("in a form that is not known"), "{error}");
}
