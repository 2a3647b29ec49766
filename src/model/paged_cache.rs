//! Keys and values of many sequences, or what they follow from, in blocks of tokens that are allocated at once and written in place.

use std::ops::Range;

use burn::tensor::{DType, Device, Int, Tensor};
use kernels::paged::BLOCK;

use super::ModelConfig;

/// Blocks of keys and values, or of latents, for every layer. Which sequence a block belongs to is the caller's to know: a
/// [`Lane`](super::Lane) names the blocks of its sequence in order.
#[derive(Debug)]
pub struct PagedCache {
    layers: Vec<LayerCache>,
    blocks: usize,
}

/// The blocks of one layer.
#[derive(Debug)]
pub(crate) struct LayerCache {
    /// Keys `[blocks, kv_heads, head_dim, BLOCK]`, transposed for the scores, and values
    /// `[blocks, kv_heads, BLOCK, head_dim]`; with latent attention latents and rotated keys, each
    /// `[blocks, 1, BLOCK, width]`.
    buffers: Option<[Tensor<4>; 2]>,
}

impl PagedCache {
    /// A cache of `blocks` blocks of [`BLOCK`] tokens, all zero.
    pub fn new(config: &ModelConfig, blocks: usize, dtype: DType, device: &Device) -> Self {
        let (heads, head_dim) = (config.num_key_value_heads, config.head_dim());
        let shapes = match &config.latent {
            Some(latent) => [latent.kv_lora_rank, latent.qk_rope_head_dim]
                .map(|width| [blocks, 1, BLOCK, width]),
            None => [[blocks, heads, head_dim, BLOCK], [blocks, heads, BLOCK, head_dim]],
        };
        let buffers = || Some(shapes.map(|shape| Tensor::zeros(shape, (device, dtype))));
        let layers =
            (0..config.num_hidden_layers).map(|_| LayerCache { buffers: buffers() }).collect();
        Self { layers, blocks }
    }

    /// Bytes of one block, all layers together.
    pub fn block_bytes(config: &ModelConfig, dtype: DType) -> usize {
        config.num_hidden_layers * config.cached() * BLOCK * dtype.size()
    }

    /// The number of blocks.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Copies the content of block `from` to block `to`.
    ///
    /// # Panics
    /// If there is no such block.
    pub fn copy_block(&mut self, from: usize, to: usize) {
        for layer in &mut self.layers {
            layer.update(|buffers| {
                buffers.map(|buffer| {
                    let from = [from as i32];
                    let from = Tensor::<1, Int>::from_data(from, &buffer.device());
                    // A copy, so that the buffer has one owner and is written in place.
                    let block = buffer.clone().select(0, from);
                    buffer.slice_assign(block_slice(&block, to), block)
                })
            });
        }
    }

    /// Fills blocks with NaN, so that any use of what they hold shows.
    ///
    /// # Panics
    /// If there is no such block.
    pub fn poison(&mut self, blocks: &[u32]) {
        for layer in &mut self.layers {
            for &block in blocks {
                layer.update(|buffers| {
                    buffers.map(|buffer| {
                        let [_, heads, lines, columns] = buffer.dims();
                        let shape = [1, heads, lines, columns];
                        let options = (&buffer.device(), buffer.dtype());
                        let nan = Tensor::full(shape, f32::NAN, options);
                        buffer.slice_assign(block_slice(&nan, block as usize), nan)
                    })
                });
            }
        }
    }

    pub(crate) fn layer(&mut self, index: usize) -> &mut LayerCache {
        &mut self.layers[index]
    }
}

/// Where `block` `[1, ...]` is in a buffer as block `at`.
fn block_slice(block: &Tensor<4>, at: usize) -> [Range<usize>; 4] {
    let [_, heads, lines, columns] = block.dims();
    [at..at + 1, 0..heads, 0..lines, 0..columns]
}

impl LayerCache {
    /// Replaces the buffers by the result of `change`. They are taken out meanwhile: a second owner would force
    /// a copy of the whole.
    fn update(&mut self, change: impl FnOnce([Tensor<4>; 2]) -> [Tensor<4>; 2]) {
        self.with(|buffers| ((), change(buffers)));
    }

    /// As [`Self::update`], with a further result.
    pub(crate) fn with<T>(
        &mut self,
        change: impl FnOnce([Tensor<4>; 2]) -> (T, [Tensor<4>; 2]),
    ) -> T {
        let buffers = self.buffers.take().expect("the buffers are put back after every change");
        let (result, buffers) = change(buffers);
        self.buffers = Some(buffers);
        result
    }
}
