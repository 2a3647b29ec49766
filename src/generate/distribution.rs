//! The ids that may be drawn, after all processors, and the draw.

use super::elementary::ln;
use super::noise::Noise;
use super::request::Logprobs;
use super::sampling_config::SamplingConfig;
use crate::model::NoDraw;

/// Logits of consecutive ids of the vocabulary.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Logits {
    /// The id of the first value.
    pub first: u32,
    /// `[ids]`; -inf for hidden ids.
    pub values: Vec<f32>,
}

impl Logits {
    /// `values` of the ids from `first` on.
    pub fn new(first: u32, values: Vec<f32>) -> Self {
        Self { first, values }
    }

    /// The log-probabilities of `id`, one of these, and of the `most` most likely ids.
    pub fn logprobs(&self, id: u32, most: usize) -> Logprobs {
        let highest = reduce(&self.values, f32::NEG_INFINITY, f32::max);
        let weight = |logit: &f32| f64::from(logit - highest).exp();
        let log_sum = f64::from(highest) + self.values.iter().map(weight).sum::<f64>().ln();
        let of = |at: usize| (f64::from(self.values[at]) - log_sum) as f32;
        // Adding zero makes both zeros one.
        let value = |at: &usize| self.values[*at] + 0.0;
        let higher = |a: &usize, b: &usize| value(b).total_cmp(&value(a)).then(a.cmp(b));
        let mut top: Vec<usize> = (0..self.values.len()).collect();
        if most < top.len() {
            top.select_nth_unstable_by(most, higher);
            top.truncate(most);
        }
        top.sort_unstable_by(higher);
        let top = top.into_iter().map(|at| (self.first + at as u32, of(at))).collect();
        Logprobs { of_id: of((id - self.first) as usize), top }
    }

    /// Hides every id for which `allows` is false.
    pub fn allow_only(&mut self, allows: impl Fn(u32) -> bool) {
        for (id, logit) in (self.first..).zip(&mut self.values) {
            if !allows(id) {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
}

/// The distribution of the next id after all processors.
///
/// No processor sorts all ids: they are counted in buckets by their logit, and only the bucket in which the limit
/// of top-k or top-p lies is ordered.
#[derive(Clone, Debug)]
pub struct Distribution {
    /// In rising order.
    ids: Vec<u32>,
    /// `[ids]`; finite.
    logits: Vec<f32>,
    /// `[ids]`: `e^(logit - highest)`; empty until it is needed.
    weights: Vec<f32>,
}

impl Distribution {
    /// The distribution by `logits` with the processors of `config`, or the most likely id alone if it is greedy.
    /// The repetition penalty is for the ids in `row`.
    ///
    /// # Errors
    /// If a logit is NaN or infinite, or every id is hidden.
    pub fn new(
        logits: &Logits,
        row: &[u32],
        config: &SamplingConfig,
    ) -> std::result::Result<Self, NoDraw> {
        let worst = |bad, value| if value < f32::INFINITY { bad } else { f32::INFINITY };
        if reduce(&logits.values, 0.0, worst) == f32::INFINITY {
            return Err(NoDraw::NotFinite);
        }
        let mut found = if config.repetition_penalty == 1.0 {
            Self::visible(&logits.values, logits.first)
        } else {
            let values = penalised(logits, row, config.repetition_penalty);
            Self::visible(&values, logits.first)
        };
        if found.ids.is_empty() {
            return Err(NoDraw::Empty);
        }
        if config.greedy {
            found.keep_most_likely();
            return Ok(found);
        }
        found.logits.iter_mut().for_each(|logit| *logit /= config.temperature);
        if let Some(k) = config.top_k {
            found.top_k(k);
        }
        found.weigh();
        found.top_p(config.top_p);
        found.min_p(config.min_p);
        Ok(found)
    }

    /// The id drawn with the noise of `seed` at `position`: that with the highest sum of logit and noise, the
    /// lowest one of ties.
    pub fn draw(&self, seed: u64, position: usize) -> u32 {
        /// Above the error of the weights and of their use as a bound, below anything that costs time.
        const MARGIN: f64 = 1.0 + 1e-4;
        let noise = Noise::new(seed, position);
        let mut best = (self.ids[0], f64::NEG_INFINITY);
        // The noise is -ln t with t = -ln u, so the highest sum has the lowest t / weight. As t >= 1 - u, most
        // ids are seen to lose without a logarithm.
        let mut bound = f64::INFINITY;
        for ((&id, &logit), &weight) in self.ids.iter().zip(&self.logits).zip(&self.weights) {
            let u = noise.uniform(id);
            if 1.0 - u > bound * f64::from(weight) {
                continue;
            }
            let sum = f64::from(logit) + noise.gumbel(id);
            if sum > best.1 {
                best = (id, sum);
                bound = -ln(u) / f64::from(weight) * MARGIN;
            }
        }
        best.0
    }

    /// As [`draw`](Self::draw), but `guess` if its sum is lower by at most `slack`.
    pub fn draw_near(&self, guess: u32, slack: f32, seed: u64, position: usize) -> u32 {
        let drawn = self.draw(seed, position);
        let noise = Noise::new(seed, position);
        let sum = |id: u32| {
            let at = self.ids.binary_search(&id).ok()?;
            Some(f64::from(self.logits[at]) + noise.gumbel(id))
        };
        match (sum(guess), sum(drawn)) {
            (Some(near), Some(best)) if near >= best - f64::from(slack) => guess,
            _ => drawn,
        }
    }

    /// The ids that may be drawn, in rising order, with their logits.
    pub fn iter(&self) -> impl Iterator<Item = (u32, f32)> + '_ {
        self.ids.iter().copied().zip(self.logits.iter().copied())
    }

    /// The ids that `values` do not hide.
    fn visible(values: &[f32], first: u32) -> Self {
        let mut found = Self {
            ids: (first..).take(values.len()).collect(),
            logits: values.to_vec(),
            weights: Vec::new(),
        };
        if reduce(values, 0.0, lower) == f32::NEG_INFINITY {
            found.retain(|_, logit| logit > f32::NEG_INFINITY);
        }
        found
    }

    /// Drops all ids but the most likely one, the lowest of ties.
    fn keep_most_likely(&mut self) {
        let highest = self.highest();
        let best = self.logits.iter().position(|&logit| logit == highest).unwrap_or_default();
        (self.ids, self.logits) = (vec![self.ids[best]], vec![self.logits[best]]);
        self.weights = vec![1.0];
    }

    fn highest(&self) -> f32 {
        reduce(&self.logits, f32::NEG_INFINITY, higher)
    }

    /// Fills the weights.
    fn weigh(&mut self) {
        let highest = self.highest();
        self.weights.clear();
        self.weights.extend(self.logits.iter().map(|&logit| kernels::math::exp(logit - highest)));
    }

    /// Drops all ids below the `k`-th highest logit; ties with it stay.
    fn top_k(&mut self, k: usize) {
        if k == 0 || k >= self.ids.len() {
            return;
        }
        let buckets = buckets(&self.logits, self.highest(), f32::INFINITY);
        let mut counts = [0_usize; BUCKETS];
        buckets.iter().for_each(|&bucket| counts[usize::from(bucket)] += 1);
        let mut above = 0;
        let split = counts.iter().position(|&count| {
            above += count;
            above >= k
        });
        let split = split.expect("k is less than the number of ids");
        let mut members: Vec<f32> = members(&buckets, split).map(|at| self.logits[at]).collect();
        let rank = k - 1 - (above - counts[split]);
        let (_, &mut lowest, _) = members.select_nth_unstable_by(rank, |a, b| b.total_cmp(a));
        self.retain(|_, logit| logit >= lowest);
    }

    /// Drops the least likely ids whose probabilities add up to at most `1 - p`, of equal ones the higher ids
    /// first; the most likely id always stays. The sums are in f64.
    fn top_p(&mut self, p: f32) {
        if p >= 1.0 {
            return;
        }
        let rest = 1.0 - f64::from(p);
        // What is further below the highest logit than this adds up to less than `rest`.
        let reach = ln(self.ids.len() as f64 / rest) as f32;
        let buckets = buckets(&self.logits, self.highest(), reach);
        let mut sums = [0.0; BUCKETS];
        for (&bucket, &weight) in buckets.iter().zip(&self.weights) {
            sums[usize::from(bucket)] += f64::from(weight);
        }
        let limit = rest * sums.iter().sum::<f64>();
        let (mut dropped, mut split) = (0.0, BUCKETS - 1);
        while split > 0 && dropped + sums[split] <= limit {
            dropped += sums[split];
            split -= 1;
        }
        let mut members: Vec<(f32, u32, f32)> = members(&buckets, split)
            .map(|at| (self.logits[at], self.ids[at], self.weights[at]))
            .collect();
        let rising = |a: f32, b: f32| a.partial_cmp(&b).expect("no logit is NaN");
        members.sort_unstable_by(|a, b| rising(a.0, b.0).then(b.1.cmp(&a.1)));
        // The last member of the bucket stays even if rounding says otherwise: the most likely id is one.
        let (&last, others) = members.split_last().expect("a bucket with a part of the sum");
        let lowest = others.iter().find(|(.., weight)| {
            dropped += f64::from(*weight);
            dropped > limit
        });
        let &(lowest, last_id, _) = lowest.unwrap_or(&last);
        self.retain(|id, logit| (logit > lowest) | ((logit == lowest) & (id <= last_id)));
    }

    /// Drops the ids that are less than `min_p` times as likely as the most likely one.
    fn min_p(&mut self, min_p: f32) {
        if min_p <= 0.0 {
            return;
        }
        let highest = f64::from(self.highest());
        let reach = ln(f64::from(min_p));
        self.retain(|_, logit| f64::from(logit) - highest >= reach);
    }

    /// Drops the ids for which `keep` is false.
    fn retain(&mut self, keep: impl Fn(u32, f32) -> bool) {
        let mut kept = 0;
        // Written before it is known, without branches: half of them would be predicted wrongly.
        for at in 0..self.ids.len() {
            let (id, logit) = (self.ids[at], self.logits[at]);
            (self.ids[kept], self.logits[kept]) = (id, logit);
            if let Some(&weight) = self.weights.get(at) {
                self.weights[kept] = weight;
            }
            kept += usize::from(keep(id, logit));
        }
        self.ids.truncate(kept);
        self.logits.truncate(kept);
        self.weights.truncate(kept);
    }
}

/// The values of `logits`, lowered for each id in `row`, once however often it occurs: negative logits are
/// multiplied by `penalty`, others divided by it.
fn penalised(logits: &Logits, row: &[u32], penalty: f32) -> Vec<f32> {
    let mut values = logits.values.clone();
    for &id in row {
        let at = id.wrapping_sub(logits.first) as usize;
        // From the original, so that an id that occurs twice is not lowered twice.
        if let Some(&logit) = logits.values.get(at) {
            values[at] = if logit < 0.0 { logit * penalty } else { logit / penalty };
        }
    }
    values
}

/// All of `values` joined by `join`, in lanes, so that it is vectorised.
fn reduce(values: &[f32], start: f32, join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; 16];
    let (chunks, rest) = values.as_chunks::<16>();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, &value)| *lane = join(*lane, value));
    }
    lanes.iter().chain(rest).fold(start, |all, &value| join(all, value))
}

// Not those of f32, which the compiler does not turn into one instruction.
fn higher(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

fn lower(a: f32, b: f32) -> f32 {
    if b < a { b } else { a }
}

const BUCKETS: usize = 1024;

/// The part in which each of `logits` lies, of [`BUCKETS`] equal parts of their range, but of no more than `reach`
/// below `highest`; the last part has no end. A smaller logit never has a smaller number.
fn buckets(logits: &[f32], highest: f32, reach: f32) -> Vec<u16> {
    /// Adding it rounds to an integer, which the low bits then hold.
    const ROUND: f32 = 8_388_608.0;
    let lowest = reduce(logits, highest, lower);
    let scale = BUCKETS as f32 / (highest - lowest).min(reach);
    // Finite, so that 0 times it is 0.
    let scale = if scale < f32::MAX { scale } else { f32::MAX };
    let last = (BUCKETS - 1) as f32;
    let of = |&logit: &f32| {
        let part = (highest - logit) * scale;
        let part = if part < last { part } else { last };
        (part + ROUND).to_bits() as u16 & (BUCKETS - 1) as u16
    };
    logits.iter().map(of).collect()
}

/// The indices whose bucket is `split`.
fn members(buckets: &[u16], split: usize) -> impl Iterator<Item = usize> + '_ {
    const CHUNK: usize = 32;
    // Most chunks have none, which is seen without branches.
    let of_split = move |bucket: u16| usize::from(bucket) == split;
    let has_some = move |chunk: &[u16]| chunk.iter().fold(false, |any, &b| any | of_split(b));
    let chunks = (0..).step_by(CHUNK).zip(buckets.chunks(CHUNK));
    chunks.filter(move |(_, chunk)| has_some(chunk)).flat_map(move |(start, chunk)| {
        let found = chunk.iter().enumerate().filter(move |(_, bucket)| of_split(**bucket));
        found.map(move |(at, _)| start + at)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
