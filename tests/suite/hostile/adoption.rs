//! Containers that somebody else made: what may be done with those that were adopted, and which are not.

use super::*;

impl Stage {
    fn conf(&self, vmid: u32) -> String {
        let path = format!("etc/pve/nodes/{}/lxc/{vmid}.conf", self.node.node.name);
        std::fs::read_to_string(self.node.node.root().join(path)).unwrap()
    }
    fn policy(&self, text: &str) {
        std::fs::write(self.node.node.policy(), text).unwrap();
    }
}

/// What the operator lets be adopted can be started, stopped and published, and nothing more: it is not changed, nothing runs in it, it is not destroyed.
#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_container_is_not_changed_entered_or_destroyed() {
    let stage = stage().await;
    let before = stage.conf(STRANGER);
    stage.policy("adoption = [150]\n");
    let adopted = stage.send(Verb::EnsureAdopted(target(STRANGER))).await.unwrap();
    assert!(matches!(adopted, Outcome::Adopted(_)), "{adopted:?}");
    for verb in changes(&target(STRANGER)) {
        stage.refused(verb, FaultKind::PolicyDenied).await;
    }
    let message = stage
        .refused(Verb::EnsureDestroyed(target(STRANGER)), FaultKind::PolicyDenied)
        .await;
    assert!(message.contains("destroy_adopted = true"), "{message}");
    let mut other = target(STRANGER);
    other.owner.app = "other-0a1b2c3d".parse().unwrap();
    stage
        .refused(Verb::EnsureAdopted(other.clone()), FaultKind::NotOurs)
        .await;
    stage.refused(Verb::EnsureReleased(other), FaultKind::NotOurs).await;
    stage.stranger_is_untouched();
    stage.send(Verb::EnsureReleased(target(STRANGER))).await.unwrap();
    stage
        .refused(
            Verb::EnsureStopped {
                target: target(STRANGER),
                timeout_s: 0,
            },
            FaultKind::NotOurs,
        )
        .await;
    assert!(stage.node.node.files().read().unwrap().records.is_empty());
    assert_eq!(stage.conf(STRANGER), before);
    stage.stranger_is_untouched();
    stage.link.alive().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn templates_numbers_outside_the_policy_and_what_is_not_there_are_not_adopted() {
    let stage = stage().await;
    stage.policy("adoption = \"any\"\nvmid = [140, 149]\n");
    let message = stage
        .refused(Verb::EnsureAdopted(target(STRANGER)), FaultKind::PolicyDenied)
        .await;
    assert!(message.contains("149"), "{message}");
    stage.policy("adoption = \"any\"\ndeny_verbs = [\"ensure_adopted\"]\n");
    stage
        .refused(Verb::EnsureAdopted(target(STRANGER)), FaultKind::PolicyDenied)
        .await;
    stage.policy("adoption = \"any\"\n");
    stage
        .refused(Verb::EnsureAdopted(target(151)), FaultKind::ContainerMissing)
        .await;
    let node = &stage.node.node;
    node.tool("pct", &["stop", "150"]).unwrap();
    node.tool("pct", &["template", "150"]).unwrap();
    stage
        .refused(Verb::EnsureAdopted(target(STRANGER)), FaultKind::NotOurs)
        .await;
    assert!(node.files().read().unwrap().records.is_empty());
}
