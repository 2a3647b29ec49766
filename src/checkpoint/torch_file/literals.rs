//! The opcodes that push numbers and text, and what they read.

use super::pickle::Machine;
use super::value::Value;

impl<'a> Machine<'a> {
    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.input.split_at_checked(len).ok_or("the pickle is truncated")?;
        self.input = rest;
        Ok(taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    /// An unsigned little-endian number of up to 8 bytes.
    pub(super) fn number(&mut self, len: usize) -> Result<usize, String> {
        let mut bytes = [0; 8];
        bytes[..len].copy_from_slice(self.take(len)?);
        usize::try_from(u64::from_le_bytes(bytes)).map_err(|e| e.to_string())
    }

    pub(super) fn leaf(&mut self, len: usize) -> Result<(), String> {
        self.take(len)?;
        self.stack.push(Value::Leaf);
        Ok(())
    }

    /// Bytes preceded by their length in `len_size` bytes.
    pub(super) fn bytes(&mut self, len_size: usize) -> Result<(), String> {
        let len = self.number(len_size)?;
        self.leaf(len)
    }

    pub(super) fn int(&mut self, opcode: u8) -> Result<(), String> {
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

    pub(super) fn text(&mut self, opcode: u8) -> Result<(), String> {
        let len = match opcode {
            0x8c | b'U' => self.number(1)?,
            0x8d => self.number(8)?,
            _ => self.number(4)?,
        };
        // Python writes bytes of its version 2 and lone surrogates here, which no name of a tensor has.
        let text = std::str::from_utf8(self.take(len)?);
        self.stack.push(text.map_or(Value::Leaf, Value::Text));
        Ok(())
    }

    /// A number or text of protocol 0 on a line of its own.
    pub(super) fn line_of_text(&mut self, opcode: u8) -> Result<(), String> {
        let line = self.line()?;
        let quoted = |quote| line.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
        self.stack.push(match opcode {
            b'I' if line == "00" || line == "01" => Value::Bool(line == "01"),
            b'I' | b'L' => line.trim_end_matches('L').parse().map_or(Value::Leaf, Value::Int),
            b'S' if !line.contains('\\') => {
                quoted('\'').or_else(|| quoted('"')).map_or(Value::Leaf, Value::Text)
            }
            b'V' if !line.contains('\\') => Value::Text(line),
            _ => Value::Leaf,
        });
        Ok(())
    }

    pub(super) fn line(&mut self) -> Result<&'a str, String> {
        let end = self.input.iter().position(|&byte| byte == b'\n');
        let line = self.take(end.ok_or("the pickle is truncated")?)?;
        self.take(1)?;
        utf8(line)
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|_| "the pickle holds text that is not UTF-8".to_owned())
}
