//! The identity of a running agent, and the one that follows it.
//!
//! `identity.json` is the identity that the coordinator has last welcomed, with the roots that are trusted. Beside it, while there is something to renew, lies
//! `renewal.json`: first the new key alone (so that a lost answer is asked for with the same key), then the certificate with it. The agent links with the new
//! one as soon as it is there, and only its Welcome makes it `identity.json`, in one rename: until then the old one is kept, and a coordinator that does not
//! take the new one gets the old.
//!
//! When a certificate is due, `due` decides.

use super::{
    Identity, IdentityError, JoinError,
    clock::{SharedClock, date},
    dial::{self, DialError},
    due::{self, Signing},
    files::{self, Renewal, Stored},
    grant,
    judge::{Dates, Seen},
    key,
    roots::{self, FollowError},
    suspect::{self, Evidence},
};
use proximity_protocol::{
    enroll::Grant,
    ids::NodeId,
    roots::{Pin, Roots},
};
use rcgen::SigningKey;
use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};
use time::{Duration, OffsetDateTime};
use tokio::sync::Notify;
use zeroize::Zeroizing;

/// Why the roots that are trusted stay as they are.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepError {
    /// What was told.
    #[error(transparent)]
    Follow(#[from] FollowError),
    /// Our own disk.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

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
    /// The root that signs, as the coordinator has told.
    signing: Option<Signing>,
    /// A certificate whose key the coordinator wants replaced.
    rekey: Option<Vec<u8>>,
    /// Date and steady time when both clocks were last in agreement.
    agreed: (OffsetDateTime, std::time::Duration),
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
    keys: Mutex<Keys>,
    seen: Seen,
    /// Something has changed that a renewal may be due for.
    look: Notify,
}

impl Keyring {
    /// Reads what is below `state_dir`; `None` if this machine has not joined.
    pub(crate) fn open(state_dir: &Path, clock: SharedClock) -> Result<Option<Self>, IdentityError> {
        // Judged whole before anything is used of it.
        if Identity::load(state_dir)?.is_none() {
            return Ok(None);
        }
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
                ca,
                ..
            }) => Some(Next::Granted(Stored {
                certificate,
                key,
                ca: ca.unwrap_or_else(|| current.ca.clone()),
                ..current.clone()
            })),
            Some(renewal) => Some(Next::Asked(renewal.key)),
            None => None,
        };
        let keys = Keys {
            current,
            next,
            signing: None,
            rekey: None,
            agreed: (clock.now(), clock.steady()),
        };
        Ok(Some(Self {
            state_dir: state_dir.into(),
            clock,
            keys: Mutex::new(keys),
            seen: Seen::default(),
            look: Notify::new(),
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
        dial::link_config_at(&self.active()?, &self.clock, self.seen.clone())
    }

    /// The configuration of a connection on which we show no certificate.
    pub(super) fn return_config(&self) -> Result<quinn::ClientConfig, DialError> {
        dial::return_config(&self.active()?, &self.clock, self.seen.clone())
    }

    fn evidence(&self, theirs: Option<Dates>) -> Option<Evidence> {
        let (now, steady) = (self.clock.now(), self.clock.steady());
        let keys = self.keys();
        let (then, steady_then) = keys.agreed;
        let passed = Duration::try_from(steady.saturating_sub(steady_then)).unwrap_or(Duration::ZERO);
        Some(Evidence {
            now,
            own: Dates::of(&keys.active().certificate)?,
            theirs,
            set_by: now - then - passed,
        })
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

    /// Why the coordinator may not take our dates, in words.
    pub(crate) fn our_dates(&self) -> String {
        match self.evidence(None) {
            Some(evidence) => format!("{}; {}", self.dates(), suspect::suspect(&evidence)),
            None => self.dates(),
        }
    }

    /// Why we do not take the coordinator's, in words.
    pub(crate) fn their_dates(&self) -> String {
        let theirs = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = date(self.clock.now());
        match (theirs, self.evidence(theirs)) {
            (Some(theirs), Some(evidence)) => format!(
                "it is valid from {} to {}, and this node's clock says {now}; {}",
                date(theirs.not_before),
                date(theirs.not_after),
                suspect::suspect(&evidence)
            ),
            _ => format!("this node's clock says {now}"),
        }
    }

    /// What the clock says, in words.
    pub(crate) fn today(&self) -> String {
        date(self.clock.now())
    }

    /// How long until the certificate is to be renewed; `None` if it is time.
    pub(crate) fn due_in(&self) -> Option<std::time::Duration> {
        let identity = self.active().ok()?;
        let keys = self.keys();
        if keys.rekey.as_deref() == Some(&*identity.certificate) {
            return None;
        }
        let due = due::due(&identity, keys.signing.as_ref());
        // A whole second at least, so that who waits for it does not come too early again and again.
        let left = (due - self.clock.now()).max(Duration::ZERO);
        (left > Duration::ZERO).then(|| left.unsigned_abs().max(std::time::Duration::from_secs(1)))
    }

    /// Ends when a renewal may be due that was not before.
    pub(crate) async fn look_again(&self) {
        self.look.notified().await;
    }

    /// The coordinator wants the key of the certificate that is in use replaced.
    pub(crate) fn rekey(&self) {
        let mut keys = self.keys();
        keys.rekey = Some(keys.active().certificate.clone());
        drop(keys);
        self.look.notify_one();
    }

    /// Takes what can be believed of the coordinator's roots, on the disk first. Answers those that are trusted now.
    pub(crate) fn follow(&self, told: &Roots) -> Result<Vec<Pin>, KeepError> {
        let mut keys = self.keys();
        let followed = roots::follow(&keys.current.roots, told)?;
        if followed.strangers > 0 {
            tracing::error!(
                count = followed.strangers,
                "the coordinator tells of roots that none which this node trusts has signed; they are not taken"
            );
        }
        let pins = roots::pins(&followed.trusted);
        if keys.current.roots != followed.trusted {
            let stored = Stored {
                roots: followed.trusted,
                ..keys.current.clone()
            };
            files::store(&self.state_dir, &stored)?;
            if let Some(Next::Granted(next)) = &mut keys.next {
                next.roots.clone_from(&stored.roots);
            }
            keys.current = stored;
            tracing::info!(count = pins.len(), "trusts these roots of the coordinator from now on");
        }
        let known = keys.signing.as_ref().is_some_and(|signing| signing.pin == told.signs);
        if !known && pins.contains(&told.signs) {
            keys.signing = Some(Signing {
                pin: told.signs,
                since: self.clock.now(),
                renew_within: Duration::seconds(told.renew_within_s.into()),
            });
        }
        drop(keys);
        self.look.notify_one();
        Ok(pins)
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
        grant::check(&grant, &roots::pins(&keys.current.roots), &key, None)?;
        let stored = Stored {
            certificate: grant.certificate_der,
            ca: grant.ca_der,
            key,
            ..keys.current.clone()
        };
        files::store_renewal(&self.state_dir, &renewal(stored.node, &stored.key, Some(&stored)))?;
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
        keys.agreed = (self.clock.now(), self.clock.steady());
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

fn renewal(node: NodeId, key: &Zeroizing<Vec<u8>>, granted: Option<&Stored>) -> Renewal {
    Renewal {
        node,
        key: key.clone(),
        certificate: granted.map(|stored| stored.certificate.clone()),
        ca: granted.map(|stored| stored.ca.clone()),
    }
}
