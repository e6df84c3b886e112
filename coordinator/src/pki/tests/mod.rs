#![allow(clippy::unwrap_used)]
mod backups;
mod rotations;

use super::*;
use rcgen::{CertificateParams, DnType, KeyPair};
use std::os::unix::fs::PermissionsExt;
use uuid::Uuid;
use x509_parser::prelude::{FromDer, X509Certificate};

const NOW: UnixMs = 1_790_000_000_000;

fn request(key: &KeyPair) -> Vec<u8> {
    let mut params = CertificateParams::new(vec!["coordinator.proximity.internal".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "somebody else");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.serialize_request(key).unwrap().der().to_vec()
}

#[test]
fn keys_are_made_once_and_stay() {
    let state = tempfile::tempdir().unwrap();
    let first = Pki::open(state.path(), NOW).unwrap();
    let second = Pki::open(state.path(), NOW + 1_000_000).unwrap();
    assert_eq!(first.ca_der(), second.ca_der());
    assert_eq!(first.ca_pin(), second.ca_pin());
    assert_eq!(first.reset_key(), second.reset_key());
    let secret = Secret256::new([7; 32]);
    assert!(second.join_secret_matches(&secret, &first.hash_join_secret(&secret)));
    assert!(!second.join_secret_matches(&Secret256::new([8; 32]), &first.hash_join_secret(&secret)));
    for entry in std::fs::read_dir(state.path().join("ca")).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        let public = entry.file_name() == "ca.pem";
        assert_eq!(mode & 0o077 == 0, !public, "{:?} {mode:o}", entry.file_name());
    }
}

#[test]
fn what_was_there_is_never_replaced() {
    let state = tempfile::tempdir().unwrap();
    let before = Pki::open(state.path(), NOW).unwrap().ca_pin();
    let (key, pem) = (state.path().join("ca/ca.key"), state.path().join("ca/ca.pem"));
    std::fs::remove_file(&pem).unwrap();
    assert_eq!(
        Pki::open(state.path(), NOW).unwrap().ca_pin(),
        before,
        "a crash between key and certificate"
    );
    std::fs::rename(&key, state.path().join("kept")).unwrap();
    assert!(matches!(Pki::open(state.path(), NOW), Err(PkiError::Incomplete { .. })));
    std::fs::rename(state.path().join("kept"), &key).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(Pki::open(state.path(), NOW), Err(PkiError::Exposed(_))));
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&key, "nothing").unwrap();
    assert!(matches!(Pki::open(state.path(), NOW), Err(PkiError::Damaged { .. })));
}

#[test]
fn from_a_request_only_the_key_is_taken() {
    let state = tempfile::tempdir().unwrap();
    let pki = Pki::open(state.path(), NOW).unwrap();
    let key = KeyPair::generate().unwrap();
    let node = NodeId(Uuid::from_u128(5));
    let node_key = NodeKey::from_request(&request(&key)).unwrap();
    let issued = pki.issue(node, &node_key, NOW).unwrap();
    let (_, certificate) = X509Certificate::from_der(&issued.der).unwrap();
    assert_eq!(certificate.subject().to_string(), format!("CN={node}"));
    assert!(!certificate.is_ca());
    assert!(certificate.subject_alternative_name().unwrap().is_none());
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth);
    assert_eq!(certificate.validity().not_after.timestamp() * 1000, issued.not_after);
    assert_eq!(issued.not_after, NOW + NODE_VALIDITY_MS);
    assert_eq!(data_encoding::HEXLOWER.encode(certificate.raw_serial()), issued.serial);
    assert_ne!(pki.issue(node, &node_key, NOW).unwrap().serial, issued.serial);
}

#[test]
fn requests_that_prove_nothing_are_refused() {
    let key = KeyPair::generate().unwrap();
    let good = request(&key);
    assert!(NodeKey::from_request(&good).is_ok());
    assert!(matches!(NodeKey::from_request(b""), Err(RequestError::Unreadable(_))));
    assert!(matches!(
        NodeKey::from_request(&vec![0x30; 9000]),
        Err(RequestError::Unreadable(_))
    ));
    let mut altered = good.clone();
    let last = altered.len() - 1;
    altered[last] ^= 1;
    assert!(NodeKey::from_request(&altered).is_err(), "signature");
    let other = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    assert!(NodeKey::from_request(&request(&other)).is_ok());
}
