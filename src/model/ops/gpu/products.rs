//! Which of Burn's kernels computes a large product: the fastest of a few, measured once for a class of shapes.
//!
//! Burn's own tuning tries hundreds of kernels. Here are those without tensor maps, as the driver refuses some of these,
//! and every one must give the numbers of Burn's default kernel before it counts.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use burn::backend::TensorMetadata;
use burn::tensor::{DType, Tensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::future::block_on;
use cubek::matmul::multi_level::Strategy as MultiLevel;
use cubek::matmul::strategy::Strategy;

use kernels::gpu::{empty_like, multiply};

/// Multiplications of the smallest product that is measured: some 20 us on a large GPU.
const LARGE: usize = 1 << 32;

/// Uses of a class of shapes after which it is measured, so that a first result does not wait.
const USES: usize = 3;

/// Runs of a kernel, of which the fastest counts.
const RUNS: usize = 3;

/// A kernel of Burn's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kernel {
    Default,
    SimpleMma,
    DoubleCmma,
    DoubleMma,
    OrderedMma,
    DoubleUnit,
}

impl Kernel {
    /// Those that are tried.
    const OTHERS: [Self; 5] =
        [Self::SimpleMma, Self::DoubleCmma, Self::DoubleMma, Self::OrderedMma, Self::DoubleUnit];

    fn strategy(self) -> Strategy {
        Strategy::MultiLevel(match self {
            Self::Default => return Strategy::default(),
            Self::SimpleMma => MultiLevel::SimpleCyclicMma(Default::default()),
            Self::DoubleCmma => MultiLevel::DoubleCyclicCmma(Default::default()),
            Self::DoubleMma => MultiLevel::DoubleCyclicMma(Default::default()),
            Self::OrderedMma => MultiLevel::OrderedDoubleMma(Default::default()),
            Self::DoubleUnit => MultiLevel::DoubleUnit(Default::default()),
        })
    }
}

/// Products for which the same kernel is the fastest, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Class {
    /// Rows, inner size and columns, each the next power of two.
    sizes: [usize; 3],
    /// Of each operand, whether its rows lie one after the other, and how far what lies side by side is aligned.
    layouts: [(bool, usize); 2],
    formats: [DType; 2],
}

/// How often a class has been used, or the kernel that was chosen.
#[derive(Clone, Copy, Debug)]
enum Known {
    Uses(usize),
    Kernel(Kernel),
}

static KNOWN: LazyLock<Mutex<HashMap<Class, Known>>> = LazyLock::new(Mutex::default);

/// Whether kernels are measured.
static TUNES: LazyLock<bool> = LazyLock::new(|| setting("CALUMMA_TUNE", false));

/// Whether products in f32 may be computed in TF32, which NVIDIA's tensor cores are fast in.
static TF32: LazyLock<bool> = LazyLock::new(|| setting("CALUMMA_TF32", true));

/// The variable `name`, `on` or `off`, or `usual` without one.
fn setting(name: &str, usual: bool) -> bool {
    match std::env::var(name).as_deref() {
        Ok("on") => true,
        Ok("off") => false,
        Ok("") | Err(_) => usual,
        Ok(other) => {
            let used = if usual { "on" } else { "off" };
            say(&format!("{name} is {other:?} and counts as {used}; allowed: on, off"));
            usual
        }
    }
}

/// Writes `lhs rhs` to `to`.
pub(super) fn launch(lhs: &CubeTensor, rhs: &CubeTensor, to: &CubeTensor) {
    let chosen = match lhs.dtype {
        DType::F32 if !*TF32 => Kernel::DoubleUnit,
        _ if *TUNES => known(lhs, rhs, to),
        _ => Kernel::Default,
    };
    // What fits one product may not fit another.
    if chosen == Kernel::Default || run(chosen, lhs, rhs, to).is_err() {
        run(Kernel::Default, lhs, rhs, to).expect("Burn multiplies any two matrices of floats");
    }
}

/// The kernel for these operands: the default one until they have been used a few times.
fn known(lhs: &CubeTensor, rhs: &CubeTensor, to: &CubeTensor) -> Kernel {
    let [rows, inner] = lhs.shape().dims();
    let [_, columns] = rhs.shape().dims();
    if rows * inner * columns < LARGE {
        return Kernel::Default;
    }
    let layout = |matrix: &CubeTensor| {
        let [row, column] = [0, 1].map(|axis| matrix.meta.strides()[axis]);
        (column == 1, 1 << row.max(column).trailing_zeros().min(4))
    };
    let class = Class {
        sizes: [rows, inner, columns].map(usize::next_power_of_two),
        layouts: [layout(lhs), layout(rhs)],
        formats: [lhs.dtype, to.dtype],
    };
    let mut all = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = all.entry(class).or_insert(Known::Uses(0));
    let kernel = match *known {
        Known::Kernel(kernel) => return kernel,
        Known::Uses(uses) if uses + 1 < USES => {
            *known = Known::Uses(uses + 1);
            return Kernel::Default;
        }
        Known::Uses(_) => fastest(&Kernel::OTHERS, lhs, rhs, to),
    };
    *known = Known::Kernel(kernel);
    kernel
}

/// The fastest of the default kernel and `others`. Those that cannot run, or that give other numbers, are named on
/// stderr and left out.
fn fastest(others: &[Kernel], lhs: &CubeTensor, rhs: &CubeTensor, like: &CubeTensor) -> Kernel {
    let expected = empty_like(like);
    let mut best = match measured(Kernel::Default, lhs, rhs, &expected) {
        Ok(time) => (time, Kernel::Default),
        Err(_) => return Kernel::Default, // it will fail again where the failure is reported
    };
    for &kernel in others {
        let found = empty_like(like);
        // Some kernels panic where they cannot be set up.
        let measured = catch_unwind(AssertUnwindSafe(|| measured(kernel, lhs, rhs, &found)));
        match measured.unwrap_or_else(|_| Err("it cannot be set up".to_owned())) {
            Ok(time) if time >= best.0 => {}
            Ok(time) => match difference(&found, &expected) {
                difference if difference < tolerance(like.dtype) => best = (time, kernel),
                difference => warn(kernel, &format!("its numbers are off by {difference:.1e}")),
            },
            Err(reason) => warn(kernel, &reason),
        }
    }
    best.1
}

fn warn(kernel: Kernel, reason: &str) {
    let reason = reason.lines().next().unwrap_or_default();
    say(&format!("matrix products: kernel {kernel:?} is left out: {reason}"));
}

#[expect(clippy::print_stderr, reason = "nothing else tells that a kernel is left out")]
fn say(text: &str) {
    eprintln!("{text}");
}

/// The time of the fastest run of `kernel`, without its first, which compiles it.
fn measured(
    kernel: Kernel,
    lhs: &CubeTensor,
    rhs: &CubeTensor,
    to: &CubeTensor,
) -> Result<Duration, String> {
    let once = || {
        let begun = Instant::now();
        run(kernel, lhs, rhs, to)?;
        let written = to.client.sync_buffers([&to.handle]);
        block_on(written).map_err(|error| error.to_string())?;
        Ok::<_, String>(begun.elapsed())
    };
    once()?;
    let mut best = Duration::MAX;
    for _ in 0..RUNS {
        best = best.min(once()?);
    }
    Ok(best)
}

/// The largest difference, relative to the largest number of `expected`.
fn difference(found: &CubeTensor, expected: &CubeTensor) -> f32 {
    let tensor =
        |of: &CubeTensor| Tensor::<2>::from_primitive::<CubeBackend>(of.clone()).cast(DType::F32);
    let (found, expected) = (tensor(found), tensor(expected));
    let top = expected.clone().abs().max().into_scalar::<f32>();
    let largest = (found - expected).abs().max().into_scalar::<f32>();
    if top > 0.0 { largest / top } else { largest }
}

/// How far sums in another order, and TF32 instead of f32, may be off.
fn tolerance(dtype: DType) -> f32 {
    if dtype == DType::F32 { 2e-3 } else { 2e-2 }
}

fn run(kernel: Kernel, lhs: &CubeTensor, rhs: &CubeTensor, to: &CubeTensor) -> Result<(), String> {
    multiply(&kernel.strategy(), lhs, rhs, to)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Distribution, TensorData};
    use vq_tokenizer::init;

    use super::*;
    use crate::model::ops::forced;

    /// Runs on Vulkan, in builds with the feature `wgpu`.
    #[test]
    fn kernels_agree_on_a_product_whichever_is_the_fastest() {
        let Some((_, device)) = forced::gpu() else { return };
        let on_gpu = |tensor: Tensor<2>| {
            tensor.try_into_primitive::<CubeBackend>().expect("it is on the GPU")
        };
        let random =
            |shape: [usize; 2]| init::random(shape, Distribution::Normal(0.0, 1.0), &device);
        let (lhs, rhs) = (random([65, 70]), random([70, 129]));
        let [lhs, rhs, to] = [lhs.clone(), rhs.clone(), lhs.matmul(rhs)].map(on_gpu);
        for kernel in [Kernel::Default, Kernel::DoubleUnit] {
            let found = empty_like(&to);
            assert!(measured(kernel, &lhs, &rhs, &found).is_ok(), "{kernel:?}");
            assert!(difference(&found, &to) < 1e-5, "{kernel:?}");
        }
        let chosen = fastest(&Kernel::OTHERS, &lhs, &rhs, &to);
        let found = empty_like(&to);
        run(chosen, &lhs, &rhs, &found).expect("it ran before");
        assert!(difference(&found, &to) < 1e-5, "{chosen:?}");
    }

    #[test]
    fn wrong_numbers_are_seen() {
        let Some((_, device)) = forced::gpu() else { return };
        let tensor = |values: [f32; 4]| {
            let tensor = Tensor::<2>::from_data(TensorData::new(values.to_vec(), [2, 2]), &device);
            tensor.try_into_primitive::<CubeBackend>().expect("it is on the GPU")
        };
        let expected = tensor([1.0, -4.0, 2.0, 0.0]);
        assert_eq!(difference(&expected, &expected), 0.0);
        let off = difference(&tensor([1.0, -4.0, 2.0, 0.1]), &expected);
        assert!((off - 0.025).abs() < 1e-6 && off > tolerance(DType::BF16), "{off}");
        let nan = difference(&tensor([1.0, f32::NAN, 2.0, 0.0]), &expected);
        assert!(nan.is_nan() || nan > 1.0, "{nan}");
    }
}
