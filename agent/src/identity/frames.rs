//! Messages on QUIC streams. A length is judged before a byte of room is made for it.

use proximity_protocol::codec::{self, CodecError, HEADER_LEN, Header, Message};
use quinn::{ReadExactError, RecvStream, SendStream};

/// Why no message could be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// What came is none.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The stream or the connection ended.
    #[error("the stream broke: {0}")]
    Stream(quinn::ReadError),
}

/// Why a message could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// It cannot be encoded.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The stream or the connection ended.
    #[error("the stream broke: {0}")]
    Stream(#[from] quinn::WriteError),
}

/// The next message; `None` if the peer ended the stream in good order before one began. Not safe to cancel and call again.
pub(crate) async fn read<M: Message>(stream: &mut RecvStream) -> Result<Option<M>, ReadError> {
    let mut head = [0; HEADER_LEN];
    match stream.read_exact(&mut head).await {
        Ok(()) => {}
        Err(ReadExactError::FinishedEarly(0)) => return Ok(None),
        Err(ReadExactError::FinishedEarly(_)) => return Err(CodecError::CutOff.into()),
        Err(ReadExactError::ReadError(error)) => return Err(ReadError::Stream(error)),
    }
    let header = Header::parse(head)?;
    let mut payload = vec![0; header.length];
    match stream.read_exact(&mut payload).await {
        Ok(()) => Ok(Some(codec::decode_payload(header, &payload)?)),
        Err(ReadExactError::FinishedEarly(_)) => Err(CodecError::CutOff.into()),
        Err(ReadExactError::ReadError(error)) => Err(ReadError::Stream(error)),
    }
}

/// Writes a message. Returns when the stream has taken it.
pub(crate) async fn write<M: Message>(stream: &mut SendStream, version: u16, message: &M) -> Result<(), WriteError> {
    let frame = codec::encode(version, message)?;
    stream.write_all(&frame).await?;
    Ok(())
}
