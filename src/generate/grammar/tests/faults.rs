//! Grammars that are wrong, or ask for what is never allowed.

use llguidance::api::ParserLimits;

use super::*;

#[test]
fn grammars_that_are_wrong_name_the_place() {
    let driver = Driver::new(small());
    let error = |grammar: Result<Grammar>| {
        let made = grammar.and_then(|grammar| driver.compiler.constraint(&grammar).map(|_| ()));
        made.unwrap_err().to_string()
    };
    let json = |text: &str| error(Grammar::json_schema(text));
    assert_eq!(json("{\"type\": }"), "JSON schema: expected value at line 1 column 10");
    assert_eq!(
        json(r#"{"properties": {"a": {"type": "array", "items": {"type": "strin"}}}}"#),
        "JSON schema at #/properties/a/items: Invalid type: strin"
    );
    assert_eq!(
        json(r#"{"properties": {"a/b": {"anyOf": [{"type": "null"}, {"not": {}}]}}}"#),
        "JSON schema at #/properties/a~1b/anyOf/1: keys that are not supported: [\"not\"]"
    );
    let pattern = json(r#"{"properties": {"a": {"type": "string", "pattern": "b(?=a)"}}}"#);
    assert!(pattern.starts_with("JSON schema at #/properties/a: look-around"), "{pattern}");
    assert!(pattern.ends_with("is not supported, at character 2"), "{pattern}");
    let reference = json(r##"{"properties": {"a": {"$ref": "#/$defs/none"}}}"##);
    assert!(reference.contains("'#/$defs/none'"), "{reference}");
    assert!(json("[1]").starts_with("JSON schema at #: "));
    let regex = |text: &str| error(Grammar::regex(text));
    assert_eq!(
        regex("a(b"),
        "regular expression: invalid regex \"a(b\": unclosed group, at character 2"
    );
    assert!(regex("[z-a]").contains("invalid character class range"));
    let lark = |text: &str| error(Grammar::lark(text));
    assert_eq!(lark("start: \"a\" foo"), "Lark grammar, line 1, column 8: unknown name: \"foo\"");
    assert_eq!(lark("other: \"a\""), "Lark grammar: no start rule found");
    for control in ["<s>", "</s>", "<racm3:break>", "<end>", "IMGIMGAZ"] {
        assert!(
            lark(&format!("start: \"a\" {control}")).starts_with("Lark grammar, line 1"),
            "{control}"
        );
    }
    assert_eq!(lark("start: start \"a\""), fault::dead_end().to_string());
    assert!(error(Grammar::choices(&["a", ""])).contains("an empty choice"));
    let long = "a".repeat(MAX_GRAMMAR_LEN + 1);
    assert!(error(Grammar::regex(&long)).contains("allowed: at most 1048576"));
}

#[test]
fn ids_of_images_cannot_be_named_by_number() {
    let driver = Driver::new(small());
    let vocabulary = driver.processor.vocabulary();
    let special = vocabulary.special();
    for id in [
        special.begin_image.unwrap(),
        special.eos,
        special.sep.unwrap(),
        vocabulary.image_id(3).unwrap(),
    ] {
        let grammar = Grammar::lark(&format!("start: <[{id}]>")).unwrap();
        let error = driver.compiler.constraint(&grammar).unwrap_err().to_string();
        assert_eq!(error, fault::dead_end().to_string(), "{id}");
        let grammar = Grammar::lark(&format!("start: \"a\" | <[{id}]>"));
        let mut constraint = driver.constraint(grammar);
        let a = driver.processor.text().encode_plain("a").unwrap();
        assert_eq!(driver.allowed(&mut *constraint), a);
    }
}

#[test]
fn a_grammar_beyond_the_limits_is_an_error_in_one_line() {
    let mut driver = Driver::new(small());
    let grammar =
        Grammar::json_schema(r#"{"type": "array", "items": {"type": "number"}}"#).unwrap();
    let usual = driver.compiler.factory.limits().clone();
    let limits: [(&str, fn(&mut ParserLimits)); 2] = [
        ("max_grammar_size", |limits| limits.max_grammar_size = 3),
        ("initial_lexer_fuel", |limits| limits.initial_lexer_fuel = 3),
    ];
    for (name, lower) in limits {
        *driver.compiler.factory.limits_mut() = usual.clone();
        lower(driver.compiler.factory.limits_mut());
        let made = driver.compiler.constraint(&grammar);
        let error = made.expect_err(name).to_string();
        assert!(!error.contains('\n') && error.len() < 300, "{error}");
    }
    *driver.compiler.factory.limits_mut() = usual;
    assert!(driver.compiler.constraint(&grammar).is_ok());
}
