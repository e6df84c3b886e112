//! Messages on QUIC streams. A length is judged before a byte of room is made for it.

use proximity_protocol::codec::{self, CodecError, HEADER_LEN, Header, Message, PAYLOAD_MAX};
use quinn::{ReadExactError, RecvStream, SendStream};

/// Why no message could be read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    /// What came, or was to go, is none.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The stream or the connection ended.
    #[error("the stream broke: {0}")]
    Stream(String),
}

fn broke(error: &dyn std::fmt::Display) -> FrameError {
    FrameError::Stream(error.to_string())
}

/// The next message; `None` if the peer ended the stream in good order before one began. Not safe to cancel and call again.
pub(super) async fn read<M: Message>(stream: &mut RecvStream) -> Result<Option<M>, FrameError> {
    read_up_to(stream, PAYLOAD_MAX).await
}

/// The same with a lower bound for the payload.
pub(super) async fn read_up_to<M: Message>(stream: &mut RecvStream, most: usize) -> Result<Option<M>, FrameError> {
    match read_header(stream).await? {
        Some(header) => read_payload(stream, header, most).await.map(Some),
        None => Ok(None),
    }
}

/// The header of the next message, where one of several kinds may come.
pub(super) async fn read_header(stream: &mut RecvStream) -> Result<Option<Header>, FrameError> {
    let mut head = [0; HEADER_LEN];
    match stream.read_exact(&mut head).await {
        Ok(()) => {}
        Err(ReadExactError::FinishedEarly(0)) => return Ok(None),
        Err(ReadExactError::FinishedEarly(_)) => return Err(CodecError::CutOff.into()),
        Err(error) => return Err(broke(&error)),
    }
    Ok(Some(Header::parse(head)?))
}

/// What follows a header, if it is of the kind and size that may come here.
pub(super) async fn read_payload<M: Message>(
    stream: &mut RecvStream,
    header: Header,
    most: usize,
) -> Result<M, FrameError> {
    if header.kind != M::TYPE {
        return Err(CodecError::Type {
            expected: M::TYPE,
            got: header.kind,
        }
        .into());
    }
    if header.length > most {
        return Err(CodecError::TooLarge(header.length).into());
    }
    let mut payload = vec![0; header.length];
    match stream.read_exact(&mut payload).await {
        Ok(()) => Ok(codec::decode_payload(header, &payload)?),
        Err(ReadExactError::FinishedEarly(_)) => Err(CodecError::CutOff.into()),
        Err(error) => Err(broke(&error)),
    }
}

/// Writes a message. Returns when the stream has taken it.
pub(super) async fn write<M: Message>(stream: &mut SendStream, version: u16, message: &M) -> Result<(), FrameError> {
    let frame = codec::encode(version, message)?;
    stream
        .write_all(&frame)
        .await
        .map_err(|error| FrameError::Stream(error.to_string()))
}
