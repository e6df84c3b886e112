//! A certificate authority of the tests' own: what a coordinator that is not the product's shows and gives, with any dates.

use anyhow::{Context, Result};
use proximity_protocol::{ALPN_ENROLL, ALPN_LINK, COORDINATOR_TLS_NAME, enroll::Grant, ids::NodeId};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
};
use rustls::{RootCertStore, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use std::{path::Path, sync::Arc};
use time::{Duration, OffsetDateTime};

/// From when to when a certificate is valid.
#[derive(Debug, Clone, Copy)]
pub struct Dates {
    /// First moment.
    pub from: OffsetDateTime,
    /// Last moment.
    pub until: OffsetDateTime,
}

impl Dates {
    /// As a coordinator gives them whose clock says `now`.
    pub fn given_at(now: OffsetDateTime) -> Self {
        Self {
            from: now - Duration::hours(1),
            until: now + Duration::days(90),
        }
    }

    /// For whatever lies in a repository for years.
    pub fn for_ages() -> Self {
        Self {
            from: time::macros::datetime!(2020-01-01 00:00 UTC),
            until: time::macros::datetime!(2120-01-01 00:00 UTC),
        }
    }
}

impl Default for Dates {
    fn default() -> Self {
        Self::given_at(OffsetDateTime::now_utc())
    }
}

/// The authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    ca: CertificateDer<'static>,
    pin: [u8; 32],
}

impl Authority {
    /// A new one.
    pub fn new() -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(DnType::CommonName, "authority of a test");
        let ca = params.self_signed(&key)?.der().clone();
        Self::of(key, ca)
    }

    /// The one that [`Authority::store`] has left in a folder.
    pub fn load(folder: &Path) -> Result<Self> {
        let key = std::fs::read_to_string(folder.join("ca.key"))?;
        let ca = std::fs::read(folder.join("ca.der"))?;
        Self::of(KeyPair::from_pem(&key)?, ca.into())
    }

    /// Keeps it, key included: it is good for tests only.
    pub fn store(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join("ca.key"), self.issuer.key().serialize_pem())?;
        std::fs::write(folder.join("ca.der"), &self.ca)?;
        Ok(())
    }

    fn of(key: KeyPair, ca: CertificateDer<'static>) -> Result<Self> {
        let pin = Sha256::digest(key.subject_public_key_info()).into();
        let issuer = Issuer::from_ca_cert_der(&ca, key)?;
        Ok(Self { issuer, ca, pin })
    }

    /// What join tokens pin.
    pub fn pin(&self) -> [u8; 32] {
        self.pin
    }

    /// Its own certificate.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    /// A certificate of the coordinator's for `dates`, and a listener's settings with it.
    pub fn server(&self, dates: Dates) -> Result<quinn::ServerConfig> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![COORDINATOR_TLS_NAME.to_owned()])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = (dates.from, dates.until);
        let certificate = params.signed_by(&key, &self.issuer)?.der().clone();
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.clone())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()?;
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![certificate, self.ca.clone()],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )?;
        tls.alpn_protocols = vec![ALPN_LINK.to_vec(), ALPN_ENROLL.to_vec()];
        let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(tls)?;
        Ok(quinn::ServerConfig::with_crypto(Arc::new(crypto)))
    }

    /// What a coordinator grants for a request.
    pub fn grant(&self, node: NodeId, csr_der: &[u8], dates: Dates) -> Result<Grant> {
        let csr = CertificateSigningRequestDer::from(csr_der.to_vec());
        let csr = CertificateSigningRequestParams::from_der(&csr).context("the request for a certificate")?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, node.to_string());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = (dates.from, dates.until);
        let certificate = params.signed_by(&csr.public_key, &self.issuer)?;
        Ok(Grant {
            node,
            certificate_der: certificate.der().to_vec(),
            ca_der: self.ca.to_vec(),
            not_after_unix_s: dates.until.unix_timestamp(),
        })
    }

    /// Puts another certificate for the same key into the identity below `state`.
    pub fn replace(&self, state: &Path, node: NodeId, csr_der: &[u8], dates: Dates) -> Result<()> {
        let grant = self.grant(node, csr_der, dates)?;
        let path = state.join("identity/identity.json");
        let mut identity: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        identity["certificate_der"] = data_encoding::BASE64.encode(&grant.certificate_der).into();
        std::fs::write(&path, serde_json::to_vec_pretty(&identity)?)?;
        Ok(())
    }
}
