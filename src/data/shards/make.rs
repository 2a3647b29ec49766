//! `calumma tokenize`: samples to shards. Which samples a shard holds follows from the recipe alone, so any
//! number of processes make the same files, and a stopped one goes on at the next missing file.

use std::path::{Path, PathBuf};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::{Shard, ShardContent, files_in, tokenizer_digest};
use crate::data::mixture::mix;
use crate::data::{
    Counted, DataConfig, Dataset, Encoding, Fields, Renderer, Sample, fingerprint, open_as,
};
use crate::error::{Error, Result};
use crate::files::{hex, write_atomic};
use crate::report::Reporter;
use crate::tokenize::{Processor, TokenSequence};

/// Samples whose images are decoded and encoded together.
const BATCH: usize = 64;

/// What to make, and of what.
#[derive(Clone, Copy, Debug)]
pub struct ShardJob<'a> {
    /// The sources.
    pub data: &'a [DataConfig],
    /// Where the shards go.
    pub dir: &'a Path,
    /// Samples in a shard; at least 1.
    pub samples_per_shard: usize,
    /// Documents made of each sample, each with a template and choices of its own.
    pub renderings: usize,
    /// Seed of all choices.
    pub seed: u64,
    /// The image tokenizer.
    pub encoding: Encoding<'a>,
    /// The text tokenizer.
    pub processor: &'a Processor,
}

/// What was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ShardReport {
    /// Shards of all sources.
    pub shards: usize,
    /// Those made now.
    pub made: usize,
    /// Those found whole from an earlier call.
    pub kept: usize,
    /// Those left to other processes.
    pub left: usize,
    /// Documents in the shards made now or kept.
    pub documents: usize,
    /// Tokens in them.
    pub tokens: usize,
    /// Samples that could not be read or laid out, in the shards made now.
    pub bad: usize,
}

/// One shard to make.
struct Planned {
    source: usize,
    first: usize,
    end: usize,
    path: PathBuf,
}

impl ShardJob<'_> {
    /// Makes the shards whose number leaves the remainder `part.0` when divided by `part.1`, of those that
    /// are not there yet. `bar` makes a reporter for so many shards.
    ///
    /// # Errors
    /// Those of the data; when more samples than a source's `max_bad` are bad; when the directory
    /// holds shards that are not of this job.
    pub fn run(
        &self,
        part: (usize, usize),
        bar: impl FnOnce(usize) -> Reporter,
    ) -> Result<ShardReport> {
        let sources: Vec<OpenSource<'_>> =
            self.data.iter().map(OpenSource::new).collect::<Result<_>>()?;
        let plan = self.plan(&sources);
        self.refuse_strangers(&plan)?;
        let mut report = ShardReport { shards: plan.len(), ..ShardReport::default() };
        let mut reporter = bar(plan.len());
        for (number, planned) in plan.iter().enumerate() {
            if number % part.1 != part.0 {
                report.left += 1;
                continue;
            }
            let source = &sources[planned.source];
            let made_of = self.made_of(source, planned)?;
            let whole = |shard: &Shard| shard.made_of() == made_of && shard.verify().is_ok();
            let shard = match Shard::open(&planned.path).ok().filter(whole) {
                Some(shard) => {
                    report.kept += 1;
                    shard
                }
                None => {
                    let (content, bad) = self.content(source, planned, made_of)?;
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
        for bad in sources.iter().flat_map(|source| source.dataset.bad()).take(20) {
            reporter.note(&format!("left out: {}", bad.reason));
        }
        reporter.finish();
        Ok(report)
    }

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

    /// Training reads every shard in the directory.
    fn refuse_strangers(&self, plan: &[Planned]) -> Result<()> {
        if !self.dir.is_dir() {
            return Ok(());
        }
        let known = |path: &PathBuf| plan.iter().any(|planned| planned.path == *path);
        match files_in(self.dir)?.iter().find(|path| !known(path)) {
            Some(stranger) => Err(Error::file(
                stranger,
                "is not one of this recipe's shards; choose another run.name, or remove it",
            )),
            None => Ok(()),
        }
    }

    /// Everything that decides a shard's content.
    fn made_of(&self, source: &OpenSource<'_>, planned: &Planned) -> Result<String> {
        let config = source.config;
        let identity = serde_json::json!([
            tokenizer_digest(self.processor, self.encoding.digest)?,
            DataConfig { weight: Default::default(), ..config.clone() },
            source.files,
            [self.seed, self.renderings as u64, planned.source as u64],
            [planned.first, planned.end],
        ]);
        Ok(hex(&Sha256::digest(identity.to_string().as_bytes())))
    }

    /// The documents of a shard, and the number of samples that gave none.
    fn content(
        &self,
        source: &OpenSource<'_>,
        planned: &Planned,
        made_of: String,
    ) -> Result<(ShardContent, usize)> {
        let (mut documents, mut bad) = (Vec::new(), 0);
        for first in (planned.first..planned.end).step_by(BATCH) {
            let range = first..(first + BATCH).min(planned.end);
            let all = range.len();
            let take = |index| Ok(source.dataset.take(index)?.map(|sample| (index, sample)));
            let samples: Vec<(usize, Sample)> = range
                .into_par_iter()
                .map(take)
                .collect::<Result<Vec<_>>>()?
                .into_iter()
                .flatten()
                .collect();
            let images: Vec<_> =
                samples.iter().flat_map(|(_, sample)| sample.images.iter().cloned()).collect();
            let mut codes = self.encoding.vq.encode(&images)?.into_iter();
            let coded: Vec<_> = samples
                .into_iter()
                .map(|(index, sample)| {
                    let codes: Vec<_> = codes.by_ref().take(sample.images.len()).collect();
                    (index, sample.fields, codes)
                })
                .collect();
            let render = |(index, mut fields, codes): (usize, Fields, Vec<_>)| {
                fields.extend(source.config.fields.clone());
                let mut made = Vec::with_capacity(self.renderings);
                for rendering in 0..self.renderings {
                    let mut rng = self.rng(planned.source, index, rendering);
                    let template = source.renderer.draw(&mut rng);
                    let sample = (&fields, codes.as_slice());
                    match source.renderer.document(sample, template, &mut rng, self.processor) {
                        Ok(tokens) => made.push(tokens),
                        Err(error) => {
                            source.dataset.reject(index, error.to_string())?;
                            return Ok(None);
                        }
                    }
                }
                Ok(Some(made))
            };
            let made: Vec<Option<Vec<TokenSequence>>> =
                coded.into_par_iter().map(render).collect::<Result<_>>()?;
            bad += all - made.iter().flatten().count();
            documents.extend(made.into_iter().flatten().flatten().map(|tokens| (tokens, 0)));
        }
        let tokenizer = tokenizer_digest(self.processor, self.encoding.digest)?;
        let sources = vec![source.config.label().to_owned()];
        Ok((ShardContent { tokenizer, made_of, sources, documents }, bad))
    }

    /// The same for a sample whatever shard it comes to lie in.
    fn rng(&self, source: usize, index: usize, rendering: usize) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(mix(mix(mix(source as u64) ^ index as u64) ^ rendering as u64));
        rng
    }
}

struct OpenSource<'a> {
    config: &'a DataConfig,
    renderer: Renderer,
    dataset: Counted,
    len: usize,
    /// What tells this state of the files from another.
    files: Vec<(PathBuf, u64, u64)>,
}

impl<'a> OpenSource<'a> {
    fn new(config: &'a DataConfig) -> Result<Self> {
        let dataset = open_as(&config.path, config.explode.as_deref(), config.group_by.as_deref())?;
        let dataset = Counted::new(dataset, config.max_bad)?;
        let len = dataset.len().min(config.limit.unwrap_or(usize::MAX));
        let files = fingerprint(&config.path)?;
        Ok(Self { config, renderer: Renderer::new(config)?, dataset, len, files })
    }
}
