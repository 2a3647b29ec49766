//! Latents and codebooks as rows in host memory.

use burn::tensor::{Tensor, TensorData};

use crate::model::VqModel;

/// The latents of all positions, one vector each.
///
/// # Shapes
/// - latents: `[batch, embed, h, w]`
/// - result: `batch * h * w` vectors of `embed`
pub(super) fn vectors(latents: Tensor<4>) -> Vec<Vec<f32>> {
    let [_, embed, _, _] = latents.dims();
    let values: Vec<f32> = latents.permute([0, 2, 3, 1]).into_data().iter::<f32>().collect();
    values.chunks_exact(embed).map(<[f32]>::to_vec).collect()
}

/// `model` with its codebook edited by `edit`, which gets the rows, flattened, and their length.
///
/// The parameter keeps its id, so that the optimizer's state of the other rows stays valid. A model without
/// a codebook is unchanged.
pub(super) fn edit_codebook(mut model: VqModel, edit: impl FnOnce(&mut [f32], usize)) -> VqModel {
    let Some(codebook) = model.quantize.codebook_mut() else { return model };
    codebook.weight = codebook.weight.clone().map(|old| {
        let [rows, embed] = old.dims();
        let device = old.device();
        let tracked = old.is_require_grad();
        let mut table: Vec<f32> = old.into_data().iter::<f32>().collect();
        edit(&mut table, embed);
        let new = Tensor::from_data(TensorData::new(table, [rows, embed]), &device);
        if tracked { new.require_grad() } else { new }
    });
    model
}
