//! Functions that answers call, and what is refused of them.

use serde_json::{Value, json};

use super::bodies::{choice, tool, with_calls};
use super::{ask, config, refused, with_ready_server};

#[test]
fn functions_and_calls_that_do_not_fit_are_refused() {
    with_ready_server(config(), |client| {
        let cases: Vec<(String, u16, &str)> = vec![
            (ask(json!({ "tools": [tool("a b")] })), 400, "a function's name is \"a b\""),
            (ask(json!({ "tools": [tool("a"), tool("a")] })), 400, "two functions"),
            (ask(json!({ "tools": [{ "type": "function" }] })), 400, "tools[0]"),
            (ask(json!({ "tools": [tool("a")], "tool_choice": "any" })), 400, "tool_choice"),
            (ask(json!({ "tools": [tool("a")], "tool_choice": choice("b") })), 400, "allowed: a"),
            (ask(json!({ "tool_choice": "required" })), 400, "tool_choice needs tools"),
            (
                ask(json!({ "tools": [tool("a")], "modalities": ["image"] })),
                400,
                "tools go with no other form",
            ),
            (with_calls("{}", &[]), 400, "the result of the call \"1\" must come first"),
            (with_calls("{}", &["2"]), 400, "no call \"2\" is waiting"),
            (with_calls("{}", &["1", "1"]), 400, "no call \"1\" is waiting"),
            (with_calls("[1]", &["1"]), 400, "no JSON object"),
            (with_calls("{\"a\":", &["1"]), 400, "no JSON object"),
        ];
        refused(&client, cases);
    });
}

#[test]
fn conversations_have_calls_and_their_results() {
    with_ready_server(config(), |client| {
        let tokenized = |body: &str| {
            let json_type = ("content-type", "application/json");
            let mut body: Value = serde_json::from_str(body).unwrap();
            body.as_object_mut().unwrap().remove("tool_choice");
            let reply = client.send("POST", "/tokenize", &[json_type], &body.to_string());
            assert_eq!(reply.status, 200, "{}", reply.text());
            let shown = client.post("/detokenize", &json!({ "tokens": reply.json()["tokens"] }));
            shown.json()["prompt"].as_str().unwrap().to_owned()
        };
        let text = tokenized(&with_calls("{\"n\": 1}", &["1"]));
        assert!(text.contains("{\"name\": \"a\", \"arguments\": {\"n\": 1}}"), "{text}");
        assert!(text.contains("what?") && text.contains("result 1"), "{text}");
        let mut body: Value = serde_json::from_str(&with_calls("", &["1"])).unwrap();
        body["tools"] = json!([tool("a")]);
        let text = tokenized(&body.to_string());
        assert!(text.contains("You can call these functions."), "{text}");
        assert!(text.contains("{\"name\": \"a\", \"arguments\": {}}"), "{text}");
        let reply = client.post("/v1/chat/completions", &body);
        assert_eq!(reply.status, 200, "{}", reply.text());
        let message = &reply.json()["choices"][0]["message"];
        assert!(message["content"].is_string() && message.get("tool_calls").is_none(), "{message}");
    });
}
