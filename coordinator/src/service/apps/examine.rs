//! What nodes tell of their containers when they are asked.

use super::{Apps, ServiceError};
use crate::{nodes::CommandError, store::fleet::FleetNode};
use proximity_protocol::{
    command::{Outcome, Verb},
    examined::Examination,
    fault::FaultKind,
    ids::Vmid,
};
use std::time::Duration;

/// How long a node may take. It reads some small files for each container.
const BOUND: Duration = Duration::from_secs(10);

/// Why a node did not tell, in words that follow its name.
pub(super) enum Untold {
    /// Its agent is not connected, or does not answer.
    Silent(String),
    /// It answered, and that is no answer.
    Refused(String),
}

impl Untold {
    pub(super) fn words(&self) -> &str {
        match self {
            Self::Silent(words) | Self::Refused(words) => words,
        }
    }

    /// As the refusal of a request that needs this node.
    pub(super) fn refusal(self, node: &FleetNode) -> ServiceError {
        let message = format!("node {} has to be asked first, and {}", node.name, self.words());
        match self {
            Self::Silent(_) => ServiceError::Unavailable {
                message,
                retry_after_s: 30,
            },
            Self::Refused(_) => ServiceError::Conflict(message),
        }
    }
}

impl Apps {
    /// Asks one node about one container, or about all of its containers.
    pub(super) async fn examine(&self, node: &FleetNode, only: Option<Vmid>) -> Result<Examination, Untold> {
        let answer = self.deps().queries.look(node.id, Verb::Examine { only }, BOUND).await;
        match answer {
            Ok(Outcome::Examined(examination)) => Ok(*examination),
            Ok(_) => Err(Untold::Refused("its agent answers something else: update it".into())),
            Err(CommandError::Offline) => Err(Untold::Silent("its agent is not connected".into())),
            Err(CommandError::Lost) => Err(Untold::Silent(format!(
                "its agent did not answer within {} s",
                BOUND.as_secs()
            ))),
            Err(CommandError::Fault(fault)) if matches!(fault.kind, FaultKind::UnknownVerb | FaultKind::Malformed) => {
                Err(Untold::Refused("its agent is too old to tell: update it".into()))
            }
            Err(CommandError::Fault(fault)) => Err(Untold::Refused(fault.message)),
        }
    }
}
