//! Which Proxmox installation this is: the public key of its own certificate authority, `/etc/pve/pve-root-ca.pem`. Made once per cluster, shared by
//! its nodes, kept when the certificate is renewed with the same key.

use super::NodeContext;
use proximity_protocol::fault::{Fault, FaultKind};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate, parse_x509_pem};

/// SHA-256 of the SubjectPublicKeyInfo.
pub(super) fn host_fingerprint(node: &NodeContext) -> Result<[u8; 32], Fault> {
    let path = node.etc_pve("pve-root-ca.pem");
    let fault = |why: String| {
        Fault::new(
            FaultKind::Internal,
            format!(
                "{} cannot be read ({why}): run `pvecm updatecerts` on this node",
                path.display()
            ),
        )
    };
    let bytes = std::fs::read(&path).map_err(|error| fault(error.to_string()))?;
    let (_, pem) = parse_x509_pem(&bytes).map_err(|error| fault(error.to_string()))?;
    let (_, certificate) = X509Certificate::from_der(&pem.contents).map_err(|error| fault(error.to_string()))?;
    Ok(Sha256::digest(certificate.public_key().raw).into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::facts::testing;

    #[test]
    fn the_key_counts_and_not_the_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let node = testing::node(dir.path());
        assert!(host_fingerprint(&node).is_err());
        let key = rcgen::KeyPair::generate().unwrap();
        let mut seen = Vec::new();
        for name in ["a", "b"] {
            let certificate = rcgen::CertificateParams::new(vec![name.to_owned()])
                .unwrap()
                .self_signed(&key)
                .unwrap();
            testing::put(dir.path(), "etc/pve/pve-root-ca.pem", &certificate.pem());
            seen.push(host_fingerprint(&node).unwrap());
        }
        assert_eq!(seen[0], seen[1]);
        let other = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["a".to_owned()])
            .unwrap()
            .self_signed(&other)
            .unwrap();
        testing::put(dir.path(), "etc/pve/pve-root-ca.pem", &certificate.pem());
        assert_ne!(host_fingerprint(&node).unwrap(), seen[0]);
    }
}
