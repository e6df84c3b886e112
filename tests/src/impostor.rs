//! A coordinator that is not the product's: it speaks the protocol with a certificate that the agent trusts, and may say anything.

use anyhow::{Context, Result, bail};
use proximity_protocol::{
    ALPN_ENROLL, ALPN_LINK, COORDINATOR_TLS_NAME,
    codec::{self, HEADER_LEN, Header, Message},
    command::{Command, Outcome, Reply},
    enroll::{EnrollReply, EnrollRequest, Grant},
    fault::Fault,
    hello::{Hello, HelloReply, Welcome},
    ids::{Epoch, JoinTokenId, NodeId, NodeName},
    secret::Secret256,
    token::JoinToken,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
};
use rustls::{RootCertStore, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

/// It, listening on loopback.
pub struct Impostor {
    endpoint: quinn::Endpoint,
    issuer: Issuer<'static, KeyPair>,
    ca: CertificateDer<'static>,
    pin: [u8; 32],
    node: NodeId,
    epoch: u64,
}

/// A welcomed agent.
pub struct Link {
    connection: quinn::Connection,
    control: (quinn::SendStream, quinn::RecvStream),
    /// What it said of itself.
    pub hello: Hello,
}

async fn receive<M: Message>(stream: &mut quinn::RecvStream) -> Result<M> {
    let mut head = [0; HEADER_LEN];
    stream.read_exact(&mut head).await?;
    let header = Header::parse(head)?;
    let mut payload = vec![0; header.length];
    stream.read_exact(&mut payload).await?;
    Ok(codec::decode_payload(header, &payload)?)
}

async fn send<M: Message>(stream: &mut quinn::SendStream, message: &M) -> Result<()> {
    Ok(stream.write_all(&codec::encode(1, message)?).await?)
}

impl Impostor {
    /// Makes a CA and listens.
    pub fn listen() -> Result<Self> {
        let key = KeyPair::generate()?;
        let pin = Sha256::digest(key.subject_public_key_info()).into();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "impostor");
        let ca = params.self_signed(&key)?.der().clone();
        let issuer = Issuer::from_ca_cert_der(&ca, key)?;
        let server_key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![COORDINATOR_TLS_NAME.to_owned()])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&server_key, &issuer)?.der().clone();
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()?;
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![certificate, ca.clone()],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(server_key.serialize_der())),
            )?;
        tls.alpn_protocols = vec![ALPN_LINK.to_vec(), ALPN_ENROLL.to_vec()];
        let config =
            quinn::ServerConfig::with_crypto(Arc::new(quinn::crypto::rustls::QuicServerConfig::try_from(tls)?));
        let endpoint = quinn::Endpoint::server(config, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        Ok(Self {
            endpoint,
            issuer,
            ca,
            pin,
            node: NodeId(uuid::Uuid::new_v4()),
            epoch: 7,
        })
    }

    /// A token that leads here.
    pub fn token(&self) -> Result<String> {
        let address = self.endpoint.local_addr()?.to_string();
        let token = JoinToken::new(
            vec![address],
            self.pin,
            JoinTokenId(uuid::Uuid::new_v4()),
            Secret256::new([1; 32]),
        )?;
        Ok(token.to_line().to_string())
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
        let csr = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request.csr_der))?;
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, self.node.to_string());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let not_after = time::OffsetDateTime::now_utc() + time::Duration::days(90);
        params.not_before = time::OffsetDateTime::now_utc() - time::Duration::hours(1);
        params.not_after = not_after;
        let certificate = params.signed_by(&csr.public_key, &self.issuer)?;
        let grant = Grant {
            node: self.node,
            certificate_der: certificate.der().to_vec(),
            ca_der: self.ca.to_vec(),
            not_after_unix_s: not_after.unix_timestamp(),
        };
        send(&mut tx, &EnrollReply::Granted(grant)).await?;
        tx.finish()?;
        connection.closed().await;
        Ok(request.facts.node_name)
    }

    /// Welcomes the agent's next link.
    pub async fn link(&self) -> Result<Link> {
        let connection = self.accept(ALPN_LINK).await?;
        let (mut tx, mut rx) = connection.accept_bi().await?;
        let hello: Hello = receive(&mut rx).await?;
        let welcome = Welcome {
            version: 1,
            node: self.node,
            epoch: Epoch(self.epoch),
            coordinator_version: "0.1.0".into(),
            metrics_interval_ms: 1000,
            notices: vec![],
        };
        send(&mut tx, &HelloReply::Welcome(welcome)).await?;
        Ok(Link {
            connection,
            control: (tx, rx),
            hello,
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
        let (mut tx, mut rx) = self.connection.open_bi().await?;
        tx.write_all(bytes).await?;
        tx.finish()?;
        loop {
            match receive::<Reply>(&mut rx).await? {
                Reply::Finished(end) => return Ok(end),
                Reply::Accepted | Reply::Progress(_) => {}
            }
        }
    }

    /// Whether the agent still holds the link.
    pub fn alive(&self) -> Result<()> {
        match self.connection.close_reason() {
            None => Ok(()),
            Some(reason) => bail!("the agent hung up: {reason}"),
        }
    }
}
