//! Classifier-free guidance: the logits of several branches of a row, mixed into one vector.
//!
//! Two-way guidance compares the row with an image that has no prompt (begin-of-text, begin-image),
//! which a model learns by having prompts dropped in training. The three-way form of the original
//! release (`chameleon/inference/chameleon.py`, options `cfg`) adds a branch with the images of the
//! row only, so that text and images of a prompt have separate strengths. Each branch is a lane
//! with positions of its own, from 0.

use std::fmt::{Display, Formatter};
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::elementary::{exp, ln, sin};
use super::modality::ModalityRules;
use crate::error::{Error, Result};

/// A view of a row: what a model sees of the prompt while it draws an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Branch {
    /// The row as it is.
    Full,
    /// The row without its text: begin-of-text and image blocks.
    Images,
    /// What the request's negative prompt says, else begin-of-text, and the current image block; in Lumina-mGPT's layout
    /// the block alone (`lumina_mgpt/inference_solver.py`) unless there is a negative prompt.
    Nothing,
}

impl Branch {
    /// The ids of this branch before the image block that begins at `block_start` of `row` (the
    /// position of its begin-image id); `negative` are those of a negative prompt, or none. From there on all branches
    /// are the row itself.
    pub fn head(
        self,
        row: &[u32],
        block_start: usize,
        rules: &ModalityRules,
        negative: &[u32],
    ) -> Vec<u32> {
        let before = &row[..block_start];
        match self {
            Self::Full => before.to_vec(),
            Self::Images => {
                let mut in_block = false;
                let kept = |id: &u32| {
                    in_block |= Some(*id) == rules.begin_image();
                    let kept = in_block || Some(*id) == rules.bos();
                    in_block &= Some(*id) != rules.end_image();
                    kept
                };
                before.iter().copied().filter(kept).collect()
            }
            Self::Nothing if !negative.is_empty() => negative.to_vec(),
            Self::Nothing if rules.blocks().are_sized_by_model() => Vec::new(),
            Self::Nothing => Vec::from_iter(rules.bos()),
        }
    }
}

/// The kind and strength of guidance in image blocks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Guidance {
    /// None: the logits of the row itself.
    Off,
    /// `nothing + scale (full - nothing)`.
    TwoWay {
        /// Strength; 1 is the row itself, 0 the image without a prompt.
        scale: f32,
    },
    /// `nothing + image (images - nothing) + text (full - images)`.
    ThreeWay {
        /// Strength of the prompt's text (the original release: 3).
        text: f32,
        /// Strength of the prompt's images (the original release: 1.2).
        image: f32,
    },
}

impl Guidance {
    /// Guidance of strength `scale`, three-way if `image_scale` is given; off if all scales are 1.
    pub fn new(scale: f32, image_scale: Option<f32>) -> Self {
        match image_scale {
            None if scale == 1.0 => Self::Off,
            None => Self::TwoWay { scale },
            Some(image) if scale == 1.0 && image == 1.0 => Self::Off,
            Some(image) => Self::ThreeWay { text: scale, image },
        }
    }

    /// The branches to run, in the order of the logits that [`mix`](Self::mix) takes.
    pub fn branches(&self) -> &'static [Branch] {
        match self {
            Self::Off => &[Branch::Full],
            Self::TwoWay { .. } => &[Branch::Full, Branch::Nothing],
            Self::ThreeWay { .. } => &[Branch::Full, Branch::Images, Branch::Nothing],
        }
    }

    /// Mixes the logits of the other branches into those of the full one, before any processing. When off, `others`
    /// are not looked at. Log-probabilities, which transformers mixes, are the logits less one number for each branch:
    /// what is drawn is the same.
    ///
    /// # Shapes
    /// `full`: `[columns]`; `others`: `[branches - 1][columns]`, in the order of [`branches`](Self::branches).
    ///
    /// # Panics
    /// If there are not as many vectors as branches, or their lengths differ.
    pub fn mix(&self, full: &mut [f32], others: &[&[f32]]) {
        if *self == Self::Off {
            return;
        }
        assert_eq!(1 + others.len(), self.branches().len(), "one vector of logits per branch");
        assert!(others.iter().all(|l| l.len() == full.len()), "branches differ in length");
        match (*self, others) {
            (Self::TwoWay { scale }, [nothing]) => {
                for (full, &nothing) in full.iter_mut().zip(nothing.iter()) {
                    *full = nothing + scale * (*full - nothing);
                }
            }
            (Self::ThreeWay { text, image }, [images, nothing]) => {
                let others = images.iter().zip(nothing.iter());
                for (full, (&images, &nothing)) in full.iter_mut().zip(others) {
                    *full = nothing + image * (images - nothing) + text * (*full - images);
                }
            }
            _ => unreachable!("the number of branches was checked"),
        }
    }
}

/// How the strength of guidance grows over the codes of an image, from 1 to the whole strength.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum GuidanceRamp {
    /// The whole strength from the first code on.
    #[default]
    Constant,
    /// In proportion to the share of codes that are done.
    Linear,
    /// `(1 - cos(pi x^power)) / 2` of it, `x` being the share of codes that are done: a higher power starts later
    /// (RAR, arXiv 2411.00776: powers of 1.2 to 2.75).
    Cosine {
        /// Above 0.
        power: f32,
    },
}

impl GuidanceRamp {
    /// The part of the strength beyond 1, from 0 to 1, when a share of `done` of the codes are done.
    fn part(self, done: f64) -> f64 {
        match self {
            Self::Constant => 1.0,
            Self::Linear => done,
            Self::Cosine { .. } if done <= 0.0 => 0.0,
            Self::Cosine { power } => {
                // Far below any effect, and in the range of `exp`.
                let exponent = (f64::from(power) * ln(done)).max(-100.0);
                let root = sin(std::f64::consts::FRAC_PI_2 * exp(exponent));
                root * root
            }
        }
    }
}

impl Display for GuidanceRamp {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Constant => f.write_str("constant"),
            Self::Linear => f.write_str("linear"),
            Self::Cosine { power } => write!(f, "cosine:{power}"),
        }
    }
}

impl FromStr for GuidanceRamp {
    type Err = Error;

    /// Reads `constant`, `linear`, `cosine` (of power 1) or `cosine:POWER`.
    fn from_str(text: &str) -> Result<Self> {
        let power = |power: &str| power.parse().ok().filter(|p: &f32| p.is_finite() && *p > 0.0);
        let ramp = match text.split_once(':') {
            None if text == "constant" => Some(Self::Constant),
            None if text == "linear" => Some(Self::Linear),
            None if text == "cosine" => Some(Self::Cosine { power: 1.0 }),
            Some(("cosine", given)) => power(given).map(|power| Self::Cosine { power }),
            _ => None,
        };
        ramp.ok_or_else(|| {
            Error::invalid(format!(
                "guidance_ramp is {text:?}; allowed: constant, linear, cosine, or cosine:POWER with a power above 0"
            ))
        })
    }
}

impl TryFrom<String> for GuidanceRamp {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<GuidanceRamp> for String {
    fn from(ramp: GuidanceRamp) -> Self {
        ramp.to_string()
    }
}

/// The guidance of each code of an image.
///
/// It depends on the code's place alone, so that it is the same however many codes a pass computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GuidanceSchedule {
    /// At whole strength.
    pub full: Guidance,
    /// The share of the codes at which guidance begins, and that at which it ends; outside it is off.
    pub interval: [f32; 2],
    /// How the strength grows over all codes, those before the interval included.
    pub ramp: GuidanceRamp,
}

impl From<Guidance> for GuidanceSchedule {
    /// The same guidance for all codes.
    fn from(full: Guidance) -> Self {
        Self { full, interval: [0.0, 1.0], ramp: GuidanceRamp::Constant }
    }
}

impl GuidanceSchedule {
    /// The guidance of a code of an image of `total` codes, `done` of which come before it.
    pub fn at(&self, done: usize, total: usize) -> Guidance {
        if !self.interval_of(total).contains(&done) {
            return Guidance::Off;
        }
        let part = match self.ramp {
            GuidanceRamp::Constant => return self.full,
            ramp => ramp.part(done as f64 / total as f64),
        };
        let scaled = |scale: f32| (1.0 + (f64::from(scale) - 1.0) * part) as f32;
        match self.full {
            Guidance::Off => Guidance::Off,
            Guidance::TwoWay { scale } => Guidance::new(scaled(scale), None),
            Guidance::ThreeWay { text, image } => Guidance::new(scaled(text), Some(scaled(image))),
        }
    }

    /// The codes, of `total`, that need the branches of guidance: the branches may be computed from its start on,
    /// and freed at its end. Empty if guidance is off.
    pub fn needed(&self, total: usize) -> Range<usize> {
        let interval = self.interval_of(total);
        let first = interval.clone().find(|&done| self.at(done, total) != Guidance::Off);
        first.map_or(0..0, |first| first..interval.end)
    }

    /// The guidance of an image after `row`. Without images in it, the branch with its images only has the ids of the
    /// one without the prompt, unless image blocks carry their size: then two branches are enough, and one at a text
    /// scale of 1. A negative prompt changes nothing of that.
    #[must_use]
    pub fn after(self, row: &[u32], rules: &ModalityRules) -> Self {
        let head = |branch: Branch| branch.head(row, row.len(), rules, &[]);
        match self.full {
            Guidance::ThreeWay { text, .. } if head(Branch::Images) == head(Branch::Nothing) => {
                Self { full: Guidance::new(text, None), ..self }
            }
            _ => self,
        }
    }

    /// The branches to run while guidance is on.
    pub fn branches(&self) -> &'static [Branch] {
        self.full.branches()
    }

    /// The interval in whole codes.
    fn interval_of(&self, total: usize) -> Range<usize> {
        let [from, to] = self.interval.map(|share| (f64::from(share) * total as f64).round());
        from as usize..to as usize
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn scales_of_one_are_off_and_zero_ignores_the_prompt() {
        assert_eq!(Guidance::new(1.0, None), Guidance::Off);
        assert_eq!(Guidance::new(1.0, Some(1.0)), Guidance::Off);
        let mut full = [1.0, 2.0];
        Guidance::new(0.0, None).mix(&mut full, &[&[5.0, -7.0]]);
        assert_eq!(full, [5.0, -7.0]);
        Guidance::Off.mix(&mut full, &[]);
        assert_eq!(full, [5.0, -7.0]);
    }

    #[test]
    fn two_way_guidance_moves_away_from_the_image_without_a_prompt() {
        let mut full = [1.0, 2.0];
        Guidance::new(3.0, None).mix(&mut full, &[&[0.5, 3.0]]);
        assert_eq!(full, [2.0, 0.0]);
    }

    #[test]
    fn three_way_guidance_without_images_in_the_prompt_is_two_way() {
        let (mut three, nothing) = ([1.0, 2.0], [0.5, 3.0]);
        let mut two = three;
        Guidance::new(3.0, Some(1.2)).mix(&mut three, &[&nothing, &nothing]);
        Guidance::new(3.0, None).mix(&mut two, &[&nothing]);
        assert_eq!(three, two);
    }

    fn schedule(full: Guidance, interval: [f32; 2], ramp: &str) -> GuidanceSchedule {
        GuidanceSchedule { full, interval, ramp: ramp.parse().unwrap() }
    }

    fn scales(schedule: &GuidanceSchedule, total: usize) -> Vec<f32> {
        let scale = |done| match schedule.at(done, total) {
            Guidance::Off => 1.0,
            Guidance::TwoWay { scale } => scale,
            Guidance::ThreeWay { text, .. } => text,
        };
        (0..total).map(scale).collect()
    }

    #[test]
    fn outside_the_interval_guidance_is_off_and_its_branches_are_not_needed() {
        let strong = Guidance::new(3.0, None);
        let some = schedule(strong, [0.4, 0.7], "constant");
        assert_eq!(scales(&some, 10), [1.0, 1.0, 1.0, 1.0, 3.0, 3.0, 3.0, 1.0, 1.0, 1.0]);
        assert_eq!((some.at(3, 10), some.at(4, 10)), (Guidance::Off, strong));
        assert_eq!(some.needed(10), 4..7);
        let all = GuidanceSchedule::from(strong);
        assert_eq!(all.needed(64), 0..64);
        assert_eq!(GuidanceSchedule::from(Guidance::Off).needed(64), 0..0);
        let three = schedule(Guidance::new(1.0, Some(2.0)), [0.0, 0.5], "constant");
        assert_eq!((three.at(1, 4), three.at(2, 4)), (three.full, Guidance::Off));
    }

    #[test]
    fn ramps_rise_from_one_and_follow_their_formula() {
        let linear = schedule(Guidance::new(5.0, None), [0.0, 1.0], "linear");
        assert_eq!(scales(&linear, 4), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(linear.needed(4), 1..4);
        for power in [1.0, 1.2, 2.75] {
            let cosine =
                schedule(Guidance::new(16.0, None), [0.0, 1.0], &format!("cosine:{power}"));
            for (done, scale) in scales(&cosine, 256).into_iter().enumerate() {
                let x = (done as f64 / 256.0).powf(power);
                let expected = 1.0 + 15.0 * (1.0 - (std::f64::consts::PI * x).cos()) / 2.0;
                assert!((f64::from(scale) - expected).abs() < 1e-5, "{done}: {scale}");
            }
        }
        let extreme = schedule(Guidance::new(16.0, None), [0.0, 1.0], "cosine:1e30");
        assert_eq!(extreme.needed(256), 0..0);
    }

    #[test]
    fn a_ramp_scales_both_strengths_of_three_way_guidance() {
        let linear = schedule(Guidance::new(3.0, Some(1.5)), [0.0, 1.0], "linear");
        assert_eq!(linear.at(2, 4), Guidance::ThreeWay { text: 2.0, image: 1.25 });
        let weak = schedule(Guidance::new(0.0, None), [0.0, 1.0], "linear");
        assert_eq!(scales(&weak, 4), [1.0, 0.75, 0.5, 0.25]);
    }

    #[test]
    fn ramps_are_read_as_they_are_written_and_others_are_named() {
        for text in ["constant", "linear", "cosine:1", "cosine:2.75"] {
            assert_eq!(text.parse::<GuidanceRamp>().unwrap().to_string(), text);
        }
        assert_eq!("cosine".parse::<GuidanceRamp>().unwrap().to_string(), "cosine:1");
        for text in ["", "cos", "linear:2", "cosine:", "cosine:0", "cosine:-1", "cosine:inf"] {
            let error = text.parse::<GuidanceRamp>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("guidance_ramp is {text:?}; allowed: ")), "{error}");
        }
    }
}
