#!/bin/bash
# boot.sh CHECKS.sh PACKAGE.deb
# Boots this machine's own systemd as PID 1 in throw-away namespaces over a copy-on-write view of /,
# puts the package at /root/p.deb in the guest, then sources CHECKS.sh on the host with these helpers:
#   g CMD...          run in the guest        gs 'SHELL'      run a shell line in the guest
#   ok NAME RC        count a check           show PROPERTY   of ollad.service
#   has NAME TEXT SUB passes if SUB is in TEXT                hasnt NAME TEXT SUB   if it is not
#   C PATH            ask ollad in the guest, once
# ROOT=DIR boots another tree, such as one of debootstrap with systemd, systemd-sysv, dbus, iproute2,
# libnss-systemd, python3 and curl.
# Needs root, overlayfs, a cgroup2 mount and systemd; exits with 77 where one is missing. The host is
# not written to: upper layer, /run, /tmp, /dev, network and cgroup are the guest's own; /proc/sys and
# /sys are read-only in it. Exits with 0 if every check passed.
set -uo pipefail
CHECKS=${1:?usage: boot.sh CHECKS.sh PACKAGE.deb}
DEB=${2:?usage: boot.sh CHECKS.sh PACKAGE.deb}
export ROOT=${ROOT:-/}
[ -e "$DEB" ] || { echo "no $DEB"; exit 2; }

skip() { echo "SKIP: $*"; exit 77; }
[ "$(id -u)" = 0 ] || skip "not root"
CG2=$(awk '$3=="cgroup2"{print $2; exit}' /proc/mounts)
[ -n "$CG2" ] || skip "no cgroup2 mount"
[ -w "$CG2/cgroup.procs" ] || skip "$CG2 cannot be written to"
grep -qw overlay /proc/filesystems || modprobe overlay 2>/dev/null || skip "no overlayfs"
[ -x "$ROOT/lib/systemd/systemd" ] || skip "no systemd in $ROOT"
[ -x "$ROOT/usr/bin/dbus-daemon" ] || skip "no dbus in $ROOT"
unshare --mount --pid --fork true 2>/dev/null || skip "no namespaces"

ID=ollad-guest-$$ CG=$CG2/ollad-guest-$$ LOG=$(mktemp) PASS=0 FAIL=0 BOOT='' P=''
finish() {
  status=$?
  # PID 1 of the namespace: everything in it goes with it
  [ -z "$P" ] || kill -KILL "$P" 2>/dev/null
  [ -z "$BOOT" ] || { kill -KILL "$BOOT" 2>/dev/null; wait "$BOOT" 2>/dev/null; }
  for _ in $(seq 20); do
    find "$CG" -mindepth 1 -depth -type d -exec rmdir {} \; 2>/dev/null
    rmdir "$CG" 2>/dev/null && break
    sleep .1
  done
  rm -rf "/run/$ID" "$LOG"
  echo
  echo "$PASS passed, $FAIL failed"
  [ $status != 0 ] || [ $FAIL = 0 ] || status=1
  exit $status
}
trap finish EXIT
trap 'exit 143' TERM INT HUP
mkdir -p "/run/$ID" "$CG"
cp "$DEB" "/run/$ID/p.deb"

cat > "/run/$ID/guest.sh" <<'X'
set -e
W=/run/$1
mount --make-rprivate /
mkdir $W/mnt; mount -t tmpfs -o mode=755 tmpfs $W/mnt
mkdir $W/mnt/up $W/mnt/work $W/mnt/root
# only the root file system itself: a separate /var or /home mount would not show
mount -t overlay overlay -o lowerdir="$ROOT",upperdir=$W/mnt/up,workdir=$W/mnt/work $W/mnt/root
R=$W/mnt/root
cp $W/p.deb $R/root/p.deb
mount -t proc proc $R/proc
# a read-only /sys keeps udev and friends off (ConditionPathIsReadWrite=/sys)
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs $R/sys
mount -t tmpfs -o mode=755 tmpfs $R/sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 cgroup2 $R/sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs $R/dev
for n in null zero full random urandom tty; do touch $R/dev/$n; mount --bind /dev/$n $R/dev/$n; done
ln -s /proc/self/fd $R/dev/fd
ln -s fd/0 $R/dev/stdin; ln -s fd/1 $R/dev/stdout; ln -s fd/2 $R/dev/stderr
mkdir $R/dev/shm $R/dev/pts
mount -t tmpfs tmpfs $R/dev/shm
mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts $R/dev/pts
ln -s pts/ptmx $R/dev/ptmx
mount -t tmpfs -o mode=755 tmpfs $R/run
mount -t tmpfs -o mode=1777 tmpfs $R/tmp
# sysctl.d must not reach the host's kernel
mount --bind $R/proc/sys $R/proc/sys; mount -o remount,bind,ro $R/proc/sys
cd $R; mkdir -p .old; pivot_root . .old; umount -l /.old; rmdir /.old
# told container=, systemd leaves propagation to us; LoadCredential= needs /run shared
mount --make-rshared /
echo ollad-guest > /etc/hostname; hostname ollad-guest
U=/etc/systemd/system
mkdir -p $U /etc/systemd/journald.conf.d
for u in systemd-sysctl systemd-modules-load systemd-binfmt systemd-remount-fs systemd-udevd \
  systemd-udev-trigger systemd-update-utmp systemd-random-seed systemd-timesyncd systemd-logind \
  getty@tty1 console-getty prometheus prometheus-node-exporter; do
  ln -sf /dev/null $U/$u.service
done
for u in dev-hugepages sys-fs-fuse-connections sys-kernel-debug sys-kernel-tracing \
  proc-sys-fs-binfmt_misc; do
  ln -sf /dev/null $U/$u.mount
done
ln -sf /dev/null $U/proc-sys-fs-binfmt_misc.automount
printf '[Journal]\nReadKMsg=no\nAudit=no\nStorage=volatile\nRateLimitBurst=0\n' \
  > /etc/systemd/journald.conf.d/guest.conf
printf '[Unit]\nDescription=guest\nRequires=sysinit.target sockets.target dbus.socket\nAfter=sysinit.target sockets.target\nAllowIsolate=yes\n' \
  > $U/guest.target
# container images carry one that forbids packages to start services
rm -f /usr/sbin/policy-rc.d
: > /etc/fstab
rm -f /etc/machine-id; echo 0123456789abcdef0123456789abcdef > /etc/machine-id
exec env -i container=ollad-guest PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
  /lib/systemd/systemd --system --unit=guest.target --show-status=no --log-target=journal
X
(
  echo "$BASHPID" > "$CG/cgroup.procs"
  exec unshare --fork --kill-child --pid --mount --cgroup --uts --ipc --net \
    bash "/run/$ID/guest.sh" "$ID"
) > "$LOG" 2>&1 < /dev/null &
BOOT=$!
for _ in $(seq 100); do
  # PID 1 of the inner namespace is the child of unshare --fork
  P=$(pgrep -P $BOOT 2>/dev/null | head -1)
  [ -n "$P" ] && [ "$(cat "/proc/$P/comm" 2>/dev/null)" = systemd ] && break
  sleep .1
done

g() {
  nsenter -t "$P" --mount --uts --ipc --net --pid --cgroup -- env -i \
    PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 HOME=/root \
    SYSTEMD_PAGER= SYSTEMD_COLORS=0 "$@"
}
gs() { g bash -c "$1"; }
ok() {
  if [ "$2" = 0 ]; then PASS=$((PASS + 1)); echo "PASS $1"; else FAIL=$((FAIL + 1)); echo "FAIL $1"; fi
}
has() {
  case "$2" in *"$3"*) ok "$1" 0 ;; *) ok "$1  (no '$3' in: ${2:0:400})" 1 ;; esac
}
hasnt() {
  case "$2" in *"$3"*) ok "$1  ('$3' in: ${2:0:400})" 1 ;; *) ok "$1" 0 ;; esac
}
show() { g systemctl show -P "$1" ollad.service; }
C() { gs "curl -sS --max-time 5 'http://127.0.0.1:40114$1' 2>&1"; }

[ "$(cat "/proc/$P/comm" 2>/dev/null)" = systemd ] || {
  echo "systemd did not start:"; cat "$LOG"; exit 1
}
STATE=
for _ in $(seq 100); do
  STATE=$(g systemctl is-system-running 2>/dev/null)
  case "$STATE" in running | degraded) break ;; esac
  sleep .1
done
echo "guest: $(g systemctl --version | head -1); $STATE; $(g systemctl --failed --no-legend --plain)"
has "systemd is PID 1 and running" "$STATE" running
# shellcheck source=/dev/null
. "$CHECKS"
