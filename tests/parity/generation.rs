//! Greedy generation: text, interleaved, images only, images from images.

use calumma::checkpoint::Checkpoint;
use calumma::generate::{
    BLOCK, GenerationConfig, GenerationMode, Generator, LanguageModel, Preset, ServingModel, Span,
};
use calumma::tokenize::{Processor, TokenClass};

use crate::Table;
use crate::excess::excess;
use crate::models::image_ids;
use crate::values::{Values, flat};

/// Compares the checkpoint's continuations with those of `values`.
pub fn check(table: &mut Table, title: &str, values: &Values, checkpoint: Checkpoint) {
    let Checkpoint { config, model, processor, vq, .. } = checkpoint;
    let model = ServingModel::new(config, model, burn::tensor::Device::flex());
    let names = values.names();
    for case in names.iter().filter_map(|name| name.strip_suffix(".sequences")) {
        let mut rows = values.ids(&format!("{case}.prompt_ids"));
        let pixels = format!("{case}.pixel_values");
        if values.has(&pixels) {
            // Without an image tokenizer images cannot be encoded.
            let Some(vq) = &vq else { continue };
            let mut ids = image_ids(vq, &processor, values.floats(&pixels)).into_iter();
            let placeholder = processor.vocabulary().special().image_placeholder;
            let places = rows.iter_mut().flatten().filter(|id| Some(**id) == placeholder);
            places.for_each(|id| *id = ids.next().unwrap());
        }
        greedy(table, title, case, values, rows, &model, &processor);
    }
    for (case, mode) in [
        ("interleaved", GenerationMode::Auto),
        ("image_only", GenerationMode::ImageOnly),
        ("image_edit", GenerationMode::ImageOnly),
    ] {
        if !values.has(&format!("{case}.new_ids")) {
            continue;
        }
        table.exact(&format!("{title} {case} ids"), || {
            let prompt = values.ids(&format!("{case}.prompt_ids")).remove(0);
            let new = values.ids(&format!("{case}.new_ids")).remove(0);
            let mut config = GenerationConfig { mode, ..Preset::Chameleon.config() }.greedy();
            if mode == GenerationMode::ImageOnly {
                config.image.temperature = 1.0;
            }
            config.max_new_tokens = Some(new.len());
            let generator = Generator::new(&model, processor.vocabulary(), processor.grid());
            generator.unwrap().generate(&prompt, &config, |_| Ok(())).unwrap().ids == new
        });
    }
}

/// transformers' greedy `generate`, which masks image ids. It pads rows on the left; here each row is a lane
/// of its own.
fn greedy(
    table: &mut Table,
    title: &str,
    case: &str,
    values: &Values,
    mut rows: Vec<Vec<u32>>,
    model: &ServingModel,
    processor: &Processor,
) {
    let key = |part: &str| format!("{case}.{part}");
    let special = processor.vocabulary().special();
    let sequences = values.ids(&key("sequences"));
    let attended = values.rows(&key("attention_mask"));
    let start = rows[0].len();
    let prompts: Vec<Vec<u32>> = rows
        .iter()
        .zip(&attended)
        .map(|(row, shown)| {
            row.iter().zip(shown).filter(|(_, a)| **a == 1).map(|(id, _)| *id).collect()
        })
        .collect();
    let steps = sequences[0].len() - start;
    let blocks = sequences[0].len().div_ceil(BLOCK) as u32;
    let lanes: Vec<Vec<u32>> =
        (0..rows.len() as u32).map(|row| (row * blocks..(row + 1) * blocks).collect()).collect();
    let mut cache = model.new_cache(rows.len() * blocks as usize);
    let mut fed = prompts;
    let mut starts = vec![0; rows.len()];
    let mut worst = 0.0_f32;
    let want = values.floats(&key("step_logits")); // [rows, steps, vocab]
    let (want, vocab) = (flat(&want), want.shape().to_vec()[2]);
    for step in 0..steps {
        let parts = lanes.iter().zip(&starts).zip(&fed);
        let spans: Vec<Span<'_>> = parts
            .map(|((blocks, &start), ids)| Span {
                blocks,
                start,
                ids,
                wanted: 1,
                columns: 0..vocab,
            })
            .collect();
        let logits = model.pass(&spans, &mut cache).unwrap();
        starts.iter_mut().zip(&fed).for_each(|(start, ids)| *start += ids.len());
        fed = Vec::new();
        for (row, logits) in logits.iter().map(|wanted| &wanted[0]).enumerate() {
            let want = &want[(row * steps + step) * vocab..][..vocab];
            let visible = (0..vocab)
                .filter(|id| processor.vocabulary().class(*id as u32) != TokenClass::Image);
            let ids: Vec<usize> = visible.collect();
            let pick = |values: &[f32]| ids.iter().map(|&id| values[id]).collect::<Vec<f32>>();
            worst = worst.max(excess(&pick(logits), &pick(want), 2e-4, 1e-4));
            let best = ids.iter().copied().reduce(|a, b| if logits[b] > logits[a] { b } else { a });
            // Rows that have ended get padding, which the reference attends to.
            let ended = rows[row][start..].contains(&special.eos);
            let id = if ended { special.pad } else { best.unwrap() as u32 };
            rows[row].push(id);
            fed.push(vec![id]);
        }
    }
    table.case(&format!("{title} {case} step logits"), || worst);
    // Only the new ids: the prompt's placeholders have been replaced by image ids.
    let new = |rows: &[Vec<u32>]| rows.iter().map(|r| r[start..].to_vec()).collect::<Vec<_>>();
    table.exact(&format!("{title} {case} sequences"), || new(&rows) == new(&sequences));
}
