#!/usr/bin/env bash
# Makes what a release has: programs for both architectures, tarballs, checksums, lists of what is in them, and an image.
# docs/release.md says how a release is made.
set -euo pipefail

root=$(realpath "$(dirname "$0")/..")

# The newest version of glibc's symbols that programs may ask for. docs/release.md and install.sh promise it.
GLIBC=2.34
ARCHITECTURES=(amd64 arm64)
CYCLONEDX=0.5.9

usage() {
    cat <<'END'
Usage: deploy/publish.sh [OPTION]...

Builds hbpf for amd64 and arm64 and makes, in target/publish: a tarball for each, with manual pages, completions,
the systemd unit, alerts and dashboards; SBOMs (CycloneDX); SHA256SUMS; an image for both as an OCI archive.

  --out DIR             where all of it goes, instead of target/publish
  --programs DIR        take hbpf and THIRD-PARTY in DIR/amd64 and DIR/arm64, and build neither
  --no-image            all but the image
  --only-image          the image and nothing else
  --base IMAGE          the image's base. {arch} in it becomes amd64 or arm64; localhost/... is not pulled
  --push REGISTRY/NAME  push the image there, as VERSION, and as latest unless it is a pre-release
  --allow-dirty         go on where something is not committed, to try it out
  --version             print the version that would be released
  --help

What the programs it calls are told by the environment holds: RUSTC and CARGO_TARGET_DIR (cargo), STORAGE_DRIVER,
BUILDAH_ISOLATION and REGISTRY_AUTH_FILE (buildah). SOURCE_DATE_EPOCH is the commit's time unless it is set.
END
}

say() { echo "publish: $*"; }

die() {
    echo "publish: $*" >&2
    exit 1
}

# A program, and the Debian packages that have it.
need() {
    command -v "$1" >/dev/null || die "there is no $1 (Debian: $2)"
}

triplet() {
    case $1 in
        amd64) echo x86_64-linux-gnu ;;
        arm64) echo aarch64-linux-gnu ;;
    esac
}

target() {
    local triplet
    triplet=$(triplet "$1")
    echo "${triplet/-linux-/-unknown-linux-}"
}

# Asks for what is missing before the minutes that building takes.
check() {
    case $(uname -m) in
        x86_64) host=amd64 ;;
        aarch64) host=arm64 ;;
        *) die "this is to be run on x86_64 or aarch64, not on $(uname -m)" ;;
    esac
    need git git
    need readelf binutils
    if [ -n "$tarballs" ]; then
        need cargo "none; https://rustup.rs has it"
        need tar tar
        need gzip gzip
        cargo cyclonedx --version >/dev/null 2>&1 \
            || die "there is no cargo-cyclonedx: cargo install --locked cargo-cyclonedx --version $CYCLONEDX"
    fi
    if [ -n "$image" ]; then
        need buildah buildah
    fi
    if [ -z "$programs" ]; then
        need cargo "none; https://rustup.rs has it"
        for architecture in "${ARCHITECTURES[@]}"; do
            compiler "$architecture"
        done
    fi
    # The chart's version is the image's tag, and what `helm install --version` takes.
    local field chart
    for field in version appVersion; do
        chart=$(sed -n "s/^$field: \"\{0,1\}\([^\"]*\)\"\{0,1\}\$/\1/p" charts/honeybeepf/Chart.yaml)
        [ "$chart" = "$version" ] || die "the chart's $field is $chart, and hbpf's version $version"
    done
    [ -n "$dirty" ] || [ -z "$(git status --porcelain)" ] || die "something is not committed (--allow-dirty goes on)"
}

# What building for an architecture takes: a C compiler, which links as well, and Rust's own library.
compiler() {
    local triplet target
    triplet=$(triplet "$1")
    target=$(target "$1")
    if [ "$1" = "$host" ]; then
        need cc gcc
    else
        need "$triplet-gcc" "gcc-${triplet//_/-} libc6-dev-$1-cross"
    fi
    [ -d "$("${RUSTC:-rustc}" --print target-libdir --target "$target")" ] \
        || rustup target add "$target" \
        || die "Rust has no library for $target: rustup target add $target, or RUSTC=... of a Rust that has it"
}

build() {
    local target variable directory home flags
    target=$(target "$1")
    directory=${CARGO_TARGET_DIR:-$PWD/target}
    home=${CARGO_HOME:-$HOME/.cargo}
    if [ "$1" != "$host" ]; then
        variable=${target^^}
        export "CARGO_TARGET_${variable//-/_}_LINKER=$(triplet "$1")-gcc"
    fi
    # Where it was built is nobody's business, and would make each build another one. What comes last holds.
    flags=("--remap-path-prefix=$home=/cargo" "--remap-path-prefix=$PWD=/hbpf" "--remap-path-prefix=$directory=/target")
    CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f' && echo "${flags[*]}")
    # Lines are nine tenths of the file; names of functions stay for backtraces.
    export CARGO_ENCODED_RUSTFLAGS CARGO_PROFILE_RELEASE_DEBUG=false CARGO_PROFILE_RELEASE_STRIP=debuginfo
    say "build $target"
    cargo build --quiet --locked --release --package hbpf-tui --target "$target" \
        || die "hbpf does not build for $target"
    install -D -m 755 "$directory/$target/release/hbpf" "$programs/$1/hbpf"
    notices "$1" >"$programs/$1/THIRD-PARTY"
}

# Programs that a distribution from docs/release.md could not start must not be released.
check_program() {
    local program=$programs/$1/hbpf machine highest file
    for file in hbpf THIRD-PARTY; do
        [ -f "$programs/$1/$file" ] || die "there is no $programs/$1/$file"
    done
    machine=$(readelf --file-header --wide "$program" | sed -n 's/^ *Machine: *//p')
    case $1:$machine in
        amd64:*X86-64* | arm64:AArch64) ;;
        *) die "$program is for ${machine:-no machine at all}" ;;
    esac
    highest=$(readelf --version-info --wide "$program" | grep -o 'GLIBC_[0-9][0-9.]*' | sort -uV | tail -n 1)
    [ "$(printf '%s\n' "GLIBC_$GLIBC" "$highest" | sort -V | tail -n 1)" = "GLIBC_$GLIBC" ] \
        || die "$program asks for $highest, and GLIBC_$GLIBC is what is promised: build on an older distribution"
    say "$1: $(stat --format %s "$program") bytes, needs $highest"
}

# The same for both architectures, so from the one that runs here.
extras() {
    local program=$programs/$host/hbpf shell
    [ "$("$program" --version)" = "hbpf $version" ] || die "$program is not hbpf $version"
    mkdir -p "$work/extras/completions" "$work/extras/man/man1"
    for shell in bash zsh fish; do
        "$program" completions "$shell" >"$work/extras/completions/hbpf.$shell"
    done
    "$program" man --dir "$work/extras/man/man1"
    # Of `hbpf help COMMAND`, which has nothing to be told of.
    rm -f "$work/extras/man/man1"/hbpf-help*.1
}

# The crates whose code is in the program: "NAME VERSION LICENCE", this workspace's own left out.
crates() {
    cargo tree --locked --package hbpf-tui --target "$(target "$1")" --edges normal,no-proc-macro --prefix none \
        --no-dedupe --format '{p}|{l}' | grep --invert-match ' (/' | sed 's/ v/ /; s/|/ /' | sort -u
}

# What their licences want to go with the program: every text once, below the crates that it is for.
notices() {
    local name version source file sum
    local -A texts=() users=()
    crates "$1" >"$work/crates"
    while read -r name version _; do
        source=$(find "${CARGO_HOME:-$HOME/.cargo}/registry/src" -mindepth 2 -maxdepth 2 -name "$name-$version" -print -quit)
        [ -n "$source" ] || die "the sources of $name $version are not there: cargo fetch --locked"
        while read -r file; do
            sum=$(sha256sum <"$file")
            texts[$sum]=$file
            users[$sum]+="$name $version, "
        done < <(find "$source" -maxdepth 3 -type f -iregex '.*/\(un\)?\(licen[cs]e\|copying\|notice\|copyright\)\([-._].*\)?' \
            -not -name '*.rs' | sort)
    done <"$work/crates"
    echo "hbpf has the standard library of Rust (MIT OR Apache-2.0) in it, and code of these:"
    echo
    sed 's/^\([^ ]*\) \([^ ]*\) \(.*\)/    \1 \2: \3/' "$work/crates"
    for sum in "${!texts[@]}"; do
        echo "${users[$sum]%, }|$sum"
    done | sort | while IFS='|' read -r name sum; do
        printf '\n%s\n%s\n\n' "$(printf '=%.0s' {1..80})" "$name" | fold --spaces --width 120
        cat "${texts[$sum]}"
    done
}

tarball() {
    local name=hbpf-$version-linux-$1 tree=$work/hbpf-$version-linux-$1
    mkdir -p "$tree/systemd"
    install -m 755 "$programs/$1/hbpf" "$tree/hbpf"
    cp LICENSE README.md CHANGELOG.md "$programs/$1/THIRD-PARTY" "$tree/"
    cp deploy/systemd/hbpf.service "$tree/systemd/"
    cp -r deploy/prometheus deploy/grafana "$work/extras/completions" "$work/extras/man" "$tree/"
    tar --create --directory "$work" --format gnu --sort name --owner 0 --group 0 --numeric-owner \
        --mode u=rwX,go=rX --mtime "@$SOURCE_DATE_EPOCH" "$name" | gzip --no-name --best >"$out/$name.tar.gz"
    say "$name.tar.gz"
}

# It writes beside every manifest, so it gets a copy of them. Where that lies is not to be in it.
sbom() {
    local tree=$work/sources name=hbpf-$version-linux-$1
    if [ ! -d "$tree" ]; then
        mkdir "$tree"
        git archive HEAD | tar --extract --directory "$tree"
    fi
    (cd "$tree" && cargo cyclonedx --quiet --manifest-path hbpf-tui/Cargo.toml --format json --spec-version 1.5 \
        --no-build-deps --target "$(target "$1")" --override-filename "$name") || die "cargo-cyclonedx does not list what is in hbpf"
    sed "s|$tree|/hbpf|g" "$tree/hbpf-tui/$name.json" >"$out/$name.cdx.json"
    say "$name.cdx.json"
}

image() {
    list=localhost/hbpf:$version
    local base pull archive=$out/hbpf-$version-image.tar architecture tag tags
    local -a arguments
    for architecture in "${ARCHITECTURES[@]}"; do
        install -D -m 755 "$programs/$architecture/hbpf" "$work/image/$architecture/usr/local/bin/hbpf"
        install -D -m 644 -t "$work/image/$architecture/usr/share/doc/hbpf" LICENSE "$programs/$architecture/THIRD-PARTY"
    done
    buildah manifest rm "$list" >/dev/null 2>&1 || true
    buildah manifest create "$list" >/dev/null
    for architecture in "${ARCHITECTURES[@]}"; do
        say "image for $architecture"
        arguments=(--file deploy/Containerfile --platform "linux/$architecture" --format oci --no-cache --identity-label=false
            --timestamp "$SOURCE_DATE_EPOCH" --tag "$list-$architecture" --build-arg PROGRAM=prebuilt
            --build-arg "VERSION=$version" --build-arg "REVISION=$(git rev-parse HEAD)")
        base=${base_image//\{arch\}/$architecture}
        [ -z "$base" ] || arguments+=(--build-arg "BASE=$base")
        # What is called localhost/ was made here.
        pull=--pull-always
        [[ $base != localhost/* ]] || pull=--pull-never
        buildah build --quiet "$pull" "${arguments[@]}" "$work/image" >/dev/null || die "there is no image for $architecture"
        buildah manifest add --arch "$architecture" "$list" "$list-$architecture" >/dev/null
    done
    rm -f "$archive"
    push_to "oci-archive:$archive:$version"
    say "$(basename "$archive"): $(cat "$out/image.digest")"
    [ -n "$push" ] || return 0
    tags=("$version")
    [[ $version == *-* ]] || tags+=(latest)
    for tag in "${tags[@]}"; do
        push_to "docker://$push:$tag"
        say "pushed $push:$tag"
    done
}

# Some versions of buildah end with success when they have failed; a digest they have only of what is there.
push_to() {
    rm -f "$out/image.digest"
    buildah manifest push --all --format oci --digestfile "$out/image.digest" "$list" "$1" >"$work/push" 2>&1 || true
    [ -s "$out/image.digest" ] || die "$1 cannot be pushed (buildah login?); buildah's last words: $(tail -n 1 "$work/push")"
}

main() {
    version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"$/\1/p' "$root/Cargo.toml")
    out=$root/target/publish programs='' base_image='' push='' tarballs=yes image=yes dirty=''
    while [ $# -gt 0 ]; do
        case $1 in
            --out | --programs | --base | --push)
                [ -n "${2-}" ] || die "$1 needs a value (--help)"
                ;;&
            --out) out=$(realpath -m "$2") && shift ;;
            --programs) programs=$(realpath -m "$2") && shift ;;
            --base) base_image=$2 && shift ;;
            --push) push=$2 && shift ;;
            --no-image) image='' ;;
            --only-image) tarballs='' ;;
            --allow-dirty) dirty=yes ;;
            --version) echo "$version" && exit ;;
            --help | -h) usage && exit ;;
            *) die "there is no option $1 (--help)" ;;
        esac
        shift
    done
    [ -n "$tarballs$image" ] || die "--no-image and --only-image leave nothing to make"
    [ -z "$push" ] || [ -n "$image" ] || die "--push needs the image"
    cd "$root"
    check
    export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
    mkdir -p "$out"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    local architecture
    if [ -z "$programs" ]; then
        programs=$out/programs
        for architecture in "${ARCHITECTURES[@]}"; do
            build "$architecture"
        done
    fi
    for architecture in "${ARCHITECTURES[@]}"; do
        check_program "$architecture"
    done
    if [ -n "$tarballs" ]; then
        extras
        for architecture in "${ARCHITECTURES[@]}"; do
            tarball "$architecture"
            sbom "$architecture"
        done
        install -m 755 deploy/install.sh "$out/install.sh"
        (cd "$out" && sha256sum "hbpf-$version"-linux-*.tar.gz "hbpf-$version"-linux-*.cdx.json install.sh >SHA256SUMS)
    fi
    [ -z "$image" ] || image
    say "all is in $out"
}

main "$@"
