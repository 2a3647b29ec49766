//! The values that a pickle may build.

use safetensors::Dtype;

use super::escape::escaped;
use super::tensor_info::storage_dtype;

/// The callables and classes that a pickle may name.
#[derive(Clone, Copy, Debug)]
pub(super) enum Global {
    RebuildTensor,
    RebuildParameter,
    OrderedDict,
    Size,
    Storage(Dtype),
}

impl Global {
    /// The global `module.name`; `Err` if it is not among the allowed ones.
    pub(super) fn named(module: &str, name: &str) -> Result<Self, String> {
        match (module, name) {
            ("torch._utils", "_rebuild_tensor_v2") => Ok(Self::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Ok(Self::RebuildParameter),
            ("collections", "OrderedDict") => Ok(Self::OrderedDict),
            ("torch", "Size") => Ok(Self::Size),
            ("torch", class) if let Some(dtype) = storage_dtype(class) => Ok(Self::Storage(dtype)),
            _ => Err(format!(
                "the pickle asks for {}.{}, which is not among the allowed names; {ONLY}",
                escaped(module),
                escaped(name)
            )),
        }
    }
}

/// The end of messages about refused pickles.
pub(super) const ONLY: &str = "only tensors and plain containers are read";

/// A value on the stack or in the memo, cheap to copy: containers are indices into the machine.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Value<'a> {
    /// A value that no tensor needs: a float, bytes, an integer of more than 64 bits.
    Leaf,
    #[default]
    None,
    Bool(bool),
    Int(i64),
    Text(&'a str),
    Global(Global),
    List(usize),
    Tuple(usize),
    Dict(usize),
    Storage(Dtype, &'a str),
    /// The tuple of the arguments that rebuild it.
    Tensor(usize),
}

impl Value<'_> {
    /// Its type, for messages.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Leaf | Self::None | Self::Bool(_) | Self::Int(_) => "a plain value",
            Self::Text(_) => "a string",
            Self::Global(_) => "a class or function",
            Self::List(_) => "a list",
            Self::Tuple(_) => "a tuple",
            Self::Dict(_) => "a dict",
            Self::Storage(..) => "a storage",
            Self::Tensor(_) => "a tensor",
        }
    }
}

/// A dict of the pickle.
#[derive(Debug, Default)]
pub(super) struct Dict<'a> {
    pub items: Vec<(Value<'a>, Value<'a>)>,
    /// An `OrderedDict`, whose attributes (`_metadata` of a module's state) may be set.
    pub ordered: bool,
}
