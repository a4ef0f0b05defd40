#!/bin/bash
# bare.sh REPOSITORY person: clone it on a bare Debian 12, and do there what the README says.
# bare.sh REPOSITORY package: make its Debian package there, install it, use it, purge it.
# The machine is a chroot over a copy-on-write view of a debootstrap tree that has nothing but
# python3, python3-venv, make and git; the tree is made once and kept in ~/.cache/ollad-ci/debian12.
# Needs root, debootstrap, overlayfs and the network's Debian mirror and PyPI; exits with 77 where one
# of the first three is missing. How this machine reaches PyPI (certificates, proxy, index) goes along.
set -euo pipefail
REPOSITORY=$(realpath "${1:?usage: bare.sh REPOSITORY person|package}")
WHAT=${2:?usage: bare.sh REPOSITORY person|package}
HERE=$(dirname "$(realpath "$0")")
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/ollad-ci
TREE=$CACHE/debian12
MIRROR=${DEBIAN_MIRROR:-http://deb.debian.org/debian}

skip() { echo "SKIP: $*"; exit 77; }

if [ "${3:-}" != --inside ]; then
  [ "$(id -u)" = 0 ] || skip "not root"
  [ -x "$TREE/usr/bin/git" ] || command -v debootstrap > /dev/null || skip "no debootstrap"
  grep -qw overlay /proc/filesystems || modprobe overlay 2> /dev/null || skip "no overlayfs"
  unshare --mount --pid --fork true 2> /dev/null || skip "no namespaces"
  if [ ! -x "$TREE/usr/bin/git" ]; then
    echo "making $TREE"
    rm -rf "$TREE.new"
    mkdir -p "$CACHE"
    debootstrap --variant=minbase --include=python3,python3-venv,make,git bookworm \
      "$TREE.new" "$MIRROR" > "$CACHE/debootstrap.log" 2>&1 || { tail -20 "$CACHE/debootstrap.log"; exit 1; }
    rm -rf "$TREE"
    mv "$TREE.new" "$TREE"
    echo "that took $SECONDS s"
  fi
  exec unshare --mount --pid --fork --kill-child bash "$0" "$REPOSITORY" "$WHAT" --inside
fi

mount --make-rprivate /
W=$(mktemp -d)
mount -t tmpfs -o mode=755 tmpfs "$W"
mkdir "$W/upper" "$W/work" "$W/root"
mount -t overlay overlay -o "lowerdir=$TREE,upperdir=$W/upper,workdir=$W/work" "$W/root"
R=$W/root
mount -t proc proc "$R/proc"
mount -t tmpfs -o mode=755 tmpfs "$R/dev"
for node in null zero full random urandom tty; do
  touch "$R/dev/$node"
  mount --bind "/dev/$node" "$R/dev/$node"
done
ln -s /proc/self/fd "$R/dev/fd"
mkdir "$R/dev/shm" "$R/dev/pts" "$R/mnt/repository"
mount -t tmpfs -o mode=1777 tmpfs "$R/dev/shm"
mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts "$R/dev/pts"
ln -s pts/ptmx "$R/dev/ptmx"
mount -t tmpfs -o mode=1777 tmpfs "$R/tmp"
mount --bind -o ro "$REPOSITORY" "$R/mnt/repository"
cp /etc/resolv.conf /etc/hosts "$R/etc/"
# it is another user's, who may well be trusted
printf '[safe]\n\tdirectory = *\n' > "$R/etc/gitconfig"
cp "$HERE/person.py" "$HERE/package.sh" "$R/usr/local/share/"

environment=(HOME=/home/person PATH=/usr/bin:/bin LANG=C.UTF-8 TERM=xterm PYTHONUNBUFFERED=1)
for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY PIP_INDEX_URL \
  PIP_TRUSTED_HOST PIP_DEFAULT_TIMEOUT; do
  [ -z "${!name:-}" ] || environment+=("$name=${!name}")
done
pip_setting() { python3 -m pip config get "global.$1" 2> /dev/null || true; }
index=$(pip_setting index-url)
[ -z "$index" ] || environment+=("PIP_INDEX_URL=$index")
certificates=${PIP_CERT:-$(pip_setting cert)}
if [ -n "$certificates" ]; then
  cp "$certificates" "$R/etc/ssl/pip.crt"
  environment+=(PIP_CERT=/etc/ssl/pip.crt)
fi

chroot "$R" useradd --create-home person
status=0
as_person() { chroot --userspec=person:person "$R" env -i "${environment[@]}" "$@"; }
case $WHAT in
person) as_person python3 /usr/local/share/person.py /mnt/repository || status=$? ;;
package)
  as_person git clone --quiet /mnt/repository /home/person/ollad
  as_person make -C /home/person/ollad deb
  echo "make deb: done after $SECONDS s"
  chroot "$R" env -i "${environment[@]}" HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    bash /usr/local/share/package.sh /home/person/ollad/dist || status=$?
  ;;
esac
umount --lazy "$W"
rmdir "$W"
exit $status
