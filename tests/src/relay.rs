//! Between an agent and its coordinator: to the one it is the coordinator, to the other the agent, and it writes every frame down. Nothing is changed on
//! the way but what TLS forces: each side is given certificates that it can check.

use crate::{
    authority::{Authority, Dates},
    puppet::{Dialled, Puppet},
    recording::{Frame, Part, Recording, Side, read_frame},
};
use anyhow::{Context, Result};
use proximity_protocol::{
    ALPN_ENROLL, ALPN_LINK, VERSION_MIN, codec,
    command::Command,
    enquiry::Enquiry,
    enroll::{EnrollReply, EnrollRequest},
    event::{Event, Notice},
    ids::JoinTokenId,
    renew::{ReturnReply, ReturnRequest},
    secret::Secret256,
    token::JoinToken,
};
use quinn::{RecvStream, SendStream};
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, OnceLock},
};

/// It, listening on loopback.
pub struct Relay {
    endpoint: quinn::Endpoint,
    /// What the agent trusts.
    pub authority: Authority,
    /// What the agent is to the coordinator.
    pub puppet: OnceLock<Puppet>,
    /// The agent's request for the certificate that it has.
    pub csr_der: Mutex<Vec<u8>>,
    dates: Mutex<Dates>,
    agent: Mutex<Option<quinn::Connection>>,
    notes: Notes,
}

#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Recording>>);

impl Notes {
    fn begin(&self, title: &str) {
        let part = Part {
            title: title.to_owned(),
            frames: Vec::new(),
        };
        self.0.lock().expect("nobody panics with it").parts.push(part);
    }

    fn write(&self, by: Side, stream: &str, bytes: &[u8]) {
        let mut recording = self.0.lock().expect("nobody panics with it");
        let part = recording.parts.last_mut().expect("a part is begun first");
        part.frames.push(Frame {
            by,
            stream: stream.to_owned(),
            bytes: bytes.to_vec(),
        });
    }
}

impl Relay {
    /// Listens.
    pub fn listen() -> Result<Self> {
        let authority = Authority::new()?;
        let config = authority.server(Dates::for_ages())?;
        Ok(Self {
            endpoint: quinn::Endpoint::server(config, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?,
            authority,
            puppet: OnceLock::new(),
            csr_der: Mutex::default(),
            dates: Mutex::default(),
            agent: Mutex::default(),
            notes: Notes::default(),
        })
    }

    /// A token that leads here.
    pub fn token(&self) -> Result<String> {
        let addresses = vec![self.address()?];
        let id = JoinTokenId(uuid::Uuid::new_v4());
        let token = JoinToken::new(addresses, self.authority.pin(), id, Secret256::new([1; 32]))?;
        Ok(token.to_line().to_string())
    }

    /// Where it listens.
    pub fn address(&self) -> Result<String> {
        Ok(self.endpoint.local_addr()?.to_string())
    }

    /// Dates of the next certificate that the agent is given.
    pub fn set_dates(&self, dates: Dates) {
        *self.dates.lock().expect("nobody panics with it") = dates;
    }

    fn dates(&self) -> Dates {
        *self.dates.lock().expect("nobody panics with it")
    }

    /// What was written down.
    pub fn recording(&self) -> Recording {
        self.notes.0.lock().expect("nobody panics with it").clone()
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

    /// The agent's join, by `token` of the coordinator.
    pub async fn enrol(&self, title: &str, token: &JoinToken) -> Result<()> {
        self.notes.begin(title);
        let (connection, mut send, question) = loop {
            let connection = self.accept(ALPN_ENROLL).await?;
            let (mut send, mut recv) = connection.accept_bi().await?;
            let question = read_frame(&mut recv).await?.context("no request")?;
            if codec::decode(&question) != Ok(Enquiry::Clock) {
                break (connection, send, question);
            }
            self.notes.write(Side::Agent, "enquiry", &question);
            let answer = Puppet::what_time(token).await?;
            self.notes.write(Side::Coordinator, "enquiry", &answer);
            send.write_all(&answer).await?;
            send.finish()?;
            connection.closed().await;
        };
        let request: EnrollRequest = codec::decode(&question)?;
        self.notes.write(Side::Agent, "enrol", &question);
        let csr_der = request.csr_der.clone();
        self.csr_der.lock().expect("nobody panics with it").clone_from(&csr_der);
        let (puppet, answer) = Puppet::enrol(token, request).await?;
        self.notes.write(Side::Coordinator, "enrol", &answer);
        let grant = self.authority.grant(puppet.grant.node, &csr_der, self.dates())?;
        self.puppet.get_or_init(|| puppet);
        let granted = codec::encode(VERSION_MIN, &EnrollReply::Granted(grant))?;
        send.write_all(&granted).await?;
        send.finish()?;
        connection.closed().await;
        Ok(())
    }

    fn puppet(&self) -> Result<&Puppet> {
        self.puppet.get().context("nobody has enrolled")
    }

    /// The agent's return with an expired certificate.
    pub async fn come_back(&self, title: &str) -> Result<()> {
        let connection = self.accept(ALPN_ENROLL).await?;
        let (mut send, mut recv) = connection.accept_bi().await?;
        let question = read_frame(&mut recv).await?.context("no request")?;
        let request: ReturnRequest = codec::decode(&question)?;
        self.notes.begin(title);
        self.notes.write(Side::Agent, "return", &question);
        let puppet = self.puppet()?;
        let answer = puppet.come_back().await?;
        self.notes.write(Side::Coordinator, "return", &answer);
        let grant = self
            .authority
            .grant(puppet.grant.node, &request.csr_der, self.dates())?;
        send.write_all(&codec::encode(VERSION_MIN, &ReturnReply::Granted(grant))?)
            .await?;
        send.finish()?;
        connection.closed().await;
        Ok(())
    }

    /// The agent's next link, from Hello to its end.
    pub async fn link(&self, title: &str) -> Result<()> {
        let agent = self.accept(ALPN_LINK).await?;
        let Dialled {
            connection: coordinator,
            ..
        } = &self.puppet()?.link().await?;
        self.notes.begin(title);
        *self.agent.lock().expect("nobody panics with it") = Some(agent.clone());
        let (to_agent, from_agent) = agent.accept_bi().await?;
        let (to_coordinator, from_coordinator) = coordinator.open_bi().await?;
        let asked = Mutex::new(Vec::new());
        let closed = tokio::select! {
            reason = agent.closed() => reason,
            reason = coordinator.closed() => reason,
            () = self.heard(from_agent, to_coordinator, &asked) => agent.closed().await,
            () = self.told(from_coordinator, to_agent, &asked) => agent.closed().await,
            () = self.commands(coordinator, &agent) => coordinator.closed().await,
            () = self.figures(&agent, coordinator) => agent.closed().await,
        };
        let (code, reason) = match closed {
            quinn::ConnectionError::ApplicationClosed(close) => (close.error_code, close.reason.to_vec()),
            other => (0u32.into(), other.to_string().into_bytes()),
        };
        agent.close(code, &reason);
        coordinator.close(code, &reason);
        Ok(())
    }

    /// A command of our own to the agent that is linked, which the coordinator never sends in an ordinary life.
    pub async fn command(&self, command: &Command) -> Result<()> {
        let agent = self.agent.lock().expect("nobody panics with it").clone();
        let (mut send, mut recv) = agent.context("no agent is linked")?.open_bi().await?;
        let stream = format!("command/{}", command.verb.name());
        let bytes = codec::encode(VERSION_MIN, command)?;
        self.notes.write(Side::Coordinator, &stream, &bytes);
        send.write_all(&bytes).await?;
        send.finish()?;
        while let Some(bytes) = read_frame(&mut recv).await? {
            self.notes.write(Side::Agent, &stream, &bytes);
        }
        Ok(())
    }

    /// Events.
    async fn heard(&self, mut from: RecvStream, mut to: SendStream, asked: &Mutex<Vec<u8>>) {
        while let Ok(Some(bytes)) = read_frame(&mut from).await {
            self.notes.write(Side::Agent, "control", &bytes);
            if let Ok(Event::Renew { csr_der }) = codec::decode(&bytes) {
                *asked.lock().expect("nobody panics with it") = csr_der;
            }
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        // The other side hears of the end by the close of the connection.
        let _ = to.finish();
    }

    /// Notices. A renewed certificate becomes one of ours, which the agent can check.
    async fn told(&self, mut from: RecvStream, mut to: SendStream, asked: &Mutex<Vec<u8>>) {
        while let Ok(Some(mut bytes)) = read_frame(&mut from).await {
            self.notes.write(Side::Coordinator, "control", &bytes);
            if let Ok(Notice::Renewed(grant)) = codec::decode(&bytes) {
                let csr_der = asked.lock().expect("nobody panics with it").clone();
                let own = self.authority.grant(grant.node, &csr_der, Dates::default());
                let own = own.and_then(|own| Ok(codec::encode(VERSION_MIN, &Notice::Renewed(Box::new(own)))?));
                *self.csr_der.lock().expect("nobody panics with it") = csr_der;
                bytes = own.expect("the agent's request was good enough for the coordinator");
            }
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    }

    async fn commands(&self, coordinator: &quinn::Connection, agent: &quinn::Connection) {
        let mut number = 0;
        while let Ok((to_coordinator, from_coordinator)) = coordinator.accept_bi().await {
            let Ok((to_agent, from_agent)) = agent.open_bi().await else {
                return;
            };
            number += 1;
            let name = format!("command/{number}");
            for (side, from, to) in [
                (Side::Coordinator, from_coordinator, to_agent),
                (Side::Agent, from_agent, to_coordinator),
            ] {
                tokio::spawn(pump(self.notes.clone(), side, name.clone(), from, to));
            }
        }
    }

    async fn figures(&self, agent: &quinn::Connection, coordinator: &quinn::Connection) {
        let mut number = 0;
        while let Ok(from) = agent.accept_uni().await {
            let Ok(to) = coordinator.open_uni().await else {
                return;
            };
            number += 1;
            tokio::spawn(pump(
                self.notes.clone(),
                Side::Agent,
                format!("figures/{number}"),
                from,
                to,
            ));
        }
    }
}

async fn pump(notes: Notes, side: Side, name: String, mut from: RecvStream, mut to: SendStream) {
    while let Ok(Some(bytes)) = read_frame(&mut from).await {
        notes.write(side, &name, &bytes);
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
    // An error means that the stream is gone, and with it whoever would read on.
    let _ = to.finish();
}
