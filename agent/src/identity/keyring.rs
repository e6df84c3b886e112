//! The identity of a running agent, and the one that follows it.
//!
//! `identity.json` is the identity that the coordinator has last welcomed. Beside it, while there is something to renew, lies `renewal.json`: first the new
//! key alone (so that a lost answer is asked for with the same key), then the certificate with it. The agent links with the new one as soon as it is there, and only
//! its Welcome makes it `identity.json`, in one rename: until then the old one is kept, and a coordinator that does not take the new one gets the old.

use super::{
    Identity, IdentityError, JoinError,
    clock::SharedClock,
    dial::{self, DialError},
    files::{self, Renewal, Stored},
    grant, key,
};
use proximity_protocol::{enroll::Grant, ids::NodeId};
use rcgen::SigningKey;
use sha2::{Digest, Sha256};
use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
};
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

/// Renewals of many nodes that joined together are spread over this part of a certificate's life, which ends at two thirds of it.
const JITTER_PART: i32 = 30;

#[derive(Debug)]
enum Next {
    /// A key; its certificate has not come.
    Asked(Zeroizing<Vec<u8>>),
    /// A certificate that no Welcome has confirmed.
    Granted(Stored),
}

#[derive(Debug)]
struct Keys {
    current: Stored,
    next: Option<Next>,
}

impl Keys {
    fn active(&self) -> &Stored {
        match &self.next {
            Some(Next::Granted(next)) => next,
            _ => &self.current,
        }
    }
}

/// All that the agent has to prove itself with.
#[derive(Debug)]
pub(crate) struct Keyring {
    state_dir: PathBuf,
    clock: SharedClock,
    ca_pin: [u8; 32],
    keys: Mutex<Keys>,
}

impl Keyring {
    /// Reads what is below `state_dir`; `None` if this machine has not joined.
    pub(crate) fn open(state_dir: &Path, clock: SharedClock) -> Result<Option<Self>, IdentityError> {
        let Some(identity) = Identity::load(state_dir)? else {
            return Ok(None);
        };
        let Some(current) = files::load(state_dir)? else {
            return Ok(None);
        };
        let next = match files::load_renewal(state_dir)? {
            // Left by an identity that has been replaced since.
            Some(renewal) if renewal.node != current.node => {
                files::remove_renewal(state_dir)?;
                None
            }
            Some(Renewal {
                certificate: Some(certificate),
                key,
                ..
            }) => Some(Next::Granted(Stored {
                certificate,
                key,
                ..current.clone()
            })),
            Some(renewal) => Some(Next::Asked(renewal.key)),
            None => None,
        };
        Ok(Some(Self {
            state_dir: state_dir.into(),
            clock,
            ca_pin: identity.ca_fingerprint,
            keys: Mutex::new(Keys { current, next }),
        }))
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().expect("no code panics while it holds the keys")
    }

    pub(crate) fn clock(&self) -> &SharedClock {
        &self.clock
    }

    /// Who we are.
    pub(crate) fn node(&self) -> NodeId {
        self.keys().current.node
    }

    /// Where the coordinator answers.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.keys().current.addresses.clone()
    }

    fn active(&self) -> Result<Identity, DialError> {
        let stored = self.keys().active().clone();
        Identity::of(stored).map_err(DialError::Tls)
    }

    /// The configuration of a link with the newest certificate.
    pub(crate) fn link_config(&self) -> Result<quinn::ClientConfig, DialError> {
        dial::link_config_at(&self.active()?, &self.clock)
    }

    /// The configuration of a connection on which we show no certificate.
    pub(super) fn return_config(&self) -> Result<quinn::ClientConfig, DialError> {
        dial::return_config(&self.active()?, &self.clock)
    }

    /// The dates of our certificate and of our clock, in words.
    pub(crate) fn dates(&self) -> String {
        let now = date(self.clock.now());
        match self.active() {
            Ok(identity) => format!(
                "it is valid from {} to {}, and this node's clock says {now}",
                date(identity.not_before),
                date(identity.not_after)
            ),
            Err(_) => format!("this node's clock says {now}"),
        }
    }

    /// What the clock says, in words.
    pub(crate) fn today(&self) -> String {
        date(self.clock.now())
    }

    /// How long until the certificate is to be renewed; `None` if it is time.
    pub(crate) fn due_in(&self) -> Option<std::time::Duration> {
        let identity = self.active().ok()?;
        let due = due(&identity);
        // A whole second at least, so that who waits for it does not come too early again and again.
        let left = (due - self.clock.now()).max(Duration::ZERO);
        (left > Duration::ZERO).then(|| left.unsigned_abs().max(std::time::Duration::from_secs(1)))
    }

    /// A request for the next certificate, with a key that is on the disk before it is used.
    pub(crate) fn request(&self) -> Result<Vec<u8>, JoinError> {
        let mut keys = self.keys();
        if let Some(Next::Asked(key)) = &keys.next {
            return key::request(key);
        }
        let key = key::generate()?;
        let request = key::request(&key)?;
        files::store_renewal(&self.state_dir, &renewal(keys.current.node, &key, None))?;
        keys.next = Some(Next::Asked(key));
        Ok(request)
    }

    /// The answer to [`Keyring::request`]: the next link uses it.
    pub(crate) fn renewed(&self, grant: Grant) -> Result<(), JoinError> {
        let key = match &self.keys().next {
            Some(Next::Asked(key)) => key.clone(),
            _ => return Err(JoinError::BadGrant("nobody asked for it".into())),
        };
        self.stage(grant, key)
    }

    /// The answer to a return: another certificate for the key that we have.
    pub(super) fn returned(&self, grant: Grant) -> Result<(), JoinError> {
        let key = self.keys().active().key.clone();
        self.stage(grant, key)
    }

    fn stage(&self, grant: Grant, key: Zeroizing<Vec<u8>>) -> Result<(), JoinError> {
        let mut keys = self.keys();
        if grant.node != keys.current.node {
            return Err(JoinError::BadGrant("the certificate names another node".into()));
        }
        let stored = grant::check(grant, self.ca_pin, keys.current.addresses.clone(), key, None)?;
        let file = renewal(stored.node, &stored.key, Some(stored.certificate.clone()));
        files::store_renewal(&self.state_dir, &file)?;
        keys.next = Some(Next::Granted(stored));
        Ok(())
    }

    /// The request with that key is not taken: the next one gets another key.
    pub(crate) fn drop_request(&self) -> Result<(), IdentityError> {
        let mut keys = self.keys();
        if matches!(keys.next, Some(Next::Asked(_))) {
            files::remove_renewal(&self.state_dir)?;
            keys.next = None;
        }
        Ok(())
    }

    /// The coordinator has welcomed the newest certificate: the one before is forgotten. Answers whether there was a new one.
    pub(crate) fn welcomed(&self) -> Result<bool, IdentityError> {
        let mut keys = self.keys();
        let Some(Next::Granted(next)) = &keys.next else {
            return Ok(false);
        };
        files::store(&self.state_dir, next)?;
        keys.current = next.clone();
        keys.next = None;
        // Left behind by a crash in between, it holds the same certificate as the identity.
        files::remove_renewal(&self.state_dir)?;
        Ok(true)
    }

    /// The coordinator does not take the newest certificate: answers whether there is an older one to go back to.
    pub(crate) fn drop_unconfirmed(&self) -> Result<bool, IdentityError> {
        let mut keys = self.keys();
        if !matches!(keys.next, Some(Next::Granted(_))) {
            return Ok(false);
        }
        files::remove_renewal(&self.state_dir)?;
        keys.next = None;
        Ok(true)
    }

    /// A request for our own key, and its proof on a connection with that challenge.
    pub(super) fn prove(&self, challenge: &[u8]) -> Result<(Vec<u8>, Vec<u8>), JoinError> {
        let key = self.keys().active().key.clone();
        let pair = key::pair(&key)?;
        let proof = pair
            .sign(challenge)
            .map_err(|error| JoinError::Key(error.to_string()))?;
        Ok((key::request(&key)?, proof))
    }
}

fn renewal(node: NodeId, key: &Zeroizing<Vec<u8>>, certificate: Option<Vec<u8>>) -> Renewal {
    Renewal {
        node,
        key: key.clone(),
        certificate,
    }
}

/// When a certificate is renewed: at two thirds of its life, or up to a thirtieth of it before. Which moment it is the certificate itself decides, so that a
/// restart changes nothing.
fn due(identity: &Identity) -> OffsetDateTime {
    let life = identity.not_after - identity.not_before;
    let hash: [u8; 32] = Sha256::digest(&identity.certificate).into();
    let chance = f64::from(u16::from_be_bytes([hash[0], hash[1]])) / f64::from(u16::MAX);
    identity.not_before + life * 2 / 3 - (life / JITTER_PART) * chance
}

fn date(at: OffsetDateTime) -> String {
    let format = time::macros::format_description!("[year]-[month]-[day] [hour]:[minute] UTC");
    at.to_offset(time::UtcOffset::UTC)
        .format(format)
        .unwrap_or_else(|_| at.to_string())
}
