//! Vector instructions of the processor, chosen at run time.

use pulp::{Simd, WithSimd};

/// The result of `op`, run with AVX-512, with AVX2 and FMA, or with the instructions that pulp detects.
pub(super) fn dispatch<Op: WithSimd>(op: Op) -> Op::Output {
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(simd) = pulp::x86::V4::try_new() {
            return Simd::vectorize(simd, op);
        }
        if let Some(simd) = pulp::x86::V3::try_new() {
            return Simd::vectorize(simd, op);
        }
    }
    pulp::Arch::new().dispatch(op)
}

struct Lanes;

impl WithSimd for Lanes {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        S::F32_LANES
    }
}

/// f32 values in one register of [`dispatch`].
pub(super) fn lanes() -> usize {
    dispatch(Lanes)
}
