//! Whose clock is wrong, when the nodes' clocks and the coordinator's do not agree. Two clocks that differ prove only that one of them is wrong; several that
//! agree with each other and not with ours prove that it is ours.

use proximity_protocol::ids::NodeId;

/// Clocks that differ by no more are taken for equal, milliseconds: figures may be some seconds on their way.
pub const LIMIT_MS: i64 = 10 * 60 * 1000;

/// What the clocks say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Clocks {
    /// They agree.
    Agree,
    /// Most nodes agree with each other, and the coordinator's clock differs from theirs: by so much it is behind (positive) or ahead (negative), ms.
    CoordinatorOff(i64),
    /// These nodes' clocks are ahead (positive) or behind (negative) by so much, ms; the others agree with the coordinator's.
    NodesOff(Vec<(NodeId, i64)>),
    /// There is one node only, and it differs by so much: one of the two clocks is wrong.
    Either(NodeId, i64),
}

/// Judges, by how far each connected node's clock is ahead of the coordinator's, ms.
pub fn judge(ahead: &[(NodeId, i64)]) -> Clocks {
    let mut off: Vec<(NodeId, i64)> = ahead
        .iter()
        .copied()
        .filter(|(_, by)| by.unsigned_abs() > LIMIT_MS.unsigned_abs())
        .collect();
    off.sort_by_key(|(_, by)| *by);
    let Some((_, median)) = off.get(off.len() / 2).copied() else {
        return Clocks::Agree;
    };
    if let ([(only, by)], 1) = (&off[..], ahead.len()) {
        return Clocks::Either(*only, *by);
    }
    let alike = off
        .iter()
        .filter(|(_, by)| by.abs_diff(median) <= LIMIT_MS.unsigned_abs())
        .count();
    if alike * 2 > ahead.len() {
        Clocks::CoordinatorOff(median)
    } else {
        Clocks::NodesOff(off)
    }
}

/// As `3 days ahead of`, for people.
pub fn words(ahead_ms: i64) -> String {
    // To the nearest: what is measured is always some seconds off.
    let nearest = |unit_ms: u64| (ahead_ms.unsigned_abs() + unit_ms / 2) / unit_ms;
    let (count, unit) = match nearest(60_000) {
        minutes @ 0..120 => (minutes, "minute"),
        120..2880 => (nearest(3_600_000), "hour"),
        _ => (nearest(86_400_000), "day"),
    };
    let direction = if ahead_ms > 0 { "ahead of" } else { "behind" };
    format!("{count} {unit}{} {direction}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const DAY: i64 = 24 * 3600 * 1000;

    fn nodes(ahead: &[i64]) -> Vec<(NodeId, i64)> {
        (0..)
            .zip(ahead)
            .map(|(n, by)| (NodeId(Uuid::from_u128(n)), *by))
            .collect()
    }

    #[test]
    fn most_decide() {
        let node = |n| NodeId(Uuid::from_u128(n));
        assert_eq!(judge(&[]), Clocks::Agree);
        assert_eq!(judge(&nodes(&[0, 3000, -60_000])), Clocks::Agree);
        assert_eq!(judge(&nodes(&[DAY])), Clocks::Either(node(0), DAY));
        assert_eq!(judge(&nodes(&[0, DAY, 0])), Clocks::NodesOff(vec![(node(1), DAY)]));
        assert_eq!(judge(&nodes(&[DAY, 0])), Clocks::NodesOff(vec![(node(0), DAY)]));
        assert_eq!(judge(&nodes(&[-DAY, -DAY + 2000])), Clocks::CoordinatorOff(-DAY + 2000));
        assert_eq!(
            judge(&nodes(&[200 * DAY, 0, 200 * DAY])),
            Clocks::CoordinatorOff(200 * DAY)
        );
        // Wrong, each in its own way: that is theirs.
        let apart = nodes(&[DAY, -DAY, 5 * DAY]);
        assert!(matches!(judge(&apart), Clocks::NodesOff(off) if off.len() == 3));
    }

    #[test]
    fn it_is_said_in_words() {
        assert_eq!(words(200 * DAY), "200 days ahead of");
        assert_eq!(words(200 * DAY - 1500), "200 days ahead of");
        assert_eq!(words(-DAY), "24 hours behind");
        assert_eq!(words(-11 * 60_000), "11 minutes behind");
    }
}
