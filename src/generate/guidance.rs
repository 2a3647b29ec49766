//! Classifier-free guidance: the logits of several branches of a row, mixed into one vector.
//!
//! Two-way guidance compares the row with an image that has no prompt (begin-of-text, begin-image),
//! which a model learns by having prompts dropped in training. The three-way form of the original
//! release (`chameleon/inference/chameleon.py`, options `cfg`) adds a branch with the images of the
//! row only, so that text and images of a prompt have separate strengths. All branches of all
//! requests run in one batch; each counts its positions from 0.

use super::modality::ModalityRules;

/// A view of a row: what a model sees of the prompt while it draws an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Branch {
    /// The row as it is.
    Full,
    /// The row without its text: begin-of-text and image blocks.
    Images,
    /// Begin-of-text and the current image block; with sizes in image blocks the block alone, as in
    /// Lumina-mGPT (`lumina_mgpt/inference_solver.py`).
    Nothing,
}

impl Branch {
    /// The ids of this branch before the image block that begins at `block_start` of `row` (the
    /// position of its begin-image id). From there on all branches are the row itself.
    pub fn head(self, row: &[u32], block_start: usize, rules: &ModalityRules) -> Vec<u32> {
        let before = &row[..block_start];
        match self {
            Self::Full => before.to_vec(),
            Self::Images => {
                before.iter().copied().filter(|&id| rules.is_image_or_bos(id)).collect()
            }
            Self::Nothing if rules.blocks().are_sized() => Vec::new(),
            Self::Nothing => vec![rules.bos()],
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

    /// SHIM
    pub fn at(&self, _done: usize, _total: usize) -> Self {
        *self
    }
    /// SHIM
    pub fn is_needed(&self, _done: usize, _total: usize) -> bool {
        *self != Self::Off
    }

    /// The branches to run, in the order of the logits that [`mix`](Self::mix) takes.
    pub fn branches(&self) -> &'static [Branch] {
        match self {
            Self::Off => &[Branch::Full],
            Self::TwoWay { .. } => &[Branch::Full, Branch::Nothing],
            Self::ThreeWay { .. } => &[Branch::Full, Branch::Images, Branch::Nothing],
        }
    }

    /// Mixes the logits of all branches, before any processing, into the first vector.
    ///
    /// # Shapes
    /// `logits`: `[branches][vocab]`.
    ///
    /// # Panics
    /// If there are not as many vectors as [`branches`](Self::branches), or their lengths differ.
    pub fn mix(&self, logits: &mut [Vec<f32>]) {
        assert_eq!(logits.len(), self.branches().len(), "one vector of logits per branch");
        assert!(logits.iter().all(|l| l.len() == logits[0].len()), "branches differ in length");
        let (full, others) = logits.split_first_mut().expect("there is always a full branch");
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
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_of_one_are_off_and_zero_ignores_the_prompt() {
        assert_eq!(Guidance::new(1.0, None), Guidance::Off);
        assert_eq!(Guidance::new(1.0, Some(1.0)), Guidance::Off);
        let mut logits = [vec![1.0, 2.0], vec![5.0, -7.0]];
        Guidance::new(0.0, None).mix(&mut logits);
        assert_eq!(logits[0], [5.0, -7.0]);
    }

    #[test]
    fn two_way_guidance_moves_away_from_the_image_without_a_prompt() {
        let mut logits = [vec![1.0, 2.0], vec![0.5, 3.0]];
        Guidance::new(3.0, None).mix(&mut logits);
        assert_eq!(logits[0], [2.0, 0.0]);
    }

    #[test]
    fn three_way_guidance_without_images_in_the_prompt_is_two_way() {
        let (full, nothing) = (vec![1.0, 2.0], vec![0.5, 3.0]);
        let mut three = [full.clone(), nothing.clone(), nothing.clone()];
        let mut two = [full, nothing];
        Guidance::new(3.0, Some(1.2)).mix(&mut three);
        Guidance::new(3.0, None).mix(&mut two);
        assert_eq!(three[0], two[0]);
    }
}
