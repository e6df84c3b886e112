//! Exit codes: one for each failure that has a remedy of its own. Numbers are appended, never given anew: scripts of operators know them.

use crate::identity::Sight;
use proximity_protocol::enroll::RefusalReason;
use std::fmt::Write;

/// Anything without a code of its own.
pub const FAILED: u8 = 1;
/// Wrong use of the command line (also clap's).
pub const USAGE: u8 = 2;
/// The configuration file.
pub const CONFIG: u8 = 3;
/// The state folder cannot be read or written.
pub const STATE: u8 = 4;
/// The stored identity is damaged.
pub const IDENTITY_DAMAGED: u8 = 5;
/// Another agent runs on the same state folder.
pub const IN_USE: u8 = 6;
/// The journal cannot be used.
pub const JOURNAL: u8 = 7;
/// The node's facts cannot be read: not a Proxmox VE node, or not ready.
pub const NODE: u8 = 8;
/// The token is none, is damaged, or is of a newer format.
pub const TOKEN_UNREADABLE: u8 = 10;
/// The coordinator cannot be reached for a reason without a code of its own, or its answer was lost: the same command may be repeated.
pub const UNREACHABLE: u8 = 11;
/// Whoever answers is not the coordinator of the token.
pub const WRONG_PIN: u8 = 12;
/// The coordinator's certificate is not valid.
pub const BAD_CERTIFICATE: u8 = 13;
/// The coordinator does not know the token, or its secret is wrong.
pub const TOKEN_UNKNOWN: u8 = 14;
/// The token's time is over.
pub const TOKEN_EXPIRED: u8 = 15;
/// The token is spent.
pub const TOKEN_SPENT: u8 = 16;
/// The token was revoked.
pub const TOKEN_REVOKED: u8 = 17;
/// The token is for another node name.
pub const WRONG_NODE_NAME: u8 = 18;
/// The token is for another host (cluster).
pub const WRONG_HOST: u8 = 19;
/// The token may not be used from this address.
pub const WRONG_ADDRESS: u8 = 20;
/// A node of this name is enrolled.
pub const NAME_TAKEN: u8 = 21;
/// The coordinator does not accept the request as such.
pub const REQUEST_REFUSED: u8 = 22;
/// Too many tries.
pub const RATE_LIMITED: u8 = 23;
/// A fault of the coordinator.
pub const COORDINATOR_FAULT: u8 = 24;
/// This machine has an identity already.
pub const ALREADY_JOINED: u8 = 25;
/// The coordinator granted something that cannot be right.
pub const BAD_GRANT: u8 = 26;
/// This machine has no identity yet.
pub const NOT_JOINED: u8 = 30;
/// A check of `doctor` failed.
pub const DOCTOR: u8 = 31;
/// The policy file is not valid, or cannot be read.
pub const POLICY: u8 = 32;
/// Apps are on this node.
pub const HAS_APPS: u8 = 33;
/// Tools that the agent started still run.
pub const TOOLS_RUNNING: u8 = 34;
/// This machine has no network that leads to the coordinator.
pub const NO_NETWORK: u8 = 35;
/// The coordinator's name cannot be resolved.
pub const NO_NAME: u8 = 36;
/// The machine at the address says that nothing takes UDP on that port.
pub const PORT_CLOSED: u8 = 37;
/// Nothing comes back from the address, or it is said that there is no such machine.
pub const SILENT: u8 = 38;
/// UDP is dropped, by this machine's own packet filter or on the way.
pub const UDP_BLOCKED: u8 = 39;
/// The clocks of this machine and of the coordinator differ.
pub const CLOCKS_DIFFER: u8 = 40;
/// The command needs root.
pub const NOT_ROOT: u8 = 41;
/// There is no `/etc/pve`.
pub const NO_PROXMOX: u8 = 42;
/// Tools that the agent runs are missing.
pub const NO_TOOLS: u8 = 43;
/// The cluster has no quorum.
pub const NO_QUORUM: u8 = 44;
/// Joined, but the service could not be started.
pub const NOT_STARTED: u8 = 45;
/// The coordinator could not be told that the node leaves; nothing was removed.
pub const NOT_TOLD: u8 = 46;

/// Every code with its meaning, for `--help` and the man pages.
pub const CODES: &[(u8, &str)] = &[
    (0, "done"),
    (FAILED, "another failure, or the answer was no"),
    (USAGE, "wrong use of the command line"),
    (CONFIG, "configuration file"),
    (STATE, "state folder cannot be read or written"),
    (IDENTITY_DAMAGED, "stored identity damaged"),
    (IN_USE, "another agent is running"),
    (JOURNAL, "journal cannot be used"),
    (NODE, "node cannot be read: Proxmox VE not ready"),
    (TOKEN_UNREADABLE, "token cannot be read"),
    (
        UNREACHABLE,
        "coordinator not reached, or its answer lost: may be repeated",
    ),
    (WRONG_PIN, "not the coordinator of the token"),
    (BAD_CERTIFICATE, "coordinator's certificate not valid"),
    (TOKEN_UNKNOWN, "token unknown"),
    (TOKEN_EXPIRED, "token expired"),
    (TOKEN_SPENT, "token spent"),
    (TOKEN_REVOKED, "token revoked"),
    (WRONG_NODE_NAME, "token for another node name"),
    (WRONG_HOST, "token for another host"),
    (WRONG_ADDRESS, "token not for this address"),
    (NAME_TAKEN, "node name taken"),
    (REQUEST_REFUSED, "request refused"),
    (RATE_LIMITED, "too many tries"),
    (COORDINATOR_FAULT, "fault of the coordinator"),
    (ALREADY_JOINED, "joined already"),
    (BAD_GRANT, "coordinator's answer not valid"),
    (NOT_JOINED, "not joined yet"),
    (DOCTOR, "a check of doctor failed"),
    (POLICY, "policy file not valid"),
    (HAS_APPS, "apps are on this node"),
    (TOOLS_RUNNING, "tools of the agent still run"),
    (NO_NETWORK, "no network that leads to the coordinator"),
    (NO_NAME, "coordinator's name not resolved"),
    (PORT_CLOSED, "nothing takes UDP on the coordinator's port"),
    (SILENT, "nothing comes back from the coordinator's address"),
    (UDP_BLOCKED, "UDP blocked, on this machine or on the way"),
    (CLOCKS_DIFFER, "clocks of this machine and the coordinator differ"),
    (NOT_ROOT, "needs root"),
    (NO_PROXMOX, "no Proxmox VE on this machine"),
    (NO_TOOLS, "tools of Proxmox VE, or nft, are missing"),
    (NO_QUORUM, "cluster without quorum"),
    (NOT_STARTED, "joined, but the service was not started"),
    (NOT_TOLD, "coordinator could not be told; nothing was removed"),
];

/// For `--help`.
pub(super) fn table() -> String {
    let mut text = String::from("Exit codes:");
    for (code, meaning) in CODES {
        write!(text, "\n  {code:>2}  {meaning}").expect("a String takes everything");
    }
    text
}

/// The code for what was seen of a coordinator that does not answer.
pub fn sight_code(sight: &Sight) -> u8 {
    match sight {
        Sight::NoRoute(_) => NO_NETWORK,
        Sight::ForbiddenHere | Sight::OnlyTcp => UDP_BLOCKED,
        Sight::Refused => PORT_CLOSED,
        Sight::NoHost(_) | Sight::Silent => SILENT,
        Sight::TooNarrow | Sight::OnlyScout | Sight::Stranger => UNREACHABLE,
    }
}

/// The code for a refusal of the coordinator.
pub fn refusal_code(reason: RefusalReason) -> u8 {
    match reason {
        RefusalReason::UnknownToken => TOKEN_UNKNOWN,
        RefusalReason::Expired => TOKEN_EXPIRED,
        RefusalReason::Spent => TOKEN_SPENT,
        RefusalReason::Revoked => TOKEN_REVOKED,
        RefusalReason::WrongNodeName => WRONG_NODE_NAME,
        RefusalReason::WrongHost => WRONG_HOST,
        RefusalReason::WrongAddress => WRONG_ADDRESS,
        RefusalReason::NameTaken => NAME_TAKEN,
        RefusalReason::Malformed => REQUEST_REFUSED,
        RefusalReason::RateLimited => RATE_LIMITED,
        RefusalReason::Internal => COORDINATOR_FAULT,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_code_is_in_the_table_once_and_in_order() {
        let constants: Vec<u8> = include_str!("exit.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("pub const ")?.split_once(": u8 = "))
            .map(|(_, number)| number.trim_end_matches(';').parse().unwrap())
            .collect();
        assert!(constants.len() > 30);
        let listed: Vec<u8> = CODES.iter().map(|(code, _)| *code).skip(1).collect();
        assert_eq!(listed, constants);
        assert!(listed.is_sorted_by(|a, b| a < b), "{listed:?}");
        let table = table();
        assert!(table.starts_with("Exit codes:\n   0  done\n   1  "), "{table}");
    }

    /// A number that has been out there means the same for ever.
    #[test]
    fn no_code_is_renumbered() {
        let frozen = [
            (IN_USE, 6),
            (NODE, 8),
            (TOKEN_UNREADABLE, 10),
            (UNREACHABLE, 11),
            (WRONG_PIN, 12),
            (NAME_TAKEN, 21),
            (ALREADY_JOINED, 25),
            (NOT_JOINED, 30),
            (DOCTOR, 31),
            (POLICY, 32),
            (HAS_APPS, 33),
            (TOOLS_RUNNING, 34),
            (NO_NETWORK, 35),
            (NO_NAME, 36),
            (PORT_CLOSED, 37),
            (SILENT, 38),
            (UDP_BLOCKED, 39),
            (CLOCKS_DIFFER, 40),
            (NOT_ROOT, 41),
            (NO_PROXMOX, 42),
            (NO_TOOLS, 43),
            (NO_QUORUM, 44),
            (NOT_STARTED, 45),
            (NOT_TOLD, 46),
        ];
        for (code, number) in frozen {
            assert_eq!(code, number);
        }
    }
}
