//! `calumma chat`, with its lines through a pipe.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use calumma::checkpoint::{Manifest, chat_template};
use calumma::data::{self, RenderOptions};
use calumma::generate::EndReason;
use calumma::pipeline::{ChatEvent, Pipeline, PipelineEvent, Question};
use calumma::tokenize::{CodedSegment, Segment, Template};
use image::RgbImage;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use super::{Outcome, calumma_in, image, text, tiny};
use crate::common::{TINY_CONTEXT, cpu};

/// Runs `chat` in `dir` with the lines `input`.
fn chat_in(dir: &Path, args: &[&str], input: &str) -> Outcome {
    let mut child = Command::new(env!("CARGO_BIN_EXE_calumma"))
        .args(["--device", "cpu", "chat"])
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that has failed reads no more.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    Outcome {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("checkpoints/demo")
}

/// A scene of the kind that the shipped model knows, as `name` in `dir`.
fn scene(dir: &Path, name: &str) -> RgbImage {
    let mut sample = data::open("scenes:val?count=1&seed=77&size=64").unwrap().get(0).unwrap();
    let image = sample.images.remove(0);
    image.save(dir.join(name)).unwrap();
    image
}

/// A copy of the tiny checkpoint with the chat template `source`.
fn templated(dir: &Path, source: &str) -> PathBuf {
    let copy = dir.join("templated");
    let exported = calumma_in(dir, &["export", tiny(), "templated"]);
    assert_eq!(exported.code, 0, "{}", exported.stderr);
    std::fs::write(copy.join("chat_template.jinja"), source).unwrap();
    Manifest::of(&copy).unwrap().write(&copy).unwrap();
    copy
}

fn ask(text: &str, images: &[RgbImage], draw: bool) -> Question {
    Question { text: text.to_owned(), images: images.to_vec(), draw, ..Question::default() }
}

#[test]
fn a_first_turn_has_the_ids_of_ask_caption_and_draw() {
    let dir = tempfile::tempdir().unwrap();
    let image = scene(dir.path(), "s.png");
    let pipeline = Pipeline::open(&demo(), &cpu()).unwrap();
    let chat = pipeline.chat(None);
    let images = std::slice::from_ref(&image);
    let verb = |template: &str, question: &str| {
        let asking = pipeline.asking(template, &[]).unwrap();
        asking.prompts(images, &[question]).unwrap().remove(0)
    };
    let prompts = pipeline.prompts();
    let question = "what is <image>?";
    assert_eq!(chat.prompt(&ask(question, images, false)).unwrap(), verb(&prompts.ask, question));
    assert_eq!(chat.prompt(&ask("", images, false)).unwrap(), verb(&prompts.caption, ""));
    let drawn = Template::prompt(&prompts.draw).unwrap().fill(&[("text", "a cat")], vec![]);
    let drawn = pipeline.processor().encode(&drawn.unwrap()).unwrap();
    assert_eq!(chat.prompt(&ask("a cat", &[], true)).unwrap(), drawn);
}

#[test]
fn the_shipped_model_talks_about_images_that_are_given_and_drawn() {
    let dir = tempfile::tempdir().unwrap();
    scene(dir.path(), "s.png");
    let demo = demo();
    let lines = "/image s.png\nhow many shapes are there?\nwhat color is the background?\n\
                 /clear\n/draw a large red circle on a white background\nwhat color is the circle?\n\
                 /save talk/one.jsonl\n";
    let args = [text(&demo), "--out", "drawn", "--json"];
    let turns = chat_in(dir.path(), &args, lines).json();
    assert_eq!(turns.len(), 5, "{turns:#?}");
    let verb = |question: &str| {
        let outcome = calumma_in(dir.path(), &["ask", text(&demo), "s.png", question, "--json"]);
        outcome.json()[0]["answer"].clone()
    };
    assert_eq!(turns[0]["answer"], verb("how many shapes are there?"));
    assert_eq!(turns[0]["images"], json!(["s.png"]));
    assert_eq!(turns[1]["answer"], verb("what color is the background?"));
    assert_eq!((&turns[1]["turn"], &turns[1]["end"]), (&json!(2), &json!("stop")));
    let path = dir.path().join(turns[2]["segments"][0]["path"].as_str().unwrap());
    assert_eq!(image::open(path).unwrap().to_rgb8().dimensions(), (64, 64));
    assert_eq!((&turns[2]["turn"], &turns[2]["end"]), (&json!(1), &json!("image")));
    assert_eq!(turns[3]["answer"], "red");
    assert_eq!((&turns[4]["turns"], &turns[4]["saved"]), (&json!(2), &json!("talk/one.jsonl")));
}

#[test]
fn a_saved_conversation_is_training_data_of_the_same_ids() {
    let dir = tempfile::tempdir().unwrap();
    image(dir.path(), "p.png");
    let lines = "/image p.png\nwhat is it?\nwhat colour?\n/save d/talk.jsonl\n/save d/talk.jsonl\n";
    let outcome = chat_in(dir.path(), &[tiny(), "--system", "be brief", "--json"], lines);
    assert_eq!(outcome.code, 3);
    assert!(outcome.stderr.contains("talk.jsonl: already exists"), "{}", outcome.stderr);
    let turns: Vec<Value> =
        outcome.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let saved = data::open(text(&dir.path().join("d/talk.jsonl"))).unwrap();
    let sample = saved.get(0).unwrap();
    assert_eq!(sample.images, [image::open(dir.path().join("p.png")).unwrap().to_rgb8()]);
    let roles: Vec<&str> = sample.fields["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| message["role"].as_str().unwrap())
        .collect();
    assert_eq!(roles, ["system", "user", "assistant", "user", "assistant"]);

    let pipeline = Pipeline::open(Path::new(tiny()), &cpu()).unwrap();
    let codes = pipeline.vq().unwrap().encode(&sample.images).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let template = Template::parse("{messages}").unwrap();
    let options = RenderOptions::default();
    let document = template.render(&sample.fields, &codes, &options, &mut rng).unwrap();
    let said = |turn: &Value| -> String {
        let texts = turn["segments"].as_array().unwrap().iter();
        texts.map(|segment| segment["text"].as_str().unwrap()).collect()
    };
    let written: Vec<String> = document.segments.iter().map(ToString::to_string).collect();
    let sep = CodedSegment::sep().to_string();
    let expected = [
        "be brief\n",
        "[image 4x4]",
        "what is it?",
        &sep,
        &said(&turns[0]),
        &sep,
        "what colour?",
        &sep,
        &said(&turns[1]),
    ];
    let expected: Vec<&str> = expected.into_iter().filter(|text| !text.is_empty()).collect();
    assert_eq!(written, expected);

    let mut chat = pipeline.chat(Some("be brief".to_owned()));
    let first = chat.prompt(&ask("what is it?", &sample.images, false)).unwrap();
    let ids = pipeline.processor().encode(&document.segments).unwrap();
    assert!(ids.starts_with(&first));
    chat.clear();
}

#[test]
fn a_later_prompt_begins_with_the_earlier_one_and_its_answer() {
    let dir = tempfile::tempdir().unwrap();
    let source = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}\
                  {{ 'assistant:' if add_generation_prompt }}";
    let picture = RgbImage::from_pixel(32, 32, image::Rgb([200, 30, 30]));
    for checkpoint in [PathBuf::from(tiny()), templated(dir.path(), source)] {
        let pipeline = Pipeline::open(&checkpoint, &cpu()).unwrap();
        let mut config = pipeline.generation().clone();
        config.max_new_tokens = Some(4);
        let mut chat = pipeline.chat(None);
        let asked = ask("a red?", std::slice::from_ref(&picture), false);
        let first = chat.prompt(&asked).unwrap();
        let go_on = |_| Ok(ControlFlow::Continue(()));
        let reply = chat.ask(asked, &config, go_on).unwrap();
        assert_eq!(reply.dropped, 0);
        let second = chat.prompt(&ask("why", &[], false)).unwrap();
        assert!(second.starts_with(&first), "{checkpoint:?}");
        let rest = pipeline.processor().decode(&second[first.len()..]).unwrap();
        let said: String = reply
            .answer
            .iter()
            .map(|segment| match segment {
                Segment::Text(text) => text.clone(),
                Segment::Image(_) => panic!("a text was asked for"),
            })
            .collect();
        assert!(rest[0].to_string().starts_with(&said), "{rest:?} after {said:?}");
        assert!(chat.undo() && !chat.undo());
        assert_eq!(
            chat.prompt(&ask("a red?", std::slice::from_ref(&picture), false)).unwrap(),
            first
        );
    }
}

#[test]
fn turns_that_no_longer_fit_are_dropped_and_said() {
    let dir = tempfile::tempdir().unwrap();
    image(dir.path(), "p.png");
    let turn = "/image p.png\nwhat colour is it?\n";
    let args = [tiny(), "--max-tokens", "8", "--json"];
    let outcome = chat_in(dir.path(), &args, &turn.repeat(8));
    let dropped: Vec<u64> =
        outcome.json().iter().map(|turn| turn["dropped"].as_u64().unwrap()).collect();
    assert_eq!(dropped[0], 0);
    assert!(dropped.iter().sum::<u64>() >= 4, "{dropped:?}");
    let said = outcome.stderr.matches("the context is full: the oldest").count();
    assert_eq!(said, dropped.iter().filter(|count| **count > 0).count(), "{}", outcome.stderr);
    let long = "x y ".repeat(TINY_CONTEXT);
    chat_in(dir.path(), &args, &long).fails(3, &["does not fit the context of 96 ids"]);
}

#[test]
fn commands_change_the_conversation() {
    let dir = tempfile::tempdir().unwrap();
    image(dir.path(), "p.png");
    let lines = "/image p.png\n/undo\nwhat?\n/undo\n/seed 41\nwhat?\nwhy?\n//help\n/quit\nno\n";
    let outcome = chat_in(dir.path(), &[tiny(), "--json", "--seed", "7"], lines);
    let turns = outcome.json();
    let numbers: Vec<_> = turns.iter().map(|turn| turn["turn"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [1, 1, 2, 3]);
    let seeds: Vec<_> = turns.iter().map(|turn| turn["seed"].as_u64().unwrap()).collect();
    assert_eq!(seeds, [7, 41, 42, 43]);
    assert!(turns.iter().all(|turn| turn["images"] == json!([])));
    assert_eq!(turns[3]["text"], "/help");
    let help = chat_in(dir.path(), &[tiny()], "/help\n");
    assert!(help.code == 0 && help.stdout.contains("/draw TEXT"), "{}", help.stderr);
    for (lines, told) in [
        ("/imge p.png\n", "unknown command /imge, the nearest is /image"),
        ("/image q.png\n", "q.png"),
        ("/save a.jsonl\n", "there is no turn to save yet"),
    ] {
        chat_in(dir.path(), &[tiny()], lines).fails(3, &[told]);
    }
    let unused = chat_in(dir.path(), &[tiny()], "/image p.png\n");
    assert!(unused.stderr.contains("is unused"), "{}", unused.stderr);
}

/// Readers would take the mark for an image that is not there.
#[test]
fn a_conversation_with_a_mark_of_an_image_is_not_saved() {
    let dir = tempfile::tempdir().unwrap();
    image(dir.path(), "p.png");
    let plain = [tiny(), "--max-tokens", "2"];
    let with_system = [&plain[..], &["--system", "say <image>"]].concat();
    for (args, turn, told) in [
        (&plain[..], "is <image> red?", "contains <image>, which a reader of the file"),
        (&plain, "/image p.png\n<image>", "/undo takes back turns"),
        (&with_system, "why?", "that of --system"),
    ] {
        let outcome = chat_in(dir.path(), args, &format!("{turn}\n/save a.jsonl\n"));
        assert_eq!(outcome.code, 3, "{turn}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(told), "{turn}: {}", outcome.stderr);
    }
    assert!(!dir.path().join("a.jsonl").exists() && !dir.path().join("a-image.png").exists());
}

#[test]
fn drawn_images_are_new_files_and_shown_where_asked() {
    let dir = tempfile::tempdir().unwrap();
    let args = [tiny(), "--show", "blocks"];
    for _ in 0..2 {
        let outcome = chat_in(dir.path(), &args, "/draw\na cat\n");
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        assert!(outcome.stdout.contains('\u{2580}') && outcome.stdout.contains("[image a-cat-0"));
    }
    assert!(dir.path().join("a-cat-0.png").is_file() && dir.path().join("a-cat-0-1.png").is_file());
    let silent = chat_in(dir.path(), &[tiny(), "--fast"], "what?\n/draw a cat\n");
    assert!(silent.stdout.ends_with("[image a-cat-1.png]\n"), "{}", silent.stdout);
    let inspected = calumma_in(dir.path(), &["inspect", "a-cat-1.png", "--json"]).json();
    let made_by = &inspected[0]["made_by"];
    assert_eq!((&made_by["verb"], &made_by["window"]), (&json!("chat"), &json!("auto")));
    let context = &made_by["context"];
    assert_eq!(context["messages"][0], json!({ "role": "user", "content": "what?" }));
    assert_eq!((&context["draw"], &context["images"]), (&json!(true), &json!([])));
    assert_eq!(context["dropped"], 0);
}

#[test]
fn a_chat_template_lays_out_the_conversation() {
    let dir = tempfile::tempdir().unwrap();
    image(dir.path(), "p.png");
    let source = "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}\
                  {% endif %}{{ bos_token }}{% for m in messages %}{{ m.content }}<reserved08706>\
                  {% endfor %}";
    let checkpoint = templated(dir.path(), source);
    let checkpoint = text(&checkpoint);
    let shown = calumma_in(dir.path(), &["inspect", checkpoint]);
    assert!(
        shown.stdout.contains("chat       by the template in chat_template.jinja"),
        "{}",
        shown.stdout
    );
    let lines = "/image p.png\nwhat?\n</s>\n";
    let turns = chat_in(dir.path(), &[checkpoint, "--json"], lines).json();
    assert_eq!(turns.len(), 2);
    let system = chat_in(dir.path(), &[checkpoint, "--system", "x"], "a\n");
    let told =
        "chat_template.jinja, line 1): the template refuses the conversation: no system here";
    system.fails(3, &[told]);

    let pipeline = Pipeline::open(Path::new(checkpoint), &cpu()).unwrap();
    let prompt = pipeline.chat(None).prompt(&ask("</s>", &[], false)).unwrap();
    let special = pipeline.processor().vocabulary().special();
    assert_eq!((prompt[0], prompt.last()), (special.bos.unwrap(), Some(&special.sep.unwrap())));
    assert!(!prompt.contains(&special.eos));

    for layout in ["calumma", "hf"] {
        let copy = format!("copy-{layout}");
        let exported = calumma_in(dir.path(), &["export", checkpoint, &copy, "--layout", layout]);
        assert_eq!(exported.code, 0, "{}", exported.stderr);
        let found = chat_template(&dir.path().join(copy)).unwrap().unwrap();
        assert_eq!(found.source(), source);
    }
}

#[test]
fn a_stopped_answer_keeps_what_was_said() {
    let pipeline = Pipeline::open(Path::new(tiny()), &cpu()).unwrap();
    let mut chat = pipeline.chat(None);
    let mut config = pipeline.generation().clone();
    let stop = |_| Ok(ControlFlow::Break(()));
    let reply = chat.ask(ask("a cat", &[], true), &config, stop).unwrap();
    assert!(reply.is_withdrawn() && chat.exchanges().is_empty());
    // Some seed does not end at once.
    for seed in 0..50 {
        config.seed = seed;
        let mut texts = Vec::new();
        let reply = chat.ask(ask("what?", &[], false), &config, |event| match event {
            ChatEvent::Answer(PipelineEvent::Text(text)) => {
                texts.push(text);
                Ok(ControlFlow::Break(()))
            }
            _ => Ok(ControlFlow::Continue(())),
        });
        let reply = reply.unwrap();
        if reply.end == EndReason::Cancelled {
            assert_eq!(reply.answer, [Segment::Text(texts.remove(0))]);
            assert!(texts.is_empty());
            assert_eq!(chat.exchanges().last().unwrap().answer(), reply.answer);
            return;
        }
        chat.clear();
    }
    panic!("no seed gave a text");
}

#[test]
fn an_empty_turn_is_refused_and_changes_nothing() {
    let pipeline = Pipeline::open(Path::new(tiny()), &cpu()).unwrap();
    let mut chat = pipeline.chat(None);
    for (question, needed) in
        [(ask("", &[], false), "text or an image"), (ask("", &[], true), "text")]
    {
        let go_on = |_| Ok(ControlFlow::Continue(()));
        let error = chat.ask(question, pipeline.generation(), go_on).unwrap_err().to_string();
        assert_eq!(error, format!("the turn is empty; it needs {needed}"));
    }
    assert!(chat.exchanges().is_empty());
}
