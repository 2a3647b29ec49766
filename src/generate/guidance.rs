//! Classifier-free guidance: several views of one row, mixed into one vector of logits.
//!
//! Two-way guidance compares the row with the bare start of an image (begin-of-text,
//! begin-image), for which training drops prompts. The three-way form of the original release
//! (`chameleon/inference/chameleon.py`, options `cfg`) adds a view with the row's images only,
//! so that text and images of a prompt can be weighed apart. All views of all requests run in
//! one batch; each counts its positions from 0.

use super::modality::ModalityRules;

/// One view of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Branch {
    /// The row as it is.
    Full,
    /// The row without its text: begin-of-text, image ids and their brackets.
    Images,
    /// Begin-of-text and the image block at hand; of images that say their size the block alone, as
    /// in Lumina-mGPT (`lumina_mgpt/inference_solver.py`).
    Nothing,
}

impl Branch {
    /// What this branch sees of a row before the image block that begins at `block_start` (the
    /// place of its begin-image id). From there on all branches see the row itself.
    pub fn head(self, row: &[u32], block_start: usize, rules: &ModalityRules) -> Vec<u32> {
        let before = &row[..block_start];
        match self {
            Self::Full => before.to_vec(),
            Self::Images => before.iter().copied().filter(|&id| rules.is_pictorial(id)).collect(),
            Self::Nothing if rules.blocks().are_sized() => Vec::new(),
            Self::Nothing => vec![rules.bos()],
        }
    }
}

/// The form and strength of guidance in image blocks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Guidance {
    /// The row alone.
    Off,
    /// `nothing + scale (full - nothing)`.
    TwoWay {
        /// Strength; 1 would be the row alone, 0 the image without a prompt.
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
    /// Guidance of strength `scale`, three-way if `image_scale` is given; scales of 1 are off.
    pub fn new(scale: f32, image_scale: Option<f32>) -> Self {
        match image_scale {
            None if scale == 1.0 => Self::Off,
            None => Self::TwoWay { scale },
            Some(image) if scale == 1.0 && image == 1.0 => Self::Off,
            Some(image) => Self::ThreeWay { text: scale, image },
        }
    }

    /// The views to run, in the order that [`mix`](Self::mix) takes their logits.
    pub fn branches(&self) -> &'static [Branch] {
        match self {
            Self::Off => &[Branch::Full],
            Self::TwoWay { .. } => &[Branch::Full, Branch::Nothing],
            Self::ThreeWay { .. } => &[Branch::Full, Branch::Images, Branch::Nothing],
        }
    }

    /// Mixes raw logits, one vector per branch, into the first of them.
    ///
    /// # Panics
    /// When there are not as many vectors as [`branches`](Self::branches), or of unequal length.
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
    fn scales_of_one_are_off_and_zero_is_the_bare_image() {
        assert_eq!(Guidance::new(1.0, None), Guidance::Off);
        assert_eq!(Guidance::new(1.0, Some(1.0)), Guidance::Off);
        let mut logits = [vec![1.0, 2.0], vec![5.0, -7.0]];
        Guidance::new(0.0, None).mix(&mut logits);
        assert_eq!(logits[0], [5.0, -7.0]);
    }

    #[test]
    fn two_way_guidance_moves_away_from_the_bare_image() {
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
