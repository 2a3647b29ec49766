//! Flags of what is generated, and where it ends.

use calumma::checkpoint::Manifest;
use serde_json::{Value, json};

use super::{calumma_in, image, text, tiny};

#[test]
fn an_answer_by_choices_is_one_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path(), "p.png");
    let ask = ["ask", tiny(), text(&image), "what colour is it?", "--json"];
    let choices = "red,red square,blue";
    let found = &calumma_in(dir.path(), &[&ask[..], &["--choices", choices]].concat()).json()[0];
    assert!(choices.split(',').any(|choice| found["answer"] == choice), "{found}");
    assert_eq!(found["end"], "choice");
    let open = &calumma_in(dir.path(), &[&ask[..], &["--max-tokens", "2"]].concat()).json()[0];
    assert!(["max_tokens", "stop"].iter().any(|end| open["end"] == *end), "{open}");
    for flags in [
        &["--temperature", "1"][..],
        &["--max-tokens", "3"],
        &["--window", "4"],
        &["--stop", "x"],
        &["--regex", "x"],
        &["--greedy"],
    ] {
        let args = [&ask[..], &["--choices", choices], flags].concat();
        let outcome = calumma_in(dir.path(), &args);
        assert_eq!(outcome.code, 2, "{args:?}: {}", outcome.stderr);
    }
    let args = [&ask[..], &["--choices", "red,"]].concat();
    calumma_in(dir.path(), &args).fails(3, &["an empty choice"]);
}

#[test]
fn a_flag_without_effect_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path(), "p.png");
    let draw = ["draw", tiny(), "a red square"];
    let ask = ["ask", tiny(), text(&image), "what?"];
    let generate = ["generate", tiny(), "--prompt", "a"];
    for (verb, flags) in [
        (&draw[..], ["--max-tokens", "3"]),
        (&draw, ["--repetition-penalty", "1.1"]),
        (&ask, ["--guidance-scale", "2"]),
        (&ask, ["--candidates", "2"]),
        (&generate, ["--candidates", "2"]),
    ] {
        let outcome = calumma_in(dir.path(), &[verb, &flags].concat());
        assert_eq!(outcome.code, 2, "{verb:?} {flags:?}");
        assert!(outcome.stderr.contains(flags[0]), "{}", outcome.stderr);
    }
}

#[test]
fn the_checkpoint_says_what_is_generated_unless_a_flag_does() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy");
    assert_eq!(calumma_in(dir.path(), &["export", tiny(), "copy"]).code, 0);
    let path = copy.join("generation_config.json");
    let mut settings: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    settings["modality"] = json!("image");
    std::fs::write(&path, settings.to_string()).unwrap();
    Manifest::of(&copy).unwrap().write(&copy).unwrap();
    let generate = ["generate", "copy", "--prompt", "a", "--max-tokens", "4", "--json"];
    let end = |flags: &[&str]| {
        let made = calumma_in(dir.path(), &[&generate[..], flags].concat()).json();
        made[0]["end"].clone()
    };
    assert_eq!(end(&[]), "image");
    assert_ne!(end(&["--modality", "text"]), "image");
}

#[test]
fn stop_strings_and_grammars_out_of_range_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let generate = ["generate", tiny(), "--prompt", "a red"];
    let run = |flags: &[&str]| calumma_in(dir.path(), &[&generate[..], flags].concat());
    run(&["--stop", ""]).fails(3, &["a stop string has 0 bytes; allowed: 1 to 256"]);
    assert_eq!(run(&["--regex", "a", "--schema", "s.json"]).code, 2);
    run(&["--schema", "none.json"]).fails(3, &["none.json"]);
    std::fs::write(dir.path().join("s.json"), "{\"type\": \"strin\"}").unwrap();
    let found = run(&["--schema", "s.json", "--max-tokens", "9"]);
    if cfg!(feature = "grammar") {
        found.fails(3, &["s.json: JSON schema at #: Invalid type: strin"]);
    } else {
        found.fails(
            3,
            &["s.json: a JSON schema for the text needs a build with --features grammar"],
        );
    }
}
