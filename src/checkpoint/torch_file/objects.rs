//! The opcodes that make objects of classes whose meaning is not known: nothing is constructed.

use super::escape::escaped;
use super::pickle::Machine;
use super::value::{Global, Value};

impl<'a> Machine<'a> {
    /// Executes an opcode that makes an object of unknown meaning: its class is kept, its content is not.
    pub(super) fn step_of_objects(&mut self, opcode: u8) -> Result<(), String> {
        match opcode {
            0x8f => self.push_object("builtins", "set"),
            0x90 => {
                self.pop_mark()?; // ADDITEMS
                self.top()?;
            }
            0x91 => {
                self.pop_mark()?;
                self.push_object("builtins", "frozenset");
            }
            b'i' => {
                let (module, name) = (self.line()?, self.line()?);
                self.pop_mark()?;
                self.push_object(module, name);
            }
            b'o' => {
                let class = self.pop_mark()?.first().copied();
                let class = class.ok_or("the pickle makes an object without a class")?;
                self.push_instance(class)?;
            }
            // NEWOBJ and NEWOBJ_EX: a class and its arguments
            0x81 | 0x92 => {
                for _ in 0..1 + usize::from(opcode == 0x92) {
                    self.pop()?;
                }
                let class = self.pop()?;
                self.push_instance(class)?;
            }
            0x82..=0x84 => {
                self.take([1, 2, 4][usize::from(opcode - 0x82)])?;
                self.push_object("copyreg", "extension");
            }
            b'P' => {
                self.line()?;
                self.push_object("persistent", "id");
            }
            _ => return Err(format!("the pickle has the unknown opcode 0x{opcode:02x}")),
        }
        Ok(())
    }

    /// What `class` makes.
    pub(super) fn push_instance(&mut self, class: Value<'a>) -> Result<(), String> {
        match class {
            Value::Global(Global::OrderedDict | Global::DefaultDict) => self.push_dict(true),
            Value::Global(Global::Size) => self.push_object("torch", "Size"),
            Value::Object(_) => self.stack.push(class),
            other => return Err(format!("the pickle makes an object of {}", other.kind())),
        }
        Ok(())
    }

    pub(super) fn push_object(&mut self, module: &'a str, name: &'a str) {
        self.stack.push(Value::Object(self.classes.len()));
        self.classes.push((module, name));
    }

    /// The type of `value` for messages, the class of an object included.
    pub(super) fn kind(&self, value: Value<'a>) -> String {
        match value {
            Value::Object(class) => format!("an object of {}", self.class(class)),
            other => other.kind().to_owned(),
        }
    }

    /// Module and name of the class at `index`.
    pub(super) fn class(&self, index: usize) -> String {
        let (module, name) = self.classes[index];
        format!("{}.{}", escaped(module), escaped(name))
    }
}
