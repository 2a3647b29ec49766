//! The kernels on the tensors of Burn's CPU backend.

use std::sync::Arc;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{Shape, TensorData};

use super::autodiff::ConvGradients;
use super::backend::ConvOps;
use super::conv::{Kernel, correlate};
use super::conv_weights::weight_gradients;
use super::group_norm::{self, Moments, Norm};
use super::plan::Plan;
use super::planes::Dims;
use crate::ops::fused::NormKernels;
use crate::ops::options::{Geometry, GroupNormOptions};

type Float = FloatTensor<Flex>;

/// A tensor whose values are contiguous; copied only where they were not.
struct Values(Float);

impl Values {
    fn new(tensor: Float) -> Self {
        Self(if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() })
    }

    fn get(&self) -> &[f32] {
        self.0.as_slice::<f32>().expect("`supports` admits only f32, and the values are contiguous")
    }
}

fn tensor(values: Vec<f32>, shape: Shape) -> Float {
    Float::from_data(TensorData::new(values, shape))
}

/// Sizes and plan of a convolution of these shapes of input and weight.
fn plan(input: &Shape, weight: &Shape, geometry: Geometry) -> (Dims, Plan) {
    let [batch, inputs, height, width] = input.dims();
    let [outputs, weight_inputs, side, _] = weight.dims();
    assert_eq!(inputs, weight_inputs, "convolution of {inputs} channels with weight {weight:?}");
    let size = [height, width];
    let dims = Dims { batch, inputs, outputs, input: size, output: geometry.output(size) };
    (dims, Plan::new(geometry, side))
}

/// The normalisation of an input of `shape`.
fn norm(shape: &Shape, options: GroupNormOptions) -> Norm {
    let GroupNormOptions { groups, epsilon, swish } = options;
    let [_, channels, height, width] = shape.dims();
    Norm { groups, channels: channels / groups, pixels: height * width, epsilon, swish }
}

impl ConvOps for Flex {
    fn fused_conv2d(x: Float, weight: Float, bias: Float, geometry: Geometry) -> Float {
        let (dims, plan) = plan(&x.shape(), &weight.shape(), geometry);
        let (x, weight, bias) = (Values::new(x), Values::new(weight), Values::new(bias));
        let output = dims.inputs * plan.kernel;
        let kernel = Kernel { values: weight.get(), output, input: plan.kernel };
        let y = correlate(&plan, dims, x.get(), kernel, Some(bias.get()));
        let [height, width] = dims.output;
        tensor(y, Shape::new([dims.batch, dims.outputs, height, width]))
    }
}

impl ConvGradients for Flex {
    fn conv2d_input(dy: Float, weight: Float, input: Shape, geometry: Geometry) -> Float {
        let (dims, plan) = plan(&input, &weight.shape(), geometry);
        let (dy, weight) = (Values::new(dy), Values::new(weight));
        let kernel =
            Kernel { values: weight.get(), output: plan.kernel, input: dims.inputs * plan.kernel };
        let dx = correlate(&plan.transpose(), dims.transpose(), dy.get(), kernel, None);
        tensor(dx, input)
    }

    fn conv2d_weight(x: Float, dy: Float, weight: Shape, geometry: Geometry) -> (Float, Float) {
        let (dims, plan) = plan(&x.shape(), &weight, geometry);
        let (x, dy) = (Values::new(x), Values::new(dy));
        let (dw, db) = weight_gradients(&plan, dims, x.get(), dy.get());
        (tensor(dw, weight), tensor(db, Shape::new([dims.outputs])))
    }
}

impl NormKernels for Flex {
    type Moments = Arc<[Moments]>;

    fn group_norm_forward(
        [x, weight, bias]: [Float; 3],
        options: GroupNormOptions,
    ) -> (Float, Self::Moments) {
        let shape = x.shape();
        let norm = norm(&shape, options);
        let (x, weight, bias) = (Values::new(x), Values::new(weight), Values::new(bias));
        let (y, moments) = group_norm::forward(norm, x.get(), weight.get(), bias.get());
        (tensor(y, shape), moments.into())
    }

    fn group_norm_backward(
        [x, weight, bias, dy]: [Float; 4],
        moments: Self::Moments,
        options: GroupNormOptions,
    ) -> [Float; 3] {
        let (shape, channels) = (x.shape(), weight.shape());
        let norm = norm(&shape, options);
        let [x, weight, bias, dy] = [x, weight, bias, dy].map(Values::new);
        let gradients =
            group_norm::backward(norm, x.get(), weight.get(), bias.get(), &moments, dy.get());
        let weight = tensor(gradients.weight, channels.clone());
        [tensor(gradients.input, shape), weight, tensor(gradients.bias, channels)]
    }
}
