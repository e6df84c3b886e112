//! One root: ECDSA P-256, ten years. What it signs: certificates of nodes, the coordinator's own, and the key of the root that follows it.

use super::{
    NodeKey, PkiError,
    file::{KeyFile, place},
    random,
};
use crate::clock::UnixMs;
use proximity_protocol::{ids::NodeId, roots::Pin};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SerialNumber,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

const DAY_MS: i64 = 24 * 3600 * 1000;
const CA_VALIDITY_MS: i64 = 3652 * DAY_MS;
/// How long a node's certificate is valid: 90 days.
pub const NODE_VALIDITY_MS: i64 = 90 * DAY_MS;
/// Certificates begin this much earlier, so that a peer whose clock is a little behind takes them.
const BACKDATE_MS: i64 = 3600 * 1000;
/// How many roots may lie between a certificate and the root that a node knows: one for each rotation for which it was away. TLS libraries look no further
/// than six.
const ROOTS_BETWEEN: u8 = 4;

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

/// A root as everybody may know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// Its certificate, signed by itself.
    pub certificate: CertificateDer<'static>,
    /// SHA-256 of its public key (SubjectPublicKeyInfo).
    pub pin: Pin,
    /// From when.
    pub not_before: UnixMs,
    /// Until when.
    pub not_after: UnixMs,
    subject: Vec<u8>,
}

impl Root {
    /// Whether it has issued that certificate, by the name of the issuer: no two roots share one.
    pub fn has_issued(&self, certificate: &[u8]) -> bool {
        X509Certificate::from_der(certificate).is_ok_and(|(_, parsed)| parsed.issuer().as_raw() == self.subject)
    }
}

pub(super) struct Authority(Issuer<'static, KeyPair>);

/// Where the parts of the root `name` lie.
pub(super) struct Files {
    pub(super) key: PathBuf,
    pub(super) certificate: PathBuf,
    /// Its key, signed by the root before.
    pub(super) cross: PathBuf,
}

impl Files {
    pub(super) fn of(folder: &Path, name: &str) -> Self {
        let file = |end: &str| folder.join(format!("{name}{end}"));
        Self {
            key: file(".key"),
            certificate: file(".pem"),
            cross: file(".cross.pem"),
        }
    }
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

fn damaged(path: &Path, detail: impl ToString) -> PkiError {
    PkiError::Damaged {
        path: path.to_owned(),
        detail: detail.to_string(),
    }
}

/// Reads a certificate in PEM.
pub(super) fn read_certificate(path: &Path) -> Result<CertificateDer<'static>, PkiError> {
    let pem = std::fs::read(path).map_err(|source| PkiError::File {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    CertificateDer::from_pem_slice(&pem).map_err(|error| damaged(path, error))
}

/// Reads a root's certificate.
pub(super) fn read_root(path: &Path) -> Result<Root, PkiError> {
    let certificate = read_certificate(path)?;
    let (pin, not_before, not_after, subject) = {
        let (_, parsed) = X509Certificate::from_der(&certificate).map_err(|error| damaged(path, error))?;
        (
            Sha256::digest(parsed.public_key().raw).into(),
            parsed.validity().not_before.timestamp().saturating_mul(1000),
            parsed.validity().not_after.timestamp().saturating_mul(1000),
            parsed.subject().as_raw().to_vec(),
        )
    };
    Ok(Root {
        certificate,
        pin,
        not_before,
        not_after,
        subject,
    })
}

fn read_key(file: &KeyFile, pem: &[u8]) -> Result<KeyPair, PkiError> {
    let text = std::str::from_utf8(pem).map_err(|error| damaged(file.path(), error))?;
    KeyPair::from_pem(text).map_err(|error| damaged(file.path(), error))
}

fn new_key() -> Result<Zeroizing<Vec<u8>>, PkiError> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    Ok(Zeroizing::new(key.serialize_pem().into_bytes()))
}

/// Makes the first root, or what a crash has left out of it. A certificate whose key is gone is not replaced.
pub(super) fn make_first(files: &Files, now: UnixMs) -> Result<(), PkiError> {
    let key_file = KeyFile::new(files.key.clone());
    if files.certificate.exists() && key_file.read()?.is_none() {
        return Err(PkiError::Incomplete {
            present: files.certificate.clone(),
            missing: files.key.clone(),
        });
    }
    let pem = key_file.read_or_make(new_key)?;
    // The key came first: a crash in between leaves it alone, and the certificate is made now. The pin speaks of the key only.
    if files.certificate.exists() {
        return Ok(());
    }
    let key = read_key(&key_file, &pem)?;
    let certificate = root_params("Proximity coordinator CA", now, None)?.self_signed(&key)?;
    place(&files.certificate, certificate.pem().as_bytes(), 0o644)
}

/// Makes the root that follows `before`: key, certificate, and the key signed by the root before, so that a node that knows only that one believes this one.
pub(super) fn make_next(files: &Files, before: (&Authority, &Root), now: UnixMs) -> Result<(), PkiError> {
    let key_file = KeyFile::new(files.key.clone());
    let pem = key_file.read_or_make(new_key)?;
    let key = read_key(&key_file, &pem)?;
    let pin: Pin = Sha256::digest(key.subject_public_key_info()).into();
    // A name of its own: a chain is looked for by names.
    let name = format!("Proximity coordinator CA {}", data_encoding::HEXLOWER.encode(&pin[..4]));
    let certificate = root_params(&name, now, None)?.self_signed(&key)?;
    place(&files.certificate, certificate.pem().as_bytes(), 0o644)?;
    let mut crossing = root_params(&name, now, Some(before.1.not_after))?;
    crossing.use_authority_key_identifier_extension = true;
    let cross = crossing.signed_by(&key, &before.0.0)?;
    place(&files.cross, cross.pem().as_bytes(), 0o644)
}

fn root_params(name: &str, now: UnixMs, not_after: Option<UnixMs>) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(ROOTS_BETWEEN));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(SerialNumber::from_slice(&serial()?));
    // A day back, as for the server's certificate: nodes judge it by their clocks.
    params.not_before = moment(now.saturating_sub(DAY_MS))?;
    params.not_after = moment(not_after.unwrap_or_else(|| now.saturating_add(CA_VALIDITY_MS)))?;
    Ok(params)
}

impl Authority {
    /// Reads the key of `root`; `None` if there is none.
    pub(super) fn read(files: &Files, root: &Root) -> Result<Option<Self>, PkiError> {
        let key_file = KeyFile::new(files.key.clone());
        let Some(pem) = key_file.read()? else {
            return Ok(None);
        };
        let key = read_key(&key_file, &pem)?;
        let pin: Pin = Sha256::digest(key.subject_public_key_info()).into();
        if pin != root.pin {
            return Err(damaged(
                &files.certificate,
                format!("it is not the certificate of {}", files.key.display()),
            ));
        }
        let issuer =
            Issuer::from_ca_cert_der(&root.certificate, key).map_err(|error| damaged(&files.certificate, error))?;
        Ok(Some(Self(issuer)))
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
        let certificate = params.signed_by(key, &self.0)?;
        Ok(Issued {
            serial: data_encoding::HEXLOWER.encode(&serial),
            der: certificate.der().to_vec(),
            not_before: from.unix_timestamp().saturating_mul(1000),
            not_after: until.unix_timestamp().saturating_mul(1000),
        })
    }
}
