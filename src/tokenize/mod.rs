//! tokenize.
