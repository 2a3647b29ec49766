//! The architecture of Inception v3 as tables of convolutions and pooling steps.

/// Convolutions with stride 2; they have no padding.
pub(super) const STRIDED: [&str; 5] = [
    "Conv2d_1a_3x3",
    "Mixed_6a.branch3x3",
    "Mixed_6a.branch3x3dbl_3",
    "Mixed_7a.branch3x3_2",
    "Mixed_7a.branch7x7x3_4",
];
/// Convolutions with stride 1 and no padding.
pub(super) const VALID: [&str; 2] = ["Conv2d_2a_3x3", "Conv2d_4a_3x3"];

/// Pooling steps, which take the place of a convolution's name.
pub(super) const AVERAGE: &str = "(average)";
pub(super) const MAXIMUM: &str = "(maximum)";
pub(super) const HALVE: &str = "(halve)";

/// The steps of a block, branch by branch; branches with a common start repeat it.
pub(super) type Branches = &'static [&'static [&'static str]];

const A: Branches = &[
    &["branch1x1"],
    &["branch5x5_1", "branch5x5_2"],
    &["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"],
    &[AVERAGE, "branch_pool"],
];
const B: Branches =
    &[&["branch3x3"], &["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"], &[HALVE]];
const C: Branches = &[
    &["branch1x1"],
    &["branch7x7_1", "branch7x7_2", "branch7x7_3"],
    &["branch7x7dbl_1", "branch7x7dbl_2", "branch7x7dbl_3", "branch7x7dbl_4", "branch7x7dbl_5"],
    &[AVERAGE, "branch_pool"],
];
const D: Branches = &[
    &["branch3x3_1", "branch3x3_2"],
    &["branch7x7x3_1", "branch7x7x3_2", "branch7x7x3_3", "branch7x7x3_4"],
    &[HALVE],
];
const E: [&[&str]; 5] = [
    &["branch1x1"],
    &["branch3x3_1", "branch3x3_2a"],
    &["branch3x3_1", "branch3x3_2b"],
    &["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3a"],
    &["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3b"],
];
const E_AVERAGE: Branches = &[E[0], E[1], E[2], E[3], E[4], &[AVERAGE, "branch_pool"]];
const E_MAXIMUM: Branches = &[E[0], E[1], E[2], E[3], E[4], &[MAXIMUM, "branch_pool"]];

/// The steps before the blocks.
pub(super) const STEM: [&str; 7] = [
    "Conv2d_1a_3x3",
    "Conv2d_2a_3x3",
    "Conv2d_2b_3x3",
    HALVE,
    "Conv2d_3b_1x1",
    "Conv2d_4a_3x3",
    HALVE,
];
/// The blocks, whose branches are concatenated.
pub(super) const BLOCKS: [(&str, Branches); 11] = [
    ("Mixed_5b", A),
    ("Mixed_5c", A),
    ("Mixed_5d", A),
    ("Mixed_6a", B),
    ("Mixed_6b", C),
    ("Mixed_6c", C),
    ("Mixed_6d", C),
    ("Mixed_6e", C),
    ("Mixed_7a", D),
    ("Mixed_7b", E_AVERAGE),
    ("Mixed_7c", E_MAXIMUM),
];

/// The names of all convolutions; shared ones are repeated.
pub(super) fn convolution_names() -> impl Iterator<Item = String> {
    let is_convolution = |step: &&str| ![AVERAGE, MAXIMUM, HALVE].contains(step);
    let stem = STEM.into_iter().filter(is_convolution).map(str::to_owned);
    let blocks = BLOCKS.into_iter().flat_map(move |(block, branches)| {
        let steps = branches.iter().copied().flatten().copied().filter(is_convolution);
        steps.map(move |name| format!("{block}.{name}"))
    });
    stem.chain(blocks)
}
