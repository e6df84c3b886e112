//! Two machines with one identity, and what only looks like it.

use super::*;
use crate::{nodes::NodeCommands as _, service::nodes::NodeAlarm};
use proximity_protocol::{close, event::Notice, roots};
use std::sync::atomic::AtomicBool;
use tokio::time::Instant;

/// How the coordinator hangs up on a newcomer.
async fn hung_up(world: &World, identity: &Identity, hello: Hello) -> (u64, String) {
    let endpoint = endpoint();
    let connecting = endpoint
        .connect_with(world.link_config(identity), world.address(), COORDINATOR_TLS_NAME)
        .unwrap();
    let connection = soon("connection", connecting).await.unwrap();
    // It may be closed before a word was said: a certificate that is good no more is enough.
    let mut opened = connection.open_bi().await;
    if let Ok((send, _)) = &mut opened {
        let _ = frames::write(send, 1, &hello).await;
    }
    match soon("the end", connection.closed()).await {
        ConnectionError::ApplicationClosed(closed) => (
            closed.error_code.into_inner(),
            String::from_utf8_lossy(&closed.reason).into_owned(),
        ),
        other => panic!("{other}"),
    }
}

async fn is_held(world: &World, identity: &Identity, boot: u128) {
    let (code, words) = hung_up(world, identity, hello(&identity.name, boot, boot)).await;
    assert_eq!(code, u64::from(close::CLONED), "{words}");
    assert!(words.contains("this one is kept out") && words.len() < 300, "{words}");
}

async fn alarm(world: &World, identity: &Identity) -> Option<NodeAlarm> {
    let view = world.nodes().get(&admin(), &identity.node.to_string()).await.unwrap();
    view.alarm
}

/// The way to a coordinator, which can be cut: then nothing passes and nobody is told.
struct Line {
    address: SocketAddr,
    cut: Arc<AtomicBool>,
}

impl Line {
    async fn to(coordinator: SocketAddr) -> Self {
        let front = Arc::new(tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let back = Arc::new(tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let line = Self {
            address: front.local_addr().unwrap(),
            cut: Arc::default(),
        };
        let (peer, cut) = (Arc::new(tokio::sync::Mutex::new(None)), Arc::clone(&line.cut));
        let (a, b, p, c) = (front.clone(), back.clone(), peer.clone(), cut.clone());
        tokio::spawn(async move {
            let mut packet = vec![0; 65536];
            while let Ok((length, from)) = a.recv_from(&mut packet).await {
                *p.lock().await = Some(from);
                if !c.load(std::sync::atomic::Ordering::SeqCst) {
                    let _ = b.send_to(&packet[..length], coordinator).await;
                }
            }
        });
        tokio::spawn(async move {
            let mut packet = vec![0; 65536];
            while let Ok((length, _)) = back.recv_from(&mut packet).await {
                if let Some(to) = *peer.lock().await
                    && !cut.load(std::sync::atomic::Ordering::SeqCst)
                {
                    let _ = front.send_to(&packet[..length], to).await;
                }
            }
        });
        line
    }

    fn cut(&self, cut: bool) {
        self.cut.store(cut, std::sync::atomic::Ordering::SeqCst);
    }
}

impl World {
    async fn connect_over(&self, line: &Line, identity: &Identity, boot: u128) -> FakeAgent {
        let endpoint = endpoint();
        let connecting = endpoint
            .connect_with(self.link_config(identity), line.address, COORDINATOR_TLS_NAME)
            .unwrap();
        let connection = soon("connection", connecting).await.unwrap();
        let (mut control, mut notices) = connection.open_bi().await.unwrap();
        frames::write(&mut control, 1, &hello(&identity.name, boot, boot))
            .await
            .unwrap();
        let reply = soon("Welcome", frames::read::<HelloReply>(&mut notices)).await;
        let Ok(Some(HelloReply::Welcome(welcome))) = reply else {
            panic!("not welcome: {reply:?}")
        };
        FakeAgent {
            connection,
            control,
            notices,
            welcome,
            _endpoint: endpoint,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_machines_that_live_the_newer_is_kept_out_and_everybody_is_told() {
    let world = World::new().await;
    let identity = world.enrolled("pve1").await;
    let mut events = world.deps.bus.subscribe();
    let original = world.connect(&identity, 1, 1).await;
    assert_eq!(soon("an event", events.recv()).await.unwrap().data["change"], "online");
    let before = facts_of(&world, &identity).await;
    let mut copy = hello("pve1", 2, 2);
    copy.facts.address = "127.0.0.9".parse().unwrap();
    let (code, words) = hung_up(&world, &identity, copy).await;
    assert_eq!(code, u64::from(close::CLONED), "{words}");
    assert_eq!(
        facts_of(&world, &identity).await,
        before,
        "what the copy says is written nowhere"
    );

    let told = soon("an event", events.recv()).await.unwrap();
    assert_eq!(told.data["change"], "cloned");
    let raised = alarm(&world, &identity).await.unwrap();
    assert_eq!(raised.kind, "cloned");
    assert!(
        raised.message.contains("kept out") && raised.action.contains("/rekey"),
        "{raised:?}"
    );
    // Again and again, after its reboot too: one alarm each, and the original never notices.
    is_held(&world, &identity, 2).await;
    is_held(&world, &identity, 3).await;
    let (rows,): (i64,) = sqlx::query_as("SELECT COUNT(*) FROM audit WHERE action = 'node.cloned'")
        .fetch_one(&mut *world.deps.store.read().await.unwrap())
        .await
        .unwrap();
    assert_eq!(rows, 2);
    assert!(original.connection.close_reason().is_none());
    // The original has gone for a while: the copy does not get its place.
    original.connection.close(0_u32.into(), b"restart");
    is_held(&world, &identity, 3).await;
    let original = world.connect(&identity, 1, 2).await;
    assert_eq!(original.welcome.node, identity.node);
}

async fn facts_of(world: &World, identity: &Identity) -> Option<NodeFacts> {
    let mut read = world.deps.store.read().await.unwrap();
    store::nodes::get(&mut read, identity.node)
        .await
        .unwrap()
        .unwrap()
        .facts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_has_booted_is_no_clone() {
    let world = World::new().await;
    let identity = world.enrolled("pve1").await;
    let line = Line::to(world.address()).await;
    let before = world.connect_over(&line, &identity, 1).await;
    // Its power went: nobody said goodbye.
    line.cut(true);
    let begun = Instant::now();
    let after = world.connect(&identity, 2, 2).await;
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    assert_eq!(alarm(&world, &identity).await, None);
    drop(before);
    // Shut down in good order, it is not even asked for.
    after.connection.close(0_u32.into(), b"shutdown");
    let mut changes = world.listener.connections().changes();
    while crate::nodes::NodeQueries::is_online(&*world.listener.connections(), identity.node) {
        next_change(&mut changes).await;
    }
    let begun = Instant::now();
    world.connect(&identity, 3, 3).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(alarm(&world, &identity).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_came_in_while_the_original_was_cut_off_goes_out_again() {
    let world = World::new().await;
    let identity = world.enrolled("pve1").await;
    let line = Line::to(world.address()).await;
    let original = world.connect_over(&line, &identity, 1).await;
    line.cut(true);
    let copy = world.connect(&identity, 2, 2).await;
    assert_eq!(alarm(&world, &identity).await, None);
    line.cut(false);
    drop(original);
    let original = world.connect(&identity, 1, 1).await;
    assert_eq!(copy.close_code().await, u64::from(close::CLONED));
    assert_eq!(alarm(&world, &identity).await.unwrap().kind, "cloned");
    is_held(&world, &identity, 2).await;
    assert!(original.connection.close_reason().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_of_the_coordinator_it_is_still_known_who_was_first() {
    let mut world = World::new().await;
    let identity = world.enrolled("pve1").await;
    world.connect(&identity, 1, 1).await.connection.close(0_u32.into(), b"");
    soon("shutdown", world.listener.shutdown()).await;
    world.listener = Listener::bind("127.0.0.1:0".parse().unwrap(), world.deps.clone()).unwrap();
    // The copy is quicker.
    let copy = world.connect(&identity, 2, 2).await;
    let original = world.connect(&identity, 1, 1).await;
    assert_eq!(copy.close_code().await, u64::from(close::CLONED));
    assert!(original.connection.close_reason().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_copies_of_a_running_machine_are_noticed_by_their_quarrel() {
    let world = World::new().await;
    let identity = world.enrolled("pve1").await;
    let mut seated = world.connect(&identity, 1, 1).await;
    for _ in 0..3 {
        let next = world.connect(&identity, 1, 1).await;
        assert_eq!(seated.close_code().await, u64::from(close::REPLACED));
        seated = next;
    }
    is_held(&world, &identity, 1).await;
    assert!(seated.connection.close_reason().is_none());
    assert_eq!(alarm(&world, &identity).await.unwrap().kind, "cloned");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_for_the_machine_that_serves_makes_the_copy_worthless() {
    let world = World::new().await;
    let identity = world.enrolled("pve1").await;
    let node = identity.node.to_string();
    let refused = world.nodes().rekey(&admin(), &node).await.unwrap_err().to_string();
    assert!(refused.contains("is not connected"), "{refused}");
    let mut able = hello("pve1", 1, 1);
    able.capabilities = vec![proximity_protocol::renew::CAPABILITY.into(), roots::CAPABILITY.into()];
    let mut original = world
        .connect_saying(&identity, able.clone())
        .await
        .unwrap_or_else(|refused| panic!("{refused:?}"));
    is_held(&world, &identity, 2).await;

    world.nodes().rekey(&admin(), &node).await.unwrap();
    assert!(alarm(&world, &identity).await.is_some(), "until the new key is in use");
    let key = KeyPair::generate().unwrap();
    loop {
        let notice = soon("a notice", frames::read::<Notice>(&mut original.notices)).await;
        if notice.unwrap().unwrap() == Notice::RenewNow {
            break;
        }
    }
    let ask = proximity_protocol::event::Event::Renew { csr_der: request(&key) };
    frames::write(&mut original.control, 1, &ask).await.unwrap();
    let grant = match soon("an answer", frames::read::<Notice>(&mut original.notices))
        .await
        .unwrap()
    {
        Some(Notice::Renewed(grant)) => grant,
        other => panic!("{other:?}"),
    };
    original.connection.close(0_u32.into(), b"comes with the new one");
    let renewed = Identity {
        certificate: CertificateDer::from(grant.certificate_der.clone()),
        key,
        name: identity.name.clone(),
        node: identity.node,
    };
    world
        .connect_saying(&renewed, able)
        .await
        .unwrap_or_else(|refused| panic!("{refused:?}"));
    assert_eq!(alarm(&world, &identity).await, None);
    let (code, words) = hung_up(&world, &identity, hello("pve1", 2, 2)).await;
    assert_eq!(code, u64::from(close::REVOKED), "{words}");
}
