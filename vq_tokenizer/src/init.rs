//! Initial weights: drawn on the host, so that a seed gives the same weights on every device, and by one
//! generator per weight, so that they depend neither on the order of first use nor on what else draws.

use std::cell::RefCell;

use burn::module::{Param, ParamId};
use burn::tensor::{Device, Tensor, TensorData};
use rand::distr::{Distribution, Uniform};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::Normal;

thread_local! {
    static SEEDS: RefCell<ChaCha8Rng> = RefCell::new(ChaCha8Rng::seed_from_u64(0));
}

/// Seeds what this thread draws from now on, the weights of layers above all; 0 until the first call.
pub fn seed(seed: u64) {
    SEEDS.replace(ChaCha8Rng::seed_from_u64(seed));
}

/// A weight of `shape` with normal entries of mean 0 and deviation `std`, drawn at its first use.
///
/// # Panics
/// If `std` is negative or not finite.
pub fn normal<const D: usize>(std: f64, shape: [usize; D], device: &Device) -> Param<Tensor<D>> {
    drawn(Normal::new(0.0, std as f32).expect("a deviation is not negative"), shape, device)
}

/// A weight of `shape` with entries uniform in `[-bound, bound]`, drawn at its first use.
///
/// # Panics
/// If `bound` is negative or not finite.
pub fn uniform<const D: usize>(bound: f64, shape: [usize; D], device: &Device) -> Param<Tensor<D>> {
    let bound = bound as f32;
    drawn(Uniform::new_inclusive(-bound, bound).expect("a finite range"), shape, device)
}

/// A tensor of `shape` with entries of `distribution`, drawn now and without gradients: data of tests and checks.
///
/// Burn's `Tensor::random` draws from one generator of the process, whose numbers depend on what other threads draw.
pub fn random<const D: usize>(
    shape: [usize; D],
    distribution: burn::tensor::Distribution,
    device: &Device,
) -> Tensor<D> {
    let seed = SEEDS.with_borrow_mut(|seeds| seeds.next_u64());
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    Tensor::from_data(TensorData::random::<f32, _, _>(shape, distribution, &mut rng), device)
}

fn drawn<const D: usize>(
    distribution: impl Distribution<f32> + Send + Sync + 'static,
    shape: [usize; D],
    device: &Device,
) -> Param<Tensor<D>> {
    let seed = SEEDS.with_borrow_mut(|seeds| seeds.next_u64());
    let draw = move |device: &Device, require_grad: bool| {
        let rng = ChaCha8Rng::seed_from_u64(seed);
        let values = distribution.sample_iter(rng).take(shape.iter().product()).collect();
        let tensor = Tensor::from_data(TensorData::new::<f32, _>(values, shape), device);
        tensor.set_require_grad(require_grad)
    };
    Param::uninitialized(ParamId::new(), draw, device.clone(), true, shape.into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn values<const D: usize>(weight: &Param<Tensor<D>>) -> Vec<f32> {
        weight.val().into_data().try_to_vec().unwrap()
    }

    #[test]
    fn a_seed_gives_the_same_weights_whatever_is_used_first_and_drawn_elsewhere() {
        let device = Device::flex();
        let pair = || {
            seed(5);
            (normal(0.5, [40, 50], &device), normal(0.5, [3], &device))
        };
        let (first, second) = pair();
        let (first, second) = (values(&first), values(&second));
        let (again, other) = pair();
        device.seed(1);
        assert_eq!(values(&other), second);
        assert_eq!(values(&again), first);
        assert_ne!(first[..3], second[..]);
        let elsewhere = std::thread::spawn(move || {
            seed(5);
            values(&normal(0.5, [40, 50], &Device::flex()))
        });
        assert_eq!(elsewhere.join().unwrap(), first);
        seed(6);
        assert_ne!(values(&normal(0.5, [40, 50], &device)), first);
    }

    #[test]
    fn a_seed_gives_the_same_data_whatever_is_drawn_elsewhere() {
        let device = Device::flex().autodiff();
        let draw = || {
            seed(5);
            let spread = burn::tensor::Distribution::Uniform(2.0, 3.0);
            [(); 2].map(|()| random::<2>([4, 5], spread, &device))
        };
        let [first, second] = draw();
        assert!(!first.is_require_grad());
        let values = |x: &Tensor<2>| -> Vec<f32> { x.to_data().iter().collect() };
        assert!(values(&first).iter().all(|x| (2.0..3.0).contains(x)));
        assert_ne!(values(&first), values(&second));
        device.seed(1);
        assert_eq!(draw().map(|x| values(&x)), [values(&first), values(&second)]);
    }

    #[test]
    fn weights_have_the_mean_and_deviation_asked_for() {
        let device = Device::flex();
        let moments = |values: &[f32]| {
            let mean = values.iter().sum::<f32>() / values.len() as f32;
            let square = values.iter().map(|x| (x - mean).powi(2)).sum::<f32>();
            (mean, (square / values.len() as f32).sqrt())
        };
        let (mean, deviation) = moments(&values(&normal(0.5, [200, 200], &device)));
        assert!(mean.abs() < 0.01 && (deviation - 0.5).abs() < 0.01, "{mean} {deviation}");
        let drawn = values(&uniform(0.3, [200, 200], &device));
        let (mean, deviation) = moments(&drawn);
        let wanted = 0.3 / 3f32.sqrt();
        assert!(mean.abs() < 0.01 && (deviation - wanted).abs() < 0.01, "{mean} {deviation}");
        assert!(drawn.iter().all(|x| x.abs() <= 0.3));
    }

    #[test]
    fn weights_require_gradients_where_there_are_any() {
        let device = Device::flex();
        assert!(!normal(1.0, [2], &device).val().is_require_grad());
        assert!(normal(1.0, [2], &device.autodiff()).val().is_require_grad());
    }
}
