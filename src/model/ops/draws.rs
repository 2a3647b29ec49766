//! What is drawn from rows of logits, as one table of words for a device.

use burn::tensor::{DType, Device, ExecutionError, Int, Tensor, TensorData};

/// Distributions over the columns of rows of logits, and draws from them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Draws {
    /// The id of the first column.
    pub(crate) first: u32,
    pub(crate) distributions: Vec<Distribution>,
    pub(crate) places: Vec<Place>,
    /// Sets of columns, bit by bit, which distributions name by their first word.
    pub(crate) sets: Vec<u32>,
}

/// A distribution of ids: the fields are those of `generate::sampling`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Distribution {
    /// The rows that guidance mixes: that of the request, that with its images only, that without a prompt; three
    /// times the same one without guidance.
    pub(crate) rows: [usize; 3],
    /// The scales of text and images.
    pub(crate) scales: [f32; 2],
    pub(crate) temperature: f32,
    /// 0 for all.
    pub(crate) top_k: usize,
    /// The share of probability that is left out at most: `1 - top_p`.
    pub(crate) rest: f32,
    /// The logarithm of `min_p`.
    pub(crate) reach: f32,
    pub(crate) greedy: bool,
    /// The set of columns that may be drawn.
    pub(crate) allowed: usize,
    /// The repetition penalty and the set of columns that it is for.
    pub(crate) penalty: Option<(f32, usize)>,
}

/// A draw from a distribution.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Its number among the distributions.
    pub(crate) distribution: usize,
    /// The key of the noise.
    pub(crate) noise: u64,
    /// A column, and how much lower its sum of logit and noise may be than the highest for it to be taken.
    pub(crate) guess: Option<(usize, f32)>,
}

/// Where the table has what, in words from the start of a distribution, and what stands for no id.
pub(super) mod word {
    pub(crate) const FULL: usize = 0;
    pub(crate) const IMAGES: usize = 1;
    pub(crate) const NOTHING: usize = 2;
    pub(crate) const TEXT_SCALE: usize = 3;
    pub(crate) const IMAGE_SCALE: usize = 4;
    pub(crate) const TEMPERATURE: usize = 5;
    pub(crate) const TOP_K: usize = 6;
    pub(crate) const REST: usize = 7;
    pub(crate) const REACH: usize = 8;
    pub(crate) const GREEDY: usize = 9;
    pub(crate) const ALLOWED: usize = 10;
    pub(crate) const PENALTY: usize = 11;
    pub(crate) const SEEN: usize = 12;
    /// Words per distribution.
    pub(crate) const DISTRIBUTION: usize = 13;
    /// Words per draw.
    pub(crate) const DRAW: usize = 5;
    /// A logit is NaN or infinite.
    pub(crate) const NOT_FINITE: u32 = 0xffff_ffff;
    /// Every id is hidden.
    pub(crate) const EMPTY: u32 = 0xffff_fffe;
}

/// Why nothing was drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoDraw {
    /// A logit is NaN or infinite.
    NotFinite,
    /// Every id is hidden.
    Empty,
}

/// An id, or why there is none.
pub type Drawn = Result<u32, NoDraw>;

impl Draws {
    /// The table: distributions, draws, sets.
    pub(super) fn table(&self, device: &Device) -> Tensor<1, Int> {
        let sets = self.distributions.len() * word::DISTRIBUTION + self.places.len() * word::DRAW;
        let mut table = Vec::with_capacity(sets + self.sets.len());
        for of in &self.distributions {
            table.extend(of.rows.map(|row| row as u32));
            table.extend(of.scales.map(f32::to_bits));
            table.extend([of.temperature.to_bits(), of.top_k.min(u32::MAX as usize) as u32]);
            table.extend([of.rest.to_bits(), of.reach.to_bits(), u32::from(of.greedy)]);
            let (penalty, seen) = of.penalty.map_or((1.0, 0), |(by, set)| (by, sets + set));
            table.extend([(sets + of.allowed) as u32, penalty.to_bits(), seen as u32]);
        }
        for place in &self.places {
            let (guess, slack) = place.guess.unwrap_or((u32::MAX as usize, 0.0));
            let (high, low) = ((place.noise >> 32) as u32, place.noise as u32);
            table.extend([place.distribution as u32, high, low, guess as u32, slack.to_bits()]);
        }
        table.extend(&self.sets);
        let table: Vec<i32> = table.into_iter().map(u32::cast_signed).collect();
        let len = table.len();
        Tensor::from_data(TensorData::new(table, [len]), (device, DType::I32))
    }
}

/// The ids in `drawn` `[draws]`, which waits for the device.
///
/// # Errors
/// If the device fails.
pub(crate) fn fetch(drawn: Tensor<1, Int>) -> Result<Vec<Drawn>, ExecutionError> {
    let ids = drawn.try_into_data()?;
    let id = |id: i32| match id.cast_unsigned() {
        word::NOT_FINITE => Err(NoDraw::NotFinite),
        word::EMPTY => Err(NoDraw::Empty),
        id => Ok(id),
    };
    Ok(ids.iter::<i32>().map(id).collect())
}
