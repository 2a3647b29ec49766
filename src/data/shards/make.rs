//! `calumma tokenize`: turns samples into shards. The recipe alone decides which samples go into
//! which shard, so any number of processes make the same files, and an interrupted one continues
//! with the next missing file.

use std::path::{Path, PathBuf};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::content::{ShardContent, tokenizer_digest};
use super::locate::files_in;
use super::shard::Shard;
use crate::data::config::SampleData;
use crate::data::counted::Counted;
use crate::data::encoded::{EncodedSample, Encoding, ImageEncoder};
use crate::data::left_out::LeftOut;
use crate::data::mixture::mix;
use crate::data::renderer::Renderer;
use crate::error::{Error, Result};
use crate::files::{hex, write_atomic};
use crate::json::sorted;
use crate::report::{Omission, Reporter};
use crate::tokenize::{Processor, TokenSequence};

/// Number of samples decoded and encoded together.
const BATCH: usize = 64;

/// A job of `calumma tokenize`: the sources, and the shards to make from them.
#[derive(Clone, Copy, Debug)]
pub struct ShardJob<'a> {
    /// The sources.
    pub data: &'a [SampleData],
    /// Directory of the shards.
    pub dir: &'a Path,
    /// Samples per shard; at least 1.
    pub samples_per_shard: usize,
    /// Documents per sample, each with its own template and random choices.
    pub renderings: usize,
    /// Seed of all random choices.
    pub seed: u64,
    /// The image tokenizer.
    pub encoding: Encoding<'a>,
    /// The text tokenizer.
    pub processor: &'a Processor,
}

/// Counts of what was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ShardReport {
    /// Shards of all sources.
    pub shards: usize,
    /// Shards made by this call.
    pub made: usize,
    /// Shards found intact from an earlier call.
    pub kept: usize,
    /// Shards left to other processes.
    pub left: usize,
    /// Documents in the shards made or kept.
    pub documents: usize,
    /// Tokens in them.
    pub tokens: usize,
    /// Samples that could not be read or rendered, in the shards made.
    pub bad: usize,
    /// Images encoded by this call; the codes of all others were kept by earlier ones.
    pub encoded: usize,
    /// What was left out of the sources, as far as this call read them.
    pub left_out: Vec<Omission>,
}

/// One shard to make.
struct Planned {
    source: usize,
    first: usize,
    end: usize,
    path: PathBuf,
}

impl ShardJob<'_> {
    /// Makes the missing shards among those whose number is `part.0` modulo `part.1`. `bar` is called
    /// with the number of shards.
    ///
    /// # Errors
    /// Those of the data; if more samples than a source's `max_bad` are bad, or the directory holds shards
    /// of another job.
    pub fn run(
        &self,
        part: (usize, usize),
        bar: impl FnOnce(usize) -> Reporter,
    ) -> Result<ShardReport> {
        let mut encoder = ImageEncoder::open(self.encoding)?;
        let sources: Vec<OpenSource<'_>> = self
            .data
            .iter()
            .map(|data| OpenSource::new(data, self.processor))
            .collect::<Result<_>>()?;
        let plan = self.plan(&sources);
        self.refuse_other_shards(&plan)?;
        let mut report = ShardReport { shards: plan.len(), ..ShardReport::default() };
        // Samples without a document in the shards kept; their reasons are not known any more.
        let mut kept_bad = vec![0; sources.len()];
        let mut reporter = bar(plan.len());
        for (number, planned) in plan.iter().enumerate() {
            if number % part.1 != part.0 {
                report.left += 1;
                continue;
            }
            let source = &sources[planned.source];
            let made_of = self.made_of(&encoder, source, planned)?;
            let intact = |shard: &Shard| shard.made_of() == made_of && shard.verify().is_ok();
            let shard = match Shard::open(&planned.path).ok().filter(intact) {
                Some(shard) => {
                    report.kept += 1;
                    let good = shard.len() / self.renderings.max(1);
                    kept_bad[planned.source] +=
                        (planned.end - planned.first).saturating_sub(good) as u64;
                    source.check(kept_bad[planned.source])?;
                    shard
                }
                None => {
                    let (content, bad) = self.content(&mut encoder, source, planned, made_of)?;
                    write_atomic(&planned.path, &content.to_bytes()?)?;
                    report.made += 1;
                    report.bad += bad;
                    Shard::open(&planned.path)?
                }
            };
            report.documents += shard.len();
            report.tokens += shard.num_tokens();
            reporter.step(number + 1, shard.num_tokens());
        }
        report.encoded = encoder.encoded();
        reporter.finish();
        let left_out = sources.iter().zip(kept_bad);
        report.left_out = left_out.flat_map(|(source, kept)| source.omissions(kept)).collect();
        Ok(report)
    }

    /// All shards of all sources, in order.
    fn plan(&self, sources: &[OpenSource<'_>]) -> Vec<Planned> {
        let mut plan = Vec::new();
        for (source, open) in sources.iter().enumerate() {
            let count = open.len.div_ceil(self.samples_per_shard);
            for shard in 0..count {
                let first = shard * self.samples_per_shard;
                let end = (first + self.samples_per_shard).min(open.len);
                let name = format!("{source:03}-{shard:05}-of-{count:05}.safetensors");
                plan.push(Planned { source, first, end, path: self.dir.join(name) });
            }
        }
        plan
    }

    /// Refuses a directory with shards that are not in `plan`, since training reads every shard in
    /// it.
    fn refuse_other_shards(&self, plan: &[Planned]) -> Result<()> {
        if !self.dir.is_dir() {
            return Ok(());
        }
        let known = |path: &PathBuf| plan.iter().any(|planned| planned.path == *path);
        match files_in(self.dir)?.iter().find(|path| !known(path)) {
            Some(other) => Err(Error::file(
                other,
                "is not one of this recipe's shards; choose another run.name, or remove it",
            )),
            None => Ok(()),
        }
    }

    /// Digest of everything that decides a shard's content, its samples and images included.
    fn made_of(
        &self,
        encoder: &ImageEncoder<'_>,
        source: &OpenSource<'_>,
        planned: &Planned,
    ) -> Result<String> {
        let mut identity = vec![
            json!(tokenizer_digest(self.processor, self.encoding.digest)?),
            json!(source.data),
            json!(encoder.digest(&source.dataset, planned.first..planned.end)?),
            json!([self.seed, self.renderings as u64, planned.source as u64]),
            json!([planned.first, planned.end]),
        ];
        identity.extend(source.renderer.chat_source().map(|template| json!(template)));
        Ok(hex(&Sha256::digest(sorted(identity.into()).to_string())))
    }

    /// The content of a shard, and the number of samples that gave no document.
    fn content(
        &self,
        encoder: &mut ImageEncoder<'_>,
        source: &OpenSource<'_>,
        planned: &Planned,
        made_of: String,
    ) -> Result<(ShardContent, usize)> {
        let (mut documents, mut bad) = (Vec::new(), 0);
        for first in (planned.first..planned.end).step_by(BATCH) {
            let range = first..(first + BATCH).min(planned.end);
            let all = range.len();
            let render = |sample| self.render(source, planned.source, sample);
            let encoded = encoder.samples(&source.dataset, range)?;
            let rendered: Vec<Option<Vec<TokenSequence>>> =
                encoded.into_par_iter().map(render).collect();
            source.dataset.check()?;
            bad += all - rendered.iter().flatten().count();
            documents.extend(rendered.into_iter().flatten().flatten().map(|tokens| (tokens, 0)));
        }
        let tokenizer = tokenizer_digest(self.processor, self.encoding.digest)?;
        let sources = vec![source.data.label().to_owned()];
        Ok((ShardContent { tokenizer, made_of, sources, documents }, bad))
    }

    /// The documents of a sample; `None` if it cannot be rendered and is bad.
    fn render(
        &self,
        source: &OpenSource<'_>,
        number: usize,
        mut sample: EncodedSample,
    ) -> Option<Vec<TokenSequence>> {
        source.renderer.complete(&mut sample.fields);
        let EncodedSample { fields, images, index, place } = &sample;
        let sample = (fields, images.as_slice());
        let render = |rendering| {
            let mut rng = self.rng(number, *index, rendering);
            let template = source.renderer.draw(&mut rng);
            source.renderer.document(sample, template, &mut rng, self.processor)
        };
        let checked = source.renderer.check(sample, self.processor);
        let documents = checked.and_then(|()| (0..self.renderings).map(render).collect());
        let bad = |error: &Error| source.dataset.record(*index, format!("{place}: {error}"));
        documents.inspect_err(bad).ok()
    }

    /// The random generator of a sample's rendering, independent of its shard.
    fn rng(&self, source: usize, index: usize, rendering: usize) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(mix(mix(mix(source as u64) ^ index as u64) ^ rendering as u64));
        rng
    }
}

/// A source of samples, opened.
struct OpenSource<'a> {
    data: &'a SampleData,
    renderer: Renderer,
    dataset: Counted,
    len: usize,
}

impl<'a> OpenSource<'a> {
    fn new(data: &'a SampleData, processor: &Processor) -> Result<Self> {
        let dataset = data.source.open()?;
        let len = data.source.len_of(&dataset);
        let renderer = Renderer::new(&data.template, processor);
        let renderer = renderer.map_err(Error::because(&data.source.path))?;
        Ok(Self { data, renderer, dataset, len })
    }

    /// Fails if too many samples are bad together with the `kept_bad` of the shards kept.
    fn check(&self, kept_bad: u64) -> Result<()> {
        let known = self.dataset.left_out(self.len);
        LeftOut { bad: known.bad + kept_bad, ..known }.check(self.data.source.max_bad)
    }

    /// What was left out of the source as far as it was read, and of the shards kept `kept_bad` samples.
    fn omissions(&self, kept_bad: u64) -> Vec<Omission> {
        let known = self.dataset.left_out(self.len);
        let source = self.data.label().to_owned();
        LeftOut { source, bad: known.bad + kept_bad, ..known }.omissions()
    }
}
