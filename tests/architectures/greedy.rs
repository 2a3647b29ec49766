//! Greedy decoding, with and without the paged cache.

use calumma::generate::{BLOCK, LanguageModel, ServingModel, Span};

use crate::Case;
use crate::compare::{LOGITS, Outcome, all_close, same};
use crate::folder::Folder;
use crate::opened::Opened;
use crate::values::flat;

/// The logits after a row of ids, of which the model has seen all but the last few.
type NextLogits<'a> = Box<dyn FnMut(&[u32]) -> Result<Vec<f32>, String> + 'a>;
/// One way to compute them, for a row of at most so many ids.
type Way = fn(&ServingModel, usize) -> NextLogits<'_>;

pub fn cases(folder: &Folder) -> Vec<Case> {
    if !folder.has("greedy.ids") {
        return Vec::new();
    }
    let ways: [(&str, Way); 2] = [("without a cache", whole), ("with the paged cache", cached)];
    let mut cases = Vec::new();
    for (name, way) in ways {
        cases.push(Case::new(format!("greedy.ids {name}"), move |opened| {
            same(&decoded(opened, way)?.0, &opened.folder.ids("greedy.ids")[0])
        }));
        cases.push(Case::new(format!("greedy.logits {name}"), move |opened| {
            let want = flat(&opened.folder.floats("greedy.logits"));
            all_close(&decoded(opened, way)?.1, &want, LOGITS)
        }));
    }
    cases.push(Case::new("a paged cache of two blocks gives the logits of a whole pass", blocks));
    cases
}

/// The prompt with its greedy continuation, as long as the fixture's, and the logits of each step.
fn decoded(opened: &Opened<'_>, way: Way) -> Result<(Vec<u32>, Vec<f32>), String> {
    let mut ids = opened.folder.ids("greedy.prompt_ids").remove(0);
    let len = opened.folder.ids("greedy.ids")[0].len();
    let mut next = way(&opened.serving, len);
    let mut all = Vec::new();
    while ids.len() < len {
        let logits = next(&ids)?;
        let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
        ids.push(best.unwrap() as u32);
        all.extend(logits);
    }
    Ok((ids, all))
}

/// All ids pass through the model for each new one.
fn whole(model: &ServingModel, _: usize) -> NextLogits<'_> {
    Box::new(|ids| {
        let mut logits = model.all_logits(ids).map_err(|error| error.to_string())?;
        Ok(logits.pop().unwrap())
    })
}

/// The prompt passes in one go, then each new id alone.
fn cached(model: &ServingModel, len: usize) -> NextLogits<'_> {
    let blocks: Vec<u32> = (0..len.div_ceil(BLOCK) as u32).collect();
    let mut cache = model.new_cache(blocks.len());
    let mut start = 0;
    Box::new(move |ids| {
        let columns = 0..model.vocab_size();
        let span = Span { blocks: &blocks, start, ids: &ids[start..], wanted: 1, columns };
        start = ids.len();
        let mut logits = model.pass(&[span], &mut cache).map_err(|error| error.to_string())?;
        Ok(logits.remove(0).remove(0))
    })
}

/// A row that fills more than a block, in chunks that end within blocks, against one pass.
fn blocks(opened: &Opened<'_>) -> Outcome {
    let model = &opened.serving;
    let (vocab, len) = (model.vocab_size(), model.context().min(BLOCK + BLOCK / 2));
    let ids: Vec<u32> = (0..len).map(|at| ((at * at * 31 + at * 7 + 3) % vocab) as u32).collect();
    let want = model.all_logits(&ids).map_err(|error| error.to_string())?.concat();
    let mut cache = model.new_cache(2);
    let (mut found, mut start) = (Vec::new(), 0);
    for end in [len / 3, len / 3 + 1, len - 1, len] {
        let ids = &ids[start..end];
        let span = Span { blocks: &[1, 0], start, ids, wanted: ids.len(), columns: 0..vocab };
        let logits = model.pass(&[span], &mut cache).map_err(|error| error.to_string())?;
        found.extend(logits.concat().concat());
        start = end;
    }
    all_close(&found, &want, LOGITS)
}
