#!/bin/sh
# Tries install.sh on a release made up here, below a directory of its own: nothing of the system changes, nobody is asked.
set -eu
cd "$(dirname "$0")"

fail() {
    echo "test-install: $*" >&2
    exit 1
}

# A release 9.9.9 in $1, whose hbpf is this script.
release() {
    mkdir -p "$1"
    tree=$work/hbpf-9.9.9-linux-$arch
    rm -rf "$tree"
    mkdir -p "$tree/completions" "$tree/man/man1" "$tree/systemd"
    printf '#!/bin/sh\n%s\n' "$2" >"$tree/hbpf"
    chmod 755 "$tree/hbpf"
    for file in LICENSE THIRD-PARTY completions/hbpf.bash completions/hbpf.zsh completions/hbpf.fish man/man1/hbpf.1 man/man1/hbpf-top.1; do
        echo "$file" >"$tree/$file"
    done
    cp systemd/hbpf.service "$tree/systemd/"
    tar -czf "$1/$tarball" -C "$work" "hbpf-9.9.9-linux-$arch"
    (cd "$1" && sha256sum "$tarball" >SHA256SUMS)
}

# install.sh with the rest of the arguments, which is to refuse and to say something with $1 in it in its only line.
refused() {
    why=$1
    shift
    if DESTDIR=$work/refused ./install.sh "$@" >"$work/said" 2>&1; then fail "it went on in spite of: $why"; fi
    grep -q "$why" "$work/said" || fail "it says nothing of '$why', but: $(cat "$work/said")"
    [ "$(wc -l <"$work/said")" = 1 ] || fail "it says more than one line: $(cat "$work/said")"
    [ ! -e "$work/refused" ] || fail "it has installed something in spite of: $why"
}

# A machine of which `uname OPTION` says something else.
on_machine() {
    mkdir -p "$work/path"
    # shellcheck disable=SC2016  # The script is to see its arguments, not this one's.
    printf '#!/bin/sh\n[ "$1" = %s ] && echo %s || exec /usr/bin/env -i PATH=/usr/bin:/bin uname "$@"\n' "$1" "$2" >"$work/path/uname"
    chmod 755 "$work/path/uname"
    shift 2
    (PATH=$work/path:$PATH && "$@")
}

main() {
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    case $(uname -m) in
        x86_64) arch=amd64 other=arm64 ;;
        *) arch=arm64 other=amd64 ;;
    esac
    tarball=hbpf-9.9.9-linux-$arch.tar.gz

    release "$work/download/v9.9.9" 'echo "hbpf 9.9.9"'
    mkdir -p "$work/latest" && ln -s ../download/v9.9.9 "$work/latest/download"
    export HBPF_RELEASES="file://$work"

    mkdir -p "$work/root/etc/hbpf" && echo mine >"$work/root/etc/hbpf/config.toml"
    DESTDIR=$work/root ./install.sh --agent "$work/download/v9.9.9/$tarball" >"$work/said"
    [ "$("$work/root/usr/local/bin/hbpf")" = "hbpf 9.9.9" ] || fail "hbpf is not where it should be"
    grep -q '^ExecStart=/usr/local/bin/hbpf agent$' "$work/root/etc/systemd/system/hbpf.service" || fail "the unit is wrong"
    [ "$(find "$work/root/usr/local" -type f | wc -l)" = 8 ] || fail "not all is there: $(find "$work/root" -type f)"
    DESTDIR=$work/root ./install.sh --uninstall >"$work/said"
    [ "$(find "$work/root" -type f)" = "$work/root/etc/hbpf/config.toml" ] || fail "left: $(find "$work/root" -type f)"
    [ "$(cat "$work/root/etc/hbpf/config.toml")" = mine ] || fail "the configuration was changed"

    DESTDIR=$work/root ./install.sh --agent --prefix /opt/hbpf/ "$work/download/v9.9.9/$tarball" >"$work/said"
    grep -q '^ExecStart=/opt/hbpf/bin/hbpf agent$' "$work/root/etc/systemd/system/hbpf.service" || fail "the unit is wrong"

    # curl alone takes file: addresses.
    if command -v curl >/dev/null; then
        for version in latest '' 9.9.9 v9.9.9; do
            DESTDIR=$work/$version.d ./install.sh ${version:+"$version"} >"$work/said" || fail "cannot install $version"
            [ -x "$work/$version.d/usr/local/bin/hbpf" ] || fail "hbpf $version is not where it should be"
        done
        refused 'cannot download .*/v9.9.8/SHA256SUMS: curl: ' 9.9.8
    fi

    refused 'no version' '1.0;reboot'
    refused 'there is no option --agnet' --agnet
    refused "there is no $work/none.tar.gz" "$work/none.tar.gz"
    cp "$work/download/v9.9.9/$tarball" "$work/hbpf-9.9.9-linux-$other.tar.gz"
    refused 'is not for this machine' "$work/hbpf-9.9.9-linux-$other.tar.gz"
    mkdir "$work/bare" && cp "$work/download/v9.9.9/$tarball" "$work/bare/"
    refused 'there is no SHA256SUMS beside' "$work/bare/$tarball"
    echo "0000  something else" >"$work/bare/SHA256SUMS"
    refused 'says nothing of' "$work/bare/$tarball"
    cp "$work/download/v9.9.9/SHA256SUMS" "$work/bare/" && echo more >>"$work/bare/$tarball"
    refused 'is not what was released' "$work/bare/$tarball"
    release "$work/old" 'echo "hbpf: /lib/libc.so.6: version GLIBC_2.34 not found" >&2; exit 1'
    refused 'it needs glibc .* or newer: hbpf: /lib/libc.so.6' "$work/old/$tarball"
    on_machine -s FreeBSD refused 'hbpf is for Linux' 9.9.9
    on_machine -m riscv64 refused 'there is no hbpf for riscv64' 9.9.9
    echo "test-install: all is well"
}

main
