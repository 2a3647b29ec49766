//! A codebook's table: nearest rows, and rows by code.

use burn::module::{Module, Param};
use burn::tensor::module::embedding;
use burn::tensor::{Device, Int, Tensor};

use crate::{init, ops};

/// Latents that a thread compares with the codebook at once; bounds its matrix of scores to 512 times the codebook.
const ROWS_AT_ONCE: usize = 512;

/// The vectors of a codebook; a separate module because the published name is `embedding.weight`.
#[derive(Module, Debug)]
pub struct CodeTable {
    /// `[num_embeddings, embed_dim]`.
    pub weight: Param<Tensor<2>>,
}

impl CodeTable {
    /// A table of `[num_embeddings, embed_dim]` with entries uniform in `[-bound, bound]`.
    pub(super) fn uniform(size: [usize; 2], bound: f64, device: &Device) -> Self {
        Self { weight: init::uniform(bound, size, device) }
    }
}

/// The code of the nearest row of `table` for every position: Euclidean, the first on ties, no gradient.
///
/// Computed as `|z|^2 + |e|^2 - 2 z e` in f32, in the reference's order, so that near ties are decided alike.
///
/// # Shapes
/// - latents: `[batch, embed, h, w]`
/// - table: `[num_embeddings, embed]`
/// - result: `[batch, h, w]`
pub(super) fn nearest(latents: Tensor<4>, table: Tensor<2>) -> Tensor<3, Int> {
    let table = table.detach();
    let norms = table.clone().square().sum_dim(1).swap_dims(0, 1); // [1, codes]
    let table = table.swap_dims(0, 1); // [embed, codes]
    by_rows(latents, |z| {
        let own = z.clone().square().sum_dim(1); // [rows, 1]
        (own + norms.clone() - ops::exact_product(z, table.clone()) * 2.0).argmin(1)
    })
}

/// The codes that `choose` returns for the latents at all positions, called on chunks of bounded size, several at
/// once on the CPU; no gradient.
///
/// # Shapes
/// - latents: `[batch, embed, h, w]`
/// - choose: `[rows, embed]` to `[rows, 1]`
/// - result: `[batch, h, w]`
pub(super) fn by_rows(
    latents: Tensor<4>,
    choose: impl Fn(Tensor<2>) -> Tensor<2, Int> + Send + Sync,
) -> Tensor<3, Int> {
    let [batch, _, height, width] = latents.dims();
    let parts = rows_of(latents.detach()).split(ROWS_AT_ONCE, 0);
    let codes = Tensor::cat(ops::each(parts, choose), 0);
    codes.reshape([batch, height, width])
}

/// The latents of all positions as rows.
///
/// # Shapes
/// - latents: `[batch, embed, h, w]`
/// - result: `[batch * h * w, embed]`
pub(super) fn rows_of(latents: Tensor<4>) -> Tensor<2> {
    let [batch, embed, height, width] = latents.dims();
    latents.permute([0, 2, 3, 1]).reshape([batch * height * width, embed])
}

/// The inverse of [`rows_of`] for latents of shape `[batch, _, h, w]`.
pub(super) fn from_rows(rows: Tensor<2>, [batch, _, height, width]: [usize; 4]) -> Tensor<4> {
    let [_, embed] = rows.dims();
    rows.reshape([batch, height, width, embed]).permute([0, 3, 1, 2])
}

/// The rows of `table` for `codes`.
///
/// # Shapes
/// - table: `[num_embeddings, embed]`
/// - codes: `[batch, h, w]`
/// - result: `[batch, embed, h, w]`
pub(super) fn lookup(table: Tensor<2>, codes: Tensor<3, Int>) -> Tensor<4> {
    let [batch, height, width] = codes.dims();
    let [_, embed] = table.dims();
    let vectors = embedding(table, codes.reshape([batch, height * width])); // [batch, positions, embed]
    vectors.swap_dims(1, 2).reshape([batch, embed, height, width])
}

/// `x` with the vectors along `axis` scaled to length 1; zero vectors stay zero.
pub(super) fn normalised<const D: usize>(x: Tensor<D>, axis: usize) -> Tensor<D> {
    let length = x.clone().square().sum_dim(axis).sqrt().clamp_min(1e-12);
    x / length
}
