//! The restricted unpickler, which builds only tensors and plain containers.
//!
//! A pickle is a program for a stack machine that may call any Python function. Here no function is ever
//! called: those of a closed list ([`Global::named`]) have a meaning, and a call of any other one gives
//! an object of which only the class is known, so that a training run's checkpoint can be read past its
//! callbacks and settings. Containers are stored in flat vectors, so that a container may hold itself,
//! and values that no tensor needs (floats, attributes) are dropped.

use std::collections::HashMap;

use safetensors::Dtype;

use super::value::{Dict, Global, Value};

/// Maximum number of opcodes in a pickle. Each builds at most one value, so this bounds memory; a
/// tensor takes about 30.
const MAX_OPCODES: usize = 1 << 24;

/// The stack machine; after [`Machine::run`], `root` is the pickled value.
#[derive(Debug, Default)]
pub(super) struct Machine<'a> {
    pub root: Value<'a>,
    pub tuples: Vec<Vec<Value<'a>>>,
    pub dicts: Vec<Dict<'a>>,
    pub lists: Vec<Vec<Value<'a>>>,
    /// Modules and names of the classes and functions of unknown meaning.
    pub classes: Vec<(&'a str, &'a str)>,
    /// The number format of every storage.
    pub storages: HashMap<&'a str, Dtype>,
    /// The bytes left to read; after [`Machine::run`], those behind the pickle.
    pub input: &'a [u8],
    pub(super) stack: Vec<Value<'a>>,
    /// Heights of the stack at the open marks.
    marks: Vec<usize>,
    memo: HashMap<usize, Value<'a>>,
}

impl<'a> Machine<'a> {
    /// Runs the pickle at the beginning of `pickle`; `Err` says what is wrong or refused.
    pub(super) fn run(pickle: &'a [u8]) -> Result<Self, String> {
        let mut machine = Self { input: pickle, ..Self::default() };
        for _ in 0..MAX_OPCODES {
            match machine.byte()? {
                b'.' => {
                    machine.root = machine.pop()?;
                    return Ok(machine);
                }
                opcode => machine.step(opcode)?,
            }
        }
        Err(format!("the pickle has more than {MAX_OPCODES} opcodes"))
    }

    /// The value of `key` in the pickled dict.
    pub(super) fn item(&self, key: &str) -> Option<Value<'a>> {
        let Value::Dict(root) = self.root else { return None };
        let is_key = |name: &Value<'_>| matches!(name, Value::Text(text) if *text == key);
        self.dicts[root].items.iter().find(|(name, _)| is_key(name)).map(|(_, value)| *value)
    }

    /// Executes one opcode.
    fn step(&mut self, opcode: u8) -> Result<(), String> {
        match opcode {
            0x80 => match self.byte()? {
                0..=5 => {}
                other => return Err(format!("pickle protocol {other}; allowed: 0 to 5")),
            },
            0x95 => self.take(8).map(drop)?, // FRAME: a hint for buffering
            b'(' => self.marks.push(self.stack.len()),
            b'0' => self.pop().map(drop)?,
            b'1' => self.pop_mark().map(drop)?,
            b'2' => self.stack.push(self.top()?),
            b'N' => self.stack.push(Value::None),
            0x88 | 0x89 => self.stack.push(Value::Bool(opcode == 0x88)), // NEWTRUE, NEWFALSE
            b'G' => self.leaf(8)?,                                       // BINFLOAT
            b'J' | b'K' | b'M' | 0x8a => self.int(opcode)?,
            b'X' | 0x8c | 0x8d | b'T' | b'U' => self.text(opcode)?,
            b'B' | 0x8b => self.bytes(4)?, // LONG4 is laid out like bytes
            b'C' => self.bytes(1)?,
            0x8e | 0x96 => self.bytes(8)?,
            b'I' | b'L' | b'F' | b'S' | b'V' => self.line_of_text(opcode)?,
            0x97 => self.stack.push(Value::Leaf), // NEXT_BUFFER
            0x98 => self.top().map(drop)?,        // READONLY_BUFFER
            b'}' => self.push_dict(false),
            b']' => self.push_list(Vec::new()),
            b'd' => {
                let items = self.pop_mark()?;
                self.push_dict(false);
                self.add_items(items)?;
            }
            b'l' => {
                let items = self.pop_mark()?;
                self.push_list(items);
            }
            b')' => self.push_tuple(0)?,
            0x85..=0x87 => self.push_tuple(usize::from(opcode - 0x84))?,
            b't' => {
                let items = self.pop_mark()?;
                self.tuple(items);
            }
            b'a' | b'e' => self.append(opcode)?,
            b's' | b'u' => self.set_items(opcode)?,
            b'q' | b'r' | b'p' | 0x94 => self.put(opcode)?,
            b'h' | b'j' | b'g' => self.get(opcode)?,
            b'c' | 0x93 => self.global(opcode)?,
            b'Q' => self.persistent_id()?,
            b'R' => self.reduce()?,
            b'b' => self.build()?,
            _ => self.step_of_objects(opcode)?,
        }
        Ok(())
    }

    pub(super) fn pop(&mut self) -> Result<Value<'a>, String> {
        let value = self.top()?;
        self.stack.pop();
        Ok(value)
    }

    pub(super) fn top(&self) -> Result<Value<'a>, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.last() {
            Some(&value) if self.stack.len() > floor => Ok(value),
            _ => Err("the pickle uses a value of an empty stack".to_owned()),
        }
    }

    pub(super) fn pop_mark(&mut self) -> Result<Vec<Value<'a>>, String> {
        let mark = self.marks.pop().ok_or("the pickle ends a group that it did not begin")?;
        Ok(self.stack.split_off(mark))
    }

    fn tuple(&mut self, items: Vec<Value<'a>>) {
        self.stack.push(Value::Tuple(self.tuples.len()));
        self.tuples.push(items);
    }

    /// Replaces the topmost `len` values by a tuple of them.
    fn push_tuple(&mut self, len: usize) -> Result<(), String> {
        let mut items = vec![Value::None; len];
        for item in items.iter_mut().rev() {
            *item = self.pop()?;
        }
        self.tuple(items);
        Ok(())
    }

    pub(super) fn push_dict(&mut self, ordered: bool) {
        self.stack.push(Value::Dict(self.dicts.len()));
        self.dicts.push(Dict { items: Vec::new(), ordered });
    }

    fn push_list(&mut self, items: Vec<Value<'a>>) {
        self.stack.push(Value::List(self.lists.len()));
        self.lists.push(items);
    }

    fn append(&mut self, opcode: u8) -> Result<(), String> {
        let items = if opcode == b'e' { self.pop_mark()? } else { vec![self.pop()?] };
        match self.top()? {
            Value::List(list) => self.lists[list].extend(items),
            Value::Object(_) => {}
            other => return Err(format!("the pickle appends to {}", other.kind())),
        }
        Ok(())
    }

    fn set_items(&mut self, opcode: u8) -> Result<(), String> {
        let items = match opcode {
            b'u' => self.pop_mark()?,
            _ => {
                let value = self.pop()?;
                vec![self.pop()?, value]
            }
        };
        self.add_items(items)
    }

    /// Adds keys and values to the topmost dict.
    fn add_items(&mut self, items: Vec<Value<'a>>) -> Result<(), String> {
        let dict = match self.top()? {
            Value::Dict(dict) => dict,
            Value::Object(_) => return Ok(()),
            other => return Err(format!("the pickle sets items of {}", other.kind())),
        };
        let (pairs, []) = items.as_chunks::<2>() else {
            return Err("the pickle sets a key without a value".to_owned());
        };
        self.dicts[dict].items.extend(pairs.iter().map(|&[key, value]| (key, value)));
        Ok(())
    }

    fn put(&mut self, opcode: u8) -> Result<(), String> {
        let slot = match opcode {
            b'q' => self.number(1)?,
            b'r' => self.number(4)?,
            b'p' => self.slot()?,
            _ => self.memo.len(), // MEMOIZE
        };
        let value = self.top()?;
        self.memo.insert(slot, value);
        Ok(())
    }

    fn get(&mut self, opcode: u8) -> Result<(), String> {
        let slot = match opcode {
            b'h' => self.number(1)?,
            b'j' => self.number(4)?,
            _ => self.slot()?,
        };
        let value = self.memo.get(&slot).ok_or("the pickle recalls what it did not store")?;
        self.stack.push(*value);
        Ok(())
    }

    /// The number of a memo's slot on a line of its own.
    fn slot(&mut self) -> Result<usize, String> {
        self.line()?.parse().map_err(|_| "the pickle stores in a slot without a number".to_owned())
    }

    fn global(&mut self, opcode: u8) -> Result<(), String> {
        let (module, name) = if opcode == b'c' {
            (self.line()?, self.line()?)
        } else {
            match (self.pop()?, self.pop()?) {
                (Value::Text(name), Value::Text(module)) => (module, name),
                _ => return Err("the pickle names a class by something else than text".to_owned()),
            }
        };
        match Global::named(module, name) {
            Some(global) => self.stack.push(Value::Global(global)),
            None => self.push_object(module, name),
        }
        Ok(())
    }

    /// `('storage', class, key, device, number of elements)`; the file's own size is used instead of the
    /// last one. Before PyTorch 1.6 a sixth entry named a view of another storage.
    fn persistent_id(&mut self) -> Result<(), String> {
        let id = self.pop()?;
        let Value::Tuple(id) = id else {
            return Err(format!("the pickle refers to a storage by {}", self.kind(id)));
        };
        match self.tuples[id][..] {
            [
                Value::Text("storage"),
                Value::Global(Global::Storage(dtype)),
                Value::Text(key),
                Value::Text(_),
                Value::Int(_),
                ref view @ ..,
            ] if matches!(view, [] | [Value::None]) => {
                self.storages.insert(key, dtype);
                self.stack.push(Value::Storage(dtype, key));
            }
            // A storage of numbers that no weight has.
            [Value::Text("storage"), class @ Value::Object(_), ..] => self.stack.push(class),
            _ => return Err("the pickle refers to a storage in an unknown way".to_owned()),
        }
        Ok(())
    }

    fn reduce(&mut self) -> Result<(), String> {
        let (args, callee) = (self.pop()?, self.pop()?);
        let (callee, args) = match (callee, args) {
            (Value::Object(_), _) => {
                self.stack.push(callee);
                return Ok(());
            }
            (Value::Global(callee), Value::Tuple(args)) => (callee, args),
            _ => return Err(format!("the pickle calls {} with {}", callee.kind(), args.kind())),
        };
        let result = match (callee, &self.tuples[args][..]) {
            (Global::RebuildTensor, [Value::Object(storage), ..]) => Value::Object(*storage),
            (
                Global::RebuildTensor,
                [_, _, _, _] | [_, _, _, _, _, _] | [_, _, _, _, _, _, Value::None],
            ) => Value::Tensor(args),
            (Global::RebuildTensor, [_, _, _, _, _, _, _]) => {
                // Conjugate or negative bits, which would change the values.
                return Err("a tensor has metadata; save its resolve_conj().resolve_neg()".into());
            }
            (Global::RebuildParameter, [tensor @ (Value::Tensor(_) | Value::Object(_)), ..]) => {
                *tensor
            }
            (
                Global::RebuildFromType,
                [Value::Global(Global::RebuildTensor), _, Value::Tuple(inner), _],
            ) => match &self.tuples[*inner][..] {
                [Value::Storage(..), _, _, _, _, _] => Value::Tensor(*inner),
                _ => Value::Leaf,
            },
            (Global::RebuildFromType, [_, class @ Value::Object(_), ..]) => *class,
            (Global::Size, [sizes @ Value::Tuple(_)]) => *sizes,
            (Global::OrderedDict, []) | (Global::DefaultDict, _) => {
                self.push_dict(true);
                return Ok(());
            }
            (callee, args) => {
                return Err(format!("the pickle calls {callee:?} with {} arguments", args.len()));
            }
        };
        self.stack.push(result);
        Ok(())
    }

    fn build(&mut self) -> Result<(), String> {
        self.pop()?;
        match self.top()? {
            Value::Dict(dict) if self.dicts[dict].ordered => Ok(()),
            Value::Object(_) | Value::Tensor(_) => Ok(()),
            other => Err(format!("the pickle sets attributes of {}", other.kind())),
        }
    }
}
