//! The coordinator cannot be reached: as well as it can be told from the node, why.

use super::{failed, hospitable, join, run, said};
use proximity_agent::cli::exit;
use proximity_protocol::ids::NodeId;
use proximity_tests::{
    authority::Authority,
    fleet::LoneNode,
    impostor::Impostor,
    wire::{Island, Wire},
};

const PORT: u16 = 4433;

fn there() -> String {
    format!("{}:{PORT}", Wire::THERE)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_network() {
    let Some(island) = Island::new("join without a network").unwrap() else {
        return;
    };
    let lone = LoneNode::create().unwrap();
    let token = Impostor::listen().unwrap().token_to(&there()).unwrap();
    let output = run(island.on(&join(&lone.node, &token, &[])));
    failed(
        &lone.node,
        &output,
        exit::NO_NETWORK,
        &[
            "192.0.2.2:4433",
            "no network that leads there",
            "ip route get 192.0.2.2",
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_does_not_resolve() {
    let Some(island) = Island::new("join with a name that nobody resolves").unwrap() else {
        return;
    };
    let lone = LoneNode::create().unwrap();
    let token = Impostor::listen().unwrap();
    let token = token.token_to("coordinator.invalid:4433").unwrap();
    let output = run(island.on(&join(&lone.node, &token, &[])));
    failed(
        &lone.node,
        &output,
        exit::NO_NAME,
        &["coordinator.invalid:4433", "resolv.conf", "address of numbers"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_on_which_nothing_listens() {
    let lone = LoneNode::create().unwrap();
    let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let token = Impostor::listen().unwrap().token_to(&closed.to_string()).unwrap();
    let output = run(join(&lone.node, &token, &[]));
    failed(
        &lone.node,
        &output,
        exit::PORT_CLOSED,
        &[
            &closed.to_string(),
            "nothing takes UDP",
            "systemctl status proximity-coordinator",
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_silent_or_that_nobody_has() {
    let Some(wire) = Wire::new("join at an address that is silent").unwrap() else {
        return;
    };
    let lone = LoneNode::create().unwrap();
    let impostor = Impostor::listen().unwrap();
    wire.filter_there("input", "meta l4proto { tcp, udp } drop").unwrap();
    let output = run(wire.here(&join(&lone.node, &impostor.token_to(&there()).unwrap(), &[])));
    failed(
        &lone.node,
        &output,
        exit::SILENT,
        &["192.0.2.2:4433", "nothing at all comes back", "ping 192.0.2.2"],
    );
    let nobody = format!("{}:{PORT}", Wire::NOBODY);
    let output = run(wire.here(&join(&lone.node, &impostor.token_to(&nobody).unwrap(), &[])));
    failed(
        &lone.node,
        &output,
        exit::SILENT,
        &["no such machine", "ping 192.0.2.3"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn udp_that_is_dropped_here_or_on_the_way() {
    let Some(wire) = Wire::new("join with UDP blocked").unwrap() else {
        return;
    };
    let lone = LoneNode::create().unwrap();
    let node = NodeId(uuid::Uuid::new_v4());
    let socket = wire.socket_there(PORT).unwrap();
    let (impostor, _serving) = hospitable(Impostor::listen_on(socket, Authority::new().unwrap(), node).unwrap());
    let token = impostor.token().unwrap();
    let join = || run(wire.here(&join(&lone.node, &token, &[])));

    wire.filter_there("input", "udp dport 4433 drop").unwrap();
    failed(
        &lone.node,
        &join(),
        exit::UDP_BLOCKED,
        &[
            "the machine is there",
            "UDP",
            "let UDP port 4433 through in both directions",
        ],
    );
    // The answers alone.
    wire.filter_there("output", "udp sport 4433 drop").unwrap();
    failed(&lone.node, &join(), exit::UDP_BLOCKED, &["in both directions"]);
    wire.filter_there("output", "accept").unwrap();
    wire.filter_here("output", "udp dport 4433 drop").unwrap();
    failed(
        &lone.node,
        &join(),
        exit::UDP_BLOCKED,
        &["this machine's own packet filter", "nft list ruleset"],
    );
    // Large packets alone: nothing that has a code of its own, but words.
    wire.filter_here("output", "meta length > 1210 drop").unwrap();
    let output = join();
    assert_eq!(
        output.status.code(),
        Some(exit::UDP_BLOCKED.into()),
        "{}",
        said(&output)
    );
    wire.filter_here("output", "accept").unwrap();
    wire.filter_there("output", "meta length > 1000 drop").unwrap();
    failed(
        &lone.node,
        &join(),
        exit::UNREACHABLE,
        &["1200 bytes", "MTU", "ping -M do"],
    );

    // Nothing was spoiled by all that: the same token lets it in.
    wire.filter_there("output", "accept").unwrap();
    let output = join();
    assert!(output.status.success(), "{}", said(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_that_came_nearest_is_told() {
    let lone = LoneNode::create().unwrap();
    let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (ours, theirs) = (Impostor::listen().unwrap(), Impostor::listen().unwrap());
    let (theirs, _serving) = hospitable(theirs);
    let token: proximity_protocol::token::JoinToken = ours.token().unwrap().parse().unwrap();
    let addresses = vec![closed.to_string(), theirs.address().unwrap(), closed.to_string()];
    let token = proximity_protocol::token::JoinToken::new(addresses, token.ca_pin, token.id, token.secret).unwrap();
    let output = run(join(&lone.node, &token.to_line(), &[]));
    failed(
        &lone.node,
        &output,
        exit::WRONG_PIN,
        &[&theirs.address().unwrap(), "Nothing was sent", "make a new token"],
    );
}

/// The network of the bridge that leads out is told to the operator and, as it is, to the coordinator.
#[tokio::test(flavor = "multi_thread")]
async fn the_hosts_network_is_proposed() {
    let Some(wire) = Wire::new("join of a node with a bridge").unwrap() else {
        return;
    };
    let lone = LoneNode::create().unwrap();
    wire.bridge_here("vmbr0", "198.51.100.77/26").unwrap();
    let route = lone.node.root().join("proc/net/route");
    std::fs::create_dir_all(route.parent().unwrap()).unwrap();
    // The way out, 198.51.100.65, as the kernel writes it.
    let line = "vmbr0\t00000000\t416433C6\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
    let head = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n";
    std::fs::write(route, format!("{head}{line}")).unwrap();
    let socket = wire.socket_there(PORT).unwrap();
    let node = NodeId(uuid::Uuid::new_v4());
    let (impostor, _serving) = hospitable(Impostor::listen_on(socket, Authority::new().unwrap(), node).unwrap());
    let output = run(wire.here(&join(&lone.node, &impostor.token().unwrap(), &[])));
    assert!(output.status.success(), "{}", said(&output));
    let words = "if it is new there: bridge vmbr0, subnet 198.51.100.64/26, gateway 198.51.100.65, addresses by DHCP";
    assert!(said(&output).contains(words), "{}", said(&output));
    let facts = impostor.facts().unwrap();
    let bridge = proximity_protocol::observed::proposed_bridge(&facts.bridges).unwrap();
    assert_eq!(bridge.network(), Some(([198, 51, 100, 64].into(), 26)));
    assert_eq!(bridge.gateway, Some([198, 51, 100, 65].into()));
}
