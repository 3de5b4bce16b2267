#!/usr/bin/env bash
# Build kube-apiserver and kube-scheduler 1.20.2 from Debian bookworm's source package, into the folder given.
#   nice -n 19 tests/cluster/build.sh ~/.cache/kube-bin      (root, for apt-get; ten minutes and more on two cores)
# No package carries these servers; the source does, with all that it vendors. etcd comes from Debian as it is.
set -euo pipefail
bin=$(realpath -m "${1:?where the binaries go}")
if [ -x "$bin/kube-apiserver" ] && [ -x "$bin/kube-scheduler" ] && [ -x "$bin/etcd" ]; then
  echo "already in $bin"
  exit 0
fi
tree=$(mktemp -d)
trap 'chmod -R u+w "$tree" && rm -rf "$tree"' EXIT

apt-get install -y --no-install-recommends golang-go golang-github-modern-go-reflect2-dev dpkg-dev etcd-server rsync

# Sources are asked for from a list of our own: the machine's own lists stay as they are.
mkdir -p "$tree/lists/partial"
sed 's/^Types: deb$/Types: deb-src/' /etc/apt/sources.list.d/debian.sources > "$tree/debian.sources"
sources=(-o "Dir::Etc::sourcelist=$tree/debian.sources" -o Dir::Etc::sourceparts=/dev/null -o "Dir::State::lists=$tree/lists")
cd "$tree"
apt-get "${sources[@]}" update
apt-get "${sources[@]}" source --download-only kubernetes=1.20.5+really1.20.2-1.1+deb12u1
dpkg-source --extract kubernetes_*.dsc kubernetes
cd kubernetes

# The vendored reflect2 1.0.1 does not link with Go 1.18 and later; Debian's own package does.
rm -r vendor/github.com/modern-go/reflect2
cp -rL /usr/share/gocode/src/github.com/modern-go/reflect2 vendor/github.com/modern-go/reflect2

# Without git the build cannot tell its version, and kubectl needs one.
cat > "$tree/version" <<'VERSION'
KUBE_GIT_COMMIT='debian'
KUBE_GIT_TREE_STATE='archive'
KUBE_GIT_VERSION='v1.20.2'
KUBE_GIT_MAJOR='1'
KUBE_GIT_MINOR='20'
VERSION
mkdir -p .go/src/k8s.io
ln -s ../../.. .go/src/k8s.io/kubernetes
export GOPATH=$PWD/.go HOME=$tree CGO_ENABLED=0 GOPROXY=off GOFLAGS= KUBE_GIT_VERSION_FILE=$tree/version
make WHAT="cmd/kube-apiserver cmd/kube-scheduler"

mkdir -p "$bin"
install -m 755 _output/bin/kube-apiserver _output/bin/kube-scheduler "$bin"
ln -sf "$(command -v etcd)" "$bin/etcd"
echo "built: $bin"
