//! What the routers of sparse layers add to the loss of a micro-batch, and what is counted of them.
//!
//! The load-balancing loss is over all tokens of a step as far as they are known: micro-batch `j` of a step takes the
//! share of tokens `f_e` that went through expert `e` from the micro-batches 1 to `j`, the mean probabilities `P_e` from
//! its own tokens, and counts by its part of the step's tokens (arXiv 2501.11873, which buffers counts over accumulation
//! steps). So the gradient of the last micro-batch is that of its tokens in the loss of the whole step. Earlier ones know
//! fewer loads. The z-loss is a mean over the tokens of the step, however they are split.

use std::ops::{AddAssign, Range};

use burn::tensor::Tensor;

use crate::data::pack::PackedBatch;
use crate::model::{ExpertLoads, RouterLoss, Routing};

/// The losses of routers of a micro-batch.
#[derive(Clone, Debug)]
pub struct RouterTerms<'a> {
    /// Factors of load-balancing loss and z-loss.
    pub factors: [f64; 2],
    /// The experts among which tokens choose.
    pub choices: Vec<Range<usize>>,
    /// Tokens of the whole step.
    pub tokens: usize,
    /// Loads of the earlier micro-batches.
    pub earlier: &'a ExpertLoads,
    /// Whether each token of the micro-batch is an image code.
    pub is_image: &'a [bool],
}

/// [`RouterTerms`] over a micro-batch.
#[derive(Debug)]
pub(super) struct Routed {
    pub(super) loss: RouterLoss,
    /// [`RouterLoss::sums`] of each layer.
    tape: Vec<Tensor<1>>,
    /// What they are, and the loss.
    pub(super) found: (RouterSums, f64),
}

impl Routed {
    /// The loss, to differentiate.
    pub(super) fn total(&self) -> Option<Tensor<1>> {
        let parts = self.tape.iter().map(|sums| self.loss.part(sums.clone()));
        parts.reduce(|sum, part| sum + part)
    }
}

/// Sums over tokens of what routers did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouterSums {
    /// All tokens of documents.
    pub loads: ExpertLoads,
    /// Image codes among them.
    pub image_loads: ExpertLoads,
    /// [`RouterLoss::sums`] of each layer.
    pub layers: Vec<Vec<f64>>,
}

impl RouterTerms<'_> {
    /// The loss of `routings`, one a layer, over `batch`; `None` without layers. All numbers are read from the device at
    /// once.
    pub(super) fn of(&self, batch: &PackedBatch, routings: &[Routing]) -> Option<Routed> {
        if routings.is_empty() {
            return None;
        }
        let counted: Vec<bool> = batch.document_ids.iter().map(|document| *document != 0).collect();
        let is_image = |(counted, is_image): (&bool, &bool)| *counted && *is_image;
        let images: Vec<bool> = counted.iter().zip(self.is_image).map(is_image).collect();
        let loads = ExpertLoads::of(routings, Some(&counted));
        let mut so_far = self.earlier.clone();
        so_far += &loads;
        let loss =
            RouterLoss::new(&so_far, &self.choices, self.tokens, Some(&counted), self.factors);
        let tape: Vec<Tensor<1>> = routings.iter().map(|layer| loss.sums(layer)).collect();
        let numbers = Tensor::cat(tape.iter().map(|sums| sums.clone().detach()).collect(), 0);
        let numbers: Vec<f64> = numbers.into_data().iter().collect();
        let sums = numbers.chunks_exact(numbers.len() / routings.len());
        let value = sums.clone().map(|sums| loss.value(sums)).sum();
        let layers = sums.map(<[f64]>::to_vec).collect();
        let image_loads = ExpertLoads::of(routings, Some(&images));
        let sums = RouterSums { loads, image_loads, layers };
        Some(Routed { loss, tape, found: (sums, value) })
    }
}

impl AddAssign<&Self> for RouterSums {
    fn add_assign(&mut self, more: &Self) {
        self.loads += &more.loads;
        self.image_loads += &more.image_loads;
        self.layers.resize(self.layers.len().max(more.layers.len()), Vec::new());
        for (sums, more) in self.layers.iter_mut().zip(&more.layers) {
            sums.resize(sums.len().max(more.len()), 0.0);
            sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        }
    }
}
