//! Which roots this node trusts, and how it comes from one to the next: it takes a new root only if one that it trusts already has signed its key. Pure.

use super::public_key_fingerprint;
use proximity_protocol::roots::{Pin, ROOTS_MAX, Roots};
use x509_parser::prelude::{FromDer, X509Certificate};

/// What becomes of what the coordinator has told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Followed {
    /// Certificates of the roots to trust from now on, DER; never none.
    pub(super) trusted: Vec<Vec<u8>>,
    /// Those that nobody whom we trust has signed.
    pub(super) strangers: usize,
}

/// Why nothing is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FollowError {
    /// Too many, or none.
    #[error("the coordinator tells of {0} roots, 1 to {ROOTS_MAX} were expected")]
    Count(usize),
    /// None that we could believe.
    #[error("none of the roots that the coordinator tells of is one that this node trusts, or is signed by one")]
    Strangers,
}

/// A key under its name, which is what a certificate below it refers to.
struct Known {
    subject: Vec<u8>,
    key: Vec<u8>,
}

fn known(der: &[u8]) -> Option<Known> {
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    parsed.is_ca().then(|| Known {
        subject: parsed.subject().as_raw().to_vec(),
        key: parsed.public_key().raw.to_vec(),
    })
}

/// Whether `der` bears the signature of a key that is known under the name of its issuer. Its dates are no matter here: TLS judges those of every chain.
fn is_signed_by(der: &[u8], by: &[Known]) -> bool {
    use x509_parser::x509::SubjectPublicKeyInfo;
    let Ok((_, parsed)) = X509Certificate::from_der(der) else {
        return false;
    };
    by.iter()
        .filter(|known| known.subject == parsed.issuer().as_raw())
        .any(|known| {
            SubjectPublicKeyInfo::from_der(&known.key).is_ok_and(|(_, key)| parsed.verify_signature(Some(&key)).is_ok())
        })
}

/// Judges what the coordinator tells of its roots.
pub(super) fn follow(trusted: &[Vec<u8>], told: &Roots) -> Result<Followed, FollowError> {
    if !(1..=ROOTS_MAX).contains(&told.trusted.len()) {
        return Err(FollowError::Count(told.trusted.len()));
    }
    let mut believed: Vec<Known> = trusted.iter().filter_map(|der| known(der)).collect();
    let mut crossed: Vec<&Vec<u8>> = told.crossed.iter().take(ROOTS_MAX).collect();
    // A root may be some rotations away: each round comes one further.
    loop {
        let (signed, rest): (Vec<_>, Vec<_>) = crossed.into_iter().partition(|der| is_signed_by(der, &believed));
        if signed.is_empty() {
            break;
        }
        believed.extend(signed.into_iter().filter_map(|der| known(der)));
        crossed = rest;
    }
    let (ours, strangers): (Vec<_>, Vec<_>) = told.trusted.iter().partition(|der| {
        known(der).is_some_and(|root| believed.iter().any(|one| one.key == root.key)) && is_signed_by_itself(der)
    });
    if ours.is_empty() {
        return Err(FollowError::Strangers);
    }
    Ok(Followed {
        trusted: ours.into_iter().cloned().collect(),
        strangers: strangers.len(),
    })
}

fn is_signed_by_itself(der: &[u8]) -> bool {
    known(der).is_some_and(|own| is_signed_by(der, &[own]))
}

/// Their pins.
pub(super) fn pins(trusted: &[Vec<u8>]) -> Vec<Pin> {
    trusted.iter().filter_map(|der| public_key_fingerprint(der)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, Issuer, KeyPair};

    struct Root {
        ca: CertifiedIssuer<'static, KeyPair>,
        key: KeyPair,
        name: &'static str,
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(4));
        params
    }

    fn root(name: &'static str) -> Root {
        let key = KeyPair::generate().unwrap();
        let copy = KeyPair::try_from(key.serialize_der()).unwrap();
        Root {
            ca: CertifiedIssuer::self_signed(params(name), copy).unwrap(),
            key,
            name,
        }
    }

    impl Root {
        fn der(&self) -> Vec<u8> {
            self.ca.der().to_vec()
        }

        /// The key of `next`, signed by this one.
        fn cross(&self, next: &Root) -> Vec<u8> {
            let issuer = Issuer::from_ca_cert_der(self.ca.der(), KeyPair::try_from(self.key.serialize_der()).unwrap());
            params(next.name)
                .signed_by(&next.key, &issuer.unwrap())
                .unwrap()
                .der()
                .to_vec()
        }
    }

    fn told(trusted: &[&Root], crossed: &[Vec<u8>]) -> Roots {
        Roots {
            trusted: trusted.iter().map(|root| root.der()).collect(),
            crossed: crossed.to_vec(),
            signs: [0; 32],
            renew_within_s: 0,
        }
    }

    #[test]
    fn a_root_is_taken_that_a_trusted_one_has_signed() {
        let (a, b, c) = (root("a"), root("b"), root("c"));
        let crossed = [b.cross(&c), a.cross(&b)];
        let both = follow(&[a.der()], &told(&[&a, &b], &crossed)).unwrap();
        assert_eq!((both.trusted, both.strangers), (vec![a.der(), b.der()], 0));
        let away_for_two = follow(&[a.der()], &told(&[&c], &crossed)).unwrap();
        assert_eq!(away_for_two.trusted, [c.der()]);
        // What is not told of any more goes.
        assert_eq!(
            follow(&[a.der(), b.der()], &told(&[&b], &[])).unwrap().trusted,
            [b.der()]
        );
    }

    #[test]
    fn a_root_that_nobody_has_signed_is_not_taken_and_takes_nothing_away() {
        let (a, b, other) = (root("a"), root("b"), root("a"));
        let strangers = Err(FollowError::Strangers);
        assert_eq!(follow(&[a.der()], &told(&[&b], &[])), strangers);
        // Signed by a root of the same name and another key.
        assert_eq!(follow(&[a.der()], &told(&[&b], &[other.cross(&b)])), strangers);
        // The signature is for another key than the root's.
        let same_name = root("b");
        assert_eq!(follow(&[a.der()], &told(&[&b], &[a.cross(&same_name)])), strangers);
        let some = follow(&[a.der()], &told(&[&a, &b], &[])).unwrap();
        assert_eq!((some.trusted, some.strangers), (vec![a.der()], 1));
        assert_eq!(follow(&[a.der()], &told(&[], &[])), Err(FollowError::Count(0)));
        assert_eq!(follow(&[a.der()], &told(&[&a; 9], &[])), Err(FollowError::Count(9)));
        let garbage = Roots {
            trusted: vec![vec![0x30, 0x82]],
            crossed: vec![vec![], vec![0xFF; 40]],
            ..told(&[], &[])
        };
        assert_eq!(follow(&[a.der()], &garbage), strangers);
    }

    #[test]
    fn a_certificate_of_a_node_is_no_root() {
        let a = root("a");
        let key = KeyPair::generate().unwrap();
        let mut leaf = params("leaf");
        leaf.is_ca = IsCa::ExplicitNoCa;
        let issuer = Issuer::from_ca_cert_der(a.ca.der(), KeyPair::try_from(a.key.serialize_der()).unwrap()).unwrap();
        let signed = leaf.signed_by(&key, &issuer).unwrap().der().to_vec();
        let own = params("leaf").self_signed(&key).unwrap().der().to_vec();
        let told = Roots {
            trusted: vec![own],
            crossed: vec![signed],
            signs: [0; 32],
            renew_within_s: 0,
        };
        assert_eq!(follow(&[a.der()], &told), Err(FollowError::Strangers));
    }
}
