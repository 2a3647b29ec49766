//! Perplexity and bits per byte.

use std::f64::consts::LN_2;

/// The perplexity `exp(nats / tokens)`; `None` without tokens.
///
/// It depends on the tokenizer: compare perplexities only within one vocabulary, else use [`bits_per_byte`].
///
/// ```
/// use calumma::eval::metrics::perplexity;
/// assert_eq!(perplexity(0.0, 7), Some(1.0));
/// assert!((perplexity(3.0 * 10_f64.ln(), 3).unwrap() - 10.0).abs() < 1e-12);
/// ```
pub fn perplexity(nats: f64, tokens: usize) -> Option<f64> {
    (tokens > 0).then(|| (nats / tokens as f64).exp())
}

/// Bits per byte of UTF-8 text, `nats / (bytes ln 2)` (Gao et al. 2020, The Pile, section 3.1);
/// `None` without bytes.
///
/// `nats` is the sum of cross-entropies over all tokens of the `bytes` bytes, including tokens
/// without bytes, such as the end of a document.
///
/// ```
/// use calumma::eval::metrics::bits_per_byte;
/// // A uniform guess among 256 bytes.
/// assert!((bits_per_byte(5.0 * 256_f64.ln(), 5).unwrap() - 8.0).abs() < 1e-12);
/// ```
pub fn bits_per_byte(nats: f64, bytes: usize) -> Option<f64> {
    (bytes > 0).then(|| nats / (bytes as f64 * LN_2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_measured_gives_none() {
        assert_eq!(perplexity(0.0, 0), None);
        assert_eq!(bits_per_byte(0.0, 0), None);
    }

    #[test]
    fn bits_per_byte_do_not_depend_on_the_number_of_tokens() {
        // 12 bytes as 3 tokens of 4 bytes or 6 of 2, at equal total loss.
        let nats = 12.0;
        assert!(bits_per_byte(nats, 12).is_some_and(|bits| (bits * LN_2 - 1.0).abs() < 1e-12));
        assert!(perplexity(nats, 3) > perplexity(nats, 6));
    }
}
