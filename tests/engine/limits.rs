//! Room, turns and ends: what is reserved, who waits, that everything ends.

use std::collections::BTreeMap;
use std::sync::mpsc;

use calumma::Error;
use calumma::generate::{
    EndReason, EngineConfig, Event, GenerationConfig, GenerationMode, Generator, Request,
    RequestId, Window,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::mixed::{block, mixed_request, texts};
use super::{CODES, CONTEXT, GRID, Run, plain};
use crate::scripted::{Scripted, text, vocabulary};

/// A model that writes on and on.
fn endless() -> Scripted {
    Scripted::preferring(&[text(0)]).with_context(CONTEXT)
}

/// `len` ids to read, `new` to write.
fn writing(len: usize, new: usize) -> Request {
    let config = GenerationConfig {
        mode: GenerationMode::TextOnly,
        max_new_tokens: Some(new),
        ..GenerationConfig::default()
    };
    Request::new([vec![0], texts(1, len - 1)].concat(), config.greedy())
}

/// Fails for an engine that keeps the lanes of a cancelled request for a step or for good, starts nobody in
/// their place, or lets a cancelled request go on.
#[test]
fn cancelled_lanes_are_free_within_one_step() {
    let vocabulary = vocabulary();
    let model = endless();
    // Room for two requests of 240 ids, four blocks each, not for three.
    let mut run = Run::new(&model, vocabulary, GRID, plain(10));
    let [one, two, three, four] = [0; 4].map(|_| run.admit(writing(140, 100)).unwrap());
    for _ in 0..5 {
        run.step();
    }
    let stats = run.engine.stats();
    assert_eq!((stats.running, stats.waiting), (2, 2));
    assert!(run.engine.cancel(one) && !run.engine.cancel(one));
    // One that waits ends as well, at no cost.
    assert!(run.engine.cancel(four));
    run.step();
    let stats = run.engine.stats();
    assert_eq!((stats.running, stats.waiting), (2, 0));
    assert_eq!(model.seen.borrow().last().unwrap().len(), 2, "the next one runs at once");
    run.finish();
    assert_eq!(run.engine.stats().blocks_used, 0);
    for (id, len, end) in [
        (one, 5, EndReason::Cancelled),
        (two, 100, EndReason::MaxNewTokens),
        (three, 100, EndReason::MaxNewTokens),
        (four, 0, EndReason::Cancelled),
    ] {
        let (generated, events) = run.take(id);
        assert_eq!((generated.ids.len(), generated.end), (len, end));
        let told = events.iter().filter(|event| matches!(event, Event::Text(_))).count();
        assert_eq!(told, len);
        assert_eq!(events.last(), Some(&Event::End(end)), "{id:?}");
        assert!(!run.engine.cancel(id));
    }
}

/// Clients listen at channels, as those of a server. Fails for an engine that cannot be told between two steps that
/// one has gone, goes on for it, or lets the others notice; and for a generator that goes on without its listener.
#[test]
fn dropped_client_cancels() {
    let (vocabulary, model) = (vocabulary(), endless());
    let mut run = Run::new(&model, vocabulary, GRID, plain(12));
    let mut listen = || {
        let (client, listener) = mpsc::channel();
        (run.admit(writing(140, 100)).unwrap(), client, Some(listener))
    };
    let mut clients = [listen(), listen(), listen()];
    let (gone, passes) = (clients[1].0, 7);
    while !run.engine.is_idle() {
        if run.steps == passes {
            clients[1].2 = None;
        }
        for (id, event) in run.step() {
            let (_, client, _) = clients.iter().find(|(of, ..)| *of == id).unwrap();
            if client.send(event).is_err() {
                run.engine.cancel(id);
            }
        }
    }
    let rows: Vec<usize> = model.seen.borrow().iter().map(Vec::len).collect();
    assert!(rows[passes..].contains(&2) && !rows[passes + 1..].contains(&3), "{rows:?}");
    assert_eq!(run.engine.stats().blocks_used, 0);
    for (id, _, listener) in clients {
        let (generated, events) = run.take(id);
        let wanted = if id == gone { EndReason::Cancelled } else { EndReason::MaxNewTokens };
        assert_eq!(generated.end, wanted);
        if let Some(listener) = listener {
            assert_eq!(generated.ids, vec![text(0); 100]);
            assert_eq!(listener.try_iter().collect::<Vec<_>>(), events);
        }
    }

    let model = endless();
    let generator = Generator::new(&model, vocabulary, GRID).unwrap();
    let mut heard = 0;
    let result = generator.run(vec![writing(20, 100)], &mut |_, _| {
        heard += 1;
        if heard < 5 { Ok(()) } else { Err(Error::invalid("nobody listens")) }
    });
    assert!(result.unwrap_err().to_string().contains("nobody listens"));
    assert!(model.seen.borrow().len() <= 6 && heard == 5, "{heard}");
}

/// Fails for an engine that frees the text lane of a cancelled request but not its guidance lanes.
#[test]
fn a_request_cancelled_inside_an_image_leaves_nothing() {
    let vocabulary = vocabulary();
    for steps in 0..CODES {
        let model = Scripted::random().with_context(CONTEXT);
        let mut run = Run::new(&model, vocabulary, GRID, plain(64));
        let mut request = writing(100, 60);
        request.config.mode = GenerationMode::ImageOnly;
        (request.config.guidance_scale, request.config.image_guidance_scale) = (3.0, Some(1.2));
        let id = run.admit(request).unwrap();
        for _ in 0..steps {
            run.step();
        }
        assert!(run.engine.cancel(id));
        let others = run.admit(writing(3, 4)).unwrap();
        run.finish();
        assert_eq!(run.engine.stats().blocks_used, 0, "after {steps} steps");
        assert_eq!(run.take(others).0.ids.len(), 4);
        assert!(run.take(id).0.images.is_empty());
    }
}

/// Fails for an engine that feeds long prompts in one piece or several chunks a pass, or stops the others
/// meanwhile.
#[test]
fn long_prompt_delays_others_by_at_most_one_chunk() {
    let vocabulary = vocabulary();
    let budget = 128;
    let model = endless();
    let mut run = Run::new(&model, vocabulary, GRID, EngineConfig { rows: budget, ..plain(64) });
    let writers = [3, 9].map(|len| run.admit(writing(len, 200)).unwrap());
    for _ in 0..6 {
        run.step();
    }
    let long = [250, 270].map(|len| run.admit(writing(len, 5)).unwrap());
    let mut steps = 0;
    while long.iter().any(|id| !matches!(run.events[id].last(), Some(Event::End(_)))) {
        let events = run.step();
        for writer in writers {
            let told = events.iter().filter(|(id, _)| *id == writer).count();
            assert_eq!(told, 1, "{writer:?} in step {steps} of the long prompts");
        }
        steps += 1;
    }
    assert!(
        model.rows_per_pass().iter().all(|&rows| rows <= budget),
        "{:?}",
        model.rows_per_pass()
    );
    // 520 ids in chunks of 64, which end where blocks do.
    assert!((5..=12).contains(&steps), "{steps} steps");
}

/// Fails for an engine that lets later requests overtake, so that a large one may wait for ever.
#[test]
fn requests_start_in_the_order_of_arrival() {
    let vocabulary = vocabulary();
    let model = endless();
    let mut run = Run::new(&model, vocabulary, GRID, plain(6));
    let sizes = [100, 200, 20, 200, 20, 20, 150];
    let ids = sizes.map(|len| run.admit(writing(len, 30)).unwrap());
    let mut started = Vec::new();
    while !run.engine.is_idle() {
        for (id, _) in run.step() {
            if !started.contains(&id) {
                started.push(id);
            }
        }
    }
    // Shorter prompts may be read sooner, but not before the one ahead has its room: neighbours swap at most.
    for (place, id) in ids.iter().enumerate() {
        let found = started.iter().position(|known| known == id).unwrap();
        assert!(found.abs_diff(place) <= 2, "{started:?}");
    }
}

/// Fails for an engine that admits by what is used now: it would run out of blocks, or stop a request to let
/// another go on.
#[test]
fn reservation_is_never_exceeded() {
    let vocabulary = vocabulary();
    for (blocks, window) in
        [(5, Window::Off), (9, Window::Off), (9, Window::Fixed(8)), (23, Window::Auto)]
    {
        let model = Scripted::preferring(&[text(0), text(1)]).with_context(CONTEXT);
        let config = EngineConfig { window, ..plain(blocks) };
        let mut run = Run::new(&model, vocabulary, GRID, config);
        let ids: Vec<RequestId> =
            (0..30).map(|n| run.admit(writing(1 + n * 37 % 180, 70)).unwrap()).collect();
        let mut most = 0;
        let mut told: BTreeMap<RequestId, usize> = BTreeMap::new();
        while !run.engine.is_idle() {
            // One that has begun gets something at every step until its end.
            let begun: Vec<RequestId> = told.keys().copied().collect();
            let events = run.step();
            events.iter().for_each(|(id, _)| *told.entry(*id).or_default() += 1);
            for id in begun {
                let ended = matches!(run.events[&id].last(), Some(Event::End(_)));
                assert!(ended || events.iter().any(|(of, _)| *of == id), "{id:?} was stopped");
            }
            most = most.max(run.engine.stats().running);
            let stats = run.engine.stats();
            assert!(stats.blocks_used <= stats.blocks_total && stats.blocks_total <= blocks);
        }
        assert!(most > blocks / 5, "{most} at once in {blocks} blocks");
        for id in ids {
            assert_eq!(run.take(id).0.ids.len(), 70);
        }
        // Nothing was computed twice.
        if window == Window::Off {
            let rows: usize = model.rows_per_pass().iter().sum();
            let read: usize = (0..30).map(|n| 1 + n * 37 % 180).sum();
            assert_eq!(rows, read + 30 * 69);
        }
    }
}

/// Fails for an engine that queues what can never start, or counts one lane for a guided image.
#[test]
fn a_request_that_can_never_fit_is_refused_at_once() {
    let vocabulary = vocabulary();
    let model = endless();
    let mut run = Run::new(&model, vocabulary, GRID, plain(2));
    let small = run.admit(writing(20, 40)).unwrap();
    let refused = run.admit(writing(100, 120)).unwrap_err();
    assert!(refused.to_string().contains("cache"), "{refused}");
    let mut drawing = writing(10, 5);
    drawing.config.mode = GenerationMode::ImageOnly;
    let unguided = run.admit(drawing.clone()).unwrap();
    (drawing.config.guidance_scale, drawing.config.image_guidance_scale) = (3.0, Some(1.2));
    // Without an image before it, the branch of images is that of nothing.
    let guided = run.admit(drawing.clone()).unwrap();
    drawing.prompt.splice(1..1, block(vocabulary, CODES));
    run.admit(drawing).unwrap_err();
    run.admit(writing(CONTEXT, 1)).unwrap_err();
    assert!(model.seen.borrow().is_empty());
    run.finish();
    assert_eq!(run.take(small).0.ids.len(), 40);
    for drawn in [unguided, guided] {
        assert_eq!(run.take(drawn).0.images.len(), 1);
    }
}

/// Ten thousand steps of arrivals, cancellations and limits at random. Fails for an engine that forgets a
/// request, never frees a block, or ends one twice.
#[test]
fn every_request_ends() {
    let vocabulary = vocabulary();
    let model = Scripted::random().with_context(CONTEXT).unrecorded();
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let config =
        EngineConfig { rows: 64, window: Window::Fixed(3), prefix_cache: true, ..plain(40) };
    let mut run = Run::new(&model, vocabulary, GRID, config);
    let mut open: Vec<RequestId> = Vec::new();
    let (mut admitted, mut ended, mut cancelled) = (0, 0, 0);
    while run.steps < 10_000 {
        if run.engine.stats().waiting < 6 && rng.random_range(0..3) == 0 {
            let mut request = mixed_request(rng.random_range(0..1000));
            request.config.seed = rng.random();
            request.config.max_new_tokens = Some(rng.random_range(1..60));
            open.push(run.admit(request).unwrap());
            admitted += 1;
        }
        if !open.is_empty() && rng.random_range(0..40) == 0 {
            let id = open[rng.random_range(0..open.len())];
            cancelled += usize::from(run.engine.cancel(id));
        }
        run.step();
        open.retain(|&id| {
            let Some(result) = run.engine.take(id) else { return true };
            let (generated, events) = (result.unwrap(), run.events.remove(&id).unwrap());
            assert_eq!(events.last(), Some(&Event::End(generated.end)));
            ended += 1;
            false
        });
    }
    let left = open.len();
    let before = run.steps;
    run.finish();
    assert!(run.steps - before < 60 * (left + 1), "{left} took {} steps", run.steps - before);
    for id in open {
        run.take(id);
    }
    let stats = run.engine.stats();
    assert_eq!((stats.running, stats.waiting), (0, 0));
    assert_eq!(ended + left, admitted);
    assert!(admitted > 500 && cancelled > 50, "{admitted} requests, {cancelled} cancelled");
}
