# The signed apt repository of packaging/apt-repository, as a machine sees it: sourced by tests/lifecycle after machine.bash.
# $repository is what is served at http://127.0.0.1:8090 in the machine's network.

# repository_open DEB...: signs with a key made for this run, and serves.
repository_open() {
    repository=$lab/repository
    export GNUPGHOME=$lab/gnupg
    mkdir -m 700 "$GNUPGHOME"
    gpg --batch --quiet --passphrase '' --quick-generate-key 'Proximity packages <packages@example.org>' ed25519 sign never 2>/dev/null
    packaging/apt-repository --key packages@example.org "$repository" "$@" >"$lab/apt-repository.log"
    repository_serve
}

# Again after each boot: the network is a new one.
repository_serve() {
    [ -z "${server:-}" ] || kill "$server" 2>/dev/null || true
    # Not by `beside`: what is killed in the end must be the server itself.
    nsenter --net="/proc/$(init_pid)/ns/net" -- python3 -m http.server --bind 127.0.0.1 --directory "$repository" 8090 >"$lab/http.log" 2>&1 &
    server=$!
    until_true 20 "the repository is served" beside curl -fsS -o /dev/null http://127.0.0.1:8090/dists/stable/InRelease
}

repository_close() {
    [ -z "${server:-}" ] || kill "$server" 2>/dev/null || true
    if [ -n "${GNUPGHOME:-}" ]; then gpgconf --kill all 2>/dev/null || true; fi
}

# The lines that packaging/apt-repository prints, word for word, with the address for URL; curl is not in the machine, so that is done from beside it.
repository_use() {
    grep -qF 'deb [signed-by=/etc/apt/keyrings/proximity.asc] URL stable main' "$lab/apt-repository.log" || fail "packaging/apt-repository says how it is used"
    mkdir -p "$root/etc/apt/keyrings"
    beside curl -fsSo "$root/etc/apt/keyrings/proximity.asc" http://127.0.0.1:8090/proximity.asc
    echo 'deb [signed-by=/etc/apt/keyrings/proximity.asc] http://127.0.0.1:8090 stable main' >"$root/etc/apt/sources.list.d/proximity.list"
    guest apt-get update -qq >"$lab/apt.log" 2>&1 || { cat "$lab/apt.log"; fail "apt update"; }
}

candidate() { guest apt-cache policy "$1" | awk '/Candidate:/ { print $2 }'; }

# refused WHAT WORDS: with the repository as it is now, nothing can be installed, and apt says WORDS. Then the repository is as it was.
refused() {
    local what=$1 words=$2 said
    guest bash -c 'rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin; apt-get clean'
    if said=$(guest bash -c 'apt-get update -o APT::Update::Error-Mode=any && apt-get install -y --download-only proximity-agent' 2>&1); then
        fail "$what is installed: $said"
    fi
    grep -qE "$words" <<<"$said" || fail "$what is refused for another reason: $said"
    [ -z "$(find "$root/var/cache/apt/archives" -name 'proximity*.deb')" ] || fail "$what was left in apt's cache"
    echo "refused: $what"
    rm -rf "$repository"
    cp -a "$lab/repository.good" "$repository"
}

# Whoever has the web server, and not the key.
repository_tampered() {
    cp -a "$repository" "$lab/repository.good"
    local dists=$repository/dists/stable deb
    deb=$(ls "$repository"/pool/main/proximity-agent_*.deb)
    # The same size, one byte within.
    printf 'X' | dd of="$deb" bs=1 seek=100000 conv=notrunc status=none
    refused "a package that was changed" 'Hash Sum mismatch'
    sed -i 's/^Depends: /Depends: evil, /' "$dists/main/binary-$(dpkg --print-architecture)/Packages"
    gzip -9nkf "$dists/main/binary-$(dpkg --print-architecture)/Packages"
    refused "an index that was changed" 'Hash Sum mismatch|unexpected size'
    sed -i 's/^Suite: stable$/Suite: staple/' "$dists/InRelease" "$dists/Release"
    refused "a release file that was changed" 'BADSIG|bad signature|invalid signature|signature.*not valid|Message has been manipulated'
    rm "$dists/InRelease" "$dists/Release.gpg"
    refused "a release file without signature" 'is not signed|no longer signed'
    (
        export GNUPGHOME=$lab/gnupg.other
        mkdir -m 700 "$GNUPGHOME"
        gpg --batch --quiet --passphrase '' --quick-generate-key 'Another <other@example.org>' ed25519 sign never 2>/dev/null
        gpg --batch --quiet --yes --clearsign --output "$dists/InRelease" "$dists/Release"
        gpg --batch --quiet --yes --armor --export >"$repository/proximity.asc"
        gpgconf --kill all
    )
    refused "a repository signed by another key" 'NO_PUBKEY|Missing key'
    guest apt-get update -qq
}
