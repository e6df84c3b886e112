//! The node's key: ECDSA P-256, made here, never sent.

use super::JoinError;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls_pki_types::PrivatePkcs8KeyDer;
use zeroize::Zeroizing;

fn failed(error: rcgen::Error) -> JoinError {
    JoinError::Key(error.to_string())
}

/// A new key, PKCS#8 DER.
pub(super) fn generate() -> Result<Zeroizing<Vec<u8>>, JoinError> {
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    Ok(Zeroizing::new(pair.serialize_der()))
}

/// A request for a certificate, PKCS#10 DER. It names nobody: the coordinator takes the public key alone and gives the name.
pub(super) fn request(key: &[u8]) -> Result<Vec<u8>, JoinError> {
    let pair = pair(key)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(&pair).map_err(failed)?.der().to_vec())
}

/// The public half, SubjectPublicKeyInfo DER.
pub(super) fn public_half(key: &[u8]) -> Result<Vec<u8>, JoinError> {
    Ok(pair(key)?.subject_public_key_info())
}

pub(super) fn pair(key: &[u8]) -> Result<KeyPair, JoinError> {
    KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(key), &PKCS_ECDSA_P256_SHA256).map_err(failed)
}
