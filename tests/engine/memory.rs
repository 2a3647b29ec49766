//! Memory of a process that draws for a long time.

use std::path::Path;

use calumma::generate::{
    Engine, EngineConfig, GenerationConfig, GenerationMode, LanguageModel, Request,
};
use calumma::memory::resident;
use calumma::pipeline::Pipeline;

use crate::common::cpu;

/// Readings of resident memory per test.
const READINGS: usize = 20;

fn images() -> usize {
    std::env::var("CALUMMA_IMAGES").map_or(10_000, |count| count.parse().unwrap())
}

/// Calls `draw`, which draws so many images, until all are drawn; prints resident memory and the growth of its
/// second half, in percent, by a least-squares line.
fn growth(mut draw: impl FnMut(usize) -> usize) -> f64 {
    let (count, mut drawn) = (images(), 0);
    let mut readings: Vec<(f64, f64)> = Vec::new();
    while drawn < count {
        drawn += draw(drawn);
        if drawn >= (readings.len() + 1) * count / READINGS {
            let mib = resident().unwrap() as f64 / f64::from(1 << 20);
            eprintln!("{drawn} images: {mib:.1} MiB");
            readings.push((drawn as f64 / count as f64, mib));
        }
    }
    // The first half has what is allocated once: caches, scratch memory of threads.
    let late = &readings[readings.len() / 2..];
    let mean = |of: fn(&(f64, f64)) -> f64| late.iter().map(of).sum::<f64>() / late.len() as f64;
    let (x, y) = (mean(|reading| reading.0), mean(|reading| reading.1));
    let above: f64 = late.iter().map(|reading| (reading.0 - x) * (reading.1 - y)).sum();
    let below: f64 = late.iter().map(|reading| (reading.0 - x).powi(2)).sum();
    let percent = 100.0 * above / below * (late[late.len() - 1].0 - late[0].0) / y;
    eprintln!("growth over the second half: {percent:.3} %");
    percent
}

fn shipped() -> Pipeline {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("checkpoints/demo");
    Pipeline::open(&dir, &cpu()).unwrap()
}

fn texts(from: usize, count: usize) -> Vec<String> {
    let (colors, shapes) = (["red", "green", "blue", "yellow"], ["circle", "square", "triangle"]);
    let text = |n: usize| format!("a {} {} number {n}", colors[n % 4], shapes[n / 4 % 3]);
    (from..from + count).map(text).collect()
}

#[test]
#[ignore = "takes minutes; run it alone, since memory is that of the process"]
fn ten_thousand_images_of_a_pipeline_take_no_more_memory_than_five() {
    let pipeline = shipped();
    let growth = growth(|drawn| {
        let texts = texts(drawn, 16);
        pipeline.draw_batch(&texts, pipeline.generation()).unwrap().len()
    });
    assert!(growth < 1.0, "{growth} %");
}

/// One engine for all: requests arrive, end and are cancelled all the time, as in a server.
#[test]
#[ignore = "takes minutes; run it alone, since memory is that of the process"]
fn ten_thousand_images_of_one_engine_take_no_more_memory_than_five() {
    let pipeline = shipped();
    let (model, processor) = (pipeline.model(), pipeline.processor());
    let config = EngineConfig { cache_bytes: 100 * model.block_bytes(), ..EngineConfig::default() };
    let blocks = processor.blocks().clone();
    let mut engine = Engine::new(model, processor.vocabulary(), blocks, config).unwrap();
    let mut number = 0;
    let growth = growth(|_| {
        let mut ids = Vec::new();
        while engine.stats().waiting < 16 {
            let segments = [calumma::tokenize::CodedSegment::text(texts(number, 1).remove(0))];
            let generation = GenerationConfig {
                mode: GenerationMode::ImageOnly,
                seed: number as u64,
                ..pipeline.generation().clone()
            };
            let prompt = processor.encode(&segments).unwrap();
            ids.push(engine.admit(Request::new(prompt, generation)).unwrap());
            number += 1;
        }
        // Every seventh is not wanted any more.
        for _ in 0..3 {
            engine.step().unwrap();
        }
        ids.iter().step_by(7).for_each(|id| _ = engine.cancel(*id));
        while !engine.is_idle() {
            engine.step().unwrap();
        }
        let results = ids.into_iter().map(|id| engine.take(id).unwrap().unwrap());
        results.map(|generated| generated.images.len()).sum()
    });
    assert!(growth < 1.0, "{growth} %");
}
