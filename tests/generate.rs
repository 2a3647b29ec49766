//! Generation on a scripted model: which ids follow, what each branch sees, in which order.

use calumma::generate::{
    EndReason, Engine, EngineConfig, Event, Generated, GenerationConfig, GenerationMode, Generator,
    Request, Window,
};
use calumma::tokenize::TokenClass;
use calumma::{Error, Result};

use crate::scripted::{CODES, CONTEXT, GRID, Scripted, code, text, vocabulary};

fn generate(model: &Scripted, prompt: &[u32], config: &GenerationConfig) -> Result<Generated> {
    Generator::new(model, vocabulary(), GRID)?.generate(prompt, config, |_| Ok(()))
}

fn guided(scale: f32, seed: u64) -> GenerationConfig {
    GenerationConfig { guidance_scale: scale, seed, ..GenerationConfig::default() }
}

/// Runs `requests` with one id per pass, so that the model is fed nothing but the lanes' ids.
fn run_plainly(model: &Scripted, requests: Vec<Request>) -> Vec<Generated> {
    let vocabulary = vocabulary();
    let plain = EngineConfig { window: Window::Off, ..EngineConfig::default() };
    let mut engine = Engine::new(model, vocabulary, GRID, plain).unwrap();
    let ids: Vec<_> = requests.into_iter().map(|r| engine.admit(r).unwrap()).collect();
    while !engine.is_idle() {
        engine.step().unwrap();
    }
    ids.into_iter().map(|id| engine.take(id).unwrap().unwrap()).collect()
}

/// Draws one image per prompt, with one id per pass.
fn draw_plainly(
    model: &Scripted,
    prompts: &[Vec<u32>],
    config: &GenerationConfig,
) -> Vec<Generated> {
    let config = GenerationConfig { mode: GenerationMode::ImageOnly, ..config.clone() };
    let request = |prompt: &Vec<u32>| Request::new(prompt.clone(), config.clone());
    run_plainly(model, prompts.iter().map(request).collect())
}

/// Asserts that new ids follow every rule; returns the number of images.
fn assert_well_formed(prompt: &[u32], ids: &[u32], end: EndReason) -> usize {
    let (vocabulary, mut images, mut at) = (vocabulary(), 0, 0);
    while at < ids.len() {
        match vocabulary.class(ids[at]) {
            TokenClass::Text => at += 1,
            TokenClass::Special => {
                assert_eq!((ids[at], at + 1), (vocabulary.special().eos, ids.len()));
                assert_eq!(end, EndReason::Stop(ids[at]));
                at += 1;
            }
            TokenClass::BeginImage => {
                let block = &ids[at + 1..at + 1 + CODES];
                assert!(block.iter().all(|&id| vocabulary.class(id) == TokenClass::Image));
                assert_eq!(ids[at + 1 + CODES], vocabulary.special().end_image.unwrap());
                (images, at) = (images + 1, at + CODES + 2);
            }
            class => panic!("{class:?} outside a block at {at} of {ids:?}"),
        }
    }
    if end == EndReason::Context {
        assert_eq!(prompt.len() + ids.len(), CONTEXT);
    }
    images
}

#[test]
fn rows_obey_the_modality_rules_whatever_the_logits() {
    let prompt = [0, text(1), text(2)];
    let mut images = 0;
    for seed in 0..60 {
        for (scale, image_scale) in [(1.0, None), (3.0, None), (3.0, Some(1.2))] {
            let config =
                GenerationConfig { image_guidance_scale: image_scale, ..guided(scale, seed) };
            let generated = generate(&Scripted::random(), &prompt, &config).unwrap();
            let count = assert_well_formed(&prompt, &generated.ids, generated.end);
            assert_eq!(generated.images.len(), count);
            images += count;
        }
    }
    assert!(images > 100, "{images} images are too few to show anything");
}

#[test]
fn an_image_is_begun_only_where_it_fits() {
    let begin_image = vocabulary().special().begin_image.unwrap();
    let model = Scripted::preferring(&[begin_image, text(0)]);
    let config = GenerationConfig::default().greedy();
    for (prompt_len, begun) in [(CONTEXT - CODES - 2, true), (CONTEXT - CODES - 1, false)] {
        let prompt = vec![text(1); prompt_len];
        let generated = generate(&model, &prompt, &config).unwrap();
        assert_eq!(generated.ids[0] == begin_image, begun);
        assert_eq!(generated.end, EndReason::Context);
        assert_well_formed(&prompt, &generated.ids, generated.end);
    }
    let config = GenerationConfig { max_new_tokens: Some(CODES + 1), ..config };
    let generated = generate(&model, &[0], &config).unwrap();
    assert_eq!((generated.ids.len(), generated.images.len()), (CODES + 1, 0));
    assert_eq!(generated.end, EndReason::MaxNewTokens);
}

#[test]
fn text_only_has_no_images_and_image_only_exactly_one() {
    for seed in 0..20 {
        let text_only = GenerationConfig { mode: GenerationMode::TextOnly, ..guided(2.0, seed) };
        let generated = generate(&Scripted::random(), &[0], &text_only).unwrap();
        assert_eq!(assert_well_formed(&[0], &generated.ids, generated.end), 0);

        let mode = GenerationMode::ImageOnly;
        let image_only = GenerationConfig { mode, max_new_tokens: Some(1), ..guided(2.0, seed) };
        let generated = generate(&Scripted::random(), &[0, text(3)], &image_only).unwrap();
        assert_eq!(generated.ids[0], vocabulary().special().begin_image.unwrap());
        let codes = &generated.images[0];
        assert_eq!((codes.height, codes.width), GRID);
        let ids = codes.ids.iter().map(|&code| vocabulary().image_id(code).unwrap());
        assert!(ids.eq(generated.ids[1..].iter().copied()));
        assert_eq!(generated.end, EndReason::ImageComplete);
    }
}

#[test]
fn events_report_the_row_in_order() {
    let model = Scripted::random();
    let vocabulary = vocabulary();
    let generator = Generator::new(&model, vocabulary, GRID).unwrap();
    for seed in 0..20 {
        let mut events = Vec::new();
        let told = |event| {
            events.push(event);
            Ok(())
        };
        let generated = generator.generate(&[0], &guided(2.0, seed), told).unwrap();
        let texts = events.iter().filter_map(|event| match event {
            Event::Text(id) => Some(*id),
            _ => None,
        });
        let text_ids = |id: &u32| vocabulary.class(*id) == TokenClass::Text;
        assert!(texts.eq(generated.ids.iter().copied().filter(text_ids)));
        let images: Vec<_> = events
            .iter()
            .filter_map(|event| match event {
                Event::Image(codes) => Some(codes.clone()),
                _ => None,
            })
            .collect();
        assert_eq!(images, generated.images);
        assert_eq!(events.last(), Some(&Event::End(generated.end)));
        for (at, _) in events.iter().enumerate().filter(|(_, e)| **e == Event::ImageStart) {
            let Event::Image(codes) = &events[at + CODES + 1] else {
                panic!("{:?}", events[at + CODES + 1]);
            };
            for (index, &code) in codes.ids.iter().enumerate() {
                let (done, total, width) = (index + 1, CODES, codes.width);
                assert_eq!(events[at + done], Event::ImageProgress { code, done, total, width });
            }
        }
    }
}

#[test]
fn equal_seeds_give_equal_ids_and_greedy_ignores_the_seed() {
    let draw = |config: &GenerationConfig| generate(&Scripted::random(), &[0], config).unwrap();
    assert_eq!(draw(&guided(3.0, 5)), draw(&guided(3.0, 5)));
    assert_ne!(draw(&guided(3.0, 5)).ids, draw(&guided(3.0, 6)).ids);
    assert_eq!(draw(&guided(3.0, 5).greedy()), draw(&guided(3.0, 6).greedy()));
}

#[test]
fn guidance_of_one_is_no_guidance() {
    for seed in 0..10 {
        let (plain, one) = (Scripted::random(), Scripted::random());
        let config = GenerationConfig { image_guidance_scale: Some(1.0), ..guided(1.0, seed) };
        let expected = run_plainly(&plain, vec![Request::new(vec![0], guided(1.0, seed))]);
        assert_eq!(run_plainly(&one, vec![Request::new(vec![0], config)]), expected);
        assert_eq!(*plain.seen.borrow(), *one.seen.borrow());
        assert!(one.seen.borrow().iter().all(|pass| pass.len() == 1), "one lane is enough");
    }
}

#[test]
fn guidance_changes_images_and_nothing_before_them() {
    // A prompt of begin-of-text alone would be what the other branch sees.
    let prompt = [0, text(5)];
    let (mut images, mut changed) = (0, 0);
    for seed in 0..20 {
        let plain = generate(&Scripted::random(), &prompt, &guided(1.0, seed)).unwrap();
        let strong = generate(&Scripted::random(), &prompt, &guided(5.0, seed)).unwrap();
        let begins = |id: &u32| *id == vocabulary().special().begin_image.unwrap();
        let first = plain.ids.iter().position(begins).unwrap_or(plain.ids.len() - 1);
        assert_eq!(plain.ids[..=first], strong.ids[..=first]);
        images += usize::from(!plain.images.is_empty());
        changed += usize::from(plain.images.first() != strong.images.first());
    }
    assert!(images > 5 && changed == images, "{changed} of {images} images changed");
}

#[test]
fn a_row_draws_the_same_in_any_batch() {
    let prompts: Vec<Vec<u32>> =
        (0..7).map(|n| [vec![0], (0..3 * n).map(|k| text(k % 9)).collect()].concat()).collect();
    let model = Scripted::random();
    let vocabulary = vocabulary();
    let generator = Generator::new(&model, vocabulary, GRID).unwrap();
    for scale in [1.0, 3.0] {
        for seed in [0, 100, 200] {
            let request = |(n, prompt): (u64, &Vec<u32>)| {
                Request::new(prompt.clone(), guided(scale, seed + n))
            };
            let requests: Vec<_> = (0..).zip(&prompts).map(request).collect();
            let batch = generator.run(requests.clone(), &mut |_, _| Ok(())).unwrap();
            for (request, together) in requests.iter().zip(batch) {
                let alone = generate(&model, &request.prompt, &request.config).unwrap();
                assert_eq!(alone, together);
            }
        }
    }
    let config = guided(2.0, 9);
    let codes = generator.draw_batch(&prompts, &config).unwrap();
    let answers = generator.answer_batch(&prompts, &config).unwrap();
    for (n, prompt) in prompts.iter().enumerate() {
        let one = std::slice::from_ref(prompt);
        let config = guided(2.0, 9 + n as u64);
        assert_eq!(generator.draw_batch(one, &config).unwrap()[0], codes[n]);
        assert_eq!(generator.answer_batch(one, &config).unwrap()[0], answers[n]);
    }
}

#[test]
fn guidance_branches_see_the_row_its_images_or_nothing() {
    let special = *vocabulary().special();
    let image: Vec<u32> = (0..CODES as u32).map(code).collect();
    let block =
        [vec![special.begin_image.unwrap()], image, vec![special.end_image.unwrap()]].concat();
    let first = [vec![0], block.clone(), vec![text(1), text(2)]].concat();
    let prompts = [first, vec![0, text(4)]];
    // The last code of an image is drawn, never fed.
    let begun = |drawn: &Generated| drawn.ids[..CODES].to_vec();
    let full = |n: usize, begun: &[u32]| [&prompts[n], begun].concat();
    let nothing = |begun: &[u32]| [&[0], begun].concat();
    let sorted = |mut lanes: Vec<Vec<u32>>| {
        lanes.sort();
        lanes
    };

    let model = Scripted::random();
    let drawn = draw_plainly(&model, &prompts, &guided(3.0, 1));
    let (one, two) = (begun(&drawn[0]), begun(&drawn[1]));
    let expected = vec![full(0, &one), nothing(&one), full(1, &two), nothing(&two)];
    assert_eq!(model.lanes(), sorted(expected));
    assert_eq!(model.caches.get(), 1);

    let model = Scripted::random();
    let config = GenerationConfig { image_guidance_scale: Some(1.2), ..guided(3.0, 1) };
    let drawn = draw_plainly(&model, &prompts[..1], &config);
    let one = begun(&drawn[0]);
    let images = [&[0], &block[..], &one].concat();
    assert_eq!(model.lanes(), sorted(vec![full(0, &one), images, nothing(&one)]));
}

#[test]
fn the_text_lane_goes_on_after_images_and_no_id_is_fed_twice() {
    let prompt = [0, text(6), text(7)];
    let mut images = 0;
    for seed in 0..20 {
        let model = Scripted::random();
        let request = Request::new(prompt.to_vec(), guided(3.0, seed));
        let generated = run_plainly(&model, vec![request]).remove(0);
        images += generated.images.len();
        assert_eq!(model.caches.get(), 1);
        // Every id but the last, which has no successor, is fed once to the lane of the whole row.
        let seen = model.seen.borrow();
        let whole = seen.iter().flatten().filter(|span| span.row.starts_with(&prompt));
        let fed: Vec<u32> = whole.flat_map(|span| span.ids().to_vec()).collect();
        let row = [&prompt, &generated.ids[..]].concat();
        assert_eq!(fed, row[..fed.len()]);
        assert!(row.len() - fed.len() <= 2, "{} of {}", fed.len(), row.len());
        // The lane that sees nothing else has begin-of-text, begin-image and the codes of one image.
        let others = seen.iter().flatten().filter(|span| !span.row.starts_with(&prompt));
        let fed: usize = others.map(|span| span.ids().len()).sum();
        let lanes = generated.images.len();
        assert!((lanes * (CODES + 1)..=lanes * (CODES + 2)).contains(&fed), "{fed} for {lanes}");
    }
    assert!(images > 10, "{images} images are too few to show anything");
}

#[test]
fn a_begun_image_is_continued_from_its_codes() {
    let special = *vocabulary().special();
    let prompt = [0, text(0), special.begin_image.unwrap(), 5, 6];
    let model = Scripted::random();
    let config = GenerationConfig { mode: GenerationMode::ImageOnly, ..guided(3.0, 2) };
    let generated = generate(&model, &prompt, &config).unwrap();
    assert_eq!(generated.ids.len(), CODES - 2);
    let given = [5, 6].map(|id| vocabulary().image_code(id).unwrap());
    assert_eq!(generated.images[0].ids[..2], given);
    let begun = [0, special.begin_image.unwrap(), 5, 6];
    assert!(model.lanes().iter().any(|lane| lane.starts_with(&begun)), "{:?}", model.lanes());
    let both = generate(&Scripted::random(), &prompt, &guided(3.0, 2)).unwrap();
    assert_eq!(both.images[0], generated.images[0]);
    assert_eq!(both.ids[CODES - 2], special.end_image.unwrap());

    let text_inside = [0, special.begin_image.unwrap(), text(0)];
    let too_many = [vec![0, special.begin_image.unwrap()], vec![4; CODES + 1]].concat();
    for prompt in [&text_inside[..], &too_many] {
        assert!(generate(&model, prompt, &config).is_err());
    }
}

#[test]
fn stop_ids_end_a_row_and_are_its_last_id() {
    let special = *vocabulary().special();
    let config = GenerationConfig::default().greedy();
    let generated = generate(&Scripted::preferring(&[special.eos]), &[0], &config).unwrap();
    assert_eq!(generated.ids, [special.eos]);
    assert_eq!(generated.end, EndReason::Stop(special.eos));

    let model = Scripted::preferring(&[special.sep.unwrap(), text(3)]);
    let config = GenerationConfig { max_new_tokens: Some(4), ..config };
    assert_eq!(generate(&model, &[0], &config).unwrap().ids, [text(3); 4]);
    let config = GenerationConfig { stop_ids: vec![special.sep.unwrap()], ..config };
    assert_eq!(generate(&model, &[0], &config).unwrap().ids, [special.sep.unwrap()]);
    for id in [special.pad, special.bos.unwrap(), special.begin_image.unwrap(), 4, 10_000] {
        let config = GenerationConfig { stop_ids: vec![id], ..config.clone() };
        let error = generate(&model, &[0], &config).unwrap_err().to_string();
        assert!(error.contains(&format!("stop id {id} ")), "{error}");
    }
}

#[test]
fn repetition_is_counted_over_prompt_and_answer() {
    let model = Scripted::preferring(&[text(0), text(1)]);
    let mut config = GenerationConfig { max_new_tokens: Some(2), ..GenerationConfig::default() };
    config = config.greedy();
    config.text.repetition_penalty = 2.0;
    assert_eq!(generate(&model, &[0], &config).unwrap().ids, [text(0), text(1)]);
    assert_eq!(generate(&model, &[0, text(0)], &config).unwrap().ids, [text(1), text(0)]);
}

#[test]
fn unusable_prompts_are_refused_before_any_computation() {
    let model = Scripted::random();
    let auto = GenerationConfig::default();
    let image = GenerationConfig { mode: GenerationMode::ImageOnly, ..auto.clone() };
    let full = vec![text(0); CONTEXT];
    let nearly_full = vec![text(0); CONTEXT - CODES];
    for (prompt, config, told) in [
        (&full, &auto, "a prompt of 40 ids with 1 or more to add does not fit the context of 40"),
        (&nearly_full, &image, "a prompt of 34 ids with 7 or more to add does not fit"),
        (&vec![], &auto, "the prompt has no ids"),
        (&vec![0, 99], &auto, "prompt id 99 is outside the 30 known ids"),
    ] {
        let error = generate(&model, prompt, config).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
    let bad = GenerationConfig { guidance_scale: f32::NAN, ..auto };
    assert!(generate(&model, &[0], &bad).is_err());
    assert!(model.seen.borrow().is_empty());
    assert!(Generator::new(&Scripted { vocab: 29, ..model }, vocabulary(), GRID).is_err());
}

#[test]
fn non_finite_logits_and_errors_of_on_event_end_generation() {
    let model = Scripted::new(|_| vec![f32::NAN; vocabulary().len()]);
    let error = generate(&model, &[0], &GenerationConfig::default()).unwrap_err();
    assert!(error.to_string().contains("not finite"), "{error}");

    let model = Scripted::random();
    let vocabulary = vocabulary();
    let generator = Generator::new(&model, vocabulary, GRID).unwrap();
    let stop = |_| Err(Error::Interrupted { signal: 2 });
    let error = generator.generate(&[0], &GenerationConfig::default(), stop).unwrap_err();
    assert_eq!(error.exit_code(), 130);
    assert_eq!(model.seen.borrow().len(), 1);
    assert!(generator.draw_batch(&[], &GenerationConfig::default()).unwrap().is_empty());
}
