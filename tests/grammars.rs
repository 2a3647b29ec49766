//! Stop strings, choices and grammars, from the command line and from a program.

use calumma::generate::{EndReason, GenerationConfig, GenerationMode, Grammar, Request};
use calumma::pipeline::{Pipeline, PipelineEvent};
use calumma::tokenize::Segment;

use crate::common::cpu;

fn demo() -> Pipeline {
    Pipeline::open("checkpoints/demo".as_ref(), &cpu()).unwrap()
}

/// Text without images, which the shipped model would rather draw.
fn settings(seed: u64) -> GenerationConfig {
    let (mode, max_new_tokens) = (GenerationMode::TextOnly, Some(24));
    GenerationConfig { mode, max_new_tokens, seed, ..GenerationConfig::default() }
}

/// The text added to `prompt`, its pieces as they were streamed, and why it ended.
fn continued(pipeline: &Pipeline, request: Request) -> (String, Vec<String>, EndReason) {
    let (mut pieces, mut end) = (Vec::new(), None);
    let segments = pipeline.run(request, |event| {
        match event {
            PipelineEvent::Text(piece) => pieces.push(piece),
            PipelineEvent::End(reason) => end = Some(reason),
            other => panic!("{other:?}"),
        }
        Ok(())
    });
    let text = match segments.unwrap().pop() {
        Some(Segment::Text(text)) => text,
        other => {
            assert_eq!(other, None);
            String::new()
        }
    };
    (text, pieces, end.unwrap())
}

#[test]
fn text_ends_before_a_stop_string_and_none_of_it_is_streamed() {
    let pipeline = demo();
    let prompt = pipeline.encode_segments(&[Segment::Text("a large".to_owned())]).unwrap();
    let mut stopped = 0;
    for seed in 0..6 {
        let open = pipeline.request(&prompt, &settings(seed)).unwrap();
        let (whole, ..) = continued(&pipeline, open);
        let letters: Vec<char> = whole.chars().collect();
        for start in (0..letters.len().saturating_sub(4)).step_by(3) {
            let stop: String = letters[start..start + 4].iter().collect();
            let config = GenerationConfig { stop_strings: vec![stop.clone()], ..settings(seed) };
            let request = pipeline.request(&prompt, &config).unwrap();
            let (text, pieces, end) = continued(&pipeline, request);
            let before = whole.split(&stop).next().unwrap();
            assert_eq!(text, before, "{whole:?} before {stop:?}");
            assert_eq!(pieces.concat(), before);
            assert_eq!(end, EndReason::StopString(0));
            stopped += 1;
        }
    }
    assert!(stopped > 5, "{stopped}");
}

#[test]
fn a_grammar_needs_its_feature_and_is_followed_with_it() {
    let grammar = Grammar::regex("(red|green) (ball|é){1,2}");
    if !cfg!(feature = "grammar") {
        let error = grammar.unwrap_err().to_string();
        assert!(error.ends_with("needs a build with --features grammar"), "{error}");
        return;
    }
    let (pipeline, grammar) = (demo(), grammar.unwrap());
    let form = regex::Regex::new("^(red|green) (ball|é){1,2}$").unwrap();
    let prompt = pipeline.encode_segments(&[Segment::Text("a ".to_owned())]).unwrap();
    for seed in 0..10 {
        let constraint = Some(pipeline.constraint(&grammar).unwrap());
        let config = GenerationConfig { mode: GenerationMode::Auto, ..settings(seed) };
        let request = pipeline.request(&prompt, &config).unwrap();
        let (text, _, end) = continued(&pipeline, Request { constraint, ..request });
        assert!(form.is_match(&text), "{text:?}");
        assert!(matches!(end, EndReason::Constraint | EndReason::Stop(_)), "{end:?}");
    }
    let constraint = Some(pipeline.constraint(&grammar).unwrap());
    let config = GenerationConfig { mode: GenerationMode::ImageOnly, ..settings(0) };
    let request = Request { constraint, ..pipeline.request(&prompt, &config).unwrap() };
    let error = pipeline.run(request, |_| Ok(())).unwrap_err().to_string();
    assert!(error.contains("an image cannot follow a grammar"), "{error}");
}
