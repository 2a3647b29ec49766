//! A codebook: vectors in a table, the nearest of them, and the table's rows by code.

use burn::module::{Initializer, Module, Param};
use burn::tensor::module::embedding;
use burn::tensor::{Device, Int, Tensor};

/// Rows compared with the codebook at once; bounds the table of scores to 4096 x codebook floats.
const ROWS_AT_ONCE: usize = 4096;

/// The table of a codebook; a module of its own because the published name is `embedding.weight`.
#[derive(Module, Debug)]
pub struct CodeTable {
    /// `[num_embeddings, embed_dim]`.
    pub weight: Param<Tensor<2>>,
}

impl CodeTable {
    /// Vectors whose entries are uniform within `bound` of 0.
    pub(super) fn uniform(size: [usize; 2], bound: f64, device: &Device) -> Self {
        let uniform = Initializer::Uniform { min: -bound, max: bound };
        Self { weight: uniform.init(size, device) }
    }
}

/// The code of the nearest row of `table` (Euclidean; the first one on ties) for every position.
///
/// `[batch, embed, h, w]` to `[batch, h, w]`. Computed as `|z|^2 + |e|^2 - 2 z e` in f32, the order of
/// the reference, so that near ties fall the same way. No gradient.
pub(super) fn nearest(latents: Tensor<4>, table: Tensor<2>) -> Tensor<3, Int> {
    let table = table.detach();
    let norms = table.clone().square().sum_dim(1).swap_dims(0, 1); // [1, codes]
    let table = table.swap_dims(0, 1); // [embed, codes]
    by_rows(latents, |z| {
        let own = z.clone().square().sum_dim(1); // [rows, 1]
        (own + norms.clone() - z.matmul(table.clone()) * 2.0).argmin(1)
    })
}

/// What `choose` gives for the vectors at all positions, in parts of bounded size: `[batch, embed, h, w]`
/// to `[batch, h, w]`, `choose` from `[rows, embed]` to `[rows, 1]`. No gradient.
pub(super) fn by_rows(
    latents: Tensor<4>,
    choose: impl Fn(Tensor<2>) -> Tensor<2, Int>,
) -> Tensor<3, Int> {
    let [batch, _, height, width] = latents.dims();
    let rows = rows_of(latents.detach());
    let codes = if rows.dims()[0] <= ROWS_AT_ONCE {
        choose(rows)
    } else {
        Tensor::cat(rows.split(ROWS_AT_ONCE, 0).into_iter().map(choose).collect(), 0)
    };
    codes.reshape([batch, height, width])
}

/// `[batch, embed, h, w]` as `[batch * h * w, embed]`.
pub(super) fn rows_of(latents: Tensor<4>) -> Tensor<2> {
    let [batch, embed, height, width] = latents.dims();
    latents.permute([0, 2, 3, 1]).reshape([batch * height * width, embed])
}

/// The inverse of [`rows_of`] for `latents` of the shape `[batch, _, h, w]`.
pub(super) fn from_rows(rows: Tensor<2>, [batch, _, height, width]: [usize; 4]) -> Tensor<4> {
    let [_, embed] = rows.dims();
    rows.reshape([batch, height, width, embed]).permute([0, 3, 1, 2])
}

/// The rows of `table` for `codes`: `[batch, h, w]` to `[batch, embed, h, w]`.
pub(super) fn lookup(table: Tensor<2>, codes: Tensor<3, Int>) -> Tensor<4> {
    let [batch, height, width] = codes.dims();
    let [_, embed] = table.dims();
    let vectors = embedding(table, codes.reshape([batch, height * width])); // [batch, positions, embed]
    vectors.swap_dims(1, 2).reshape([batch, embed, height, width])
}

/// `x` with the vectors along `axis` at length 1; a vector of zeros stays.
pub(super) fn normalised<const D: usize>(x: Tensor<D>, axis: usize) -> Tensor<D> {
    let length = x.clone().square().sum_dim(axis).sqrt().clamp_min(1e-12);
    x / length
}
