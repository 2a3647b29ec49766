//! Noise on embeddings (NEFTune, arXiv 2310.05914).

use burn::tensor::{Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::batch::NextTokenBatch;
use crate::model::CausalLm;

/// Noise for the embeddings of the texts of `batch`, uniform within `alpha / sqrt(length width)` for a document of that
/// length; none for images.
///
/// # Shapes
/// Returns `[rows, seq, hidden]` on the device of `model`.
pub(super) fn noise(batch: &NextTokenBatch, model: &CausalLm, alpha: f64, seed: u64) -> Tensor<3> {
    let (packed, width) = (&batch.packed, model.model.embed_tokens.weight.dims()[1]);
    let values = values(batch, width, alpha, seed);
    let shape = [packed.rows, packed.seq_len, width];
    Tensor::from_data(TensorData::new(values, shape), &model.device())
}

fn values(batch: &NextTokenBatch, width: usize, alpha: f64, seed: u64) -> Vec<f32> {
    let packed = &batch.packed;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut values = Vec::with_capacity(packed.ids.len() * width);
    let rows =
        packed.document_ids.chunks(packed.seq_len).zip(batch.is_image.chunks(packed.seq_len));
    for (documents, is_image) in rows {
        for (document, is_image) in documents.iter().zip(is_image) {
            let len = documents.iter().filter(|other| *other == document).count();
            let bound = (alpha / ((len * width) as f64).sqrt()) as f32;
            let bound = if *is_image { 0.0 } else { bound };
            values.extend((0..width).map(|_| bound * rng.random_range(-1.0_f32..1.0)));
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::pack::{Document, PackedBatch};
    use crate::tokenize::TokenSequence;

    #[test]
    fn texts_have_noise_by_the_length_of_their_document_and_images_none() {
        let document = |len: usize| {
            Document::from(TokenSequence { ids: vec![5; len], loss_mask: vec![true; len] })
        };
        let (short, long) = (document(4), document(16));
        let packed = PackedBatch::of_rows(&[vec![&short, &long]], 24, 0);
        let mut is_image = vec![false; 24];
        is_image[6] = true;
        let batch = NextTokenBatch { packed, is_image };
        let (width, alpha) = (100, 5.0);
        let found = values(&batch, width, alpha, 3);
        assert_eq!(found, values(&batch, width, alpha, 3), "the seed decides");
        assert_ne!(found, values(&batch, width, alpha, 4));
        let greatest = |from: usize, to: usize| {
            found[from * width..to * width].iter().fold(0.0_f32, |max, v| max.max(v.abs()))
        };
        // 5 / sqrt(4 * 100) and 5 / sqrt(16 * 100).
        for (greatest, bound) in [(greatest(0, 4), 0.25), (greatest(7, 20), 0.125)] {
            assert!(greatest <= bound && greatest > 0.9 * bound, "{greatest} {bound}");
        }
        assert_eq!(greatest(6, 7), 0.0);
    }
}
