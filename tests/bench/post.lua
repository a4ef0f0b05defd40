-- What wrk sends, and how it reports: wrk ... URL -- BODYFILE
function init(arguments)
  local file = io.open(arguments[1])
  wrk.method = "POST"
  wrk.body = file:read("*a")
  wrk.headers["Content-Type"] = "application/json"
  file:close()
  request_text = wrk.format()
end

function request()
  return request_text
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    'JSON {"ok":%d,"p50_ms":%.3f,"p99_ms":%.3f,"failures":{"not_200":%d,"no_connection":%d,'
      .. '"read":%d,"write":%d,"timeout":%d}}\n',
    summary.requests - errors.status, latency:percentile(50) / 1000, latency:percentile(99) / 1000,
    errors.status, errors.connect, errors.read, errors.write, errors.timeout))
end
