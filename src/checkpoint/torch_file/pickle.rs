//! The restricted unpickler, which builds only tensors and plain containers.
//!
//! A pickle is a program for a stack machine that may call any Python function. Here the functions are
//! a closed list ([`Global::named`]); anything else is refused by name. Containers are stored in flat
//! vectors, so that a container may hold itself, and values that no tensor needs (floats, attributes)
//! are dropped.

use std::collections::HashMap;

use safetensors::Dtype;

use super::value::{Dict, Global, ONLY, Value};

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
    /// The number format of every storage.
    pub storages: HashMap<&'a str, Dtype>,
    /// The bytes left to read; after [`Machine::run`], those behind the pickle.
    pub input: &'a [u8],
    stack: Vec<Value<'a>>,
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
                2..=5 => {}
                other => return Err(format!("pickle protocol {other}; allowed: 2 to 5")),
            },
            0x95 => self.take(8).map(drop)?, // FRAME: a hint for buffering
            b'(' => self.marks.push(self.stack.len()),
            b'0' => self.pop().map(drop)?,
            b'1' => self.pop_mark().map(drop)?,
            b'N' => self.stack.push(Value::None),
            0x88 | 0x89 => self.stack.push(Value::Bool(opcode == 0x88)), // NEWTRUE, NEWFALSE
            b'G' => self.leaf(8)?,                                       // BINFLOAT
            b'J' | b'K' | b'M' | 0x8a => self.int(opcode)?,
            b'X' | 0x8c | 0x8d | b'T' | b'U' => self.text(opcode)?,
            b'B' => self.bytes(4)?,
            b'C' => self.bytes(1)?,
            0x8e => self.bytes(8)?,
            b'}' => self.push_dict(false),
            b']' => {
                self.stack.push(Value::List(self.lists.len()));
                self.lists.push(Vec::new());
            }
            b')' => self.push_tuple(0)?,
            0x85..=0x87 => self.push_tuple(usize::from(opcode - 0x84))?,
            b't' => {
                let items = self.pop_mark()?;
                self.tuple(items);
            }
            b'a' | b'e' => self.append(opcode)?,
            b's' | b'u' => self.set_items(opcode)?,
            b'q' | b'r' | 0x94 => self.put(opcode)?,
            b'h' | b'j' => self.get(opcode)?,
            b'c' | 0x93 => self.global(opcode)?,
            b'Q' => self.persistent_id()?,
            b'R' => self.reduce()?,
            b'b' => self.build()?,
            _ => return Err(refused(opcode)),
        }
        Ok(())
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.input.split_at_checked(len).ok_or("the pickle is truncated")?;
        self.input = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    /// An unsigned little-endian number of up to 8 bytes.
    fn number(&mut self, len: usize) -> Result<usize, String> {
        let mut bytes = [0; 8];
        bytes[..len].copy_from_slice(self.take(len)?);
        usize::try_from(u64::from_le_bytes(bytes)).map_err(|e| e.to_string())
    }

    fn leaf(&mut self, len: usize) -> Result<(), String> {
        self.take(len)?;
        self.stack.push(Value::Leaf);
        Ok(())
    }

    /// Bytes preceded by their length in `len_size` bytes.
    fn bytes(&mut self, len_size: usize) -> Result<(), String> {
        let len = self.number(len_size)?;
        self.leaf(len)
    }

    fn int(&mut self, opcode: u8) -> Result<(), String> {
        let (len, signed) = match opcode {
            b'K' => (1, false),
            b'M' => (2, false),
            b'J' => (4, true),
            _ => (usize::from(self.byte()?), true), // LONG1
        };
        if len > 8 {
            return self.leaf(len);
        }
        let bytes = self.take(len)?;
        let negative = signed && bytes.last().is_some_and(|last| last & 0x80 != 0);
        let mut extended = if negative { [0xff; 8] } else { [0; 8] };
        extended[..len].copy_from_slice(bytes);
        self.stack.push(Value::Int(i64::from_le_bytes(extended)));
        Ok(())
    }

    fn text(&mut self, opcode: u8) -> Result<(), String> {
        let len = match opcode {
            0x8c | b'U' => self.number(1)?,
            0x8d => self.number(8)?,
            _ => self.number(4)?,
        };
        let text = utf8(self.take(len)?)?;
        self.stack.push(Value::Text(text));
        Ok(())
    }

    fn pop(&mut self) -> Result<Value<'a>, String> {
        let value = self.top()?;
        self.stack.pop();
        Ok(value)
    }

    fn top(&self) -> Result<Value<'a>, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.last() {
            Some(&value) if self.stack.len() > floor => Ok(value),
            _ => Err("the pickle uses a value of an empty stack".to_owned()),
        }
    }

    fn pop_mark(&mut self) -> Result<Vec<Value<'a>>, String> {
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

    fn push_dict(&mut self, ordered: bool) {
        self.stack.push(Value::Dict(self.dicts.len()));
        self.dicts.push(Dict { items: Vec::new(), ordered });
    }

    fn append(&mut self, opcode: u8) -> Result<(), String> {
        let items = if opcode == b'e' { self.pop_mark()? } else { vec![self.pop()?] };
        let Value::List(list) = self.top()? else {
            return Err(format!("the pickle appends to {}", self.top()?.kind()));
        };
        self.lists[list].extend(items);
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
        let Value::Dict(dict) = self.top()? else {
            return Err(format!("the pickle sets items of {}", self.top()?.kind()));
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
            _ => self.memo.len(), // MEMOIZE
        };
        let value = self.top()?;
        self.memo.insert(slot, value);
        Ok(())
    }

    fn get(&mut self, opcode: u8) -> Result<(), String> {
        let slot = self.number(if opcode == b'h' { 1 } else { 4 })?;
        let value = self.memo.get(&slot).ok_or("the pickle recalls what it did not store")?;
        self.stack.push(*value);
        Ok(())
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
        self.stack.push(Value::Global(Global::named(module, name)?));
        Ok(())
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let end = self.input.iter().position(|&byte| byte == b'\n');
        let line = self.take(end.ok_or("the pickle is truncated")?)?;
        self.take(1)?;
        utf8(line)
    }

    /// `('storage', class, key, device, number of elements)`; the file's own size is used instead of the
    /// last one. Before PyTorch 1.6 a sixth entry named a view of another storage.
    fn persistent_id(&mut self) -> Result<(), String> {
        let id = self.pop()?;
        let Value::Tuple(id) = id else {
            return Err(format!("the pickle refers to a storage by {}", id.kind()));
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
            _ => return Err("the pickle refers to a storage in an unknown way".to_owned()),
        }
        Ok(())
    }

    fn reduce(&mut self) -> Result<(), String> {
        let (args, callee) = (self.pop()?, self.pop()?);
        let (Value::Global(callee), Value::Tuple(args)) = (callee, args) else {
            return Err(format!("the pickle calls {} with {}", callee.kind(), args.kind()));
        };
        let result = match (callee, &self.tuples[args][..]) {
            (Global::RebuildTensor, [_, _, _, _, _, _] | [_, _, _, _, _, _, Value::None]) => {
                Value::Tensor(args)
            }
            (Global::RebuildTensor, [_, _, _, _, _, _, _]) => {
                // Conjugate or negative bits, which would change the values.
                return Err("a tensor has metadata; save its resolve_conj().resolve_neg()".into());
            }
            (Global::RebuildParameter, [tensor @ Value::Tensor(_), ..]) => *tensor,
            (Global::Size, [sizes @ Value::Tuple(_)]) => *sizes,
            (Global::OrderedDict, []) => {
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
            other => Err(format!("the pickle sets attributes of {}; {ONLY}", other.kind())),
        }
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|_| "the pickle holds text that is not UTF-8".to_owned())
}

/// The message for an opcode that is not executed.
fn refused(opcode: u8) -> String {
    let name = match opcode {
        b'i' => "INST",
        b'o' => "OBJ",
        0x81 => "NEWOBJ",
        0x92 => "NEWOBJ_EX",
        0x82 => "EXT1",
        0x83 => "EXT2",
        0x84 => "EXT4",
        b'P' => "PERSID",
        _ => return format!("the pickle uses the opcode 0x{opcode:02x}; {ONLY}"),
    };
    format!("the pickle uses the opcode {name}; {ONLY}")
}
