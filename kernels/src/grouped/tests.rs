//! Groups against the products of each alone.

use super::*;
use crate::noise::noise;

/// Groups of many and few rows, and of none at either end and in between.
const COUNTS: [usize; 7] = [0, 40, 1, 0, 17, 16, 0];
const SIZES: [(usize, usize); 3] = [(1, 1), (13, 7), (96, 130)];

fn groups(counts: &[usize], (inputs, outputs): (usize, usize)) -> Groups<'_> {
    Groups { counts, inputs, outputs }
}

fn near(got: &[f32], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        assert!((f64::from(*got) - want).abs() < 1e-4, "{got} {want}");
    }
}

/// The group of each row.
fn group_of() -> Vec<usize> {
    let rows = COUNTS.iter().enumerate();
    rows.flat_map(|(group, count)| vec![group; *count]).collect()
}

#[test]
fn a_row_has_the_product_of_its_group_whatever_the_other_rows_are() {
    for (inputs, outputs) in SIZES {
        let (x, w) = (noise(74 * inputs, 1), noise(7 * outputs * inputs, 2));
        let all = forward(groups(&COUNTS, (inputs, outputs)), &x, &w);
        for (row, group) in group_of().into_iter().enumerate() {
            let mut alone = [0; 7];
            alone[group] = 1;
            let alone = groups(&alone, (inputs, outputs));
            let alone = forward(alone, &x[row * inputs..][..inputs], &w);
            assert_eq!(all[row * outputs..][..outputs], alone, "row {row}");
        }
    }
}

#[test]
fn products_in_tiles_and_gradients_are_sums_over_the_rows_of_a_group() {
    for (inputs, outputs) in SIZES {
        let groups = groups(&COUNTS, (inputs, outputs));
        let (x, w) = (noise(74 * inputs, 1), noise(7 * outputs * inputs, 2));
        let dy = noise(74 * outputs, 3);
        let [mut y, mut dx, mut dw] =
            [74 * outputs, 74 * inputs, 7 * outputs * inputs].map(|len| vec![0.0; len]);
        for (row, group) in group_of().into_iter().enumerate() {
            for (output, input) in
                (0..outputs).flat_map(|output| (0..inputs).map(move |input| (output, input)))
            {
                let at = (group * outputs + output) * inputs + input;
                let [x, w, dy] =
                    [x[row * inputs + input], w[at], dy[row * outputs + output]].map(f64::from);
                y[row * outputs + output] += x * w;
                dx[row * inputs + input] += dy * w;
                dw[at] += dy * x;
            }
        }
        near(&in_tiles(groups, &x, &w), &y);
        near(&forward(groups, &x, &w), &y);
        near(&backward_x(groups, &dy, &w), &dx);
        near(&backward_w(groups, &dy, &x), &dw);
    }
}
