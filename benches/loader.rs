//! Speed and memory of packing a million documents into batches: `cargo bench --bench loader`. The shards are
//! generated in a temporary directory.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use burn::tensor::Device;
use calumma::checkpoint::{Checkpoint, Manifest};
use calumma::data::pack::Packer;
use calumma::data::shards::{ShardContent, tokenizer_digest};
use calumma::data::{CurriculumConfig, DocumentData, DocumentStream, Encoding, Stages};
use calumma::tokenize::TokenSequence;
use calumma::train::Loader;

/// Documents in total.
const DOCUMENTS: usize = 1_000_000;
/// Documents per shard.
const IN_A_SHARD: usize = 50_000;
/// Rows and tokens of a batch.
const BATCH: (usize, usize) = (16, 512);

fn main() -> calumma::Result<()> {
    // `cargo test --benches` only checks that it runs.
    let documents = if std::env::args().any(|arg| arg == "--bench") { DOCUMENTS } else { 1000 };
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("checkpoints/demo");
    let Checkpoint { processor, vq, .. } = Checkpoint::open(&shipped, &Device::flex())?;
    let vq = vq.expect("the shipped checkpoint has an image tokenizer");
    let digest = Manifest::of(&shipped.join("vq_tokenizer"))?.digest();
    let dir = tempfile::tempdir().expect("the temporary directory is writable");
    let tokenizer = tokenizer_digest(&processor, &digest)?;
    let bytes = write(dir.path(), documents, &tokenizer);

    let config = DocumentData::shards(dir.path().display().to_string());
    let pad = processor.vocabulary().special().pad;
    let encoding = Encoding { vq: Some(&vq), digest: &digest, cache_dir: dir.path(), quiet: true };
    let packer = Packer::new(BATCH.0, BATCH.1, pad)?;
    let stages = Stages::new(&CurriculumConfig::default(), usize::MAX, 1);
    let opened = Instant::now();
    let stream = DocumentStream::new(&[config], encoding, 1, Arc::new(processor), packer, stages)?;
    let opened = opened.elapsed();
    let begun = Instant::now();
    let mut loader = Loader::new(stream, 1)?;
    let (mut tokens, mut slots) = (0, 0);
    while loader.state().packed().0.documents < documents as u64 {
        let batch = loader.next_batch()?;
        tokens += batch.packed.num_tokens();
        slots += batch.packed.ids.len();
    }
    let seconds = begun.elapsed().as_secs_f64();
    let padding = 100.0 * (1.0 - tokens as f64 / slots as f64);
    let mut out = String::new();
    out += &format!(
        "{documents} documents, {tokens} tokens, {:.0} MB of shards\n",
        bytes as f64 / 1e6
    );
    out += &format!("opened in {:.1} ms\n", 1e3 * opened.as_secs_f64());
    out += &format!(
        "packed in {seconds:.2} s: {:.2} million tokens per second, {padding:.2} % padding\n",
        tokens as f64 / seconds / 1e6
    );
    out += &format!("memory: {}\n", memory());
    std::io::Write::write_all(&mut std::io::stdout(), out.as_bytes())
        .map_err(calumma::Error::io(Path::new("standard output")))
}

/// Writes shards of random documents of 74 to 133 ids; returns their size in bytes.
fn write(dir: &Path, documents: usize, tokenizer: &str) -> usize {
    let mut bytes = 0;
    for first in (0..documents).step_by(IN_A_SHARD) {
        let document = |number: usize| {
            let len = 74 + number * 7919 % 60;
            let ids = (0..len).map(|at| ((number * 31 + at * 17) % 2000) as u32 + 8).collect();
            (TokenSequence::supervised(ids), 0)
        };
        let content = ShardContent {
            tokenizer: tokenizer.to_owned(),
            made_of: format!("bench {first}"),
            sources: vec!["bench".to_owned()],
            documents: (first..(first + IN_A_SHARD).min(documents)).map(document).collect(),
        };
        let file = content.to_bytes().expect("every id has a mask entry");
        bytes += file.len();
        std::fs::write(dir.join(format!("{first:08}.safetensors")), file)
            .expect("the temporary directory is writable");
    }
    bytes
}

/// The process's own memory, and that of mapped files, which the system reclaims as needed.
fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap_or("unknown");
        line.split_once(':').map_or(line, |(_, value)| value.trim()).to_owned()
    };
    format!(
        "{} of its own (RssAnon), {} of mapped files (RssFile)",
        line("RssAnon"),
        line("RssFile")
    )
}
