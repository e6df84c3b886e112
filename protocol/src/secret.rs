//! Text that must not be printed.

use serde::{Deserialize, Serialize};
use std::fmt;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A secret text: never shown by `Debug`, wiped when dropped. It is serialised in full, so it belongs only on the wire and in 0600 files.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(transparent)]
pub struct SecretText(String);

impl SecretText {
    /// Takes the text over.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
    /// Shows the text. Every caller is a place to review.
    pub fn expose(&self) -> &str {
        &self.0
    }
}
impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(…)")
    }
}

/// 256 secret bits, e.g. of a join token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(transparent)]
pub struct Secret256([u8; 32]);

impl Secret256 {
    /// Takes the bytes over; the caller draws them from a cryptographic source.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
    /// Shows the bytes.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}
impl fmt::Debug for Secret256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret256(…)")
    }
}
