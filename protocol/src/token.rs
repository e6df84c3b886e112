//! The join token: one line that lets one node in, once.
//!
//! `pxj1-` and then base64url (no padding) of: count of addresses (1 byte), each as length (1 byte) and `host:port`; SHA-256 of the CA's public key
//! (SubjectPublicKeyInfo, 32 bytes); id (16 bytes); secret (32 bytes); and the first 4 bytes of the SHA-256 of all before, so that a slip of the hand is
//! told apart from a token that the coordinator refuses.

use crate::{ids::JoinTokenId, secret::Secret256};
use data_encoding::BASE64URL_NOPAD;
use sha2::{Digest, Sha256};
use std::{fmt, str::FromStr};
use uuid::Uuid;
use zeroize::Zeroizing;

const PREFIX: &str = "pxj1-";
const ADDRESSES_MAX: usize = 8;

/// What a node needs in order to join.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Where the coordinator answers, `host:port`, 1 to 8 of them, tried in order.
    pub addresses: Vec<String>,
    /// SHA-256 of the SubjectPublicKeyInfo of the coordinator's CA.
    pub ca_pin: [u8; 32],
    /// The public part, which lists and logs may show.
    pub id: JoinTokenId,
    /// The secret part.
    pub secret: Secret256,
}

/// Why a text is no join token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Something else.
    #[error("this is not a join token: it must be the whole line that starts with {PREFIX}")]
    NotAToken,
    /// A later format.
    #[error("this join token is of a newer format: update proximity-agent")]
    NewerFormat,
    /// Damaged.
    #[error("the join token is damaged (cut off or altered): copy the whole line again")]
    Damaged,
    /// Cannot be made.
    #[error("a join token holds 1 to 8 addresses of the form host:port, each at most 255 characters; {0:?} is not one")]
    Address(String),
}

impl JoinToken {
    /// Checks the addresses.
    pub fn new(
        addresses: Vec<String>,
        ca_pin: [u8; 32],
        id: JoinTokenId,
        secret: Secret256,
    ) -> Result<Self, TokenError> {
        if addresses.is_empty() || addresses.len() > ADDRESSES_MAX {
            return Err(TokenError::Address(addresses.join(", ")));
        }
        if let Some(bad) = addresses.iter().find(|a| !is_host_and_port(a)) {
            return Err(TokenError::Address(bad.clone()));
        }
        Ok(Self {
            addresses,
            ca_pin,
            id,
            secret,
        })
    }

    /// The line to hand to the operator. It holds the secret.
    pub fn to_line(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(160));
        bytes.push(u8::try_from(self.addresses.len()).expect("new() allows at most 8 addresses"));
        for address in &self.addresses {
            bytes.push(u8::try_from(address.len()).expect("new() allows at most 255 characters"));
            bytes.extend_from_slice(address.as_bytes());
        }
        bytes.extend_from_slice(&self.ca_pin);
        bytes.extend_from_slice(self.id.0.as_bytes());
        bytes.extend_from_slice(self.secret.expose());
        let sum = checksum(&bytes);
        bytes.extend_from_slice(&sum);
        Zeroizing::new(format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes)))
    }
}

fn is_host_and_port(text: &str) -> bool {
    text.len() <= 255
        && text.bytes().all(|b| b.is_ascii_graphic())
        && text
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0))
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    let digest = Sha256::digest(bytes);
    [digest[0], digest[1], digest[2], digest[3]]
}

struct Reader<'a>(&'a [u8]);
impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], TokenError> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(TokenError::Damaged)?;
        self.0 = rest;
        Ok(head)
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N], TokenError> {
        self.take(N)?.try_into().map_err(|_| TokenError::Damaged)
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;
    fn from_str(line: &str) -> Result<Self, TokenError> {
        let line = line.trim();
        let Some(body) = line.strip_prefix(PREFIX) else {
            let newer = line
                .strip_prefix("pxj")
                .and_then(|rest| rest.split_once('-'))
                .is_some_and(|(n, _)| n.parse::<u16>().is_ok_and(|n| n > 1));
            return Err(if newer {
                TokenError::NewerFormat
            } else {
                TokenError::NotAToken
            });
        };
        let bytes = Zeroizing::new(
            BASE64URL_NOPAD
                .decode(body.as_bytes())
                .map_err(|_| TokenError::Damaged)?,
        );
        let (content, sum) = bytes.split_last_chunk::<4>().ok_or(TokenError::Damaged)?;
        if checksum(content) != *sum {
            return Err(TokenError::Damaged);
        }
        let mut reader = Reader(content);
        let count = reader.take(1)?[0];
        let mut addresses = Vec::new();
        for _ in 0..count {
            let length = reader.take(1)?[0];
            let address = std::str::from_utf8(reader.take(length.into())?).map_err(|_| TokenError::Damaged)?;
            addresses.push(address.to_owned());
        }
        let ca_pin = reader.array()?;
        let id = JoinTokenId(Uuid::from_bytes(reader.array()?));
        let secret = Secret256::new(reader.array()?);
        if !reader.0.is_empty() {
            return Err(TokenError::Damaged);
        }
        Self::new(addresses, ca_pin, id, secret)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("id", &self.id)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn token() -> JoinToken {
        JoinToken::new(
            vec!["10.0.0.2:4433".into(), "[fd00::1]:4433".into()],
            [7; 32],
            JoinTokenId(Uuid::from_u128(9)),
            Secret256::new([3; 32]),
        )
        .unwrap()
    }

    #[test]
    fn a_line_comes_back() {
        assert_eq!(token().to_line().parse::<JoinToken>().unwrap(), token());
        assert_eq!(
            format!("  {}\n", *token().to_line()).parse::<JoinToken>().unwrap(),
            token()
        );
    }

    #[test]
    fn every_single_altered_character_is_noticed() {
        let line = token().to_line();
        for at in PREFIX.len()..line.len() {
            let mut bytes = line.as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let altered = String::from_utf8(bytes).unwrap();
            assert_eq!(altered.parse::<JoinToken>(), Err(TokenError::Damaged), "at {at}");
            assert!(line[..at].parse::<JoinToken>().is_err());
        }
    }

    #[test]
    fn other_texts_are_told_apart() {
        assert_eq!("".parse::<JoinToken>(), Err(TokenError::NotAToken));
        assert_eq!("hello".parse::<JoinToken>(), Err(TokenError::NotAToken));
        assert_eq!("pxj2-AAAA".parse::<JoinToken>(), Err(TokenError::NewerFormat));
        assert_eq!("pxj1-".parse::<JoinToken>(), Err(TokenError::Damaged));
        assert!(matches!(
            JoinToken::new(
                vec!["nohost".into()],
                [0; 32],
                JoinTokenId(Uuid::nil()),
                Secret256::new([0; 32])
            ),
            Err(TokenError::Address(_))
        ));
    }

    #[test]
    fn debug_hides_the_secret() {
        assert!(!format!("{:?}", token()).contains("3, 3"));
    }
}
