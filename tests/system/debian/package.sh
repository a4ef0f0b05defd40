#!/bin/bash
# package.sh FOLDER: install ollad's package from FOLDER on a bare Debian, as root; use it; purge it.
# No systemd runs here. Says what failed, and exits with 1 if anything did.
set -uo pipefail
FOLDER=${1:?usage: package.sh FOLDER}
FAILED=0

ok() { if [ "$2" = 0 ]; then echo "PASS $1"; else echo "FAIL $1"; FAILED=1; fi; }
# traces: whatever on this system is called after ollad, or is its user's
traces() {
  find /etc /usr /lib /var -xdev -name '*ollad*' -not -path '/var/cache/*' -not -path '/var/lib/apt/*' | sort
  getent passwd ollad
  getent group ollad
}

# serve: the sample, as the package's user, in front of a simulated backend
serve() {
  python3 -c '
import fcntl, socket, struct
SIOCSIFFLAGS, IFF_UP = 0x8914, 1  # linux/sockios.h, linux/if.h
fcntl.ioctl(socket.socket(), SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))'
  ok "it has a network of its own" $?
  ollad simulate --port 30000 > /tmp/simulate.log 2>&1 & SIMULATE=$!
  install -d -o ollad /run/ollad
  runuser -u ollad -- env RUNTIME_DIRECTORY=/run/ollad ollad serve > /tmp/serve.log 2>&1 & SERVE=$!
  for _ in $(seq 100); do
    ollad reload > /dev/null 2>&1 && break
    sleep .2
  done
  ollad top --once; ok "it serves as its user" $?
  for _ in $(seq 50); do
    ollad probe Hello > /tmp/probe 2>&1 && break
    sleep .2
  done
  ok "a chat goes through" "$(grep -q 'first token' /tmp/probe; echo $?)"
  [ $FAILED = 0 ] || cat /tmp/serve.log /tmp/simulate.log /tmp/probe
  kill "$SERVE" "$SIMULATE"
  wait "$SERVE" "$SIMULATE" 2> /dev/null
  exit $FAILED
}
[ "${2:-}" != --serve ] || serve

export DEBIAN_FRONTEND=noninteractive
apt-get update -qq > /tmp/log 2>&1; ok "apt-get update" $?
# where a container has no systemd, this makes the user
apt-get install -y -qq --no-install-recommends systemd-standalone-sysusers >> /tmp/log 2>&1
BEFORE=$(traces)
apt-get install -y -qq "$FOLDER"/ollad_*.deb >> /tmp/log 2>&1; ok "apt-get install" $?
[ $FAILED = 0 ] || cat /tmp/log
ok "nothing is missing of it" "$([ -z "$(dpkg --verify ollad)" ]; echo $?)"
ok "it has no other Python than Debian's" "$([[ $(head -1 /usr/bin/ollad) == '#!/usr/bin/python3'* ]]; echo $?)"
ok "it is compiled" "$([ -n "$(find /usr/lib/ollad/ollad -name '*.pyc' | head -1)" ]; echo $?)"
ok "it is enabled for the next start" "$([ -L /etc/systemd/system/multi-user.target.wants/ollad.service ]; echo $?)"
ok "its socket is not" "$([ ! -e /etc/systemd/system/sockets.target.wants/ollad.socket ]; echo $?)"
ok "its user is there" "$(getent passwd ollad > /dev/null; echo $?)"
ok "the sample is valid" "$(ollad check > /dev/null; echo $?)"
ok "the configuration is for the group to read" "$([ "$(stat -c '%a %U:%G' /etc/ollad/ollad.yaml)" = '640 root:ollad' ]; echo $?)"

# What serves has a network of its own: on a shared one, the sample's ports may be taken, 40114 even
# by somebody's outgoing connection.
unshare --net bash "$0" "$FOLDER" --serve; ok "all that was served" $?

echo "token" > /etc/ollad/credentials/sim
apt-get remove -y -qq ollad >> /tmp/log 2>&1; ok "apt-get remove" $?
ok "the configuration stays" "$([ -e /etc/ollad/ollad.yaml ] && [ ! -e /usr/lib/ollad ]; echo $?)"
apt-get purge -y -qq ollad >> /tmp/log 2>&1; ok "apt-get purge" $?
AFTER=$(traces)
ok "nothing is left  $(diff <(echo "$BEFORE") <(echo "$AFTER"))" "$([ "$BEFORE" = "$AFTER" ]; echo $?)"
exit $FAILED
