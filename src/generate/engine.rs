//! The engine: requests in, events out, one pass of the model per step.
//!
//! Requests of any kind run side by side: each is a *gang* of *lanes*, and a *pass* runs spans of ids of many
//! lanes. A step lets every running request draw, with guesses ahead (see `walk.rs`), and gives
//! the rest of its rows to prompts, the oldest first. What a request draws is a function of the weights,
//! its prompt, its settings and its seed; what runs beside it changes only when.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use rayon::prelude::*;

use super::blocks::{self, BlockPool};
use super::draw_plan::Plan;
use super::engine_config::EngineConfig;
use super::gang::Gang;
use super::language_model::{LanguageModel, Span};
use super::last_rows::{Given, LastPass, LastRows};
use super::modality::{GenerationMode, ModalityRules};
use super::pass::{Feed, Limits, Pass};
use super::request::{EndReason, Event, Generated, Request, RequestId};
use super::stats::EngineStats;
use super::walk;
use super::window::WindowPolicy;
use crate::error::{Error, Result};
use crate::tokenize::{ImageBlocks, Vocabulary};

/// Requests in progress on one model.
pub struct Engine<'a, M: LanguageModel> {
    model: &'a M,
    vocabulary: &'a Vocabulary,
    blocks: ImageBlocks,
    config: EngineConfig,
    rules: HashMap<(GenerationMode, Vec<u32>), Arc<ModalityRules>>,
    pool: BlockPool,
    cache: Option<M::Cache>,
    policy: WindowPolicy,
    waiting: VecDeque<Gang>,
    /// In the order in which they were admitted.
    running: Vec<Gang>,
    results: HashMap<RequestId, Result<Generated>>,
    events: Vec<(RequestId, Event)>,
    stats: EngineStats,
    next_id: u64,
}

impl<'a, M: LanguageModel> Engine<'a, M> {
    /// An engine for image blocks in the layout `blocks`; rows and columns of codes alone mean Chameleon's
    /// layout.
    ///
    /// # Errors
    /// If the model has fewer logits than the vocabulary has ids, the grid has no codes, or a limit is out of
    /// range.
    pub fn new(
        model: &'a M,
        vocabulary: &'a Vocabulary,
        blocks: impl Into<ImageBlocks>,
        config: EngineConfig,
    ) -> Result<Self> {
        let blocks = blocks.into();
        let (height, width) = blocks.grid();
        let (logits, ids) = (model.vocab_size(), vocabulary.len());
        if logits < ids {
            return Err(Error::invalid(format!(
                "the model has {logits} logits; the vocabulary's {ids} ids need at least as many"
            )));
        }
        if height * width == 0 {
            return Err(Error::invalid(format!(
                "an image of {height} x {width} codes; allowed: at least one code"
            )));
        }
        if config.rows < super::language_model::BLOCK {
            return Err(Error::invalid(format!(
                "{} rows per pass; allowed: {} or more",
                config.rows,
                super::language_model::BLOCK
            )));
        }
        Ok(Self {
            model,
            vocabulary,
            blocks,
            policy: WindowPolicy::new(config.window),
            config,
            rules: HashMap::new(),
            pool: BlockPool::new(0),
            cache: None,
            waiting: VecDeque::new(),
            running: Vec::new(),
            results: HashMap::new(),
            events: Vec::new(),
            stats: EngineStats::default(),
            next_id: 0,
        })
    }

    /// Queues `request`; it is started when the cache has room for all that it can ever need.
    ///
    /// # Errors
    /// If its settings are out of range, its prompt is malformed or it can never fit the cache;
    /// [`Error::PromptTooLong`] if it does not fit the context.
    pub fn admit(&mut self, request: Request) -> Result<RequestId> {
        request.config.validate()?;
        let rules = self.rules_of(&request)?;
        let (id, root) = (RequestId(self.next_id), blocks::root(request.salt));
        let mut gang = Gang::new(id, request, rules, self.model.context())?;
        let (needed, total) = (gang.needed_blocks(), self.most_blocks());
        if needed > total {
            let mib = |blocks: usize| (blocks * self.model.block_bytes()).div_ceil(1 << 20);
            return Err(Error::invalid(format!(
                "the request can need {} MiB of keys and values; the cache has {} MiB",
                mib(needed),
                mib(total)
            )));
        }
        if self.config.prefix_cache {
            gang.share_under(&root);
        }
        self.next_id += 1;
        self.waiting.push_back(gang);
        Ok(id)
    }

    /// Runs one pass of the model, if there is anything to run; returns what happened, in order for each request.
    ///
    /// # Errors
    /// If the model fails; then all requests have failed. What goes wrong in one request alone is an
    /// [`Event::Failed`].
    pub fn step(&mut self) -> Result<Vec<(RequestId, Event)>> {
        self.open_cache();
        self.start_waiting();
        self.settle();
        let limits = Limits {
            rows: self.config.rows,
            vocabulary: self.vocabulary.len(),
            prefix_hits: &mut self.stats.prefix_hits,
        };
        let mut pass = Pass::plan(&mut self.running, &mut self.pool, &self.policy, limits);
        self.poison(&std::mem::take(&mut pass.stale));
        if !pass.feeds.is_empty() {
            self.run(&pass)?;
            self.settle();
        }
        Ok(std::mem::take(&mut self.events))
    }

    /// Ends a request; whether it was running or waiting. Its blocks are free at once.
    pub fn cancel(&mut self, id: RequestId) -> bool {
        let waiting = self.waiting.iter().position(|gang| gang.id == id);
        let gang = match waiting.and_then(|at| self.waiting.remove(at)) {
            Some(gang) => Some(gang),
            None => {
                let running = self.running.iter().position(|gang| gang.id == id);
                running.map(|at| self.running.remove(at))
            }
        };
        let Some(mut gang) = gang else { return false };
        gang.end(EndReason::Cancelled);
        self.close(gang, None);
        true
    }

    /// Whether no request is running or waiting, and no event is left for [`step`](Self::step) to return.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty() && self.events.is_empty()
    }

    /// The result of a request that has ended, once.
    pub fn take(&mut self, id: RequestId) -> Option<Result<Generated>> {
        self.results.remove(&id)
    }

    /// Whether a request has not been started yet.
    pub fn is_waiting(&self, id: RequestId) -> bool {
        self.waiting.iter().any(|gang| gang.id == id)
    }

    /// What the engine has done, and what it holds.
    pub fn stats(&self) -> EngineStats {
        EngineStats {
            blocks_used: self.pool.used(),
            blocks_total: self.pool.total(),
            running: self.running.len(),
            waiting: self.waiting.len(),
            ..self.stats
        }
    }

    fn rules_of(&mut self, request: &Request) -> Result<Arc<ModalityRules>> {
        let mode = match request.constraint {
            Some(_) => GenerationMode::TextOnly,
            None => request.config.mode,
        };
        let mut stop_ids = request.config.stop_ids.clone();
        stop_ids.sort_unstable();
        stop_ids.dedup();
        let key = (mode, stop_ids);
        if let Some(rules) = self.rules.get(&key) {
            return Ok(rules.clone());
        }
        let rules = ModalityRules::new(self.vocabulary, self.blocks.clone(), mode, &key.1)?;
        let rules = Arc::new(rules);
        self.rules.retain(|_, rules| Arc::strong_count(rules) > 1);
        self.rules.insert(key, rules.clone());
        Ok(rules)
    }

    fn most_blocks(&self) -> usize {
        match self.cache {
            Some(_) => self.pool.total(),
            None if !self.config.whole_cache => usize::MAX,
            None => self.config.cache_bytes / self.model.block_bytes().max(1),
        }
    }

    fn open_cache(&mut self) {
        if self.cache.is_some() || self.waiting.is_empty() {
            return;
        }
        let mut blocks = self.config.cache_bytes / self.model.block_bytes().max(1);
        if !self.config.whole_cache {
            let needed = || self.waiting.iter().map(Gang::needed_blocks);
            blocks = blocks.min(needed().sum()).max(needed().max().unwrap_or(0));
        }
        self.pool = BlockPool::new(blocks);
        self.cache = Some(self.model.new_cache(blocks));
    }

    /// Starts requests in the order in which they came, as far as the cache has room.
    fn start_waiting(&mut self) {
        while self.running.len() < self.config.rows
            && let Some(gang) = self.waiting.front()
        {
            let needed = gang.needed_blocks();
            if !self.pool.promise(needed) {
                break;
            }
            let mut gang = self.waiting.pop_front().expect("it was looked at");
            gang.promise(needed);
            self.running.push(gang);
        }
    }

    /// Adds ids that need no model, collects events, and takes away what has ended.
    fn settle(&mut self) {
        let mut at = 0;
        while at < self.running.len() {
            let gang = &mut self.running[at];
            let failed = gang.settle(self.vocabulary).err();
            if failed.is_some() || gang.end.is_some() {
                let gang = self.running.remove(at);
                self.close(gang, failed);
            } else {
                self.events.extend(gang.events.drain(..).map(|event| (gang.id, event)));
                at += 1;
            }
        }
    }

    /// Frees what an ended request has of the cache and keeps its result.
    fn close(&mut self, mut gang: Gang, failed: Option<Error>) {
        let stale = gang.close(&mut self.pool);
        self.poison(&stale);
        let id = gang.id;
        self.events.extend(gang.events.drain(..).map(|event| (id, event)));
        let result = match failed {
            Some(error) => {
                self.events.push((id, Event::Failed));
                Err(error)
            }
            None => Ok(gang.finish()),
        };
        self.results.insert(id, result);
    }

    /// Fails every request for the same reason.
    fn fail_all(&mut self, reason: &Error) {
        let running = std::mem::take(&mut self.running);
        let waiting = std::mem::take(&mut self.waiting);
        for gang in running.into_iter().chain(waiting) {
            self.close(gang, Some(Error::invalid(reason.to_string())));
        }
    }

    fn poison(&mut self, stale: &[u32]) {
        if let (true, false, Some(cache)) =
            (self.config.poison_freed, stale.is_empty(), &mut self.cache)
        {
            self.model.poison(stale, cache);
        }
    }

    /// Runs `pass` and lets the requests draw whose lanes it completes.
    fn run(&mut self, pass: &Pass) -> Result<()> {
        let spans: Vec<Span<'_>> = pass
            .feeds
            .iter()
            .map(|feed| Span {
                blocks: self.running[feed.gang].lanes[feed.lane].blocks(),
                start: feed.start,
                ids: &feed.ids,
                wanted: feed.wanted,
                columns: feed.columns.clone(),
            })
            .collect();
        let rows: usize = spans.iter().map(|span| span.ids.len()).sum();
        let cache = self.cache.as_mut().expect("requests run after it is opened");
        let started = Instant::now();
        let plan = if self.model.draws() {
            Plan::new(&self.running, &pass.feeds, self.policy.guesses())
        } else {
            None
        };
        let given = match plan {
            Some(plan) => self
                .model
                .pass_drawn(&spans, &plan.draws, cache)
                .map(|drawn| Given::Drawn(plan.by_gang(self.running.len(), drawn))),
            None => self.model.pass(&spans, cache).map(Given::Logits),
        };
        let given = match given {
            Ok(given) => given,
            Err(error) => {
                self.fail_all(&error);
                return Err(error);
            }
        };
        self.policy.record_pass(rows, started.elapsed().as_secs_f64());
        self.stats.passes += 1;
        self.stats.rows += rows;
        let given = self.take_in(pass, given);
        // Requests draw independently of one another.
        let vocabulary = self.vocabulary;
        let walk = |(gang, given): (&mut Gang, Option<(LastPass, bool)>)| {
            let (last, prompt) = given?;
            Some((gang.id, prompt, walk::walk(gang, last, vocabulary)))
        };
        let drawn: Vec<_> =
            self.running.par_iter_mut().zip(given).with_max_len(1).filter_map(walk).collect();
        for (id, prompt, result) in drawn {
            match result {
                Ok(walked) => walked.record(prompt, &mut self.policy, &mut self.stats),
                Err(error) => self.fail(id, error),
            }
        }
        Ok(())
    }

    /// Notes what `pass` has put into the cache; returns what it gave each running request that draws, and whether it
    /// ran the request's prompt.
    fn take_in(&mut self, pass: &Pass, given: Given) -> Vec<Option<(LastPass, bool)>> {
        let mut found: Vec<Option<_>> = self.running.iter().map(|_| None).collect();
        let (logits, mut drawn) = match given {
            Given::Logits(logits) => (logits, Vec::new()),
            Given::Drawn(drawn) => (Vec::new(), drawn),
        };
        let mut logits = logits.into_iter();
        for feeds in pass.feeds.chunk_by(|a, b| a.gang == b.gang) {
            let gang = &mut self.running[feeds[0].gang];
            let logits: Vec<_> = logits.by_ref().take(feeds.len()).collect();
            for feed in feeds {
                let lane = &mut gang.lanes[feed.lane];
                lane.keep(feed.start + feed.ids.len() - feed.drafts);
                if feed.lane == 0 {
                    lane.publish(feed.start, &mut self.pool);
                }
            }
            let Feed { wanted, prompt, ref columns, .. } = feeds[0];
            if wanted > 0 {
                let last = match drawn.get_mut(feeds[0].gang) {
                    Some(ids) => LastPass::Drawn(std::mem::take(ids)),
                    None => {
                        let (from, first) = (gang.ids.len(), columns.start as u32);
                        LastPass::Logits(LastRows { from, first, logits })
                    }
                };
                found[feeds[0].gang] = Some((last, prompt));
            }
        }
        found
    }

    fn fail(&mut self, id: RequestId, error: Error) {
        let at = self.running.iter().position(|gang| gang.id == id);
        let gang = self.running.remove(at.expect("it has just run"));
        self.close(gang, Some(error));
    }
}

impl<M: LanguageModel> std::fmt::Debug for Engine<'_, M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("config", &self.config)
            .field("stats", &self.stats())
            .finish()
    }
}
