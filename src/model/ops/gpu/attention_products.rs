//! Attention by matrix products, which tensor cores compute; `attention_scores.rs` has what lies between the products.
//!
//! Forward by chunks of queries, each with all keys up to its last query, so that a row of scores is whole. Backward by
//! chunks of keys, each with all queries from its first key on, so that the gradients of keys and values are one product
//! each; those of the queries are sums over the chunks, in f32. A chunk's scores are in memory in f32, its weights in the
//! number format of the queries. Chunks leave out what is further away than the longest document.
//!
//! The query heads of one key head are rows of one matrix: row `place * group + head`.

use std::ops::Range;

use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::{permute, reshape};
use burn_cubecl::tensor::CubeTensor;

use super::attention_backward::products;
use super::attention_scores::{Scratch, add_rows, split_groups};
use super::linear::product_to;
use super::tile::Sizes;
use crate::model::ops::attention_chunk;
use kernels::gpu::{element, element_of, empty, empty_like, swap_heads};

/// What starts and ends of a chunk's scores are multiples of, so that every device can address them.
const STEP: usize = 32;

/// How rows are cut into chunks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunks {
    seq: usize,
    /// Queries or keys of a chunk.
    len: usize,
    /// The most keys that a query sees.
    reach: usize,
}

impl Chunks {
    /// The chunks where products on tensor cores are faster than tiles in shared memory: in half formats, with heads that
    /// are whole vectors of a load, and enough to do.
    pub(super) fn of([q, k, _]: &[CubeTensor; 3], reach: usize) -> Option<Self> {
        let Sizes { batch, heads, seq, width, .. } = Sizes::of(q, k);
        #[cfg(test)]
        if let Some(len) = forced::chunk() {
            return Some(Self { seq, len, reach });
        }
        let (half, single) = (element(q), element_of(DType::F32));
        let products = &q.client.properties().features.matmul.cmma;
        let has_cores =
            products.iter().any(|product| product.a_type == half && product.cd_type == single);
        let is_taken = q.dtype != DType::F32 && has_cores && width.is_multiple_of(8);
        let len = attention_chunk(batch * heads, seq, reach).filter(|_| is_taken)?;
        Some(Self { seq, len, reach })
    }

    fn ranges(self) -> impl Iterator<Item = Range<usize>> {
        (0..self.seq).step_by(self.len).map(move |start| start..self.seq.min(start + self.len))
    }

    /// The keys that some of `queries` see.
    fn keys(self, queries: &Range<usize>) -> Range<usize> {
        let start = (queries.start + 1).saturating_sub(self.reach);
        start / STEP * STEP..queries.end
    }

    /// The queries that see some of `keys`.
    fn queries(self, keys: &Range<usize>) -> Range<usize> {
        let end = (keys.end + self.reach - 1).next_multiple_of(STEP);
        keys.start..self.seq.min(end)
    }

    /// The most queries of a chunk of keys, and keys of a chunk of queries.
    fn window(self) -> usize {
        self.seq.min(self.len + self.reach + STEP)
    }
}

/// As [`attention::forward`](super::attention::forward), by chunks of queries.
pub(super) fn forward(
    [q, k, v]: [CubeTensor; 3],
    first: CubeTensor,
    chunks: Chunks,
) -> [CubeTensor; 2] {
    let sizes = Sizes::of(&q, &k);
    let Sizes { batch, heads, kv_heads, seq, width } = sizes;
    let group = sizes.group();
    let (q, k) = (of_heads(q, sizes), of_heads(k, sizes.of_keys()));
    let (v, first) = (of_places(v, sizes.of_keys()), into_contiguous(first));
    let y = empty(&q, [batch * kv_heads, seq * group, width], q.dtype);
    let lse = empty(&q, [batch, heads, seq], DType::F32);
    let scratch = Scratch::new(&q, sizes, chunks.len.min(seq) * chunks.window());
    for queries in chunks.ranges() {
        let keys = chunks.keys(&queries);
        let [k, v] = [&k, &v].map(|matrices| rows(matrices, keys.clone()));
        let [q, y] = [&q, &y].map(|x| rows(x, queries.start * group..queries.end * group));
        let scores = scratch.chunk(queries, keys);
        product_to(q, transposed(k), scores.values.clone());
        scores.weigh(&first, &lse, false);
        product_to(scores.weights, v, y);
    }
    [to_places(y, sizes), lse]
}

/// As [`attention_backward::backward`](super::attention_backward::backward), by chunks of keys.
pub(super) fn backward(
    [q, k, v]: [CubeTensor; 3],
    [y, lse]: [CubeTensor; 2],
    dy: CubeTensor,
    first: CubeTensor,
    chunks: Chunks,
) -> [CubeTensor; 3] {
    let (sizes, dtype) = (Sizes::of(&q, &k), q.dtype);
    let Sizes { batch, kv_heads, seq, width, .. } = sizes;
    let (group, matrices) = (sizes.group(), batch * kv_heads);
    let [y, dy] = [y, dy].map(|tensor| into_contiguous(swap_heads(tensor)));
    let products = products(y, dy.clone(), sizes);
    let (q, dy) = (of_heads(q, sizes), of_places(swap_heads(dy), sizes));
    let (k, v) = (of_heads(k, sizes.of_keys()), of_places(v, sizes.of_keys()));
    let first = into_contiguous(first);
    let dq = empty(&q, [matrices, seq * group, width], DType::F32);
    let [dk, dv] = [&k, &v].map(empty_like);
    let scratch = Scratch::new(&q, sizes, chunks.len.min(seq).max(width) * chunks.window());
    let mut done = 0; // rows of dq that hold something
    for keys in chunks.ranges() {
        let queries = chunks.queries(&keys);
        let of_queries = queries.start * group..queries.end * group;
        let [q, dy] = [&q, &dy].map(|matrices| rows(matrices, of_queries.clone()));
        let [k, v, dk, dv] = [&k, &v, &dk, &dv].map(|matrices| rows(matrices, keys.clone()));
        let scores = scratch.chunk(queries, keys);
        product_to(q.clone(), transposed(k.clone()), scores.values.clone());
        scores.weigh(&first, &lse, true);
        product_to(transposed(scores.weights.clone()), dy.clone(), dv);
        product_to(dy, transposed(v), scores.values.clone());
        scores.differentiate(&products);
        product_to(transposed(scores.weights.clone()), q, dk);
        let part = scratch.free([matrices, of_queries.len(), width]);
        add_rows(product_to(scores.weights, k, part), &dq, of_queries.start, done);
        done = of_queries.end;
    }
    let dk = reshape(dk, Shape::from([batch, kv_heads, seq, width]));
    [split_groups(dq, sizes, dtype), dk, to_places(dv, sizes.of_keys())]
}

/// `x` `[batch, heads, seq, width]`, with memory in that order, as matrices `[batch * kv_heads, seq * group, width]`.
fn of_heads(x: CubeTensor, sizes: Sizes) -> CubeTensor {
    let Sizes { batch, kv_heads, seq, width, .. } = sizes;
    let split = Shape::from([batch, kv_heads, sizes.group(), seq, width]);
    to_matrices(permute(reshape(into_contiguous(x), split), &[0, 1, 3, 2, 4]), sizes)
}

/// `x` `[batch, heads, seq, width]`, with memory `[batch, seq, heads, width]`, as matrices.
fn of_places(x: CubeTensor, sizes: Sizes) -> CubeTensor {
    let Sizes { batch, kv_heads, seq, width, .. } = sizes;
    let split = Shape::from([batch, seq, kv_heads, sizes.group(), width]);
    let x = reshape(into_contiguous(swap_heads(x)), split);
    to_matrices(permute(x, &[0, 2, 1, 3, 4]), sizes)
}

/// `x` `[batch, kv_heads, seq, group, width]` as matrices.
fn to_matrices(x: CubeTensor, sizes: Sizes) -> CubeTensor {
    let Sizes { batch, kv_heads, seq, width, .. } = sizes;
    reshape(into_contiguous(x), Shape::from([batch * kv_heads, seq * sizes.group(), width]))
}

/// The inverse of [`of_places`].
fn to_places(matrices: CubeTensor, sizes: Sizes) -> CubeTensor {
    let Sizes { batch, heads, kv_heads, seq, width } = sizes;
    let split = Shape::from([batch, kv_heads, seq, sizes.group(), width]);
    let x = into_contiguous(permute(reshape(matrices, split), &[0, 2, 1, 3, 4]));
    swap_heads(reshape(x, Shape::from([batch, seq, heads, width])))
}

/// Rows of all matrices, which stay where they are.
fn rows(matrices: &CubeTensor, rows: Range<usize>) -> CubeTensor {
    let mut part = matrices.clone();
    let start = rows.start * part.meta.strides()[1] * part.dtype.size();
    part.handle = part.handle.offset_start(start as u64);
    part.meta.shape_mut()[1] = rows.len();
    part
}

fn transposed(matrices: CubeTensor) -> CubeTensor {
    permute(matrices, &[0, 2, 1])
}

#[cfg(test)]
pub(in crate::model::ops) use forced::in_chunks;

/// Forces attention by products, for tests on devices without tensor cores.
#[cfg(test)]
mod forced {
    use std::cell::Cell;

    thread_local! {
        static CHUNK: Cell<Option<usize>> = const { Cell::new(None) };
        static USES: Cell<usize> = const { Cell::new(0) };
    }

    /// Runs `work` with attention by products in chunks of `chunk`, as far as it is called on this thread; returns how
    /// often it was.
    pub(in crate::model::ops) fn in_chunks(chunk: usize, work: impl FnOnce()) -> usize {
        CHUNK.set(Some(chunk));
        USES.set(0);
        work();
        CHUNK.set(None);
        USES.get()
    }

    pub(super) fn chunk() -> Option<usize> {
        USES.set(USES.get() + 1);
        CHUNK.get()
    }
}
