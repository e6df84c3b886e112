//! Frames of a real conversation, as text: one line `speaker stream hexadecimal` for each, in the order in which they were spoken.
//!
//! Streams: `enrol` (a join), `return`, `control`, `figures/N`, `command/N`, numbered as they were opened. A line `== words` begins a part (an enrolment, a
//! link). Lines that begin with `#` are for readers.

use anyhow::{Context, Result, bail};
use data_encoding::HEXLOWER;
use proximity_protocol::codec::{self, CodecError, HEADER_LEN, Message};
use std::{fmt, path::Path, str::FromStr};

/// Who spoke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The agent.
    Agent,
    /// The coordinator.
    Coordinator,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Agent => "agent",
            Self::Coordinator => "coordinator",
        })
    }
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Who spoke.
    pub by: Side,
    /// Where.
    pub stream: String,
    /// Header and payload.
    pub bytes: Vec<u8>,
}

impl Frame {
    /// The message type of its header.
    pub fn kind(&self) -> u16 {
        u16::from_be_bytes([self.bytes[2], self.bytes[3]])
    }

    /// The message version of its header.
    pub fn version(&self) -> u16 {
        u16::from_be_bytes([self.bytes[0], self.bytes[1]])
    }

    /// Number of the message's outermost variant, if the message is an enum.
    pub fn variant(&self) -> Option<u32> {
        let number = self.bytes.get(HEADER_LEN..HEADER_LEN + 4)?;
        Some(u32::from_le_bytes(number.try_into().ok()?))
    }

    /// As this message, if it is one.
    pub fn decode<M: Message>(&self) -> Result<M, CodecError> {
        codec::decode(&self.bytes)
    }

    /// As this message, if its header says that it is one.
    pub fn as_message<M: Message>(&self) -> Option<M> {
        (self.kind() == M::TYPE).then(|| self.decode().ok()).flatten()
    }
}

/// Reads one frame as bytes, whatever is in it; `None` at the stream's end in good order.
pub async fn read_frame(stream: &mut quinn::RecvStream) -> Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; HEADER_LEN];
    match stream.read_exact(&mut bytes).await {
        Ok(()) => {}
        Err(quinn::ReadExactError::FinishedEarly(0)) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let length = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]) as usize;
    if length > codec::PAYLOAD_MAX {
        bail!("a frame of {length} bytes");
    }
    bytes.resize(HEADER_LEN + length, 0);
    stream.read_exact(&mut bytes[HEADER_LEN..]).await?;
    Ok(Some(bytes))
}

/// A part of a conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Part {
    /// What it is.
    pub title: String,
    /// Its frames.
    pub frames: Vec<Frame>,
}

impl Part {
    /// The frames of one side on one stream.
    pub fn spoken<'a>(&'a self, by: Side, stream: &'a str) -> impl Iterator<Item = &'a Frame> {
        self.frames
            .iter()
            .filter(move |frame| frame.by == by && frame.stream == stream)
    }

    /// The first such message.
    pub fn first<M: Message>(&self, by: Side) -> Option<M> {
        let mut own = self.frames.iter().filter(|frame| frame.by == by);
        own.find_map(Frame::as_message)
    }

    /// The streams whose name begins so, in order.
    pub fn streams(&self, prefix: &str) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        for frame in &self.frames {
            if frame.stream.starts_with(prefix) && !found.contains(&frame.stream) {
                found.push(frame.stream.clone());
            }
        }
        found
    }
}

/// A whole conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recording {
    /// Its parts.
    pub parts: Vec<Part>,
}

impl Recording {
    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        text.parse().with_context(|| path.display().to_string())
    }

    /// All frames.
    pub fn frames(&self) -> impl Iterator<Item = &Frame> {
        self.parts.iter().flat_map(|part| &part.frames)
    }

    /// The first part of that name.
    pub fn part(&self, title: &str) -> Result<&Part> {
        let found = self.parts.iter().find(|part| part.title == title);
        found.with_context(|| format!("the recording has no part {title:?}"))
    }
}

impl FromStr for Recording {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut recording = Self::default();
        for (number, line) in text.lines().enumerate() {
            if line.starts_with('#') || line.is_empty() {
                continue;
            }
            if let Some(title) = line.strip_prefix("== ") {
                recording.parts.push(Part {
                    title: title.to_owned(),
                    frames: Vec::new(),
                });
                continue;
            }
            let words: Vec<&str> = line.split(' ').collect();
            let [by, stream, hex] = words[..] else {
                bail!("line {}: not three words", number + 1);
            };
            let by = match by {
                "agent" => Side::Agent,
                "coordinator" => Side::Coordinator,
                other => bail!("line {}: {other:?} is nobody", number + 1),
            };
            let bytes = HEXLOWER.decode(hex.as_bytes())?;
            if bytes.len() < HEADER_LEN {
                bail!("line {}: no frame", number + 1);
            }
            let part = recording.parts.last_mut().context("a frame before the first part")?;
            part.frames.push(Frame {
                by,
                stream: stream.to_owned(),
                bytes,
            });
        }
        Ok(recording)
    }
}

impl fmt::Display for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.parts {
            writeln!(f, "== {}", part.title)?;
            for frame in &part.frames {
                writeln!(f, "{} {} {}", frame.by, frame.stream, HEXLOWER.encode(&frame.bytes))?;
            }
        }
        Ok(())
    }
}
