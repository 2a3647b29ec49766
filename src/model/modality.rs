//! Experts of modalities: which experts are closed to a token by its id (MoMa, arXiv 2407.21770 section 2.2).

use burn::tensor::{Bool, Int, Tensor, TensorData};

use super::ExpertsConfig;

/// The experts that are closed to each token of `ids`: those of the other modality. `None` if all are open to all.
///
/// # Shapes
/// `ids` `[batch, seq]`; returns `[batch * seq, experts]`, on the device.
pub(super) fn closed(config: &ExpertsConfig, ids: &Tensor<2, Int>) -> Option<Tensor<2, Bool>> {
    let ([first, second], [low, high]) = (config.modality_groups?, config.modality_ids?);
    let ([batch, seq], experts) = (ids.dims(), first + second);
    let ids = ids.clone().reshape([batch * seq, 1]);
    let is_second = ids.clone().greater_equal_elem(low).bool_and(ids.lower_equal_elem(high));
    let of_second = (0..experts).map(|expert| expert >= first).collect();
    let of_second = TensorData::new::<bool, _>(of_second, [1, experts]);
    let of_second = Tensor::<2, Bool>::from_data(of_second, &is_second.device());
    let shape = [batch * seq, experts];
    Some(is_second.expand(shape).bool_xor(of_second.expand(shape)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use burn::tensor::{DType, Device};

    use super::*;
    use crate::model::{
        CausalLm, ExpertLoads, Lane, ModelConfig, ModelInput, PagedCache, RouterScores, mask,
    };

    const IDS: [u32; 14] = [1, 12, 19, 14, 3, 2, 11, 20, 12, 12, 7, 15, 18, 4];

    /// Three experts of ids outside of 12 to 19, four of these.
    fn config(scores: RouterScores) -> ModelConfig {
        let experts = ExpertsConfig {
            dense_layers: vec![0],
            scores,
            modality_groups: Some([3, 4]),
            modality_ids: Some([12, 19]),
            ..ExpertsConfig::new(7, 2, 6)
        };
        ModelConfig {
            vocab_size: 21,
            hidden_size: 8,
            intermediate_size: 12,
            num_hidden_layers: 3,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            initializer_range: 0.5,
            max_position_embeddings: 64,
            experts: Some(experts),
            ..ModelConfig::default()
        }
    }

    fn input(device: &Device) -> ModelInput {
        let row = |values: Vec<i32>| {
            let shape = [1, values.len()];
            Tensor::<2, Int>::from_data(TensorData::new(values, shape), device)
        };
        ModelInput {
            ids: row(IDS.iter().map(|id| *id as i32).collect()),
            positions: row((0..IDS.len() as i32).collect()),
            mask: mask::causal(IDS.len(), device),
        }
    }

    fn model(scores: RouterScores, device: &Device) -> CausalLm {
        vq_tokenizer::init::seed(2);
        let model = config(scores).init(device).unwrap();
        // Biases that no expert of the other modality may profit from.
        let loads = ExpertLoads { layers: vec![vec![9, 9, 8, 0, 0, 0, 1]; 2], tokens: 14 };
        model.with_balanced_biases(3.0, &loads)
    }

    #[test]
    fn a_token_goes_through_experts_of_its_modality_with_probabilities_among_them() {
        let device = Device::flex().autodiff();
        for scores in [RouterScores::Softmax, RouterScores::Sigmoid] {
            let model = model(scores, &device);
            let routings = model.routing(input(&device));
            assert_eq!(routings.len(), 2);
            for routing in &routings {
                for (id, chosen) in IDS.iter().zip(routing.experts.chunks(2)) {
                    let own = if (12..=19).contains(id) { 3..7 } else { 0..3 };
                    assert!(chosen.iter().all(|expert| own.contains(expert)), "{id}: {chosen:?}");
                }
                let sums = routing.weights.clone().sum_dim(1).into_data();
                assert!(sums.iter::<f32>().all(|sum| (sum - 1.0).abs() < 1e-5));
            }
            let probabilities = burn::tensor::activation::softmax(routings[0].logits.clone(), 1);
            let closed = closed(&config(scores).experts.unwrap(), &input(&device).ids).unwrap();
            let of_closed = probabilities.mask_fill(closed.bool_not(), 0.0).sum();
            assert_eq!(of_closed.into_scalar::<f32>(), 0.0);
            let found = model.forward(input(&device)).square().sum().backward();
            let crate::model::Mlp::Sparse(layer) = &model.model.layers[2].mlp else { panic!() };
            let gradient = layer.gate.weight.val().grad(&found).unwrap().into_data();
            assert!(gradient.iter::<f32>().all(f32::is_finite), "{gradient}");
        }
    }

    #[test]
    fn biases_move_by_the_mean_of_their_modality() {
        let model = model(RouterScores::Sigmoid, &Device::flex());
        let want = vec![-3.0, -3.0, 3.0, 3.0, 3.0, 3.0, -3.0];
        assert_eq!(model.selection_biases(), [want.clone(), want]);
    }

    #[test]
    fn passes_over_the_cache_choose_the_experts_of_a_whole_pass() {
        let device = Device::flex();
        for scores in [RouterScores::Softmax, RouterScores::Sigmoid] {
            let model = model(scores, &device);
            let whole = model.hidden(input(&device));
            for chunk in [1, 5, IDS.len()] {
                let mut cache = PagedCache::new(&config(scores), 1, DType::F32, &device);
                for start in (0..IDS.len()).step_by(chunk) {
                    let ids = &IDS[start..IDS.len().min(start + chunk)];
                    let lanes = [Lane { blocks: &[0], start, rows: ids.len() }];
                    let y = model.pass(ids, &lanes, &mut cache);
                    let want = whole.clone().narrow(1, start, ids.len());
                    let off = (y - want).abs().max().into_scalar::<f32>();
                    assert!(off < 1e-5, "chunks of {chunk} from {start}: {off}");
                }
            }
        }
    }

    #[test]
    fn groups_that_do_not_fit_are_refused() {
        let said = |change: &dyn Fn(&mut ExpertsConfig)| {
            let mut config = config(RouterScores::Softmax);
            change(config.experts.as_mut().unwrap());
            config.init(&Device::flex()).unwrap_err().to_string()
        };
        let message = said(&|experts| experts.modality_groups = Some([3, 3]));
        assert!(message.contains("modality_groups is [3, 3]; the sum must be num_experts (7)"));
        let message = said(&|experts| experts.modality_groups = Some([6, 1]));
        assert!(message.contains("at least num_experts_per_tok (2)"), "{message}");
        let message = said(&|experts| experts.modality_ids = Some([19, 12]));
        assert!(message.contains("modality_ids is [19, 12]"), "{message}");
        let message = said(&|experts| experts.modality_ids = None);
        assert!(message.contains("modality_groups needs experts.modality_ids"), "{message}");
        let message = said(&|experts| experts.modality_groups = None);
        assert!(message.contains("modality_ids needs modality_groups"), "{message}");
    }
}
