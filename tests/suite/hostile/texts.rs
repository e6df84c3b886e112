//! Frames and texts that were altered on their way.

use super::*;

/// There is no way to say a bind mount, a privileged container or a shell metacharacter with the product's types, so the frames are altered: each text in a
/// valid frame is replaced, byte for byte, by one of the same length that would be an attack.
#[tokio::test(flavor = "multi_thread")]
async fn altered_texts_do_not_pass() {
    let stage = stage().await;
    let mut good = spec(&stage.node.node.network, 120);
    good.volumes = vec![VolumeSpec {
        path: "/srv/data12".parse().unwrap(),
        size_gb: 1,
    }];
    let frame = codec::encode(1, &command(Verb::EnsureCreated(good), 7)).unwrap();
    let texts = [
        (
            "my-nginx",
            ["$(touch)", "a;reboot", "-rf   /x", "`id`....", "a\nb: c\nd", "../../.."].as_slice(),
        ),
        ("vmbr0", &["a,b=c", "-xxxx", "$(a) ", "a\0b/c"]),
        (
            "/srv/data12",
            &["/etc/../../", "/a,ro=0,x=1", "local:1,mp=", "$(rm -rf /)"],
        ),
        (
            "nginx-0a1b2c3d",
            &["../../../../..", "nginx-0a1b2c3D", "x;rm -rf /;abc"],
        ),
        (
            "local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst",
            &["/etc/shadow;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"],
        ),
    ];
    let mut tried = 0;
    for (from, attacks) in texts {
        let at = frame
            .windows(from.len())
            .position(|w| w == from.as_bytes())
            .unwrap_or_else(|| panic!("{from:?} is not in the frame"));
        for attack in attacks {
            assert_eq!(attack.len(), from.len(), "{attack:?}");
            let mut altered = frame.clone();
            altered[at..at + from.len()].copy_from_slice(attack.as_bytes());
            let end = tokio::time::timeout(PATIENCE, stage.link.raw(&altered))
                .await
                .unwrap()
                .unwrap();
            let fault = end.expect_err(&format!("{attack:?} passed"));
            assert_eq!(fault.kind, FaultKind::Malformed, "{attack:?}: {fault}");
            tried += 1;
        }
    }
    // A name of a value becomes the name of a file inside, a node's an argument.
    let rewrite = Verb::RewriteValues {
        target: target(120),
        values: values(5),
    };
    let migrate = Verb::EnsureMigrated {
        target: target(120),
        to: "THATNODE".parse().unwrap(),
    };
    let names = ["../../pw", "a b;reb.", "password", "-rf /tmp", "$(touch)"];
    let nodes = [
        "--online", "-a", "a b", "a;reboot", "a_b", "$(touch)", "../pve2/", "pve2.lan",
    ];
    let names = names.iter().map(|attack| (&rewrite, "PASSWORD", *attack));
    let nodes = nodes.iter().map(|attack| (&migrate, "THATNODE", *attack));
    for (verb, from, attack) in names.chain(nodes) {
        let frame = codec::encode(1, &command(verb.clone(), 7)).unwrap();
        let at = frame.windows(8).position(|w| w == from.as_bytes()).unwrap();
        let mut altered = frame;
        // Filled up: the length stands before it.
        let attack = format!("{attack:->8}");
        altered[at..at + 8].copy_from_slice(attack.as_bytes());
        let end = tokio::time::timeout(PATIENCE, stage.link.raw(&altered))
            .await
            .unwrap()
            .unwrap();
        let fault = end.expect_err(&format!("{attack:?} passed"));
        assert_eq!(fault.kind, FaultKind::Malformed, "{attack:?}: {fault}");
        tried += 1;
    }
    assert!(tried > 20);
    stage.link.alive().unwrap();
    stage.stranger_is_untouched();
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_frames_are_answered_and_the_link_stays() {
    let stage = stage().await;
    let frame = codec::encode(1, &command(Verb::Inventory, 7)).unwrap();
    let mut trailing = frame.clone();
    trailing.push(0);
    let longer = u32::try_from(trailing.len() - 8).unwrap();
    trailing[4..8].copy_from_slice(&longer.to_be_bytes());
    let mut unknown_verb = frame.clone();
    let length = unknown_verb.len();
    unknown_verb[length - 4..].copy_from_slice(&999u32.to_le_bytes());
    for bytes in [trailing, unknown_verb] {
        let end = tokio::time::timeout(PATIENCE, stage.link.raw(&bytes))
            .await
            .unwrap()
            .unwrap();
        assert!(
            matches!(
                end,
                Err(Fault {
                    kind: FaultKind::Malformed | FaultKind::UnknownVerb,
                    ..
                })
            ),
            "{end:?}"
        );
    }
    // A stream that says too much, or stops in the middle, is dropped; the link and its other streams go on.
    let mut huge = frame.clone();
    huge[4..8].copy_from_slice(&u32::MAX.to_be_bytes());
    for bytes in [huge, frame[..5].to_vec(), frame[..frame.len() - 1].to_vec()] {
        // A fault or a reset stream, both will do; an outcome will not.
        if let Ok(Ok(end)) = tokio::time::timeout(Duration::from_secs(15), stage.link.raw(&bytes)).await {
            end.unwrap_err();
        }
    }
    let end = stage.send(Verb::Inventory).await.unwrap();
    assert!(matches!(end, Outcome::Inventory(_)), "{end:?}");
}
