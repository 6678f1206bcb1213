# shellcheck shell=bash
# Debian packages fetched and unpacked into a folder, without installing anything and without root.
#
# Sourced, never run. A private apt state is used beside the machine's own: the mirror is the one that the machine's apt uses (nothing
# here names one), the set of installed packages is empty, so a package's whole dependency tree is fetched. Signatures are checked as
# always; the "valid until" date of a release is not, because a mirror that stands still is good enough for a test guest.
#
#   apt_begin DIR SUITE...          private state in DIR for these suites ("bookworm", "sid", "source:trixie" ...); fetches their lists
#   apt_unpack TARGET PACKAGE...    fetches the packages with all they depend on, unpacks them into TARGET
#   apt_unpack_only TARGET PACKAGE... the same without dependencies
#   apt_dependencies PACKAGE        prints the packages that it depends on itself, one a line
#   apt_source TARGET PACKAGE       fetches a source package's files into TARGET (not unpacked)

APT_KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

# Prints "URI SUFFIX" for each Debian archive of the machine's own apt, SUFFIX being "", "-updates" or "-security".
apt_archives() {
    local codename
    codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
    [[ -n $codename ]] || die "/etc/os-release names no release: the guest rig needs a Debian machine"
    # shellcheck disable=SC2016 # the $(...) are apt's own
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
        awk -v c="$codename" '$3 == "main" && ($2 == c || $2 == c "-updates" || $2 == c "-security") { print $1, substr($2, length(c) + 1) }' |
        sort -u
}

apt_begin() {
    local dir=$1 archives suite kind uri suffix
    shift
    [[ $(dpkg --print-architecture) == amd64 ]] || die "the guest rig needs an amd64 machine"
    [[ -e $APT_KEYRING ]] || die "$APT_KEYRING is missing: install debian-archive-keyring"
    archives=$(apt_archives)
    [[ -n $archives ]] || die "apt has no Debian sources on this machine (see: apt-get indextargets)"
    mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial" "$dir/preferences.d"
    : >"$dir/status"
    for suite in "$@"; do
        kind=deb
        if [[ $suite == source:* ]]; then
            kind='deb-src'
            suite=${suite#source:}
        fi
        while read -r uri suffix; do
            # sid has no updates and no security archive.
            [[ $suite == sid && -n $suffix ]] && continue
            printf '%s [signed-by=%s] %s %s main\n' "$kind" "$APT_KEYRING" "$uri" "$suite$suffix"
        done <<<"$archives"
    done >"$dir/sources.list"
    APT_DIR=$dir
    # shellcheck disable=SC2054 # the comma is apt's
    APT_OPTIONS=(
        -qq
        -o "Dir::State=$dir" -o "Dir::State::lists=$dir/lists" -o "Dir::State::status=$dir/status"
        -o "Dir::Cache=$dir/cache" -o "Dir::Etc::sourcelist=$dir/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o Dir::Etc::preferences=/dev/null -o "Dir::Etc::preferencesparts=$dir/preferences.d"
        -o APT::Architecture=amd64 -o APT::Architectures=amd64 -o APT::Install-Recommends=false -o APT::Install-Suggests=false
        -o APT::Sandbox::User=root -o pkgCacheGen::ForceEssential=, -o Acquire::Check-Valid-Until=false -o Acquire::Retries=3
        -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
        -o Dpkg::Use-Pty=false -o APT::Get::Assume-Yes=true
    )
    apt-get "${APT_OPTIONS[@]}" --error-on=any update >&2
}

apt_unpack() {
    local target=$1 deb
    shift
    mkdir -p "$target"
    rm -f "$APT_DIR"/cache/archives/*.deb
    apt-get "${APT_OPTIONS[@]}" --download-only install "$@" >&2
    for deb in "$APT_DIR"/cache/archives/*.deb; do
        dpkg-deb -x "$deb" "$target"
    done
}

apt_unpack_only() {
    local target=$1 temp deb
    shift
    mkdir -p "$target"
    temp=$(mktemp -d "$APT_DIR/download.XXXXXX")
    (cd "$temp" && apt-get "${APT_OPTIONS[@]}" download "$@" >&2)
    for deb in "$temp"/*.deb; do
        dpkg-deb -x "$deb" "$target"
    done
    rm -rf "$temp"
}

apt_dependencies() {
    apt-cache "${APT_OPTIONS[@]}" depends "$1" | sed -n 's/^ *Depends: //p'
}

# apt_version PACKAGE: the version that would be fetched.
apt_version() {
    apt-cache "${APT_OPTIONS[@]}" policy "$1" | sed -n 's/^ *Candidate: //p'
}

apt_source() {
    local target=$1
    mkdir -p "$target"
    (cd "$target" && apt-get "${APT_OPTIONS[@]}" --download-only source "$2" >&2)
}
