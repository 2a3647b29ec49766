//! Attention over a paged cache, composed of stock Burn operations: the blocks of several lanes are gathered
//! into one tensor, and what lies behind a lane's tokens is hidden.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use burn::tensor::{Bool, DType, Device, IndexingUpdateOp, Int, Tensor, TensorData, activation};
use kernels::paged::{BLOCK, Lane};

/// The lanes of a pass.
#[derive(Debug)]
pub(crate) struct Lanes<'a> {
    pub(super) lanes: &'a [Lane<'a>],
    /// Computed once for all layers.
    plan: OnceCell<Plan>,
    /// As `plan`.
    table: OnceCell<Tensor<1, Int>>,
}

impl<'a> Lanes<'a> {
    /// For lanes whose blocks the cache has.
    pub(crate) fn new(lanes: &'a [Lane<'a>]) -> Self {
        Self { lanes, plan: OnceCell::new(), table: OnceCell::new() }
    }

    fn plan(&self, device: &Device) -> &Plan {
        self.plan.get_or_init(|| Plan::new(self.lanes, device))
    }

    /// For every row of the pass where its lane's blocks begin in this table and its place in its lane; then the
    /// blocks of every lane. Uploaded once.
    #[cfg_attr(not(feature = "gpu"), expect(dead_code, reason = "kernels of a GPU read it"))]
    pub(super) fn table(&self, device: &Device) -> Tensor<1, Int> {
        let build = || {
            let rows: usize = self.lanes.iter().map(|lane| lane.rows).sum();
            let (mut table, mut blocks) = (Vec::new(), Vec::new());
            for lane in self.lanes {
                let start = 2 * rows + blocks.len();
                for place in lane.start..lane.start + lane.rows {
                    table.extend([start as i32, place as i32]);
                }
                let used = (lane.start + lane.rows).div_ceil(BLOCK);
                blocks.extend(lane.blocks[..used].iter().map(|block| *block as i32));
            }
            table.extend(blocks);
            indices(table, device)
        };
        self.table.get_or_init(build).clone()
    }
}

/// Where everything is, as tensors of indices.
#[derive(Debug)]
struct Plan {
    write: Write,
    groups: Vec<Group>,
    /// For every row of the pass its place in the results of the groups, `[rows]`.
    order: Tensor<1, Int>,
}

/// The blocks that get new tokens.
#[derive(Debug)]
struct Write {
    /// `[written]`.
    blocks: Tensor<1, Int>,
    /// The row that each place gets, 0 where it gets none: `[written * BLOCK]`.
    rows: Tensor<1, Int>,
    /// Whether a place gets one, `[written, BLOCK]`.
    is_new: Tensor<2, Bool>,
}

/// Lanes with equal numbers of new tokens: attention of all of them is one product.
#[derive(Debug)]
struct Group {
    /// The lanes' rows in the pass, `[lanes * rows]`.
    places: Tensor<1, Int>,
    /// Their blocks, shorter lanes filled up, `[lanes * blocks]`.
    blocks: Tensor<1, Int>,
    /// The last key that each row sees, `[lanes, rows]`.
    last: Tensor<2, Int>,
}

impl Plan {
    fn new(lanes: &[Lane<'_>], device: &Device) -> Self {
        // Lanes of one group are padded to the longest of them, so they have similar lengths.
        let mut groups: BTreeMap<(usize, usize), Vec<(usize, Lane<'_>)>> = BTreeMap::new();
        let mut row = 0;
        for lane in lanes {
            let blocks = (lane.start + lane.rows).div_ceil(BLOCK).next_power_of_two();
            groups.entry((lane.rows, blocks)).or_default().push((row, *lane));
            row += lane.rows;
        }
        let in_groups = groups.values().flatten().flat_map(|(row, lane)| *row..row + lane.rows);
        let mut order = vec![0; row];
        in_groups.enumerate().for_each(|(place, row)| order[row] = place as i32);
        let groups =
            groups.iter().map(|((rows, _), lanes)| Group::new(*rows, lanes, device)).collect();
        Self { write: Write::new(lanes, device), groups, order: indices(order, device) }
    }

    /// The results of all rows, `[1, rows, width]`, from those of each group's, `[rows, width]`.
    fn by_groups(&self, attend: impl Fn(&Group) -> Tensor<2>) -> Tensor<3> {
        let y = Tensor::cat(self.groups.iter().map(attend).collect(), 0); // by groups
        let y = if self.groups.len() > 1 { y.select(0, self.order.clone()) } else { y };
        y.unsqueeze()
    }
}

impl Write {
    fn new(lanes: &[Lane<'_>], device: &Device) -> Self {
        let mut places: BTreeMap<u32, [Option<i32>; BLOCK]> = BTreeMap::new();
        let mut rows = 0..;
        for lane in lanes {
            for (token, row) in (lane.start..lane.start + lane.rows).zip(&mut rows) {
                let block = places.entry(lane.blocks[token / BLOCK]).or_insert([None; BLOCK]);
                block[token % BLOCK] = Some(row);
            }
        }
        let blocks = places.keys().map(|block| *block as i32).collect();
        let rows = places.values().flatten().map(|row| row.unwrap_or(0)).collect();
        let is_new: Vec<bool> = places.values().flatten().map(Option::is_some).collect();
        let is_new = TensorData::new(is_new, [places.len(), BLOCK]);
        Self {
            blocks: indices(blocks, device),
            rows: indices(rows, device),
            is_new: Tensor::from_data(is_new, device),
        }
    }

    /// Writes the new keys `[1, kv_heads, rows, head_dim]` to `[blocks, kv_heads, head_dim, BLOCK]`.
    fn keys(&self, k: Tensor<4>, buffer: Tensor<4>) -> Tensor<4> {
        let ([_, heads, head_dim, _], written) = (buffer.dims(), self.is_new.dims()[0]);
        let k = k.squeeze_dim::<3>(0).select(1, self.rows.clone());
        let k = k.reshape([heads, written, BLOCK, head_dim]).permute([1, 0, 3, 2]);
        self.replace(buffer, k, self.is_new.clone().reshape([written, 1, 1, BLOCK]))
    }

    /// Writes the new values `[rows, heads, width]` to `[blocks, heads, BLOCK, width]`.
    fn values(&self, v: Tensor<3>, buffer: Tensor<4>) -> Tensor<4> {
        let ([_, heads, _, width], written) = (buffer.dims(), self.is_new.dims()[0]);
        let v = v.select(0, self.rows.clone());
        let v = v.reshape([written, BLOCK, heads, width]).swap_dims(1, 2);
        self.replace(buffer, v, self.is_new.clone().reshape([written, 1, BLOCK, 1]))
    }

    fn replace(&self, buffer: Tensor<4>, new: Tensor<4>, is_new: Tensor<4, Bool>) -> Tensor<4> {
        let old = buffer.clone().select(0, self.blocks.clone());
        let blocks = old.mask_where(is_new.expand(new.dims()), new);
        buffer.select_assign(0, self.blocks.clone(), blocks, IndexingUpdateOp::Assign)
    }
}

impl Group {
    fn new(rows: usize, lanes: &[(usize, Lane<'_>)], device: &Device) -> Self {
        let used = |lane: &Lane<'_>| (lane.start + rows).div_ceil(BLOCK);
        let most = lanes.iter().map(|(_, lane)| used(lane)).max().unwrap_or(0);
        let mut blocks = Vec::with_capacity(lanes.len() * most);
        let (mut places, mut last) = (Vec::new(), Vec::new());
        for (row, lane) in lanes {
            let table = lane.blocks[..used(lane)].iter().map(|block| *block as i32);
            // Any block will do: its keys are hidden.
            let filled = table.chain(std::iter::repeat(lane.blocks[0] as i32));
            blocks.extend(filled.take(most));
            places.extend((*row..row + rows).map(|row| row as i32));
            last.extend((lane.start..lane.start + rows).map(|key| key as i32));
        }
        let last = TensorData::new(last, [lanes.len(), rows]);
        Self {
            places: indices(places, device),
            blocks: indices(blocks, device),
            last: Tensor::from_data(last, device),
        }
    }

    /// The keys of the group's blocks in `[blocks, heads, width, BLOCK]`: `[lanes, heads, width, len]`.
    fn keys(&self, buffer: &Tensor<4>) -> Tensor<4> {
        let ([_, heads, width, _], [lanes, blocks]) = (buffer.dims(), self.sizes());
        let k = buffer.clone().select(0, self.blocks.clone());
        let k = k.reshape([lanes, blocks, heads, width, BLOCK]).permute([0, 2, 3, 1, 4]);
        k.reshape([lanes, heads, width, blocks * BLOCK])
    }

    /// The values of the group's blocks in `[blocks, heads, BLOCK, width]`: `[lanes, heads, len, width]`.
    fn values(&self, buffer: &Tensor<4>) -> Tensor<4> {
        let ([_, heads, _, width], [lanes, blocks]) = (buffer.dims(), self.sizes());
        let v = buffer.clone().select(0, self.blocks.clone());
        let v = v.reshape([lanes, blocks, heads, BLOCK, width]).swap_dims(1, 2);
        v.reshape([lanes, heads, blocks * BLOCK, width])
    }

    /// Lanes, and blocks of each.
    fn sizes(&self) -> [usize; 2] {
        let lanes = self.last.dims()[0];
        [lanes, self.blocks.dims()[0] / lanes]
    }

    /// The results of the group's rows, `[lanes * rows, heads * value_dim]`, for all queries
    /// `[heads, rows of the pass, head_dim]`, keys `[lanes, kv_heads, head_dim, len]` and values
    /// `[lanes, kv_heads, len, value_dim]`.
    fn attend(&self, q: Tensor<3>, k: Tensor<4>, v: Tensor<4>) -> Tensor<2> {
        let ([heads, _, head_dim], dtype) = (q.dims(), q.dtype());
        let ([_, kv_heads, len, value_dim], [lanes, rows]) = (v.dims(), self.last.dims());
        let (group, device) = (heads / kv_heads, q.device());
        // What no row of a lane sees has the weight 0, but may be NaN.
        let place = Tensor::<1, Int>::arange(0..len as i64, &device);
        let ends = self.last.clone().narrow(1, rows - 1, 1).reshape([lanes, 1, 1, 1]);
        let column = place.clone().reshape([1, 1, len, 1]).expand([lanes, 1, len, 1]);
        let unused = column.greater(ends.expand([lanes, 1, len, 1]));
        let v = v.clone().mask_fill(unused.expand(v.dims()), 0.0);

        let q = q.select(1, self.places.clone());
        let q = q.reshape([kv_heads, group, lanes, rows, head_dim]).permute([2, 0, 1, 3, 4]);
        let q = q.reshape([lanes, kv_heads, group * rows, head_dim]);
        let scores = q.matmul(k).cast(DType::F32);
        let scores = scores.reshape([lanes, kv_heads, group, rows, len]);
        let last = self.last.clone().reshape([lanes, 1, 1, rows, 1]);
        let row = place.reshape([1, 1, 1, 1, len]).expand([lanes, 1, 1, rows, len]);
        let hidden = row.greater(last.expand([lanes, 1, 1, rows, len]));
        let scores = scores.clone().mask_fill(hidden.expand(scores.dims()), f32::NEG_INFINITY);
        let weights = activation::softmax(scores, 4).cast(dtype);
        let y = weights.reshape([lanes, kv_heads, group * rows, len]).matmul(v);
        let y = y.reshape([lanes, kv_heads, group, rows, value_dim]).permute([0, 3, 1, 2, 4]);
        y.reshape([lanes * rows, heads * value_dim])
    }
}

pub(super) fn attention(
    [q, k, v]: [Tensor<4>; 3],
    [keys, values]: [Tensor<4>; 2],
    lanes: &Lanes<'_>,
) -> (Tensor<3>, [Tensor<4>; 2]) {
    let plan = lanes.plan(&q.device());
    let keys = plan.write.keys(k, keys);
    let values = plan.write.values(v.squeeze_dim(0), values);
    let q = q.squeeze_dim::<3>(0);
    let y =
        plan.by_groups(|group| group.attend(q.clone(), group.keys(&keys), group.values(&values)));
    (y, [keys, values])
}

/// As [`super::latent_attention`].
pub(super) fn latent_attention(
    q: [Tensor<3>; 2],
    [latent, key]: [Tensor<2>; 2],
    cache: [Tensor<4>; 2],
    lanes: &Lanes<'_>,
) -> (Tensor<3>, [Tensor<4>; 2]) {
    let plan = lanes.plan(&latent.device());
    let [latents, keys] = cache;
    let latents = plan.write.values(latent.unsqueeze_dim(1), latents);
    let keys = plan.write.values(key.unsqueeze_dim(1), keys);
    let [q, rotated] = q;
    let q = Tensor::cat(vec![q.swap_dims(0, 1), rotated], 2); // [heads, rows, both widths]
    let y = plan.by_groups(|group| {
        let v = group.values(&latents); // [lanes, 1, len, latent width]
        let k = Tensor::cat(vec![v.clone(), group.values(&keys)], 3);
        group.attend(q.clone(), k.swap_dims(2, 3), v)
    });
    (y, [latents, keys])
}

fn indices(values: Vec<i32>, device: &Device) -> Tensor<1, Int> {
    let len = values.len();
    Tensor::from_data(TensorData::new(values, [len]), (device, DType::I32))
}
