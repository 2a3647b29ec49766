//! One pass over whole rows: logits, the layers' inputs, packed and padded rows.

use burn::tensor::{Device, Int, Tensor, TensorData};
use calumma::model::{CausalLm, ModelInput, Routing, mask};

use crate::Case;
use crate::compare::{LOGITS, Outcome, SAME_SUMS, all_close, close, same};
use crate::folder::Folder;
use crate::opened::Opened;
use crate::values::flat;

/// Tokens of padding before each row.
const PADS: usize = 3;

/// What a model makes of rows of ids.
pub struct Whole {
    /// The layers' inputs, `[rows, seq, hidden]`.
    pub layers: Vec<TensorData>,
    /// After the final norm, `[rows, seq, hidden]`.
    pub last: TensorData,
    /// `[rows, seq, vocab]`.
    pub logits: TensorData,
}

impl Whole {
    pub fn of(opened: &Opened<'_>) -> Self {
        Rows::of(opened).forward(opened.serving.model())
    }
}

/// What the routers do with the fixture's rows.
pub fn routing(opened: &Opened<'_>) -> Vec<Routing> {
    opened.serving.model().routing(Rows::of(opened).input())
}

/// Rows of one length.
struct Rows {
    num_rows: usize,
    ids: Vec<u32>,
    positions: Vec<u32>,
    /// The number of each token's document within its row.
    documents: Vec<u32>,
}

impl Rows {
    /// The fixture's.
    fn of(opened: &Opened<'_>) -> Self {
        let rows = opened.folder.rows();
        let seq = rows[0].len();
        Self {
            num_rows: rows.len(),
            ids: rows.concat(),
            positions: (0..rows.len()).flat_map(|_| 0..seq as u32).collect(),
            documents: vec![1; rows.len() * seq],
        }
    }

    fn input(&self) -> ModelInput {
        let device = Device::flex();
        let tensor = |values: &[u32]| {
            let values: Vec<i32> = values.iter().map(|value| *value as i32).collect();
            let shape = [self.num_rows, values.len() / self.num_rows];
            Tensor::<2, Int>::from_data(TensorData::new(values, shape), &device)
        };
        ModelInput {
            ids: tensor(&self.ids),
            positions: tensor(&self.positions),
            mask: mask::packed(&self.documents, self.num_rows, &device),
        }
    }

    fn forward(&self, model: &CausalLm) -> Whole {
        let mut layers = Vec::new();
        let last = model.hidden_states(self.input(), |x| layers.push(x.to_data()));
        let logits = model.logits(last.clone());
        Whole { layers, last: last.to_data(), logits: logits.to_data() }
    }
}

pub fn cases(folder: &Folder) -> Vec<Case> {
    if !folder.has("logits") {
        return Vec::new(); // not a text model
    }
    let mut cases = vec![
        Case::new("logits", |opened| {
            close(&opened.whole().logits, &opened.folder.floats("logits"), LOGITS)
        }),
        Case::new("last_hidden_state", |opened| {
            close(&opened.whole().last, &opened.folder.floats("last_hidden_state"), LOGITS)
        }),
        Case::new("number of layers", |opened| {
            let expected = opened.folder.names("hidden.").len();
            same(&opened.whole().layers.len(), &expected)
        }),
        Case::new("two documents packed into one row", packed),
        Case::new("rows padded on the left", padded),
    ];
    for layer in 0..folder.names("hidden.").len() {
        let name = format!("hidden.{layer}");
        cases.push(Case::new(name.clone(), move |opened| {
            let found = opened.whole().layers.get(layer).ok_or("there is no such layer")?;
            close(found, &opened.folder.floats(&name), LOGITS)
        }));
    }
    cases
}

/// The logits of all rows as documents of one row, against those of each alone.
fn packed(opened: &Opened<'_>) -> Outcome {
    let rows = opened.folder.ids("input_ids");
    let seq = rows[0].len();
    let input = Rows {
        num_rows: 1,
        ids: rows.concat(),
        positions: (0..rows.len()).flat_map(|_| 0..seq as u32).collect(),
        documents: (1..=rows.len() as u32).flat_map(|row| vec![row; seq]).collect(),
    };
    let found = input.forward(opened.serving.model()).logits;
    all_close(&flat(&found), &flat(&opened.whole().logits), SAME_SUMS)
}

/// The logits after padding that counts as positions, against those without: only distances between positions matter.
fn padded(opened: &Opened<'_>) -> Outcome {
    let rows = opened.folder.ids("input_ids");
    let seq = PADS + rows[0].len();
    let pads = [0; PADS];
    let shown = vec![1; rows[0].len()];
    let input = Rows {
        num_rows: rows.len(),
        ids: rows.iter().flat_map(|row| [&pads[..], row].concat()).collect(),
        positions: (0..rows.len()).flat_map(|_| 0..seq as u32).collect(),
        documents: (0..rows.len()).flat_map(|_| [&pads[..], &shown].concat()).collect(),
    };
    let found = flat(&input.forward(opened.serving.model()).logits);
    let vocab = found.len() / (rows.len() * seq);
    let rows = found.chunks_exact(seq * vocab);
    let found: Vec<f32> = rows.flat_map(|row| row[PADS * vocab..].to_vec()).collect();
    all_close(&found, &flat(&opened.whole().logits), LOGITS)
}
