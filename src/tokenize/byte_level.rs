//! GPT-2's byte-level names: every byte of a token's text is one printable character of its name.

/// Byte values by the character that stands for them in byte-level names (GPT-2's table).
pub(super) fn byte_values() -> Vec<Option<u8>> {
    let mut values = vec![None; 512];
    let mut next = 256;
    for byte in 0..=u8::MAX {
        let printable = matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        let character = if printable { usize::from(byte) } else { next };
        next += usize::from(!printable);
        values[character] = Some(byte);
    }
    values
}

#[cfg(test)]
mod tests {
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    use super::*;

    #[test]
    fn byte_table_equals_the_tokenizer_librarys() {
        let values = byte_values();
        let characters = ByteLevel::alphabet();
        assert_eq!(characters.len(), 256);
        for character in characters {
            assert!(values[character as usize].is_some(), "{character}");
        }
        assert_eq!(values['Ġ' as usize], Some(b' '));
        assert_eq!(values['Ċ' as usize], Some(b'\n'));
        assert_eq!(values.iter().flatten().count(), 256);
    }
}
