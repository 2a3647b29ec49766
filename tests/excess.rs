//! How far numbers are off.

/// The largest ratio of `|a - b|` to `absolute + relative * |b|`; up to 1 is within tolerance. A difference that is no
/// number, as of a NaN or of two infinities, is infinitely large.
pub fn excess(a: &[f32], b: &[f32], absolute: f32, relative: f32) -> f32 {
    assert_eq!(a.len(), b.len());
    let ratio = |(a, b): (&f32, &f32)| (a - b).abs() / (absolute + relative * b.abs());
    let numbers = a.iter().zip(b).map(ratio);
    numbers.map(|x| if x.is_nan() { f32::INFINITY } else { x }).fold(0.0, f32::max)
}

#[test]
fn what_is_no_number_is_beyond_every_tolerance() {
    assert_eq!(excess(&[1.0, 3.0], &[1.0, 2.0], 0.25, 0.125), 2.0);
    for (a, b) in [(f32::NAN, 1.0), (1.0, f32::NAN), (f32::NAN, f32::NAN), (f32::INFINITY, 1.0)] {
        assert_eq!(excess(&[1.0, a, 1.0], &[1.0, b, 1.0], 1.0, 1.0), f32::INFINITY, "{a} {b}");
    }
}
