//! The optimizers against their formulas, in f64.

use std::collections::BTreeMap;

use burn::tensor::TensorData;
use calumma::train::{Optimizer, OptimizerConfig, OptimizerKind};

use crate::common::cpu;
use crate::train::{named, tiny_gradients, tiny_model};

#[test]
fn adamw_follows_its_formula_and_clips_the_global_norm() {
    let device = cpu().autodiff();
    let config = OptimizerConfig {
        lr: 0.1,
        betas: [0.9, 0.95],
        eps: 1e-5,
        weight_decay: 0.2,
        grad_clip: 0.5,
        ..OptimizerConfig::default()
    };
    let mut model = tiny_model(&device);
    let mut optimizer = Optimizer::new(config.clone());
    let mut reference: BTreeMap<String, [Vec<f64>; 3]> = tensor_files::collect(&model)
        .into_iter()
        .map(|(path, data)| {
            let weight: Vec<f64> = data.iter::<f32>().map(f64::from).collect();
            let zeros = vec![0.0; weight.len()];
            (path, [weight, zeros.clone(), zeros])
        })
        .collect();
    for step in 1..=3 {
        let want = named(&model, tiny_gradients(&model));
        let squares = |d: &TensorData| d.iter::<f32>().map(|g| f64::from(g).powi(2)).sum::<f64>();
        let want_norm = want.values().map(squares).sum::<f64>().sqrt();
        let grads = tiny_gradients(&model);
        let norm;
        (model, norm) = optimizer.step(model, grads, config.lr).unwrap();
        assert!((norm - want_norm).abs() < 1e-4 * want_norm && norm > config.grad_clip);
        for (path, gradient) in &want {
            let [weight, first, second] = reference.get_mut(path).unwrap();
            let decayed = !path.contains("norm") && !path.contains("embed");
            let decay = if decayed { config.weight_decay } else { 0.0 };
            for (i, g) in gradient.iter::<f32>().enumerate() {
                let g = f64::from(g) * config.grad_clip / want_norm;
                first[i] = 0.9 * first[i] + 0.1 * g;
                second[i] = 0.95 * second[i] + 0.05 * g * g;
                let m = first[i] / (1.0 - 0.9_f64.powi(step));
                let v = second[i] / (1.0 - 0.95_f64.powi(step));
                weight[i] -= config.lr * (decay * weight[i] + m / (v.sqrt() + config.eps));
            }
        }
        for (path, data) in tensor_files::collect(&model) {
            for (got, want) in data.iter::<f32>().zip(&reference[&path][0]) {
                assert!((f64::from(got) - want).abs() < 2e-4, "{path}: {got} {want}");
            }
        }
    }
    assert_eq!(optimizer.steps_taken(), 3);
}

/// Five Newton-Schulz steps towards the nearest orthogonal matrix, in f64; `x` is `[rows, columns]`.
fn orthogonalised(x: &[f64], [rows, columns]: [usize; 2]) -> Vec<f64> {
    let norm = x.iter().map(|v| v * v).sum::<f64>().sqrt();
    let mut x: Vec<f64> = x.iter().map(|v| v / norm).collect();
    let product = |a: &[f64], b: &dyn Fn(usize, usize) -> f64, inner: usize, width: usize| {
        let one = |i: usize| (0..inner).map(|k| a[i / width * inner + k] * b(k, i % width)).sum();
        (0..a.len() / inner * width).map(one).collect::<Vec<f64>>()
    };
    for _ in 0..5 {
        let gram = product(&x, &|k, j| x[j * columns + k], columns, rows);
        let square = product(&gram, &|k, j| gram[k * rows + j], rows, rows);
        let mixed: Vec<f64> =
            gram.iter().zip(&square).map(|(a, b)| -4.775 * a + 2.0315 * b).collect();
        let pushed = product(&mixed, &|k, j| x[k * columns + j], rows, columns);
        x = x.iter().zip(&pushed).map(|(x, y)| 3.4445 * x + y).collect();
    }
    x
}

#[test]
fn muon_orthogonalises_the_hidden_matrices_and_leaves_the_rest_to_adamw() {
    let device = cpu().autodiff();
    let config = OptimizerConfig { lr: 0.01, weight_decay: 0.2, ..OptimizerConfig::default() };
    let muon = OptimizerConfig { kind: OptimizerKind::Muon, ..config.clone() };
    let mut model = tiny_model(&device);
    let shapes: BTreeMap<String, Vec<usize>> = tensor_files::collect(&model)
        .iter()
        .map(|(path, d)| (path.clone(), d.shape().to_vec()))
        .collect();
    let mut optimizer = Optimizer::new(muon);
    let mut momenta: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for _ in 0..2 {
        let before = tensor_files::collect(&model);
        let grads = || tiny_gradients(&model);
        let gradient = named(&model, grads());
        let (plain, _) = Optimizer::new(config.clone()).step(model.clone(), grads(), 0.01).unwrap();
        let (stepped, norm) = optimizer.step(model.clone(), grads(), 0.01).unwrap();
        let (after, plain) = (tensor_files::collect(&stepped), tensor_files::collect(&plain));
        for (path, data) in &after {
            let values = |data: &TensorData| data.iter::<f32>().map(f64::from).collect::<Vec<_>>();
            let hidden = path.contains("layers.") && path.ends_with("proj.weight");
            if !hidden {
                if optimizer.steps_taken() == 1 {
                    assert_eq!(values(data), values(&plain[path]), "{path}");
                }
                continue;
            }
            let clip = (config.grad_clip / norm).min(1.0);
            let gradient = values(&gradient[path]).into_iter().map(|g| g * clip);
            let momentum = momenta.entry(path.clone()).or_insert(vec![0.0; data.num_elements()]);
            momentum.iter_mut().zip(gradient.clone()).for_each(|(m, g)| *m = *m * 0.95 + g);
            let ahead: Vec<f64> =
                momentum.iter().zip(gradient).map(|(m, g)| m * 0.95 + g).collect();
            let [rows, columns] = shapes[path][..] else { panic!("{path} is no matrix") };
            let size = 0.2 * (rows.max(columns) as f64).sqrt();
            let update = orthogonalised(&ahead, [rows, columns]);
            let weights = values(&before[path]).into_iter().zip(update);
            for (got, (weight, update)) in values(data).into_iter().zip(weights) {
                let want = weight * (1.0 - 0.01 * config.weight_decay) - 0.01 * size * update;
                assert!((got - want).abs() < 2e-5, "{path}: {got} {want}");
            }
        }
        model = stepped;
    }
    assert!(!momenta.is_empty());
}
