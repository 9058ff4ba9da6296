//! The policy file: parse with positions, validate, compile, explain.
