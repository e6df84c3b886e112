//! A coordinator that is not the product's: it speaks the protocol with a certificate that the agent trusts, and may say anything.

use crate::{
    authority::{Authority, Dates},
    recording::{read_frame, receive},
};
use anyhow::{Context, Result, bail};
use proximity_protocol::{
    ALPN_ENROLL, ALPN_LINK,
    codec::{self, Message},
    command::{Command, Outcome, Reply},
    enroll::{EnrollReply, EnrollRequest},
    fault::Fault,
    hello::{Hello, HelloReply, Welcome},
    ids::{Epoch, JoinTokenId, NodeId, NodeName},
    secret::Secret256,
    token::JoinToken,
};
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Mutex,
};

/// It, listening on loopback.
pub struct Impostor {
    endpoint: quinn::Endpoint,
    authority: Authority,
    node: NodeId,
    epoch: u64,
    csr_der: Mutex<Vec<u8>>,
}

/// A welcomed agent.
pub struct Link {
    connection: quinn::Connection,
    control: (quinn::SendStream, quinn::RecvStream),
    /// What it said of itself.
    pub hello: Hello,
    /// The same as bytes.
    pub greeting: Vec<u8>,
}

async fn send<M: Message>(stream: &mut quinn::SendStream, message: &M) -> Result<()> {
    Ok(stream.write_all(&codec::encode(1, message)?).await?)
}

impl Impostor {
    /// Makes a CA and listens.
    pub fn listen() -> Result<Self> {
        Self::listen_as(Authority::new()?, NodeId(uuid::Uuid::new_v4()))
    }

    /// Listens with that CA; whoever enrols is that node.
    pub fn listen_as(authority: Authority, node: NodeId) -> Result<Self> {
        let config = authority.server(Dates::default())?;
        let endpoint = quinn::Endpoint::server(config, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        Ok(Self {
            endpoint,
            authority,
            node,
            epoch: 7,
            csr_der: Mutex::default(),
        })
    }

    /// The run of a coordinator that it says it is; 7 otherwise.
    #[must_use]
    pub fn with_epoch(mut self, epoch: u64) -> Self {
        self.epoch = epoch;
        self
    }

    /// A token that leads here.
    pub fn token(&self) -> Result<String> {
        let token = JoinToken::new(
            vec![self.address()?],
            self.authority.pin(),
            JoinTokenId(uuid::Uuid::new_v4()),
            Secret256::new([1; 32]),
        )?;
        Ok(token.to_line().to_string())
    }

    /// Where it listens.
    pub fn address(&self) -> Result<String> {
        Ok(self.endpoint.local_addr()?.to_string())
    }

    /// Gives the agent that has joined here, and is stopped, a certificate with those dates, as if it had got it then.
    pub fn age(&self, state: &Path, dates: Dates) -> Result<()> {
        let csr_der = self.csr_der.lock().expect("nobody panics with it").clone();
        self.authority.replace(state, self.node, &csr_der, dates)
    }

    /// Which node it gave the certificate to.
    pub fn node(&self) -> NodeId {
        self.node
    }

    async fn accept(&self, alpn: &[u8]) -> Result<quinn::Connection> {
        loop {
            let incoming = self.endpoint.accept().await.context("the endpoint is closed")?;
            let Ok(connection) = incoming.await else { continue };
            let data = connection
                .handshake_data()
                .and_then(|d| d.downcast::<quinn::crypto::rustls::HandshakeData>().ok());
            if data.and_then(|d| d.protocol).as_deref() == Some(alpn) {
                return Ok(connection);
            }
            connection.close(0u32.into(), b"not now");
        }
    }

    /// Serves one enrolment.
    pub async fn enrol(&self) -> Result<NodeName> {
        let connection = self.accept(ALPN_ENROLL).await?;
        let (mut tx, mut rx) = connection.accept_bi().await?;
        let request: EnrollRequest = receive(&mut rx).await?;
        let grant = self.authority.grant(self.node, &request.csr_der, Dates::default())?;
        *self.csr_der.lock().expect("nobody panics with it") = request.csr_der;
        send(&mut tx, &EnrollReply::Granted(grant)).await?;
        tx.finish()?;
        connection.closed().await;
        Ok(request.facts.node_name)
    }

    /// Welcomes the agent's next link.
    pub async fn link(&self) -> Result<Link> {
        let welcome = Welcome {
            version: 1,
            node: self.node,
            epoch: Epoch(self.epoch),
            coordinator_version: "0.1.0".into(),
            metrics_interval_ms: 1000,
            notices: vec![],
        };
        self.link_saying(&codec::encode(1, &HelloReply::Welcome(welcome))?)
            .await
    }

    /// Answers the Hello of the agent's next link with these bytes.
    pub async fn link_saying(&self, welcome: &[u8]) -> Result<Link> {
        let connection = self.accept(ALPN_LINK).await?;
        let (mut tx, mut rx) = connection.accept_bi().await?;
        let greeting = read_frame(&mut rx).await?.context("no Hello")?;
        tx.write_all(welcome).await?;
        Ok(Link {
            connection,
            control: (tx, rx),
            hello: codec::decode(&greeting)?,
            greeting,
        })
    }
}

impl Link {
    /// The control stream stays open as long as this lives.
    pub fn control(&mut self) -> &mut (quinn::SendStream, quinn::RecvStream) {
        &mut self.control
    }

    /// Sends a command and answers its end.
    pub async fn command(&self, command: &Command) -> Result<Result<Outcome, Fault>> {
        self.raw(&codec::encode(1, command)?).await
    }

    /// Sends any bytes as a command's stream and answers its end.
    pub async fn raw(&self, bytes: &[u8]) -> Result<Result<Outcome, Fault>> {
        let frames = self.frames(bytes).await?;
        match codec::decode(frames.last().context("no answer")?)? {
            Reply::Finished(end) => Ok(end),
            other => bail!("the stream ended with {other:?}"),
        }
    }

    /// Sends any bytes as a command's stream and answers all that comes back, frame by frame.
    pub async fn frames(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        let (mut tx, mut rx) = self.connection.open_bi().await?;
        tx.write_all(bytes).await?;
        tx.finish()?;
        let mut frames = Vec::new();
        while let Some(frame) = read_frame(&mut rx).await? {
            frames.push(frame);
        }
        Ok(frames)
    }

    /// The agent's next stream of figures.
    pub async fn figures(&self) -> Result<quinn::RecvStream> {
        Ok(self.connection.accept_uni().await?)
    }

    /// Whether the agent still holds the link.
    pub fn alive(&self) -> Result<()> {
        match self.connection.close_reason() {
            None => Ok(()),
            Some(reason) => bail!("the agent hung up: {reason}"),
        }
    }
}
