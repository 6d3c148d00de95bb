#!/usr/bin/env bash
# Make .venv: the project and all it needs, from the package registries that pip is configured for.
#
# Idempotent: does nothing when pyproject.toml and constraints.txt are those of the last complete run.
# Environment: PYTHON (interpreter to use); EXTRAS (default "test"); REPRO_TORCH (cpu or cuda, where the
# machine that sets up is not like those that train); every setting of pip, such as PIP_INDEX_URL.
set -euo pipefail
# By its real path: a symlink on the way must not look like another place.
cd -P "$(dirname "${BASH_SOURCE[0]}")"

VENV=.venv
extras=${EXTRAS:-test}

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

[[ $PWD != *[\$:]* ]] || die "$PWD: the path holds \$ or :, which setuptools and venv do not take; move the folder"

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11; do
        # Run it: a name on PATH may be a version manager's stub for an interpreter that is not installed.
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    die "no Python 3.11, 3.12 or 3.13 found; install one (Debian: apt-get install python3) or name it with PYTHON=/path/to/python"
}

# Debian splits ensurepip from Python. Its package with pip's wheel can be fetched and unpacked without being root.
make_venv() {
    local python=$1 scratch wheel
    rm -rf "$VENV"
    if "$python" -c 'import ensurepip' 2>/dev/null; then
        "$python" -m venv "$VENV"
        return
    fi
    "$python" -m venv --without-pip "$VENV"
    if "$python" -m pip --python "$VENV/bin/python" install --quiet pip 2>/dev/null; then
        return
    fi
    say "this Python has no pip: unpacking Debian's package python3-pip-whl into $VENV"
    scratch=$VENV/bootstrap
    mkdir "$scratch"
    if (cd "$scratch" && apt-get download -q python3-pip-whl && dpkg-deb -x python3-pip-whl_*.deb .) >&2; then
        wheel=$(echo "$scratch"/usr/share/python-wheels/pip-*.whl)
        "$VENV/bin/python" "$wheel/pip" install --quiet --no-index "$wheel"
        rm -rf "$scratch"
    else
        rm -rf "$VENV"
        die "cannot get pip for $python; install it (Debian: apt-get update && apt-get install python3-venv) and try again"
    fi
}

# The build of torch for this machine, as constraints of pip: the CPU build where there is neither a GPU nor a cluster, for
# the CUDA build is gigabytes; elsewhere any but the CPU build, which pip would prefer where a registry offers both.
torch_constraint() {
    local build=${REPRO_TORCH:-cuda} package version
    if [ -z "${REPRO_TORCH:-}" ] && [ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] &&
        ! compgen -G '/dev/nvidia[0-9]*' >/dev/null && ! command -v sbatch >/dev/null; then
        build=cpu
    fi
    [[ $build = cpu || $build = cuda ]] || die "REPRO_TORCH: '$build' (allowed: cpu or cuda, or unset)"
    for package in torch torchvision; do
        version=$(sed -n "s/^$package==//p" constraints.txt)
        if [ "$build" = cuda ]; then
            echo "$package!=$version+cpu"
        elif "$VENV/bin/python" -m pip index versions "$package" 2>/dev/null | grep -qF "$version+cpu"; then
            echo "$package==$version+cpu"
        else
            say "no CPU build of $package $version on offer: the CUDA build follows (about 6 GB in all);" \
                "PIP_EXTRA_INDEX_URL may name an index with CPU builds"
        fi
    done
}

if ! command -v npm >/dev/null; then
    extras=$extras,node # icons and WordNet come from npm packages
fi
key="$(cat pyproject.toml constraints.txt setup.sh | sha256sum | cut -d' ' -f1) $PWD"
{ read -r complete_key && read -r installed; } 2>/dev/null <"$VENV/.complete" || installed=
missing=
for extra in ${extras//,/ }; do
    [[ ,$installed, == *,$extra,* ]] || missing=$missing,$extra
done
if [ "${complete_key:-}" != "$key" ] || [ -n "$missing" ]; then
    extras=${installed:+$installed}$missing
    rm -f "$VENV/.complete"
    # A moved environment has the old place in its scripts.
    if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1 ||
        ! [ "$(. "$VENV/bin/activate" && echo "$VIRTUAL_ENV")" -ef "$VENV" ]; then
        python=$(find_python)
        make_venv "$python"
    fi
    torch_constraint >"$VENV/torch.txt"
    say "installing into $VENV (about 3 minutes and 2 GB with a CPU build of torch)"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile \
        -c constraints.txt -c "$VENV/torch.txt" --editable ".[${extras#,}]" || die \
        "pip could not install everything; its message is above. Offline: collect the wheels elsewhere with" \
        "'pip download -c constraints.txt .[${extras#,}]' and set PIP_NO_INDEX=1 PIP_FIND_LINKS=folder. Then run this again."
    # pip compiles on one core. Some packages carry files that no Python compiles, for their own tests.
    "$VENV/bin/python" -m compileall -q -j 0 "$VENV/lib" >/dev/null || true
    printf '%s\n' "$key" "${extras#,}" >"$VENV/.complete"
    say "done; 'source $VENV/bin/activate' gives the environment to your shell"
fi
# An unpacked archive of the project has no history, and DVC asks to be told.
if [ ! -e .git ] && [ -d .dvc ] && ! grep -qs no_scm .dvc/config.local; then
    "$VENV/bin/dvc" config --local core.no_scm true
fi
