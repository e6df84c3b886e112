//! Frames: a header of our own (version, type, length), then bincode. The only place that knows bincode.
//!
//! ```text
//! 0        2        4                8
//! | version | type   | payload length | payload …
//! ```
//! All numbers big-endian. The cap ([`PAYLOAD_MAX`]) is checked before a byte of the payload is read, and again by bincode while it decodes.

use crate::{
    VERSION_MAX, VERSION_MIN,
    command::{Command, Reply},
    enquiry::{Enquiry, EnquiryReply},
    enroll::{EnrollReply, EnrollRequest},
    event::{Event, Notice},
    hello::{Hello, HelloReply},
    leave::{LeaveReply, LeaveRequest},
    metrics::MetricsFrame,
    renew::{ReturnReply, ReturnRequest},
};
use serde::{Serialize, de::DeserializeOwned};

/// Bytes of a header.
pub const HEADER_LEN: usize = 8;
/// The largest payload, bytes.
pub const PAYLOAD_MAX: usize = 1024 * 1024;

/// Why bytes are not a message. Never a panic, whatever the bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// A version that this build does not understand.
    #[error(
        "message version {0} is not understood; this build knows {VERSION_MIN} to {VERSION_MAX}: update the older side"
    )]
    Version(u16),
    /// Another message than the conversation allows here.
    #[error("expected a message of type {expected}, got type {got}")]
    Type {
        /// What may come here.
        expected: u16,
        /// What came.
        got: u16,
    },
    /// Above the cap.
    #[error("a message of {0} bytes is over the limit of {PAYLOAD_MAX}")]
    TooLarge(usize),
    /// Fewer bytes than a header or than it announces.
    #[error("the message is cut off")]
    CutOff,
    /// Bytes after the end of the message.
    #[error("{0} bytes follow the end of the message")]
    Trailing(usize),
    /// A field that is not valid, or a variant that this build does not know.
    #[error("the message cannot be read: {0}")]
    Malformed(String),
    /// The value cannot be encoded (over the cap).
    #[error("the message cannot be written: {0}")]
    Encode(String),
}

/// A message that can be framed. Type numbers are never reused.
pub trait Message: Serialize + DeserializeOwned {
    /// The number in the header.
    const TYPE: u16;
}

macro_rules! messages {
    ($($number:literal => $name:ty),* $(,)?) => { $(impl Message for $name { const TYPE: u16 = $number; })* };
}
messages! {
    1 => Hello,
    2 => HelloReply,
    3 => Command,
    4 => Reply,
    5 => Event,
    6 => Notice,
    7 => MetricsFrame,
    16 => EnrollRequest,
    17 => EnrollReply,
    18 => ReturnRequest,
    19 => ReturnReply,
    20 => Enquiry,
    21 => EnquiryReply,
    22 => LeaveRequest,
    23 => LeaveReply,
}

/// The first eight bytes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Message version.
    pub version: u16,
    /// Message type.
    pub kind: u16,
    /// Bytes that follow.
    pub length: usize,
}

impl Header {
    /// Reads a header and checks version and length.
    pub fn parse(bytes: [u8; HEADER_LEN]) -> Result<Self, CodecError> {
        let version = u16::from_be_bytes([bytes[0], bytes[1]]);
        let kind = u16::from_be_bytes([bytes[2], bytes[3]]);
        let length = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]) as usize;
        if !(VERSION_MIN..=VERSION_MAX).contains(&version) {
            return Err(CodecError::Version(version));
        }
        if length > PAYLOAD_MAX {
            return Err(CodecError::TooLarge(length));
        }
        Ok(Self { version, kind, length })
    }
}

fn config() -> impl bincode::config::Config {
    // `legacy` is bincode 1's layout, which other crates can read too: the way out if bincode has to go.
    bincode::config::legacy().with_limit::<PAYLOAD_MAX>()
}

/// One whole frame: header and payload.
pub fn encode<M: Message>(version: u16, message: &M) -> Result<Vec<u8>, CodecError> {
    let mut frame = vec![0; HEADER_LEN];
    bincode::serde::encode_into_std_write(message, &mut frame, config())
        .map_err(|error| CodecError::Encode(error.to_string()))?;
    let length = frame.len() - HEADER_LEN;
    if length > PAYLOAD_MAX {
        return Err(CodecError::TooLarge(length));
    }
    let length = u32::try_from(length).map_err(|_| CodecError::TooLarge(length))?;
    frame[0..2].copy_from_slice(&version.to_be_bytes());
    frame[2..4].copy_from_slice(&M::TYPE.to_be_bytes());
    frame[4..8].copy_from_slice(&length.to_be_bytes());
    Ok(frame)
}

/// The message of a payload whose header has been parsed.
pub fn decode_payload<M: Message>(header: Header, payload: &[u8]) -> Result<M, CodecError> {
    if header.kind != M::TYPE {
        return Err(CodecError::Type {
            expected: M::TYPE,
            got: header.kind,
        });
    }
    if payload.len() < header.length {
        return Err(CodecError::CutOff);
    }
    let (message, used) = bincode::serde::decode_from_slice::<M, _>(payload, config()).map_err(|error| {
        CodecError::Malformed(match error {
            // The words of our own types, without bincode's wrapping.
            bincode::error::DecodeError::OtherString(words) => words,
            other => other.to_string(),
        })
    })?;
    if used != payload.len() {
        return Err(CodecError::Trailing(payload.len() - used));
    }
    Ok(message)
}

/// The message of exactly one whole frame.
pub fn decode<M: Message>(frame: &[u8]) -> Result<M, CodecError> {
    let Some((head, payload)) = frame.split_first_chunk::<HEADER_LEN>() else {
        return Err(CodecError::CutOff);
    };
    let header = Header::parse(*head)?;
    decode_payload(header, payload)
}
