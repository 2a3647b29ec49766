//! Text of files in messages.

/// Text from a file, escaped to one line and cut to 200 characters.
pub(super) fn escaped(text: &str) -> String {
    text.chars().take(200).flat_map(char::escape_debug).collect()
}
