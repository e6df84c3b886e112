//! An agent that is not the product's: it enrols with a key of its own and says whatever a test gives it.

use crate::recording::read_frame;
use anyhow::{Context, Result, bail};
use proximity_protocol::{
    ALPN_ENROLL, ALPN_LINK, COORDINATOR_TLS_NAME,
    codec::{self, Message},
    enquiry::Enquiry,
    enroll::{EnrollReply, EnrollRequest, Grant},
    renew::{RETURN_CHALLENGE_LEN, RETURN_LABEL, ReturnRequest},
    token::JoinToken,
};
use quinn::{Connection, Endpoint};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SigningKey};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

/// It, enrolled.
pub struct Puppet {
    key: KeyPair,
    /// What it was granted.
    pub grant: Grant,
    coordinator: SocketAddr,
}

/// One connection, and the socket that it needs.
pub struct Dialled {
    /// The connection.
    pub connection: Connection,
    _endpoint: Endpoint,
}

/// Takes whoever answers for the coordinator: a test knows whom it dials.
#[derive(Debug)]
struct Trusting(Arc<CryptoProvider>);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

async fn dial(to: SocketAddr, alpn: &[u8], own: Option<(&KeyPair, &Grant)>) -> Result<Dialled> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting(provider)));
    let mut tls = match own {
        Some((key, grant)) => builder.with_client_auth_cert(
            vec![grant.certificate_der.clone().into()],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )?,
        None => builder.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![alpn.to_vec()];
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls)?;
    let endpoint = Endpoint::client((Ipv4Addr::UNSPECIFIED, 0).into())?;
    let connection = endpoint
        .connect_with(quinn::ClientConfig::new(Arc::new(crypto)), to, COORDINATOR_TLS_NAME)?
        .await?;
    Ok(Dialled {
        connection,
        _endpoint: endpoint,
    })
}

fn csr(key: &KeyPair) -> Result<Vec<u8>> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(key)?.der().to_vec())
}

/// One question on a connection of enrolment; the answer as bytes.
async fn ask<M: Message>(dialled: &Dialled, question: &M) -> Result<Vec<u8>> {
    let (mut send, mut recv) = dialled.connection.open_bi().await?;
    send.write_all(&codec::encode(1, question)?).await?;
    send.finish()?;
    let answer = read_frame(&mut recv).await?.context("no answer")?;
    dialled.connection.close(0u32.into(), b"");
    Ok(answer)
}

impl Puppet {
    /// Enrols at the first address of `token`, as the node that `request` tells of. Answers the coordinator's frame too.
    pub async fn enrol(token: &JoinToken, mut request: EnrollRequest) -> Result<(Self, Vec<u8>)> {
        let coordinator = token.addresses.first().context("no address")?.parse()?;
        let key = KeyPair::generate()?;
        (request.token, request.secret) = (token.id, token.secret.clone());
        request.csr_der = csr(&key)?;
        let dialled = dial(coordinator, ALPN_ENROLL, None).await?;
        let answer = ask(&dialled, &request).await?;
        match codec::decode::<EnrollReply>(&answer)? {
            EnrollReply::Granted(grant) => Ok((
                Self {
                    key,
                    grant,
                    coordinator,
                },
                answer,
            )),
            EnrollReply::Refused(refusal) => bail!("refused: {refusal}"),
        }
    }

    /// Asks the coordinator of `token` what time it is; the answer as bytes.
    pub async fn what_time(token: &JoinToken) -> Result<Vec<u8>> {
        let coordinator = token.addresses.first().context("no address")?.parse()?;
        ask(&dial(coordinator, ALPN_ENROLL, None).await?, &Enquiry::Clock).await
    }

    /// A connection with its certificate. Nothing has been said on it.
    pub async fn link(&self) -> Result<Dialled> {
        dial(self.coordinator, ALPN_LINK, Some((&self.key, &self.grant))).await
    }

    /// Asks as a node whose certificate has expired; the answer as bytes.
    pub async fn come_back(&self) -> Result<Vec<u8>> {
        let dialled = dial(self.coordinator, ALPN_ENROLL, None).await?;
        let mut challenge = [0; RETURN_CHALLENGE_LEN];
        dialled
            .connection
            .export_keying_material(&mut challenge, RETURN_LABEL, b"")
            .ok()
            .context("no keying material")?;
        let request = ReturnRequest {
            csr_der: csr(&self.key)?,
            proof: self.key.sign(&challenge)?,
        };
        ask(&dialled, &request).await
    }
}
