//! The certificate authority: ECDSA P-256, ten years, in the state folder.

use super::{
    NodeKey, PkiError,
    file::{KeyFile, place},
    random,
};
use crate::clock::UnixMs;
use proximity_protocol::ids::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SerialNumber,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use sha2::{Digest, Sha256};
use std::path::Path;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

const DAY_MS: i64 = 24 * 3600 * 1000;
const CA_VALIDITY_MS: i64 = 3652 * DAY_MS;
/// How long a node's certificate is valid: 90 days.
pub const NODE_VALIDITY_MS: i64 = 90 * DAY_MS;
/// Certificates begin this much earlier, so that a peer whose clock is a little behind takes them.
const BACKDATE_MS: i64 = 3600 * 1000;

/// A certificate that was given to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// Hexadecimal, lower case.
    pub serial: String,
    /// The certificate.
    pub der: Vec<u8>,
    /// From when.
    pub not_before: UnixMs,
    /// Until when; whole seconds.
    pub not_after: UnixMs,
}

pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pin: [u8; 32],
}

fn moment(at: UnixMs) -> Result<OffsetDateTime, PkiError> {
    OffsetDateTime::from_unix_timestamp(at.div_euclid(1000)).map_err(|_| PkiError::Clock(at))
}

fn named(name: &str) -> DistinguishedName {
    let mut dn = DistinguishedName::new();
    dn.push(DnType::CommonName, name);
    dn
}

/// 127 random bits, positive: RFC 5280 allows 20 bytes and asks for at least 64 bits of chance.
fn serial() -> Result<[u8; 16], PkiError> {
    let mut bytes: [u8; 16] = random()?;
    // A leading zero byte would be dropped by DER, and the registry would know another text than the certificate.
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(bytes)
}

impl Authority {
    pub(super) fn open(folder: &Path, now: UnixMs) -> Result<Self, PkiError> {
        let key_file = KeyFile::new(folder.join("ca.key"));
        let pem_path = folder.join("ca.pem");
        let damaged = |path: &Path| {
            let path = path.to_owned();
            move |detail: String| PkiError::Damaged { path, detail }
        };
        if pem_path.exists() && key_file.read()?.is_none() {
            return Err(PkiError::Incomplete {
                present: pem_path,
                missing: key_file.path().to_owned(),
            });
        }
        let key_pem = key_file.read_or_make(|| {
            let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
            Ok(Zeroizing::new(key.serialize_pem().into_bytes()))
        })?;
        let text = std::str::from_utf8(&key_pem).map_err(|error| damaged(key_file.path())(error.to_string()))?;
        let key = KeyPair::from_pem(text).map_err(|error| damaged(key_file.path())(error.to_string()))?;
        let spki = key.subject_public_key_info();
        // The key came first: a crash in between leaves it alone, and the certificate is made now. The pin speaks of the key only.
        if !pem_path.exists() {
            place(&pem_path, own_certificate(&key, now)?.pem().as_bytes(), 0o644)?;
        }
        let pem = std::fs::read(&pem_path).map_err(|source| PkiError::File {
            action: "read",
            path: pem_path.clone(),
            source,
        })?;
        let certificate =
            CertificateDer::from_pem_slice(&pem).map_err(|error| damaged(&pem_path)(error.to_string()))?;
        let (_, parsed) =
            X509Certificate::from_der(&certificate).map_err(|error| damaged(&pem_path)(error.to_string()))?;
        if parsed.public_key().raw != spki {
            return Err(damaged(&pem_path)("it is not the certificate of ca.key".into()));
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|e| damaged(&pem_path)(e.to_string()))?;
        Ok(Self {
            issuer,
            pin: Sha256::digest(&spki).into(),
            certificate,
        })
    }

    pub(super) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub(super) fn pin(&self) -> [u8; 32] {
        self.pin
    }

    pub(super) fn issue(&self, node: NodeId, key: &NodeKey, now: UnixMs) -> Result<Issued, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = named(&node.to_string());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, &key.public, now, BACKDATE_MS, NODE_VALIDITY_MS)
    }

    /// A certificate under the name that agents expect.
    pub(super) fn issue_server(&self, key: &KeyPair, now: UnixMs) -> Result<Issued, PkiError> {
        let name = proximity_protocol::COORDINATOR_TLS_NAME;
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.distinguished_name = named(name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        // A day back: it is the node's clock that judges this one.
        self.sign(params, key, now, DAY_MS, NODE_VALIDITY_MS)
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        key: &impl PublicKeyData,
        now: UnixMs,
        backdate_ms: i64,
        validity_ms: i64,
    ) -> Result<Issued, PkiError> {
        let serial = serial()?;
        let (from, until) = (
            moment(now.saturating_sub(backdate_ms))?,
            moment(now.saturating_add(validity_ms))?,
        );
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.not_before = from;
        params.not_after = until;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(key, &self.issuer)?;
        Ok(Issued {
            serial: data_encoding::HEXLOWER.encode(&serial),
            der: certificate.der().to_vec(),
            not_before: from.unix_timestamp().saturating_mul(1000),
            not_after: until.unix_timestamp().saturating_mul(1000),
        })
    }
}

fn own_certificate(key: &KeyPair, now: UnixMs) -> Result<rcgen::Certificate, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = named("Proximity coordinator CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(SerialNumber::from_slice(&serial()?));
    // A day back, as for the server's certificate: nodes judge it by their clocks.
    params.not_before = moment(now.saturating_sub(DAY_MS))?;
    params.not_after = moment(now.saturating_add(CA_VALIDITY_MS))?;
    Ok(params.self_signed(key)?)
}
