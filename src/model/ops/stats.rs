//! Statistics of rows of logits on the host.

use burn::tensor::Tensor;

use kernels::TokenStats;

/// The statistics in `stats` `[len, 4]`, which waits for the device.
pub(crate) fn fetch_stats(stats: Tensor<2>) -> Vec<TokenStats> {
    let values: Vec<f32> = stats.into_data().iter().collect();
    let (rows, _) = values.as_chunks::<4>();
    let row = |&[log_prob, log_sum_exp, entropy, is_top]: &[f32; 4]| TokenStats {
        log_prob,
        log_sum_exp,
        entropy,
        is_top: is_top > 0.5,
    };
    rows.iter().map(row).collect()
}
