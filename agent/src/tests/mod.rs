//! A coordinator for the tests of identity and link: a real CA, a real QUIC listener, and the rest is up to the test.
#![allow(clippy::unwrap_used)]

use crate::identity::frames;
use proximity_protocol::{
    ALPN_ENROLL, ALPN_LINK, COORDINATOR_TLS_NAME,
    codec::Message,
    enroll::{EnrollRequest, Grant},
    ids::{JoinTokenId, NodeId},
    observed::{NodeFacts, PolicyFact},
    secret::Secret256,
    token::JoinToken,
};
use quinn::{Connection, Endpoint, crypto::rustls::QuicServerConfig};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DnType, IsCa, KeyPair,
};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer};
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use time::OffsetDateTime;
use uuid::Uuid;

const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work).await.expect("not in time")
}

pub(crate) struct Ca(CertifiedIssuer<'static, KeyPair>, CertificateParams);

impl Ca {
    pub(crate) fn new() -> Self {
        Self::named("the coordinator's root")
    }

    pub(crate) fn named(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(4));
        Self(
            CertifiedIssuer::self_signed(params.clone(), KeyPair::generate().unwrap()).unwrap(),
            params,
        )
    }

    /// The key of the root that follows, signed by this one.
    pub(crate) fn cross(&self, next: &Ca) -> CertificateDer<'static> {
        next.1.signed_by(next.0.key(), &self.0).unwrap().der().clone()
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    pub(crate) fn pin(&self) -> [u8; 32] {
        crate::identity::public_key_fingerprint(self.0.der()).unwrap()
    }

    pub(crate) fn grant(&self, node: NodeId, request: &EnrollRequest) -> Grant {
        self.grant_at(node, &request.csr_der, OffsetDateTime::now_utc())
    }

    /// By a clock that says `now`.
    pub(crate) fn grant_at(&self, node: NodeId, csr_der: &[u8], now: OffsetDateTime) -> Grant {
        let csr = CertificateSigningRequestDer::from(csr_der.to_vec());
        let csr = CertificateSigningRequestParams::from_der(&csr).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, node.to_string());
        params.not_before = now - time::Duration::minutes(5);
        params.not_after = now + time::Duration::days(90);
        let not_after_unix_s = params.not_after.unix_timestamp();
        let certificate = params.signed_by(&csr.public_key, &self.0).unwrap();
        Grant {
            node,
            certificate_der: certificate.der().to_vec(),
            ca_der: self.der().to_vec(),
            not_after_unix_s,
        }
    }
}

/// A listener on the loopback that shows a certificate of `ca` (and `ca` itself). With a certificate of a client only for the link.
pub(crate) fn listen(ca: &Ca) -> Endpoint {
    Endpoint::server(server_config(ca), (Ipv4Addr::LOCALHOST, 0).into()).unwrap()
}

pub(crate) fn server_config(ca: &Ca) -> quinn::ServerConfig {
    server_config_at(ca, Arc::new(rustls::time_provider::DefaultTimeProvider))
}

/// Judges the certificates of agents by another clock.
pub(crate) fn server_config_at(ca: &Ca, time: Arc<dyn rustls::time_provider::TimeProvider>) -> quinn::ServerConfig {
    server_config_with(ca, vec![], &[ALPN_LINK, ALPN_ENROLL], time)
}

/// With more certificates in its chain.
pub(crate) fn server_config_with(
    ca: &Ca,
    more: Vec<CertificateDer<'static>>,
    protocols: &[&[u8]],
    time: Arc<dyn rustls::time_provider::TimeProvider>,
) -> quinn::ServerConfig {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![COORDINATOR_TLS_NAME.to_owned()]).unwrap();
    params.not_before = OffsetDateTime::now_utc() - time::Duration::days(1);
    params.not_after = OffsetDateTime::now_utc() + time::Duration::days(400);
    let leaf = params.signed_by(&key, &ca.0).unwrap();
    let provider = crate::identity::dial::provider();
    let mut roots = RootCertStore::empty();
    roots.add(ca.der()).unwrap();
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .unwrap();
    let mut tls = ServerConfig::builder_with_details(provider, time)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(
            [vec![leaf.der().clone(), ca.der()], more].concat(),
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
        .unwrap();
    tls.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let tls = QuicServerConfig::try_from(tls).unwrap();
    quinn::ServerConfig::with_crypto(Arc::new(tls))
}

pub(crate) fn token(endpoint_address: SocketAddr, pin: [u8; 32]) -> JoinToken {
    let secret = Secret256::new([9; 32]);
    JoinToken::new(
        vec![endpoint_address.to_string()],
        pin,
        JoinTokenId(Uuid::new_v4()),
        secret,
    )
    .unwrap()
}

pub(crate) async fn accept(endpoint: &Endpoint) -> Connection {
    within(async { endpoint.accept().await.unwrap().await }).await.unwrap()
}

/// Reads a message that must be there.
pub(crate) async fn read<M: Message>(stream: &mut quinn::RecvStream) -> M {
    within(frames::read::<M>(stream)).await.unwrap().unwrap()
}

pub(crate) fn facts() -> NodeFacts {
    NodeFacts {
        node_name: "pve1".parse().unwrap(),
        address: Ipv4Addr::LOCALHOST,
        cluster: None,
        quorate: true,
        host_fingerprint: [1; 32],
        pve_version: None,
        kernel: "6.8".into(),
        cpu_count: 1,
        memory_total_bytes: 1,
        storages: vec![],
        bridges: vec![],
        next_id: None,
        policy: PolicyFact {
            vmid_first: 100,
            vmid_last: 999,
            port_first: 1,
            port_last: 2,
            storages: vec![],
            bridges: vec![],
            denied_verbs: vec![],
        },
    }
}
