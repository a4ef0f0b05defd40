# shellcheck shell=bash
# What an operator may rely on: sourced by boot.sh, with ollad in the package.
UNIT=/lib/systemd/system/ollad.service
CONF=/etc/ollad/ollad.yaml
STATUS=/internal/status/endpoints

# configure EXTRA ENDPOINT...: write the file; an endpoint is NAME=PORT
configure() {
  local extra=$1 endpoint
  shift
  {
    printf '%s\n' "$extra" endpoints:
    for endpoint; do
      printf '  - {name: %s, url: "http://127.0.0.1:%s", check_interval: 1s, check_timeout: 500ms}\n' \
        "${endpoint%=*}" "${endpoint#*=}"
    done
  } | g tee $CONF > /dev/null
}
# chat FILE TOKENS: a streamed chat in the background; FILE.rc has curl's exit code
chat() {
  gs "rm -f $1 $1.rc
      (curl -sSN --max-time 60 http://127.0.0.1:40114/olla/sglang/v1/chat/completions \
         -H 'Content-Type: application/json' \
         -d '{\"model\": \"m\", \"max_tokens\": $2, \"ignore_eos\": true, \"stream\": true,
              \"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}' > $1 2>&1
       echo \$? > $1.rc) > /dev/null 2>&1 < /dev/null &
      for _ in \$(seq 50); do grep -q '^data' $1 2>/dev/null && exit 0; sleep .1; done; exit 1"
}
# chat_ends NAME FILE: it comes to its regular end
chat_ends() {
  gs "for _ in \$(seq 200); do [ -s $2.rc ] && exit 0; sleep .1; done"
  has "$1" "$(gs "tail -n 3 $2; cat $2.rc" | tr -d '\n')" 'data: [DONE]0'
}
# until_true SECONDS SHELL: wait in the guest
until_true() { gs "for _ in \$(seq $(($1 * 10))); do $2 && exit 0; sleep .1; done; exit 1"; }
# mark: the end of ollad's journal; since MARK: what came after it
mark() { g journalctl -u ollad.service -n 0 --show-cursor | sed -n 's/^-- cursor: //p'; }
since() { g journalctl -u ollad.service -o cat --after-cursor="$1"; }
# drop_in SETTING: add to the [Service] section
drop_in() {
  gs "mkdir -p $UNIT.d && printf '[Service]\n$1\n' > $UNIT.d/test.conf && systemctl daemon-reload"
}

echo "--- installation"
OUT=$(g env DEBIAN_FRONTEND=noninteractive dpkg -i /root/p.deb 2>&1); RC=$?
ok "dpkg -i" $RC
[ $RC = 0 ] || echo "$OUT"
has "sysusers.d made the user" "$(gs 'getent passwd ollad')" "ollad:x:"
has "the user has no shell" "$(gs 'getent passwd ollad')" nologin
has "the configuration is for the group to read" "$(g stat -c '%a %U:%G' $CONF)" "640 root:ollad"
ok "systemd-analyze verify says nothing" "$([ -z "$(g systemd-analyze verify $UNIT 2>&1 | tee /dev/stderr)" ]; echo $?)"
echo "exposure: $(g systemd-analyze security --offline=yes --no-pager $UNIT 2>&1 | tail -1)"
g systemd-analyze security --offline=yes --threshold=20 --no-pager $UNIT > /dev/null 2>&1
ok "exposure is 2.0 at most" $?
has "the version is told" "$(g ollad --version)" "ollad "
has "the sample is valid" "$(g ollad check 2>&1)" fine

for sim in sim-a=30000=200 sim-b=30001=200 sim-slow=30002=5; do
  IFS='=' read -r name port rate <<< "$sim"
  g systemd-run --quiet --unit="$name" -- ollad simulate --port "$port" --model m --tokens-per-second "$rate"
done
until_true 20 'curl -sf http://127.0.0.1:30000/v1/models > /dev/null && curl -sf http://127.0.0.1:30001/v1/models > /dev/null && curl -sf http://127.0.0.1:30002/v1/models > /dev/null'
ok "simulated servers answer" $?

echo "--- start"
configure '' sim-a=30000
g systemctl start ollad.service; ok "start returns well" $?
has "what was started listens by then" "$(C /internal/health)" alive
has "and is ready" "$(C /internal/ready)" ready
has "and its backend is known" "$(C $STATUS)" '"sim-a"'
has "STATUS says where" "$(show StatusText)" 127.0.0.1:40114
has "it is its own user's" "$(g ps -o user= -p "$(show MainPID)")" ollad
has "the control socket is the owner's alone" "$(g stat -c '%a %U' /run/ollad/control.sock 2>&1)" "600 ollad"
has "so is the runtime directory, but for its group" "$(g stat -c '%a %U:%G' /run/ollad)" "750 ollad:ollad"
ok "a chat begins" "$(chat /tmp/first 20; echo $?)"
chat_ends "a chat ends" /tmp/first
SAID=$(g journalctl -b -o cat --grep 'ollad.service.*(Unknown|ignoring|Failed to parse)' 2>/dev/null)
ok "systemd understands the unit  $SAID" "$([ -z "$SAID" ]; echo $?)"
PID=$(show MainPID)

echo "--- reload"
configure '' sim-slow=30002
g systemctl reload ollad.service
chat /tmp/across 30; ok "a slow chat is under way" $?
configure '' sim-b=30001
g systemctl reload ollad.service; ok "reload of a good file returns well" $?
has "the new endpoint is there by then" "$(C $STATUS)" '"sim-b"'
hasnt "the old one is gone" "$(C $STATUS)" '"sim-a"'
chat_ends "the chat went on to its end" /tmp/across
has "STATUS still says where" "$(show StatusText)" 127.0.0.1:40114

MARK=$(mark)
configure $'\nproxi: {attempts: 2}\nserver: {prot: 1}' sim-a=30000
g systemctl reload ollad.service 2> /dev/null; ok "reload of a bad file fails" "$([ $? != 0 ]; echo $?)"
has "the journal names the first problem" "$(since "$MARK")" proxi
has "and the second" "$(since "$MARK")" prot
has "the old configuration serves on" "$(C $STATUS)" '"sim-b"'
has "it is still active" "$(show ActiveState)" active
OUT=$(g ollad reload 2>&1); RC=$?
has "ollad reload says what is wrong" "$OUT" proxi
has "and where" "$OUT" "$CONF"
ok "with exit code 78  ($RC)" "$([ $RC = 78 ]; echo $?)"
g systemctl kill --kill-whom=main -s HUP ollad.service; sleep 1
has "after SIGHUP with that file the old configuration serves on" "$(C $STATUS)" '"sim-b"'

configure 'server: {port: 40115}' sim-a=30000
OUT=$(g ollad reload 2>&1); RC=$?
has "a new port is said to need a restart" "$OUT" server.port
ok "and the rest is taken on  ($RC)" "$([ $RC = 0 ]; echo $?)"
has "on the old port" "$(C $STATUS)" '"sim-a"'
configure '' sim-a=30000 sim-b=30001
g systemctl kill --kill-whom=main -s HUP ollad.service
until_true 5 "curl -s http://127.0.0.1:40114$STATUS | grep -q sim-b"; ok "SIGHUP takes on a good file" $?
ok "all this in one process" "$([ "$(show MainPID)" = "$PID" ]; echo $?)"
g runuser -u nobody -- ollad reload > /dev/null 2>&1; RC=$?
ok "nobody else can reload  ($RC)" "$([ $RC = 1 ]; echo $?)"

echo "--- watchdog"
drop_in 'WatchdogSec=2s'
g systemctl restart ollad.service; ok "restart" $?
PID=$(show MainPID)
sleep 5
has "the watchdog is fed" "$(show NRestarts) $(show MainPID)" "0 $PID"
g kill -STOP "$PID"
until_true 15 "[ \$(systemctl show -P NRestarts ollad) = 1 ] && [ \$(systemctl show -P ActiveState ollad) = active ]"
ok "a blocked daemon is restarted" $?
ok "as a new process" "$([ "$(show MainPID)" != "$PID" ]; echo $?)"
has "because of the watchdog" "$(g journalctl -b -o cat -u ollad.service)" "Watchdog timeout"
has "and serves" "$(C $STATUS)" '"sim-a"'

echo "--- stop"
drop_in 'TimeoutStopSec=2s'
configure 'server: {shutdown_timeout: 20s}' sim-slow=30002
g systemctl restart ollad.service
chat /tmp/drained 30; ok "a slow chat is under way" $?
MARK=$(mark)
g systemctl stop --no-block ollad.service
until_true 3 'curl -s -o /dev/null -w "%{http_code}" http://127.0.0.1:40114/internal/ready | grep -q 503'
ok "no longer ready" $?
has "systemd knows" "$(show ActiveState)" deactivating
sleep 3
has "longer than TimeoutStopSec" "$(show ActiveState)" deactivating
chat_ends "the chat comes to its end" /tmp/drained
until_true 5 '[ $(systemctl show -P ActiveState ollad) = inactive ]'; ok "and then it stops" $?
has "well" "$(show Result) $(show ExecMainStatus)" "success 0"
has "says the journal" "$(since "$MARK")" stopped
ok "the control socket is gone" "$(gs 'test ! -e /run/ollad/control.sock'; echo $?)"

configure 'server: {shutdown_timeout: 1s}' sim-slow=30002
g systemctl start ollad.service
chat /tmp/cut 200
g systemctl stop ollad.service; ok "stop returns" $?
has "in time" "$(show Result)" success
hasnt "what takes too long is cut" "$(g cat /tmp/cut)" DONE
until_true 5 '[ -s /tmp/cut.rc ]'
# curl: transfer closed with outstanding read data remaining
has "loudly" "$(g cat /tmp/cut.rc)" 18

echo "--- broken file"
MARK=$(mark)
configure 'proxi: {}' sim-a=30000
g systemctl start ollad.service 2> /dev/null; ok "start fails" "$([ $? != 0 ]; echo $?)"
sleep 3
has "once, with 78" "$(show ActiveState) $(show ExecMainStatus) $(show NRestarts)" "failed 78 0"
has "the journal names the problem" "$(since "$MARK")" proxi
configure '' sim-a=30000
g systemctl start ollad.service; ok "with the file put right it starts" $?

echo "--- removal"
gs "dpkg -r ollad" > /dev/null 2>&1; ok "dpkg -r" $?
ok "nothing of it is left" "$(gs 'test ! -e /usr/lib/ollad && test ! -e /usr/bin/ollad'; echo $?)"

echo "--- make install and uninstall, without a package"
# what the package was made of, as it was built
SOURCE=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../../..")
tar -C "$SOURCE" --exclude=__pycache__ -c \
  Makefile LICENSE README.md CHANGELOG.md setup.cfg pyproject.toml etc docs systemd ollad build |
  gs 'mkdir /root/ollad && tar -C /root/ollad -x'
OUT=$(gs "userdel ollad; rm -r /etc/ollad; make -C /root/ollad install PYTHON=$(cat "$SOURCE/build/python")" 2>&1)
RC=$?
ok "make install" $RC
[ $RC = 0 ] || echo "$OUT"
has "says what to do next" "$OUT" "systemctl enable --now ollad"
has "made the user" "$(gs 'getent passwd ollad')" "ollad:x:"
has "lets its group read the configuration" "$(g stat -c '%a %U:%G' $CONF)" "640 root:ollad"
configure '' sim-a=30000
g systemctl enable --quiet --now ollad.service 2> /dev/null; ok "it can be enabled and started" $?
has "from below /usr/local" "$(show ExecStart)" /usr/local/bin/ollad
OUT=$(gs "make -C /root/ollad uninstall" 2>&1); RC=$?
ok "make uninstall" $RC
[ $RC = 0 ] || echo "$OUT"
has "stops the service" "$(show ActiveState) $(show LoadState)" "inactive not-found"
ok "leaves nothing but the configuration" "$(gs 'test -e /etc/ollad/ollad.yaml && ! ls -d /usr/local/*/ollad* /usr/local/share/doc/ollad* /etc/systemd/system/*ollad* /etc/systemd/system/*/ollad* 2>/dev/null | grep .'; echo $?)"
