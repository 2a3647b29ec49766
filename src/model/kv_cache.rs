//! Keys and values of earlier tokens, in buffers of fixed size that are written in place.

use burn::tensor::{DType, Device, Tensor};

use super::ModelConfig;

/// One preallocated key and value buffer per layer.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    len: usize,
    capacity: usize,
}

/// The buffers of one layer, `[batch, kv_heads, capacity, head_dim]`.
#[derive(Debug)]
pub(crate) struct LayerCache {
    keys: Option<Tensor<4>>,
    values: Option<Tensor<4>>,
}

impl KvCache {
    /// An empty cache for `batch` rows of at most `capacity` tokens.
    pub fn new(
        config: &ModelConfig,
        batch: usize,
        capacity: usize,
        dtype: DType,
        device: &Device,
    ) -> Self {
        let shape = [batch, config.num_key_value_heads, capacity, config.head_dim()];
        let buffer = || Some(Tensor::zeros(shape, (device, dtype)));
        let layers = (0..config.num_hidden_layers)
            .map(|_| LayerCache { keys: buffer(), values: buffer() })
            .collect();
        Self { layers, len: 0, capacity }
    }

    /// A copy with `rows` equal rows, from a cache of one row.
    pub(crate) fn repeated(&self, rows: usize) -> Self {
        let all = |buffer: &Option<Tensor<4>>| buffer.clone().map(|one| one.repeat_dim(0, rows));
        let layer =
            |layer: &LayerCache| LayerCache { keys: all(&layer.keys), values: all(&layer.values) };
        Self { layers: self.layers.iter().map(layer).collect(), ..*self }
    }

    /// Bytes per row.
    pub(crate) fn row_bytes(&self) -> usize {
        let of = |buffer: &Option<Tensor<4>>| {
            buffer.as_ref().map_or(0, |buffer| {
                let [_, heads, capacity, head_dim] = buffer.dims();
                heads * capacity * head_dim * buffer.dtype().size()
            })
        };
        self.layers.iter().map(|layer| of(&layer.keys) + of(&layer.values)).sum()
    }

    /// Tokens per row, left padding included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no tokens.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Maximum number of tokens per row.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    pub(crate) fn layer(&mut self, index: usize) -> (&mut LayerCache, usize) {
        (&mut self.layers[index], self.len)
    }

    pub(crate) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }
}

impl LayerCache {
    /// Writes `keys` and `values` at `start` and returns everything up to their end.
    ///
    /// # Shapes
    /// Both `[batch, kv_heads, seq, head_dim]`; returns `[batch, kv_heads, start + seq, head_dim]`.
    pub(crate) fn append(
        &mut self,
        start: usize,
        keys: Tensor<4>,
        values: Tensor<4>,
    ) -> (Tensor<4>, Tensor<4>) {
        (write(&mut self.keys, start, keys), write(&mut self.values, start, values))
    }
}

/// The buffer is taken out while it is written: a second owner would force a copy of the whole.
fn write(buffer: &mut Option<Tensor<4>>, start: usize, new: Tensor<4>) -> Tensor<4> {
    let [batch, heads, seq, head_dim] = new.dims();
    let old = buffer.take().expect("the buffer is put back at the end of every write");
    let all = old.slice_assign([0..batch, 0..heads, start..start + seq, 0..head_dim], new);
    let seen = all.clone().narrow(2, 0, start + seq);
    *buffer = Some(all);
    seen
}
