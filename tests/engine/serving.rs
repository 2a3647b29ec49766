//! The engine on a real model: the bits of every row, whatever the pass.

use calumma::checkpoint::Checkpoint;
use calumma::generate::{
    EngineConfig, GenerationConfig, GenerationMode, Request, ServingModel, Window,
};
use calumma::model::ModelConfig;
use calumma::tokenize::{TextTokenizer, TokenClass, Vocabulary};

use super::{Run, plain, run_all, run_alone, run_arriving};
use crate::common::{cpu, fixture};
use crate::scripted::{BLOCK_BYTES, Watched};
use calumma::generate::LanguageModel;

const MODEL: &str = "models/prenorm-gqa";
const GRID: (usize, usize) = (8, 8);

fn model() -> (Watched<ServingModel>, Vocabulary) {
    let json = std::fs::read_to_string(fixture(MODEL).join("config.json")).unwrap();
    let config: ModelConfig = serde_json::from_str(&json).unwrap();
    let model = config.init(&cpu()).unwrap();
    let model = Checkpoint::load_weights(&fixture(MODEL), &config, model).unwrap();
    let tokenizer = TextTokenizer::load(&fixture(MODEL).join("tokenizer.json")).unwrap();
    let model = Watched::new(ServingModel::new(config, model, cpu()));
    (model, tokenizer.vocabulary().unwrap())
}

/// `plain` with `blocks` of this model.
fn settings(model: &Watched<ServingModel>, blocks: usize) -> EngineConfig {
    let bytes = plain(blocks).cache_bytes / BLOCK_BYTES * model.block_bytes();
    EngineConfig { cache_bytes: bytes, rows: 128, ..plain(blocks) }
}

/// Prompts of 4 to 200 ids, some with a common start; text, images and both, guided or not.
fn requests(vocabulary: &Vocabulary) -> Vec<Request> {
    let is_text = |id: &u32| vocabulary.class(*id) == TokenClass::Text;
    let texts: Vec<u32> = (0..vocabulary.len() as u32).filter(is_text).collect();
    let text = |at: usize| texts[(at * at + 5 * at) % texts.len()];
    let request = |n: usize| {
        let common: Vec<u32> = (0..[3, 70, 130][n % 3]).map(text).collect();
        let own: Vec<u32> = (0..1 + n * 19 % 64).map(|at| text(at + 31 * n)).collect();
        let mode = [GenerationMode::ImageOnly, GenerationMode::Auto, GenerationMode::TextOnly];
        let config = GenerationConfig {
            mode: mode[n % 3],
            guidance_scale: [3.0, 1.0][n % 2],
            image_guidance_scale: [None, Some(1.2)][n / 2 % 2],
            seed: 50 + n as u64,
            max_new_tokens: Some(40),
            ..GenerationConfig::default()
        };
        Request::new([vec![vocabulary.special().bos.unwrap()], common, own].concat(), config)
    };
    (0..9).map(request).collect()
}

/// Fails for kernels that sum in another order when a pass has more rows, for a cache that mixes up blocks, and
/// for positions that count from the pass instead of the lane.
#[test]
fn batch_of_many_equals_each_alone_bit_for_bit() {
    let (model, vocabulary) = model();
    let requests = requests(&vocabulary);
    let alone = run_alone(&model, &vocabulary, GRID, &settings(&model, 64), &requests);
    for (prefix_cache, window, rows, blocks) in [
        (false, Window::Off, 512, 256),
        (false, Window::Fixed(7), 64, 256),
        (true, Window::Fixed(16), 100, 256),
        (true, Window::Auto, 256, 24),
    ] {
        let config = EngineConfig { prefix_cache, window, rows, ..settings(&model, blocks) };
        let arrivals = requests.iter().enumerate().map(|(n, request)| (n * 3, request.clone()));
        let together = run_arriving(&model, &vocabulary, GRID, &config, arrivals.collect());
        // Watched compares every logit with those that were computed alone.
        assert!(alone == together, "{config:?}");
    }
    assert!(model.compared() > 100_000, "{} logits were compared", model.compared());
}

/// Fails for an engine that leaves out an id of the prompt, and for kernels that sum by the length of a chunk.
#[test]
fn a_cached_prefix_and_chunks_leave_every_bit() {
    let (model, vocabulary) = model();
    let mut requests = requests(&vocabulary);
    requests.retain(|request| request.prompt.len() > 64);
    requests.iter_mut().for_each(|request| request.config.max_new_tokens = Some(4));
    let cold = run_alone(&model, &vocabulary, GRID, &settings(&model, 64), &requests);
    let warm = EngineConfig { prefix_cache: true, rows: 64, ..settings(&model, 64) };
    let mut run = Run::new(&model, &vocabulary, GRID, warm);
    for round in 0..2 {
        for (request, cold) in requests.iter().zip(&cold) {
            let id = run.admit(request.clone()).unwrap();
            run.finish();
            assert_eq!(run.take(id), *cold, "round {round}");
        }
    }
    assert!(run.engine.stats().prefix_hits > 500);
}

/// The scripted model's test on real keys and values, which are NaN once freed. Fails for a kernel that reads
/// places behind a lane's length, even with the weight 0.
#[test]
fn freed_cache_is_never_read() {
    let (model, vocabulary) = model();
    let mut requests = requests(&vocabulary);
    requests.extend(requests.clone());
    let config =
        EngineConfig { prefix_cache: true, window: Window::Fixed(3), ..settings(&model, 20) };
    let clean = EngineConfig { poison_freed: false, ..config.clone() };
    let expected = run_all(&model, &vocabulary, GRID, &clean, &requests);
    assert!(run_all(&model, &vocabulary, GRID, &config, &requests) == expected);
}
