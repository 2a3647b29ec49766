//! Attention over a paged cache.

use burn::tensor::{DType, Device, Distribution, Tensor, TensorData};

use kernels::rope::Norm;
use vq_tokenizer::init;

use super::{
    Kernels, NORMS, Side, error, forced, host, integers, norm_and_rope, sides, weight_sizes,
};
use crate::model::ops::{Lanes, NormAndRope, paged_attention};
use crate::model::{BLOCK, Lane, Rope};

/// Blocks, tokens before the pass and rows of each lane.
type LanesOf<'a> = [(&'a [u32], usize, usize)];

/// Queries, keys and values of the new tokens of `lanes`, and a cache with keys and values of their earlier tokens
/// and NaN everywhere else.
fn paged_inputs(
    [heads, kv_heads, head_dim]: [usize; 3],
    lanes: &LanesOf<'_>,
    blocks: usize,
    device: &Device,
) -> ([Tensor<4>; 3], [Tensor<4>; 2]) {
    let normal = |shape: [usize; 4]| init::random(shape, Distribution::Normal(0.0, 1.0), device);
    let rows = lanes.iter().map(|(_, _, rows)| rows).sum();
    let qkv = [heads, kv_heads, kv_heads].map(|heads| normal([1, rows, heads, head_dim]));
    let mut cache = [[blocks, kv_heads, head_dim, BLOCK], [blocks, kv_heads, BLOCK, head_dim]]
        .map(|shape| Tensor::<4>::full(shape, f32::NAN, device));
    for (table, start, _) in lanes {
        for (place, &block) in table.iter().enumerate() {
            let tokens = start.saturating_sub(place * BLOCK).min(BLOCK);
            if tokens > 0 {
                let block = block as usize;
                let [keys, values] = cache;
                let keys = keys.slice_assign(
                    [block..block + 1, 0..kv_heads, 0..head_dim, 0..tokens],
                    normal([1, kv_heads, head_dim, tokens]),
                );
                let values = values.slice_assign(
                    [block..block + 1, 0..kv_heads, 0..tokens, 0..head_dim],
                    normal([1, kv_heads, tokens, head_dim]),
                );
                cache = [keys, values];
            }
        }
    }
    (qkv, cache)
}

/// Norms of queries and keys with weights of their own.
fn norms(norm: Norm, [q, k, _]: &[Tensor<4>; 3], positions: &[i32]) -> [NormAndRope; 2] {
    let positions = integers(positions, &q.device()).reshape([1, positions.len()]);
    [(q, 0.125), (k, 1.0)].map(|(x, scale)| {
        let [_, _, heads, head_dim] = x.dims();
        let rope = Rope::new(positions.clone(), head_dim, 10_000.0, x.dtype());
        let ramp = |(size, from): (usize, f32)| {
            let values = (0..size).map(|at| from + at as f32 * 0.01).collect();
            let values = TensorData::new::<f32, _>(values, [size]);
            Tensor::<1>::from_data(values, (&q.device(), x.dtype()))
        };
        let sizes = weight_sizes(norm, heads, head_dim).into_iter();
        let weights: Vec<_> = sizes.zip([0.5, -0.3]).map(ramp).collect();
        norm_and_rope(norm, &weights, [heads, head_dim], &rope, scale)
    })
}

#[test]
fn paged_attention_equals_the_composed_one_and_reads_nothing_unused() {
    let cases: [&LanesOf<'_>; 6] = [
        &[(&[3], 0, 1)],
        &[(&[3, 0, 5], 130, 1), (&[4, 2], 70, 1), (&[1], 0, 1)],
        &[(&[3, 0, 5], 128, 7), (&[4, 2], 60, 9), (&[1], 3, 7)],
        &[(&[6, 0, 5, 7], 64, 130), (&[2, 4, 3], 0, 130)],
        &[(&[0, 1], 64, 2), (&[0, 2], 64, 64), (&[0, 3, 4], 64, 65)],
        &[(&[7, 3, 1], 1, 128)],
    ];
    for heads in [[2, 2, 16], [4, 2, 6], [6, 1, 40], [2, 1, 128]] {
        for case in cases {
            compare(Norm::Layer, heads, case);
        }
    }
    for norm in NORMS {
        for heads in [[4, 2, 12], [6, 2, 64]] {
            compare(norm, heads, cases[1]);
            compare(norm, heads, cases[2]);
        }
    }
}

/// Compares every side with the composed operations on the CPU.
fn compare(norm: Norm, heads: [usize; 3], case: &LanesOf<'_>) {
    let device = Device::flex();
    let lane = |&(blocks, start, rows)| Lane { blocks, start, rows };
    let lanes: Vec<Lane<'_>> = case.iter().map(lane).collect();
    let positions = case.iter().flat_map(|(_, start, rows)| *start..start + rows);
    let positions: Vec<i32> = positions.map(|position| position as i32).collect();
    let (qkv, cache) = paged_inputs(heads, case, 8, &device);
    for side in sides() {
        let run = |side: &Side, dtype| {
            let lanes = Lanes::new(&lanes);
            let on = |x: Tensor<4>| -> Tensor<4> {
                let rounded: Tensor<4> = x.cast(dtype);
                Tensor::<4>::to_device(rounded, &side.device).cast(side.dtype)
            };
            let (qkv, cache) = (qkv.clone().map(on), cache.clone().map(on));
            let norms = norms(norm, &qkv, &positions);
            let work = || paged_attention(qkv, norms, cache, &lanes);
            let ((y, cache), runs) = forced::on(side.kernels, work);
            assert_eq!(runs["paged_attention"], 1);
            (host(&y), cache.map(|buffer| host(&buffer)))
        };
        let (kernels, device) = (Kernels::Composed, device.clone());
        let reference = Side { kernels, device, dtype: DType::F32, tolerance: 0.0 };
        let (got, of_kernels) = run(&side, side.dtype);
        let (want, of_composed) = run(&reference, side.dtype);
        let name = format!("{norm:?} {heads:?} {case:?} on {:?} in {:?}", side.kernels, side.dtype);
        assert!(error(&got, &want) < side.tolerance, "{name}");
        for (got, want) in of_kernels.iter().zip(&of_composed) {
            // Most of both is NaN.
            let near = |(a, b): (&f32, &f32)| {
                (a - b).abs() < 4.0 * side.tolerance || a.is_nan() && b.is_nan()
            };
            assert!(got.len() == want.len() && got.iter().zip(want).all(near), "{name}");
        }
    }
}
