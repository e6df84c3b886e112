//! What a node tells before a backup, a restore or a clone begins.

use super::{Backups, ServiceError};
use crate::{nodes::CommandError, store::fleet::FleetNode};
use proximity_protocol::{
    backup::{BackupFacts, BackupQuestion},
    command::{Outcome, Verb},
    fault::FaultKind,
};
use std::time::Duration;

/// How long a node may take. It reads small files, and asks a backup server where one is meant.
const BOUND: Duration = Duration::from_secs(20);

impl Backups {
    /// Asks a node.
    ///
    /// # Errors
    /// 503 where it does not answer now, 409 where it refuses.
    pub(crate) async fn ask(&self, node: &FleetNode, question: BackupQuestion) -> Result<BackupFacts, ServiceError> {
        let silent = |why: String| ServiceError::Unavailable {
            message: format!("node {} has to be asked first, and {why}", node.name),
            retry_after_s: 30,
        };
        let refused = |why: String| ServiceError::Conflict(format!("node {} was asked first: {why}", node.name));
        let answer = self
            .deps()
            .queries
            .look(node.id, Verb::BackupFacts(question), BOUND)
            .await;
        match answer {
            Ok(Outcome::BackupFacts(facts)) => Ok(*facts),
            Ok(_) => Err(refused("its agent answers something else: update it".into())),
            Err(CommandError::Offline) => Err(silent("its agent is not connected".into())),
            Err(CommandError::Lost) => Err(silent(format!("its agent did not answer within {} s", BOUND.as_secs()))),
            Err(CommandError::Fault(fault)) if matches!(fault.kind, FaultKind::UnknownVerb | FaultKind::Malformed) => {
                Err(refused("its agent is too old to tell: update it".into()))
            }
            Err(CommandError::Fault(fault)) => Err(refused(fault.message)),
        }
    }
}
