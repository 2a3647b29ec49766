//! The matrices of experts: a tensor for each in files, stacks in memory.
//!
//! In files they are `mlp.experts.N.{gate,up,down}_proj.weight`, and of Mixtral
//! `block_sparse_moe.experts.N.{w1,w3,w2}.weight`. Either is read whatever the family is; transformers is not as
//! lenient, so a model that is released as a Mixtral has the second.

use std::collections::BTreeMap;

use burn::tensor::{Element, FloatDType, TensorData};
use half::{bf16, f16};
use tensor_files::{DeviceTensor, DeviceTensors, TensorSource, WeightFiles};

use crate::error::Error;

/// Between the name of a layer and an expert's number, or a stack's name.
const EXPERTS: &str = ".mlp.experts.";

/// The stacks, and the matrices of each expert in them from top to bottom.
const STACKS: [(&str, &[&str]); 2] =
    [("gate_up_proj", &["gate_proj", "up_proj"]), ("down_proj", &["down_proj"])];

/// Parts of Mixtral's names, and what they are elsewhere.
const MIXTRAL: [(&str, &str); 4] = [
    (".block_sparse_moe.", ".mlp."),
    (".w1.", ".gate_proj."),
    (".w3.", ".up_proj."),
    (".w2.", ".down_proj."),
];

/// Weight files with the matrices of experts as stacks; files without any stay as they are.
pub struct ExpertStacks {
    /// The files, with the names of the general form.
    pub(super) files: WeightFiles,
    /// The number of experts of each layer that has some.
    counts: BTreeMap<String, usize>,
    /// The number of experts of every sparse layer, if it is known.
    experts: Option<usize>,
}

/// A stack by its name: the layer's name, and the matrices of each of its experts.
#[derive(Clone, Copy)]
struct Stack<'a> {
    layer: &'a str,
    matrices: &'static [&'static str],
}

impl ExpertStacks {
    /// A view of `files`, whose sparse layers have `experts` experts; `None` for as many as are there.
    pub fn new(files: WeightFiles, experts: Option<usize>) -> Self {
        let files = files.renamed(|name| Some(general(name)));
        let mut counts = BTreeMap::<String, usize>::new();
        for name in files.names() {
            if let Some((layer, expert)) = expert_of(&name) {
                let count = counts.entry(layer.to_owned()).or_default();
                *count = experts.unwrap_or((*count).max(expert + 1));
            }
        }
        Self { files, counts, experts }
    }

    /// Whether the tensor called `name` is a part of a stack.
    fn is_part(&self, name: &str) -> bool {
        expert_of(name).is_some_and(|(layer, expert)| {
            self.counts.get(layer).is_some_and(|count| expert < *count)
        })
    }

    /// The stack at `parts` with its values in `dtype`, read into one buffer, matrix after matrix.
    fn stack(
        &mut self,
        parts: &[String],
        matrices: usize,
        dtype: FloatDType,
    ) -> tensor_files::Result<TensorData> {
        let first = self.files.info(&parts[0])?.1.to_vec();
        for part in parts {
            let shape = self.files.info(part)?.1;
            if shape.len() != 2 || shape != first {
                let message =
                    format!("{part} is {shape:?}, {} {first:?}; both are one matrix", parts[0]);
                return Err(tensor_files::Error::source_failed(Error::invalid(message)));
            }
        }
        let shape = vec![parts.len() / matrices, matrices * first[0], first[1]];
        match dtype {
            FloatDType::BF16 => self.joined::<bf16>(parts, shape, dtype),
            FloatDType::F16 => self.joined::<f16>(parts, shape, dtype),
            _ => {
                let data = self.joined::<f32>(parts, shape, FloatDType::F32)?;
                Ok(data.convert_dtype(dtype.into()))
            }
        }
    }

    fn joined<T: Element>(
        &mut self,
        parts: &[String],
        shape: Vec<usize>,
        dtype: FloatDType,
    ) -> tensor_files::Result<TensorData> {
        let mut all: Vec<T> = Vec::with_capacity(shape.iter().product());
        for part in parts {
            let data = self.files.tensor(part, dtype)?.expect("it has been looked up");
            all.extend_from_slice(data.as_slice().expect("the format that was asked for"));
        }
        Ok(TensorData::new(all, shape))
    }
}

impl TensorSource for ExpertStacks {
    fn names(&self) -> Vec<String> {
        let single = self.files.names().into_iter().filter(|name| !self.is_part(name));
        let stacks = self
            .counts
            .keys()
            .flat_map(|layer| STACKS.map(|(stack, _)| format!("{layer}{EXPERTS}{stack}")));
        single.chain(stacks).collect()
    }

    fn tensor(
        &mut self,
        name: &str,
        dtype: FloatDType,
    ) -> tensor_files::Result<Option<TensorData>> {
        let stack = Stack::called(name);
        match stack.and_then(|stack| Some((stack, *self.counts.get(stack.layer)?))) {
            Some((stack, count)) => {
                let parts = stack.parts(count);
                let is_whole = parts.iter().all(|part| self.files.contains(part));
                is_whole.then(|| self.stack(&parts, stack.matrices.len(), dtype)).transpose()
            }
            None => self.files.tensor(name, dtype),
        }
    }

    fn missing(&self, name: &str) -> Vec<String> {
        let stack = Stack::called(name);
        let count = stack.and_then(|stack| self.counts.get(stack.layer).copied().or(self.experts));
        match stack.zip(count) {
            Some((stack, count)) => {
                let mut parts = stack.parts(count);
                parts.retain(|part| !self.files.contains(part));
                parts
            }
            None => vec![name.to_owned()],
        }
    }
}

impl<'a> Stack<'a> {
    fn called(name: &'a str) -> Option<Self> {
        let (layer, name) = name.split_once(EXPERTS)?;
        let (_, matrices) = STACKS.into_iter().find(|(stack, _)| *stack == name)?;
        Some(Self { layer, matrices })
    }

    /// The names of its matrices, from top to bottom, if it is of `experts` experts.
    fn parts(self, experts: usize) -> Vec<String> {
        let Self { layer, matrices } = self;
        let of_expert = |expert| {
            matrices.iter().map(move |matrix| format!("{layer}{EXPERTS}{expert}.{matrix}.weight"))
        };
        (0..experts).flat_map(of_expert).collect()
    }
}

/// The layer and the number of the expert whose matrix is called `name`.
fn expert_of(name: &str) -> Option<(&str, usize)> {
    let (layer, rest) = name.split_once(EXPERTS)?;
    let (expert, matrix) = rest.strip_suffix(".weight")?.split_once('.')?;
    let is_matrix = STACKS.iter().any(|(_, matrices)| matrices.contains(&matrix));
    Some((layer, expert.parse().ok().filter(|_| is_matrix)?))
}

fn general(name: &str) -> String {
    match name.contains(MIXTRAL[0].0) {
        true => MIXTRAL.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to)),
        false => name.to_owned(),
    }
}

fn mixtrals(name: String) -> String {
    MIXTRAL.iter().fold(name, |name, (to, from)| name.replace(from, to))
}

/// The tensors to write: of stacks each matrix, `as_mixtral` under Mixtral's names.
pub(super) fn separated(tensors: &DeviceTensors, as_mixtral: bool) -> DeviceTensors {
    let separated = of_experts(tensors);
    if !as_mixtral {
        return separated;
    }
    separated.into_iter().map(|(name, tensor)| (mixtrals(name), tensor)).collect()
}

fn of_experts(tensors: &DeviceTensors) -> DeviceTensors {
    let mut all = DeviceTensors::new();
    for (name, tensor) in tensors {
        let (Some(stack), &[experts, rows, columns]) = (Stack::called(name), &tensor.shape[..])
        else {
            all.insert(name.clone(), tensor.clone());
            continue;
        };
        let shape = vec![rows / stack.matrices.len(), columns];
        let len = shape.iter().product();
        for (at, part) in stack.parts(experts).into_iter().enumerate() {
            let elements = tensor.elements.clone().narrow(0, at * len, len);
            all.insert(part, DeviceTensor { shape: shape.clone(), elements });
        }
    }
    all
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::path::Path;

    use burn::tensor::{Device, Tensor};
    use tensor_files::{StoredDtype, write};

    use super::*;

    const LAYER: &str = "model.layers.3";

    /// Three experts of width 2 in a model of width 4, and a router.
    fn stacks() -> DeviceTensors {
        let tensor = |name: &str, shape: [usize; 3], from: f32| {
            let len = shape.iter().product::<usize>();
            let values = (0..len).map(|at| from + at as f32).collect::<Vec<f32>>();
            let elements = Tensor::from_data(TensorData::new(values, [len]), &Device::flex());
            (format!("{LAYER}.mlp.{name}"), DeviceTensor { shape: shape.to_vec(), elements })
        };
        DeviceTensors::from([
            tensor("experts.gate_up_proj", [3, 4, 4], 0.0),
            tensor("experts.down_proj", [3, 4, 2], 500.0),
            tensor("gate.weight", [1, 3, 4], 900.0),
        ])
    }

    fn opened(tensors: &DeviceTensors, experts: Option<usize>) -> ExpertStacks {
        let file = tempfile::NamedTempFile::new().unwrap();
        write(file.path(), tensors, StoredDtype::F32).unwrap();
        ExpertStacks::new(WeightFiles::open(file.path()).unwrap(), experts)
    }

    fn values(source: &mut ExpertStacks, name: &str) -> (Vec<usize>, Vec<f32>) {
        let data = source.tensor(name, FloatDType::BF16).unwrap().unwrap();
        (data.shape().to_vec(), data.iter().collect())
    }

    #[test]
    fn stacks_come_back_from_the_matrices_of_each_expert_under_either_names() {
        let stacks = stacks();
        let [separated, mixtral] = [false, true].map(|mixtral| separated(&stacks, mixtral));
        assert_eq!(separated.len(), 10);
        assert_eq!(separated[&format!("{LAYER}.mlp.experts.2.up_proj.weight")].shape, [2, 4]);
        assert!(mixtral.contains_key(&format!("{LAYER}.block_sparse_moe.experts.0.w2.weight")));
        for (tensors, experts) in [(&separated, Some(3)), (&mixtral, None), (&stacks, Some(3))] {
            let mut source = opened(tensors, experts);
            let mut names = source.names();
            names.sort();
            assert_eq!(names, stacks.keys().cloned().collect::<Vec<_>>());
            for (name, tensor) in &stacks {
                let want = tensor.to_data().convert_dtype(burn::tensor::DType::BF16);
                let want = (tensor.shape.clone(), want.iter().collect());
                assert_eq!(values(&mut source, name), want, "{name}");
            }
        }
    }

    #[test]
    fn missing_and_unexpected_experts_are_named() {
        let mut tensors = separated(&stacks(), false);
        let [lost, other] =
            ["1.up_proj", "0.down_proj"].map(|end| format!("{LAYER}.mlp.experts.{end}.weight"));
        tensors.remove(&lost);
        let mut source = opened(&tensors, Some(2));
        let stack = format!("{LAYER}.mlp.experts.gate_up_proj");
        assert!(source.tensor(&stack, FloatDType::F32).unwrap().is_none());
        assert_eq!(source.missing(&stack), [lost]);
        let unexpected = format!("{LAYER}.mlp.experts.2.gate_proj.weight");
        assert!(source.names().contains(&unexpected));
        assert_eq!(opened(&DeviceTensors::new(), Some(2)).missing(&stack).len(), 4);
        assert_eq!(opened(&DeviceTensors::new(), None).missing(&stack), [stack]);

        tensors.get_mut(&other).unwrap().shape = vec![2, 4];
        let stack = format!("{LAYER}.mlp.experts.down_proj");
        let error = opened(&tensors, None).tensor(&stack, FloatDType::F32).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("1.down_proj.weight is [4, 2]"), "{message}");
        assert!(message.contains(Path::new(&other).to_str().unwrap()), "{message}");
    }
}
