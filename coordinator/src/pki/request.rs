//! The public key of a certificate request. Everything else that a request asks for is ignored.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519, UnparsedPublicKey, VerificationAlgorithm,
};
use rcgen::{CertificateSigningRequestParams, PublicKey, PublicKeyData};
use rustls_pki_types::CertificateSigningRequestDer;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509CertificationRequest};

/// Bytes of the largest request that is looked at.
const REQUEST_MAX: usize = 8 * 1024;

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not PKCS#10, not signed with its own key, or too large.
    #[error("the certificate request cannot be used: {0}")]
    Unreadable(String),
    /// A kind of key that is not taken.
    #[error("the key must be ECDSA P-256, ECDSA P-384 or Ed25519")]
    KeyKind,
}

/// A key whose holder has proven that it has the private part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeKey {
    pub(super) public: PublicKey,
    spki_sha256: [u8; 32],
}

impl NodeKey {
    /// Reads PKCS#10 in DER and checks that it is signed with the key that it carries.
    pub fn from_request(der: &[u8]) -> Result<Self, RequestError> {
        if der.len() > REQUEST_MAX {
            return Err(RequestError::Unreadable(format!(
                "{} bytes are over the limit of {REQUEST_MAX}",
                der.len()
            )));
        }
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der))
            .map_err(|error| RequestError::Unreadable(error.to_string()))?;
        let public = request.public_key;
        let taken = [
            &rcgen::PKCS_ECDSA_P256_SHA256,
            &rcgen::PKCS_ECDSA_P384_SHA384,
            &rcgen::PKCS_ED25519,
        ];
        if !taken.contains(&public.algorithm()) {
            return Err(RequestError::KeyKind);
        }
        // The signature's algorithm names the kind of key above; the key's own description must say the same, or the certificate would carry another key.
        let spki = public.subject_public_key_info();
        let (_, parsed) =
            X509CertificationRequest::from_der(der).map_err(|error| RequestError::Unreadable(error.to_string()))?;
        if parsed.certification_request_info.subject_pki.raw != spki {
            return Err(RequestError::KeyKind);
        }
        Ok(Self {
            public,
            spki_sha256: Sha256::digest(&spki).into(),
        })
    }

    /// Whether `signature` over `message` is of this key.
    pub fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let kind = rcgen::PublicKeyData::algorithm(&self.public);
        let algorithm: &dyn VerificationAlgorithm = if kind == &rcgen::PKCS_ECDSA_P256_SHA256 {
            &ECDSA_P256_SHA256_ASN1
        } else if kind == &rcgen::PKCS_ECDSA_P384_SHA384 {
            &ECDSA_P384_SHA384_ASN1
        } else {
            &ED25519
        };
        UnparsedPublicKey::new(algorithm, self.public.der_bytes())
            .verify(message, signature)
            .is_ok()
    }

    /// SHA-256 of its SubjectPublicKeyInfo: by this the registry recognises it.
    pub fn spki_sha256(&self) -> [u8; 32] {
        self.spki_sha256
    }
}
