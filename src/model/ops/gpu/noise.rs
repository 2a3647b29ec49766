//! Gumbel noise that is hashed from a key and an id, as `crate::generate` has it on the host.

use cubecl::prelude::*;

/// 64 bits in two words, as not every device has larger ones.
#[derive(CubeType, Clone)]
pub(super) struct Wide {
    pub(super) high: u32,
    pub(super) low: u32,
}

/// The product with `high` and `low`, modulo 2^64.
#[cube]
fn times(x: &Wide, #[comptime] high: u32, #[comptime] low: u32) -> Wide {
    let (factor_high, factor_low) = (high.runtime(), low.runtime());
    let carried = u32::mul_hi(x.low, factor_low);
    Wide { high: carried + x.low * factor_high + x.high * factor_low, low: x.low * factor_low }
}

/// `x ^ (x >> by)`; `by` is below 32.
#[cube]
fn folded(x: &Wide, #[comptime] by: u32) -> Wide {
    let carried = x.high << comptime!(32 - by);
    Wide { high: x.high ^ (x.high >> by), low: x.low ^ ((x.low >> by) | carried) }
}

/// The noise of `id`, in f32, which is as precise near one end as near the other.
#[cube]
pub(super) fn gumbel(key: &Wide, id: u32) -> f32 {
    let step = times(&Wide { high: 0u32, low: id }, 0x9e37_79b9u32, 0x7f4a_7c15u32);
    let low = key.low + step.low;
    let mut high = key.high + step.high;
    if low < key.low {
        high += 1u32;
    }
    let mixed = times(&folded(&Wide { high, low }, 30u32), 0xbf58_476du32, 0x1ce4_e5b9u32);
    let mixed = times(&folded(&mixed, 27u32), 0x94d0_49bbu32, 0x1331_11ebu32);
    let mixed = folded(&mixed, 31u32);
    // An odd multiple of 2^-53, and its distance to 1, which is exact.
    let above = mixed.high >> 11u32;
    let below = (mixed.low >> 11u32) | (mixed.high << 21u32) | 1u32;
    let uniform = fraction(above, below);
    let distance = fraction(above ^ 0x1f_ffffu32, (below ^ 0xffff_ffffu32) + 1u32);
    let mut exponential = -f32::ln(uniform);
    if distance < 0.25f32 {
        let mut series = 0.0f32;
        for back in 0..11u32 {
            series = series * distance + 1.0f32 / f32::cast_from(11u32 - back);
        }
        exponential = series * distance;
    }
    -f32::ln(exponential)
}

/// `(2^32 above + below) 2^-53`.
#[cube]
fn fraction(above: u32, below: u32) -> f32 {
    f32::cast_from(above) * f32::new(1.0 / 2_097_152.0)
        + f32::cast_from(below) * f32::new(1.0 / 9_007_199_254_740_992.0)
}
