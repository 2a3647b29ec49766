//! The routers of sparse layers and their load-balancing loss.

use calumma::model::RouterLoss;

use crate::Case;
use crate::compare::{LOGITS, LOSS, Tolerance, all_close, close, same};
use crate::folder::Folder;
use crate::forward::routing;
use crate::values::flat;

/// Of the weights of experts.
const WEIGHTS: Tolerance = Tolerance { absolute: 1e-5, relative: 0.0 };

pub fn cases(folder: &Folder) -> Vec<Case> {
    let mut cases = Vec::new();
    for layer in 0.. {
        let expected = format!("router.{layer}.logits");
        if !folder.has(&expected) {
            break;
        }
        cases.push(Case::new(expected.clone(), move |opened| {
            let found = routing(opened).swap_remove(layer).logits.to_data();
            close(&found, &opened.folder.floats(&expected), LOGITS)
        }));
        let expected = format!("router.{layer}.experts");
        cases.push(Case::new(expected.clone(), move |opened| {
            let found = routing(opened).swap_remove(layer).experts;
            same(&found, &opened.folder.ids(&expected).concat())
        }));
        let expected = format!("router.{layer}.weights");
        cases.push(Case::new(expected.clone(), move |opened| {
            let found = routing(opened).swap_remove(layer).weights.to_data();
            close(&found, &opened.folder.floats(&expected), WEIGHTS)
        }));
    }
    if folder.has("aux_loss") {
        cases.push(Case::new("aux_loss", |opened| {
            let layers = routing(opened);
            let loss = RouterLoss::balance(&layers, None).total(&layers).into_data();
            all_close(&flat(&loss), &flat(&opened.folder.floats("aux_loss")), LOSS)
        }));
        cases.push(Case::new("loss with aux_loss", |opened| {
            let total = opened.step().total() as f32;
            all_close(&[total], &flat(&opened.folder.floats("loss")), LOSS)
        }));
    }
    cases
}
