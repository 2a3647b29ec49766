//! The published tensors of Emu3's tokenizer of videos, folded to those of this crate's tokenizer of still pictures.
//!
//! Names and shapes are those of `modeling_emu3.py` of transformers. Let W_t be the taps of a convolution over frames,
//! which sees two frames of zeros before the first. Of four equal frames, the first of the encoder's two convolutions,
//! of stride 2, makes an early pair with W_2 + W_3 and a late one with all four; the second makes one frame of both
//! with W_2 and W_3. Everywhere else the only frame that counts is the first, which the last tap alone sees.

use std::collections::BTreeMap;

use burn::tensor::{FloatDType, TensorData};
use tensor_files::{NamedTensors, TensorSource};

use crate::config::VqConfig;
use crate::error::{Error, Result};

/// The epsilon of a batch normalisation, PyTorch's default.
const BATCH_NORM_EPSILON: f64 = 1e-5;

/// A view of Emu3's tensors under this crate's names.
pub(crate) struct FoldedTensors<S> {
    source: S,
    /// Published names by this crate's, of tensors that stay as they are but for two sides of 1.
    names: BTreeMap<String, String>,
    folded: NamedTensors,
}

/// Whether `name` is a tensor that [`FoldedTensors`] are made of alone, in a layout that is to be folded.
pub(crate) fn is_unfolded(name: &str) -> bool {
    name == "quant_conv.conv.weight"
}

impl<S: TensorSource> FoldedTensors<S> {
    /// The tensors of `source` for a model of the shape `config`.
    ///
    /// # Errors
    /// If they cannot be read; [`Error::Invalid`] for a tensor of the temporal layers that is missing or has another shape.
    pub(crate) fn new(mut source: S, config: &VqConfig) -> Result<Self> {
        let (mut names, mut temporal) = (BTreeMap::new(), NamedTensors::new());
        for name in source.names() {
            if name.ends_with(".num_batches_tracked") {
                continue;
            }
            if name.contains(".time_") || name.contains("quant_conv.conv.") {
                let data = source.tensor(&name, FloatDType::F32)?;
                temporal.extend(data.map(|data| (name, data)));
            } else {
                names.insert(spatial_name(&name), name);
            }
        }
        let folded = Temporal(temporal).folded(config)?;
        Ok(Self { source, names, folded })
    }
}

impl<S: TensorSource> TensorSource for FoldedTensors<S> {
    fn names(&self) -> Vec<String> {
        self.names.keys().chain(self.folded.keys()).cloned().collect()
    }

    fn tensor(
        &mut self,
        name: &str,
        dtype: FloatDType,
    ) -> tensor_files::Result<Option<TensorData>> {
        let Some(published) = self.names.get(name) else {
            return self.folded.tensor(name, dtype);
        };
        let data = self.source.tensor(published, dtype)?;
        Ok(data.map(|data| match data.shape().to_vec()[..] {
            // A linear layer over channels is a 1x1 convolution; the codebook is the only other matrix.
            [rows, columns] if !name.starts_with("quantize.") => {
                let values: Vec<f32> = data.iter().collect();
                TensorData::new(values, [rows, columns, 1, 1]).convert_dtype(dtype.into())
            }
            _ => data,
        }))
    }
}

/// This crate's name of the tensor that is published as `name`, of a layer without time.
fn spatial_name(name: &str) -> String {
    const SAME: [(&str, &str); 10] = [
        ("down_block.down.", "down."),
        ("up_block.up.", "up."),
        ("middle_block.attn_norm.", "mid.attn_1.norm."),
        ("middle_block.", "mid."),
        (".q_proj.", ".q."),
        (".k_proj.", ".k."),
        (".v_proj.", ".v."),
        (".out_proj.", ".proj_out."),
        (".norm_layer.", "."),
        (".attn_norms.", ".attn."),
    ];
    let normed = name.contains(".attn_norms.");
    let mut name = name.to_owned();
    for (published, ours) in SAME {
        name = name.replace(published, ours);
    }
    match name.split_once(".attn.") {
        Some((level, rest)) if normed => {
            let (at, rest) = rest.split_once('.').unwrap_or((rest, ""));
            format!("{level}.attn.{at}.norm.{rest}")
        }
        _ => name,
    }
}

/// The published tensors of layers with time.
struct Temporal(NamedTensors);

/// A convolution of `[outputs, inputs, frames, side, side]`, its taps in the order of the values.
struct Conv3d {
    weight: Vec<f32>,
    bias: Vec<f32>,
    shape: [usize; 5],
}

impl Temporal {
    fn folded(&self, config: &VqConfig) -> Result<NamedTensors> {
        let (latent, embed) = (config.latent_channels, config.embed_dim);
        let mut folded = NamedTensors::new();
        let mut insert = |name: String, side: usize, [weight, bias]: [Vec<f32>; 2]| {
            let outputs = bias.len();
            let inputs = weight.len() / (outputs * side * side);
            let weight = TensorData::new(weight, [outputs, inputs, side, side]);
            folded.insert(format!("{name}.weight"), weight);
            folded.insert(format!("{name}.bias"), TensorData::new(bias, [outputs]));
        };
        for (name, shape) in [
            ("quant_conv", [embed, latent, 3, 1, 1]),
            ("post_quant_conv", [latent, embed, 3, 1, 1]),
        ] {
            insert(name.to_owned(), 1, self.conv(&format!("{name}.conv"), shape)?.last_tap());
        }
        let pair = |at: usize| {
            let name = format!("encoder.time_conv.{at}.conv.conv");
            self.conv(&name, [latent, latent, 4, 3, 3])
        };
        let (first, second) = (pair(0)?, pair(1)?);
        let weight = [first.taps(&[2, 3]), first.taps(&[0, 1, 2, 3])].concat();
        let bias = first.bias.repeat(2);
        insert("encoder.time.conv.0".to_owned(), 3, [weight, bias]);
        let [early, late] = [[2], [3]].map(|tap| second.taps(&tap));
        let row = latent * 9;
        let rows = early.chunks(row).zip(late.chunks(row));
        let weight = rows.flat_map(|(early, late)| [early, late].concat()).collect();
        insert("encoder.time.conv.1".to_owned(), 3, [weight, second.bias]);
        let shape = [latent, latent, 3, 3, 3];
        for at in 0..2 {
            let conv = self.conv(&format!("decoder.time_conv.{at}.conv.conv"), shape)?;
            insert(format!("decoder.time.conv.{at}"), 3, conv.last_tap());
        }
        let mut norms = NamedTensors::new();
        for part in ["encoder", "decoder"] {
            for at in 0..config.num_res_blocks {
                let published = format!("{part}.time_res_stack.{at}");
                let ours = format!("{part}.time.block.{at}");
                let conv = |of: &str| self.conv(&format!("{published}.{of}.conv"), shape);
                let norm = |of: &str| self.batch_norm(&format!("{published}.{of}"), latent);
                let second = norm("norm2")?;
                insert(format!("{ours}.conv1"), 3, scaled(conv("conv1")?.last_tap(), &second));
                insert(format!("{ours}.conv2"), 3, conv("conv2")?.last_tap());
                let [weight, bias] = norm("norm1")?.map(|values| TensorData::new(values, [latent]));
                norms.insert(format!("{ours}.norm.weight"), weight);
                norms.insert(format!("{ours}.norm.bias"), bias);
            }
        }
        folded.extend(norms);
        Ok(folded)
    }

    /// The values of the tensor called `name`.
    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        match self.0.get(name) {
            Some(data) if data.shape().to_vec() == shape => Ok(data.iter::<f32>().collect()),
            Some(data) => {
                let found = data.shape().to_vec();
                Err(Error::invalid(format!("tensor {name} is {found:?} instead of {shape:?}")))
            }
            None => Err(Error::invalid(format!("tensor {name} is missing"))),
        }
    }

    fn conv(&self, name: &str, shape: [usize; 5]) -> Result<Conv3d> {
        let weight = self.values(&format!("{name}.weight"), &shape)?;
        Ok(Conv3d { weight, bias: self.values(&format!("{name}.bias"), &shape[..1])?, shape })
    }

    /// Factor and summand of each channel of a batch normalisation with its running statistics.
    fn batch_norm(&self, name: &str, channels: usize) -> Result<[Vec<f32>; 2]> {
        let values = |of: &str| self.values(&format!("{name}.{of}"), &[channels]);
        let (weight, bias) = (values("weight")?, values("bias")?);
        let (mean, variance) = (values("running_mean")?, values("running_var")?);
        let factor = |(weight, variance): (&f32, &f32)| {
            f64::from(*weight) / (f64::from(*variance) + BATCH_NORM_EPSILON).sqrt()
        };
        let factors: Vec<f64> = weight.iter().zip(&variance).map(factor).collect();
        let summands = bias.iter().zip(&mean).zip(&factors);
        let summands =
            summands.map(|((bias, mean), factor)| f64::from(*bias) - f64::from(*mean) * factor);
        let rounded = |values: Vec<f64>| values.into_iter().map(|value| value as f32).collect();
        Ok([summands.collect(), factors].map(rounded)).map(|[bias, weight]| [weight, bias])
    }
}

impl Conv3d {
    /// The sum of the weights of `taps`, `[outputs, inputs, side, side]` in the order of the values.
    fn taps(&self, taps: &[usize]) -> Vec<f32> {
        let [_, _, frames, height, width] = self.shape;
        let area = height * width;
        let of_pair = |pair: &[f32]| -> Vec<f32> {
            let at = |place: usize| taps.iter().map(|tap| pair[tap * area + place]).sum();
            (0..area).map(at).collect()
        };
        self.weight.chunks(frames * area).flat_map(of_pair).collect()
    }

    /// Weight and bias for the first frame after zeros.
    fn last_tap(self) -> [Vec<f32>; 2] {
        [self.taps(&[self.shape[2] - 1]), self.bias]
    }
}

/// Weight and bias of a convolution followed by a factor and a summand for each output.
fn scaled(
    [mut weight, mut bias]: [Vec<f32>; 2],
    [factors, summands]: &[Vec<f32>; 2],
) -> [Vec<f32>; 2] {
    let row = weight.len() / factors.len();
    for (row, factor) in weight.chunks_mut(row).zip(factors) {
        row.iter_mut().for_each(|value| *value *= factor);
    }
    for ((bias, factor), summand) in bias.iter_mut().zip(factors).zip(summands) {
        *bias = *bias * factor + summand;
    }
    [weight, bias]
}
