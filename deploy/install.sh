#!/bin/sh
# Installs a release of hbpf on this machine, or removes it.
#
#     curl -fsSL https://github.com/honeybeepf/hbpf/releases/latest/download/install.sh | sudo sh
#     sudo ./install.sh --agent 0.1.0
#
# All of it is functions that the last line calls: of a download that breaks off nothing is run.
set -eu

RELEASES=${HBPF_RELEASES:-https://github.com/honeybeepf/hbpf/releases}
# What the programs of a release ask of the C library; publish.sh holds them to it.
GLIBC=2.34

usage() {
    cat <<'END'
Usage: install.sh [OPTION]... [VERSION | TARBALL]

Installs hbpf, with its manual pages and completions, in /usr/local. Without a VERSION, such as 0.1.0, it is the latest
release. It is downloaded from the project's releases on GitHub and held against their SHA256SUMS; beside a TARBALL
that is here already there has to be a SHA256SUMS.

  --agent        also install the systemd unit of the agent, and start it; what is in /etc/hbpf stays as it is
  --prefix DIR   another place than /usr/local
  --uninstall    stop the agent and remove all of it; what is in /etc/hbpf stays
  --help

DESTDIR has it laid in a directory below which a system is put together; nothing is started then.
HBPF_RELEASES is another place to download from, laid out as GitHub's.
END
}

say() { echo "$*"; }

die() {
    echo "install.sh: $*" >&2
    exit 1
}

# This machine's architecture, as releases call it.
architecture() {
    [ "$(uname -s)" = Linux ] || die "hbpf is for Linux, and this is $(uname -s)"
    case $(uname -m) in
        x86_64 | amd64) echo amd64 ;;
        aarch64 | arm64) echo arm64 ;;
        *) die "there is no hbpf for $(uname -m): releases have x86_64 and aarch64" ;;
    esac
}

# What is called $1 there, as the file $2.
fetch() {
    if command -v curl >/dev/null; then
        why=$(curl --fail --silent --show-error --location --proto-redir =https --output "$2" "$RELEASES/$1" 2>&1)
    elif command -v wget >/dev/null; then
        why=$(wget -q -O "$2" "$RELEASES/$1" 2>&1)
    else
        die "there is neither curl nor wget"
    fi || die "cannot download $RELEASES/$1${why:+: $why}"
}

# Has the tarball and its SHA256SUMS in $work, and its name in $name.
obtain() {
    case $wanted in
        *.tar.gz)
            name=$(basename "$wanted")
            [ -f "$wanted" ] || die "there is no $wanted"
            case $name in
                *-linux-"$arch".tar.gz) ;;
                *) die "$name is not for this machine, which takes hbpf-VERSION-linux-$arch.tar.gz" ;;
            esac
            [ -f "$(dirname "$wanted")/SHA256SUMS" ] || die "there is no SHA256SUMS beside $wanted"
            cp "$(dirname "$wanted")/SHA256SUMS" "$work/"
            cp "$wanted" "$work/$name"
            ;;
        '')
            fetch latest/download/SHA256SUMS "$work/SHA256SUMS"
            name=$(sed -n "s/^[0-9a-f]*  *[*]\{0,1\}\(hbpf-[0-9A-Za-z.+-]*-linux-$arch\.tar\.gz\)\$/\1/p" "$work/SHA256SUMS")
            [ -n "$name" ] || die "the latest release has no tarball for $arch"
            # Of this version by name: there may be a newer one by now.
            version=${name#hbpf-}
            fetch "download/v${version%-linux-"$arch".tar.gz}/$name" "$work/$name"
            ;;
        *[!0-9A-Za-z.+-]* | -*) die "$wanted is no version, such as 0.1.0" ;;
        *)
            version=${wanted#v}
            name=hbpf-$version-linux-$arch.tar.gz
            fetch "download/v$version/SHA256SUMS" "$work/SHA256SUMS"
            fetch "download/v$version/$name" "$work/$name"
            ;;
    esac
}

verify() {
    command -v sha256sum >/dev/null || die "there is no sha256sum"
    said=$(awk -v name="$name" '$2 == name || $2 == "*" name { print $1 }' "$work/SHA256SUMS")
    [ -n "$said" ] || die "SHA256SUMS says nothing of $name"
    is=$(sha256sum <"$work/$name")
    is=${is%% *}
    [ "$said" = "$is" ] || die "$name is not what was released: its SHA-256 is $is, and SHA256SUMS says $said"
}

# Has its contents in $tree, and knows that they run here.
unpack() {
    tar -xzf "$work/$name" -C "$work" || die "$name cannot be unpacked"
    tree=$work/${name%.tar.gz}
    [ -f "$tree/hbpf" ] || die "there is no hbpf in $name"
    installed=$("$tree/hbpf" --version 2>&1) \
        || die "hbpf does not run here; it needs glibc $GLIBC or newer: $(echo "$installed" | head -n 1)"
}

# $1, mode $2, as $3. Another one of that name is replaced at once, whoever runs or reads it.
put() {
    mkdir -p "$(dirname "$3")"
    cp "$1" "$3.new"
    chmod "$2" "$3.new"
    mv -f "$3.new" "$3"
}

install_files() {
    put "$tree/hbpf" 755 "$root/bin/hbpf"
    for page in "$tree"/man/man1/*; do
        put "$page" 644 "$root/share/man/man1/$(basename "$page")"
    done
    put "$tree/completions/hbpf.bash" 644 "$root/share/bash-completion/completions/hbpf"
    put "$tree/completions/hbpf.zsh" 644 "$root/share/zsh/site-functions/_hbpf"
    put "$tree/completions/hbpf.fish" 644 "$root/share/fish/vendor_completions.d/hbpf.fish"
    for file in LICENSE THIRD-PARTY; do
        put "$tree/$file" 644 "$root/share/doc/hbpf/$file"
    done
    say "$installed is $root/bin/hbpf"
}

# Whether this is about the system that runs.
is_live() {
    [ -z "${DESTDIR-}" ] && [ -d /run/systemd/system ]
}

install_agent() {
    sed "s|^ExecStart=/usr/local/|ExecStart=$prefix/|" "$tree/systemd/hbpf.service" >"$work/hbpf.service"
    put "$work/hbpf.service" 644 "$unit"
    is_live || return 0
    systemctl daemon-reload
    systemctl enable --quiet hbpf
    systemctl restart hbpf || die "the agent does not start: journalctl -u hbpf says why"
    say "the agent runs: curl --unix-socket /run/hbpf/agent.sock http://localhost/metrics"
}

uninstall() {
    if [ -f "$unit" ]; then
        if is_live; then
            systemctl disable --quiet --now hbpf || die "the agent does not stop: journalctl -u hbpf says why"
        fi
        rm -f "$unit"
        if is_live; then
            systemctl daemon-reload
        fi
    fi
    rm -f "$root/bin/hbpf" "$root/share/man/man1/hbpf.1" "$root"/share/man/man1/hbpf-*.1 \
        "$root/share/bash-completion/completions/hbpf" "$root/share/zsh/site-functions/_hbpf" \
        "$root/share/fish/vendor_completions.d/hbpf.fish" "$root/share/doc/hbpf/LICENSE" "$root/share/doc/hbpf/THIRD-PARTY"
    rmdir "$root/share/doc/hbpf" 2>/dev/null || true
    say "it is removed; what is in /etc/hbpf stays"
}

main() {
    prefix=/usr/local agent='' removing='' wanted=''
    while [ $# -gt 0 ]; do
        case $1 in
            --agent) agent=yes ;;
            --uninstall) removing=yes ;;
            --prefix)
                case ${2-} in
                    /*) prefix=${2%/} ;;
                    *) die "--prefix needs a directory, from / on" ;;
                esac
                shift
                ;;
            --help | -h)
                usage
                exit
                ;;
            -*) die "there is no option $1 (--help)" ;;
            latest) ;;
            *)
                [ -z "$wanted" ] || die "one version is enough: $wanted or $1"
                wanted=$1
                ;;
        esac
        shift
    done
    root=${DESTDIR-}$prefix
    unit=${DESTDIR-}/etc/systemd/system/hbpf.service
    arch=$(architecture)
    [ -n "${DESTDIR-}" ] || [ "$(id -u)" = 0 ] || [ -w "$root" ] || die "only root may write to $root: use sudo, or --prefix"
    if [ -n "$removing" ]; then
        uninstall
        return
    fi
    [ -z "$agent" ] || [ -n "${DESTDIR-}" ] || is_live || die "systemd does not run here, and --agent needs it"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' HUP INT TERM
    obtain
    verify
    unpack
    install_files
    if [ -n "$agent" ]; then
        install_agent
    elif is_live && systemctl is-active --quiet hbpf; then
        say "the agent still runs the old one: systemctl restart hbpf"
    else
        say "\`sudo hbpf doctor\` tells what can be seen here"
    fi
}

main "$@"
