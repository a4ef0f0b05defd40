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

# traces: whatever on this system is called after ollad, or is its user's
traces() {
  gs 'find /etc /usr /lib/systemd /var /run -xdev -name "*ollad*" -not -path "/var/log/*" | sort
      getent passwd ollad; getent group ollad'
}

echo "--- installation"
BEFORE=$(traces)
OUT=$(g env DEBIAN_FRONTEND=noninteractive dpkg -i /root/p.deb 2>&1); RC=$?
ok "dpkg -i" $RC
[ $RC = 0 ] || echo "$OUT"
has "it is enabled" "$(g systemctl is-enabled ollad.service)" enabled
has "but not started, as nobody has named servers" "$(show ActiveState)" inactive
has "and says so" "$OUT" "name your SGLang servers in $CONF"
has "its socket is not enabled" "$(g systemctl is-enabled ollad.socket)" disabled
ok "dpkg finds everything as it was packed" "$([ -z "$(g dpkg --verify ollad 2>&1 | tee /dev/stderr)" ]; echo $?)"
has "the manual is there" "$(gs 'zcat /usr/share/man/man8/ollad.8.gz')" 'ollad backend drain'
has "and that of the configuration" "$(gs 'zcat /usr/share/man/man5/ollad.yaml.5.gz')" shutdown_timeout
has "bash completes" "$(gs '. /usr/share/bash-completion/completions/ollad; complete -p ollad')" ollad
has "sysusers.d made the user" "$(gs 'getent passwd ollad')" "ollad:x:"
has "the user has no shell" "$(gs 'getent passwd ollad')" nologin
has "the configuration is for the group to read" "$(g stat -c '%a %U:%G' $CONF)" "640 root:ollad"
for unit in $UNIT ${UNIT%.service}.socket; do
  SAID=$(g systemd-analyze --man=no verify "$unit" 2>&1)
  ok "systemd-analyze verify says nothing of ${unit##*/}  $SAID" "$([ -z "$SAID" ]; echo $?)"
done
echo "exposure: $(g systemd-analyze security --offline=yes --no-pager $UNIT 2>&1 | tail -1)"
g systemd-analyze security --offline=yes --threshold=15 --no-pager $UNIT > /dev/null 2>&1
ok "exposure is 1.5 at most" $?
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
has "ollad reload names the daemon" "$OUT" "process $PID, at /run/ollad/control.sock"
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

echo "--- a backend drained by hand"
configure '' sim-a=30000 sim-slow=30002
g systemctl reload ollad.service
g ollad backend drain sim-a > /dev/null; ok "sim-a is drained" $?
chat /tmp/before 30; ok "a slow chat is under way on the other" $?
OUT=$(g ollad backend drain sim-slow)
has "how much is under way is told" "$OUT" "sim-slow gets no new requests; 1 under way there"
has "and what clients get now" "$OUT" "clients get 503"
has "the status says draining" "$(C $STATUS)" '"state":"draining"'
g ollad backend enable sim-a > /dev/null; ok "sim-a is enabled" $?
configure 'proxy: {attempts: 2}' sim-a=30000 sim-slow=30002
g systemctl reload ollad.service
has "a reload leaves drained what is" "$(C /metrics)" 'ollad_backend_state{backend="sim-slow",state="draining"} 1.0'
HEADS=$(gs 'for _ in $(seq 6); do curl -sS -o /dev/null -D - http://127.0.0.1:40114/olla/sglang/v1/chat/completions -H "Content-Type: application/json" -d "{\"model\": \"m\", \"max_tokens\": 2, \"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}"; done')
ok "new requests go to the other" "$([ "$(grep -ci '^x-olla-endpoint: sim-a' <<< "$HEADS")" = 6 ]; echo $?)"
g ollad backend drain sim-slow --wait 30 > /dev/null; ok "waiting ends with what was under way" $?
chat_ends "which came to its end" /tmp/before
g ollad backend enable sim-slow > /dev/null
g ollad backend drain nobody > /dev/null 2>&1; RC=$?
ok "a name that there is not is refused  ($RC)" "$([ $RC = 1 ]; echo $?)"

echo "--- credentials"
gs 'umask 077; echo Bearer key-of-sim > /etc/ollad/credentials/sim'
g systemd-run --quiet --unit=sim-key -- ollad simulate --port 30003 --model m --api-key key-of-sim
printf '%s\n' 'endpoints:' '  - {name: sim-key, url: "http://127.0.0.1:30003", check_interval: 1s, check_timeout: 500ms,' \
  '     headers: {Authorization: {file: /run/credentials/ollad.service/secret_sim}}}' | g tee $CONF > /dev/null
until_true 10 'curl -s http://127.0.0.1:30003/v1/models > /dev/null'
g systemctl restart ollad.service; ok "it starts with a credential" $?
chat /tmp/key 5; ok "and the backend takes it" $?
hasnt "which the status does not show" "$(C /internal/status)" key-of-sim
ok "nor may the user of the service read the file" "$(g runuser -u ollad -- cat /etc/ollad/credentials/sim > /dev/null 2>&1; [ $? != 0 ]; echo $?)"

echo "--- upgrade"
configure '' sim-a=30000
g systemctl restart ollad.service
PID=$(show MainPID)
SUM=$(g md5sum $CONF)
OUT=$(g env DEBIAN_FRONTEND=noninteractive dpkg -i /root/p.deb 2>&1); RC=$?
ok "dpkg -i of the same again" $RC
[ $RC = 0 ] || echo "$OUT"
ok "the configuration is kept" "$([ "$(g md5sum $CONF)" = "$SUM" ]; echo $?)"
has "for the group to read" "$(g stat -c '%a %U:%G' $CONF)" "640 root:ollad"
ok "what ran was restarted" "$([ "$(show MainPID)" != "$PID" ] && [ "$(show ActiveState)" = active ]; echo $?)"
has "and serves" "$(C $STATUS)" '"sim-a"'

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

echo "--- socket"
gs "rm -r $UNIT.d; systemctl daemon-reload"
configure '' sim-a=30000 sim-slow=30002
g systemctl stop ollad.service
g systemctl enable --quiet --now ollad.socket; ok "the socket can be enabled and started" $?
has "nothing runs yet" "$(show ActiveState)" inactive
has "the first connection starts it and is answered" "$(C /internal/health)" alive
until_true 5 'systemctl is-active -q ollad.service'
has "STATUS says where, and whose socket" "$(show StatusText)" "127.0.0.1:40114 by systemd's socket"
PID=$(show MainPID)
# six clients, each on a new connection for each request; the codes are theirs, 000 is a refusal
gs 'rm -f /tmp/codes.*; touch /tmp/go
    for n in 1 2 3 4 5 6; do
      (while [ -e /tmp/go ]; do
         curl -s -o /dev/null -w "%{http_code}\n" --max-time 30 http://127.0.0.1:40114/olla/sglang/v1/models
       done > /tmp/codes.$n) > /dev/null 2>&1 < /dev/null &
    done'
chat /tmp/handed 10; ok "a slow chat is under way" $?
for _ in 1 2 3; do
  sleep .5
  g systemctl restart ollad.service; ok "restart" $?
done
chat_ends "the chat came to its end" /tmp/handed
sleep .5
gs 'rm /tmp/go; for _ in $(seq 100); do pgrep -x curl > /dev/null || exit 0; sleep .1; done'
CODES=$(gs 'sort /tmp/codes.* | uniq -c' | awk '{print $2 "x" $1}' | tr '\n' ' ')
ok "not one of the requests meanwhile was lost  ($CODES)" "$([[ $CODES =~ ^200x[0-9]{2,}\ $ ]]; echo $?)"
ok "three processes served them" "$([ "$(show MainPID)" != "$PID" ]; echo $?)"
g systemctl stop ollad.socket ollad.service 2> /dev/null; ok "both stop" $?
has "and then nothing listens" "$(C /internal/health)" "connect to server"
g systemctl disable --quiet ollad.socket
g systemctl start ollad.service; ok "without the socket it listens itself" $?
hasnt "and says so" "$(show StatusText)" socket
g systemctl stop ollad.service

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
gs "rm -rf $UNIT.d"
gs "dpkg -r ollad" > /dev/null 2>&1; ok "dpkg -r" $?
has "stops the service" "$(show ActiveState)" inactive
ok "nothing of it is left but the configuration" "$(gs 'test ! -e /usr/lib/ollad && test ! -e /usr/bin/ollad && test -e /etc/ollad/ollad.yaml'; echo $?)"
gs "DEBIAN_FRONTEND=noninteractive dpkg -i /root/p.deb" > /dev/null 2>&1; ok "dpkg -i" $?
ok "starts again" "$(g systemctl restart ollad.service; echo $?)"
gs "dpkg -P ollad" > /dev/null 2>&1; ok "dpkg -P" $?
AFTER=$(traces)
ok "leaves nothing at all  $(diff <(echo "$BEFORE") <(echo "$AFTER"))" "$([ "$BEFORE" = "$AFTER" ]; echo $?)"

echo "--- make install and uninstall, without a package"
# what the package was made of, as it was built
SOURCE=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../../..")
tar -C "$SOURCE" --exclude=__pycache__ --exclude=build/deb -c \
  Makefile LICENSE README.md CHANGELOG.md setup.cfg pyproject.toml etc docs systemd ollad build |
  gs 'mkdir /root/ollad && tar -C /root/ollad -x'
OUT=$(gs "make -C /root/ollad install PYTHON=$(cat "$SOURCE/build/python")" 2>&1)
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
ok "leaves nothing but the configuration" "$(gs 'test -e /etc/ollad/ollad.yaml && ! find /usr/local /etc/systemd -name "*ollad*" | grep .'; echo $?)"
