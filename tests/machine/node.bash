# The machine as a node of a simulated Proxmox VE, and what its coordinator says: sourced by tests/lifecycle after machine.bash.

# The simulator's tools and files lie below /srv/pve, and the agent's configuration says so, as an operator's would.
node_create() {
    guest pve-sim create --root /srv/pve --name pve1 --address 127.41.0.1 >/dev/null
    # The switch is the kernel's own, so that the agent, hardened as it is, must be able to write it.
    ln -sf /proc/sys/net/ipv4/ip_forward "$root/srv/pve/proc/sys/net/ipv4/ip_forward"
    guest bash -c 'cat >>/etc/proximity/agent.toml' <<'CONFIG'
[host]
pve_tools = "/srv/pve/usr/bin"
etc_pve = "/srv/pve/etc/pve"
proc = "/srv/pve/proc"
cgroup = "/srv/pve/sys/fs/cgroup"
task_log = "/srv/pve/var/log/pve"
run = "/srv/pve/run"
sys_class_net = "/srv/pve/sys/class/net"
[node]
address = "192.0.2.10"
CONFIG
    # What an operator does for folders outside those that the unit may write to.
    guest bash -c 'mkdir -p /etc/systemd/system/proximity-agent.service.d
        printf "[Service]\nReadWritePaths=/srv/pve\n" >/etc/systemd/system/proximity-agent.service.d/simulator.conf
        systemctl daemon-reload'
}

# The simulator's containers have addresses, and no network: whatever is sent there is answered here. Lasts until a reboot.
node_network() {
    guest bash -c 'systemd-run --quiet --unit=simulator pve-sim serve --root /srv/pve
        ip link set lo up; ip address add 192.0.2.10/32 dev lo scope global; ip route add local 10.41.0.0/16 dev lo
        systemd-run --quiet --unit=app perl -MIO::Socket::INET -e "$1"' - '
            my $all = IO::Socket::INET->new(LocalPort => 80, Listen => 9, ReuseAddr => 1) or die $!;
            while (my $one = $all->accept) { my $line = <$one>; print $one "HTTP/1.0 200 OK\r\n\r\nserved\n"; close $one }'
}

linked() { guest proximity-agent status | grep 'link  *connected' >/dev/null; }
main_pid() { guest systemctl show -P MainPID "$1"; }
published() { beside nft list table inet proximity | grep dport >/dev/null; }
answers() { [ "$(beside curl -sS --max-time 5 "$1")" = served ]; }
containers() { find "$root/srv/pve/etc/pve/nodes/pve1/lxc" -name '*.conf' | wc -l; }

http() { beside curl -sS --max-time 10 "$@"; }
api() { http -f -H "authorization: Bearer $access" -H 'content-type: application/json' "$@"; }
json() { python3 -c "import json, sys; answer = json.load(sys.stdin); print($1)"; }
api_login() {
    access=$(http http://127.0.0.1:7080/api/auth/login -H 'content-type: application/json' -d '{"username":"admin","password":"correct-horse-battery"}' |
        json 'answer["access_token"]')
}
# deploy HOSTNAME prints the operation's id.
deploy() {
    api http://127.0.0.1:7080/api/apps -d "{\"catalog_id\":\"nginx\",\"hostname\":\"$1\"}" | json 'answer["operation_id"]'
}
# app HOSTNAME FIELD
app() {
    api http://127.0.0.1:7080/api/apps | json "next((str(app[\"$2\"]) for app in answer[\"apps\"] if app[\"hostname\"] == \"$1\"), \"none\")"
}
is_running() { [ "$(app "$1" status)" = running ]; }
