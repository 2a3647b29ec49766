//! Operations with gradients.

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::{
    Kernels, NORMS, compare, forced, host, integers, norm_and_rope, normal, sides, weight_sizes,
};
use crate::model::{Rope, mask, ops};

/// Compares attention of `batch` rows of `seq` tokens, of one document or of `documents`.
fn compare_attention(
    [heads, kv_heads, width]: [usize; 3],
    [batch, seq]: [usize; 2],
    documents: Option<&[u32]>,
) {
    let name = format!("attention of {heads}/{kv_heads} heads of {width}, {batch} x {seq}");
    let sizes = [heads, kv_heads, kv_heads].map(|heads| batch * heads * seq * width);
    compare(&name, &sizes, |inputs| {
        let device = inputs[0].device();
        let mask = match documents {
            Some(documents) => mask::packed(documents, batch, &device),
            None => mask::causal(seq, &device),
        };
        // As in the model: the values of the heads are interleaved in memory, queries and keys are not.
        let of =
            |place: usize, heads: usize| inputs[place].clone().reshape([batch, heads, seq, width]);
        let v = inputs[2].clone().reshape([batch, seq, kv_heads, width]).swap_dims(1, 2);
        ops::attention(of(0, heads) * 0.4, of(1, kv_heads), v, &mask)
    });
}

#[test]
fn a_linear_layer_with_factors_equals_the_composed_one() {
    for [rows, inputs, outputs, rank] in [[1, 3, 5, 1], [7, 33, 20, 2], [70, 64, 130, 16]] {
        let name = format!("{rows} x {inputs} to {outputs} by rank {rank}");
        let sizes = [rows * inputs, rank * inputs, outputs * rank, outputs * inputs];
        compare(&name, &sizes, |input| {
            let [x, a, b, weight] = [0, 1, 2, 3].map(|place| input[place].clone());
            let factors = [a.reshape([rank, inputs]), b.reshape([outputs, rank])];
            let weight = weight.reshape([outputs, inputs]);
            // The weight has no gradient here, so it gets one of its own.
            ops::low_rank_linear(x.reshape([1, rows, inputs]), weight.clone(), factors, 0.5)
                + (weight.sum() * 0.1).reshape([1, 1, 1])
        });
    }
}

#[test]
fn merged_heads_equal_the_composed_ones() {
    for [batch, heads, seq, width] in [[1, 1, 1, 3], [2, 4, 7, 8]] {
        compare("heads", &[batch * heads * seq * width], |input| {
            ops::merge_heads(input[0].clone().reshape([batch, heads, seq, width]))
        });
    }
}

#[test]
fn attention_equals_the_composed_one() {
    for heads in [[2, 2, 16], [4, 2, 32], [4, 1, 8]] {
        for seq in [1, 3, 5, 64, 77, 130] {
            compare_attention(heads, [2, seq], None);
        }
        for seq in [6, 150] {
            let documents: Vec<u32> = (0..2 * seq as u32).map(|i| i * i / 700).collect();
            compare_attention(heads, [2, seq], Some(&documents));
        }
    }
    compare_attention([2, 1, 128], [1, 70], None);
    compare_attention([1, 1, 6], [1, 40], None);
}

#[test]
fn attention_by_products_equals_the_composed_one() {
    let on_gpus = sides().iter().filter(|side| side.kernels != Kernels::Cpu).count();
    let compare = |heads, seq: usize, documents: Option<&[u32]>| {
        let work = || compare_attention(heads, [2, seq], documents);
        // Forward and backward, twice.
        assert_eq!(ops::in_chunks(32, work), 4 * on_gpus);
    };
    for (heads, seqs) in
        [([2, 2, 32], [1, 33, 97]), ([4, 2, 64], [32, 64, 130]), ([4, 1, 128], [31, 70, 96])]
    {
        for seq in seqs {
            let documents: Vec<u32> = (0..2 * seq as u32).map(|i| i * i / 700).collect();
            compare(heads, seq, Some(&documents));
        }
        compare(heads, seqs[2], None);
    }
    // Every second document is a single token.
    let documents: Vec<u32> = (0..130).map(|i| i * 2 / 3).collect();
    compare([2, 1, 32], 65, Some(&documents));
}

#[test]
fn attention_gradients_equal_finite_differences() {
    let device = Device::flex().autodiff();
    let mask = mask::packed(&[0, 0, 0, 0, 1, 1, 1], 1, &device);
    let shapes = [[1, 2, 7, 4], [1, 1, 7, 4], [1, 1, 7, 4]];
    let tensor = |values: Vec<f32>, shape: [usize; 4]| {
        Tensor::<4>::from_data(TensorData::new(values, shape), &device)
    };
    let random = |shape: [usize; 4]| tensor(normal(shape.iter().product()), shape);
    let leaves = shapes.map(|shape| random(shape).require_grad());
    let weights = random([1, 2, 7, 4]);
    let loss = |[q, k, v]: [Tensor<4>; 3]| {
        let run = || ops::attention(q, k, v, &mask);
        (forced::on(Kernels::Cpu, run).0 * weights.clone()).sum()
    };
    let gradients = loss(leaves.clone()).backward();
    for place in 0..3 {
        let gradient = host(&leaves[place].grad(&gradients).unwrap());
        for (element, want) in gradient.iter().enumerate() {
            let shifted = |step: f32| {
                let mut data = host(&leaves[place]);
                data[element] += step;
                let mut moved = leaves.clone();
                moved[place] = tensor(data, shapes[place]);
                loss(moved).into_scalar::<f32>()
            };
            let got = (shifted(1e-2) - shifted(-1e-2)) / 2e-2;
            assert!((got - want).abs() < 5e-3, "input {place}, element {element}: {got} {want}");
        }
    }
}

#[test]
fn linear_equals_the_composed_one() {
    for (rows, inputs, outputs) in
        [(1, 5, 3), (2, 40, 700), (16, 130, 200), (17, 8, 9), (90, 64, 48)]
    {
        let sizes = [rows * inputs, outputs * inputs];
        compare(&format!("linear {rows} x {inputs} x {outputs}"), &sizes, |leaves| {
            let x = leaves[0].clone().reshape([rows, inputs]) / (inputs as f64).sqrt();
            ops::linear(x, leaves[1].clone().reshape([outputs, inputs]))
        });
    }
}

#[test]
fn linear_layers_of_groups_equal_the_composed_ones() {
    for (inputs, outputs, counts) in
        [(5, 3, vec![1]), (40, 70, vec![0, 2, 0, 30, 16, 0]), (64, 48, vec![17, 1, 90])]
    {
        let rows = counts.iter().sum::<usize>();
        let sizes = [rows * inputs, counts.len() * outputs * inputs];
        compare(&format!("groups {counts:?} x {inputs} x {outputs}"), &sizes, |leaves| {
            let x = leaves[0].clone().reshape([rows, inputs]) / (inputs as f64).sqrt();
            let weights = leaves[1].clone().reshape([counts.len(), outputs, inputs]);
            ops::grouped_linear(x, weights, &counts)
        });
    }
}

#[test]
fn swiglu_of_halves_equals_the_composed_one() {
    for (rows, inner) in [(1, 3), (40, 20), (150, 400)] {
        compare(&format!("halves {rows} x {inner}"), &[rows * 2 * inner], |leaves| {
            ops::swiglu_halves(leaves[0].clone().reshape([rows, 2 * inner]) * 2.0)
        });
    }
}

#[test]
fn rows_to_experts_and_back_equal_the_composed_ones() {
    for (tokens, chosen, width, step) in [(1, 1, 3, 1), (5, 3, 7, 2), (90, 2, 33, 7)] {
        let rows = tokens * chosen;
        let places: Vec<i32> = (0..rows).map(|at| (at * step % rows) as i32).collect();
        let name = format!("{tokens} x {chosen} rows of {width}");
        compare(&format!("dispatch of {name}"), &[tokens * width], |leaves| {
            ops::dispatch(leaves[0].clone().reshape([tokens, width]) * 0.5, &places)
        });
        compare(&format!("sums of {name}"), &[rows * width, rows], |leaves| {
            let weights = leaves[1].clone().reshape([tokens, chosen]);
            ops::combine(leaves[0].clone().reshape([rows, width]) * 0.5, weights, &places)
        });
    }
}

#[test]
fn rms_norm_equals_the_composed_one() {
    for (rows, hidden) in [(1, 7), (5, 64), (150, 48), (3, 600)] {
        let sizes = [2 * rows * hidden, hidden];
        compare(&format!("RMSNorm {rows} x {hidden}"), &sizes, |leaves| {
            let x = leaves[0].clone().reshape([2, rows, hidden]);
            ops::rms_norm(x, leaves[1].clone(), 1e-5)
        });
    }
}

#[test]
fn head_norm_with_rotation_equals_the_composed_one() {
    let sizes = [(1, 1, 4), (9, 3, 6), (70, 4, 64), (130, 2, 40), (5, 2, 128), (33, 3, 12)];
    for (norm, (seq, heads, width)) in
        NORMS.into_iter().flat_map(|norm| sizes.map(|size| (norm, size)))
    {
        let mut sizes = weight_sizes(norm, heads, width);
        sizes.insert(0, 2 * seq * heads * width);
        compare(&format!("{norm:?} of heads, {seq} x {heads} x {width}"), &sizes, |leaves| {
            let x = leaves[0].clone().reshape([2, seq, heads, width]);
            let rope = rope_of(&x);
            let with = norm_and_rope(norm, &leaves[1..], [heads, width], &rope, 0.125);
            ops::head_norm_rope(x, with)
        });
    }
}

/// The second of two asks for the result of the first, which is not kept.
#[test]
fn a_norm_of_heads_with_frozen_weights_is_computed_again() {
    let [seq, heads, width] = [9, 3, 12];
    for norm in NORMS {
        compare(&format!("frozen {norm:?}"), &[2 * seq * heads * width], |leaves| {
            let x = leaves[0].clone().reshape([2, seq, heads, width]);
            let rope = rope_of(&x);
            let weights = weight_sizes(norm, heads, width).into_iter().map(|size| {
                let ramp = Tensor::<1, Int>::arange(0..size as i64, &x.device());
                ramp.float().cast(x.dtype()) / size as f64 + 0.3
            });
            let weights: Vec<_> = weights.collect();
            (0..2).fold(x, |x, _| {
                let with = norm_and_rope(norm, &weights, [heads, width], &rope, 1.5);
                ops::head_norm_rope(x, with).swap_dims(1, 2)
            })
        });
    }
}

/// For tokens of `x` `[batch, seq, heads, head_dim]` that follow each other.
fn rope_of(x: &Tensor<4>) -> Rope {
    let [batch, seq, _, head_dim] = x.dims();
    let positions = Tensor::<1, Int>::arange(3..3 + (batch * seq) as i64, &x.device());
    Rope::new(positions.reshape([batch, seq]), head_dim, 10_000.0, x.dtype())
}

#[test]
fn rows_equal_the_composed_ones() {
    for (rows, width, len) in [(1, 3, 1), (5, 7, 40), (300, 140, 90)] {
        let numbers: Vec<i32> = (0..len).map(|at| at * at % 11 % rows).collect();
        let (rows, dims) = (rows as usize, [rows as usize, width]);
        compare(&format!("{len} of {rows} rows of {width}"), &[rows * width], |leaves| {
            let (matrix, device) = (leaves[0].clone().reshape(dims), leaves[0].device());
            ops::rows(matrix * 0.1, integers(&numbers, &device), leaves[0].dtype())
        });
    }
}

#[test]
fn swiglu_equals_the_composed_one() {
    for (seq, inner) in [(1, 3), (40, 20), (150, 400)] {
        let sizes = [2 * seq * inner; 2];
        compare(&format!("SwiGLU {seq} x {inner}"), &sizes, |leaves| {
            let [gate, up] =
                [0, 1].map(|place: usize| leaves[place].clone().reshape([2, seq, inner]));
            ops::swiglu(gate * 4.0, up)
        });
    }
}
