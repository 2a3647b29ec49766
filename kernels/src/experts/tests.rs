//! Rows against loops over tokens and their assignments.

use super::*;
use crate::noise::noise;

/// A permutation of `len` rows.
fn shuffled(len: usize) -> Vec<i32> {
    let mut places: Vec<i32> = (0..len as i32).collect();
    let keys = noise(len, 9);
    places.sort_by(|a, b| keys[*a as usize].total_cmp(&keys[*b as usize]));
    places
}

#[test]
fn rows_of_tokens_go_to_their_places_and_sums_come_back() {
    for (tokens, chosen, width) in [(1, 1, 1), (5, 3, 7), (40, 1, 33), (75, 2, 64)] {
        let of = shuffled(tokens * chosen);
        let places = Places { of: &of, chosen, width };
        let (x, dy) = (noise(tokens * width, 1), noise(tokens * width, 2));
        let (rows, weights) = (noise(of.len() * width, 3), noise(of.len(), 4));
        let (sent, sum) = (dispatch(places, &x), combine(places, &rows, Some(&weights)));
        let plain = combine(places, &rows, None);
        let mut d_rows = rows.clone();
        let dw = combine_backward(places, &mut d_rows, &weights, &dy);
        for (token, column) in (0..tokens).flat_map(|t| (0..width).map(move |c| (t, c))) {
            let (mut want, mut want_plain) = (0.0, 0.0);
            for assignment in token * chosen..(token + 1) * chosen {
                let at = of[assignment] as usize * width + column;
                want += rows[at] * weights[assignment];
                want_plain += rows[at];
                assert_eq!(sent[at], x[token * width + column]);
                assert_eq!(d_rows[at], dy[token * width + column] * weights[assignment]);
            }
            assert_eq!(sum[token * width + column], want, "added in the order of assignments");
            assert_eq!(plain[token * width + column], want_plain);
        }
        for (assignment, dw) in dw.iter().enumerate() {
            let row = &rows[of[assignment] as usize * width..][..width];
            let dy = &dy[assignment / chosen * width..][..width];
            let want: f64 = row.iter().zip(dy).map(|(r, d)| f64::from(*r) * f64::from(*d)).sum();
            assert!((f64::from(*dw) - want).abs() < 1e-5, "{dw} {want}");
        }
    }
}
