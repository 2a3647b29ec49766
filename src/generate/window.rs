//! How many ids are guessed ahead of the model.
//!
//! A pass takes the last id of a row and some guesses of those that follow, and gives the true id after each of
//! them as long as the guesses before were true. Which ids are drawn does not depend on the number of guesses,
//! as the noise of a draw is hashed from its position. So the number may change with every pass: it is that with
//! the most expected ids per second, by the costs of passes and the survival of guesses measured so far.

use std::collections::BTreeMap;
use std::fmt::{Display, Formatter};
use std::str::FromStr;

use crate::error::{Error, Result};

/// Maximum number of guesses.
pub const MAX_WINDOW: usize = 64;

/// The number of ids that are guessed and checked in one pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Window {
    /// None: one id per pass.
    Off,
    /// This many, 1 to [`MAX_WINDOW`].
    Fixed(usize),
    /// As many as measured costs and hits make worth while.
    #[default]
    Auto,
}

impl FromStr for Window {
    type Err = Error;

    /// Reads `off`, `auto` or a number.
    fn from_str(text: &str) -> Result<Self> {
        match (text, text.parse()) {
            ("off", _) => Ok(Self::Off),
            ("auto", _) => Ok(Self::Auto),
            (_, Ok(size)) if (1..=MAX_WINDOW).contains(&size) => Ok(Self::Fixed(size)),
            _ => Err(Error::invalid(format!(
                "window is {text:?}; allowed: 1 to {MAX_WINDOW}, auto, off"
            ))),
        }
    }
}

impl Display for Window {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Fixed(size) => write!(f, "{size}"),
            Self::Auto => f.write_str("auto"),
        }
    }
}

/// What is guessed; the kinds have guesses of different quality.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DraftKind {
    /// Codes of an image, from the logits of earlier positions.
    Image,
    /// Text that occurred before ([`lookup`](super::lookup())).
    Text,
}

/// Chooses windows by what earlier passes showed.
///
/// A function of what it was told alone: it reads no clock and draws no random numbers.
#[derive(Clone, Debug)]
pub struct WindowPolicy {
    window: Window,
    costs: Costs,
    image: Survival,
    text: Survival,
}

impl WindowPolicy {
    /// A policy that has seen nothing yet.
    pub fn new(window: Window) -> Self {
        let (image, text) = (Survival::new(0.7), Survival::new(0.5));
        Self { window, costs: Costs::default(), image, text }
    }

    /// Whether anything is guessed at all.
    pub fn guesses(&self) -> bool {
        self.window != Window::Off
    }

    /// Takes note that a pass of `rows` rows took `seconds`.
    pub fn record_pass(&mut self, rows: usize, seconds: f64) {
        if rows > 0 && seconds.is_finite() && seconds > 0.0 {
            self.costs.record(rows, seconds);
        }
    }

    /// Takes note that, of `guessed` ids of one row, the first `kept` were true. Ids that are known beforehand, such
    /// as the ends of lines or kept codes, are no guesses.
    pub fn record_walk(&mut self, kind: DraftKind, guessed: usize, kept: usize) {
        self.survival_mut(kind).record(guessed.min(MAX_WINDOW), kept.min(guessed));
    }

    /// The number of guesses for a pass in which `lanes` lanes take one row more for each of them, beside
    /// `other_rows` rows of others: 0 to `max`.
    pub fn choose(&self, kind: DraftKind, lanes: usize, other_rows: usize, max: usize) -> usize {
        let max = max.min(MAX_WINDOW);
        match self.window {
            Window::Off => 0,
            Window::Fixed(size) => size.min(max),
            Window::Auto => {
                let survival = self.survival(kind);
                survival.explore(self.best(survival, lanes, other_rows, max)).min(max)
            }
        }
    }

    /// The number of guesses, up to `max`, with the most ids per second.
    fn best(&self, survival: &Survival, lanes: usize, other_rows: usize, max: usize) -> usize {
        let costs = self.costs.curve();
        let rate = |(window, ids): (usize, f64)| ids / costs.of(other_rows + lanes * (window + 1));
        let mut best = (0, 0.0);
        for (window, ids) in survival.expected_ids(max).enumerate() {
            let rate = rate((window, ids));
            if rate > best.1 {
                best = (window, rate);
            }
        }
        best.0
    }

    fn survival(&self, kind: DraftKind) -> &Survival {
        match kind {
            DraftKind::Image => &self.image,
            DraftKind::Text => &self.text,
        }
    }

    fn survival_mut(&mut self, kind: DraftKind) -> &mut Survival {
        match kind {
            DraftKind::Image => &mut self.image,
            DraftKind::Text => &mut self.text,
        }
    }
}

/// Running averages of the seconds of a pass, by its number of rows.
#[derive(Clone, Debug, Default)]
struct Costs {
    /// Rows to average and number of passes.
    passes: BTreeMap<usize, (f64, u32)>,
}

impl Costs {
    /// Weight of the newest pass in an average of many.
    const NEWEST: f64 = 1.0 / 8.0;
    /// Above it, rows are counted in multiples of it.
    const EXACT: usize = 256;

    fn record(&mut self, rows: usize, seconds: f64) {
        let rows = if rows > Self::EXACT { rows.next_multiple_of(Self::EXACT) } else { rows };
        let (average, count) = self.passes.entry(rows).or_insert((seconds, 0));
        *count = count.saturating_add(1);
        // One pass may be slow because the machine was busy.
        let seconds = seconds.min(4.0 * *average);
        *average += (seconds - *average) * (1.0 / f64::from(*count)).max(Self::NEWEST);
    }

    /// The costs as a function of rows.
    fn curve(&self) -> Curve {
        let mut points: Vec<(usize, f64)> =
            self.passes.iter().map(|(&rows, &(average, _))| (rows, average)).collect();
        // More rows never cost less: what looks so was measured while the machine was busy.
        let mut lowest = f64::INFINITY;
        for (_, seconds) in points.iter_mut().rev() {
            lowest = lowest.min(*seconds);
            *seconds = lowest;
        }
        Curve { points }
    }
}

/// Seconds by rows: linear between the points, and with a guess of its form beyond them.
struct Curve {
    points: Vec<(usize, f64)>,
}

impl Curve {
    /// What a pass costs besides its rows, counted in rows, where nothing was measured.
    const OVERHEAD_ROWS: f64 = 8.0;

    fn of(&self, rows: usize) -> f64 {
        let guess = |rows: usize| Self::OVERHEAD_ROWS + rows as f64;
        let at = self.points.partition_point(|&(known, _)| known < rows);
        let below = at.checked_sub(1).map(|at| self.points[at]);
        match (below, self.points.get(at).copied()) {
            (None, None) => guess(rows),
            (_, Some((known, seconds))) if known == rows => seconds,
            (Some((low, from)), Some((high, to))) => {
                from + (to - from) * (rows - low) as f64 / (high - low) as f64
            }
            (Some((known, seconds)), None) | (None, Some((known, seconds))) => {
                seconds * guess(rows) / guess(known)
            }
        }
    }
}

/// How often a guess is true if those before it were, by its place.
#[derive(Clone, Debug)]
struct Survival {
    /// True ones and all, older ones with less weight.
    places: Vec<(f64, f64)>,
    /// The share of true ones before anything was seen.
    start: f64,
    walks: usize,
}

impl Survival {
    /// Weight of what was seen before, after each walk that reaches a place: half of it is left after 34.
    const KEEP: f64 = 0.98;
    /// A place takes the share of the place before it until it has been seen about this often.
    const PRIOR: f64 = 2.0;
    /// A window off the best one is tried once in this many walks.
    const EXPLORE: usize = 32;

    fn new(start: f64) -> Self {
        Self { places: vec![(0.0, 0.0); MAX_WINDOW], start, walks: 0 }
    }

    fn record(&mut self, guessed: usize, kept: usize) {
        self.walks = self.walks.wrapping_add(1);
        for (place, (hits, all)) in self.places[..guessed].iter_mut().enumerate().take(kept + 1) {
            *hits = *hits * Self::KEEP + f64::from(u8::from(place < kept));
            *all = *all * Self::KEEP + 1.0;
        }
    }

    /// The expected number of ids of a pass with 0, 1, ... `max` guesses: one more than the true guesses.
    fn expected_ids(&self, max: usize) -> impl Iterator<Item = f64> + '_ {
        let (mut ids, mut all_true, mut share) = (1.0, 1.0, self.start);
        std::iter::once(1.0).chain(self.places[..max].iter().map(move |(hits, all)| {
            share = (hits + Self::PRIOR * share) / (all + Self::PRIOR);
            all_true *= share;
            ids += all_true;
            ids
        }))
    }

    /// `best`, or at times a larger or a smaller one, so that their costs and their guesses are known too. The first
    /// walks try more.
    fn explore(&self, best: usize) -> usize {
        let turn =
            if self.walks < Self::EXPLORE { self.walks % 4 } else { self.walks % Self::EXPLORE };
        let round = self.walks / if self.walks < Self::EXPLORE { 4 } else { Self::EXPLORE };
        match (turn, round % 2) {
            (3, 0) => 2 * best + 1,
            (3, _) => best / 2,
            _ => best,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
