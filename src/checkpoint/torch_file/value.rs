//! The values that a pickle may build.

use safetensors::Dtype;

use super::tensor_info::storage_dtype;

/// The callables and classes whose meaning is known.
#[derive(Clone, Copy, Debug)]
pub(super) enum Global {
    RebuildTensor,
    RebuildParameter,
    /// A tensor of a subclass: the function that rebuilds it, the class, its arguments, its attributes.
    RebuildFromType,
    OrderedDict,
    DefaultDict,
    Size,
    Storage(Dtype),
}

impl Global {
    /// The global `module.name`; `None` if its meaning is not known.
    pub(super) fn named(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                Self::RebuildParameter
            }
            ("torch._tensor", "_rebuild_from_type_v2") => Self::RebuildFromType,
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("collections", "defaultdict") => Self::DefaultDict,
            ("torch", "Size") => Self::Size,
            ("torch", class) => Self::Storage(storage_dtype(class)?),
            _ => return None,
        })
    }
}

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
    /// A class or function of unknown meaning, or what a call of it returned: nothing was run. An index
    /// into the machine's classes.
    Object(usize),
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
            Self::Object(_) => "an object",
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
    /// An `OrderedDict` or `defaultdict`, whose attributes (`_metadata` of a module's state) may be set.
    pub ordered: bool,
}
