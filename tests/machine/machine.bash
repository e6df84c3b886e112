# A Debian with systemd as PID 1, in a container of LXC: sourced by tests/lifecycle. Its network is its own, with nothing but loopback.
# Needs $lab (a folder of our own) and $name; $root holds the machine's files.

say() { printf '\n== %s (%ss)\n' "$1" "$SECONDS"; }
fail() {
    printf 'FAILED: %s\n' "$1" >&2
    if [ -n "$(init_pid)" ]; then
        GUEST_TIMEOUT_S=20 guest journalctl --no-pager -n 80 -u 'proximity*' >&2 || true
        GUEST_TIMEOUT_S=20 guest systemctl --no-pager --failed >&2 || true
    fi
    exit 1
}

# A command in the machine. Bounded, since what hangs there must not hang here.
guest() {
    timeout --foreground -k 5 "${GUEST_TIMEOUT_S:-120}" lxc-attach -P "$lab" -n "$name" --clear-env \
        --set-var PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin --set-var DEBIAN_FRONTEND=noninteractive --set-var LC_ALL=C.UTF-8 -- "$@"
}
init_pid() { lxc-info -P "$lab" -n "$name" -pH 2>/dev/null || true; }
# A command of this machine in the network of that one.
beside() { nsenter --net="/proc/$(init_pid)/ns/net" -- "$@"; }

# until_true SECONDS WHAT COMMAND...: looks again and again, with a bound.
until_true() {
    local bound=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $bound ] || fail "not within its time: $what"
        sleep 0.2
    done
}

# What a machine begins with: debootstrap's smallest Debian with an init, kept as an archive. machine_template RELEASE prints its path.
machine_template() {
    local release=$1 cache=${PROXIMITY_LAB_CACHE:-/var/cache/proximity-lab} mirror=${PROXIMITY_LAB_MIRROR:-http://deb.debian.org/debian}
    # That of the simulator's real containers serves too, where it is there already.
    local theirs=$cache/debian-12-standard_12.7-1_amd64.tar.zst ours=$cache/machine-$release.tar.zst
    if [ "$release" = bookworm ] && [ -f "$theirs" ]; then
        echo "$theirs"
        return
    fi
    if [ ! -f "$ours" ]; then
        local build=$lab/template
        mkdir -p "$cache"
        debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,iproute2,ca-certificates,netbase,procps "$release" "$build" "$mirror" >"$lab/debootstrap.log" 2>&1 ||
            { tail -n 20 "$lab/debootstrap.log" >&2; fail "debootstrap $release"; }
        rm -rf "$build"/var/cache/apt/archives/*.deb
        tar --numeric-owner --use-compress-program='zstd -3 -T0' -C "$build" -cf "$ours.new" .
        mv "$ours.new" "$ours"
        rm -rf --one-file-system "$build"
    fi
    echo "$ours"
}

# A command in the machine's files, before it runs, with this machine's network.
in_root() {
    unshare --mount -- bash -c 'mount --bind /dev "$1/dev" && mount -t proc proc "$1/proc" && shift_root=$1 && shift && exec chroot "$shift_root" "$@"' - "$root" "$@"
}

# Lays the machine out. What the packages depend on is put into /srv/debian, which is all of Debian's archive that the machine can reach later.
machine_create() {
    local release=$1 template
    template=$(machine_template "$release")
    mkdir "$root"
    tar --numeric-owner --zstd -xf "$template" -C "$root"
    : >"$root/etc/machine-id"
    cp --remove-destination /etc/resolv.conf "$root/etc/resolv.conf"
    # /usr/share/man is left out of images of containers only; what the packages bring must arrive.
    rm -f "$root/etc/dpkg/dpkg.cfg.d/docker"
    DEBIAN_FRONTEND=noninteractive in_root apt-get update -qq
    DEBIAN_FRONTEND=noninteractive in_root apt-get install -qq -y --no-install-recommends --download-only nftables >/dev/null
    mkdir -p "$root/srv/debian"
    mv "$root"/var/cache/apt/archives/*.deb "$root/srv/debian/"
    (cd "$root/srv/debian" && apt-ftparchive packages . >Packages)
    rm -rf "$root"/var/lib/apt/lists/* "$root"/etc/apt/sources.list.d/*
    echo 'deb [trusted=yes] file:/srv/debian ./' >"$root/etc/apt/sources.list"
    mkdir "$lab/$name"
    cat >"$lab/$name/config" <<CONFIG
lxc.include = /usr/share/lxc/config/common.conf
lxc.rootfs.path = dir:$root
lxc.uts.name = pve1
lxc.apparmor.profile = unconfined
lxc.net.0.type = empty
lxc.mount.auto = proc:rw sys:rw cgroup:rw
lxc.console.logfile = $lab/console.log
CONFIG
}

machine_is_up() { [ "$(GUEST_TIMEOUT_S=60 guest systemctl is-system-running --wait)" = running ]; }
machine_start() {
    lxc-start -P "$lab" -n "$name" -d --logfile "$lab/lxc.log" || { cat "$lab/lxc.log" >&2; fail "lxc-start"; }
    until_true 60 "the machine is up" machine_is_up
}

machine_reboot() {
    local old
    old=$(init_pid)
    guest systemctl reboot || true
    another_boot() { local now; now=$(init_pid) && [ -n "$now" ] && [ "$now" != "$old" ]; }
    until_true 60 "another boot" another_boot
    until_true 60 "the machine is up after its reboot" machine_is_up
}

machine_close() {
    lxc-stop -P "$lab" -n "$name" -k 2>/dev/null || true
    rm -rf --one-file-system "$lab"
}

# Everything that is there, but for what a running machine, apt and dpkg change by themselves.
machine_picture() {
    guest bash -c 'find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp -o -path /var/tmp -o -path /srv \
        -o -path /var/lib/dpkg -o -path /var/lib/apt -o -path /var/cache -o -path /var/log -o -path /var/lib/systemd/timers \) -prune \
        -o -printf "%p %y %m %u:%g %l\n" | sort
        cat /etc/passwd /etc/group; systemctl list-unit-files --no-legend "proximity*"; systemctl list-units --all --no-legend "proximity*"'
    beside nft list tables
}
