//! The tensors of a `data.pkl` by name: nested dicts, joined by dots.

use safetensors::Dtype;

use super::escape::escaped;
use super::pickle::Machine;
use super::value::Value;

/// Maximum bytes of the names and shapes of all tensors for each byte of the pickle, which holds most names once;
/// more, if it is short.
const BUDGET_PER_BYTE: usize = 64;
const MIN_BUDGET: usize = 1 << 16;
/// Deepest nesting of dicts in which tensors are looked for.
const MAX_DEPTH: usize = 64;
/// PyTorch's own limit.
const MAX_DIMS: usize = 64;

/// A tensor as the pickle describes it, not yet checked against its storage.
#[derive(Debug, PartialEq)]
pub(super) struct PickledTensor<'a> {
    /// Its keys, joined by dots.
    pub name: String,
    /// The storage's entry below `data/`.
    pub storage: &'a str,
    pub dtype: Dtype,
    /// Elements of the storage before its first one.
    pub offset: u64,
    pub shape: Vec<usize>,
    /// Elements of the storage from one index to the next, per axis.
    pub strides: Vec<usize>,
}

/// What a `data.pkl` holds, in its order.
#[derive(Debug, Default)]
pub(super) struct Contents<'a> {
    pub tensors: Vec<PickledTensor<'a>>,
    /// Names and classes of objects that are neither tensors nor containers; nothing else is known of
    /// them.
    pub objects: Vec<(String, String)>,
}

/// The tensors and objects of a `data.pkl`; `Err` says what is wrong.
pub(super) fn contents(pickle: &[u8]) -> Result<Contents<'_>, String> {
    let machine = Machine::run(pickle)?;
    let Value::Dict(root) = machine.root else {
        let kind = machine.kind(machine.root);
        return Err(format!("the pickle holds {kind}, not a dict of tensors"));
    };
    let budget = MIN_BUDGET.max(pickle.len().saturating_mul(BUDGET_PER_BYTE));
    let (path, found) = (Vec::new(), Contents::default());
    let mut walk = Walk { machine: &machine, budget, path, found };
    walk.dict(root, "")?;
    Ok(walk.found)
}

/// Collects the tensors below a dict.
struct Walk<'a, 'm> {
    machine: &'m Machine<'a>,
    /// Bytes left for names and shapes: dicts that share dicts could have exponentially many.
    budget: usize,
    /// The dicts from the root to the current one.
    path: Vec<usize>,
    found: Contents<'a>,
}

impl<'a> Walk<'a, '_> {
    fn dict(&mut self, dict: usize, prefix: &str) -> Result<(), String> {
        // What a dict holds within itself, it holds outside as well.
        if self.path.len() == MAX_DEPTH || self.path.contains(&dict) {
            return Ok(());
        }
        self.path.push(dict);
        for &(key, value) in &self.machine.dicts[dict].items {
            self.spend(1)?;
            if !matches!(value, Value::Dict(_) | Value::Tensor(_) | Value::Object(_)) {
                continue;
            }
            let name = match key {
                Value::Text(text) => format!("{prefix}{text}"),
                Value::Int(number) => format!("{prefix}{number}"),
                _ => continue,
            };
            self.spend(name.len())?;
            match value {
                Value::Dict(inner) => self.dict(inner, &format!("{name}."))?,
                Value::Tensor(args) => self.tensor(args, name)?,
                Value::Object(class) => {
                    let class = self.machine.class(class);
                    self.spend(name.len() + class.len())?;
                    self.found.objects.push((name, class));
                }
                _ => {}
            }
        }
        self.path.pop();
        Ok(())
    }

    fn tensor(&mut self, args: usize, name: String) -> Result<(), String> {
        let refuse = |what: String| format!("tensor {}: {what}", escaped(&name));
        let tuples = &self.machine.tuples;
        let [
            Value::Storage(dtype, storage),
            Value::Int(offset),
            Value::Tuple(shape),
            Value::Tuple(strides),
        ] = tuples[args][..4]
        else {
            return Err(refuse("its storage, offset, shape or strides are of another kind".into()));
        };
        let (shape, strides) = (&tuples[shape], &tuples[strides]);
        let (sizes, steps) = (shape.len(), strides.len());
        if sizes != steps || sizes > MAX_DIMS {
            return Err(refuse(format!(
                "{sizes} sizes and {steps} strides; at most {MAX_DIMS}, of each"
            )));
        }
        let whole = |value: &Value<'_>| match *value {
            Value::Int(number) => usize::try_from(number).ok(),
            _ => None,
        };
        let shape = shape.iter().map(whole).collect::<Option<Vec<_>>>();
        let strides = strides.iter().map(whole).collect::<Option<Vec<_>>>();
        let (Some(shape), Some(strides), Ok(offset)) = (shape, strides, u64::try_from(offset))
        else {
            return Err(refuse("a size, stride or offset is no number from 0 to 2^63".into()));
        };
        self.spend(size_of::<PickledTensor<'_>>() + 2 * size_of::<usize>() * sizes)?;
        self.found.tensors.push(PickledTensor { name, storage, dtype, offset, shape, strides });
        Ok(())
    }

    fn spend(&mut self, bytes: usize) -> Result<(), String> {
        self.budget = self
            .budget
            .checked_sub(bytes)
            .ok_or("the names of the tensors are too long, or dicts share dicts without end")?;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// The message for a pickle of protocol 2 with `body`, which needs no STOP to be refused.
    fn refusal(body: &[u8]) -> String {
        contents(&[b"\x80\x02", body, b"."].concat()).unwrap_err()
    }

    fn tensors(pickle: &[u8]) -> Result<Vec<PickledTensor<'_>>, String> {
        contents(pickle).map(|found| found.tensors)
    }

    /// A dict with the tensor `t` of `sizes`, `strides` and `offset`, all given as opcodes.
    fn one_tensor(offset: &[u8], sizes: &[u8], strides: &[u8]) -> Vec<u8> {
        let storage = b"((U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x06tQ";
        let hooks = b"\x89ccollections\nOrderedDict\n)RtR";
        let start = b"\x80\x02}U\x01tctorch._utils\n_rebuild_tensor_v2\n";
        [start, &storage[..], offset, b"(", sizes, b"t(", strides, b"t", hooks, b"s."].concat()
    }

    #[test]
    fn a_handwritten_tensor_is_read() {
        let pickle = one_tensor(b"K\x01", b"K\x02J\x03\0\0\0", b"\x8a\x01\x01M\x02\0");
        let expected = PickledTensor {
            name: "t".to_owned(),
            storage: "0",
            dtype: Dtype::F32,
            offset: 1,
            shape: vec![2, 3],
            strides: vec![1, 2],
        };
        assert_eq!(tensors(&pickle).unwrap(), [expected]);
    }

    #[test]
    fn globals_outside_the_list_are_never_called_and_become_objects_of_their_name() {
        for (body, name) in [
            (&b"cposix\nsystem\n(U\x02lstR"[..], "posix.system"),
            (b"\x8c\x08builtins\x8c\x04eval\x93U\x011\x85R", "builtins.eval"),
            (b"c__builtin__\neval\nU\x011\x85R", "__builtin__.eval"),
            (b"csubprocess\nPopen\n)R", "subprocess.Popen"),
            (b"ctorch.nn.modules.linear\nLinear\n)\x81}b", "torch.nn.modules.linear.Linear"),
            (b"ctorch\nload\n", "torch.load"),
            (b"ctorch\nComplexFloatStorage\n", "torch.ComplexFloatStorage"),
            (b"ctorch.storage\n_load_from_bytes\n", "torch.storage._load_from_bytes"),
            (b"ctorch._utils\n_rebuild_sparse_tensor\n)R", "torch._utils._rebuild_sparse_tensor"),
            (b"ccollections\nOrderedDict.fromkeys\n", "collections.OrderedDict.fromkeys"),
            (b"(iposix\nsystem\n", "posix.system"),
            (b"(cposix\nsystem\nU\x02lso", "posix.system"),
            (b"cposix\nsystem\n)}\x92", "posix.system"),
            (b"\x82\x01", "copyreg.extension"),
            (b"\x83\x01\0", "copyreg.extension"),
            (b"\x84\x01\0\0\0", "copyreg.extension"),
            (b"P0\n", "persistent.id"),
            (b"\x8f(K\x01K\x02\x90", "builtins.set"),
            (b"(K\x01\x91", "builtins.frozenset"),
            // Items and attributes of an unknown class are dropped with it.
            (b"ca\nb\n)\x81U\x01kU\x01vs(K\x01eK\x01a}b", "a.b"),
            // A name cannot write lines of its own into the message.
            (b"\x8c\x02a\n\x8c\x01b\x93", "a\\n.b"),
        ] {
            let expected = format!("the pickle holds an object of {name}, not a dict of tensors");
            assert_eq!(refusal(body), expected);
            let inside = [b"\x80\x02}U\x01k", body, b"s."].concat();
            let found = contents(&inside).unwrap();
            assert_eq!((found.tensors, found.objects), (vec![], vec![("k".into(), name.into())]));
        }
        assert_eq!(refusal(b"\xff"), "the pickle has the unknown opcode 0xff");
    }

    #[test]
    fn values_of_every_opcode_are_read_past() {
        let tensor = one_tensor(b"K\x01", b"K\x02", b"K\x01");
        let tensor = &tensor[3..tensor.len() - 2];
        for value in [
            &b"I12\n"[..],
            b"I01\n",
            b"L12L\n",
            b"F1.5\n",
            b"S'a\\n'\n",
            b"Va\n",
            b"G\0\0\0\0\0\0\0\0",
            b"\x8b\x02\0\0\0ab",
            b"\x8a\x09123456789",
            b"B\x01\0\0\0\xff",
            b"U\x01\xff",
            b"X\x03\0\0\0\xed\xa0\x80",
            b"\x96\x01\0\0\0\0\0\0\0a",
            b"\x97\x98",
            b"(K\x01K\x02d",
            b"(K\x01K\x02l",
            b"K\x0120(K\x01tp7\n0g7\n0",
            b"ccollections\ndefaultdict\ncbuiltins\nlist\n\x85RK\x01K\x02s",
        ] {
            let pickle = [b"\x80\x02}U\x01v", value, b"s", tensor, b"s."].concat();
            let found = contents(&pickle);
            let names = found.map(|found| found.tensors.len());
            assert_eq!(names, Ok(1), "{:?}", String::from_utf8_lossy(value));
        }
    }

    #[test]
    fn only_the_allowed_names_are_called_and_with_their_arguments() {
        for (body, message) in [
            (&b"})R"[..], "the pickle calls a dict with a tuple"),
            (b"U\x04eval)R", "the pickle calls a string with a tuple"),
            (b"ccollections\nOrderedDict\n]\x85R", "the pickle calls OrderedDict with 1 arguments"),
            (b"ctorch\nFloatStorage\n)R", "the pickle calls Storage(F32) with 0 arguments"),
            (b"}}b", "the pickle sets attributes of a dict"),
            (b"ctorch\nSize\n}b", "the pickle sets attributes of a class or function"),
            (b"U\x04evalK\x01\x81", "the pickle makes an object of a string"),
            (b"(o", "the pickle makes an object without a class"),
            (b"]pa\n", "the pickle stores in a slot without a number"),
            (b"U\x01aQ", "the pickle refers to a storage by a string"),
            (b")Q", "the pickle refers to a storage in an unknown way"),
            (b"]K\x01K\x02s", "the pickle sets items of a list"),
            (b"}K\x01a", "the pickle appends to a dict"),
            (b"}(K\x01u", "the pickle sets a key without a value"),
            (b"", "the pickle uses a value of an empty stack"),
            (b"}(s", "the pickle uses a value of an empty stack"),
            (b"u", "the pickle ends a group that it did not begin"),
            (b"h\x00", "the pickle recalls what it did not store"),
            (b"]", "the pickle holds a list, not a dict of tensors"),
            (b"\x80\x06", "pickle protocol 6; allowed: 0 to 5"),
        ] {
            let found = refusal(body);
            assert!(found.starts_with(message), "{found:?} is not {message:?}");
        }
    }

    #[test]
    fn sizes_that_are_no_counts_are_refused() {
        let minus_one = b"J\xff\xff\xff\xff";
        for (pickle, message) in [
            (one_tensor(b"K\0", minus_one, b"K\x01"), "is no number from 0"),
            (one_tensor(b"K\0", b"K\x01", minus_one), "is no number from 0"),
            (one_tensor(minus_one, b"K\x01", b"K\x01"), "is no number from 0"),
            (one_tensor(b"K\0", b"N", b"K\x01"), "is no number from 0"),
            (one_tensor(b"K\0", b"K\x01", b""), "1 sizes and 0 strides"),
            (one_tensor(b"K\0", &b"K\x01".repeat(65), &b"K\x01".repeat(65)), "65 sizes"),
            (one_tensor(b"N", b"", b""), "are of another kind"),
        ] {
            let found = tensors(&pickle).unwrap_err();
            assert!(found.starts_with("tensor t: ") && found.contains(message), "{found}");
        }
    }

    #[test]
    fn containers_may_hold_themselves_but_not_share_without_end() {
        // d["a"] = d, and twice as many ways at each level.
        assert!(tensors(b"\x80\x02}q\x00U\x01ah\x00sU\x01bh\x00s.").unwrap().is_empty());
        // 50 dicts, each twice in the next: 2^50 ways to the last.
        let mut sharing = b"}".to_vec();
        for _ in 0..50 {
            sharing.extend(b"q\x00}(U\x01ah\x00U\x01bh\x00u");
        }
        assert!(refusal(&sharing).contains("dicts share dicts without end"));
        // A list in itself holds no tensors by name, and is ignored.
        assert!(tensors(b"\x80\x02}U\x01a]q\x00h\x00as.").unwrap().is_empty());
        // As deep as the pickle is long: no recursion.
        let deep =
            [&b"}U\x01a"[..], &b"}U\x01b".repeat(100_000), b"N", &b"s".repeat(100_001)].concat();
        assert!(tensors(&[&b"\x80\x02"[..], &deep, b"."].concat()).unwrap().is_empty());
        let tuples = [&b"}U\x01aN"[..], &b"\x85".repeat(1_000_000), b"s"].concat();
        assert_eq!(tensors(&[&b"\x80\x02"[..], &tuples, b"."].concat()).unwrap(), []);
    }

    #[test]
    fn a_truncated_pickle_is_an_error_wherever_it_ends() {
        let pickle = one_tensor(b"K\x01", b"K\x02K\x03", b"K\x01K\x02");
        for end in 0..pickle.len() {
            assert!(tensors(&pickle[..end]).is_err(), "{end}");
        }
        assert!(tensors(&pickle).is_ok());
    }

    #[test]
    fn lengths_beyond_the_end_and_far_memo_slots_cost_nothing() {
        for body in [
            &b"X\xff\xff\xff\xff"[..],
            b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",
            b"\x95\xff",
        ] {
            assert_eq!(refusal(body), "the pickle is truncated");
        }
        assert!(tensors(b"\x80\x02}r\xff\xff\xff\xff.").unwrap().is_empty());
        let many = [&b"\x80\x02"[..], &b"N0".repeat(1 << 23), b"}."].concat();
        assert_eq!(tensors(&many).unwrap_err(), "the pickle has more than 16777216 opcodes");
    }
}
