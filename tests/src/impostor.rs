//! A coordinator that is not the product's: it speaks the protocol with a certificate that the agent trusts, and may say anything.

use crate::{
    authority::{Authority, Dates},
    recording::read_frame,
};
use anyhow::{Context, Result, bail};
use proximity_protocol::{
    ALPN_ENROLL, ALPN_LINK, close,
    codec::{self, Message},
    command::{Command, Outcome, Reply},
    enquiry::{Enquiry, EnquiryReply},
    enroll::{EnrollReply, EnrollRequest},
    fault::Fault,
    hello::{Hello, HelloReply, Welcome},
    ids::{Epoch, JoinTokenId, NodeId, NodeName},
    observed::NodeFacts,
    secret::Secret256,
    token::JoinToken,
};
use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    sync::{Arc, Mutex},
};
use time::OffsetDateTime;
use tokio::{sync::mpsc, task::JoinHandle};

/// It, listening on loopback.
pub struct Impostor {
    endpoint: quinn::Endpoint,
    arrived: tokio::sync::Mutex<mpsc::UnboundedReceiver<quinn::Connection>>,
    authority: Authority,
    node: NodeId,
    epoch: u64,
    /// How far its clock is ahead; `None`: it is older than the question for it.
    ahead: Mutex<Option<time::Duration>>,
    csr_der: Mutex<Vec<u8>>,
    facts: Mutex<Option<NodeFacts>>,
    /// Who comes for something else than what is waited for stays, and is told nothing.
    patient: bool,
}

/// Hands over whoever has shaken hands: one whom the network cuts off in the middle keeps nobody waiting.
fn receive(endpoint: quinn::Endpoint) -> mpsc::UnboundedReceiver<quinn::Connection> {
    let (sender, arrived) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let sender = sender.clone();
            tokio::spawn(async move {
                if let Ok(connection) = incoming.await {
                    // Nobody waits any more when the test is over.
                    let _ = sender.send(connection);
                }
            });
        }
    });
    arrived
}

/// One that lets everybody in and hangs up on nobody, for as long as the test runs.
pub fn hospitable(mut impostor: Impostor) -> (Arc<Impostor>, JoinHandle<Result<()>>) {
    impostor.patient = true;
    let impostor = Arc::new(impostor);
    let serving = tokio::spawn({
        let impostor = Arc::clone(&impostor);
        async move {
            loop {
                impostor.enrol().await?;
            }
        }
    });
    (impostor, serving)
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
        let socket = UdpSocket::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        Self::listen_on(socket, authority, node)
    }

    /// Listens on that socket.
    pub fn listen_on(socket: UdpSocket, authority: Authority, node: NodeId) -> Result<Self> {
        let config = authority.server(Dates::default())?;
        let runtime = quinn::default_runtime().context("no runtime of tokio's")?;
        let endpoint = quinn::Endpoint::new(quinn::EndpointConfig::default(), Some(config), socket, runtime)?;
        Ok(Self {
            arrived: receive(endpoint.clone()).into(),
            endpoint,
            authority,
            node,
            epoch: 7,
            ahead: Mutex::new(Some(time::Duration::ZERO)),
            csr_der: Mutex::default(),
            facts: Mutex::default(),
            patient: false,
        })
    }

    /// The run of a coordinator that it says it is; 7 otherwise.
    #[must_use]
    pub fn with_epoch(mut self, epoch: u64) -> Self {
        self.epoch = epoch;
        self
    }

    /// By its clock, it is so much later than here, and its certificate is of that time.
    pub fn with_clock(self, ahead: time::Duration) -> Result<Self> {
        self.set_clock(ahead)?;
        Ok(self)
    }

    /// The same from now on.
    pub fn set_clock(&self, ahead: time::Duration) -> Result<()> {
        *self.ahead.lock().expect("nobody panics with it") = Some(ahead);
        let dates = Dates::given_at(self.now());
        self.endpoint.set_server_config(Some(self.authority.server(dates)?));
        Ok(())
    }

    /// It does not know the question what time it is, as coordinators of the first version do not, and its certificate has these dates.
    pub fn of_before(self, dates: Dates) -> Result<Self> {
        *self.ahead.lock().expect("nobody panics with it") = None;
        self.endpoint.set_server_config(Some(self.authority.server(dates)?));
        Ok(self)
    }

    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc() + self.ahead().unwrap_or_default()
    }

    fn ahead(&self) -> Option<time::Duration> {
        *self.ahead.lock().expect("nobody panics with it")
    }

    /// A token that leads here.
    pub fn token(&self) -> Result<String> {
        self.token_to(&self.address()?)
    }

    /// A token of this coordinator's that leads somewhere else.
    pub fn token_to(&self, address: &str) -> Result<String> {
        let token = JoinToken::new(
            vec![address.to_owned()],
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

    /// What the node that enrolled last is.
    pub fn facts(&self) -> Option<NodeFacts> {
        self.facts.lock().expect("nobody panics with it").clone()
    }

    /// Which node it gave the certificate to.
    pub fn node(&self) -> NodeId {
        self.node
    }

    async fn accept(&self, alpn: &[u8]) -> Result<quinn::Connection> {
        let mut arrived = self.arrived.lock().await;
        loop {
            let connection = arrived.recv().await.context("the endpoint is closed")?;
            let data = connection
                .handshake_data()
                .and_then(|d| d.downcast::<quinn::crypto::rustls::HandshakeData>().ok());
            if data.and_then(|d| d.protocol).as_deref() == Some(alpn) {
                return Ok(connection);
            }
            if self.patient {
                tokio::spawn(async move { connection.closed().await });
            } else {
                connection.close(0u32.into(), b"not now");
            }
        }
    }

    /// Serves one enrolment, and before it whoever asks what time it is.
    pub async fn enrol(&self) -> Result<NodeName> {
        loop {
            let connection = self.accept(ALPN_ENROLL).await?;
            // Who looks at the certificate and hangs up has nothing to say.
            let Ok((mut tx, mut rx)) = connection.accept_bi().await else {
                continue;
            };
            let question = read_frame(&mut rx).await?.context("no question")?;
            if codec::decode(&question) == Ok(Enquiry::Clock) {
                match self.ahead() {
                    Some(_) => {
                        let unix_ms = i64::try_from(self.now().unix_timestamp_nanos() / 1_000_000)?;
                        send(&mut tx, &EnquiryReply::Clock { unix_ms }).await?;
                        tx.finish()?;
                        connection.closed().await;
                    }
                    None => connection.close(close::PROTOCOL.into(), b"expected a message of type 16, got type 20"),
                }
                continue;
            }
            let request: EnrollRequest = codec::decode(&question)?;
            let grant = self.authority.grant(self.node, &request.csr_der, Dates::default())?;
            *self.csr_der.lock().expect("nobody panics with it") = request.csr_der;
            send(&mut tx, &EnrollReply::Granted(grant)).await?;
            tx.finish()?;
            connection.closed().await;
            *self.facts.lock().expect("nobody panics with it") = Some(request.facts.clone());
            return Ok(request.facts.node_name);
        }
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

impl Drop for Impostor {
    fn drop(&mut self) {
        self.endpoint.close(0u32.into(), b"");
    }
}
